//! Unary `Fetch`.

use riverrun_proto::epoch::{LeaderEpoch, PartitionEpoch};
use v1::partition_data::Outcome;

use super::{test_support::*, *};
use crate::replica::Registration;

fn request(partitions: Vec<v1::PartitionFrom>) -> v1::FetchRequest {
    v1::FetchRequest { partitions, format: v1::ReadFormat::Encoded.into(), ..Default::default() }
}

fn wait(d: Duration) -> Option<prost_types::Duration> {
    Some(convert::wire_duration(d))
}

async fn fetch(broker: &Broker, request: v1::FetchRequest) -> Vec<v1::PartitionData> {
    soon(broker.consumer().fetch(request)).await.unwrap().into_inner().partitions
}

fn batches_of(data: &v1::PartitionData) -> Vec<String> {
    match data.outcome.as_ref().unwrap() {
        Outcome::Batches(batches) => values(batches),
        other => panic!("{other:?}"),
    }
}

fn error_in(data: &v1::PartitionData) -> &v1::Error {
    match data.outcome.as_ref().unwrap() {
        Outcome::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_there_comes_at_once_in_the_order_asked() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 3).await;
    broker.write(topic, 0, &["a", "b"]).await;
    broker.write(topic, 2, &["c"]).await;
    let partitions = [2, 1, 0].map(|partition| from_offset(named("orders", partition), 0)).to_vec();
    let data = fetch(&broker, request(partitions)).await;
    assert_eq!(batches_of(&data[0]), ["c"]);
    assert_eq!(batches_of(&data[1]), [""; 0]);
    assert_eq!(batches_of(&data[2]), ["a", "b"]);
    assert_eq!(data[2].partition, Some(named("orders", 0)), "named as it was asked for");
    let ab = &data[2];
    assert_eq!(
        (ab.next_offset, ab.high_watermark, ab.log_start_offset),
        (Some(2), Some(2), Some(0))
    );
    assert_eq!(ab.last_stable_offset, Some(2));
    assert!(ab.caught_up);
    assert_eq!(broker.metric("riverrun_records_fetched_total{topic=\"orders\"}"), 3.0);
}

#[tokio::test]
async fn records_come_plain_where_they_are_asked_for() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a", "b", "c"]).await;
    let asked = v1::FetchRequest { format: 0, ..request(vec![from_offset(by_id(topic, 0), 1)]) };
    let data = fetch(&broker, asked).await;
    let Some(Outcome::Records(records)) = &data[0].outcome else { panic!("{data:?}") };
    assert_eq!(plain_values(records), ["b", "c"]);
    assert_eq!(records.records[0].offset, 1);
}

#[tokio::test]
async fn an_offset_within_a_batch_gives_the_whole_batch() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let request_three = v1::ProduceRequest {
        topic: "orders".into(),
        records: Some(records(&["a", "b", "c"])),
        ..Default::default()
    };
    broker.producer().produce(request_three).await.unwrap();
    let place = from_offset(by_id(topic, 0), 1);
    assert_eq!(batches_of(&fetch(&broker, request(vec![place.clone()])).await[0]), ["a", "b", "c"]);
    let plain = v1::FetchRequest { format: v1::ReadFormat::Records.into(), ..request(vec![place]) };
    let data = fetch(&broker, plain).await;
    let Some(Outcome::Records(records)) = &data[0].outcome else { panic!("{data:?}") };
    assert_eq!(plain_values(records), ["b", "c"], "plain records begin where they were asked for");
}

#[tokio::test]
async fn a_long_poll_is_woken_by_a_write() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    let partitions = vec![from_offset(by_id(topic, 0), 0), from_offset(by_id(topic, 1), 0)];
    let asked = v1::FetchRequest { max_wait: wait(PATIENCE), ..request(partitions) };
    let polling = tokio::spawn({
        let mut consumer = broker.consumer();
        async move { consumer.fetch(asked).await }
    });
    until(|| broker.metric("riverrun_bound_used{bound=\"fetch.waiters.max\"}") == 1.0).await;
    broker.write(topic, 1, &["a"]).await;
    let data = soon(polling).await.unwrap().unwrap().into_inner().partitions;
    assert_eq!(batches_of(&data[1]), ["a"]);
    assert_eq!(broker.metric("riverrun_bound_used{bound=\"fetch.waiters.max\"}"), 0.0);
}

