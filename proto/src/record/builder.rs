//! Making a batch: records are encoded where they stay, in one buffer behind the header's place.
//!
//! The buffer grows by doubling; a caller who makes many batches hands buffers back
//! ([`BatchBuilder::with_buffer`]), since the first touch of fresh memory costs more than encoding
//! into it. Nothing else is allocated, and nothing per record.
//!
//! Sizes are of uncompressed bytes throughout. A batch never leaves larger than that: where
//! compressing gains nothing, the records go out as they are.

use bytes::Bytes;
use thiserror::Error;

use super::{
    Attributes, BatchHeader, Codec, Compressor, HEADER_BYTES, ProducerStamp,
    entry::{self, EntrySize},
    header::CRC_COVERS_FROM,
};
use crate::{
    limits::{BATCH_BYTES_MAX, PACK_TARGET_BYTES},
    timestamp::Timestamp,
};

/// Default of `max.message.bytes` on the broker.
const DEFAULT_BYTES_MAX: usize = 1024 * 1024;
/// Memory that a builder takes before its first record.
const FIRST_BUFFER_BYTES: usize = 4 * 1024;

/// How a batch is made.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// What the records are compressed with. Default: none.
    pub codec: Codec,
    /// Taken to the nearest in [`Codec::levels`]. Default: [`Codec::default_level`].
    pub compression_level: Option<i32>,
    /// Uncompressed bytes, header included, after which a batch is full. The first record is taken
    /// even if it alone is larger. Default: [`PACK_TARGET_BYTES`].
    pub size_budget: usize,
    /// Uncompressed bytes, header included, that no batch exceeds, not even for its first record;
    /// at most [`BATCH_BYTES_MAX`]. Default: 1 MiB, as the broker's `max.message.bytes`.
    pub bytes_max: usize,
    /// Default: none. Often known only when the batch is sent: [`BatchBuilder::set_producer`].
    pub producer: Option<ProducerStamp>,
    /// Part of a transaction. Default: no.
    pub transactional: bool,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            codec: Codec::None,
            compression_level: None,
            size_budget: PACK_TARGET_BYTES,
            bytes_max: DEFAULT_BYTES_MAX,
            producer: None,
            transactional: false,
        }
    }
}

/// Why a record was not taken. The builder is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The batch has records and no room for this one: finish it, the next one takes the record.
    #[error("the batch is full")]
    Full,
    /// No batch takes it.
    #[error("a batch of this record alone has {bytes} bytes, {max} is the most")]
    RecordTooLarge {
        /// Bytes of a batch with just this record, uncompressed.
        bytes: usize,
        /// [`BatchOptions::bytes_max`].
        max: usize,
    },
}

/// A batch in the making.
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// [`HEADER_BYTES`] of nothing, then the records.
    buffer: Vec<u8>,
    record_count: u32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

// === impl BatchBuilder ===

impl BatchBuilder {
    /// An empty batch in a new buffer.
    pub fn new(options: BatchOptions) -> Self {
        Self::with_buffer(options, Vec::with_capacity(FIRST_BUFFER_BYTES))
    }

    /// An empty batch in `buffer`, whose bytes are dropped and whose capacity is used. A buffer
    /// comes back from [`BatchBuilder::finish_with`], or out of a sent batch: `Vec::from(bytes)`
    /// copies nothing once the last other handle to a batch is gone ([`Bytes::is_unique`]).
    pub fn with_buffer(mut options: BatchOptions, mut buffer: Vec<u8>) -> Self {
        options.bytes_max = options.bytes_max.min(BATCH_BYTES_MAX as usize);
        buffer.clear();
        buffer.resize(HEADER_BYTES, 0);
        Self {
            options,
            buffer,
            record_count: 0,
            base_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
        }
    }

