//! The 61 bytes in front of a batch's records. [`BatchHeader`] holds them as they are on the wire,
//! −1 for "none" included; [`super::RecordBatch`] and [`super::StampedBatch`], whose headers were
//! checked, speak in [`crate::offset::Offset`]s.

use super::{BatchError, Codec, UnknownCodec};
use crate::{
    ids::ProducerId,
    limits::{BATCH_BYTES_MAX, BATCH_DECOMPRESSED_BYTES_MAX},
    timestamp::Timestamp,
};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// Bytes before and of the batch length field: those it does not count.
const LENGTH_COUNTS_FROM: usize = 12;
const MAGIC_AT: usize = 16;
const MAGIC: u8 = 2;
/// The first byte the CRC covers.
pub(super) const CRC_COVERS_FROM: usize = 21;
/// The least a record takes: length, attributes, two deltas, null key, null value, no headers.
const RECORD_BYTES_MIN: usize = 7;

/// The fixed fields of a batch, in the order they have on the wire (the magic byte, always 2, is
/// left out). Offsets, epochs and sequences are plain numbers here because −1 stands for "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record. Set by the leader; producers write 0.
    pub base_offset: i64,
    /// Bytes of the batch after this field.
    pub batch_length: i32,
    /// Epoch of the leader that appended the batch. Set by the leader; producers write −1.
    pub leader_epoch: i32,
    /// CRC-32C of everything after this field.
    pub crc: u32,
    /// Codec, timestamp type and flags.
    pub attributes: Attributes,
    /// Offset of the last record − base offset.
    pub last_offset_delta: i32,
    /// What timestamp deltas count from: the first record's timestamp, as Kafka writes it.
    pub base_timestamp: Timestamp,
    /// The latest timestamp; with log append time, the one of all records.
    pub max_timestamp: Timestamp,
    /// −1: not idempotent.
    pub producer_id: i64,
    /// −1: not idempotent.
    pub producer_epoch: i16,
    /// Sequence of the first record; −1: not idempotent, or a control batch.
    pub base_sequence: i32,
    /// How many records there are.
    pub record_count: i32,
}

// === impl BatchHeader ===

