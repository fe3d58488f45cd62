//! The frame around a batch on disk (bytes in [`super::layout`]).
//!
//! Its checksum covers all of the batch, base offset and leader epoch included, which the batch's
//! own CRC-32C leaves out so that a leader can set them. It begins with the segment's salt, so a
//! frame proves that it belongs to this incarnation of this segment: bytes that an earlier file
//! left behind are not mistaken for new ones.

use riverrun_proto::{
    limits::BATCH_BYTES_MAX,
    offset::Offset,
    record::{BatchHeader, HEADER_BYTES},
};

use super::layout::{FRAME_HEADER_BYTES, FRAME_LENGTH_BITS};

const LENGTH_MASK: u32 = (1 << FRAME_LENGTH_BITS) - 1;

/// A random number that tells the incarnations of a segment file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(u64);

// === impl Salt ===

impl Salt {
    /// From a random number.
    pub const fn new(random: u64) -> Self {
        Self(random)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Makes and checks the frames of one segment.
#[derive(Debug, Clone)]
pub struct FrameCodec {
    /// Has the salt in it; cloned for every frame.
    salted: crc32fast::Hasher,
}

/// A frame's first eight bytes, plausible but not checked against the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the batch that follows.
    pub batch_bytes: usize,
    crc: u32,
}

/// Why there is no valid frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Eight zero bytes: nothing was written here.
    #[error("there is nothing")]
    Nothing,
    /// The frame reaches past the bytes there are.
    #[error("a frame of {needed} bytes begins where {available} are left")]
    Cut {
        /// Bytes of the frame.
        needed: usize,
        /// Bytes there are.
        available: usize,
    },
    /// Top four bits that version 1 does not have.
    #[error("a frame of unknown kind {0}")]
    Kind(u32),
    /// A length no batch has.
    #[error("a batch of {0} bytes, which none has")]
    Length(usize),
    /// The bytes are not those that were written, or were written in another life of the file.
    #[error("the checksum of the frame does not match its bytes")]
    Checksum,
    /// The frame is whole; what it holds is no batch.
    #[error("the frame holds no record batch: {0}")]
    Batch(String),
    /// The frame is whole and holds another batch than is due here.
    #[error("the batch begins at offset {found}, {expected} is due")]
    Offset {
        /// Due here.
        expected: Offset,
        /// In the batch.
        found: i64,
    },
    /// The frame is whole and its leader epoch is older than that of the batch before.
    #[error("the batch at offset {base} has leader epoch {found} after {before}")]
    Epoch {
        /// The batch.
        base: Offset,
        /// Its epoch.
        found: i32,
        /// Of the batch before it.
        before: i32,
    },
}

// === impl FrameCodec ===

impl FrameCodec {
    /// For the segment with this salt.
    pub fn new(salt: Salt) -> Self {
        let mut salted = crc32fast::Hasher::new();
        salted.update(&salt.get().to_le_bytes());
        Self { salted }
    }

    /// The eight bytes before a batch, which comes in two parts.
    pub fn header(&self, batch: [&[u8]; 2]) -> [u8; FRAME_HEADER_BYTES] {
        let len = batch[0].len() + batch[1].len();
        let word =
            u32::try_from(len).expect("batches are bounded by BATCH_BYTES_MAX").to_le_bytes();
        let crc = self.checksum(word, batch).to_le_bytes();
        [word[0], word[1], word[2], word[3], crc[0], crc[1], crc[2], crc[3]]
    }

    /// Whether `batch` is what the header was made for.
    pub fn verify(&self, header: FrameHeader, batch: &[u8]) -> Result<(), FrameFault> {
        let word = u32::try_from(header.batch_bytes).expect("28 bits").to_le_bytes();
        if header.batch_bytes == batch.len() && self.checksum(word, [batch, &[]]) == header.crc {
            Ok(())
        } else {
            Err(FrameFault::Checksum)
        }
    }

    fn checksum(&self, length: [u8; 4], batch: [&[u8]; 2]) -> u32 {
        let mut hasher = self.salted.clone();
        hasher.update(&length);
        hasher.update(batch[0]);
        hasher.update(batch[1]);
        hasher.finalize()
    }
}

// === impl FrameHeader ===

