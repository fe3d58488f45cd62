//! What a partition does about its replicas, step by step, on brokers wired to each other in memory.

use std::time::Duration;

use riverrun_proto::{ids::BrokerId, offset::Offset};

use super::{
    replication::{Push, ReplicationLimits, ToFollower, Traffic},
    test_cluster::*,
    test_net::Connection,
    test_support::{at, batch, block_on},
    *,
};
use crate::{
    io::sim::PowerCut,
    metadata::{Command, Delta, Presence, command::Reassign},
    replica::Limits,
};

fn produce(cluster: &Cluster, client: &Client, tag: u64, records: usize) {
    let leader = cluster.partition(cluster.leader().expect("somebody leads"));
    client.send(&leader, tag, batch(records, 100), Acks::All);
}

/// Waits for the answer while everything moves.
fn answer(cluster: &Cluster, client: &Client) -> (u64, Result<Produced, ProduceError>) {
    let mut answered = None;
    cluster.until("an answer", || {
        answered = answered.take().or_else(|| client.answered());
        answered.is_some()
    });
    answered.expect("just seen")
}

fn connection(cluster: &Cluster, follower: u32) -> std::sync::Arc<Connection> {
    let connections = cluster.net.connections.lock();
    let mut of_follower = connections.iter().filter(|c| c.follower == BrokerId(follower));
    of_follower.next_back().expect("it follows").clone()
}

fn silence(cluster: &Cluster, broker: u32) {
    cluster.net.silent.lock().insert(BrokerId(broker));
}

fn let_speak(cluster: &Cluster) {
    cluster.net.silent.lock().clear();
}

#[test]
fn a_batch_is_acknowledged_when_the_whole_isr_has_it() {
    let (cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    silence(&cluster, 3);
    produce(&cluster, &client, 7, 3);
    cluster.until("one of two has it", || cluster.partition(2).offsets().log_end == at(3));
    assert_eq!(client.answered(), None, "a member of the ISR has not got it");
    assert_eq!(cluster.partition(1).high_watermark(), at(0));
    let_speak(&cluster);
    let (tag, produced) = answer(&cluster, &client);
    let produced = produced.unwrap();
    assert_eq!((tag, produced.base_offset, produced.replicas), (7, at(0), 3));
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal(), 1);
}

#[test]
fn with_durability_disk_what_counts_is_on_the_disks() {
    let setup = Setup { configs: vec![("durability", "disk")], ..Setup::default() };
    let (cluster, client) = (Cluster::new(setup), Client::new());
    cluster.until_in_sync();
    // What makes the segments that the first batches wait for.
    produce(&cluster, &client, 0, 1);
    answer(&cluster, &client).1.unwrap();
    cluster.until_in_sync();
    let held = hold_work(&cluster, 2);
    produce(&cluster, &client, 1, 2);
    cluster.until("all have it in memory", || {
        (1..=3).all(|broker| cluster.partition(broker).offsets().log_end == at(3))
    });
    assert_eq!(client.answered(), None, "one disk has not got it");
    drop(held);
    let produced = answer(&cluster, &client).1.unwrap();
    assert_eq!(produced.durability, Durability::Disk);
    for broker in 1..=3 {
        assert_eq!(cluster.partition(broker).offsets().flushed_end, at(3));
    }
}

/// Holds up the only thread for log work of a broker until dropped.
fn hold_work(cluster: &Cluster, broker: usize) -> std::sync::mpsc::SyncSender<()> {
    let (gate, held) = std::sync::mpsc::sync_channel::<()>(0);
    let (started, has_started) = std::sync::mpsc::sync_channel(1);
    cluster.nodes[broker - 1].pool.run(Lane::Work, move || {
        started.send(()).unwrap();
        let _ = held.recv();
    });
    has_started.recv_timeout(super::test_support::PATIENCE).unwrap();
    gate
}

