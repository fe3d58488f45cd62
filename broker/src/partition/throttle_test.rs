//! The throttle of moves on brokers wired to each other in memory: whom it holds back, whom it must
//! never, and that moves end all the same. The clock stands still unless a test moves it.

use std::{num::NonZeroU64, time::Duration};

use riverrun_proto::ids::BrokerId;

use super::{
    replication::ReplicationLimits,
    test_cluster::*,
    test_support::{batch, block_on},
    throttle::Direction,
    *,
};
use crate::{
    clock::Clock as _,
    log::layout::SEGMENT_HEADER_BYTES,
    metadata::{
        Command,
        command::{CancelReassignment, Reassign},
        test_support::{level_3, level_4, throttle},
    },
};

/// Bytes a second; of these, history takes half a minute.
const RATE: u64 = 2048;
const BATCHES: u64 = 60;
const PUSH_BYTES: u64 = 4 << 10;
/// Of ten records with a hundred bytes each.
const BATCH_BYTES_MAX: u64 = 1500;
const STEP: Duration = Duration::from_millis(250);

/// Four brokers, of which 1, 2 and 3 have the partition, with a history.
fn with_history(limits: ReplicationLimits) -> (Cluster, Client) {
    let setup = Setup { replicas: 4, assigned: 3, limits, ..Setup::default() };
    let (cluster, client) = (Cluster::new(setup), Client::new());
    for level in [level_3(), level_4()] {
        cluster.command(&level).unwrap();
    }
    cluster.until_in_sync();
    for tag in 0..BATCHES {
        produce(&cluster, &client, tag);
    }
    (cluster, client)
}

fn limits() -> ReplicationLimits {
    ReplicationLimits { window_bytes: 64 << 10, push_bytes: PUSH_BYTES as usize }
}

/// With acks=all, until it is acknowledged, though no time passes.
fn produce(cluster: &Cluster, client: &Client, tag: u64) {
    let leader = cluster.partition(cluster.leader().expect("somebody leads"));
    client.send(&leader, tag, batch(10, 100), Acks::All);
    let mut answered = None;
    cluster.until("an answer", || {
        answered = answered.take().or_else(|| client.answered());
        answered.is_some()
    });
    answered.expect("just seen").1.expect("nothing is in its way");
}

/// 4 in the place of 3.
fn move_to_4(cluster: &Cluster) {
    let expected = cluster.registered().partition_epoch;
    let to = [1, 2, 4].map(BrokerId).to_vec();
    cluster.command(&Command::Reassign(Reassign { partition: id(), expected, to })).unwrap();
}

/// Bytes of batches.
fn size_at(cluster: &Cluster, broker: u32) -> u64 {
    let offsets = cluster.partition(broker).offsets();
    offsets.size_bytes - offsets.segments as u64 * SEGMENT_HEADER_BYTES as u64
}

fn throttle_of(cluster: &Cluster, broker: u32) -> MoveThrottle {
    cluster.partition(broker).env.replication.throttle.clone()
}

/// What may have come to 4 by now, if the rate was kept.
fn due(passed: Duration) -> u64 {
    RATE * u64::try_from((passed + token_bucket::DEPTH).as_millis()).unwrap() / 1000
        + PUSH_BYTES
        + BATCH_BYTES_MAX
}

#[test]
fn a_move_that_is_throttled_holds_up_nobody_else_and_ends_once_it_is_not() {
    let (mut cluster, client) = with_history(limits());
    cluster.command(&throttle(RATE)).unwrap();
    move_to_4(&cluster);
    cluster.until("it has begun", || size_at(&cluster, 4) > 0);
    let mut passed = Duration::ZERO;
    for tag in 0..20 {
        produce(&cluster, &client, BATCHES + tag);
        cluster.pass(STEP);
        passed += STEP;
        assert!(size_at(&cluster, 4) <= due(passed), "{} after {passed:?}", size_at(&cluster, 4));
    }
    assert_eq!(cluster.registered().reassignment.map(|r| r.to.len()), Some(3));
    let standing = cluster.partition(1).standing();
    let moving = standing.moving.expect("the leader tells");
    assert_eq!((moving.arriving, moving.throttle), (vec![BrokerId(4)], NonZeroU64::new(RATE)));
    assert!(moving.growth_bytes_per_second > RATE, "a batch in each quarter of a second");
    assert_eq!(cluster.partition(2).standing().moving, None, "it does not lead");

    // One that was in sync comes back, in a new run with an old log, and is held back by nothing.
    for tag in 0..20 {
        cluster.net.silent.lock().insert(BrokerId(3));
        let leader = cluster.partition(1);
        client.send(&leader, tag, batch(10, 100), Acks::Leader);
        client.outcome().1.unwrap();
    }
    cluster.net.silent.lock().clear();
    cluster.restart(3, None);
    cluster.until("the restarted one is in sync", || {
        cluster.ask_again();
        cluster.registered().isr.contains(&BrokerId(3))
            && cluster.partition(3).offsets().log_end == cluster.partition(1).offsets().log_end
    });
    assert!(size_at(&cluster, 4) <= due(passed), "no time has passed");

    cluster.command(&throttle(0)).unwrap();
    cluster.until("the move is done", || cluster.registered().reassignment.is_none());
    cluster.until_in_sync();
    assert_eq!(cluster.registered().replicas, [1, 2, 4].map(BrokerId));
    assert_eq!(cluster.assert_equal() as u64, BATCHES + 40);
    assert_eq!(cluster.partition(1).standing().moving, None);
}

