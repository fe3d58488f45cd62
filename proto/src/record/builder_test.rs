//! What a builder takes, what it refuses, and that its sizes are exact.

use proptest::prelude::*;

use super::*;
use crate::{
    ids::ProducerId,
    record::{RecordBatch, encoded_record_bytes, encoded_record_bytes_max},
};

const AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn options(size_budget: usize, bytes_max: usize) -> BatchOptions {
    BatchOptions { size_budget, bytes_max, ..Default::default() }
}

fn append(builder: &mut BatchBuilder, value: usize) -> Result<u32, AppendError> {
    let value = vec![b'v'; value];
    let before = (builder.estimated_bytes(), builder.record_count());
    let would_fit = builder.would_fit(AT, None, Some(&value), []);
    let result = builder.append(AT, None, Some(&value), []);
    assert_eq!(result.is_ok(), would_fit);
    let grown = encoded_record_bytes(0, before.1, None, Some(&value), []);
    let due = if would_fit { (before.0 + grown, before.1 + 1) } else { before };
    assert_eq!((builder.estimated_bytes(), builder.record_count()), due);
    result
}

#[test]
fn a_batch_is_full_at_its_budget_and_not_before() {
    // Nine bytes around each value: 61 + 100 + 100.
    for (budget, second) in [(261, Ok(1)), (260, Err(AppendError::Full))] {
        let mut builder = BatchBuilder::new(options(budget, 1_000));
        assert!(builder.is_empty());
        assert_eq!(append(&mut builder, 91), Ok(0));
        assert_eq!(builder.estimated_bytes(), 161);
        assert_eq!(append(&mut builder, 91), second);
        let bytes = builder.finish();
        assert_eq!(RecordBatch::validate(bytes).unwrap().records(0).unwrap().iter().count(), {
            if second.is_ok() { 2 } else { 1 }
        });
    }
}

#[test]
fn the_first_record_may_break_the_budget_but_not_the_limit() {
    let mut builder = BatchBuilder::new(options(100, 261));
    let too_large = AppendError::RecordTooLarge { bytes: 262, max: 261 };
    assert_eq!(append(&mut builder, 192), Err(too_large));
    assert_eq!(append(&mut builder, 191), Ok(0));
    assert_eq!(append(&mut builder, 0), Err(AppendError::Full));
    assert_eq!(append(&mut builder, 192), Err(too_large), "no batch takes it: nothing to finish");
    assert_eq!(append(&mut builder, 191), Err(AppendError::Full), "the next one takes it");
    assert_eq!(builder.finish().len(), 261);

    // A budget above the limit is no way around it.
    let mut builder = BatchBuilder::new(options(usize::MAX, 261));
    assert_eq!(append(&mut builder, 91), Ok(0));
    assert_eq!(append(&mut builder, 91), Ok(1));
    assert_eq!(append(&mut builder, 0), Err(AppendError::Full));
}

/// A delta can make a record larger than it is as the first of a batch; it is refused for now,
/// not for good.
#[test]
fn too_large_is_said_of_what_no_batch_takes() {
    let mut builder = BatchBuilder::new(options(1_000, 161));
    append(&mut builder, 0).unwrap();
    let far = Timestamp::from_millis(0);
    let value = vec![0; 91];
    assert_eq!(builder.append(far, None, Some(&value), []), Err(AppendError::Full));
    let mut next = BatchBuilder::new(options(1_000, 161));
    assert_eq!(next.append(far, None, Some(&value), []), Ok(0));
}

#[test]
fn the_protocols_limit_holds_whatever_the_options_say() {
    let mut builder = BatchBuilder::new(options(usize::MAX, usize::MAX));
    let value = vec![0; BATCH_BYTES_MAX as usize];
    let result = builder.append(AT, None, Some(&value), []);
    let max = BATCH_BYTES_MAX as usize;
    assert_eq!(result, Err(AppendError::RecordTooLarge { bytes: max + 61 + 13, max }));
    assert!(builder.append(AT, None, Some(&value[..max - 61 - 13]), []).is_ok());
    let batch = RecordBatch::validate(builder.finish()).unwrap();
    assert_eq!(batch.total_bytes(), max);
}