#[test]
fn too_few_in_sync_replicas_are_an_error_before_and_after_the_append() {
    let (cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    silence(&cluster, 2);
    silence(&cluster, 3);
    produce(&cluster, &client, 1, 1);
    // Not parked any more, in front of a segment that is being made.
    cluster.until("it is appended", || cluster.partition(1).offsets().log_end == at(1));
    cluster.command(&cluster.presence(2, Presence::Fenced)).unwrap();
    assert_eq!(client.answered(), None, "two are still enough");
    cluster.command(&cluster.presence(3, Presence::Fenced)).unwrap();
    let (_, after) = client.outcome();
    let after = after.unwrap_err();
    assert_eq!(after, ProduceError::NotEnoughReplicasAfterAppend { isr: 1, min_isr: 2 });
    assert!(!after.is_definite(), "it may yet commit");
    produce(&cluster, &client, 2, 1);
    let before = client.outcome().1.unwrap_err();
    assert_eq!(before, ProduceError::NotEnoughReplicas { isr: 1, min_isr: 2 });
    assert!(before.is_definite());
    assert_eq!(cluster.partition(1).offsets().log_end, at(1), "nothing was written");
    // acks=1 is the leader's own business.
    client.send(&cluster.partition(1), 3, batch(1, 10), Acks::Leader);
    assert!(client.outcome().1.is_ok());

    // They come back, catch up, join, and what had been refused commits.
    let_speak(&cluster);
    for broker in [2, 3] {
        cluster.command(&cluster.presence(broker, Presence::Active)).unwrap();
    }
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal(), 2);
}

#[test]
fn an_old_leader_cuts_off_what_nobody_else_has_and_follows() {
    let (cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    produce(&cluster, &client, 1, 4);
    answer(&cluster, &client).1.unwrap();
    silence(&cluster, 1);
    produce(&cluster, &client, 2, 5);
    cluster.until("it is appended", || cluster.partition(1).offsets().log_end == at(9));
    cluster.command(&cluster.election(2)).unwrap();
    let lost = client.outcome().1.unwrap_err();
    assert!(matches!(
        lost,
        ProduceError::NotLeader { appended: true, leader: Some(BrokerId(2)), .. }
    ));
    let_speak(&cluster);
    produce(&cluster, &client, 3, 2);
    answer(&cluster, &client).1.unwrap();
    cluster.until_in_sync();
    assert_eq!(cluster.partition(1).offsets().log_end, at(6), "four, and two of the new leader");
    assert_eq!(cluster.assert_equal(), 2);
    // What is read there is the new leader's.
    cluster.command(&cluster.election(1)).unwrap();
    produce(&cluster, &client, 4, 1);
    answer(&cluster, &client).1.unwrap();
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal(), 3);
}

#[test]
fn a_cut_connection_is_made_anew_and_nothing_is_missing_or_twice() {
    let (cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    for tag in 0..30 {
        produce(&cluster, &client, tag, 3);
        for follower in [2, 3] {
            if tag % (u64::from(follower) + 1) == 0 {
                cluster.net.cut(&connection(&cluster, follower));
            }
        }
    }
    for _ in 0..30 {
        answer(&cluster, &client).1.unwrap();
    }
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal(), 30);
}

