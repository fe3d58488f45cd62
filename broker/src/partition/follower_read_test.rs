//! What a follower may tell readers, step by step (KIP-392).

use riverrun_proto::ids::BrokerId;

use super::{
    test_cluster::*,
    test_support::{at, batch, block_on, epoch},
    watch::ReadySet,
    *,
};
use crate::metadata::Presence;

fn written(batches: u64) -> (Cluster, Client) {
    let (cluster, client) = (Cluster::new(Setup::default()), Client::new());
    cluster.until_in_sync();
    for tag in 0..batches {
        produce(&cluster, &client, tag);
    }
    cluster.until_in_sync();
    (cluster, client)
}

/// Five records, and waits for their acknowledgement.
fn produce(cluster: &Cluster, client: &Client, tag: u64) {
    let leader = cluster.partition(cluster.leader().expect("somebody leads"));
    client.send(&leader, tag, batch(5, 100), Acks::All);
    let mut answered = None;
    cluster.until("an answer", || {
        answered = answered.take().or_else(|| client.answered());
        answered.is_some()
    });
    answered.expect("just seen").1.expect("acknowledged");
}

fn fetch(from: i64) -> Fetch {
    Fetch { from: at(from), max_bytes: 1 << 20, leader_epoch: None, last_read_epoch: None }
}

fn ask(partition: &std::sync::Arc<Partition>, fetch: Fetch) -> Result<Fetched, FetchError> {
    block_on(partition.read_any(fetch, Copies::InSync))
}