#[tokio::test]
async fn min_bytes_are_gathered_until_the_wait_is_over() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a"]).await;
    let one = batch(&["a"]).len() as u32;
    let asked = |min_bytes, max_wait| v1::FetchRequest {
        min_bytes,
        max_wait: wait(max_wait),
        ..request(vec![from_offset(by_id(topic, 0), 0)])
    };
    let polling = tokio::spawn({
        let mut consumer = broker.consumer();
        let asked = asked(2 * one, PATIENCE);
        async move { consumer.fetch(asked).await }
    });
    until(|| broker.metric("riverrun_bound_used{bound=\"fetch.waiters.max\"}") == 1.0).await;
    broker.write(topic, 0, &["b"]).await;
    let data = soon(polling).await.unwrap().unwrap().into_inner().partitions;
    assert_eq!(batches_of(&data[0]), ["a", "b"], "both, in one answer");

    let data = fetch(&broker, asked(1 << 20, Duration::from_millis(5))).await;
    assert_eq!(batches_of(&data[0]), ["a", "b"], "what there is when the wait is over");
}

#[tokio::test]
async fn limits_on_bytes_hold_but_for_one_batch() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    broker.write(topic, 0, &["a", "b", "c"]).await;
    broker.write(topic, 1, &["d"]).await;
    let place = from_offset(by_id(topic, 0), 0);
    let tiny = v1::PartitionFrom { max_bytes: 1, ..place.clone() };
    let data = fetch(&broker, request(vec![tiny, from_offset(by_id(topic, 1), 0)])).await;
    assert_eq!(batches_of(&data[0]), ["a"], "the partition's own limit");
    assert_eq!(batches_of(&data[1]), ["d"]);
    assert!(!data[0].caught_up);
    let asked = v1::FetchRequest { max_bytes: 1, ..request(vec![place]) };
    assert_eq!(batches_of(&fetch(&broker, asked).await[0]), ["a"], "the request's limit");
}

/// Most gRPC clients refuse a message that is larger than they were set to take: only a single batch
/// may exceed what was asked for.
#[tokio::test]
async fn two_batches_never_exceed_what_was_asked_for() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    let value = "x".repeat(300);
    broker.write(topic, 0, &[value.as_str(); 5]).await;
    broker.write(topic, 1, &[value.as_str()]).await;
    let size = batch(&[&value]).len() as u32;
    let both = vec![from_offset(by_id(topic, 0), 0), from_offset(by_id(topic, 1), 0)];
    let asked = v1::FetchRequest { max_bytes: 2 * size + 10, ..request(both) };
    let data = fetch(&broker, asked).await;
    let bytes: u64 = data.iter().map(|item| item.credit_bytes).sum();
    assert_eq!(bytes, u64::from(2 * size));
    for item in &data {
        let read = batches_of(item).len() as i64;
        assert_eq!(item.next_offset, Some(read), "what was left out is not skipped");
    }
    let limited = v1::PartitionFrom { max_bytes: size + 10, ..from_offset(by_id(topic, 0), 0) };
    let data = fetch(&broker, request(vec![limited])).await;
    assert_eq!(batches_of(&data[0]).len(), 1);
    assert!(!data[0].caught_up);
}

#[tokio::test]
async fn a_partitions_error_leaves_the_others_alone() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    broker.write(topic, 0, &["a"]).await;
    let old_epoch =
        v1::PartitionFrom { leader_epoch: Some(1000), ..from_offset(by_id(topic, 0), 0) };
    let table = [
        (from_offset(by_id(topic, 1), 7), "OFFSET_OUT_OF_RANGE"),
        (from_offset(by_id(topic, 2), 0), "UNKNOWN_TOPIC_OR_PARTITION"),
        (from_offset(named("nowhere", 0), 0), "UNKNOWN_TOPIC_OR_PARTITION"),
        (from_offset(by_id(TopicId::random(), 0), 0), "UNKNOWN_TOPIC_ID"),
    ];
    for (bad, reason) in table {
        let asked = v1::FetchRequest {
            max_wait: wait(PATIENCE),
            ..request(vec![bad.clone(), from_offset(by_id(topic, 0), 0)])
        };
        let data = fetch(&broker, asked).await;
        assert_eq!(error_in(&data[0]).reason, reason);
        assert_eq!(data[0].partition, bad.partition);
        assert_eq!(data[0].next_offset, None);
        assert_eq!(batches_of(&data[1]), ["a"]);
    }
    let data = fetch(&broker, request(vec![old_epoch])).await;
    assert_eq!(error_in(&data[0]).reason, "UNKNOWN_LEADER_EPOCH");
}

#[tokio::test]
async fn offsets_below_the_log_are_out_of_range_and_say_where_it_starts() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a", "b", "c"]).await;
    let delete = v1::DeleteRecordsRequest {
        partitions: vec![v1::DeleteRecordsBefore {
            partition: Some(by_id(topic, 0)),
            before_offset: Some(2),
        }],
        ..Default::default()
    };
    broker.admin().delete_records(delete).await.unwrap();
    let data = fetch(&broker, request(vec![from_offset(by_id(topic, 0), 0)])).await;
    let error = error_in(&data[0]);
    assert_eq!(error.reason, "OFFSET_OUT_OF_RANGE");
    assert_eq!(error.metadata["log_start_offset"], "2");
    assert!(!error.retriable && error.definite);
}

