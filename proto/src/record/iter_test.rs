//! Iteration: every record once, in order, or an error in its place.

use proptest::prelude::*;

use super::*;
use crate::record::{Attributes, BatchBuilder, BatchOptions, HEADER_BYTES, RecordBatch};

fn header(record_count: i32) -> BatchHeader {
    BatchHeader {
        base_offset: 100,
        batch_length: 49,
        leader_epoch: 0,
        crc: 0,
        attributes: Attributes::default(),
        last_offset_delta: record_count - 1,
        base_timestamp: Timestamp::from_millis(1_000),
        max_timestamp: Timestamp::from_millis(2_000),
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count,
    }
}

/// A record with this offset delta and no key, value or headers.
fn record(offset_delta: i8) -> [u8; 7] {
    [0x0c, 0, 0, (offset_delta << 1 ^ offset_delta >> 7).cast_unsigned(), 1, 1, 0]
}

fn offsets(header: BatchHeader, body: &[u8]) -> Vec<Result<i64, (u32, usize, RecordFault)>> {
    Records::new(header, Bytes::copy_from_slice(body))
        .iter()
        .map(|item| match item {
            Ok(view) => Ok(view.offset.get()),
            Err(error) => {
                assert_eq!(error.base_offset.get(), 100);
                Err((error.index, error.position, error.fault))
            }
        })
        .collect()
}

#[test]
fn the_count_is_kept() {
    use RecordFault::{BytesAfterRecords, Missing};
    let two = [record(0), record(1)].concat();
    assert_eq!(offsets(header(2), &two), [Ok(100), Ok(101)]);
    let missing = Missing { record_count: 3 };
    assert_eq!(offsets(header(3), &two), [Ok(100), Ok(101), Err((2, 14, missing))]);
    let after = BytesAfterRecords { bytes: 7, record_count: 1 };
    assert_eq!(offsets(header(1), &two), [Ok(100), Err((1, 7, after))]);
    let after = BytesAfterRecords { bytes: 1, record_count: 2 };
    let three = [&two[..], &[0]].concat();
    assert_eq!(offsets(header(2), &three), [Ok(100), Ok(101), Err((2, 14, after))]);
    assert_eq!(offsets(header(0), &[]), []);
    let after = BytesAfterRecords { bytes: 7, record_count: 0 };
    assert_eq!(offsets(header(0), &record(0)), [Err((0, 0, after))]);
}

#[test]
fn offsets_rise_and_stay_in_the_batch() {
    let fault = |actual, min, max| RecordFault::OffsetDelta { actual, min, max };
    for (deltas, bad) in
        [([0, 0], fault(0, 1, 1)), ([0, 2], fault(2, 1, 1)), ([0, -1], fault(-1, 1, 1))]
    {
        let body = deltas.map(record).concat();
        assert_eq!(offsets(header(2), &body), [Ok(100), Err((1, 7, bad))], "{deltas:?}");
    }
    assert_eq!(offsets(header(2), &record(-1)), [Err((0, 0, fault(-1, 0, 1)))]);
    // What compaction leaves.
    let gaps = BatchHeader { last_offset_delta: 9, ..header(2) };
    assert_eq!(offsets(gaps, &[record(3), record(7)].concat()), [Ok(103), Ok(107)]);
    let past = fault(10, 4, 9);
    assert_eq!(offsets(gaps, &[record(3), record(10)].concat()), [Ok(103), Err((1, 7, past))]);
}

#[test]
fn nothing_follows_an_error() {
    let broken = [&record(0)[..], &[0x0c, 0, 0, 2, 9, 9, 9], &record(2)].concat();
    let fault = RecordFault::Length { field: "key", length: -5, available: 2 };
    assert_eq!(offsets(header(3), &broken), [Ok(100), Err((1, 7, fault))]);
    let records = Records::new(header(3), broken.into());
    let mut iter = records.iter();
    assert_eq!(iter.by_ref().count(), 2);
    assert!(iter.next().is_none() && iter.next().is_none());
    let error = records.iter().nth(1).unwrap().unwrap_err();
    let due = "record 1 of the batch at offset 100, byte 7 of its records: \
               key of -5 bytes where 2 are left";
    assert_eq!(error.to_string(), due);
}