impl BatchHeader {
    /// Reads the first [`HEADER_BYTES`] of `bytes`; what follows is not looked at. Magic and
    /// length are sane afterwards, nothing else is.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(b) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::Truncated { expected: HEADER_BYTES, actual: bytes.len() });
        };
        if b[MAGIC_AT] != MAGIC {
            return Err(BatchError::WrongMagic { actual: b[MAGIC_AT].cast_signed() });
        }
        let header = Self {
            base_offset: i64::from_be_bytes(field(b, 0)),
            batch_length: i32::from_be_bytes(field(b, 8)),
            leader_epoch: i32::from_be_bytes(field(b, 12)),
            crc: u32::from_be_bytes(field(b, 17)),
            attributes: Attributes(i16::from_be_bytes(field(b, 21))),
            last_offset_delta: i32::from_be_bytes(field(b, 23)),
            base_timestamp: Timestamp::from_millis(i64::from_be_bytes(field(b, 27))),
            max_timestamp: Timestamp::from_millis(i64::from_be_bytes(field(b, 35))),
            producer_id: i64::from_be_bytes(field(b, 43)),
            producer_epoch: i16::from_be_bytes(field(b, 51)),
            base_sequence: i32::from_be_bytes(field(b, 53)),
            record_count: i32::from_be_bytes(field(b, 57)),
        };
        let total = i64::from(header.batch_length) + LENGTH_COUNTS_FROM as i64;
        if total < HEADER_BYTES as i64 || total > i64::from(BATCH_BYTES_MAX) {
            return Err(BatchError::Length { actual: header.batch_length });
        }
        Ok(header)
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0; HEADER_BYTES];
        b[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        b[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        b[12..16].copy_from_slice(&self.leader_epoch.to_be_bytes());
        b[MAGIC_AT] = MAGIC;
        b[17..21].copy_from_slice(&self.crc.to_be_bytes());
        b[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        b[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        b[27..35].copy_from_slice(&self.base_timestamp.as_millis().to_be_bytes());
        b[35..43].copy_from_slice(&self.max_timestamp.as_millis().to_be_bytes());
        b[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        b[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        b[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        b[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        b
    }

    /// Bytes of the whole batch, header included.
    pub fn total_bytes(&self) -> usize {
        usize::try_from(self.batch_length).unwrap_or(0) + LENGTH_COUNTS_FROM
    }

    /// Offset of the last record. Saturates.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(self.last_offset_delta.into())
    }

    /// The first offset after the batch. Saturates.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Who wrote it and its place in that producer's sequence; `None` if the producer is not
    /// idempotent, and for control batches, which have an id and no sequence.
    pub fn producer(&self) -> Option<ProducerStamp> {
        let id = ProducerId::new(self.producer_id)?;
        (self.producer_epoch >= 0 && self.base_sequence >= 0).then_some(ProducerStamp {
            id,
            epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
        })
    }

    /// Sequence of the last record, if [`BatchHeader::producer`] is known.
    pub fn last_sequence(&self) -> Option<i32> {
        self.producer().map(|stamp| stamp.last_sequence(self.last_offset_delta))
    }

    /// Everything that can be known of the fields without the records. `dense` asks for one record
    /// per offset, as producers write; compaction leaves fewer.
    pub(super) fn check_fields(&self, dense: bool) -> Result<(), BatchError> {
        let least = [
            ("base offset", self.base_offset, 0),
            ("last offset delta", self.last_offset_delta.into(), 0),
            ("leader epoch", self.leader_epoch.into(), -1),
            ("producer id", self.producer_id, -1),
            ("record count", self.record_count.into(), i64::from(dense)),
        ];
        for (field, value, min) in least {
            if value < min {
                return Err(BatchError::FieldTooSmall { field, value, min });
            }
        }
        let (record_count, last_offset_delta) = (self.record_count, self.last_offset_delta);
        // The next offset has to be one, too.
        if self.base_offset > i64::MAX - 1 - i64::from(last_offset_delta) {
            return Err(BatchError::OffsetOverflow {
                base_offset: self.base_offset,
                last_offset_delta,
            });
        }
        let offsets = i64::from(last_offset_delta) + 1;
        let count = i64::from(record_count);
        if count > offsets || (dense && count != offsets) {
            return Err(BatchError::RecordCount { record_count, last_offset_delta });
        }
        let body_bytes = match self.attributes.compression()? {
            Codec::None => self.total_bytes() - HEADER_BYTES,
            _ => BATCH_DECOMPRESSED_BYTES_MAX,
        };
        if count > (body_bytes / RECORD_BYTES_MIN) as i64 {
            return Err(BatchError::TooManyRecords { record_count, body_bytes });
        }
        if self.producer_id >= 0 && !self.attributes.is_control() && self.producer().is_none() {
            return Err(BatchError::ProducerStamp {
                producer_id: self.producer_id,
                producer_epoch: self.producer_epoch,
                base_sequence: self.base_sequence,
            });
        }
        Ok(())
    }
}

/// An idempotent producer and the sequence of a batch's first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerStamp {
    /// Which producer.
    pub id: ProducerId,
    /// Which incarnation of it; never negative.
    pub epoch: i16,
    /// Sequence of the first record; never negative.
    pub base_sequence: i32,
}

// === impl ProducerStamp ===

impl ProducerStamp {
    /// Sequence of the last record of a batch with this last offset delta.
    pub const fn last_sequence(&self, last_offset_delta: i32) -> i32 {
        Self::sequence_after(self.base_sequence, last_offset_delta)
    }

    /// The sequence `records` after `sequence`: 0 comes after `i32::MAX`, as in Kafka. Neither may
    /// be negative.
    pub const fn sequence_after(sequence: i32, records: i32) -> i32 {
        sequence.wrapping_add(records) & i32::MAX
    }
}

/// Whose clock the timestamps are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer's, per record.
    #[default]
    CreateTime,
    /// The leader's, one for all records of the batch.
    LogAppendTime,
}

/// The attribute bits of a batch.
///
/// | bits | meaning |
/// |---|---|
/// | 0-2 | codec |
/// | 3 | timestamp type: 1 is log append time |
/// | 4 | transactional |
/// | 5 | control |
/// | 6-15 | kept as they are (Kafka uses 6 in compacted logs) |
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes(i16);

const CODEC_BITS: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

// === impl Attributes ===

impl Attributes {
    /// From the wire's bits.
    pub const fn from_bits(bits: i16) -> Self {
        Self(bits)
    }

    /// As the wire has them.
    pub const fn bits(self) -> i16 {
        self.0
    }

    /// These, with `codec`.
    #[must_use]
    pub const fn with_compression(self, codec: Codec) -> Self {
        Self(self.0 & !CODEC_BITS | codec.id() as i16)
    }

    /// These, with `timestamp_type`.
    #[must_use]
    pub const fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        self.with_bit(LOG_APPEND_TIME, matches!(timestamp_type, TimestampType::LogAppendTime))
    }

    /// These, transactional or not.
    #[must_use]
    pub const fn with_transactional(self, yes: bool) -> Self {
        self.with_bit(TRANSACTIONAL, yes)
    }

    /// These, of a control batch or not.
    #[must_use]
    pub const fn with_control(self, yes: bool) -> Self {
        self.with_bit(CONTROL, yes)
    }

    /// What the records are compressed with.
    pub fn compression(self) -> Result<Codec, UnknownCodec> {
        Codec::from_id((self.0 & CODEC_BITS) as u8)
    }

    /// Whose clock the timestamps are from.
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Part of a transaction.
    pub const fn is_transactional(self) -> bool {
        self.0 & TRANSACTIONAL != 0
    }

    /// Written by the cluster, not by a user: a transaction marker. Consumers skip its records.
    pub const fn is_control(self) -> bool {
        self.0 & CONTROL != 0
    }

    const fn with_bit(self, bit: i16, yes: bool) -> Self {
        Self(if yes { self.0 | bit } else { self.0 & !bit })
    }
}

impl std::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Attributes({:#b})", self.0)
    }
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

#[cfg(test)]
#[path = "header_test.rs"]
mod tests;