#[tokio::test]
async fn a_past_the_log_does_not_have_is_told() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a"]).await;
    let partition = broker.partition(topic, 0);
    let old = partition.leads().unwrap();
    partition.register(Registration {
        leader: Some(BrokerId(1)),
        leader_epoch: old.next(),
        partition_epoch: PartitionEpoch::new(100).unwrap(),
        replicas: vec![BrokerId(1)],
        isr: vec![BrokerId(1)],
        min_isr: 1,
    });
    broker.write(topic, 0, &["b"]).await;
    let read_before = |epoch: LeaderEpoch, offset| v1::PartitionFrom {
        last_read_epoch: Some(epoch.get()),
        ..from_offset(by_id(topic, 0), offset)
    };
    assert_eq!(batches_of(&fetch(&broker, request(vec![read_before(old, 1)])).await[0]), ["b"]);
    let data = fetch(&broker, request(vec![read_before(old, 2)])).await;
    let Some(Outcome::Diverging(diverging)) = &data[0].outcome else { panic!("{data:?}") };
    let expected = v1::Diverging { leader_epoch: old.get(), end_offset: 1 };
    assert_eq!(*diverging, expected, "the reader read a second record of the old epoch");

    let fenced =
        v1::PartitionFrom { leader_epoch: Some(old.get()), ..from_offset(by_id(topic, 0), 0) };
    let data = fetch(&broker, request(vec![fenced])).await;
    assert_eq!(error_in(&data[0]).reason, "FENCED_LEADER_EPOCH");
}

#[tokio::test]
async fn calls_that_make_no_sense_are_refused() {
    let broker = Broker::with(|setup| setup.limits.fetch_partitions_max = 2).await;
    let topic = broker.topic("orders", 3).await;
    let place = |partition| from_offset(by_id(topic, partition), 0);
    let table = [
        ("none", request(vec![])),
        ("too many", request(vec![place(0), place(1), place(2)])),
        ("twice", request(vec![place(0), place(0)])),
        ("unnamed", request(vec![v1::PartitionFrom::default()])),
        ("format", v1::FetchRequest { format: 9, ..request(vec![place(0)]) }),
        ("isolation", v1::FetchRequest { isolation: 9, ..request(vec![place(0)]) }),
    ];
    for (name, asked) in table {
        assert_eq!(reason_of(broker.consumer().fetch(asked).await), "INVALID_REQUEST", "{name}");
    }
    let hits = broker.metric("riverrun_bound_hits_total{bound=\"fetch.partitions.max\"}");
    assert_eq!(hits, 1.0);
}

#[tokio::test]
async fn past_the_number_of_waiters_a_fetch_does_not_wait() {
    let broker = Broker::with(|setup| setup.limits.fetch_waiters_max = 0).await;
    let topic = broker.topic("orders", 1).await;
    let asked = v1::FetchRequest {
        max_wait: wait(PATIENCE * 2),
        ..request(vec![from_offset(by_id(topic, 0), 0)])
    };
    let data = fetch(&broker, asked).await;
    assert_eq!(batches_of(&data[0]), [""; 0]);
    assert!(broker.metric("riverrun_bound_hits_total{bound=\"fetch.waiters.max\"}") >= 1.0);
}

#[tokio::test]
async fn no_client_makes_a_fetch_wait_longer_than_the_operator_allows() {
    let broker = Broker::with(|setup| setup.limits.fetch_wait_max = Duration::from_millis(5)).await;
    let topic = broker.topic("orders", 1).await;
    let asked = v1::FetchRequest {
        max_wait: wait(PATIENCE * 2),
        ..request(vec![from_offset(by_id(topic, 0), 0)])
    };
    assert_eq!(batches_of(&fetch(&broker, asked).await[0]), [""; 0]);
}

/// Cold reads go through the pool; the answer waits for them whatever the wait.
#[tokio::test]
async fn cold_data_comes_even_without_a_wait() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a", "b"]).await;
    broker.disk.set_cold(true);
    let asked = v1::FetchRequest {
        max_wait: wait(Duration::ZERO),
        ..request(vec![from_offset(by_id(topic, 0), 0)])
    };
    assert_eq!(batches_of(&fetch(&broker, asked).await[0]), ["a", "b"]);
}

/// Large answers share a budget, which is given back when the answer has been sent.
#[tokio::test]
async fn a_large_answer_takes_memory_until_it_is_sent() {
    let broker = Broker::with(|setup| setup.limits.fetch_memory_bytes = 256 << 10).await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["x".repeat(200 << 10).as_str()]).await;
    for _ in 0..5 {
        let data = fetch(&broker, request(vec![from_offset(by_id(topic, 0), 0)])).await;
        assert_eq!(batches_of(&data[0])[0].len(), 200 << 10);
    }
    until(|| broker.metric("riverrun_memory_budget_used_bytes{pool=\"fetch\"}") == 0.0).await;
}