#[test]
fn who_is_too_slow_leaves_the_isr_and_catches_up_beside_the_others() {
    let (cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    assert_eq!(connection(&cluster, 3).traffic, Traffic::InSync);
    silence(&cluster, 3);
    for tag in 0..20 {
        produce(&cluster, &client, tag, 5);
    }
    let leader = cluster.partition(1);
    cluster.until("the other one has said that it has all", || {
        leader.with_replica(|replica, _| replica.log_end_of(BrokerId(2))) == Some(at(100))
    });
    assert_eq!(client.answered(), None);
    for _ in 0..12 {
        cluster.pass(Duration::from_secs(1));
    }
    for _ in 0..20 {
        answer(&cluster, &client).1.unwrap();
    }
    assert_eq!(cluster.registered().isr, [BrokerId(1), BrokerId(2)]);
    let changes = cluster.registered().partition_epoch;
    // It has moved to the other connection while nobody listened, catches up, and moves back.
    let_speak(&cluster);
    cluster.until("it catches up", || cluster.partition(3).offsets().log_end == at(100));
    cluster.until_in_sync();
    assert_eq!(cluster.registered().partition_epoch, changes.next(), "one shrink, one expansion");
    produce(&cluster, &client, 20, 1);
    answer(&cluster, &client).1.unwrap();
    let lines = cluster.net.connections.lock();
    let traffic: Vec<_> = lines
        .iter()
        .filter(|c| c.follower == BrokerId(3))
        .map(|connection| connection.traffic)
        .collect();
    assert_eq!(traffic, [Traffic::InSync, Traffic::CatchUp], "both were used");
    drop(lines);
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal(), 21);
}

#[test]
fn pushes_wait_in_order_for_a_log_that_is_not_ready() {
    let limits = ReplicationLimits { window_bytes: 8 << 10, push_bytes: 1 << 10 };
    let (cluster, client) = (Cluster::new(Setup { limits, ..Setup::default() }), Client::new());
    cluster.until_in_sync();
    let held = hold_work(&cluster, 2);
    // More than a window of its segment, which nobody extends now.
    for tag in 0..60 {
        produce(&cluster, &client, tag, 5);
    }
    cluster
        .until("its window is full", || cluster.partition(2).under_way().waiting_bytes > 4 << 10);
    let (leader, follower) = (cluster.partition(1).under_way(), cluster.partition(2).under_way());
    // Two followers; the last push of each comes whole.
    assert!(leader.pushed_bytes < 2 * (9 << 10), "{leader:?}");
    assert!(follower.waiting_bytes < 9 << 10, "{follower:?}");
    cluster.until("nobody else waits", || {
        cluster.partition(3).offsets().log_end == cluster.partition(1).offsets().log_end
    });
    assert_eq!(client.answered(), None);
    drop(held);
    for tag in 0..60 {
        let (answered, produced) = answer(&cluster, &client);
        assert_eq!(answered, tag, "in order");
        produced.unwrap();
    }
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal(), 60);
    assert_eq!(cluster.partition(2).under_way(), UnderWay::default());
    assert_eq!(cluster.partition(1).under_way(), UnderWay::default());
}

#[test]
fn appends_wait_for_a_member_that_is_too_far_behind() {
    let lag = Limits { lag_bytes_max: 4 << 10, ..Limits::default() };
    let (cluster, client) = (Cluster::new(Setup { lag, ..Setup::default() }), Client::new());
    cluster.until_in_sync();
    produce(&cluster, &client, 0, 1);
    answer(&cluster, &client).1.unwrap();
    cluster.until_in_sync();
    silence(&cluster, 3);
    for tag in 1..=20 {
        produce(&cluster, &client, tag, 5);
    }
    let leader = cluster.partition(1);
    cluster.until("they wait", || leader.waiting().parked > 0 && leader.offsets().log_end > at(1));
    let written = leader.offsets().log_end;
    assert!(written < at(101), "held before all of it was written");
    // Not even what needs no replica overtakes them.
    client.send(&leader, 21, batch(1, 10), Acks::Leader);
    assert_eq!(client.answered(), None);
    let_speak(&cluster);
    let mut all: Vec<_> = (0..21).map(|_| answer(&cluster, &client)).collect();
    assert!(all.iter().all(|(_, outcome)| outcome.is_ok()), "{all:?}");
    all.sort_by_key(|(_, outcome)| outcome.as_ref().map(|p| p.base_offset).ok());
    assert!(all.is_sorted_by_key(|(tag, _)| *tag), "in the order they came");
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal(), 22);
}