/// Where a read from `from` ends, and the high watermark beside it.
fn ends(partition: &std::sync::Arc<Partition>, from: i64) -> (i64, i64) {
    match ask(partition, fetch(from)) {
        Ok(Fetched::Batches { next_offset, high_watermark, .. }) => {
            (next_offset.get(), high_watermark.get())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_asks_for_it_has_the_same_bytes_from_a_follower() {
    let (cluster, _) = written(4);
    let (leader, follower) = (cluster.partition(1), cluster.partition(2));
    for from in [0, 7, 19] {
        let expected = block_on(leader.read(fetch(from)));
        assert_eq!(ask(&follower, fetch(from)), expected, "from {from}");
        assert_eq!(ask(&leader, fetch(from)), expected, "leaders serve them, too");
    }
    assert_eq!(ends(&follower, 20), (20, 20), "there is no more");
    let refused = block_on(follower.read(fetch(0)));
    assert!(
        matches!(refused, Err(FetchError::NotLeader { leader: Some(BrokerId(1)), .. })),
        "who did not ask for it goes to the leader: {refused:?}"
    );
    assert!(follower.serves_in_sync(None) && follower.serves_in_sync(Some(at(20))));
    assert!(!follower.serves_in_sync(Some(at(21))) && !leader.serves_in_sync(None));
}

/// It has the records, and was not told yet that all others have them as well.
#[test]
fn a_follower_shows_nothing_that_it_does_not_know_to_be_committed() {
    let (cluster, client) = written(1);
    cluster.net.silent.lock().insert(BrokerId(3));
    client.send(&cluster.partition(1), 9, batch(5, 100), Acks::All);
    let follower = cluster.partition(2);
    cluster.until("it has them", || follower.offsets().log_end == at(10));
    assert_eq!(ends(&follower, 0), (5, 5), "one of three lacks them");
    // Who comes from a replica that knew more waits here, and is not told that it has all.
    for from in [5, 7, 10] {
        assert_eq!(ends(&follower, from), (from, 5));
    }
    assert!(!follower.serves_in_sync(Some(at(7))), "a call that may go to the leader does");
    cluster.net.silent.lock().clear();
    cluster.until("it is told", || follower.high_watermark() == at(10));
    assert_eq!(ends(&follower, 5), (10, 10));
}

#[test]
fn readers_of_a_follower_are_woken_by_its_high_watermark_and_by_its_end() {
    let (cluster, client) = written(1);
    let follower = cluster.partition(2);
    let set = ReadySet::new();
    let _watch = follower.watch(&set, 42);
    let woken = |tokens: &mut Vec<u64>| {
        tokens.clear();
        set.take_ready(tokens)
    };
    let mut tokens = Vec::new();
    assert!(!woken(&mut tokens), "nothing happens");
    cluster.net.silent.lock().insert(BrokerId(3));
    client.send(&cluster.partition(1), 9, batch(5, 100), Acks::All);
    cluster.until("it has them", || follower.offsets().log_end == at(10));
    assert!(!woken(&mut tokens), "an append is nothing to be read yet");
    cluster.net.silent.lock().clear();
    cluster.until("it is told", || follower.high_watermark() == at(10));
    assert!(woken(&mut tokens));
    assert_eq!(tokens, [42]);

    // It loses its leader: its readers are told to go, and do not wait for what will not come.
    let connections = cluster.net.connections.lock().clone();
    let own = connections.iter().rfind(|c| c.follower == BrokerId(2)).expect("it follows");
    cluster.net.cut(own);
    assert!(woken(&mut tokens));
    assert!(matches!(ask(&follower, fetch(10)), Err(FetchError::NotLeader { .. })));
}

/// Only the leader says that an offset is out of range: a consumer resets its place because of it.
#[test]
fn what_a_follower_does_not_have_only_the_leader_can_explain() {
    let (cluster, _) = written(4);
    let (leader, follower) = (cluster.partition(1), cluster.partition(2));
    let unknown = |from: i64, log_start| {
        Err(FetchError::NotKnownHere {
            offset: at(from),
            log_start_offset: at(log_start),
            log_end_offset: at(20),
            leader: Some(BrokerId(1)),
            epoch: leader.leads().expect("it leads"),
        })
    };
    assert_eq!(ask(&follower, fetch(21)), unknown(21, 0));
    // A past that the leader would say parts from the log, as well.
    let current = leader.leads().expect("it leads");
    let read_before = |from, last| Fetch { last_read_epoch: Some(epoch(last)), ..fetch(from) };
    assert_eq!(ask(&follower, read_before(21, current.get())), unknown(21, 0));
    assert_eq!(ask(&follower, read_before(5, current.get() + 1)), unknown(5, 0));
    assert!(ask(&follower, read_before(5, current.get())).is_ok());

    assert_eq!(block_on(leader.delete_records(Some(at(10)), None)), Ok(at(10)));
    cluster.until("it deletes them, too", || follower.offsets().log_start == at(10));
    assert_eq!(ask(&follower, fetch(9)), unknown(9, 10));
    assert!(matches!(ask(&leader, fetch(9)), Err(FetchError::OutOfRange { .. })));
    assert!(!follower.serves_in_sync(Some(at(9))));
}

#[test]
fn epochs_are_checked_as_by_a_leader() {
    let (cluster, client) = written(1);
    let follower = cluster.partition(3);
    let old = cluster.partition(1).leads().expect("it leads");
    let knows = |epoch| Fetch { leader_epoch: Some(epoch), ..fetch(0) };
    assert!(ask(&follower, knows(old)).is_ok());
    assert_eq!(
        ask(&follower, knows(old.next())),
        Err(FetchError::UnknownLeaderEpoch { given: old.next(), current: old })
    );
    cluster.command(&cluster.election(2)).unwrap();
    produce(&cluster, &client, 7);
    cluster.until_in_sync();
    let followers = [cluster.partition(1), cluster.partition(3)];
    cluster.until("they serve", || followers.iter().all(|copy| copy.serves_in_sync(None)));
    assert_eq!(
        ask(&follower, knows(old)),
        Err(FetchError::FencedLeaderEpoch { given: old, current: old.next() })
    );
    assert!(ask(&follower, knows(old.next())).is_ok());
    // Who led before is a follower like any other.
    assert_eq!(ends(&cluster.partition(1), 0), (10, 10));
}

#[test]
fn who_is_not_in_sync_sends_readers_away_until_it_is() {
    let (cluster, client) = written(1);
    let follower = cluster.partition(3);
    cluster.command(&cluster.presence(3, Presence::Fenced)).unwrap();
    let refused = ask(&follower, fetch(0));
    assert!(matches!(refused, Err(FetchError::NotLeader { .. })), "{refused:?}");
    assert!(!follower.serves_in_sync(None));
    produce(&cluster, &client, 7);
    cluster.command(&cluster.presence(3, Presence::Active)).unwrap();
    // A member again, it asks anew, and has to hear that it is granted.
    cluster.until_in_sync();
    cluster.until("it serves again", || follower.serves_in_sync(None));
    assert_eq!(ends(&follower, 0), (10, 10));
}

#[test]
fn places_by_name_are_those_that_the_follower_knows() {
    let (cluster, _) = written(2);
    let follower = cluster.partition(2);
    for (spec, expected) in [(OffsetSpec::Earliest, 0), (OffsetSpec::Latest, 10)] {
        let found = block_on(follower.offset_at_any(spec, None, Copies::InSync)).unwrap();
        assert_eq!(found.map(|found| found.offset), Some(at(expected)), "{spec:?}");
        let refused = block_on(follower.offset_at(spec, None));
        assert!(matches!(refused, Err(OffsetsError::Fetch(FetchError::NotLeader { .. }))));
    }
}
