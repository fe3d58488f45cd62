//! What DeleteRecords and retention may be relied on for.

use std::{path::PathBuf, sync::Arc, time::Duration};

use riverrun_proto::{ids::BrokerId, timestamp::Timestamp};

use super::{test_support::*, *};
use crate::{
    clock::{Clock as _, ClockOffset, ClocksTold, WallTrust},
    io::{
        Disk, Failure,
        sim::{Fault, PowerCut, SimDisk},
    },
    log::{Log, LogBudgets, LogConfig, LogEnv, RetentionPolicy, SaltSource},
};

fn filled(setup: Setup, batches: u64) -> Harness {
    let harness = Harness::leading(setup);
    for tag in 0..batches {
        harness.send(tag, batch(1, 1000));
        harness.offsets(tag);
    }
    harness
}

fn small_segments() -> Setup {
    Setup { segment_bytes: 8 << 10, ..Setup::default() }
}

/// Where the segments begin of which there are files, in order.
fn segment_files(harness: &Harness) -> Vec<i64> {
    let dir = PathBuf::from("/data").join(harness.partition.id().to_string());
    let files = harness.disk.list(&dir).unwrap();
    let base = |name: &str| name.strip_suffix(".log").map(|base| base.parse().unwrap());
    let mut bases: Vec<i64> = files.iter().filter_map(|file| base(&file.name)).collect();
    bases.sort_unstable();
    bases
}

fn reopened(harness: &Harness, disk: SimDisk) -> Log {
    let data = PathBuf::from("/data");
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let failure = Failure::open(Arc::clone(&disk), &data);
    let env = LogEnv::new(disk, failure, SaltSource::seeded(99), LogBudgets::default());
    let dir = data.join(harness.partition.id().to_string());
    Log::open(env, dir, LogConfig::default(), false, harness.partition.env.clock.now()).unwrap().0
}

#[test]
fn what_was_deleted_stays_deleted() {
    let harness = filled(small_segments(), 30);
    assert_eq!(harness.delete(Some(20)), Ok(at(20)));
    let kept = segment_files(&harness);
    assert!(kept[0] <= 20 && kept[1] > 20, "all that lie below are gone, no other is: {kept:?}");
    for cut in PowerCut::sample(5) {
        let log = reopened(&harness, harness.disk.snapshot().power_loss(cut));
        assert_eq!(log.log_start_offset(), at(20), "{cut:?}");
        assert_eq!(log.log_end_offset(), at(30), "{cut:?}");
    }
}

#[test]
fn however_many_ask_one_work_is_under_way() {
    let harness = filled(small_segments(), 30);
    let gate = harness.hold_work();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answers = runtime.block_on(async {
        let mut asked = tokio::task::JoinSet::new();
        for before in 1..=25 {
            let partition = Arc::clone(&harness.partition);
            asked.spawn(async move { partition.delete_records(Some(at(before)), None).await });
        }
        tokio::task::yield_now().await;
        assert_eq!(harness.pool.waiting(Lane::Work), 1, "the rest shares the next one");
        assert_eq!(harness.partition.offsets().log_start, at(1));
        drop(gate);
        asked.join_all().await
    });
    for answer in answers {
        assert!(answer.unwrap() >= at(1));
    }
    assert_eq!(harness.partition.offsets().log_start, at(25));
}

#[test]
fn a_full_disk_is_said_and_the_files_go_once_there_is_room() {
    let harness = filled(small_segments(), 30);
    let before = segment_files(&harness);
    harness.disk.fail_after(0, Fault::NoSpace);
    assert_eq!(harness.delete(Some(25)), Err(OffsetsError::StorageFull));
    assert_eq!(harness.partition.offsets().log_start, at(25), "readers are not shown them again");
    assert_eq!(segment_files(&harness), before, "nothing was removed before it was written down");
    harness.clock.advance(Duration::from_secs(2));
    harness.partition.tick();
    assert_eq!(harness.delete(Some(25)), Ok(at(25)), "tried again by itself");
    let kept = segment_files(&harness);
    assert!(before.len() > kept.len() && before.ends_with(&kept), "{kept:?} of {before:?}");
    let log = reopened(&harness, harness.disk.power_loss(PowerCut::LoseUnsynced));
    assert_eq!(log.log_start_offset(), at(25));
}