#[test]
fn who_missed_a_deletion_begins_anew_where_the_leader_does() {
    miss_a_deletion(at(30));
}

/// KAFKA-6975: the batch that holds the log start is pushed whole, and begins below it.
#[test]
fn who_missed_a_deletion_of_half_a_batch_begins_anew_where_that_begins() {
    miss_a_deletion(at(33));
}

fn miss_a_deletion(log_start: Offset) {
    let (cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    produce(&cluster, &client, 0, 5);
    answer(&cluster, &client).1.unwrap();
    cluster.until_in_sync();
    silence(&cluster, 3);
    cluster.net.cut(&connection(&cluster, 3));
    cluster.command(&cluster.presence(3, Presence::Fenced)).unwrap();
    for tag in 0..10 {
        produce(&cluster, &client, tag, 5);
        answer(&cluster, &client).1.unwrap();
    }
    let leader = cluster.partition(1);
    assert_eq!(block_on(leader.delete_records(Some(log_start), None)), Ok(log_start));
    cluster.until("the other one deletes it, too", || {
        cluster.partition(2).offsets().log_start == log_start
    });
    let_speak(&cluster);
    cluster.command(&cluster.presence(3, Presence::Active)).unwrap();
    cluster.pass(Duration::from_secs(1));
    cluster.until_in_sync();
    assert_eq!(cluster.partition(3).offsets().log_start, log_start);
    assert_eq!(cluster.assert_equal(), 5);
    // And goes on from there, as a leader as well.
    cluster.command(&cluster.election(3)).unwrap();
    produce(&cluster, &client, 11, 1);
    answer(&cluster, &client).1.unwrap();
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal(), 6);
}

#[test]
fn a_broken_push_is_refused_whole_and_asked_for_again() {
    let (cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    silence(&cluster, 3);
    produce(&cluster, &client, 0, 2);
    produce(&cluster, &client, 1, 2);
    cluster.until("it is written", || cluster.partition(1).offsets().log_end == at(4));
    let (line, follower) = (connection(&cluster, 3), cluster.partition(3));
    let leader = line.down.try_next().expect("there is something to push");
    let mut said = block_on(leader.next_for_follower(&line.down, BrokerId(3)));
    while !matches!(said, Some(ToFollower::Push(_))) {
        said = block_on(leader.next_for_follower(&line.down, BrokerId(3)));
    }
    let Some(ToFollower::Push(push)) = said else { unreachable!("just seen") };
    let damaged = |change: &dyn Fn(&mut Push)| {
        let mut push = push.clone();
        change(&mut push);
        ToFollower::Push(push)
    };
    let flipped = damaged(&|push| {
        let mut bytes = push.batches[1].to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        push.batches[1] = bytes.into();
    });
    let holed = damaged(&|push| push.batches.swap(0, 1));
    let empty = damaged(&|push| push.batches.clear());
    for (bad, what) in [(flipped, "flipped"), (holed, "holed"), (empty, "empty")] {
        let session = follower.with_state(|state| state.session());
        let said = match bad {
            // Of the session of the day: the second and third come on later ones.
            ToFollower::Push(mut push) => {
                push.progress.session = session.expect("it follows");
                ToFollower::Push(push)
            }
            other => other,
        };
        follower.hear_leader(said);
        assert_eq!(follower.offsets().log_end, Offset::ZERO, "nothing of what is {what}");
        assert!(follower.waits_to_subscribe(), "{what}");
        // What is still under way of the session that was is not listened to.
        follower.hear_leader(ToFollower::Push(push.clone()));
        assert_eq!(follower.offsets().log_end, Offset::ZERO);
        follower.subscribe_again();
    }
    let_speak(&cluster);
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal(), 2);
}

