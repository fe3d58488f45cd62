//! Records out of batches: where they begin, where they stop, what a damaged one does.

use riverrun_proto::{
    epoch::LeaderEpoch,
    record::{BatchBuilder, BatchOptions, ControlKind, HEADER_BYTES, control_batch},
    timestamp::Timestamp,
};

use super::*;

fn at(n: i64) -> Offset {
    Offset::new(n).unwrap()
}

/// A stored batch of `count` records from `base` on; each has its offset as value.
fn stored(base: i64, count: i64, codec: Codec, padding: usize) -> Bytes {
    let options = BatchOptions { codec, size_budget: 1 << 20, ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(options);
    for offset in base..base + count {
        let value = [offset.to_string().as_bytes(), &vec![b'.'; padding]].concat();
        let headers = [("h", Some(b"x".as_slice())), ("null", None)];
        builder.append(Timestamp::from_millis(offset), None, Some(&value), headers).unwrap();
    }
    let batch = RecordBatch::validate(builder.finish()).unwrap();
    batch.stamp(at(base), LeaderEpoch::ZERO, None).to_bytes()
}

fn offsets(decoded: &Decoded) -> Vec<i64> {
    decoded.records.iter().map(|record| record.offset).collect()
}

#[test]
fn records_before_the_place_asked_for_are_left_out() {
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let batches = [stored(0, 3, codec, 50), stored(3, 2, codec, 50)];
        let decoded = decode(&batches, at(1), at(5), usize::MAX).unwrap();
        assert_eq!(offsets(&decoded), [1, 2, 3, 4], "{codec}");
        assert_eq!(decoded.next_offset, at(5));
        let first = decoded.records[0].record.as_ref().unwrap();
        assert_eq!(first.timestamp_ms, Some(1));
        assert_eq!(first.key, None, "null stays null");
        assert!(first.value.as_ref().unwrap().starts_with(b"1."));
        assert_eq!(first.headers[0].value.as_deref(), Some(b"x".as_slice()));
        assert_eq!(first.headers[1].value, None);
    }
}

#[test]
fn an_answer_stops_in_the_middle_of_a_batch_and_the_next_goes_on_there() {
    let batches = [stored(0, 10, Codec::Zstd, 100)];
    let (mut from, mut seen) = (at(0), Vec::new());
    while from < at(10) {
        let decoded = decode(&batches, from, at(10), 300).unwrap();
        assert!(decoded.bytes <= 300, "{} bytes", decoded.bytes);
        assert!(decoded.next_offset > from, "it gets on");
        seen.extend(offsets(&decoded));
        from = decoded.next_offset;
    }
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

#[test]
fn one_record_comes_however_large() {
    let decoded = decode(&[stored(0, 2, Codec::None, 5000)], at(0), at(2), 1).unwrap();
    assert_eq!(offsets(&decoded), [0]);
    assert_eq!(decoded.next_offset, at(1));
}

#[test]
fn control_batches_are_stepped_over() {
    let control = control_batch(
        ControlKind::Commit,
        riverrun_proto::ids::ProducerId::new(1).unwrap(),
        0,
        0,
        Timestamp::from_millis(0),
    );
    let control =
        RecordBatch::validate(control).unwrap().stamp(at(3), LeaderEpoch::ZERO, None).to_bytes();
    let batches = [stored(0, 3, Codec::None, 0), control.clone(), stored(4, 1, Codec::None, 0)];
    let decoded = decode(&batches, at(0), at(5), usize::MAX).unwrap();
    assert_eq!(offsets(&decoded), [0, 1, 2, 4]);
    let only = decode(&[control], at(3), at(4), usize::MAX).unwrap();
    assert_eq!((only.records.len(), only.next_offset), (0, at(4)));
}

/// A batch whose CRC holds over records that are not what the header says.
fn lying(base: i64, count: i64) -> Bytes {
    let mut bytes = stored(base, count, Codec::None, 0).to_vec();
    let records = &mut bytes[HEADER_BYTES..];
    // The first record's length: far beyond the batch.
    records[0] = 0x7e;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[test]
fn damage_is_told_where_a_read_begins_with_it_and_can_be_skipped() {
    let batches = [stored(0, 2, Codec::None, 0), lying(2, 3), stored(5, 1, Codec::None, 0)];
    let good = decode(&batches, at(0), at(6), usize::MAX).unwrap();
    assert_eq!(offsets(&good), [0, 1], "what is good comes first");
    assert_eq!(good.next_offset, at(2));

    let corrupt = decode(&batches[1..], at(2), at(6), usize::MAX).unwrap_err();
    assert_eq!((corrupt.at, corrupt.next_offset), (at(2), at(5)));
    let failure = Failure::from(corrupt);
    assert_eq!(failure.reason(), Reason::CorruptRecord);
    assert_eq!(failure.next_offset(), Some(at(5)));

    let on = decode(&batches[2..], at(5), at(6), usize::MAX).unwrap();
    assert_eq!(offsets(&on), [5]);
}

#[test]
fn a_batch_that_is_not_even_one_is_skipped_as_a_whole() {
    let mut broken = stored(2, 3, Codec::None, 0).to_vec();
    broken[30] ^= 1;
    let corrupt = decode(&[broken.into()], at(2), at(5), usize::MAX).unwrap_err();
    assert_eq!(corrupt.next_offset, at(5));
    let garbage = decode(&[Bytes::from_static(b"garbage")], at(2), at(5), usize::MAX);
    assert_eq!(garbage.unwrap_err().next_offset, at(5), "no header: up to where the read ended");
}

#[tokio::test]
async fn compressed_batches_are_decoded_elsewhere_and_so_many_at_once() {
    let decoder = Decoder::new(1);
    let held = Arc::clone(&decoder.jobs).try_acquire_owned().unwrap();
    let read = |codec| {
        let decoder = decoder.clone();
        async move { decoder.decode(vec![stored(0, 2, codec, 100)], at(0), at(2), 1 << 20).await }
    };
    assert_eq!(read(Codec::None).await.unwrap().records.len(), 2, "plain ones take no turn");
    let mut waiting = Box::pin(read(Codec::Zstd));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(held);
    assert_eq!(waiting.await.unwrap().records.len(), 2);
}
