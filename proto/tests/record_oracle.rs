//! An independent implementation as judge: what we write the `kafka-protocol` crate reads, and what
//! it writes we read, for every codec and every shape of record.
//!
//! Two things it does otherwise, both allowed: it keeps headers in a map (so names are unique
//! here), and its base timestamp is the least, not the first.
#![expect(clippy::unwrap_used, reason = "a test fails where it is wrong")]

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    protocol::StrBytes,
    records::{
        Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
        TimestampType as TheirTimestampType,
    },
};
use proptest::prelude::*;
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::ProducerId,
    offset::Offset,
    record::{
        BatchBuilder, BatchOptions, Codec, ControlKind, ControlRecord, ProducerStamp, RecordBatch,
        TimestampType, control_batch,
    },
    timestamp::Timestamp,
};

/// One record as a user means it.
#[derive(Debug, Clone, PartialEq)]
struct Meant {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: BTreeMap<String, Option<Vec<u8>>>,
}

fn bytes(size: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    // Null, empty, compressible and not.
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(vec![])),
        2 => (any::<u8>(), 0..size).prop_map(|(byte, n)| Some(vec![byte; n])),
        2 => proptest::collection::vec(any::<u8>(), 0..size).prop_map(Some),
    ]
}

fn meant() -> impl Strategy<Value = Meant> {
    let headers = proptest::collection::btree_map("[a-zé]{0,6}", bytes(20), 0..4);
    // Their arithmetic does not wrap: half the number line each.
    let timestamp = prop_oneof![any::<u32>().prop_map(i64::from), i64::MIN / 2..i64::MAX / 2];
    (timestamp, bytes(100), bytes(3000), headers)
        .prop_map(|(timestamp, key, value, headers)| Meant { timestamp, key, value, headers })
}

fn batches() -> impl Strategy<Value = Vec<Meant>> {
    proptest::collection::vec(meant(), 1..30)
}

fn codecs() -> impl Strategy<Value = Codec> {
    proptest::sample::select(&Codec::ALL[..])
}

fn stamps() -> impl Strategy<Value = Option<ProducerStamp>> {
    proptest::option::of((0..i64::MAX, 0..i16::MAX, 0..i32::MAX).prop_map(
        |(id, epoch, base_sequence)| ProducerStamp {
            id: ProducerId::new(id).unwrap(),
            epoch,
            base_sequence,
        },
    ))
}

fn theirs(codec: Codec) -> Compression {
    match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    }
}

fn we_encode(records: &[Meant], codec: Codec, producer: Option<ProducerStamp>) -> Bytes {
    let options = BatchOptions { codec, size_budget: 1 << 20, ..Default::default() };
    let mut builder = BatchBuilder::new(options);
    for record in records {
        let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        let time = Timestamp::from_millis(record.timestamp);
        builder.append(time, record.key.as_deref(), record.value.as_deref(), headers).unwrap();
    }
    if let Some(stamp) = producer {
        builder.set_producer(stamp);
    }
    builder.finish()
}

fn we_decode(batch: &RecordBatch) -> Vec<(i64, Meant)> {
    let records = batch.records(1 << 20).unwrap();
    let read = |view: riverrun_proto::record::RecordView<'_>| {
        let headers = view.headers().map(|header| {
            let (name, value) = header.unwrap();
            (name.to_owned(), value.map(<[u8]>::to_vec))
        });
        let meant = Meant {
            timestamp: view.timestamp.as_millis(),
            key: view.key.map(<[u8]>::to_vec),
            value: view.value.map(<[u8]>::to_vec),
            headers: headers.collect(),
        };
        (view.offset.get(), meant)
    };
    records.iter().map(|view| read(view.unwrap())).collect()
}

fn they_encode(
    records: &[Meant],
    codec: Codec,
    base_offset: i64,
    producer: Option<ProducerStamp>,
    control: bool,
) -> Bytes {
    let records: Vec<_> = (0..)
        .zip(records)
        .map(|(i, record)| Record {
            transactional: control,
            control,
            delete_horizon: false,
            partition_leader_epoch: 6,
            producer_id: producer.map_or(-1, |stamp| stamp.id.get()),
            producer_epoch: producer.map_or(-1, |stamp| stamp.epoch),
            timestamp_type: TheirTimestampType::Creation,
            offset: base_offset + i64::from(i),
            // They start a new batch where a sequence is not the one after the last, so these count
            // up even without a producer.
            sequence: producer.map_or(-1, |stamp| stamp.base_sequence).wrapping_add(i),
            timestamp: record.timestamp,
            key: record.key.clone().map(Bytes::from),
            value: record.value.clone().map(Bytes::from),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| {
                    (StrBytes::from_string(name.clone()), value.clone().map(Bytes::from))
                })
                .collect(),
        })
        .collect();
    let options = RecordEncodeOptions { version: 2, compression: theirs(codec) };
    let mut out = BytesMut::new();
    RecordBatchEncoder::encode(&mut out, &records, &options).unwrap();
    out.freeze()
}

fn they_decode(batch: Bytes) -> (Compression, Vec<Record>) {
    let mut batch = batch;
    let set = RecordBatchDecoder::decode(&mut batch).unwrap();
    assert!(batch.is_empty());
    (set.compression, set.records)
}

