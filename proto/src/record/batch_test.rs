//! What makes bytes a batch, and what a stamp changes.

use proptest::prelude::*;

use super::*;
use crate::{
    ids::ProducerId,
    record::{BatchBuilder, BatchOptions, ProducerStamp, UnknownCodec},
};

fn millis(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// Ten records with all that a record can have.
fn batch_of(codec: Codec) -> Bytes {
    let id = ProducerId::new(4_711).unwrap();
    let producer = Some(ProducerStamp { id, epoch: 3, base_sequence: 17 });
    let mut builder = BatchBuilder::new(BatchOptions { codec, producer, ..Default::default() });
    for i in 0..10 {
        let value = format!("value {i} ").repeat(20);
        let headers = [("trace", Some(&b"1234"[..])), ("none", None)];
        builder.append(millis(1_000 + i), Some(b"key"), Some(value.as_bytes()), headers).unwrap();
    }
    builder.finish()
}

/// `bytes` with `change` made and the CRC made good again: a producer that lies.
fn forged(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[test]
fn a_sound_batch_is_shared_not_copied() {
    for codec in Codec::ALL {
        let bytes = batch_of(codec);
        let batch = RecordBatch::validate(bytes.clone()).unwrap();
        assert_eq!(batch.codec(), codec);
        assert_eq!(batch.total_bytes(), bytes.len());
        assert_eq!(batch.bytes().as_ptr(), bytes.as_ptr());
        let stamped = batch.stamp(Offset::ZERO, LeaderEpoch::ZERO, Some(millis(5)));
        assert_eq!(stamped.parts()[1].as_ptr(), bytes[HEADER_BYTES..].as_ptr());
        assert_eq!(stamped.total_bytes(), bytes.len());
        assert_eq!(RecordBatch::parse_stored(bytes), Ok(batch));
    }
}

/// Each byte, each of several changes: an error, but for base offset (0..8) and leader epoch
/// (12..16), which the leader overwrites; there only a negative number is one.
#[test]
fn one_changed_byte_is_found() {
    for codec in Codec::ALL {
        let sound = batch_of(codec);
        for at in 0..sound.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = sound.to_vec();
                bytes[at] ^= flip;
                let overwritten = matches!(at, 0..8 | 12..16);
                match RecordBatch::validate(bytes.into()) {
                    Ok(batch) => {
                        assert!(overwritten, "{codec}: byte {at} ^ {flip:#x} was not found");
                        let restamped = batch.stamp(Offset::ZERO, LeaderEpoch::ZERO, None);
                        let due = RecordBatch::validate(sound.clone()).unwrap();
                        assert_eq!(restamped, due.stamp(Offset::ZERO, LeaderEpoch::ZERO, None));
                    }
                    Err(BatchError::FieldTooSmall { .. } | BatchError::OffsetOverflow { .. }) => {
                        assert!(overwritten, "{codec}: byte {at} ^ {flip:#x}");
                    }
                    Err(_) => assert!(!overwritten, "{codec}: byte {at} ^ {flip:#x}"),
                }
            }
        }
    }
}