#[test]
fn header_of_a_finished_batch() {
    let producer = |base_sequence| {
        let id = ProducerId::new(12).unwrap();
        ProducerStamp { id, epoch: 2, base_sequence }
    };
    let mut builder = BatchBuilder::new(BatchOptions {
        codec: Codec::Zstd,
        transactional: true,
        producer: Some(producer(0)),
        ..Default::default()
    });
    for ms in [50, 40, 90, 60] {
        let value = [b'x'; 200];
        builder.append(Timestamp::from_millis(ms), Some(b"k"), Some(&value), []).unwrap();
    }
    builder.set_producer(producer(i32::MAX - 1));
    let batch = RecordBatch::validate(builder.finish()).unwrap();
    let header = batch.header();
    assert_eq!((header.base_offset, header.leader_epoch), (0, -1), "the leader sets them");
    assert_eq!((header.last_offset_delta, header.record_count), (3, 4));
    assert_eq!(header.base_timestamp.as_millis(), 50, "the first record's, as Kafka's");
    assert_eq!(header.max_timestamp.as_millis(), 90);
    assert_eq!(header.producer(), Some(producer(i32::MAX - 1)));
    assert_eq!(header.last_sequence(), Some(1));
    assert_eq!(header.attributes.bits(), 0b01_0100);

    let mut plain = BatchBuilder::new(BatchOptions::default());
    plain.append(AT, None, None, []).unwrap();
    let batch = RecordBatch::validate(plain.finish()).unwrap();
    let header = batch.header();
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (-1, -1, -1));
    assert_eq!(header.attributes.bits(), 0);
}

#[test]
fn what_does_not_compress_goes_out_as_it_is() {
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(BatchOptions { codec, ..Default::default() });
        builder.append(AT, None, Some(b"a"), []).unwrap();
        let most = builder.estimated_bytes();
        let batch = RecordBatch::validate(builder.finish()).unwrap();
        assert_eq!(batch.codec(), Codec::None, "{codec}");
        assert_eq!(batch.total_bytes(), most);
    }
}

#[test]
fn buffers_come_back() {
    let mut compressor = Compressor::new();
    let value = [b'v'; 1000];
    let lz4 = BatchOptions { codec: Codec::Lz4, ..Default::default() };
    let mut builder = BatchBuilder::with_buffer(lz4, Vec::with_capacity(10_000));
    builder.append(AT, None, Some(&value), []).unwrap();
    let (bytes, spare) = builder.finish_with(&mut compressor);
    assert_eq!(RecordBatch::validate(bytes).unwrap().codec(), Codec::Lz4);
    assert!(spare.capacity() >= 10_000);

    // The buffer goes out as the batch, and back once nobody else reads it.
    let address = spare.as_ptr();
    let mut builder = BatchBuilder::with_buffer(BatchOptions::default(), spare);
    builder.append(AT, None, Some(&value), []).unwrap();
    let (bytes, spare) = builder.finish_with(&mut compressor);
    assert_eq!(spare.capacity(), 0);
    let batch = RecordBatch::validate(bytes.clone()).unwrap();
    assert!(!bytes.is_unique());
    drop(batch);
    assert!(bytes.is_unique());
    let spare = Vec::from(bytes);
    assert_eq!((spare.as_ptr(), spare.capacity() >= 10_000), (address, true));
}

#[test]
#[should_panic(expected = "at least one record")]
fn an_empty_batch_is_not_finished() {
    BatchBuilder::new(BatchOptions::default()).finish();
}

type Headers = Vec<(String, Option<Vec<u8>>)>;
type Record = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Headers);

fn record() -> impl Strategy<Value = Record> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    let headers = proptest::collection::vec((".{0,5}", bytes()), 0..3);
    (any::<i64>(), bytes(), bytes(), headers)
}

proptest! {
    /// What goes in comes out, whatever it is; sizes foretold are sizes taken.
    #[test]
    fn round_trip(
        records in proptest::collection::vec(record(), 1..20),
        codec in proptest::sample::select(&Codec::ALL[..]),
    ) {
        let mut builder = BatchBuilder::new(BatchOptions { codec, ..Default::default() });
        for (i, (time, key, value, headers)) in records.iter().enumerate() {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
            let (key, value) = (key.as_deref(), value.as_deref());
            let before = builder.estimated_bytes();
            let index = builder.append(Timestamp::from_millis(*time), key, value, headers.clone());
            prop_assert_eq!(index, Ok(u32::try_from(i).unwrap()));
            let taken = builder.estimated_bytes() - before;
            let delta = time.wrapping_sub(records[0].0);
            let foretold = encoded_record_bytes(delta, index.unwrap(), key, value, headers.clone());
            prop_assert_eq!(taken, foretold);
            prop_assert!(taken <= encoded_record_bytes_max(key, value, headers));
        }
        let most = builder.estimated_bytes();
        let batch = RecordBatch::validate(builder.finish()).unwrap();
        prop_assert!(batch.total_bytes() <= most);
        let read = batch.records(most).unwrap();
        let mut read = read.iter();
        for (i, (time, key, value, headers)) in records.iter().enumerate() {
            let view = read.next().unwrap().unwrap();
            prop_assert_eq!(view.offset.get(), i64::try_from(i).unwrap());
            prop_assert_eq!(view.timestamp.as_millis(), *time);
            prop_assert_eq!((view.key, view.value), (key.as_deref(), value.as_deref()));
            let read: Result<Vec<_>, _> = view.headers().collect();
            let due: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
            prop_assert_eq!(read.unwrap(), due);
        }
        prop_assert!(read.next().is_none());
    }
}
