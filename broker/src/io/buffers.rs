//! Read buffers that are kept, because the first touch of fresh memory costs more than the read.
//!
//! A page of memory the kernel hands out for the first time costs 2.7 to 5 microseconds here; a
//! cold read of 1 MiB into a fresh buffer pays that 256 times, on top of the disk. A pool keeps
//! buffers of a few sizes, up to a bound; what does not fit is allocated and freed as usual, so the
//! pool never blocks and never fails.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

/// Sizes that are kept: below the smallest, the allocator is faster; above the largest, nobody
/// reads in one piece (batches of 1 MiB plus their frame).
const CLASSES: [usize; 4] = [16 << 10, 64 << 10, 256 << 10, (1 << 20) + (64 << 10)];

/// A bounded pool of read buffers; clones share it.
#[derive(Clone)]
pub struct Buffers(Arc<Pool>);

struct Pool {
    bytes_max: usize,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    bytes: usize,
    by_class: [Vec<Vec<u8>>; CLASSES.len()],
}

// === impl Buffers ===

impl Buffers {
    /// Bytes kept unless told otherwise: about thirty of the largest.
    pub const BYTES_MAX_DEFAULT: usize = 32 << 20;

    /// A pool that keeps at most `bytes_max` bytes of free buffers.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Pool { bytes_max, free: Mutex::new(Free::default()) }))
    }

    /// Bytes in free buffers now.
    pub fn kept_bytes(&self) -> usize {
        self.0.free.lock().bytes
    }

    /// Bytes in free buffers there may be.
    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// A buffer of exactly `len` bytes of unspecified content.
    pub(super) fn take(&self, len: usize) -> Buffer {
        let Some(class) = class_of(len) else {
            return Buffer { bytes: vec![0; len], len, class: None, pool: self.clone() };
        };
        let kept = {
            let mut free = self.0.free.lock();
            let kept = free.by_class[class].pop();
            if let Some(kept) = &kept {
                free.bytes -= kept.len();
            }
            kept
        };
        let bytes = kept.unwrap_or_else(|| vec![0; CLASSES[class]]);
        Buffer { bytes, len, class: Some(class), pool: self.clone() }
    }

    fn give_back(&self, class: usize, bytes: Vec<u8>) {
        let mut free = self.0.free.lock();
        if free.bytes + bytes.len() <= self.0.bytes_max {
            free.bytes += bytes.len();
            free.by_class[class].push(bytes);
        }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new(Self::BYTES_MAX_DEFAULT)
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers")
            .field("bytes_max", &self.0.bytes_max)
            .field("kept_bytes", &self.kept_bytes())
            .finish()
    }
}

/// The smallest class that holds `len` bytes without wasting three quarters of it.
fn class_of(len: usize) -> Option<usize> {
    if len <= CLASSES[0] / 4 {
        return None;
    }
    CLASSES.iter().position(|size| len <= *size)
}

/// A buffer being filled; goes back to its pool when it, or the last `Bytes` made of it, is dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    class: Option<usize>,
    pool: Buffers,
}

// === impl Buffer ===

impl Buffer {
    /// The content as shared bytes.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(class) = self.class {
            self.pool.give_back(class, std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_slice_is_dropped() {
        let pool = Buffers::new(1 << 20);
        let mut buffer = pool.take(60_000);
        assert_eq!(buffer.len(), 60_000);
        buffer.fill(7);
        let bytes = buffer.freeze();
        let part = bytes.slice(100..200);
        drop(bytes);
        assert_eq!(pool.kept_bytes(), 0, "still in use");
        assert!(part.iter().all(|byte| *byte == 7));
        drop(part);
        assert_eq!(pool.kept_bytes(), 64 << 10);
        let again = pool.take(50_000);
        assert_eq!((again.len(), pool.kept_bytes()), (50_000, 0));
    }

    #[test]
    fn the_pool_keeps_no_more_than_its_bound() {
        let pool = Buffers::new(3 * (64 << 10));
        let taken: Vec<_> = (0..10).map(|_| pool.take(64 << 10)).collect();
        drop(taken);
        assert_eq!(pool.kept_bytes(), 3 * (64 << 10));
    }

    #[test]
    fn tiny_and_huge_ones_are_not_kept() {
        let pool = Buffers::default();
        drop((pool.take(0), pool.take(100), pool.take(8 << 20)));
        assert_eq!(pool.kept_bytes(), 0);
    }
}
