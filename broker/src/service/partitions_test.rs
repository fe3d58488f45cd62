use std::collections::BTreeSet;

use v1::partition_service_client::PartitionServiceClient;

use super::{
    super::test_support::{Broker, error_of, reason_of},
    *,
};

fn all() -> v1::DescribePartitionsRequest {
    v1::DescribePartitionsRequest::default()
}

fn place(topic: &str, partition: i32) -> Option<v1::TopicPartition> {
    Some(v1::TopicPartition { topic: topic.to_owned(), partition, ..Default::default() })
}

async fn page(
    broker: &Broker,
    request: v1::DescribePartitionsRequest,
) -> v1::DescribePartitionsResponse {
    let mut client = PartitionServiceClient::new(broker.channel.clone());
    client.describe_partitions(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_partition_is_told_with_what_its_broker_knows_of_it() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    broker.write(topic, 1, &["a", "b"]).await;
    let request = v1::DescribePartitionsRequest {
        topic: "orders".into(),
        partitions: vec![1],
        ..Default::default()
    };
    let told = page(&broker, request).await;
    assert_eq!((told.partitions.len(), told.broker_id), (1, 1));
    let told = &told.partitions[0];
    assert_eq!((told.topic.as_str(), told.partition, told.leader), ("orders", 1, Some(1)));
    assert_eq!((&told.replicas, &told.in_sync_replicas), (&vec![1], &vec![1]));
    let here = told.here.unwrap();
    assert_eq!((here.log_start_offset, here.high_watermark, here.log_end_offset), (0, 2, 2));
    assert_eq!(here.last_leader_epoch, Some(told.leader_epoch));
    let leading = told.leading.as_ref().unwrap();
    assert!(leading.followers.is_empty() && leading.uncommitted_for.is_none());
    let first = page(&broker, all()).await.partitions.remove(0);
    assert_eq!(first.here.unwrap().last_leader_epoch, None, "nothing was written");
}

#[tokio::test]
async fn pages_come_one_after_another_and_miss_nothing() {
    let broker = Broker::start().await;
    for (topic, partitions) in [("a", 3), ("b", 1), ("c", 2)] {
        broker.topic(topic, partitions).await;
    }
    let (mut seen, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = v1::DescribePartitionsRequest { page_size: 2, page_token: token, ..all() };
        let told = page(&broker, request).await;
        assert!(told.partitions.len() <= 2);
        seen.extend(told.partitions.iter().map(|p| (p.topic.clone(), p.partition)));
        pages += 1;
        token = told.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, 3);
    let wanted: Vec<_> = [("a", 3), ("b", 1), ("c", 2)]
        .into_iter()
        .flat_map(|(topic, n)| (0..n).map(move |at| (topic.to_owned(), at)))
        .collect();
    assert_eq!(seen, wanted);
    // A topic that went in between neither repeats nor hides others.
    let after = v1::DescribePartitionsRequest { page_token: "a/1".into(), ..all() };
    broker
        .admin()
        .delete_topic(v1::DeleteTopicRequest { name: "a".into(), ..Default::default() })
        .await
        .unwrap();
    let rest: BTreeSet<_> =
        page(&broker, after).await.partitions.into_iter().map(|p| p.topic).collect();
    assert_eq!(rest, BTreeSet::from(["b".to_owned(), "c".to_owned()]));
}

#[tokio::test]
async fn only_what_passes_the_filter_is_told() {
    let broker = Broker::start().await;
    broker.topic("orders", 2).await;
    for filter in [Filter::NotWell, Filter::Reassigning] {
        let request = v1::DescribePartitionsRequest { filter: filter.into(), ..all() };
        assert!(page(&broker, request).await.partitions.is_empty(), "{filter:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_or_done_is_said() {
    let broker = Broker::start().await;
    broker.topic("orders", 1).await;
    let mut client = PartitionServiceClient::new(broker.channel.clone());
    let bad = [
        (
            v1::DescribePartitionsRequest { topic: "none".into(), ..all() },
            "UNKNOWN_TOPIC_OR_PARTITION",
        ),
        (
            v1::DescribePartitionsRequest { topic: "orders".into(), partitions: vec![1], ..all() },
            "UNKNOWN_TOPIC_OR_PARTITION",
        ),
        (v1::DescribePartitionsRequest { partitions: vec![0], ..all() }, "INVALID_REQUEST"),
        (v1::DescribePartitionsRequest { filter: 9, ..all() }, "INVALID_REQUEST"),
        (v1::DescribePartitionsRequest { page_token: "a".into(), ..all() }, "INVALID_REQUEST"),
        (v1::DescribePartitionsRequest { page_token: "a/-1".into(), ..all() }, "INVALID_REQUEST"),
    ];
    for (request, reason) in bad {
        assert_eq!(reason_of(client.describe_partitions(request).await), reason);
    }
    let elect =
        |partition, choice| v1::ElectLeaderRequest { partition, choice, ..Default::default() };
    let preferred = Some(WireChoice::Preferred(true));
    let bad = [
        (elect(None, preferred), "INVALID_REQUEST"),
        (elect(place("orders", 0), None), "INVALID_REQUEST"),
        (elect(place("orders", 7), preferred), "UNKNOWN_TOPIC_OR_PARTITION"),
        (elect(place("orders", 0), preferred), "ELECTION_NOT_NEEDED"),
        (elect(place("orders", 0), Some(WireChoice::Member(3))), "INVALID_REPLICA_ASSIGNMENT"),
        (elect(place("orders", 0), Some(WireChoice::Unclean(1))), "ELECTION_NOT_NEEDED"),
    ];
    for (request, reason) in bad {
        let failed = client.elect_leader(request).await.unwrap_err();
        let error = error_of(&failed);
        assert_eq!(error.reason, reason, "{error:?}");
        assert!(error.definite && !error.retriable, "{error:?}");
    }
    let to = |to: &[u32]| v1::ReassignPartitionRequest {
        partition: place("orders", 0),
        to: to.to_vec(),
        ..Default::default()
    };
    let stale = v1::ReassignPartitionRequest { expected_partition_epoch: Some(9), ..to(&[1]) };
    for (request, reason) in [
        (to(&[]), "INVALID_REPLICA_ASSIGNMENT"),
        (to(&[1; 16]), "INVALID_REPLICA_ASSIGNMENT"),
        (to(&[1]), "INVALID_REPLICA_ASSIGNMENT"),
        (to(&[2]), "BROKER_ID_NOT_REGISTERED"),
        (stale, "POLICY_VIOLATION"),
    ] {
        assert_eq!(reason_of(client.reassign_partition(request).await), reason);
    }
    let cancel =
        v1::CancelReassignmentRequest { partition: place("orders", 0), ..Default::default() };
    assert_eq!(reason_of(client.cancel_reassignment(cancel).await), "NO_REASSIGNMENT_IN_PROGRESS");
}
