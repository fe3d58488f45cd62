//! The log of one partition, without a broker around it: what an append costs at least, how fast a
//! killed log is read again, and what finding an offset costs.
//!
//! Appends go to fresh segments in a temporary directory (`TMPDIR` says where) with
//! `durability=memory`; what they cost is mostly the first touch of pages, which happens in the work
//! between them and is part of the figure.

use std::{hint::black_box, path::Path, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use riverrun_broker::{
    io::{
        Disk, Failure,
        real::{MapPolicy, RealDisk},
    },
    log::{
        AppendError, Log, LogBudgets, LogConfig, LogEnv, PartitionMeta, Read, SaltSource, layout,
    },
};
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::{PartitionIndex, TopicId, TopicName, TopicPartition},
    offset::Offset,
    record::{BatchBuilder, BatchOptions, RecordBatch},
    timestamp::Timestamp,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn env(data: &Path) -> LogEnv {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(MapPolicy::Auto));
    let failure = Failure::open(disk.clone(), data);
    LogEnv::new(disk, failure, SaltSource::random(), LogBudgets::default())
}

fn meta() -> PartitionMeta {
    let index = PartitionIndex::new(0).expect("the first partition of all");
    PartitionMeta {
        partition: TopicPartition::new(TopicId::random(), index),
        topic_name: TopicName::try_new("bench").expect("a legal name"),
    }
}

/// A batch of about this many bytes, in records of 1 KiB that do not compress.
fn batch(bytes: usize) -> RecordBatch {
    let mut builder = BatchBuilder::new(BatchOptions {
        size_budget: bytes,
        bytes_max: bytes + 2048,
        ..BatchOptions::default()
    });
    let mut noise = 1u64;
    let mut value = [0; 1024];
    loop {
        for byte in &mut value {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (noise >> 56) as u8;
        }
        let len = value.len().min(bytes);
        if builder.append(NOW, None, Some(&value[..len]), []).is_err() {
            break;
        }
    }
    RecordBatch::validate(builder.finish()).expect("just built")
}

/// Appends a batch, doing what the log asks for in between; deletes what is older than 1 GiB.
fn append(log: &mut Log, batch: &RecordBatch) {
    let stamped = batch.stamp(log.log_end_offset(), LeaderEpoch::ZERO, None);
    while let Err(error) = log.append(&stamped, NOW) {
        assert!(matches!(error, AppendError::NotReady), "{error}");
        work(log);
    }
    work(log);
    if log.segment_count() > 4 {
        let keep = log.log_end_offset().get() - 1;
        if let Some(work) = Offset::new(keep).and_then(|keep| log.advance_log_start(keep)) {
            log.complete(work.run()).expect("deletes");
        }
    }
}

fn work(log: &mut Log) {
    while let Some(work) = log.take_work() {
        log.complete(work.run()).expect("works");
    }
}

fn appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("log_append_memory");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    for bytes in [1 << 10, 16 << 10, 64 << 10] {
        let data = tempfile::tempdir().expect("a temporary directory");
        let meta = meta();
        let dir = layout::partition_dir(data.path(), meta.partition);
        let mut log =
            Log::create(env(data.path()), dir, &meta, LogConfig::default()).expect("a new log");
        let batch = batch(bytes);
        group.throughput(Throughput::Bytes(batch.total_bytes() as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| append(&mut log, &batch));
        });
    }
    group.finish();
}

/// A log that was not closed, with everything above its recovery point.
fn recovery(c: &mut Criterion) {
    const BYTES: u64 = 64 << 20;
    let mut group = c.benchmark_group("log_recovery");
    group.sample_size(10).throughput(Throughput::Bytes(BYTES));
    let data = tempfile::tempdir().expect("a temporary directory");
    let meta = meta();
    let dir = layout::partition_dir(data.path(), meta.partition);
    let mut log =
        Log::create(env(data.path()), dir.clone(), &meta, LogConfig::default()).expect("a new log");
    let batch = batch(64 << 10);
    while log.size_bytes() < BYTES {
        append(&mut log, &batch);
    }
    drop(log);
    // The first open moves the recovery point; what is measured begins where the kill left it.
    let kept = std::fs::read(dir.join(layout::CHECKPOINT_FILE)).expect("the checkpoint");
    group.bench_function("64MiB", |b| {
        b.iter_batched(
            || std::fs::write(dir.join(layout::CHECKPOINT_FILE), &kept).expect("written back"),
            |()| {
                let (log, report) =
                    Log::open(env(data.path()), dir.clone(), LogConfig::default(), false, NOW)
                        .expect("opens");
                assert!(report.scanned_bytes > BYTES / 2);
                log
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Finding and slicing one batch anywhere in an active segment of 128 MiB.
fn lookups(c: &mut Criterion) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let meta = meta();
    let dir = layout::partition_dir(data.path(), meta.partition);
    let mut log =
        Log::create(env(data.path()), dir, &meta, LogConfig::default()).expect("a new log");
    let batch = batch(4 << 10);
    while log.size_bytes() < 128 << 20 {
        append(&mut log, &batch);
    }
    let reader = log.reader();
    let end = log.log_end_offset().get();
    let mut at = 1;
    c.bench_function("log_read_one_batch_anywhere", |b| {
        b.iter(|| {
            at = (at * 7_919 + 13) % end;
            let from = Offset::new(at).expect("below the end");
            match reader.read(black_box(from), Offset::MAX, 1).expect("in range") {
                Read::Batches(found) => found.batches.len(),
                Read::Cold(_) | Read::Empty => panic!("it was just written"),
            }
        });
    });
}

criterion_group!(benches, appends, recovery, lookups);
criterion_main!(benches);