impl FrameHeader {
    /// From the front of `bytes`; everything behind is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameFault> {
        let available = bytes.len();
        let Some(head) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
            // A tail of fewer bytes, all zero, is as empty as a longer one.
            return Err(if bytes.iter().all(|b| *b == 0) {
                FrameFault::Nothing
            } else {
                FrameFault::Cut { needed: FRAME_HEADER_BYTES, available }
            });
        };
        let word = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if word == 0 && crc == 0 {
            return Err(FrameFault::Nothing);
        }
        if word & !LENGTH_MASK != 0 {
            return Err(FrameFault::Kind(word >> FRAME_LENGTH_BITS));
        }
        let batch_bytes = word as usize;
        if batch_bytes < HEADER_BYTES || batch_bytes > BATCH_BYTES_MAX as usize {
            return Err(FrameFault::Length(batch_bytes));
        }
        Ok(Self { batch_bytes, crc })
    }

    /// Bytes of the whole frame.
    pub const fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.batch_bytes
    }
}

/// The header of the batch in a frame of this length, if it is the one due at `expected`. For a
/// frame whose checksum holds this can only fail if somebody wrote it wrongly.
pub fn batch_header(
    batch: &[u8],
    frame: FrameHeader,
    expected: Offset,
) -> Result<BatchHeader, FrameFault> {
    let header = BatchHeader::parse(batch).map_err(|error| FrameFault::Batch(error.to_string()))?;
    if header.total_bytes() != frame.batch_bytes {
        return Err(FrameFault::Batch("its length differs from the frame's".to_owned()));
    }
    if header.base_offset != expected.get() {
        return Err(FrameFault::Offset { expected, found: header.base_offset });
    }
    // The offset after the batch has to exist, too.
    if header.last_offset_delta < 0 || header.last_offset() == i64::MAX || header.leader_epoch < 0 {
        return Err(FrameFault::Batch(
            "its offsets or its epoch are off the number line".to_owned(),
        ));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(salt: u64, batch: &[u8]) -> Vec<u8> {
        let (a, b) = batch.split_at(batch.len() / 2);
        [&FrameCodec::new(Salt::new(salt)).header([a, b])[..], batch].concat()
    }

    fn check(salt: u64, frame: &[u8]) -> Result<(), FrameFault> {
        let header = FrameHeader::parse(frame)?;
        let available = frame.len();
        let batch = frame
            .get(FRAME_HEADER_BYTES..header.frame_bytes())
            .ok_or(FrameFault::Cut { needed: header.frame_bytes(), available })?;
        FrameCodec::new(Salt::new(salt)).verify(header, batch)
    }

    #[test]
    fn the_frame_is_what_the_catalogue_says() {
        let batch = [7; 61];
        let bytes = frame(0x0102_0304_0506_0708, &batch);
        assert_eq!(bytes[..4], [61, 0, 0, 0]);
        let mut covered = vec![8, 7, 6, 5, 4, 3, 2, 1, 61, 0, 0, 0];
        covered.extend_from_slice(&batch);
        assert_eq!(bytes[4..8], crc32fast::hash(&covered).to_le_bytes());
    }

    #[test]
    fn what_is_no_frame_says_why() {
        assert_eq!(FrameHeader::parse(&[0; 100]), Err(FrameFault::Nothing));
        assert_eq!(FrameHeader::parse(&[0; 3]), Err(FrameFault::Nothing));
        assert_eq!(FrameHeader::parse(&[]), Err(FrameFault::Nothing));
        assert_eq!(
            FrameHeader::parse(&[1, 0, 0]),
            Err(FrameFault::Cut { needed: 8, available: 3 })
        );
        assert_eq!(FrameHeader::parse(&[60, 0, 0, 0, 1, 0, 0, 0]), Err(FrameFault::Length(60)));
        assert_eq!(FrameHeader::parse(&[61, 0, 0, 0x10, 0, 0, 0, 0]), Err(FrameFault::Kind(1)));
        assert_eq!(
            FrameHeader::parse(&[0, 0, 0, 0, 9, 0, 0, 0]),
            Err(FrameFault::Length(0)),
            "a torn header is not the end"
        );
    }

    #[test]
    fn another_life_of_the_file_is_not_believed() {
        let bytes = frame(1, &[7; 100]);
        assert_eq!(check(1, &bytes), Ok(()));
        assert_eq!(check(2, &bytes), Err(FrameFault::Checksum));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(
            batch in proptest::collection::vec(any::<u8>(), 61..200),
            place in any::<proptest::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut bytes = frame(42, &batch);
            prop_assert_eq!(check(42, &bytes), Ok(()));
            let at = place.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(check(42, &bytes).is_err());
        }
    }
}
