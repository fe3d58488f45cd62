//! Partitions whose disk hangs, beside others that are fine.

use v1::produce_stream_ack::Outcome;

use super::{
    produce_stream_test::{Client, append},
    test_support::*,
    *,
};

const ADMISSION_BYTES: usize = 256 << 10;
const SHARE_HITS: &str = "riverrun_bound_hits_total{bound=\"produce.partition.share\"}";
const SHARE_USED: &str = "riverrun_bound_used{bound=\"produce.partition.share\"}";

/// A broker with a topic whose disk can be held up and one that needs none.
async fn broker(admission_wait: Duration) -> (Broker, TopicId, TopicId) {
    let broker = Broker::with(|setup| {
        setup.io_threads = 1;
        setup.limits.admission_bytes = ADMISSION_BYTES;
        setup.limits.admission_wait = admission_wait;
    })
    .await;
    let hanging = broker.topic("hanging", 1).await;
    let free = broker.topic_with("free", 1, &[("durability", "memory")]).await;
    broker.write(hanging, 0, &["warm"]).await;
    broker.write(free, 0, &["warm"]).await;
    (broker, hanging, free)
}

fn large() -> Bytes {
    batch(&["x".repeat(8000).as_str()])
}

/// Streams that all write to the partition that hangs have it wait for its share, and not for the
/// rest of the budget.
#[tokio::test]
async fn a_hanging_partition_has_its_share_and_others_go_on() {
    let (broker, hanging, free) = broker(PATIENCE * 10).await;
    let gate = broker.hold_log_work(1).await;
    let mut blocked = Vec::new();
    for _ in 0..6 {
        let client = Client::open(&broker).await;
        client.send((0..10).map(|id| append(id, hanging, 0, large())).collect());
        blocked.push(client);
    }
    // Six streams with ten batches each want twice the budget.
    until(|| broker.metric(SHARE_HITS) >= 6.0).await;
    let limit = broker.metric("riverrun_bound_limit{bound=\"produce.partition.share\"}");
    assert_eq!(limit, (ADMISSION_BYTES / 4) as f64);
    assert!(broker.metric(SHARE_USED) <= limit);

    let mut client = Client::open(&broker).await;
    for id in 0..50 {
        client.send(vec![append(id, free, 0, batch(&["goes"]))]);
        assert!(client.result().await.base_offset.is_some());
    }
    drop(gate);
    for client in &mut blocked {
        for id in 0..10 {
            let ack = client.ack().await;
            assert_eq!(ack.correlation_id, id, "nothing is refused, nothing overtaken");
            assert!(matches!(ack.outcome, Some(Outcome::Result(_))), "{ack:?}");
        }
    }
    until(|| broker.metric(SHARE_USED) == 0.0).await;
}

/// A stream that writes to both: what hangs is refused after a while, and the other goes on.
#[tokio::test]
async fn a_stream_is_not_held_up_for_good_by_a_partition_that_hangs() {
    let (broker, hanging, free) = broker(Duration::from_millis(50)).await;
    let gate = broker.hold_log_work(1).await;
    let mut client = Client::open(&broker).await;
    client.send((0..20).map(|id| append(id, hanging, 0, large())).collect());
    client.send((100..110).map(|id| append(id, free, 0, batch(&["goes"]))).collect());
    let (mut refused, mut taken) = (Vec::new(), Vec::new());
    while taken.len() < 10 {
        let ack = client.ack().await;
        match ack.outcome {
            Some(Outcome::Error(error)) => {
                assert_eq!(error.reason, "THROTTLING_QUOTA_EXCEEDED");
                assert!(error.retriable && error.definite && error.retry_after.is_some());
                refused.push(ack.correlation_id);
            }
            Some(Outcome::Result(_)) => taken.push(ack.correlation_id),
            None => panic!("{ack:?}"),
        }
    }
    assert_eq!(taken, (100..110).collect::<Vec<_>>());
    let first = refused[0];
    assert!(first >= 5, "its share was taken: {refused:?}");
    assert_eq!(refused, (first..20).collect::<Vec<_>>(), "and all behind that, none overtakes");

    // When it gets on again, what was refused may come again.
    drop(gate);
    for id in 0..first {
        assert_eq!(client.ack().await.correlation_id, id);
    }
    client.send((first..20).map(|id| append(id, hanging, 0, large())).collect());
    for id in first..20 {
        let ack = client.ack().await;
        assert_eq!(ack.correlation_id, id);
        assert!(matches!(ack.outcome, Some(Outcome::Result(_))), "{ack:?}");
    }
}

/// A unary call over several partitions is answered for each.
#[tokio::test]
async fn a_call_over_several_partitions_is_not_refused_for_one() {
    let broker = Broker::with(|setup| {
        setup.io_threads = 1;
        setup.limits.admission_bytes = ADMISSION_BYTES;
        setup.limits.admission_wait = Duration::from_millis(50);
    })
    .await;
    let topic = broker.topic("orders", 2).await;
    broker.write(topic, 0, &["warm"]).await;
    broker.write(topic, 1, &["warm"]).await;
    let _gate = broker.hold_log_work(1).await;
    let mut client = Client::open(&broker).await;
    client.send((0..20).map(|id| append(id, topic, 0, large())).collect());
    until(|| broker.metric(SHARE_HITS) >= 1.0).await;

    // Kafka's murmur2 puts some of these keys on either partition.
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    // Each larger than what is left of the share.
    let value = "x".repeat(9000);
    let record =
        |key: &str| v1::Record { key: Some(Bytes::from(key.to_owned())), ..record(&value) };
    let request = v1::ProduceRequest {
        topic_id: convert::wire_topic_id(topic),
        records: Some(v1::RecordList { records: keys.map(record).to_vec(), compression: 0 }),
        acks: v1::Acks::Leader.into(),
        ..Default::default()
    };
    let answer = soon(broker.producer().produce(request)).await.unwrap().into_inner();
    assert_eq!(answer.results.len(), keys.len());
    let (mut refused, mut taken) = (0, 0);
    for (key, result) in keys.iter().zip(&answer.results) {
        let to = riverrun_proto::murmur2::partition_of(key.as_bytes(), 2);
        match result.outcome.as_ref().unwrap() {
            v1::record_result::Outcome::Ack(ack) => {
                assert_eq!((ack.partition, to), (1, 1), "{key}");
                taken += 1;
            }
            v1::record_result::Outcome::Error(error) => {
                assert_eq!(to, 0, "{key}: {error:?}");
                assert_eq!(error.reason, "THROTTLING_QUOTA_EXCEEDED");
                assert!(error.retriable && error.definite);
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && taken > 0, "{refused} refused, {taken} taken");
    assert!(client.ack().await.outcome.is_some());
}
