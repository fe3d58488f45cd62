//! Reading beside everything else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use riverrun_proto::offset::Offset;

use super::{
    LogBudgets, LogConfig, LogEnv, Read, ReadError, SaltSource, inspect,
    testkit::{Driven, Make, NOW, at, env, header, meta, read_all, sim_disk, small_config},
    verify,
};
use crate::io::{
    Disk, Failure, WriteMode,
    real::{MapPolicy, RealDisk},
};

fn make() -> Make {
    Make { value_bytes: 900, ..Make::default() }
}

#[test]
fn what_a_read_brings() {
    let disk = sim_disk(1);
    let mut driven = Driven::create(env(Arc::new(disk.clone()), "/data", 1), small_config());
    for records in [1, 3, 2, 1] {
        driven.append(Make { records, value_bytes: 300, ..Make::default() }).unwrap();
    }
    let reader = driven.log.reader();
    let bytes: Vec<usize> = driven.batches().iter().map(bytes::Bytes::len).collect();
    // (from, upper, max bytes) → base offsets, where to read on
    let table: [(i64, i64, usize, &[i64], i64); 9] = [
        (0, 7, 10_000, &[0, 1, 4, 6], 7),
        (0, 7, 1, &[0], 1),
        (1, 7, 1, &[1], 4),
        (2, 7, 1, &[1], 4),
        (3, 7, bytes[1] + bytes[2], &[1, 4], 6),
        (3, 7, bytes[1] + bytes[2] - 1, &[1], 4),
        (0, 4, 10_000, &[0, 1], 4),
        (0, 5, 10_000, &[0, 1], 4),
        (6, 100, 10_000, &[6], 7),
    ];
    for cold in [false, true] {
        disk.set_cold(cold);
        for (from, upper, max_bytes, bases, next) in table {
            let found = match reader.read(at(from), at(upper), max_bytes).unwrap() {
                Read::Batches(found) if !cold => found,
                Read::Cold(read) if cold => read.run().unwrap(),
                other => panic!("{from}: {other:?}"),
            };
            let found_bases: Vec<i64> =
                found.batches.iter().map(|batch| header(batch).base_offset).collect();
            assert_eq!((&found_bases[..], found.next_offset.get()), (bases, next), "{from}");
        }
        for (from, upper) in [(7, 100), (3, 3), (5, 2), (0, 0)] {
            assert!(matches!(reader.read(at(from), at(upper), 1), Ok(Read::Empty)), "{from}");
        }
    }
    let Err(ReadError::OutOfRange { start, end }) = reader.read(at(8), Offset::MAX, 1) else {
        panic!("beyond the end")
    };
    assert_eq!((start, end), (at(0), at(7)));
    driven.advance(at(2));
    assert!(matches!(reader.read(at(1), Offset::MAX, 1), Err(ReadError::OutOfRange { .. })));
    let Read::Cold(read) = reader.read(at(2), Offset::MAX, 1).unwrap() else { panic!() };
    let found = read.run().unwrap();
    assert_eq!(header(&found.batches[0]).base_offset, 1, "the batch that holds it, whole");
}

/// Slices, and reads that were begun, outlive what they were taken from.
#[test]
fn readers_keep_what_they_hold() {
    let disk = sim_disk(1);
    let mut driven = Driven::create(env(Arc::new(disk.clone()), "/data", 1), small_config());
    for _ in 0..12 {
        driven.append(make()).unwrap();
    }
    let batches = driven.batches();
    let reader = driven.log.reader();
    disk.set_cold(true);
    let Read::Cold(early) = reader.read(at(0), Offset::MAX, 1).unwrap() else { panic!() };
    let Read::Cold(late) = reader.read(at(20), Offset::MAX, 1).unwrap() else { panic!() };
    driven.truncate(at(10));
    driven.advance(at(8));
    // What is gone is said to be gone, and nothing else is served in its place.
    assert!(matches!(early.run(), Err(ReadError::OutOfRange { .. })));
    assert!(matches!(late.run(), Err(ReadError::OutOfRange { .. })));
    assert_eq!(read_all(&reader, at(8), 10_000).unwrap(), batches[4..5]);
    assert!(batches.iter().all(|batch| header(batch).batch_length > 1000), "slices are whole");
}

