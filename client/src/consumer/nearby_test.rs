//! A consumer that named its rack, against the test cluster: whom it reads from, and what it does when
//! that one fails.

use std::time::Duration;

use futures::StreamExt;
use riverrun_proto::{ids::TopicId, reason::Reason};

use super::*;
use crate::test_broker::{TestCluster, error};

const SECOND: Duration = Duration::from_secs(1);
const LEADER: u32 = 1;
const REPLICA: u32 = 2;

/// Broker 1 leads, broker 2 is nearby.
async fn nearby(rack: &str) -> (TestCluster, TopicId, Consumer) {
    let cluster = TestCluster::start(2);
    let id = cluster.create_topic("t", 1);
    cluster.change(|state| state.nearby.insert((id, 0), REPLICA));
    let client = cluster.client().await;
    let consumer = client.consumer().assign([("t", 0, Position::Earliest)]).rack(rack);
    (cluster, id, consumer.build().await.unwrap())
}

async fn expect(consumer: &mut Consumer, offsets: std::ops::Range<i64>) {
    for offset in offsets {
        let next = tokio::time::timeout(120 * SECOND, consumer.next()).await;
        let record = next.expect("nothing came in two minutes").unwrap().unwrap();
        assert_eq!(record.offset(), offset);
    }
}

/// Appends ten, reads them, and says who served them.
async fn ten(cluster: &TestCluster, consumer: &mut Consumer, from: &mut i64) -> Vec<u32> {
    cluster.change(|state| state.seen.served.clear());
    cluster.append("t", 0, &["x"; 10]);
    expect(consumer, *from..*from + 10).await;
    *from += 10;
    cluster.state().seen.served.keys().copied().collect()
}

#[tokio::test(start_paused = true)]
async fn it_goes_where_the_leader_sends_it_and_asks_again_when_that_is_old() {
    let (cluster, _, mut consumer) = nearby("here").await;
    let mut at = 0;
    assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [REPLICA]);
    // The choice holds for a while, without a word to the leader, and no longer.
    for minute in 1..=4 {
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [REPLICA], "{minute}");
    }
    let streams = cluster.state().seen.fetch_streams;
    assert_eq!(streams, 2, "one to each");
    tokio::time::sleep(61 * SECOND).await;
    assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [REPLICA]);
    assert!(cluster.state().seen.fetch_streams > streams, "the leader was asked again");
}

#[tokio::test(start_paused = true)]
async fn without_a_rack_there_is_the_leader() {
    let (cluster, _, mut consumer) = nearby("").await;
    assert_eq!(ten(&cluster, &mut consumer, &mut 0).await, [LEADER]);
}

/// Whatever a replica says, its leader may know better; nothing is lost, read twice, or reset.
#[tokio::test(start_paused = true)]
async fn any_error_of_a_replica_sends_it_to_the_leader_for_a_while() {
    for reason in [
        Reason::NotLeaderOrFollower,
        Reason::OffsetNotAvailable,
        Reason::OffsetOutOfRange,
        Reason::FencedLeaderEpoch,
        Reason::UnknownLeaderEpoch,
        Reason::UnknownTopicId,
        Reason::CorruptRecord,
        Reason::KafkaStorageError,
    ] {
        let (cluster, id, mut consumer) = nearby("here").await;
        let mut at = 0;
        assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [REPLICA]);
        cluster.faults(|faults| {
            let retriable = reason == Reason::OffsetNotAvailable;
            faults.fetch_errors.insert((id, 0), error(reason, retriable, true));
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(cluster.state().faults.fetch_errors.is_empty(), "{reason}: it met the error");
        assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [LEADER], "{reason}");
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [REPLICA], "{reason}: back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_is_left_and_found_again() {
    let (cluster, _, mut consumer) = nearby("here").await;
    let mut at = 0;
    assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [REPLICA]);
    cluster.stop(REPLICA);
    // Its stream may look once more before it finds that its connection is gone; nothing arrives.
    assert!(ten(&cluster, &mut consumer, &mut at).await.contains(&LEADER));
    tokio::time::sleep(SECOND).await;
    // The leader goes on to name it: it is tried, less and less often, and costs nothing.
    for _ in 0..20 {
        assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [LEADER]);
        tokio::time::sleep(SECOND).await;
    }
    cluster.restart(REPLICA);
    let mut served = Vec::new();
    for _ in 0..60 {
        tokio::time::sleep(SECOND).await;
        served = ten(&cluster, &mut consumer, &mut at).await;
        if served == [REPLICA] {
            break;
        }
    }
    assert_eq!(served, [REPLICA]);
}

#[tokio::test(start_paused = true)]
async fn the_leader_may_move_under_it() {
    let (cluster, id, mut consumer) = nearby("here").await;
    let mut at = 0;
    assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [REPLICA]);
    // The replica leads now, and goes on serving.
    cluster.move_leader("t", 0, REPLICA);
    assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [REPLICA]);
    // And then the other one again, and nobody is nearby any more.
    cluster.change(|state| state.nearby.remove(&(id, 0)));
    cluster.move_leader("t", 0, LEADER);
    assert_eq!(ten(&cluster, &mut consumer, &mut at).await, [LEADER]);
}

#[tokio::test]
async fn a_rack_has_a_length() {
    let client = TestCluster::start(1).client().await;
    let consumer = client.consumer().assign([("t", 0, Position::Earliest)]).rack("x".repeat(256));
    let refused = consumer.build().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}
