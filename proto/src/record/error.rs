//! What can be wrong with a batch, and with a record of it. None of these is worth a retry with the
//! same bytes, and nothing was written or consumed when one is returned.

use thiserror::Error;

use super::{Codec, HEADER_BYTES, UnknownCodec, varint::VarintError};
use crate::{limits, offset::Offset};

/// Why bytes are not one sound batch. A batch with several faults names the first that was found.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer bytes than a header, or than the header's length.
    #[error("the batch is cut off: {expected} bytes are due, {actual} are there")]
    Truncated {
        /// Bytes of the header, or the whole batch by its header.
        expected: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// Another version of the format.
    #[error(
        "magic {actual} where 2 is due: only record batches of version 2 are taken (Kafka 0.11 and later write them)"
    )]
    WrongMagic {
        /// What byte 16 holds.
        actual: i8,
    },
    /// A length no batch has.
    #[error(
        "a batch length of {actual}: a batch has {} to {} bytes after that field",
        HEADER_BYTES - 12,
        limits::BATCH_BYTES_MAX - 12
    )]
    Length {
        /// What the header says.
        actual: i32,
    },
    /// More bytes than the header's length: often two batches where one is due.
    #[error("{} bytes follow the batch of {expected}: one batch at a time", actual - expected)]
    TrailingBytes {
        /// The whole batch by its header.
        expected: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// Bytes changed after the producer had summed them.
    #[error("CRC-32C {actual:08x} where the header says {expected:08x}: the batch was damaged")]
    WrongCrc {
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        actual: u32,
    },
    /// A number below what its field can hold.
    #[error("{field} is {value}, below {min}")]
    FieldTooSmall {
        /// Which one.
        field: &'static str,
        /// Its value.
        value: i64,
        /// The least it can be.
        min: i64,
    },
    /// The last offset is past the end of the number line.
    #[error("base offset {base_offset} + {last_offset_delta} is past the last possible offset")]
    OffsetOverflow {
        /// As in the header.
        base_offset: i64,
        /// As in the header.
        last_offset_delta: i32,
    },
    /// The header counts its records in two ways that disagree.
    #[error(
        "record count {record_count} with a last offset delta of {last_offset_delta}: the offsets of a batch are dense"
    )]
    RecordCount {
        /// As in the header.
        record_count: i32,
        /// As in the header.
        last_offset_delta: i32,
    },
    /// More records than its bytes can hold.
    #[error("{record_count} records cannot be in {body_bytes} bytes")]
    TooManyRecords {
        /// As in the header.
        record_count: i32,
        /// Bytes of the records; if compressed, the most they may decompress to.
        body_bytes: usize,
    },
    /// Half a producer stamp: an id without epoch or sequence cannot be checked for duplicates.
    #[error("producer {producer_id} with epoch {producer_epoch} and base sequence {base_sequence}")]
    ProducerStamp {
        /// As in the header.
        producer_id: i64,
        /// As in the header.
        producer_epoch: i16,
        /// As in the header.
        base_sequence: i32,
    },
    /// A codec that does not exist.
    #[error(transparent)]
    UnknownCodec(#[from] UnknownCodec),
    /// The compressed bytes are damaged or use what no producer uses.
    #[error("the records do not decompress as {codec}: {detail}")]
    Decompress {
        /// The batch's codec.
        codec: Codec,
        /// In the decoder's words.
        detail: String,
    },
    /// The records decompress to more than is allowed.
    #[error("the records decompress ({codec}) to more than {limit} bytes")]
    DecompressionBomb {
        /// The batch's codec.
        codec: Codec,
        /// The caller's limit or [`limits::BATCH_DECOMPRESSED_BYTES_MAX`], whichever is lower.
        limit: usize,
    },
}

/// Why a record of a batch cannot be read. What follows it in the batch is not readable either;
/// the next batch is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "record {index} of the batch at offset {base_offset}, byte {position} of its records: {fault}"
)]
pub struct RecordError {
    /// The batch.
    pub base_offset: Offset,
    /// How many records came before this one.
    pub index: u32,
    /// Where it starts in the decompressed records, in bytes.
    pub position: usize,
    /// What is wrong with it.
    pub fault: RecordFault,
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordFault {
    /// The batch ends where another record is due.
    #[error("the batch ends here, its header counts {record_count} records")]
    Missing {
        /// As in the header.
        record_count: i32,
    },
    /// Bytes after the last record.
    #[error("{bytes} bytes follow the last of {record_count} records")]
    BytesAfterRecords {
        /// How many.
        bytes: usize,
        /// As in the header.
        record_count: i32,
    },
    /// A number that cannot be read.
    #[error("{field}: {error}")]
    Number {
        /// Which one.
        field: &'static str,
        /// Why.
        error: VarintError,
    },
    /// A length that is negative where it must not be, or reaches past the record or the batch.
    #[error("{field} of {length} bytes where {available} are left")]
    Length {
        /// What it is the length of.
        field: &'static str,
        /// What it says.
        length: i32,
        /// What it could be at most.
        available: usize,
    },
    /// A header count that is negative or more than the record can hold.
    #[error("{count} headers in {available} bytes")]
    HeaderCount {
        /// What the record says.
        count: i32,
        /// Bytes that are left for them.
        available: usize,
    },
    /// Bytes after the last field of the record.
    #[error("{bytes} bytes of the record follow its last field")]
    BytesAfterFields {
        /// How many.
        bytes: usize,
    },
    /// Offsets that do not rise, or rise past the batch's last.
    #[error("offset delta {actual} where {min} to {max} is due")]
    OffsetDelta {
        /// What the record says.
        actual: i32,
        /// One more than the record before.
        min: i64,
        /// The batch's last offset delta.
        max: i32,
    },
    /// A header's name is not text. The record itself is sound.
    #[error("the name of header {index} is not UTF-8")]
    HeaderName {
        /// Which one, from 0.
        index: u32,
    },
}
