//! Which record goes where, and back.

use bytes::Bytes;
use proptest::prelude::*;
use riverrun_proto::record::RecordBatch;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn index(n: u32) -> PartitionIndex {
    PartitionIndex::new(n).unwrap()
}

fn record(key: Option<&str>, value: &str) -> v1::Record {
    v1::Record {
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..v1::Record::default()
    }
}

fn by_key(partitions: u32, keyless: u32) -> Spread {
    Spread::ByKey { partitions, keyless: index(keyless) }
}

#[test]
fn keys_go_where_kafka_puts_them_and_the_rest_together() {
    let records = [
        record(Some("foobar"), "1"),
        record(None, "2"),
        record(Some("21"), "3"),
        record(Some(""), "4"),
        record(None, "5"),
    ];
    let mut partitions = [0; 5];
    for (partition, group) in by_key(10, 6).groups(records.to_vec()) {
        assert!(group.at.is_sorted(), "in order");
        for (at, found) in group.at.iter().zip(&group.records) {
            partitions[*at] = partition.get();
            assert_eq!(found, &records[*at]);
        }
    }
    // (murmur2 & 0x7fffffff) % 10 of Kafka's own test values, and of the empty key.
    let kafka = |hash: i32| (hash.cast_unsigned() & 0x7fff_ffff) % 10;
    let expected = [kafka(-790_332_482), 6, kafka(-973_932_308), kafka(275_646_681), 6];
    assert_eq!(partitions, expected);
    let all = Spread::To(index(3)).groups(records.to_vec());
    assert_eq!(all.keys().map(|partition| partition.get()).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_record_too_large_alone_is_refused_and_the_others_go_on() {
    let records = [record(None, "a"), record(None, &"x".repeat(2000)), record(None, "b")];
    let plan = plan(&records, Codec::None, 1000, NOW);
    assert_eq!(plan.batches.len(), 1);
    let failure = plan.places[1].as_ref().unwrap_err();
    assert_eq!(failure.reason(), Reason::MessageTooLarge);
    let third = plan.places[2].as_ref().unwrap();
    assert_eq!((third.batch, third.index), (0, 1));
}

#[test]
fn only_oversize_records_make_no_batch() {
    let records = [record(None, &"x".repeat(2000))];
    let plan = plan(&records, Codec::None, 1000, NOW);
    assert!(plan.batches.is_empty());
    assert!(plan.places[0].is_err());
}

#[test]
fn times_are_the_records_or_now() {
    let early = v1::Record { timestamp_ms: Some(5), ..record(None, "a") };
    let plan = plan(&[early, record(None, "b")], Codec::None, 1000, NOW);
    let times: Vec<_> = plan.places.iter().map(|p| p.as_ref().unwrap().timestamp).collect();
    assert_eq!(times, [Timestamp::from_millis(5), NOW]);
    let batch = RecordBatch::validate(plan.batches[0].clone()).unwrap();
    assert_eq!(batch.header().max_timestamp, NOW);
}

proptest! {
    /// Whatever comes in, each record is found where its place says, in order, and no
    /// batch is larger than allowed.
    #[test]
    fn every_record_is_where_its_place_says(
        records in prop::collection::vec(
            (prop::option::of("[a-e]{0,2}"), "[a-z]{0,60}"), 1..80),
        batch_bytes_max in 150usize..600,
        codec in prop::sample::select(Codec::ALL.to_vec()),
    ) {
        let records: Vec<_> =
            records.iter().map(|(key, value)| record(key.as_deref(), value)).collect();
        let plan = plan(&records, codec, batch_bytes_max, NOW);
        prop_assert_eq!(plan.places.len(), records.len());
        let mut decoded = Vec::new();
        for batch in &plan.batches {
            prop_assert!(batch.len() <= batch_bytes_max);
            let batch = RecordBatch::validate(batch.clone()).unwrap();
            let records = batch.records(1 << 20).unwrap();
            let pairs: Vec<_> = records
                .iter()
                .map(|r| r.unwrap())
                .map(|r| (r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec)))
                .collect();
            decoded.push(pairs);
        }
        let mut last = None;
        for (record, place) in records.iter().zip(&plan.places) {
            let place = place.as_ref().unwrap();
            let (key, value) = &decoded[place.batch][place.index as usize];
            prop_assert_eq!(key.as_deref(), record.key.as_deref());
            prop_assert_eq!(value.as_deref(), record.value.as_deref());
            let here = Some((place.batch, place.index));
            prop_assert!(last < here, "in order");
            last = here;
        }
    }
}
