//! Partitions come, go and come back as the metadata says, whatever the directory holds.

use std::{io::IoSlice, path::Path, sync::Arc, time::Duration};

use riverrun_proto::ids::PartitionIndex;

use super::{test_node::*, test_support::*, *};
use crate::{
    io::{
        Disk, SyncPoint,
        sim::{Fault, PowerCut},
    },
    metadata::{
        Delta, MetadataOffset,
        test_support::{alter, delete, topic_id},
    },
};

/// Makes a directory with a file in it, durably.
fn plant(disk: &dyn Disk, dir: &Path, file: &str) {
    disk.create_dir(dir).unwrap();
    let made = disk.create(&dir.join(file)).unwrap();
    made.write_at(&[IoSlice::new(b"something")], 0).unwrap();
    made.sync(SyncPoint::SegmentData).unwrap();
    disk.sync_dir(dir, SyncPoint::DataDir).unwrap();
    disk.sync_dir(dir.parent().unwrap(), SyncPoint::DataDir).unwrap();
}

#[test]
fn partitions_live_through_clean_stops_kills_and_power_losses() {
    let mut world = World::new(1);
    let node = world.start();
    world.create(Some(&node), 1, "orders", 3);
    node.write(&node.partition(1, 2), batch(5, 100));
    world.stop(node);
    assert!(world.clean);

    let node = world.start();
    assert_eq!((node.report.opened, node.report.scanned_bytes), (3, 0), "nothing to scan");
    assert_eq!(node.read_all(&node.partition(1, 2)).len(), 1);
    node.write(&node.partition(1, 2), batch(5, 100));
    world.kill(node);

    let node = world.start();
    assert!(node.report.scanned_bytes > 0, "nobody closed it");
    assert_eq!(node.partition(1, 2).offsets().log_end, at(10));
    world.power_loss(node, PowerCut::LoseUnsynced);

    let node = world.start();
    assert_eq!(node.report.opened, 3);
    assert_eq!(node.partition(1, 2).offsets().log_end, at(10));
    assert_eq!(node.partition(1, 0).offsets().log_end, at(0));
}

#[test]
fn every_start_leads_in_an_epoch_of_its_own() {
    let mut world = World::new(2);
    world.create_before_start();
    let mut last = None;
    for _ in 0..3 {
        let node = world.start();
        let epoch = node.write(&node.partition(1, 0), batch(1, 10)).leader_epoch;
        assert!(last < Some(epoch), "{last:?} {epoch:?}");
        last = Some(epoch);
        world.kill(node);
    }
}

impl World {
    /// A topic that was made while this broker was away.
    fn create_before_start(&mut self) {
        let register = crate::metadata::test_support::register(1, 250);
        self.command(None, &register);
        self.create(None, 1, "orders", 1);
    }
}

#[test]
fn topics_grow_change_and_go() {
    let mut world = World::new(3);
    let node = world.start();
    world.create(Some(&node), 1, "orders", 1);
    let version = world.image.topic_by_id(topic_id(1)).unwrap().version.0;
    world.command(Some(&node), &crate::metadata::test_support::grow(1, version, &[&[1], &[1]]));
    assert_eq!(node.registry.len(), 3);
    let version = world.image.topic_by_id(topic_id(1)).unwrap().version.0;
    world.command(Some(&node), &alter(1, version, &[("max.message.bytes", "1024")], &[], 1));
    node.send(&node.partition(1, 2), 1, batch(1, 5000));
    assert!(matches!(node.outcome().1, Err(ProduceError::TooLarge { max: 1024, .. })));

    let gone = node.partition(1, 0);
    world.command(Some(&node), &delete(1));
    assert!(node.registry.is_empty() && gone.is_closed());
    assert_eq!(names(&world.disk), [""; 0]);
    node.send(&gone, 2, batch(1, 10));
    assert_eq!(node.outcome().1, Err(ProduceError::Closing { appended: false }));
}