#[test]
fn times_wrap_as_they_were_written() {
    let times = [i64::MAX, i64::MIN, 0, -1, i64::MIN];
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for time in times {
        builder.append(Timestamp::from_millis(time), None, None, []).unwrap();
    }
    let batch = RecordBatch::validate(builder.finish()).unwrap();
    assert_eq!(batch.header().base_timestamp.as_millis(), i64::MAX);
    assert_eq!(batch.header().max_timestamp.as_millis(), i64::MAX);
    let records = batch.records(0).unwrap();
    let read: Vec<_> = records.iter().map(|view| view.unwrap().timestamp.as_millis()).collect();
    assert_eq!(read, times);
}

#[test]
fn views_are_slices_and_can_be_kept() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let headers = [("name", Some(&b"header"[..]))];
    builder.append(Timestamp::from_millis(0), Some(b"key"), Some(b"value"), headers).unwrap();
    let bytes = builder.finish();
    let batch = RecordBatch::validate(bytes.clone()).unwrap();
    let records = batch.records(0).unwrap();
    let view = records.iter().next().unwrap().unwrap();
    let kept = [
        records.slice_ref(view.key.unwrap()),
        records.slice_ref(view.value.unwrap()),
        records.slice_ref(view.headers().next().unwrap().unwrap().1.unwrap()),
    ];
    let range = bytes.as_ptr_range();
    drop((records, batch));
    for (kept, due) in kept.iter().zip([&b"key"[..], b"value", b"header"]) {
        assert_eq!(kept, due);
        assert!(range.contains(&kept.as_ptr()), "not a copy");
    }
}

#[test]
fn a_cursor_goes_where_the_iterator_goes() {
    let body = [record(0), record(1), record(2)].concat();
    for records in [
        Records::new(header(3), body.clone().into()),
        Records::new(header(4), body.clone().into()),
        Records::new(header(2), body.into()),
    ] {
        let mut cursor = RecordCursor::default();
        let by_cursor: Vec<_> = std::iter::from_fn(|| records.next_at(&mut cursor)).collect();
        assert_eq!(by_cursor, records.iter().collect::<Vec<_>>());
        assert!(records.next_at(&mut cursor).is_none());
    }
    // One from another batch means nothing, and breaks nothing.
    let long = Records::new(header(3), [record(0), record(1), record(2)].concat().into());
    let mut cursor = RecordCursor::default();
    while long.next_at(&mut cursor).is_some() {}
    cursor.done = false;
    let short = Records::new(header(5), Bytes::new());
    assert!(short.next_at(&mut cursor).unwrap().is_err());
}

proptest! {
    /// Noise in place of records: at most as many items as the header counts and an error, never a
    /// panic, and an error unless every byte was used.
    #[test]
    fn any_bytes(
        count in 0_i32..40,
        gap in 0_i32..3,
        noise in proptest::collection::vec(prop_oneof![4 => 0_u8..8, 1 => any::<u8>()], 0..300),
    ) {
        let header = BatchHeader { last_offset_delta: count + gap - 1, ..header(count) };
        let items = offsets(header, &noise);
        let sound = items.iter().filter(|item| item.is_ok()).count();
        prop_assert!(items.len() <= sound + 1);
        if items.iter().all(Result::is_ok) {
            prop_assert_eq!(sound, usize::try_from(count).unwrap());
        }
        let in_a_batch = [&[0; HEADER_BYTES][..], &noise].concat();
        prop_assert!(RecordBatch::validate(in_a_batch.into()).is_err());
    }
}