#[test]
fn an_emptied_log_remembers_its_producers_though_the_disk_was_full() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, sequenced(7, 0, 0, 5));
    harness.offsets(0);
    harness.disk.fail_after(0, Fault::NoSpace);
    assert_eq!(harness.delete(None), Err(OffsetsError::StorageFull));
    harness.clock.advance(Duration::from_secs(2));
    harness.partition.tick();
    assert_eq!(harness.delete(None), Ok(at(5)));
    let log = reopened(&harness, harness.disk.power_loss(PowerCut::LoseUnsynced));
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (at(5), at(5)));
    assert_eq!(log.producers().len(), 1, "a retry of what was deleted is still a duplicate");
}

#[test]
fn a_closed_partition_touches_its_directory_no_more() {
    let retention = RetentionPolicy { age: None, bytes: Some(1) };
    let harness = filled(Setup { retention, ..small_segments() }, 30);
    harness.partition.close();
    harness.partition.wait_idle();
    let ops = harness.disk.ops();
    harness.partition.apply_retention();
    harness.partition.request_checkpoint();
    harness.partition.tick();
    assert_eq!(harness.delete(None), Err(FetchError::Closing.into()));
    harness.partition.wait_idle();
    assert_eq!(harness.disk.ops(), ops, "it may be another's by now, or be gone");
}

#[test]
fn closing_answers_a_deletion_that_waits() {
    let harness = filled(small_segments(), 30);
    let gate = harness.hold_work();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let partition = Arc::clone(&harness.partition);
        let asked = tokio::spawn(async move { partition.delete_records(Some(at(20)), None).await });
        tokio::task::yield_now().await;
        harness.partition.close();
        assert_eq!(asked.await.unwrap(), Err(FetchError::Closing.into()));
    });
    drop(gate);
    harness.partition.finish().unwrap();
}

#[test]
fn a_deletion_that_is_given_up_leaves_nothing_behind() {
    let harness = filled(small_segments(), 30);
    let gate = harness.hold_work();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for _ in 0..100 {
            let partition = Arc::clone(&harness.partition);
            let asked = tokio::spawn(async move { partition.delete_records(None, None).await });
            tokio::task::yield_now().await;
            asked.abort();
            let _ = asked.await;
        }
    });
    assert_eq!(harness.partition.waiting().deletions, 1, "the last one goes with the next");
    drop(gate);
    assert_eq!(harness.delete(None), Ok(at(30)), "given up, not taken back");
    assert_eq!(harness.partition.waiting(), Waiting::default());
}

#[test]
fn what_is_known_to_be_durable_is_answered_without_work() {
    let harness = filled(small_segments(), 30);
    harness.disk.fail_after(0, Fault::NoSpace);
    assert_eq!(harness.delete(Some(25)), Err(OffsetsError::StorageFull));
    let ops = harness.disk.ops();
    harness.clock.advance(Duration::from_secs(2));
    harness.partition.tick();
    harness.partition.wait_idle();
    assert!(harness.disk.ops() > ops, "tried again by itself");
    let gate = harness.hold_work();
    assert_eq!(harness.delete(Some(25)), Ok(at(25)), "known to be durable, no work needed");
    drop(gate);
}

