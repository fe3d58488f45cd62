//! A log on a disk that is full, fails, or stands still; and work that overlaps.

use std::{sync::Arc, time::Duration};

use riverrun_proto::{ids::ProducerId, record::ProducerStamp};

use super::{
    AppendError, Completed, LogConfig, LogError, ProducerCheck,
    testkit::{Driven, Make, at, dir, env, fingerprint, replayed, sim_disk, small_config},
};
use crate::io::{
    Disk, Failure, SyncPoint,
    sim::{Fault, SimDisk},
};

fn start(disk: &SimDisk, config: LogConfig) -> Driven {
    Driven::create(env(Arc::new(disk.clone()), "/data", 1), config)
}

fn make() -> Make {
    Make { value_bytes: 900, ..Make::default() }
}

/// Appends until the disk is full; how many batches went in.
fn fill(driven: &mut Driven) -> i64 {
    for n in 0..1000 {
        match driven.append(make()) {
            Ok(_) => {}
            Err(AppendError::StorageFull) => return n,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the disk was never full")
}

fn used(disk: &SimDisk) -> u64 {
    disk.list(&dir()).unwrap().iter().map(|entry| entry.len).sum()
}

#[test]
fn a_full_disk_refuses_appends_and_comes_back_by_itself() {
    // At every size of the disk: full at a roll, at an extension, at a checkpoint.
    for room in (0..12).map(|n| 20_000 + n * 4096) {
        let disk = sim_disk(1);
        let mut driven = start(&disk, small_config());
        disk.set_capacity(Some(room));
        let appended = fill(&mut driven);
        let end = at(2 * appended);
        assert_eq!(driven.log.log_end_offset(), end, "{room}");
        assert_eq!(driven.batches().len() as i64, appended, "all that was taken is there");
        assert!(driven.log.shared.env.counters.storage_full.get() > 0);
        assert!(driven.log.shared.env.failure.check().is_ok(), "a full disk is no failed one");
        let files = disk.list(&dir()).unwrap();
        assert!(!files.iter().any(|file| file.name.ends_with(".tmp")), "{room}: {files:?}");

        // It is left alone for a second, then tried again.
        let before = disk.ops();
        assert!(matches!(driven.append(make()), Err(AppendError::StorageFull)));
        assert_eq!(disk.ops(), before, "{room}");
        disk.set_capacity(None);
        assert!(matches!(driven.append(make()), Err(AppendError::StorageFull)));
        driven.now = driven.now.saturating_add(Duration::from_secs(1));
        driven.append(make()).unwrap();
        driven.flush();
        assert_eq!(driven.log.flushed_end_offset(), at(2 * appended + 2), "{room}");
        driven.checkpoint();
        assert_eq!(driven.log.recovery_point(), at(2 * appended + 2), "{room}");
        let batches = driven.batches();
        let (driven, report) =
            Driven::open(env(Arc::new(disk.kill()), "/data", 2), small_config(), false);
        assert_eq!((report.damage, driven.batches()), (None, batches), "{room}");
    }
}

/// The wall clock may be set back at any time (found by the simulator): by however much, that must not
/// keep a log from writing.
#[test]
fn a_clock_that_is_set_back_does_not_keep_the_disk_full() {
    let hour = Duration::from_secs(3600);
    for ticks in [false, true] {
        let disk = sim_disk(1);
        let mut driven = start(&disk, small_config());
        disk.set_capacity(Some(30_000));
        fill(&mut driven);
        disk.set_capacity(None);
        driven.now = driven.now.saturating_sub(hour);
        if ticks {
            driven.log.tick(driven.now);
            driven.work();
        }
        driven.append(make()).unwrap();
    }
    // And where it had been set back before, a full disk is still left alone for a moment.
    let disk = sim_disk(1);
    let mut driven = start(&disk, small_config());
    driven.append(make()).unwrap();
    driven.now = driven.now.saturating_sub(hour);
    disk.set_capacity(Some(30_000));
    fill(&mut driven);
    let before = disk.ops();
    assert!(matches!(driven.append(make()), Err(AppendError::StorageFull)));
    assert_eq!(disk.ops(), before);
}

#[test]
fn a_tick_tries_a_full_disk_again() {
    let disk = sim_disk(1);
    let mut driven = start(&disk, small_config());
    disk.set_capacity(Some(30_000));
    fill(&mut driven);
    disk.set_capacity(None);
    assert!(driven.log.take_work().is_none(), "not at once");
    driven.now = driven.now.saturating_add(Duration::from_secs(2));
    driven.log.tick(driven.now);
    driven.work();
    assert!(driven.log.take_work().is_none());
    driven.append(make()).unwrap();
}

#[test]
fn deleting_makes_room_on_a_full_disk() {
    let disk = sim_disk(1);
    let mut driven = start(&disk, small_config());
    disk.set_capacity(Some(100_000));
    let appended = fill(&mut driven);
    let before = used(&disk);
    // Deleting itself writes a little. That is what the reserve of a directory is for; here, 64 KiB.
    disk.set_capacity(Some(100_000 + 65_536));
    driven.advance(at(2 * appended - 6));
    assert!(driven.error.as_ref().is_some_and(LogError::is_storage_full), "{:?}", driven.error);
    assert!(used(&disk) < before / 2, "{before} to {}", used(&disk));
    driven.now = driven.now.saturating_add(Duration::from_secs(1));
    driven.append(make()).unwrap();
}

/// Whichever sync fails, nothing is acknowledged from then on, also not after a restart.
#[test]
fn a_failed_sync_is_final() {
    for point in [SyncPoint::SegmentData, SyncPoint::SegmentCreatedDir, SyncPoint::CheckpointDir] {
        let disk = sim_disk(1);
        let mut driven = start(&disk, small_config());
        driven.append(make()).unwrap();
        disk.fail_sync(point);
        driven.flush();
        driven.checkpoint();
        assert_eq!(disk.faults_left(), 0, "{point:?} was reached");
        let flushed = driven.log.flushed_end_offset();
        assert!(driven.error.is_some(), "{point:?}");
        assert!(matches!(driven.append(make()), Err(AppendError::Failed(_))), "{point:?}");
        assert!(driven.log.start_flush().is_none() && driven.log.take_work().is_none());
        assert_eq!(driven.log.flushed_end_offset(), flushed);
        assert_eq!(driven.batches().len(), 1, "what was there can be read");
        let error = Driven::try_open(env(Arc::new(disk.kill()), "/data", 2), small_config(), false)
            .expect_err("the mark outlives the process");
        assert!(matches!(&error, LogError::Failed(_)), "{error}");
        assert!(error.to_string().contains("/data"), "{error}");
    }
}

#[test]
fn a_failed_write_fails_the_directory() {
    let disk = sim_disk(1);
    let mut driven = start(&disk, small_config());
    driven.append(make()).unwrap();
    disk.fail_after(0, Fault::WriteError);
    assert!(matches!(driven.append(make()), Err(AppendError::Failed(_))));
    assert_eq!(driven.log.log_end_offset(), at(2), "nothing of it is in the log");
    assert_eq!(driven.batches().len(), 1);
}

/// A frame that was not written as a whole is never published, and nothing follows it in its
/// segment.
#[test]
fn a_write_that_finds_no_room_is_undone() {
    let disk = sim_disk(1);
    let mut driven = start(&disk, small_config());
    driven.append(make()).unwrap();
    // As on a copy-on-write file system, where even allocated blocks may be missing.
    disk.fail_after(0, Fault::NoSpace);
    assert!(matches!(driven.append(make()), Err(AppendError::StorageFull)));
    driven.now = driven.now.saturating_add(Duration::from_secs(1));
    driven.append(make()).unwrap();
    assert_eq!((driven.batches().len(), driven.log.segment_count()), (2, 2));
    let batches = driven.batches();
    driven.flush();
    let (driven, report) =
        Driven::open(env(Arc::new(disk.kill()), "/data", 2), small_config(), false);
    assert_eq!((report.damage, driven.batches()), (None, batches));
}

/// Flush and checkpoint under way, and not coming back: appends, windows and rolls go on
/// (KAFKA-9693, KAFKA-15046).
#[test]
fn a_disk_that_stands_still_in_a_sync_stops_no_append() {
    let disk = sim_disk(1);
    let mut driven = start(&disk, small_config());
    driven.append(make()).unwrap();
    let flush = driven.log.start_flush().unwrap();
    driven.stalls_checkpoints = true;
    for _ in 0..40 {
        driven.append(make()).unwrap();
    }
    assert!(driven.log.segment_count() > 5);
    assert_eq!(driven.held.len(), 1, "one checkpoint at a time");
    assert!(driven.log.start_flush().is_none(), "one flush at a time");
    assert_eq!(driven.log.flushed_end_offset(), at(0));
    // What was under way counts for what it began with.
    driven.run(flush);
    assert_eq!(driven.log.flushed_end_offset(), at(2));
    driven.flush();
    assert_eq!(driven.log.flushed_end_offset(), driven.log.log_end_offset());
    let held = driven.held.pop().unwrap();
    let done = driven.run(held);
    assert!(done.recovery_point.unwrap() < driven.log.log_end_offset());
    driven.stalls_checkpoints = false;
    driven.checkpoint();
    assert_eq!(driven.log.recovery_point(), driven.log.log_end_offset());
}

/// A truncation makes void whatever was under way, in whichever order it comes back.
#[test]
fn a_truncation_overtakes_other_work() {
    for order in 0..4 {
        let disk = sim_disk(1);
        let mut driven = start(&disk, small_config());
        for n in 0..6 {
            let producer = Some((1, 2 * n));
            driven.append(Make { producer, ..make() }).unwrap();
        }
        driven.log.request_checkpoint();
        let checkpoint = driven.log.take_work().unwrap();
        let flush = driven.log.start_flush().unwrap();
        // A roll that is due, and under way.
        let roll = loop {
            let batch = make().stamped(driven.log.log_end_offset());
            match driven.log.append(&batch, driven.now) {
                Ok(_) => {}
                Err(AppendError::NotReady) => break driven.log.take_work().unwrap(),
                Err(other) => panic!("{other}"),
            }
        };
        let mut cut = Some(driven.log.start_truncate(at(5)));
        assert!(driven.log.take_work().is_none() && driven.log.start_flush().is_none());
        assert_eq!(driven.log.log_end_offset(), at(5), "at once");
        let mut others = vec![roll, flush, checkpoint];
        others.rotate_left(order % 3);
        for (n, work) in others.into_iter().enumerate() {
            if n == order {
                assert_eq!(driven.run(cut.take().unwrap()).truncated_to, Some(at(4)));
            }
            assert_eq!(driven.run(work), Completed::default(), "void");
        }
        if let Some(cut) = cut {
            assert_eq!(driven.run(cut).truncated_to, Some(at(4)), "the batch goes as a whole");
        }
        assert!(driven.error.is_none(), "{:?}", driven.error);
        assert_eq!(driven.batches().len(), 2);
        assert_eq!(fingerprint(driven.log.producers()), replayed(driven.batches().iter()));
        driven.append(Make { epoch: 2, ..make() }).unwrap();
        driven.flush();
        let batches = driven.batches();
        let (driven, report) =
            Driven::open(env(Arc::new(disk.kill()), "/data", 2), small_config(), false);
        assert_eq!((report.damage, driven.batches()), (None, batches), "order {order}");
    }
}

/// Found by the simulator: a follower that cut its log and was elected before the cut was done called
/// a batch a duplicate that it had just cut off, and an acknowledged record was in no log.
#[test]
fn nothing_is_said_of_producers_while_the_log_is_cut() {
    let mut driven = start(&sim_disk(1), small_config());
    let batch = |sequence| Make { producer: Some((7, sequence)), ..make() };
    driven.append(batch(0)).unwrap();
    driven.append(batch(2)).unwrap();
    let asks = |driven: &Driven, base_sequence| {
        let id = ProducerId::new(7).unwrap();
        let stamp = ProducerStamp { id, epoch: 0, base_sequence };
        driven.log.check_producer(stamp, 1, driven.now)
    };
    assert!(matches!(asks(&driven, 2), Some(ProducerCheck::Duplicate(_))));
    let cut = driven.log.start_truncate(at(2));
    assert_eq!(asks(&driven, 2), None);
    driven.run(cut);
    assert_eq!(asks(&driven, 2), Some(ProducerCheck::New));
    assert!(matches!(asks(&driven, 0), Some(ProducerCheck::Duplicate(_))));
}

#[test]
fn a_truncation_that_fails_is_begun_again() {
    let disk = sim_disk(1);
    let mut driven = start(&disk, small_config());
    for _ in 0..9 {
        driven.append(make()).unwrap();
    }
    // The first only costs an index, which can be made again.
    disk.fail_after(0, Fault::NoSpace);
    disk.fail_after(0, Fault::NoSpace);
    assert_eq!(driven.truncate(at(6)).truncated_to, None);
    assert!(driven.error.take().unwrap().is_storage_full());
    assert!(matches!(driven.append(make()), Err(AppendError::NotReady)));
    assert_eq!(driven.truncate(at(6)).truncated_to, Some(at(6)));
    driven.append(Make { epoch: 1, ..make() }).unwrap();
    assert_eq!(driven.batches().len(), 4);
}

/// Ten thousand idle partitions cost neither disk nor maps: what one of them costs.
#[test]
fn an_idle_log_has_no_segment_and_nothing_open() {
    let disk = sim_disk(1);
    let mut driven = start(&disk, small_config());
    let names = |disk: &SimDisk| disk.list(&dir()).unwrap().len();
    assert_eq!(names(&disk), 2, "partition.meta and checkpoint");
    assert!(used(&disk) < 200);
    driven.log.tick(driven.now);
    assert!(driven.log.take_work().is_none() && driven.log.start_flush().is_none());
    driven.close();
    let (driven, report) =
        Driven::open(env(Arc::new(disk.kill()), "/data", 2), small_config(), true);
    assert!(report.was_clean);
    assert_eq!((driven.log.segment_count(), driven.log.size_bytes()), (0, 0));
}

#[test]
fn an_idle_segment_gives_its_window_back_and_takes_it_again() {
    let disk = sim_disk(1);
    let mut driven = start(
        &disk,
        LogConfig {
            window_min: 65_536,
            window_max: 65_536,
            segment_bytes: 1 << 20,
            ..small_config()
        },
    );
    driven.append(make()).unwrap();
    let busy = used(&disk);
    let now = driven.now.saturating_add(driven.log.config().idle_after);
    driven.log.tick(now);
    driven.work();
    assert!(used(&disk) < busy - 50_000, "{busy} to {}", used(&disk));
    driven.now = now;
    driven.append(make()).unwrap();
    assert_eq!((driven.batches().len(), driven.log.segment_count()), (2, 1));
}

#[test]
fn windows_grow_with_the_rate_within_the_budget_of_all_logs() {
    let config = LogConfig {
        segment_bytes: 1 << 24,
        window_min: 8192,
        window_max: 1 << 20,
        checkpoint_bytes: u64::MAX,
        ..small_config()
    };
    for (budget, extends_max) in [(1 << 30, 15), (0, 1000)] {
        let disk = sim_disk(1);
        let failure = Failure::open(Arc::new(disk.clone()), "/data");
        let budgets = super::LogBudgets { window_bytes: budget, ..Default::default() };
        let salts = super::SaltSource::seeded(1);
        let env = super::LogEnv::new(Arc::new(disk), failure, salts, budgets);
        let mut driven = Driven::create(env.clone(), config.clone());
        for _ in 0..1000 {
            driven.append(make()).unwrap();
            assert!(env.window_bytes_taken() <= budget);
        }
        let extends = env.counters.extends.get();
        assert!(extends <= extends_max, "{extends} extensions with a budget of {budget}");
        assert_eq!(env.counters.appends_not_ready.get(), 1, "only for the first segment");
        drop(driven);
        assert_eq!(env.window_bytes_taken(), 0);
    }
}

#[test]
fn old_segments_roll_and_batches_of_the_wrong_kind_are_refused() {
    let disk = sim_disk(1);
    let mut driven = start(&disk, small_config());
    driven.append(Make { epoch: 4, ..make() }).unwrap();
    let stale = Make { epoch: 3, ..make() }.stamped(at(2));
    assert!(matches!(
        driven.append_stamped(&stale),
        Err(AppendError::StaleEpoch { latest: 4, found: 3 })
    ));
    let elsewhere = Make { epoch: 4, ..make() }.stamped(at(7));
    assert!(matches!(
        driven.append_stamped(&elsewhere),
        Err(AppendError::WrongOffset { found: 7, .. })
    ));
    driven.now = driven.now.saturating_add(driven.log.config().segment_age);
    driven.append(Make { epoch: 4, ..make() }).unwrap();
    assert_eq!(driven.log.segment_count(), 2, "by age");
    // A batch larger than a segment gets one of its own.
    driven.append(Make { epoch: 4, value_bytes: 40_000, ..make() }).unwrap();
    driven.append(Make { epoch: 4, ..make() }).unwrap();
    assert_eq!((driven.log.segment_count(), driven.batches().len()), (4, 4));
}
