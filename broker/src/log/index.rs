//! What both indexes of a segment stand on: a sparse list of numbers that grows at its end beside
//! lock-free readers, and its file.
//!
//! While a segment is active its indexes are in memory only; the files are written with every
//! checkpoint and when the segment is sealed, never updated in place. An index can always be made
//! again from its segment, so a file that is missing, torn, of another incarnation of the segment
//! (its salt differs) or of another end is not repaired but replaced.
//!
//! ```text
//! envelope │ base offset 8, salt 8, end offset 8, end position 8, latest timestamp 8,
//!          │ offset of its batch 8, count of numbers 4, crc32 of them 4
//! numbers  │ 8 bytes each
//! ```
//! The head is a summary of the segment that can be read without the numbers: this is what makes
//! opening a log O(1) per segment.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use bytes::{Buf, BufMut};
use riverrun_proto::{offset::Offset, timestamp::Timestamp};

use super::{
    checkpoint::get_offset,
    envelope::{self, FormatError},
    frame::Salt,
    layout::{ENVELOPE_BYTES, FileKind},
};

/// Numbers in the first chunk; each chunk is twice as long as the one before.
const FIRST_CHUNK: usize = 32;
/// Enough for one entry per byte of the largest segment.
const CHUNKS: usize = 28;

const HEAD_BODY_BYTES: usize = 6 * 8 + 2 * 4;

/// Bytes of an index file before its numbers.
pub const INDEX_HEAD_BYTES: usize = ENVELOPE_BYTES + HEAD_BODY_BYTES;

/// The most an index file may have: a number per 32 bytes of a 4 GiB segment.
pub const INDEX_BYTES_MAX: usize = INDEX_HEAD_BYTES + (1 << 30);

/// A list of numbers with one writer and any number of readers, none of which ever waits. Nothing
/// is ever moved: it grows by chunks.
pub(super) struct Numbers {
    chunks: [OnceLock<Box<[AtomicU64]>>; CHUNKS],
    /// Numbers below are written (Release) and never change.
    len: AtomicUsize,
}

// === impl Numbers ===

impl Numbers {
    pub(super) const fn new() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS], len: AtomicUsize::new(0) }
    }

    /// Appends all of `numbers` in one step. Only for the one writer: two at a time would write
    /// over one another.
    pub(super) fn push(&self, numbers: &[u64]) {
        let len = self.len.load(Ordering::Relaxed);
        for (at, number) in (len..).zip(numbers) {
            let (chunk, offset) = place(at);
            let chunk = self.chunks[chunk]
                .get_or_init(|| (0..FIRST_CHUNK << chunk).map(|_| AtomicU64::new(0)).collect());
            chunk[offset].store(*number, Ordering::Relaxed);
        }
        self.len.store(len + numbers.len(), Ordering::Release);
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// The number at a place below a length that was seen.
    pub(super) fn get(&self, at: usize) -> u64 {
        let (chunk, offset) = place(at);
        self.chunks[chunk].get().map_or(0, |chunk| chunk[offset].load(Ordering::Relaxed))
    }

    pub(super) fn to_vec(&self) -> Vec<u64> {
        (0..self.len()).map(|at| self.get(at)).collect()
    }

    /// How many of the first `count` entries fulfil `before`, which is true for a prefix of them.
    pub(super) fn partition_point(count: usize, mut before: impl FnMut(usize) -> bool) -> usize {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if before(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Memory taken, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.iter().filter_map(OnceLock::get).map(|chunk| chunk.len() * 8).sum()
    }
}

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Numbers").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The head of an index file: what it belongs to, and the segment in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHead {
    /// Base offset of the segment.
    pub base: Offset,
    /// Which incarnation of that segment.
    pub salt: Salt,
    /// The first offset that is not in it.
    pub end_offset: Offset,
    /// Where its frames end in the file.
    pub end_position: u64,
    /// The latest timestamp in it.
    pub max_timestamp: Timestamp,
    /// Base offset of the batch that has it.
    pub max_timestamp_at: Offset,
}

// === impl IndexHead ===

