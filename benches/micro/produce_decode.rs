//! What a broker does to a produce before anything is decided: decoding the gRPC message, and
//! checking the batches in it. On the fast path (encoded batches) no record is looked at and no
//! byte is copied; on the easy path (plain records) every record is decoded and encoded again.
//! Throughput is of record values, so that the two compare.

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use riverrun_proto::{
    ids::TopicId,
    record::{BatchBuilder, BatchOptions, RecordBatch},
    rpc::v1::{
        ProduceRequest, ProduceStreamAppend, ProduceStreamAppends, ProduceStreamRequest, Record,
        RecordList, produce_stream_request::Request,
    },
    timestamp::Timestamp,
};

const MESSAGE_BYTES: usize = 64 * 1024;
const RECORD_BYTES: usize = 100;
const TIME: Timestamp = Timestamp::from_millis(1_763_700_000_000);

/// Values that do not compress, the same each time.
fn values(count: usize) -> Vec<Bytes> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut word = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..count).map(|_| (0..RECORD_BYTES).map(|_| word()).collect()).collect()
}

fn batch(bytes: usize) -> Bytes {
    let options = BatchOptions { size_budget: bytes, ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(options);
    for value in values(bytes / RECORD_BYTES) {
        if builder.append(TIME, None, Some(&value), []).is_err() {
            break;
        }
    }
    builder.finish()
}

/// A message of the fast path with so many batches, which fill it together; and the bytes of values.
fn appends(batches: usize) -> (Bytes, u64) {
    let batch = batch(MESSAGE_BYTES / batches);
    let records = RecordBatch::validate(batch.clone()).expect("just built").header().record_count;
    let topic_id = Bytes::copy_from_slice(TopicId::random().as_bytes());
    let item = |n: usize| ProduceStreamAppend {
        correlation_id: n as u64,
        topic_id: topic_id.clone(),
        partition: 0,
        batch: batch.clone(),
        format: 1,
        ..Default::default()
    };
    let items = (0..batches).map(item).collect();
    let message =
        ProduceStreamRequest { request: Some(Request::Appends(ProduceStreamAppends { items })) };
    let values = u64::from(records.unsigned_abs()) * (batches * RECORD_BYTES) as u64;
    (message.encode_to_vec().into(), values)
}

fn fast_path(c: &mut Criterion) {
    let mut group = c.benchmark_group("produce_decode_batches");
    for batches in [1, 16] {
        let (message, values) = appends(batches);
        group.throughput(Throughput::Bytes(values));
        group.bench_function(BenchmarkId::new("decode", batches), |b| {
            b.iter(|| ProduceStreamRequest::decode(black_box(message.clone())).expect("sound"));
        });
        group.bench_function(BenchmarkId::new("decode and check", batches), |b| {
            b.iter(|| {
                let decoded = ProduceStreamRequest::decode(black_box(message.clone()));
                let Some(Request::Appends(appends)) = decoded.expect("sound").request else {
                    panic!("these are appends")
                };
                for item in appends.items {
                    black_box(RecordBatch::validate(item.batch).expect("sound"));
                }
            });
        });
    }
    group.finish();
}

fn easy_path(c: &mut Criterion) {
    let mut group = c.benchmark_group("produce_decode_records");
    let values = values(MESSAGE_BYTES / RECORD_BYTES);
    group.throughput(Throughput::Bytes((values.len() * RECORD_BYTES) as u64));
    let record = |value: Bytes| Record { value: Some(value), ..Default::default() };
    let message: Bytes = ProduceRequest {
        topic: "orders".into(),
        records: Some(RecordList {
            records: values.into_iter().map(record).collect(),
            compression: 0,
        }),
        ..Default::default()
    }
    .encode_to_vec()
    .into();
    group.bench_function("decode", |b| {
        b.iter(|| ProduceRequest::decode(black_box(message.clone())).expect("sound"));
    });
    group.bench_function("decode and encode a batch", |b| {
        b.iter(|| {
            let decoded = ProduceRequest::decode(black_box(message.clone())).expect("sound");
            let options = BatchOptions { size_budget: 2 * MESSAGE_BYTES, ..Default::default() };
            let mut builder = BatchBuilder::new(options);
            for record in decoded.records.expect("it has some").records {
                let value = record.value.as_deref();
                builder.append(TIME, None, value, []).expect("it fits");
            }
            builder.finish()
        });
    });
    group.finish();
}

criterion_group! {
    name = produce_decode;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = fast_path, easy_path
}
criterion_main!(produce_decode);
