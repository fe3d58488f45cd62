//! Buffers for batches, used again. The first touch of fresh memory costs more than encoding into
//! it, and a buffer that grew to a batch's size need not grow again.
//!
//! Bounded in bytes, beside `buffer_memory`: what does not fit is given back to the allocator.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes kept; 32 batches of default size.
const POOLED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Smaller ones are not worth a place.
const BUFFER_BYTES_MIN: usize = 4 * 1024;

/// Buffers of a producer that hold nothing now.
#[derive(Default)]
pub(crate) struct BufferPool(Mutex<Free>);

#[derive(Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

// === impl BufferPool ===

impl BufferPool {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A buffer whose capacity is whatever it had, or a small one.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut free = self.0.lock();
        match free.buffers.pop() {
            Some(buffer) => {
                free.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(BUFFER_BYTES_MIN),
        }
    }

    /// Keeps a buffer for the next one.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if bytes < BUFFER_BYTES_MIN {
            return;
        }
        let mut free = self.0.lock();
        if free.bytes + bytes <= POOLED_BYTES_MAX {
            free.bytes += bytes;
            free.buffers.push(buffer);
        }
    }

    /// Keeps the memory of a batch that nobody else holds any more.
    pub(crate) fn reclaim(&self, batch: Bytes) {
        if batch.is_unique() {
            self.give(Vec::from(batch));
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool({} bytes)", self.0.lock().bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_used_again_within_the_bound() {
        let pool = BufferPool::new();
        pool.give(Vec::with_capacity(64 * 1024));
        assert!(pool.take().capacity() >= 64 * 1024);
        assert!(pool.take().capacity() < 64 * 1024);
        for _ in 0..100 {
            pool.give(Vec::with_capacity(64 * 1024));
            pool.give(Vec::new());
        }
        let free = pool.0.lock();
        assert!(free.bytes <= POOLED_BYTES_MAX && free.buffers.len() == 32);
    }

    #[test]
    fn a_batch_somebody_holds_is_left_to_them() {
        let pool = BufferPool::new();
        let batch = Bytes::from(vec![1; 10_000]);
        let held = batch.clone();
        pool.reclaim(batch);
        assert_eq!(pool.0.lock().bytes, 0);
        pool.reclaim(held);
        assert!(pool.0.lock().bytes >= 10_000);
    }
}