#[test]
fn retention_goes_no_further_than_what_is_committed() {
    let retention = RetentionPolicy { age: None, bytes: Some(1) };
    let harness = filled(Setup { retention, ..small_segments() }, 10);
    let gate = harness.hold_work();
    for tag in 10..14 {
        harness.send(tag, batch(1, 1000));
    }
    harness.partition.apply_retention();
    drop(gate);
    for _ in 10..14 {
        harness.outcome().1.unwrap();
    }
    harness.partition.apply_retention();
    harness.partition.wait_idle();
    let start = harness.delete(Some(0)).unwrap();
    assert!(start > at(0) && start <= at(14), "{start}");
    assert_eq!(harness.readable(start.get()), (start.get()..14).collect::<Vec<_>>());
}

#[test]
fn a_cold_read_of_one_byte_takes_a_place_in_line_as_well() {
    let harness = filled(Setup::default(), 3);
    harness.disk.set_cold(true);
    let gate = harness.hold(Lane::Read);
    let fetch = Fetch { from: at(0), max_bytes: 1, leader_epoch: None, last_read_epoch: None };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let partition = Arc::clone(&harness.partition);
        let reader = tokio::spawn(async move { partition.read(fetch).await });
        tokio::task::yield_now().await;
        assert_eq!(harness.partition.env.read_budget.used(), 64 << 10);
        drop(gate);
        let Fetched::Batches { batches, .. } = reader.await.unwrap().unwrap() else { panic!() };
        assert_eq!(batches.len(), 1);
    });
}

#[test]
fn a_full_read_budget_keeps_the_line_short_though_readers_give_up() {
    let harness = filled(Setup::default(), 3);
    harness.disk.set_cold(true);
    let gate = harness.hold(Lane::Read);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let fetch =
        Fetch { from: at(0), max_bytes: 1 << 18, leader_epoch: None, last_read_epoch: None };
    runtime.block_on(async {
        for _ in 0..50 {
            let partition = Arc::clone(&harness.partition);
            let reader = tokio::spawn(async move { partition.read(fetch).await });
            tokio::task::yield_now().await;
            reader.abort();
            let _ = reader.await;
        }
    });
    assert_eq!(harness.pool.waiting(Lane::Read), 4, "as many as the budget of 1 MiB has room for");
    assert_eq!(harness.partition.env.read_budget.used(), 1 << 20);
    drop(gate);
    assert_eq!(harness.readable(0), [0, 1, 2]);
    assert_eq!(harness.partition.env.read_budget.used(), 0);
}

#[test]
fn nothing_goes_for_its_age_by_a_clock_that_is_not_believed() {
    const BOUND: Duration = Duration::from_secs(10);
    let wall = WallTrust::within(BOUND);
    let retention = RetentionPolicy { age: Some(Duration::from_secs(3600)), bytes: Some(16 << 10) };
    let harness = filled(Setup { retention, wall: wall.clone(), ..small_segments() }, 30);
    let compared = |ahead_ms| {
        let shown = (harness.clock.now(), harness.clock.monotonic());
        let offset = ClockOffset::told(ahead_ms, 1);
        let told = ClocksTold { confirmed: true, ..ClocksTold::default() };
        wall.compare(BrokerId(1), offset, shown, told);
    };
    let start_after_retention = || {
        harness.partition.apply_retention();
        harness.partition.wait_idle();
        harness.partition.log_start_offset().get()
    };
    let two_hours = 2 * 3_600_000;
    let right = harness.clock.now();
    let wrong = Timestamp::from_millis(right.as_millis() + two_hours);
    // Before it was compared: what is too much goes, whatever the clock says.
    harness.clock.set_wall(wrong);
    let by_size = start_after_retention();
    assert!((1..30).contains(&by_size), "{by_size}");
    harness.clock.set_wall(right);
    compared(0);
    assert_eq!(start_after_retention(), by_size, "nothing is old");
    harness.clock.set_wall(wrong);
    assert_eq!(start_after_retention(), by_size, "it was set since");
    compared(two_hours);
    assert_eq!(start_after_retention(), by_size, "it is off, as the others have it");
    compared(0);
    assert_eq!(start_after_retention(), 30, "time has passed for all");
}
