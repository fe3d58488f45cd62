//! The record batch codec: what a producer, a broker and a consumer each do to every batch.
//!
//! Batches of 64 KiB of incompressible 1 KiB and 100 byte records, and compressible ones for the
//! codecs. Throughput is of uncompressed record values, so figures compare across sizes. The
//! ceilings beside them: a memcpy of the same bytes for `encode`, a bare CRC-32C for `validate`.

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use riverrun_proto::{
    epoch::LeaderEpoch,
    offset::Offset,
    record::{
        BatchBuilder, BatchOptions, Codec, Compressor, Decompressor, HEADER_BYTES, RecordBatch,
    },
    timestamp::Timestamp,
};

const BATCH_BYTES: usize = 64 * 1024;
const RECORD_BYTES: [usize; 2] = [1024, 100];
const TIME: Timestamp = Timestamp::from_millis(1_763_700_000_000);
const KEY: &[u8] = b"key-0123";

/// Incompressible bytes, the same each time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 32) as u32
    });
    words.flat_map(u32::to_le_bytes).take(bytes).collect()
}

/// Lines of a log: compresses about as logs do.
fn text(bytes: usize) -> Vec<u8> {
    let line = |i: usize| {
        format!(
            "2025-11-21T08:{:02}:{:02}Z INFO partition {} rolled at {}\n",
            i % 60,
            i % 59,
            i % 7,
            i * i
        )
    };
    (0..).flat_map(|i| line(i).into_bytes()).take(bytes).collect()
}

fn options(codec: Codec) -> BatchOptions {
    BatchOptions { codec, size_budget: BATCH_BYTES, ..Default::default() }
}

/// Fills a batch with records out of `source`; returns it and the bytes of its values.
fn fill(
    source: &[u8],
    record_bytes: usize,
    options: BatchOptions,
    buffer: Vec<u8>,
) -> (BatchBuilder, usize) {
    let mut builder = BatchBuilder::with_buffer(options, buffer);
    let mut values = 0;
    for value in source.chunks_exact(record_bytes).cycle() {
        if builder.append(TIME, Some(KEY), Some(value), []).is_err() {
            break;
        }
        values += value.len();
    }
    (builder, values)
}

fn batch(source: &[u8], record_bytes: usize, codec: Codec) -> (RecordBatch, u64) {
    let (builder, values) = fill(source, record_bytes, options(codec), Vec::new());
    (RecordBatch::validate(builder.finish()).expect("just built"), values as u64)
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let source = noise(BATCH_BYTES);
    for record_bytes in RECORD_BYTES {
        let (_, values) = batch(&source, record_bytes, Codec::None);
        group.throughput(Throughput::Bytes(values));
        let mut compressor = Compressor::new();
        let mut buffer = Vec::new();
        group.bench_function(format!("records of {record_bytes} B, buffer kept"), |b| {
            b.iter(|| {
                let buffer_now = std::mem::take(&mut buffer);
                let (builder, _) = fill(&source, record_bytes, options(Codec::None), buffer_now);
                buffer = Vec::from(builder.finish_with(&mut compressor).0);
            });
        });
        group.bench_function(format!("records of {record_bytes} B, buffer new"), |b| {
            b.iter(|| fill(&source, record_bytes, options(Codec::None), Vec::new()).0.finish());
        });
    }
    let mut target = vec![0; BATCH_BYTES];
    group.throughput(Throughput::Bytes(BATCH_BYTES as u64));
    group.bench_function("ceiling: memcpy and CRC-32C", |b| {
        b.iter(|| {
            target.copy_from_slice(black_box(&source));
            crc32c::crc32c(&target)
        });
    });
    group.finish();
}

fn validate(c: &mut Criterion) {
    let mut group = c.benchmark_group("validate");
    for batch_bytes in [1024, BATCH_BYTES] {
        let source = noise(batch_bytes);
        let options = BatchOptions { size_budget: batch_bytes, ..options(Codec::None) };
        let (builder, values) = fill(&source, batch_bytes / 8, options, Vec::new());
        let bytes = builder.finish();
        group.throughput(Throughput::Bytes(values as u64));
        group.bench_function(format!("batch of {batch_bytes} B"), |b| {
            b.iter(|| RecordBatch::validate(black_box(bytes.clone())));
        });
        group.bench_function(format!("ceiling: CRC-32C of {batch_bytes} B"), |b| {
            b.iter(|| crc32c::crc32c(black_box(&bytes[21..])));
        });
        let batch = RecordBatch::validate(bytes).expect("just built");
        group.bench_function(format!("stamp a batch of {batch_bytes} B"), |b| {
            b.iter(|| black_box(&batch).stamp(Offset::MAX, LeaderEpoch::ZERO, None));
        });
        group.bench_function(format!("stamp with time a batch of {batch_bytes} B"), |b| {
            b.iter(|| black_box(&batch).stamp(Offset::MAX, LeaderEpoch::ZERO, Some(TIME)));
        });
    }
    group.finish();
}

fn iterate(c: &mut Criterion) {
    let mut group = c.benchmark_group("iterate");
    let source = noise(BATCH_BYTES);
    for record_bytes in RECORD_BYTES {
        let (batch, values) = batch(&source, record_bytes, Codec::None);
        let records = batch.records(0).expect("not compressed");
        group.throughput(Throughput::Bytes(values));
        group.bench_function(format!("records of {record_bytes} B"), |b| {
            b.iter(|| {
                for record in black_box(&records) {
                    black_box(record.expect("sound"));
                }
            });
        });
        group.bench_function(format!("records of {record_bytes} B, values kept as Bytes"), |b| {
            b.iter(|| -> Option<Bytes> {
                let values = records.iter().map(|record| record.expect("sound").value);
                values.map(|value| black_box(records.slice_ref(value.expect("not null")))).last()
            });
        });
    }
    group.finish();
}

fn codecs(c: &mut Criterion) {
    let source = text(BATCH_BYTES);
    let mut group = c.benchmark_group("compress");
    let (_, values) = batch(&source, 1024, Codec::None);
    group.throughput(Throughput::Bytes(values));
    let mut compressor = Compressor::new();
    for codec in Codec::ALL {
        group.bench_function(codec.name(), |b| {
            b.iter_batched(
                || fill(&source, 1024, options(codec), Vec::new()).0,
                |builder| builder.finish_with(&mut compressor),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    let mut group = c.benchmark_group("decompress");
    group.throughput(Throughput::Bytes(values));
    let mut decompressor = Decompressor::new();
    for codec in Codec::ALL {
        let (batch, _) = batch(&source, 1024, codec);
        let ratio = values as f64 / (batch.total_bytes() - HEADER_BYTES) as f64;
        group.bench_function(format!("{codec} ({ratio:.1} to 1)"), |b| {
            b.iter(|| black_box(&batch).records_with(&mut decompressor, BATCH_BYTES));
        });
    }
    group.finish();
}

criterion_group! {
    name = batch_codec;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = encode, validate, iterate, codecs
}
criterion_main!(batch_codec);
