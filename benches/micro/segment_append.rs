//! What a segment file costs: an append of 64 KiB in each mode, making its window, and getting at
//! 64 KiB that are in memory, in each way there is. The temporary directory must lie on a real disk
//! (`TMPDIR`), or it is memory that is measured.

use std::{hint::black_box, path::PathBuf, sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use riverrun_broker::io::{
    Disk, SegmentFile, SyncPoint, WriteMode,
    real::{MapPolicy, RealDisk},
};

const BATCH: usize = 64 << 10;
const STEP: u64 = 8 << 20;
const SEGMENT: u64 = 256 << 20;

/// How segments are made, and what that is called.
const KINDS: [(&str, MapPolicy, WriteMode); 3] = [
    ("map", MapPolicy::Auto, WriteMode::Map),
    ("map_written", MapPolicy::Auto, WriteMode::Write),
    ("plain", MapPolicy::Never, WriteMode::Write),
];

/// Segments one after the other, each removed when the next begins.
struct Segments {
    disk: RealDisk,
    mode: WriteMode,
    tmp: tempfile::TempDir,
    made: u64,
    now: Option<(PathBuf, Arc<dyn SegmentFile>)>,
}

impl Segments {
    fn new(policy: MapPolicy, mode: WriteMode) -> Self {
        let tmp = tempfile::tempdir().expect("a temporary directory");
        Self { disk: RealDisk::new(policy), mode, tmp, made: 0, now: None }
    }

    fn next(&mut self) -> Arc<dyn SegmentFile> {
        if let Some((path, segment)) = self.now.take() {
            drop(segment);
            self.disk.remove_file(&path).expect("it is there");
        }
        self.made += 1;
        let path = self.tmp.path().join(format!("{}.log", self.made));
        let segment = self.disk.create_segment(&path, STEP, self.mode).expect("there is room");
        self.now = Some((path, segment.clone()));
        segment
    }

    /// The segment to append to, with room for one batch.
    fn with_room(&mut self) -> Arc<dyn SegmentFile> {
        let segment = match &self.now {
            Some((_, segment)) if segment.published() + (BATCH as u64) <= SEGMENT => {
                segment.clone()
            }
            _ => self.next(),
        };
        if segment.published() + BATCH as u64 > segment.window() {
            segment.extend(segment.window() + STEP, self.mode).expect("there is room");
        }
        segment
    }
}

fn append(c: &mut Criterion) {
    let batch = vec![0x5a; BATCH];
    let mut group = c.benchmark_group("append_64k");
    group.throughput(Throughput::Bytes(BATCH as u64));
    for (name, policy, mode) in KINDS {
        let mut segments = Segments::new(policy, mode);
        group.bench_function(name, |b| {
            b.iter_batched(
                || segments.with_room(),
                |segment| segment.append(black_box(&[&batch])).expect("there is room"),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn append_and_sync(c: &mut Criterion) {
    let batch = vec![0x5a; BATCH];
    let mut group = c.benchmark_group("append_64k_and_sync");
    group.throughput(Throughput::Bytes(BATCH as u64));
    for (name, policy, mode) in KINDS {
        let mut segments = Segments::new(policy, mode);
        group.bench_function(name, |b| {
            b.iter_batched(
                || segments.with_room(),
                |segment| {
                    segment.append(black_box(&[&batch])).expect("there is room");
                    segment.sync(SyncPoint::SegmentData).expect("a disk that works");
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn extend(c: &mut Criterion) {
    let mut group = c.benchmark_group("extend_8m");
    group.throughput(Throughput::Bytes(STEP));
    for (name, policy, mode) in KINDS {
        let mut segments = Segments::new(policy, mode);
        group.bench_function(name, |b| {
            b.iter_batched(
                || segments.next(),
                |segment| segment.extend(2 * STEP, mode).expect("there is room"),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read_64k_in_memory");
    group.throughput(Throughput::Bytes(BATCH as u64));
    for (name, policy, mode) in KINDS {
        let mut segments = Segments::new(policy, mode);
        let segment = segments.next();
        segment.append(&[&vec![1; 4 << 20]]).expect("there is room");
        let mut at = 0;
        let mut next = || {
            at = (at + BATCH as u64) % (4 << 20);
            at
        };
        group.bench_function(format!("{name}/tail_slice"), |b| {
            b.iter(|| black_box(segment.try_slice(next(), BATCH)));
        });
        segment.seal().expect("a disk that works");
        segment.read(0, 1).expect("a disk that works");
        group.bench_function(format!("{name}/sealed_slice"), |b| {
            b.iter(|| black_box(segment.try_slice(next(), BATCH)));
        });
        group.bench_function(format!("{name}/pread"), |b| {
            b.iter(|| black_box(segment.read(next(), BATCH)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = append, append_and_sync, extend, read
}
criterion_main!(benches);