#[test]
fn a_topic_is_deleted_under_produces_reads_and_deletions() {
    let mut world = World::new(4);
    let node = world.start();
    world.create(Some(&node), 1, "orders", 1);
    let partition = node.partition(1, 0);
    for _ in 0..20 {
        node.write(&partition, batch(1, 2000));
    }
    let over = std::sync::atomic::AtomicBool::new(false);
    let running = || !over.load(std::sync::atomic::Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut tag = 0;
            while running() {
                tag += 1;
                node.send(&partition, tag, batch(1, 1000));
                match node.outcome().1 {
                    Ok(_) => {}
                    Err(ProduceError::Closing { .. }) => return,
                    Err(other) => panic!("{other}"),
                }
            }
        });
        scope.spawn(|| {
            while running() {
                let start = partition.offsets().log_start;
                let fetch = Fetch {
                    from: start,
                    max_bytes: 4096,
                    leader_epoch: None,
                    last_read_epoch: None,
                };
                match block_on(partition.read(fetch)) {
                    Ok(_) | Err(FetchError::OutOfRange { .. }) => {}
                    Err(FetchError::Closing) => return,
                    Err(other) => panic!("{other}"),
                }
            }
        });
        scope.spawn(|| {
            while running() {
                match block_on(partition.delete_records(None, None)) {
                    Ok(_) => {}
                    Err(OffsetsError::Fetch(FetchError::Closing)) => return,
                    Err(other) => panic!("{other}"),
                }
                // What housekeeping does with a partition it still holds.
                partition.apply_retention();
                partition.tick();
                partition.request_checkpoint();
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        world.command(Some(&node), &delete(1));
        over.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    partition.wait_idle();
    assert_eq!(names(&world.disk), [""; 0], "nothing of it, and nothing made anew");
    node.failure.check().expect("a topic that goes takes no directory along");
}

#[test]
fn a_name_is_used_again_and_nothing_of_the_old_topic_shows() {
    let mut world = World::new(5);
    let node = world.start();
    world.create(Some(&node), 1, "orders", 1);
    node.write(&node.partition(1, 0), batch(5, 100));
    world.command(Some(&node), &delete(1));
    world.create(Some(&node), 2, "orders", 1);
    assert!(node.registry.get(id(1, 0)).is_none());
    assert_eq!(node.partition(2, 0).offsets().log_end, at(0));
    node.write(&node.partition(2, 0), batch(1, 100));
    world.power_loss(node, PowerCut::LoseUnsynced);
    let node = world.start();
    assert_eq!(node.partition(2, 0).offsets().log_end, at(1));
    assert_eq!(names(&world.disk), [id(2, 0).to_string()]);
}

#[test]
fn power_may_go_at_any_moment_of_a_creation() {
    let mut world = World::new(6);
    let node = world.start();
    world.disk.record_history();
    world.create(Some(&node), 1, "orders", 1);
    for (ops, state) in world.disk.history().iter().enumerate() {
        for cut in PowerCut::sample(6) {
            let found = state.snapshot().power_loss(cut);
            let node = world.open(&found, false);
            assert_eq!(node.report.failed, [], "after {ops} operations, {cut:?}");
            node.write(&node.partition(1, 0), batch(1, 10));
        }
    }
}

#[test]
fn power_may_go_at_any_moment_of_a_deletion() {
    let mut world = World::new(7);
    let node = world.start();
    world.create(Some(&node), 1, "orders", 2);
    node.write(&node.partition(1, 0), batch(5, 100));
    world.disk.record_history();
    world.command(Some(&node), &delete(1));
    for (ops, state) in world.disk.history().iter().enumerate() {
        for cut in PowerCut::sample(6) {
            let found = state.snapshot().power_loss(cut);
            let node = world.open(&found, false);
            assert!(node.registry.is_empty());
            assert_eq!(node.report.set_aside, [""; 0].map(std::path::PathBuf::from));
            assert_eq!(names(&found), [""; 0], "after {ops} operations, {cut:?}");
        }
    }
}

#[test]
fn unknown_directories_are_set_aside_under_free_names_and_never_removed() {
    let mut world = World::new(8);
    let node = world.start();
    world.create(Some(&node), 1, "orders", 1);
    world.stop(node);
    let lost = unknown_dir();
    let odd = Path::new("/data").join("someone's");
    for round in 1..=3 {
        plant(&world.disk, &lost, "00000000000000000000.log");
        plant(&world.disk, &odd, "notes");
        let node = world.start();
        assert_eq!(node.report.set_aside.len(), 2, "round {round}");
        assert_eq!(node.report.opened, 1);
        for aside in &node.report.set_aside {
            assert_eq!(world.disk.list(aside).unwrap().len(), 1, "with what was in it");
        }
        world.stop(node);
    }
    assert_eq!(names(&world.disk).len(), 7, "three of each, and the partition");
    let node = world.start();
    assert_eq!(node.report.set_aside.len(), 0, "once is enough");
}

#[test]
fn only_a_topic_known_as_deleted_is_removed_at_the_start() {
    let mut world = World::new(9);
    let node = world.start();
    world.create(Some(&node), 1, "orders", 1);
    world.stop(node);
    // Deleted while this broker was away.
    world.command(None, &delete(1));
    let node = world.start();
    assert_eq!((node.report.opened, node.report.set_aside.len()), (0, 0));
    assert_eq!(names(&world.disk), [""; 0]);
}

#[test]
fn a_directory_that_cannot_be_removed_keeps_nobody_from_serving() {
    let mut world = World::new(10);
    let node = world.start();
    world.create(Some(&node), 1, "orders", 1);
    world.create(Some(&node), 2, "kept", 1);
    world.stop(node);
    // A directory in a directory is nothing that a partition has.
    plant(&world.disk, &dir_of(1, 0).join("inner"), "file");
    world.command(None, &delete(1));
    for _ in 0..2 {
        let node = world.start();
        assert_eq!(node.report.opened, 1);
        node.write(&node.partition(2, 0), batch(1, 10));
        world.stop(node);
    }
}

#[test]
fn a_partition_that_cannot_be_opened_says_why_and_the_others_serve() {
    let mut world = World::new(11);
    let node = world.start();
    world.create(Some(&node), 1, "orders", 2);
    node.write(&node.partition(1, 0), batch(1, 10));
    world.stop(node);
    world.disk.remove_file(&dir_of(1, 0).join("partition.meta")).unwrap();
    let node = world.start();
    assert_eq!(node.report.failed.len(), 1);
    assert!(node.registry.get(id(1, 0)).is_none());
    let why = node.registry.failure_of(id(1, 0)).unwrap();
    assert!(why.contains("partition.meta"), "{why}");
    assert!(!node.registry.has_retriable(), "only a person can mend that");
    assert!(!node.registry.failure_may_pass(id(1, 0)));
    node.write(&node.partition(1, 1), batch(1, 10));
    assert!(!node.registry.close(), "not all was closed: the next start looks at everything");
}

#[test]
fn a_partition_that_met_a_full_disk_is_made_once_there_is_room() {
    let mut world = World::new(12);
    let node = world.start();
    world.disk.fail_after(1, Fault::NoSpace);
    world.create(Some(&node), 1, "orders", 1);
    assert!(node.registry.get(id(1, 0)).is_none());
    assert!(node.registry.failure_of(id(1, 0)).unwrap().contains("no room"));
    assert!(node.registry.has_retriable() && node.registry.failure_may_pass(id(1, 0)));
    node.registry.retry_failed(&world.image);
    assert_eq!(node.registry.failure_of(id(1, 0)), None);
    node.write(&node.partition(1, 0), batch(1, 10));

    world.disk.fail_after(1, Fault::NoSpace);
    world.create(Some(&node), 2, "short-lived", 1);
    assert!(node.registry.has_retriable());
    world.command(Some(&node), &delete(2));
    assert!(!node.registry.has_retriable(), "gone before it came");
    assert_eq!(names(&world.disk), [id(1, 0).to_string()], "and nothing of it is left");
}

#[test]
fn a_partition_that_there_was_no_room_for_keeps_no_stop_from_being_clean() {
    for at in 1..6 {
        let mut world = World::new(12);
        let node = world.start();
        world.create(Some(&node), 1, "orders", 1);
        node.write(&node.partition(1, 0), batch(1, 10));
        world.disk.fail_after(at, Fault::NoSpace);
        world.create(Some(&node), 2, "more", 1);
        if node.failure.is_failed() {
            // The fault hit a sync, which is no full disk but a failure.
            continue;
        }
        let failed = node.registry.failure_of(id(2, 0)).is_some();
        world.stop(node);
        assert!(world.clean, "operation {at}, failed: {failed}");
        let node = world.start();
        assert_eq!(node.report.failed, [], "operation {at}");
        assert_eq!(node.report.scanned_bytes, 0);
        for n in [1, 2] {
            node.write(&node.partition(n, 0), batch(1, 10));
        }
        assert_eq!(node.partition(1, 0).offsets().log_end.get(), 2);
    }
}

#[test]
fn a_change_after_the_close_makes_nothing() {
    let mut world = World::new(13);
    let node = world.start();
    assert!(node.registry.close());
    world.create(Some(&node), 1, "orders", 1);
    assert!(node.registry.is_empty());
    assert_eq!(names(&world.disk), [""; 0]);
}

#[test]
fn news_comes_in_any_number_and_old_news_changes_nothing() {
    let mut world = World::new(14);
    let node = world.start();
    world.create(Some(&node), 1, "orders", 1);
    let before = world.image.partition(id(1, 0)).unwrap().clone();
    world.command(Some(&node), &crate::metadata::test_support::register(1, 99));
    let epoch = node.partition(1, 0).leads();
    let stale = Delta::PartitionChanged { partition: id(1, 0), state: before };
    node.registry.apply(&stale);
    assert_eq!(node.partition(1, 0).leads(), epoch);
    let elsewhere = id(77, 0);
    let state = world.image.partition(id(1, 0)).unwrap().clone();
    node.registry.apply(&Delta::PartitionChanged { partition: elsewhere, state });
    assert!(node.registry.get(elsewhere).is_none());
    assert!(PartitionIndex::default() == elsewhere.partition);
}

#[tokio::test]
async fn nobody_waits_for_a_change_that_will_not_come() {
    let mut world = World::new(15);
    let node = world.start();
    let offset = world.image.offset();
    assert!(node.registry.wait_applied(offset).await);
    let later = MetadataOffset::new(offset.get() + 5).unwrap();
    let waiting = tokio::spawn({
        let registry = Arc::clone(&node.registry);
        async move { registry.wait_applied(later).await }
    });
    tokio::task::yield_now().await;
    node.registry.end_applying("a test");
    let waited = tokio::time::timeout(PATIENCE, waiting).await.expect("told at once");
    assert!(!waited.unwrap());
    assert_eq!(node.registry.applying_ended().as_deref(), Some("a test"));
    assert!(node.registry.wait_applied(offset).await, "what was applied stays applied");
}

#[test]
fn hundreds_of_partitions_open_side_by_side() {
    let mut world = World::new(16);
    let node = world.start();
    world.create(Some(&node), 1, "wide", 300);
    assert_eq!(node.registry.len(), 300);
    world.stop(node);
    let node = world.start();
    assert_eq!((node.report.opened, node.report.failed.len()), (300, 0));
    assert!(node.registry.close());
}
