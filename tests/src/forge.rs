//! Record batches: sound ones, and those that lie.

use std::io::Write;

use bytes::Bytes;
use riverrun_proto::{
    ids::ProducerId,
    record::{BatchBuilder, BatchOptions, Codec, ProducerStamp},
    timestamp::Timestamp,
};

use crate::clock;

/// Where the fields of a batch are; see Kafka's RecordBatch.
pub mod at {
    /// `batchLength`, four bytes.
    pub const LENGTH: usize = 8;
    /// `magic`
    pub const MAGIC: usize = 16;
    /// `crc`, four bytes, of all that follows.
    pub const CRC: usize = 17;
    /// `attributes`, two bytes.
    pub const ATTRIBUTES: usize = 21;
    /// `lastOffsetDelta`, four bytes.
    pub const LAST_OFFSET_DELTA: usize = 23;
    /// `baseTimestamp`, eight bytes.
    pub const BASE_TIMESTAMP: usize = 27;
    /// `maxTimestamp`, eight bytes.
    pub const MAX_TIMESTAMP: usize = 35;
    /// `recordsCount`, four bytes.
    pub const RECORDS_COUNT: usize = 57;
    /// The records.
    pub const RECORDS: usize = 61;
}

/// A batch of records without keys.
pub fn batch(values: &[&str]) -> Bytes {
    build(values, Codec::None, None)
}

/// A batch of an idempotent producer, whose first record has this sequence.
pub fn of_producer(id: i64, epoch: i16, base_sequence: i32, values: &[&str]) -> Bytes {
    let id = ProducerId::new(id).expect("ids are not negative");
    build(values, Codec::None, Some(ProducerStamp { id, epoch, base_sequence }))
}

/// A batch of one record with a value of `bytes` zeros.
pub fn large(bytes: usize) -> Bytes {
    let options =
        BatchOptions { size_budget: usize::MAX, bytes_max: usize::MAX, ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(options);
    builder.append(now(), None, Some(&vec![0; bytes]), []).expect("the first record always fits");
    builder.finish()
}

fn build(values: &[&str], codec: Codec, producer: Option<ProducerStamp>) -> Bytes {
    let mut builder =
        BatchBuilder::new(BatchOptions { codec, producer, ..BatchOptions::default() });
    for value in values {
        builder.append(now(), None, Some(value.as_bytes()), []).expect("they are small");
    }
    builder.finish()
}

/// A batch with bytes of it overwritten, and a checksum that says it was meant so.
pub fn altered(batch: &Bytes, at: usize, with: &[u8]) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    with_crc(bytes)
}

/// A batch with bytes of it overwritten and its checksum as it was.
pub fn damaged(batch: &Bytes, at: usize, with: &[u8]) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes.into()
}

/// A sound, small batch of one record, whose value has `bytes` zeros once it is decompressed.
pub fn bomb(bytes: u64) -> Bytes {
    let mut body = Vec::new();
    {
        let mut zip = zstd::Encoder::new(&mut body, 1).expect("a level that exists");
        let mut head = Vec::new();
        // attributes, timestamp delta, offset delta, null key, value's length
        head.extend([0, 0, 0]);
        varint(-1, &mut head);
        varint(i64::try_from(bytes).expect("below 2^63"), &mut head);
        let length = head.len() as i64 + bytes as i64 + 1;
        let mut record = Vec::new();
        varint(length, &mut record);
        record.extend(head);
        zip.write_all(&record).expect("memory takes it");
        let zeros = vec![0; 1 << 20];
        for _ in 0..bytes / (1 << 20) {
            zip.write_all(&zeros).expect("memory takes it");
        }
        zip.write_all(&zeros[..(bytes % (1 << 20)) as usize]).expect("memory takes it");
        // no headers
        zip.write_all(&[0]).expect("memory takes it");
        zip.finish().expect("memory takes it");
    }
    let mut whole = batch(&["x"]).to_vec();
    whole.truncate(at::RECORDS);
    whole.extend(body);
    whole[at::ATTRIBUTES..][..2].copy_from_slice(&4i16.to_be_bytes());
    let length = i32::try_from(whole.len() - 12).expect("it is small");
    whole[at::LENGTH..][..4].copy_from_slice(&length.to_be_bytes());
    with_crc(whole)
}

/// Zig-zag, seven bits at a time.
fn varint(n: i64, out: &mut Vec<u8>) {
    let mut rest = ((n << 1) ^ (n >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn with_crc(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&bytes[at::ATTRIBUTES..]);
    bytes[at::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn now() -> Timestamp {
    Timestamp::from_millis(clock::unix_ms())
}

#[cfg(test)]
mod tests {
    use riverrun_proto::record::{BatchError, RecordBatch};

    use super::*;

    #[test]
    fn forgeries_are_what_they_claim() {
        assert!(RecordBatch::validate(batch(&["a", "b"])).is_ok());
        let lying = altered(&batch(&["a"]), at::BASE_TIMESTAMP, &[1; 8]);
        assert!(RecordBatch::validate(lying).is_ok(), "its checksum is right");
        let damaged = damaged(&batch(&["a"]), at::RECORDS, &[9]);
        let error = RecordBatch::validate(damaged).unwrap_err();
        assert!(matches!(error, BatchError::WrongCrc { .. }));
    }

    #[test]
    fn a_bomb_is_a_sound_batch_of_one_record() {
        let small = RecordBatch::validate(bomb(3 << 20)).unwrap();
        let records = small.records(4 << 20).unwrap();
        let read: Vec<_> = records.iter().map(|r| r.unwrap().value.unwrap().len()).collect();
        assert_eq!(read, [3 << 20]);
        let large = bomb(200 << 20);
        assert!(large.len() < 64 << 10, "{} bytes", large.len());
        let large = RecordBatch::validate(large).unwrap();
        let error = large.records(usize::MAX).unwrap_err();
        assert!(matches!(error, BatchError::DecompressionBomb { .. }), "{error}");
    }
}
