//! Plain records out of stored batches, for readers that do not decode batches themselves.
//!
//! Decompression is what a reader can make expensive for others, so it is bounded three ways: only
//! so many batches are decompressed at once on the whole broker, off the async workers; each within
//! [`BATCH_DECOMPRESSED_BYTES_MAX`]; and an answer takes records up to its size and no more, even
//! from the middle of a batch (the next read decompresses it again and goes on there).

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use riverrun_proto::{
    limits::BATCH_DECOMPRESSED_BYTES_MAX,
    offset::Offset,
    reason::Reason,
    record::{BatchHeader, Codec, Decompressor, RecordBatch, RecordFault, RecordView, Records},
    rpc::v1,
};
use tokio::sync::Semaphore;

use super::status::Failure;

/// Decompressed records up to this size are sliced; of larger ones the parts that are sent are
/// copied out, so that a small answer does not pin a large buffer.
const SLICE_BYTES_MAX: usize = 1024 * 1024;

/// Field tags, lengths and the offset around one record of an answer, at most.
const RECORD_ENVELOPE_BYTES: usize = 24;

/// The right to compute for long (compress, decompress), shared by the whole broker.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    jobs: Arc<Semaphore>,
}

/// Records, in order, and where to go on.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decoded {
    pub(super) records: Vec<v1::ConsumedRecord>,
    /// What they take in an answer.
    pub(super) bytes: usize,
    /// First offset not looked at.
    pub(super) next_offset: Offset,
}

/// Bytes that are not what was written.
#[derive(Debug, PartialEq)]
pub(super) struct Corrupt {
    pub(super) at: Offset,
    /// First offset past the damage.
    pub(super) next_offset: Offset,
    what: String,
}

// === impl Decoder ===

impl Decoder {
    /// At most `jobs` decompressions at once: memory for them is `jobs` times
    /// [`BATCH_DECOMPRESSED_BYTES_MAX`].
    pub(super) fn new(jobs: usize) -> Self {
        Self { jobs: Arc::new(Semaphore::new(jobs.max(1))) }
    }

    /// Records at and after `from` of `batches`, which end before `next_offset`: up to `max_bytes`,
    /// at least one. Damage after good records is left to the next read, which begins there.
    ///
    /// Cancel safe.
    pub(super) async fn decode(
        &self,
        batches: Vec<Bytes>,
        from: Offset,
        next_offset: Offset,
        max_bytes: usize,
    ) -> Result<Decoded, Failure> {
        let heavy = !batches_are_plain(&batches);
        let decoded =
            self.compute(heavy, move || decode(&batches, from, next_offset, max_bytes)).await?;
        Ok(decoded?)
    }

    /// Runs `work` here, or, if it is `heavy`, on a thread that may compute for long, when it is
    /// its turn.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        heavy: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        if !heavy {
            return Ok(work());
        }
        let job = Arc::clone(&self.jobs).acquire_owned().await.expect("never closed");
        let done = tokio::task::spawn_blocking(move || {
            let _job = job;
            work()
        });
        // It does not panic and is not aborted: only the end of the runtime leaves it undone.
        done.await.map_err(|_| Failure::draining())
    }
}

impl From<Corrupt> for Failure {
    fn from(corrupt: Corrupt) -> Self {
        let Corrupt { at, next_offset, what } = corrupt;
        let message = format!("{what}; skip to offset {next_offset}");
        Self::new(Reason::CorruptRecord, message).with("offset", at).past(next_offset)
    }
}

fn batches_are_plain(batches: &[Bytes]) -> bool {
    batches.iter().all(|bytes| {
        BatchHeader::parse(bytes)
            .is_ok_and(|header| header.attributes.compression() == Ok(Codec::None))
    })
}

fn decode(
    batches: &[Bytes],
    from: Offset,
    next_offset: Offset,
    max_bytes: usize,
) -> Result<Decoded, Corrupt> {
    let mut decompressor = Decompressor::new();
    let mut out = Decoded { next_offset: from, ..Decoded::default() };
    for bytes in batches {
        match decode_batch(bytes, from, next_offset, max_bytes, &mut decompressor, &mut out) {
            Ok(Room::Left) => {}
            Ok(Room::Full) => return Ok(out),
            Err(_) if !out.records.is_empty() => return Ok(out),
            Err(corrupt) => return Err(corrupt),
        }
    }
    out.next_offset = out.next_offset.max(next_offset);
    Ok(out)
}

enum Room {
    Left,
    Full,
}

fn decode_batch(
    bytes: &Bytes,
    from: Offset,
    batches_end: Offset,
    max_bytes: usize,
    decompressor: &mut Decompressor,
    out: &mut Decoded,
) -> Result<Room, Corrupt> {
    let at = out.next_offset;
    let past = BatchHeader::parse(bytes)
        .ok()
        .and_then(|header| Offset::new(header.next_offset()))
        .filter(|past| *past > at && *past <= batches_end)
        .unwrap_or(batches_end);
    let corrupt = |at, next_offset, what: String| Corrupt { at, next_offset, what };
    let batch =
        RecordBatch::parse_stored(bytes.clone()).map_err(|e| corrupt(at, past, e.to_string()))?;
    if batch.header().attributes.is_control() {
        out.next_offset = past;
        return Ok(Room::Left);
    }
    let records = batch
        .records_with(decompressor, BATCH_DECOMPRESSED_BYTES_MAX)
        .map_err(|e| corrupt(at, past, e.to_string()))?;
    for record in records.iter() {
        let view = record.map_err(|e| corrupt(out.next_offset, past, e.to_string()))?;
        if view.offset < from {
            continue;
        }
        let record = consumed(&records, &view).map_err(|fault| {
            corrupt(view.offset, view.offset.next(), format!("record {}: {fault}", view.offset))
        })?;
        let size = record.encoded_len() + RECORD_ENVELOPE_BYTES;
        if !out.records.is_empty() && out.bytes + size > max_bytes {
            return Ok(Room::Full);
        }
        out.bytes += size;
        out.next_offset = view.offset.next();
        out.records.push(record);
    }
    out.next_offset = past;
    Ok(Room::Left)
}

fn consumed(records: &Records, view: &RecordView<'_>) -> Result<v1::ConsumedRecord, RecordFault> {
    let take = |part: &[u8]| {
        if records.bytes().len() <= SLICE_BYTES_MAX {
            records.slice_ref(part)
        } else {
            Bytes::copy_from_slice(part)
        }
    };
    let headers = view
        .headers()
        .map(|header| {
            let (key, value) = header?;
            Ok(v1::Header { key: key.to_owned(), value: value.map(take) })
        })
        .collect::<Result<_, RecordFault>>()?;
    let record = v1::Record {
        key: view.key.map(take),
        value: view.value.map(take),
        headers,
        timestamp_ms: Some(view.timestamp.as_millis()),
        idempotency_key: None,
    };
    Ok(v1::ConsumedRecord { offset: view.offset.get(), record: Some(record) })
}

#[cfg(test)]
#[path = "decode_test.rs"]
mod tests;
