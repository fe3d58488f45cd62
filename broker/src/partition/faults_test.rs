//! What becomes of those who wait when something goes wrong: everybody is answered, once, truly.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use riverrun_proto::{epoch::PartitionEpoch, ids::BrokerId};

use super::{test_support::*, watch::ReadySet, *};
use crate::{
    io::{Access, DirEntry, Disk, File, SegmentFile, Space, SyncPoint, WriteMode, sim::SimDisk},
    replica::Registration,
};

/// A disk on which making a segment panics, once it is armed.
#[derive(Debug)]
struct Trap {
    disk: SimDisk,
    armed: Arc<AtomicBool>,
}

impl Disk for Trap {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.disk.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.disk.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn sync_dir(&self, dir: &Path, point: SyncPoint) -> io::Result<()> {
        self.disk.sync_dir(dir, point)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }
    fn create_segment(
        &self,
        path: &Path,
        len: u64,
        mode: WriteMode,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        assert!(!self.armed.load(Ordering::SeqCst), "a trap");
        self.disk.create_segment(path, len, mode)
    }
    fn open_segment(
        &self,
        path: &Path,
        published: u64,
        access: Access,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        self.disk.open_segment(path, published, access)
    }
}

fn storage_failed(error: &ProduceError) -> (bool, &str) {
    match error {
        ProduceError::StorageFailed { why, appended } => (*appended, why),
        other => panic!("{other}"),
    }
}

#[test]
fn log_work_that_panics_is_said_and_leaves_nobody_waiting() {
    let (disk, armed) = (SimDisk::new(3), Arc::new(AtomicBool::new(false)));
    let trap = Arc::new(Trap { disk: disk.clone(), armed: Arc::clone(&armed) });
    let harness = Harness::on(trap, disk, Setup { segment_bytes: 4096, ..Setup::default() });
    harness.register(Some(ME), 1, 1);
    harness.send(0, batch(1, 3000));
    harness.offsets(0);
    armed.store(true, Ordering::SeqCst);
    for tag in 1..4 {
        harness.send(tag, batch(1, 3000));
    }
    for _ in 1..4 {
        let error = harness.refusal();
        let (appended, why) = storage_failed(&error);
        assert!(!appended, "parked, never written: {error}");
        assert!(why.contains("roll was lost: a trap"), "{why}");
    }
    armed.store(false, Ordering::SeqCst);
    harness.partition.tick();
    harness.send(9, batch(1, 10));
    assert!(!storage_failed(&harness.refusal()).0, "no writes until the broker is restarted");
    assert_eq!(harness.readable(0), [0], "what was committed is still there");
    harness.partition.close();
    let error = harness.partition.finish().unwrap_err();
    assert!(matches!(error, CloseError::Broken(_)), "the stop is not a clean one: {error}");
}

#[test]
fn work_that_a_closed_pool_drops_is_said_as_well() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    harness.pool.close();
    harness.send(1, batch(1, 10));
    let error = harness.refusal();
    let (appended, why) = storage_failed(&error);
    assert!(appended, "it waited for its flush");
    assert!(why.contains("the I/O threads have ended"), "{why}");
    harness.partition.close();
    harness.partition.finish().unwrap_err();
}

#[test]
fn a_failure_of_the_directory_is_told_to_whoever_waits_elsewhere_in_it() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send(1, batch(1, 10));
    // Another partition's sync failed.
    harness.partition.env.failure.poison("a sync failed").unwrap();
    harness.partition.tick();
    let error = harness.refusal();
    let (appended, why) = storage_failed(&error);
    assert!(appended && why.contains("a sync failed"), "{why}");
    drop(gate);
}

#[test]
fn raised_durability_acknowledges_nothing_that_is_only_in_memory() {
    let harness = Harness::leading(Setup { durability: Durability::Memory, ..Setup::default() });
    harness.send(0, sequenced(7, 0, 0, 3));
    assert_eq!(harness.outcome().1.unwrap().durability, Durability::Memory);
    let gate = harness.hold_work();
    harness.reconfigure(|settings, _| settings.durability = Durability::Disk);
    assert_eq!(harness.readable(0), [0, 1, 2], "readers keep what they have seen");
    harness.send(1, sequenced(7, 0, 0, 3));
    harness.send(2, sequenced(7, 0, 3, 1));
    assert!(harness.is_silent(), "neither the retry nor the new one");
    drop(gate);
    for (tag, duplicate) in [(1, true), (2, false)] {
        let (answered, outcome) = harness.outcome();
        let produced = outcome.unwrap();
        assert_eq!((answered, produced.duplicate), (tag, duplicate));
        assert_eq!(produced.durability, Durability::Disk);
    }
    let found = harness.disk.power_loss(crate::io::sim::PowerCut::LoseUnsynced);
    let dir = Path::new("/data").join(harness.partition.id().to_string());
    assert!(found.list(&dir).unwrap().iter().any(|file| file.name.ends_with(".log")));
}

#[test]
fn lowered_durability_answers_at_once_and_says_so() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send(1, batch(1, 10));
    harness.reconfigure(|settings, _| settings.durability = Durability::Memory);
    let produced = harness.outcome().1.unwrap();
    assert_eq!(produced.durability, Durability::Memory, "it is in memory only");
    drop(gate);
}