#[test]
fn a_throttled_move_takes_its_time_and_ends_by_itself() {
    let (cluster, client) = with_history(limits());
    cluster.command(&throttle(RATE)).unwrap();
    let history = size_at(&cluster, 1);
    move_to_4(&cluster);
    let mut passed = Duration::ZERO;
    let mut tag = BATCHES;
    while cluster.registered().reassignment.is_some() {
        assert!(size_at(&cluster, 4) <= due(passed), "{} after {passed:?}", size_at(&cluster, 4));
        cluster.pass(STEP);
        passed += STEP;
        if passed.subsec_millis() == 0 && passed.as_secs().is_multiple_of(8) {
            // A sixth of the rate: the partition goes on growing, and the move gains on it.
            produce(&cluster, &client, tag);
            tag += 1;
        }
        for _ in 0..20 {
            cluster.net.pump();
            cluster.judge_proposals(|command| cluster.command(command).err());
            std::thread::yield_now();
        }
        assert!(passed < Duration::from_secs(3600), "{:?}", cluster.describe());
    }
    assert!(due(passed) >= history, "{history} bytes in {passed:?}");
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal() as u64, tag);
    // Nothing has to be undone: who is in sync is pushed to at once, whatever the throttle.
    assert_eq!(throttle_of(&cluster, 1).rate(), NonZeroU64::new(RATE));
    throttle_of(&cluster, 1).take(
        Direction::Sending,
        1 << 30,
        cluster.partition(1).env.clock.monotonic(),
    );
    for more in 0..50 {
        produce(&cluster, &client, tag + more);
    }
}

/// Several leaders may send to one new broker, each at the whole rate.
#[test]
fn who_takes_a_move_keeps_to_the_throttle_whatever_its_leaders_send() {
    let window_bytes = 2 * PUSH_BYTES as usize;
    let (cluster, client) = with_history(ReplicationLimits { window_bytes, ..limits() });
    move_to_4(&cluster);
    // Its leader knows of none.
    throttle_of(&cluster, 4).set(NonZeroU64::new(RATE), cluster.partition(4).env.clock.monotonic());
    cluster.until("it has begun", || size_at(&cluster, 4) > 0);
    let most = |passed| due(passed) + window_bytes as u64;
    let mut passed = Duration::ZERO;
    for tag in 0..12 {
        produce(&cluster, &client, BATCHES + tag);
        assert!(size_at(&cluster, 4) <= most(passed), "{} after {passed:?}", size_at(&cluster, 4));
        cluster.pass(STEP);
        passed += STEP;
    }
    assert!(cluster.registered().reassignment.is_some(), "it takes its time");
    let so_far = size_at(&cluster, 4);
    cluster.until("it takes more as time goes by", || {
        cluster.pass(STEP);
        size_at(&cluster, 4) > so_far + 2 * PUSH_BYTES
    });
    throttle_of(&cluster, 4).set(None, cluster.partition(4).env.clock.monotonic());
    cluster.until("the move is done", || cluster.registered().reassignment.is_none());
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal() as u64, BATCHES + 12);
}