    /// Encodes a record behind the others and returns how many came before it: its offset and
    /// sequence are that far from the batch's.
    ///
    /// `headers` are gone through twice, the first time for their size.
    #[inline]
    pub fn append<'h, H>(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: H,
    ) -> Result<u32, AppendError>
    where
        H: IntoIterator<Item = (&'h str, Option<&'h [u8]>)> + Clone,
    {
        let index = self.record_count;
        let timestamp_delta = self.timestamp_delta(timestamp);
        let size = EntrySize::of(timestamp_delta, index, key, value, headers.clone());
        self.check_room(size, timestamp_delta)?;
        self.buffer.reserve(size.total());
        let out = &mut self.buffer;
        entry::write_record(out, size, timestamp_delta, index, key, value, headers);
        if index == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.record_count += 1;
        Ok(index)
    }

    /// Sets who wrote the batch and where it is in that producer's sequence; any time before it
    /// is finished.
    pub fn set_producer(&mut self, stamp: ProducerStamp) {
        self.options.producer = Some(stamp);
    }

    /// The batch: base offset 0 and no leader epoch, for the leader to set.
    ///
    /// # Panics
    /// If it is empty: a batch has at least one record.
    pub fn finish(self) -> Bytes {
        self.finish_with(&mut Compressor::new()).0
    }

    /// As [`BatchBuilder::finish`], with a compressor that keeps its tables from batch to batch.
    /// The second part is the builder's buffer, for the next one; without capacity if it went out
    /// as the batch.
    ///
    /// # Panics
    /// If it is empty: a batch has at least one record.
    pub fn finish_with(mut self, compressor: &mut Compressor) -> (Bytes, Vec<u8>) {
        assert!(self.record_count > 0, "a batch has at least one record");
        let codec = self.options.codec;
        if codec != Codec::None {
            let records = &self.buffer[HEADER_BYTES..];
            let mut out = Vec::with_capacity(self.buffer.len());
            out.resize(HEADER_BYTES, 0);
            compressor.compress(codec, self.options.compression_level, records, &mut out);
            if out.len() < self.buffer.len() {
                out.shrink_to_fit();
                return (self.seal(codec, out), self.buffer);
            }
        }
        let buffer = std::mem::take(&mut self.buffer);
        (self.seal(Codec::None, buffer), Vec::new())
    }

    /// Whether [`BatchBuilder::append`] would take this record.
    pub fn would_fit<'h>(
        &self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> bool {
        let delta = self.timestamp_delta(timestamp);
        let size = EntrySize::of(delta, self.record_count, key, value, headers);
        self.check_room(size, delta).is_ok()
    }

    /// Bytes of the batch as it is, uncompressed, header included: the most that
    /// [`BatchBuilder::finish`] gives.
    pub fn estimated_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// How many records there are.
    pub const fn record_count(&self) -> u32 {
        self.record_count
    }

    /// No record yet.
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// How it is made.
    pub const fn options(&self) -> &BatchOptions {
        &self.options
    }

    /// Wraps, so that any two times can share a batch; readers wrap it back.
    fn timestamp_delta(&self, timestamp: Timestamp) -> i64 {
        if self.is_empty() {
            return 0;
        }
        timestamp.as_millis().wrapping_sub(self.base_timestamp.as_millis())
    }

    #[inline]
    fn check_room(&self, size: EntrySize, timestamp_delta: i64) -> Result<(), AppendError> {
        let bytes = self.buffer.len() + size.total();
        let max = self.options.bytes_max;
        let budget = if self.is_empty() { max } else { self.options.size_budget.min(max) };
        if bytes <= budget && self.record_count < i32::MAX.cast_unsigned() {
            return Ok(());
        }
        // What matters to the caller is whether another batch would take it.
        let bytes = HEADER_BYTES + size.as_first(timestamp_delta, self.record_count).total();
        Err(if bytes > max {
            AppendError::RecordTooLarge { bytes, max }
        } else {
            AppendError::Full
        })
    }

    /// Fills in the header of `out`, whose records are complete.
    fn seal(&self, codec: Codec, mut out: Vec<u8>) -> Bytes {
        let producer = self.options.producer;
        let record_count = self.record_count.cast_signed();
        let mut header = BatchHeader {
            base_offset: 0,
            batch_length: i32::try_from(out.len() - 12).expect("at most BATCH_BYTES_MAX"),
            leader_epoch: -1,
            crc: 0,
            attributes: Attributes::default()
                .with_compression(codec)
                .with_transactional(self.options.transactional),
            last_offset_delta: record_count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: producer.map_or(-1, |stamp| stamp.id.get()),
            producer_epoch: producer.map_or(-1, |stamp| stamp.epoch),
            base_sequence: producer.map_or(-1, |stamp| stamp.base_sequence),
            record_count,
        };
        out[..HEADER_BYTES].copy_from_slice(&header.encode());
        header.crc = crc32c::crc32c(&out[CRC_COVERS_FROM..]);
        out[..HEADER_BYTES].copy_from_slice(&header.encode());
        out.into()
    }
}

#[cfg(test)]
#[path = "builder_test.rs"]
mod tests;