#[test]
fn an_emptied_log_owes_no_flush_when_durability_is_raised() {
    let harness = Harness::leading(Setup { durability: Durability::Memory, ..Setup::default() });
    harness.send(0, sequenced(7, 0, 0, 3));
    harness.outcome().1.unwrap();
    assert_eq!(harness.delete(None), Ok(at(3)));
    harness.reconfigure(|settings, _| settings.durability = Durability::Disk);
    harness.send(1, sequenced(7, 0, 0, 3));
    assert!(harness.outcome().1.unwrap().duplicate);
}

#[test]
fn a_retry_of_what_was_written_is_never_called_refused() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, sequenced(7, 0, 0, 3));
    harness.offsets(0);
    harness.clock.advance(Duration::from_secs(4000));
    harness.reconfigure(|settings, _| settings.max_message_bytes = 1);
    harness.partition.env.gate.set_closed(true);
    harness.send(1, sequenced(7, 0, 0, 3));
    let produced = harness.outcome().1.unwrap();
    assert!(produced.duplicate, "whatever the limits, the clock and the disk say now");
    harness.send(2, sequenced(7, 0, 3, 3));
    assert!(matches!(harness.refusal(), ProduceError::TooLarge { .. }));
}

#[test]
fn a_closed_write_gate_refuses_and_loses_nothing() {
    let harness = Harness::leading(Setup::default());
    harness.partition.env.gate.set_closed(true);
    harness.send(0, batch(1, 10));
    let refused = harness.refusal();
    assert_eq!(refused, ProduceError::StorageFull);
    assert!(refused.is_definite());
    harness.partition.env.gate.set_closed(false);
    harness.send(1, batch(1, 10));
    assert_eq!(harness.offsets(1), (0, 0));
}

#[test]
fn replicas_that_fall_away_leave_the_outcome_open_at_once() {
    let harness = Harness::new(Setup::default());
    let other = BrokerId(9);
    let registered = |epoch, isr: &[BrokerId], min_isr| {
        harness.partition.register(Registration {
            leader: Some(ME),
            leader_epoch: epoch_of(1),
            partition_epoch: PartitionEpoch::new(epoch).unwrap(),
            replicas: vec![ME, other],
            isr: isr.to_vec(),
            min_isr,
        });
    };
    // The log has its first segment then: what comes next is appended, not parked.
    registered(1, &[ME], 1);
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    registered(2, &[ME, other], 2);
    harness.send(1, batch(1, 10));
    assert_eq!(harness.partition.offsets().log_end, at(2));
    assert!(harness.is_silent(), "the other one has not got it");
    registered(3, &[ME], 2);
    let error = harness.refusal();
    assert_eq!(error, ProduceError::NotEnoughReplicasAfterAppend { isr: 1, min_isr: 2 });
    assert!(!error.is_definite(), "it is in the log and may commit");
    harness.send(2, batch(1, 10));
    assert!(harness.refusal().is_definite());
    assert_eq!(harness.partition.offsets().log_end, at(2));
}

#[test]
fn a_parked_batch_is_refused_for_good_when_replicas_fall_away() {
    let harness = Harness::new(Setup::default());
    let other = BrokerId(9);
    let registered = |epoch, isr: &[BrokerId]| {
        harness.partition.register(Registration {
            leader: Some(ME),
            leader_epoch: epoch_of(1),
            partition_epoch: PartitionEpoch::new(epoch).unwrap(),
            replicas: vec![ME, other],
            isr: isr.to_vec(),
            min_isr: 2,
        });
    };
    registered(1, &[ME, other]);
    let gate = harness.hold_work();
    harness.send(0, batch(1, 10));
    let waiting = harness.partition.waiting();
    assert_eq!((waiting.for_acks, waiting.parked), (0, 1), "there is no segment yet");
    registered(2, &[ME]);
    drop(gate);
    let error = harness.refusal();
    assert_eq!(error, ProduceError::NotEnoughReplicas { isr: 1, min_isr: 2 });
    assert_eq!(harness.partition.offsets().log_end, at(0));
}

#[tokio::test]
async fn readers_are_woken_when_the_leader_goes() {
    let harness = Harness::leading(Setup::default());
    let set = ReadySet::new();
    let _watch = harness.partition.watch(&set, 5);
    harness.register(Some(BrokerId(3)), 2, 2);
    let mut tokens = Vec::new();
    tokio::time::timeout(PATIENCE, set.ready(&mut tokens)).await.unwrap();
    assert_eq!(tokens, [5]);
}

#[test]
fn a_panic_under_the_lock_breaks_the_partition_and_nothing_else() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send(1, batch(1, 10));
    // A leader epoch that goes back: no metadata log says that.
    let went_back = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        harness.register(Some(ME), 0, 9);
    }));
    assert!(went_back.is_err(), "whoever did it hears of it");
    let error = harness.refusal();
    assert!(storage_failed(&error).0, "and whoever waited: {error}");
    harness.send(2, batch(1, 10));
    assert!(!storage_failed(&harness.refusal()).0);
    assert_eq!(harness.readable(0), [0]);
    drop(gate);
    harness.partition.close();
    harness.partition.finish().unwrap_err();
}

fn epoch_of(n: i32) -> riverrun_proto::epoch::LeaderEpoch {
    epoch(n)
}
