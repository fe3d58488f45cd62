//! The record batch: Kafka's RecordBatch v2, byte for byte. It is the unit of append, checksum,
//! compression and replication, and the same bytes travel from the producer's memory to the disk
//! and on to the consumer. Source: `org.apache.kafka.common.record.DefaultRecordBatch`, KIP-98.
//!
//! # The format
//!
//! Numbers are big-endian.
//!
//! | byte | size | field | covered by the CRC | written by |
//! |---:|---:|---|---|---|
//! | 0 | 8 | base offset: offset of the first record | no | leader |
//! | 8 | 4 | batch length: bytes that follow this field (total − 12) | no | producer |
//! | 12 | 4 | partition leader epoch, −1 before the first append | no | leader |
//! | 16 | 1 | magic: 2 | no | producer |
//! | 17 | 4 | CRC-32C (Castagnoli) of bytes 21..end | – | producer |
//! | 21 | 2 | [`Attributes`] | yes | producer (log append time: leader) |
//! | 23 | 4 | last offset delta: offset of the last record − base offset | yes | producer |
//! | 27 | 8 | base timestamp: what timestamp deltas count from | yes | producer |
//! | 35 | 8 | max timestamp | yes | producer (log append time: leader) |
//! | 43 | 8 | producer id, −1: none | yes | producer |
//! | 51 | 2 | producer epoch, −1: none | yes | producer |
//! | 53 | 4 | base sequence, −1: none | yes | producer |
//! | 57 | 4 | record count | yes | producer |
//! | 61 | | records, compressed as one piece if the attributes name a codec | yes | producer |
//!
//! One record; numbers are zig-zag varints (`varint.rs`), a length of −1 is null:
//!
//! ```text
//! length of what follows │ attributes: 1 byte, unused │ timestamp delta (64 bit) │ offset delta
//! key length, key │ value length, value │ header count │ { name length, name, value length, value }*
//! ```
//!
//! # What is checked where
//!
//! [`RecordBatch::validate`] looks at the header and the CRC and decodes no record: this is the
//! broker's append path. [`RecordBatch::stamp`] then sets base offset and leader epoch, which lie
//! outside the CRC for that very purpose; the frame on disk has a checksum of its own over all
//! bytes. [`RecordBatch::records`] decompresses within a bound, and each item of the iteration is
//! a record or an error: a batch whose records are not what its header says is found by its
//! readers.
//!
//! # Versions
//!
//! The magic byte is the version. Anything but 2 is refused ([`BatchError::WrongMagic`]); another
//! format would get another magic and another entry in `BatchFormat` of the wire protocol. Unused
//! bits of the attributes are kept as they are and ignored, as Kafka does.
//!
//! # Reading order
//!
//! `varint`, `header`, `crc`, `batch`, `entry` (one record), `iter`, `builder`, `compression`,
//! `decompression`, `control`, `error`.

mod batch;
mod builder;
mod compression;
mod control;
mod crc;
mod decompression;
mod entry;
mod error;
mod header;
mod iter;
mod varint;

pub use self::{
    batch::{RecordBatch, StampedBatch},
    builder::{AppendError, BatchBuilder, BatchOptions},
    compression::{Codec, Compressor, UnknownCodec},
    control::{ControlKind, ControlRecord, control_batch},
    decompression::Decompressor,
    entry::{RecordHeaders, RecordView, encoded_record_bytes, encoded_record_bytes_max},
    error::{BatchError, RecordError, RecordFault},
    header::{Attributes, BatchHeader, HEADER_BYTES, ProducerStamp, TimestampType},
    iter::{RecordCursor, RecordIter, Records},
    varint::VarintError,
};