#[test]
fn whoever_follows_a_partition_that_closes_is_told() {
    let (cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    produce(&cluster, &client, 0, 2);
    answer(&cluster, &client).1.unwrap();
    cluster.partition(1).close();
    cluster.until("both ask again", || {
        (2..=3).all(|broker| cluster.partition(broker).waits_to_subscribe())
    });
    // And are turned away as long as it is closed.
    cluster.partition(2).subscribe_again();
    assert!(!cluster.partition(2).waits_to_subscribe());
    cluster.until("it was turned away", || cluster.partition(2).waits_to_subscribe());
    // A follower that closes takes leave.
    cluster.command(&cluster.election(2)).unwrap();
    cluster.until("it is served", || cluster.partition(3).offsets().high_watermark == at(2));
    cluster.partition(3).close();
    let leader = cluster.partition(2);
    cluster.until("its leader knows", || {
        leader.with_replica(|replica, _| replica.progress(BrokerId(3)).is_none())
    });
}

#[test]
fn an_unsubscription_from_a_connection_left_behind_ends_nothing() {
    let cluster = Cluster::new(Setup::default());
    cluster.until_in_sync();
    let leader = cluster.partition(1);
    let old = connection(&cluster, 2);
    let session = leader.with_replica(|replica, _| replica.progress(BrokerId(2)).unwrap().session);
    let other = Line::new();
    let unsubscribe = replication::ToLeader::Unsubscribe(session);
    leader.hear_follower(&other, BrokerId(2), unsubscribe, 1);
    let still = leader.with_replica(|replica, _| replica.progress(BrokerId(2)).is_some());
    assert!(still, "it is served elsewhere");
    leader.downlink_lost(&other);
    leader.hear_follower(&old.down, BrokerId(2), unsubscribe, 1);
    assert!(leader.with_replica(|replica, _| replica.progress(BrokerId(2)).is_none()));
}

#[test]
fn a_broker_that_was_killed_comes_back_with_what_it_had_and_gets_the_rest() {
    let (mut cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    for (tag, dies) in [(0, 3), (1, 1), (2, 2), (3, 1)] {
        produce(&cluster, &client, tag, 5);
        answer(&cluster, &client).1.unwrap();
        cluster.restart(dies, None);
        cluster.until("somebody leads", || cluster.leader().is_some_and(|at| at != dies));
        produce(&cluster, &client, 10 + tag, 5);
        answer(&cluster, &client).1.unwrap();
        cluster.until_in_sync();
    }
    assert_eq!(cluster.partition(1).offsets().log_end, at(40));
    assert_eq!(cluster.assert_equal(), 8);
}

#[test]
fn a_leader_without_power_loses_nothing_that_was_acknowledged() {
    for (durability, cut) in [("memory", PowerCut::LoseUnsynced), ("disk", PowerCut::LoseUnsynced)]
    {
        let setup = Setup { configs: vec![("durability", durability)], ..Setup::default() };
        let (mut cluster, client) = (Cluster::new(setup), Client::new());
        cluster.until_in_sync();
        for tag in 0..20 {
            produce(&cluster, &client, tag, 5);
            answer(&cluster, &client).1.unwrap();
        }
        // Only the leader has these.
        silence(&cluster, 1);
        produce(&cluster, &client, 20, 5);
        let_speak(&cluster);
        cluster.restart(1, Some(cut));
        assert!(client.answered().is_none_or(|(_, outcome)| outcome.is_err()));
        cluster.until("another leads", || cluster.leader().is_some_and(|at| at != 1));
        produce(&cluster, &client, 21, 5);
        let (tag, outcome) = loop {
            let answered = answer(&cluster, &client);
            if answered.0 != 20 {
                break answered;
            }
        };
        assert_eq!((tag, outcome.unwrap().base_offset), (21, at(100)));
        cluster.until_in_sync();
        assert_eq!(cluster.partition(1).offsets().log_end, at(105));
        assert_eq!(cluster.assert_equal(), 21);
    }
}

#[test]
fn a_partition_is_given_to_a_broker_and_taken_from_another() {
    let (cluster, client) =
        (Cluster::new(Setup { assigned: 2, ..Setup::default() }), Client::new());
    cluster.until_in_sync();
    for tag in 0..10 {
        produce(&cluster, &client, tag, 5);
        answer(&cluster, &client).1.unwrap();
    }
    assert_eq!(cluster.copies().len(), 2);
    let expected = cluster.registered().partition_epoch;
    let to = vec![BrokerId(3), BrokerId(2)];
    let reassign = Reassign { partition: id(), expected, to };
    cluster.command(&Command::Reassign(reassign)).unwrap();
    cluster.until("the first has given it away", || {
        cluster.copies().len() == 2 && cluster.copies()[0].0 == BrokerId(2)
    });
    assert_eq!(cluster.leader(), Some(3), "the first of the new replicas");
    produce(&cluster, &client, 10, 5);
    answer(&cluster, &client).1.unwrap();
    cluster.until_in_sync();
    assert_eq!(cluster.assert_equal(), 11);
    assert_eq!(cluster.registered().replicas, [BrokerId(3), BrokerId(2)]);
    // News that come late do not bring it back, nor take it away.
    let mut old = cluster.registered();
    old.replicas = vec![BrokerId(1)];
    let late = Delta::PartitionChanged { partition: id(), state: old };
    cluster.nodes[1].registry.apply(&late);
    assert_eq!(cluster.copies().len(), 2);
}

/// Others may lead by then, and nobody who knows is asked.
#[test]
fn without_a_lease_a_leader_says_only_what_others_agree_to() {
    let (cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    produce(&cluster, &client, 0, 1);
    answer(&cluster, &client).1.unwrap();
    let leader = cluster.partition(1);
    let latest = || block_on(leader.offset_at(OffsetSpec::Latest, None));
    assert!(latest().is_ok());
    let lease = &leader.env.replication.lease;
    let time = (leader.env.clock.clone(), lease.clone());
    let registry = cluster.nodes[0].registry.clone();
    let mut housekeeping =
        housekeeping::Housekeeping::new(registry, time, u64::MAX, Duration::from_secs(3600));
    housekeeping.tick();
    let readers = watch::ReadySet::new();
    let _reader = leader.watch(&readers, 1);
    housekeeping.tick();
    assert!(!readers.take_ready(&mut Vec::new()), "nothing is new");
    assert!(!leader.may_be_superseded());

    lease.end(leader.env.clock.monotonic());
    assert!(leader.may_be_superseded() && !cluster.partition(2).may_be_superseded());
    housekeeping.tick();
    assert!(readers.take_ready(&mut Vec::new()), "readers at the end hear of it");
    housekeeping.tick();
    assert!(!readers.take_ready(&mut Vec::new()), "once");

    client.send(&leader, 1, batch(1, 10), Acks::Leader);
    let refused = client.outcome().1.unwrap_err();
    assert!(refused.is_definite());
    assert_eq!(refused, ProduceError::LeaseEnded);
    assert_eq!(latest(), Err(OffsetsError::LeaseEnded));
    let earliest = block_on(leader.offset_at(OffsetSpec::Earliest, None));
    assert_eq!(earliest.unwrap().unwrap().offset, at(0));
    produce(&cluster, &client, 2, 1);
    assert_eq!(answer(&cluster, &client).1.unwrap().base_offset, at(1), "acks=all goes on");

    // Alone in the ISR it cannot be replaced.
    for other in [2, 3] {
        cluster.command(&cluster.presence(other, Presence::Fenced)).unwrap();
    }
    assert!(!leader.may_be_superseded());
    assert_eq!(latest().unwrap().unwrap().offset, at(2));
    client.send(&leader, 3, batch(1, 10), Acks::Leader);
    assert_eq!(client.outcome().1.unwrap().base_offset, at(2));
}