/// From when its leader has asked for it to be in the ISR, what is written waits for it; neither end may
/// hold it back, though the controller has not answered, and may not for long.
#[test]
fn a_replica_that_producers_wait_for_is_held_back_by_nobody() {
    let (cluster, client) = with_history(limits());
    cluster.net.undecided.lock().insert(id());
    move_to_4(&cluster);
    cluster.until("it is to join", || cluster.partition(1).pending_proposal().is_some());
    cluster.command(&throttle(1)).unwrap();
    for (broker, direction) in [(1, Direction::Sending), (4, Direction::Receiving)] {
        let now = cluster.partition(broker).env.clock.monotonic();
        throttle_of(&cluster, broker).take(direction, 1 << 30, now);
    }
    let moving = cluster.partition(1).standing().moving.expect("a reassignment is under way");
    assert_eq!(moving.arriving, [], "nobody is for the throttle");
    for tag in 0..20 {
        produce(&cluster, &client, BATCHES + tag);
    }
    assert!(!cluster.registered().isr.contains(&BrokerId(4)), "nobody has decided");
    cluster.net.undecided.lock().clear();
    cluster.pass(Duration::from_secs(1));
    cluster.until("the move is done", || cluster.registered().reassignment.is_none());
    cluster.until_in_sync();
}

/// It was put aside when it was only being added; the acknowledgement by which its leader takes it for
/// caught up comes after that, and what it is put aside for would take a week.
#[test]
fn a_replica_that_was_put_aside_goes_on_once_producers_wait_for_it() {
    let window_bytes = 8 << 20;
    let (cluster, client) = with_history(ReplicationLimits { window_bytes, push_bytes: 1 << 20 });
    cluster.net.undecided.lock().insert(id());
    cluster.command(&throttle(1)).unwrap();
    move_to_4(&cluster);
    let end = cluster.partition(1).offsets().log_end;
    cluster.until("it is sent all there is", || {
        // A segment is pushed at a time, and each of them is too much.
        throttle_of(&cluster, 1).set(None, cluster.clock.monotonic());
        throttle_of(&cluster, 1).set(NonZeroU64::new(1), cluster.clock.monotonic());
        cluster.partition(4).offsets().log_end == end
    });
    throttle_of(&cluster, 1).take(Direction::Sending, 1 << 20, cluster.clock.monotonic());
    // What it says of that is on its way; meanwhile more is written, which 2 has yet to get, and its
    // turn comes.
    cluster.net.silent.lock().extend([2, 4].map(BrokerId));
    client.send(&cluster.partition(1), BATCHES, batch(10, 100), Acks::All);
    let connections = cluster.net.connections.lock().clone();
    let of_4 = connections.iter().find(|connection| connection.follower == BrokerId(4)).unwrap();
    while let Some(partition) = of_4.down.try_next() {
        let said = block_on(partition.next_for_follower(&of_4.down, BrokerId(4)));
        assert_eq!(said.map_or(0, |said| said.batch_bytes()), 0, "it is put aside");
    }
    assert_eq!(cluster.partition(1).pending_proposal(), None);
    cluster.net.silent.lock().remove(&BrokerId(4));
    cluster.until("it is asked for", || cluster.partition(1).pending_proposal().is_some());
    cluster.net.silent.lock().clear();
    let mut answered = None;
    cluster.until("an answer", || {
        answered = answered.take().or_else(|| client.answered());
        answered.is_some()
    });
    answered.expect("just seen").1.expect("nothing is in its way");
    for tag in 1..40 {
        produce(&cluster, &client, BATCHES + tag);
    }
    assert_eq!(throttle_of(&cluster, 1).rate(), NonZeroU64::new(1), "and no time has passed");
    let ends = [1, 4].map(|at| cluster.partition(at).offsets().log_end);
    assert_eq!(ends[0], ends[1]);
}

/// A broker that starts while a move goes on knows the throttle from its metadata, and a move that is
/// called off leaves nothing behind.
#[test]
fn the_throttle_outlives_a_restart_and_a_move_that_is_called_off_does_not() {
    let (mut cluster, client) = with_history(limits());
    cluster.command(&throttle(RATE)).unwrap();
    move_to_4(&cluster);
    cluster.restart(4, None);
    cluster.restart(1, None);
    cluster.until("another leads", || cluster.leader().is_some_and(|leader| leader != 1));
    let leader = cluster.leader().unwrap();
    for at in [leader, 4] {
        assert_eq!(throttle_of(&cluster, at).rate(), NonZeroU64::new(RATE));
    }
    let moving = cluster.partition(leader).standing().moving.expect("it leads a move");
    assert_eq!(moving.arriving, [BrokerId(4)]);
    produce(&cluster, &client, BATCHES);
    assert!(size_at(&cluster, 4) <= 2 * due(Duration::ZERO), "two leaders, no time");

    let expected = cluster.registered().partition_epoch;
    let cancel = CancelReassignment { partition: id(), expected };
    cluster.command(&Command::CancelReassignment(cancel)).unwrap();
    assert_eq!(cluster.partition(leader).standing().moving, None);
    cluster.until("its copy is removed", || cluster.copies().len() == 3);
    cluster.pass(STEP);
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal() as u64, BATCHES + 1);
}