impl IndexHead {
    /// The file's bytes.
    pub(super) fn encode(&self, kind: FileKind, numbers: &[u64]) -> Vec<u8> {
        let mut tail = Vec::with_capacity(numbers.len() * 8);
        for number in numbers {
            tail.put_u64_le(*number);
        }
        let mut body = Vec::with_capacity(HEAD_BODY_BYTES);
        body.put_i64_le(self.base.get());
        body.put_u64_le(self.salt.get());
        body.put_i64_le(self.end_offset.get());
        body.put_u64_le(self.end_position);
        body.put_i64_le(self.max_timestamp.as_millis());
        body.put_i64_le(self.max_timestamp_at.get());
        body.put_u32_le(u32::try_from(numbers.len()).expect("positions have 32 bits"));
        body.put_u32_le(crc32fast::hash(&tail));
        let mut bytes = envelope::wrap(kind, &body);
        bytes.extend_from_slice(&tail);
        bytes
    }

    /// The head alone, from the file's first [`INDEX_HEAD_BYTES`]; the numbers are not looked at.
    pub(super) fn decode(kind: FileKind, bytes: &[u8]) -> Result<Self, FormatError> {
        Self::decode_counted(kind, bytes).map(|(head, _, _)| head)
    }

    /// Head and numbers, from the whole file.
    pub(super) fn decode_all(
        kind: FileKind,
        bytes: &[u8],
    ) -> Result<(Self, Vec<u64>), FormatError> {
        let (head, count, crc) = Self::decode_counted(kind, bytes)?;
        let tail = &bytes[INDEX_HEAD_BYTES..];
        if tail.len() != count * 8 || crc32fast::hash(tail) != crc {
            return Err(FormatError::Broken("its entries are torn"));
        }
        let numbers = tail
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .collect();
        Ok((head, numbers))
    }

    fn decode_counted(kind: FileKind, bytes: &[u8]) -> Result<(Self, usize, u32), FormatError> {
        let mut body = envelope::unwrap(kind, bytes)?;
        let head = Self {
            base: get_offset(&mut body)?,
            salt: Salt::new(body.try_get_u64_le()?),
            end_offset: get_offset(&mut body)?,
            end_position: body.try_get_u64_le()?,
            max_timestamp: Timestamp::from_millis(body.try_get_i64_le()?),
            max_timestamp_at: get_offset(&mut body)?,
        };
        let count = body.try_get_u32_le()? as usize;
        Ok((head, count, body.try_get_u32_le()?))
    }
}

/// Chunk and place within it.
fn place(at: usize) -> (usize, usize) {
    let shifted = at + FIRST_CHUNK;
    let chunk = (shifted.ilog2() - FIRST_CHUNK.ilog2()) as usize;
    (chunk, shifted - (FIRST_CHUNK << chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_place_once() {
        let mut expected = (0, 0);
        for at in 0..10_000 {
            assert_eq!(place(at), expected, "{at}");
            expected.1 += 1;
            if expected.1 == FIRST_CHUNK << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
    }

    #[test]
    fn readers_beside_the_writer_see_whole_entries() {
        let numbers = Numbers::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20_000u64).for_each(|n| numbers.push(&[n, !n])));
            scope.spawn(|| {
                while numbers.len() < 40_000 {
                    let pairs = numbers.len() / 2;
                    for pair in pairs.saturating_sub(3)..pairs {
                        let (a, b) = (numbers.get(pair * 2), numbers.get(pair * 2 + 1));
                        assert_eq!((a, b), (pair as u64, !(pair as u64)));
                    }
                }
            });
        });
    }

    #[test]
    fn files_round_trip_and_torn_ones_are_refused() {
        let head = IndexHead {
            base: Offset::new(100).unwrap(),
            salt: Salt::new(7),
            end_offset: Offset::new(250).unwrap(),
            end_position: 9000,
            max_timestamp: Timestamp::from_millis(55),
            max_timestamp_at: Offset::new(120).unwrap(),
        };
        let bytes = head.encode(FileKind::OffsetIndex, &[1, 2, 3]);
        assert_eq!(bytes.len(), INDEX_HEAD_BYTES + 24);
        assert_eq!(IndexHead::decode_all(FileKind::OffsetIndex, &bytes), Ok((head, vec![1, 2, 3])));
        assert_eq!(IndexHead::decode(FileKind::OffsetIndex, &bytes[..INDEX_HEAD_BYTES]), Ok(head));
        for cut in 0..bytes.len() {
            assert!(IndexHead::decode_all(FileKind::OffsetIndex, &bytes[..cut]).is_err(), "{cut}");
        }
        let mut zeros_behind = bytes.clone();
        zeros_behind.extend_from_slice(&[0; 8]);
        assert!(
            IndexHead::decode_all(FileKind::OffsetIndex, &zeros_behind).is_err(),
            "padding is not entries (KAFKA-10207)"
        );
        assert!(IndexHead::decode_all(FileKind::TimeIndex, &bytes).is_err());
    }
}