#[test]
fn exactly_one_batch() {
    let bytes = batch_of(Codec::None);
    let n = bytes.len();
    for actual in [0, 1, 60] {
        let error = BatchError::Truncated { expected: HEADER_BYTES, actual };
        assert_eq!(RecordBatch::validate(bytes.slice(..actual)), Err(error));
    }
    for actual in [61, n - 1] {
        let error = BatchError::Truncated { expected: n, actual };
        assert_eq!(RecordBatch::validate(bytes.slice(..actual)), Err(error));
    }
    for twice in [[&bytes[..], &bytes].concat(), [&bytes[..], &[0]].concat()] {
        let error = BatchError::TrailingBytes { expected: n, actual: twice.len() };
        assert_eq!(RecordBatch::validate(twice.into()), Err(error));
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let bytes = batch_of(Codec::None);
    let mut damaged = bytes.to_vec();
    damaged[100] ^= 1;
    let expected = u32::from_be_bytes(*bytes[17..].first_chunk().unwrap());
    let actual = crc32c::crc32c(&damaged[21..]);
    let error = BatchError::WrongCrc { expected, actual };
    assert_eq!(RecordBatch::validate(damaged.into()), Err(error.clone()));
    let due =
        format!("CRC-32C {actual:08x} where the header says {expected:08x}: the batch was damaged");
    assert_eq!(error.to_string(), due);

    let empty = forged(&bytes, |b| b[57..61].fill(0));
    let error = BatchError::FieldTooSmall { field: "record count", value: 0, min: 1 };
    assert_eq!(RecordBatch::validate(empty), Err(error));
    let lie = forged(&bytes, |b| b[60] = 9);
    let error = BatchError::RecordCount { record_count: 9, last_offset_delta: 9 };
    assert_eq!(RecordBatch::validate(lie), Err(error));
    let codec = forged(&bytes, |b| b[22] = 5);
    let error = BatchError::UnknownCodec(UnknownCodec("5".to_owned()));
    assert_eq!(RecordBatch::validate(codec), Err(error));
}

#[test]
fn a_log_may_hold_fewer_records_than_offsets() {
    let bytes = batch_of(Codec::None);
    for left in [0, 1, 9] {
        let compacted = forged(&bytes, |b| b[60] = left);
        assert!(RecordBatch::validate(compacted.clone()).is_err(), "{left}");
        let batch = RecordBatch::parse_stored(compacted).unwrap();
        assert_eq!(batch.next_offset().get(), 10, "{left}");
    }
    let more = forged(&bytes, |b| b[60] = 11);
    let error = BatchError::RecordCount { record_count: 11, last_offset_delta: 9 };
    assert_eq!(RecordBatch::parse_stored(more), Err(error));
}

#[test]
fn a_stamp_sets_offset_and_epoch_and_leaves_the_crc() {
    let batch = RecordBatch::validate(batch_of(Codec::Lz4)).unwrap();
    let offset = Offset::new(1 << 40).unwrap();
    let stamped = batch.stamp(offset, LeaderEpoch::new(9).unwrap(), None);
    let due = BatchHeader { base_offset: 1 << 40, leader_epoch: 9, ..*batch.header() };
    assert_eq!(*stamped.header(), due);
    assert_eq!(stamped.base_offset(), offset);
    assert_eq!(stamped.last_offset().get(), (1 << 40) + 9);
    assert_eq!(stamped.next_offset().get(), (1 << 40) + 10);
    let stored = RecordBatch::parse_stored(stamped.to_bytes()).unwrap();
    assert_eq!(*stored.header(), due);
    assert_eq!(stored.as_stamped(), stamped, "a replica appends what it was sent");
    assert_eq!((stored.base_offset(), stored.next_offset()), (offset, stamped.next_offset()));
}

#[test]
fn log_append_time_is_the_time_of_all_records() {
    for codec in Codec::ALL {
        let batch = RecordBatch::validate(batch_of(codec)).unwrap();
        for now in [0, 77, -1, i64::MAX, i64::MIN] {
            let stamped = batch.stamp(Offset::ZERO, LeaderEpoch::ZERO, Some(millis(now)));
            let stored = RecordBatch::parse_stored(stamped.to_bytes()).unwrap();
            let attributes = stored.header().attributes;
            assert_eq!(attributes.timestamp_type(), TimestampType::LogAppendTime);
            assert_eq!(attributes.compression(), Ok(codec));
            assert_eq!(stored.header().base_timestamp, millis(1_000), "deltas count from it");
            let records = stored.records(usize::MAX).unwrap();
            assert!(records.iter().all(|record| record.unwrap().timestamp == millis(now)));
            assert_eq!(records.iter().count(), 10);
        }
    }
}

/// The CRC is corrected, not computed anew: what was damaged before the stamp is so after it.
#[test]
fn a_stamp_does_not_bless_damage() {
    let batch = RecordBatch::validate(batch_of(Codec::None)).unwrap();
    let mut body = batch.bytes().to_vec();
    body[200] ^= 4;
    let damaged = RecordBatch { header: *batch.header(), bytes: body.into() };
    for time in [None, Some(millis(1))] {
        let stamped = damaged.stamp(Offset::ZERO, LeaderEpoch::ZERO, time);
        let result = RecordBatch::parse_stored(stamped.to_bytes());
        assert!(matches!(result, Err(BatchError::WrongCrc { .. })), "{time:?}: {result:?}");
    }
}

#[test]
fn a_bomb_is_found_when_the_records_are_asked_for() {
    for codec in Codec::ALL.into_iter().filter(|codec| *codec != Codec::None) {
        let batch = RecordBatch::validate(batch_of(codec)).unwrap();
        let bytes = batch.records(usize::MAX).unwrap().bytes().len();
        assert!(batch.records(bytes).is_ok());
        let error = BatchError::DecompressionBomb { codec, limit: bytes - 1 };
        assert_eq!(batch.records(bytes - 1).map(|_| ()), Err(error));
        let noise = forged(batch.bytes(), |b| b[HEADER_BYTES + 2..].fill(0x5a));
        let result = RecordBatch::validate(noise).unwrap().records(usize::MAX).map(|_| ());
        assert!(matches!(result, Err(BatchError::Decompress { .. })), "{codec}: {result:?}");
    }
    let plain = RecordBatch::validate(batch_of(Codec::None)).unwrap();
    assert_eq!(plain.records(0).unwrap().bytes().as_ptr(), plain.bytes()[61..].as_ptr());
}

proptest! {
    /// The corrected CRC is the one a full pass gives, for every size of body and any time.
    #[test]
    fn a_corrected_crc_is_the_crc(
        body in proptest::collection::vec(any::<u8>(), 7..3000),
        now: i64,
        max_timestamp: i64,
        offset in 0..i64::MAX / 2,
        epoch in 0..i32::MAX,
    ) {
        let mut bytes = batch_of(Codec::None).slice(..HEADER_BYTES).to_vec();
        let length = i32::try_from(HEADER_BYTES - 12 + body.len()).unwrap();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[23..27].fill(0);
        bytes[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
        bytes[57..61].copy_from_slice(&1_i32.to_be_bytes());
        bytes.extend_from_slice(&body);
        let batch = RecordBatch::validate(forged(&bytes, |_| {})).unwrap();
        let (offset, epoch) = (Offset::new(offset).unwrap(), LeaderEpoch::new(epoch).unwrap());
        let stamped = batch.stamp(offset, epoch, Some(millis(now)));
        let crc = crc32c::crc32c(&stamped.to_bytes()[21..]);
        prop_assert_eq!(stamped.header().crc, crc);
    }
}
