//! One checked batch ([`RecordBatch`]), and the same with its place in a log ([`StampedBatch`]).
//!
//! Both are views: the records' bytes are shared, never copied. A checked batch keeps this:
//! its bytes are exactly one batch, the CRC holds, offsets are on the number line, the codec is
//! known. What it does not say is that its records can be read.

use bytes::Bytes;

use super::{
    BatchError, BatchHeader, Codec, Decompressor, HEADER_BYTES, Records, TimestampType, crc,
    header::CRC_COVERS_FROM,
};
use crate::{epoch::LeaderEpoch, offset::Offset, timestamp::Timestamp};

/// Exactly one batch, checked. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBatch {
    header: BatchHeader,
    /// The whole batch; `header` is its first [`HEADER_BYTES`] parsed.
    bytes: Bytes,
}

// === impl RecordBatch ===

impl RecordBatch {
    /// Checks a batch on its way in from a producer: header, exact length, CRC-32C, known codec,
    /// one record per offset and at least one. Reads each byte once and decodes no record.
    ///
    /// A flipped bit anywhere is an error, but for base offset and leader epoch: they are outside
    /// the CRC, and [`RecordBatch::stamp`] overwrites them. What a partition may refuse beyond
    /// that (size, timestamps, control batches of a client) is the partition's business.
    pub fn validate(bytes: Bytes) -> Result<Self, BatchError> {
        Self::check(bytes, true)
    }

    /// Checks a batch that was in a log. As [`RecordBatch::validate`], except that fewer records
    /// than offsets are fine (even none): that is what compaction leaves.
    pub fn parse_stored(bytes: Bytes) -> Result<Self, BatchError> {
        Self::check(bytes, false)
    }

    /// Gives the batch its place in the log. `log_append_time` overwrites the time of all records
    /// with the leader's; `None` leaves timestamps and their type as the producer wrote them.
    ///
    /// Copies the header, not the records. A new time changes bytes under the CRC: the new CRC is
    /// the old one corrected for the changed header bytes, in a fraction of a microsecond and
    /// without a look at the records, so damage to them since they were checked stays detectable.
    ///
    /// The log has to have room for the batch's offsets after `base_offset`.
    pub fn stamp(
        &self,
        base_offset: Offset,
        epoch: LeaderEpoch,
        log_append_time: Option<Timestamp>,
    ) -> StampedBatch {
        let mut header = self.header;
        header.base_offset = base_offset.get();
        header.leader_epoch = epoch.get();
        let Some(now) = log_append_time else { return self.stamped(header) };
        header.max_timestamp = now;
        header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        let before = crc32c::crc32c(&self.bytes[CRC_COVERS_FROM..HEADER_BYTES]);
        let after = crc32c::crc32c(&header.encode()[CRC_COVERS_FROM..]);
        let body_bytes = self.bytes.len() - HEADER_BYTES;
        header.crc = crc::corrected(self.header.crc, before, after, body_bytes);
        self.stamped(header)
    }

    /// The batch with the place its header has: for a replica, which appends what its leader
    /// stamped.
    pub fn as_stamped(&self) -> StampedBatch {
        self.stamped(self.header)
    }

    /// The records, decompressed into at most `limit` bytes (and never more than
    /// [`crate::limits::BATCH_DECOMPRESSED_BYTES_MAX`]); more is a
    /// [`BatchError::DecompressionBomb`]. Uncompressed records are a slice of this batch and take
    /// no memory, so no limit applies to them.
    pub fn records(&self, limit: usize) -> Result<Records, BatchError> {
        self.records_with(&mut Decompressor::new(), limit)
    }

    /// As [`RecordBatch::records`], with a decompressor that keeps its state from batch to batch.
    pub fn records_with(
        &self,
        decompressor: &mut Decompressor,
        limit: usize,
    ) -> Result<Records, BatchError> {
        let body = self.bytes.slice(HEADER_BYTES..);
        let records = match self.codec() {
            Codec::None => body,
            codec => decompressor.decompress(codec, &body, limit)?,
        };
        Ok(Records::new(self.header, records))
    }

    /// The fixed fields.
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of the whole batch.
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What the records are compressed with.
    pub fn codec(&self) -> Codec {
        self.header.attributes.compression().expect("the codec was checked with the batch")
    }

    /// Offset of the first record by the header; meaningful once stored.
    pub fn base_offset(&self) -> Offset {
        Offset::new(self.header.base_offset).expect("offsets were checked with the batch")
    }

    /// Offset of the last record by the header; meaningful once stored.
    pub fn last_offset(&self) -> Offset {
        Offset::new(self.header.last_offset()).expect("offsets were checked with the batch")
    }

    /// The first offset after the batch by the header; meaningful once stored.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }

    fn check(bytes: Bytes, dense: bool) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(&bytes)?;
        let (expected, actual) = (header.total_bytes(), bytes.len());
        if actual < expected {
            return Err(BatchError::Truncated { expected, actual });
        }
        if actual > expected {
            return Err(BatchError::TrailingBytes { expected, actual });
        }
        let crc = crc32c::crc32c(&bytes[CRC_COVERS_FROM..]);
        if crc != header.crc {
            return Err(BatchError::WrongCrc { expected: header.crc, actual: crc });
        }
        header.check_fields(dense)?;
        Ok(Self { header, bytes })
    }

    fn stamped(&self, header: BatchHeader) -> StampedBatch {
        StampedBatch { header, head: header.encode(), body: self.bytes.slice(HEADER_BYTES..) }
    }
}

/// A batch as it is written to a log: a header of its own before shared records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StampedBatch {
    header: BatchHeader,
    /// `header`, encoded.
    head: [u8; HEADER_BYTES],
    body: Bytes,
}

// === impl StampedBatch ===

impl StampedBatch {
    /// The fixed fields.
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The batch, in two pieces that follow each other.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.head, &self.body]
    }

    /// The batch in one piece: a copy.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(self.parts().concat())
    }

    /// Bytes of the whole batch.
    pub fn total_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// Offset of the first record.
    pub fn base_offset(&self) -> Offset {
        Offset::new(self.header.base_offset).expect("stamped with an offset")
    }

    /// Offset of the last record. Saturates.
    pub fn last_offset(&self) -> Offset {
        Offset::new(self.header.last_offset()).expect("not less than the base offset")
    }

    /// The first offset after the batch. Saturates.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }
}

#[cfg(test)]
#[path = "batch_test.rs"]
mod tests;