#[test]
fn history_is_opened_as_it_is_read_and_a_bounded_part_of_it_stays_open() {
    let disk = sim_disk(1);
    let env = env(Arc::new(disk.clone()), "/data", 1);
    let mut driven = Driven::create(env.clone(), small_config());
    for _ in 0..40 {
        driven.append(make()).unwrap();
    }
    assert!(driven.log.segment_count() > 8);
    for _ in 0..2 {
        assert_eq!(driven.batches().len(), 40);
        assert!(env.open_segments() <= 3, "{}", env.open_segments());
    }
    assert!(env.counters.reads_cold.get() > 0 && env.counters.reads_warm.get() > 0);
    assert_eq!(env.counters.indexes_rebuilt.get(), 0, "closed and opened by their files");
}

/// The whole workload on the real disk, mapped and not: a writer that rolls, deletes and truncates,
/// readers that follow it, a restart, and the verifier's word at the end.
#[test]
fn readers_follow_a_writer_on_the_real_disk() {
    for (policy, write_mode) in [
        (MapPolicy::Auto, WriteMode::Map),
        (MapPolicy::Auto, WriteMode::Write),
        (MapPolicy::Never, WriteMode::Write),
    ] {
        let data = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(policy));
        let env = || {
            let failure = Failure::open(disk.clone(), data.path());
            LogEnv::new(disk.clone(), failure, SaltSource::random(), LogBudgets::default())
        };
        let config = LogConfig {
            segment_bytes: 256 * 1024,
            checkpoint_bytes: 300 * 1024,
            window_max: 128 * 1024,
            write_mode,
            ..LogConfig::default()
        };
        let dir = super::layout::partition_dir(data.path(), meta().partition);
        let log = super::Log::create(env(), dir.clone(), &meta(), config.clone()).unwrap();
        let mut driven = Driven::around(log);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for pace in [700, 100_000] {
                let reader = driven.log.reader();
                let is_over = &is_over;
                scope.spawn(move || follow(&reader, pace, is_over));
            }
            for n in 0..2000 {
                driven
                    .append(Make { value_bytes: 400 + n % 700, mark: n as u64, ..make() })
                    .unwrap();
                match n {
                    500 | 1500 => driven.advance(at(n as i64)),
                    1000 => drop(driven.truncate(at(1900))),
                    _ if n % 100 == 0 => driven.flush(),
                    _ => {}
                }
            }
            is_over.store(true, Ordering::Release);
        });
        assert!(driven.error.is_none(), "{:?}", driven.error);
        let batches = driven.batches();
        driven.close();
        let (log, report) = super::Log::open(env(), dir.clone(), config, true, NOW).unwrap();
        assert!(report.was_clean, "{report:?}");
        assert_eq!(Driven::around(log).batches(), batches);
        let verified = verify::verify_partition(&dir, &mut |_| {}).unwrap();
        assert!(!verified.is_damaged(), "{:?}", verified.findings);
        assert_eq!(inspect::segments(&dir).unwrap().len(), verified.segments);
    }
}

/// Reads on and on; sees no gap, no batch that is not whole, nothing twice.
fn follow(reader: &super::LogReader, max_bytes: usize, is_over: &AtomicBool) {
    let mut from = at(0);
    loop {
        let was_over = is_over.load(Ordering::Acquire);
        let found = match reader.read(from, Offset::MAX, max_bytes) {
            Ok(Read::Batches(found)) => found,
            Ok(Read::Cold(cold)) => match cold.run() {
                Ok(found) => found,
                Err(ReadError::OutOfRange { start, end }) => {
                    from = from.clamp(start, end.max(start));
                    continue;
                }
                Err(other) => panic!("{other}"),
            },
            Ok(Read::Empty) if was_over => return,
            Ok(Read::Empty) => {
                std::thread::sleep(Duration::from_micros(50));
                continue;
            }
            // Deleted, or cut off, under the reader.
            Err(ReadError::OutOfRange { start, end }) => {
                from = from.clamp(start, end.max(start));
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        let mut next = from;
        for batch in &found.batches {
            let header = header(batch);
            assert!(header.base_offset <= next.get() && header.next_offset() > next.get());
            let batch = riverrun_proto::record::RecordBatch::parse_stored(batch.clone()).unwrap();
            next = batch.next_offset();
        }
        assert_eq!(next, found.next_offset);
        from = next;
    }
}