fn as_meant(record: &Record) -> Meant {
    let headers = record.headers.iter();
    Meant {
        timestamp: record.timestamp,
        key: record.key.as_deref().map(<[u8]>::to_vec),
        value: record.value.as_deref().map(<[u8]>::to_vec),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.as_deref().map(<[u8]>::to_vec)))
            .collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn they_read_what_we_write(
        records in batches(),
        codec in codecs(),
        producer in stamps(),
        base_offset in 0..i64::MAX / 2,
        epoch in 0..i32::MAX,
    ) {
        let batch = RecordBatch::validate(we_encode(&records, codec, producer)).unwrap();
        let (offset, epoch) = (Offset::new(base_offset).unwrap(), LeaderEpoch::new(epoch).unwrap());
        let stored = batch.stamp(offset, epoch, None).to_bytes();
        let (compression, read) = they_decode(stored);
        prop_assert_eq!(compression, theirs(batch.codec()));
        prop_assert_eq!(read.len(), records.len());
        for (i, (read, record)) in (0..).zip(read.iter().zip(&records)) {
            prop_assert_eq!(&as_meant(read), record);
            prop_assert_eq!(read.offset, base_offset + i64::from(i));
            prop_assert_eq!(read.partition_leader_epoch, epoch.get());
            prop_assert!(!read.control && !read.transactional);
            prop_assert_eq!(read.timestamp_type, TheirTimestampType::Creation);
            let stamp = (read.producer_id, read.producer_epoch);
            prop_assert_eq!(stamp, producer.map_or((-1, -1), |p| (p.id.get(), p.epoch)));
        }
    }

    #[test]
    fn we_read_what_they_write(
        records in batches(),
        codec in codecs(),
        producer in stamps(),
        base_offset in 0..i64::MAX / 2,
    ) {
        let bytes = they_encode(&records, codec, base_offset, producer, false);
        let batch = RecordBatch::validate(bytes).unwrap();
        prop_assert_eq!(batch.codec(), codec);
        prop_assert_eq!(batch.header().producer(), producer);
        prop_assert_eq!(batch.header().leader_epoch, 6);
        let most = records.iter().map(|record| record.timestamp).max();
        prop_assert_eq!(Some(batch.header().max_timestamp.as_millis()), most);
        let due: Vec<_> = (base_offset..).zip(records).collect();
        prop_assert_eq!(we_decode(&batch), due);
    }
}

/// Each codec for certain, not only when a property happens to draw records that compress.
#[test]
fn every_codec_both_ways() {
    let text = "a line of a log that is much like the next one ".repeat(3000).into_bytes();
    let records: Vec<_> = [None, Some(vec![]), Some(b"k".to_vec()), Some(text)]
        .into_iter()
        .flat_map(|value| {
            [None, Some(vec![]), Some(b"key".to_vec())].map(|key| Meant {
                timestamp: 1_700_000_000_000,
                key,
                value: value.clone(),
                headers: [("null".to_owned(), None), (String::new(), Some(vec![]))].into(),
            })
        })
        .collect();
    for codec in Codec::ALL {
        let batch = RecordBatch::validate(we_encode(&records, codec, None)).unwrap();
        assert_eq!(batch.codec(), codec, "compresses");
        let (compression, read) = they_decode(batch.bytes().clone());
        assert_eq!(compression, theirs(codec));
        assert_eq!(read.iter().map(as_meant).collect::<Vec<_>>(), records, "{codec}");

        let batch = RecordBatch::validate(they_encode(&records, codec, 9, None, false)).unwrap();
        let due: Vec<_> = (9..).zip(records.clone()).collect();
        assert_eq!(we_decode(&batch), due, "{codec}");
    }
}

#[test]
fn they_see_log_append_time() {
    let record = Meant { timestamp: 1, key: None, value: None, headers: BTreeMap::new() };
    let batch = RecordBatch::validate(we_encode(&[record], Codec::None, None)).unwrap();
    let now = Timestamp::from_millis(77);
    let stored = batch.stamp(Offset::ZERO, LeaderEpoch::ZERO, Some(now)).to_bytes();
    let again = RecordBatch::parse_stored(stored.clone()).unwrap();
    assert_eq!(again.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
    let (_, read) = they_decode(stored);
    assert_eq!(read[0].timestamp_type, TheirTimestampType::LogAppend);
}

#[test]
fn control_batches_both_ways() {
    let id = ProducerId::new(31).unwrap();
    for (kind, number) in [(ControlKind::Abort, 0), (ControlKind::Commit, 1)] {
        let bytes = control_batch(kind, id, 4, 8, Timestamp::from_millis(5));
        let (_, read) = they_decode(bytes);
        let [record] = &read[..] else { panic!("{read:?}") };
        assert!(record.control && record.transactional);
        assert_eq!((record.producer_id, record.producer_epoch, record.sequence), (31, 4, -1));
        assert_eq!(record.key.as_deref(), Some(&[0, 0, 0, number][..]));
        assert_eq!(record.value.as_deref(), Some(&[0, 0, 0, 0, 0, 8][..]));

        let record = as_meant(record);
        let stamp = ProducerStamp { id, epoch: 4, base_sequence: 0 };
        let bytes = they_encode(&[record], Codec::None, 70, Some(stamp), true);
        let batch = RecordBatch::validate(bytes).unwrap();
        assert!(batch.header().attributes.is_control());
        let records = batch.records(0).unwrap();
        let view = records.iter().next().unwrap().unwrap();
        let due = ControlRecord { kind, coordinator_epoch: Some(8) };
        assert_eq!(ControlRecord::parse(&view), Some(due));
    }
}
