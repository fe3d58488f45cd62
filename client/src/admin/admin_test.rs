//! Admin calls against the test cluster.

use riverrun_proto::reason::Reason;

use super::*;
use crate::{
    ErrorKind,
    test_broker::{TestCluster, error},
    topic::Position,
};

#[tokio::test(start_paused = true)]
async fn a_topics_life() {
    let cluster = TestCluster::start(2);
    let admin = cluster.client().await.admin();
    let create = || admin.create_topic("orders").partitions(3).config("retention.ms", "7d");
    assert_eq!(create().validate_only().send().await.unwrap().partitions.len(), 3);
    assert_eq!(create().send().await.unwrap().name.as_ref(), "orders");
    assert_eq!(create().send().await.unwrap_err().kind(), ErrorKind::TopicExists);
    assert_eq!(admin.create_partitions("orders", 5).await.unwrap().partitions.len(), 5);
    assert_eq!(
        admin.create_partitions("orders", 5).await.unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    let altered =
        admin.alter_configs("orders").set("max.message.bytes", "2MiB").reset("retention.ms");
    let configs = altered.send().await.unwrap();
    assert_eq!((configs.len(), configs[0].value.as_str()), (1, "2MiB"));
    cluster.append("orders", 2, &["a", "b", "c"]);
    let described = admin.describe_topic("orders").await.unwrap();
    let (index, offsets) = &described.partitions[2];
    assert_eq!((*index, offsets.as_ref().unwrap().high_watermark), (2, 3));
    assert_eq!(admin.topic("orders").await.unwrap().partitions[2].index, 2);
    admin.delete_topic("orders").await.unwrap();
    for error in [
        admin.delete_topic("orders").await.unwrap_err(),
        admin.describe_topic("orders").await.unwrap_err(),
        admin.topic("orders").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::UnknownTopic);
        assert!(error.to_string().contains("orders"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_pages_are_listed() {
    let cluster = TestCluster::start(1);
    for name in ["c", "a", "e", "b", "d"] {
        cluster.create_topic(name, 1);
    }
    let admin = cluster.client().await.admin();
    let topics = admin.list_topics().await.unwrap();
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_ref()).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    let page = admin.list_topics_page(2, "b").await.unwrap();
    assert_eq!((page.topics.len(), page.next_page_token.as_str()), (2, "d"));
    let brokers = admin.cluster().await.unwrap().brokers;
    assert_eq!(brokers[0].address.to_string(), "b1:9190");
}

#[tokio::test(start_paused = true)]
async fn each_partition_is_asked_at_its_leader_and_again_if_it_has_moved() {
    let cluster = TestCluster::start(3);
    cluster.create_topic("t", 4);
    for partition in 0..3 {
        for n in 0..10 {
            cluster.append("t", partition, &[&n.to_string()]);
        }
    }
    let admin = cluster.client().await.admin();
    let ask = async || {
        let at = |partition, position| (("t", partition), position);
        let listed = admin
            .list_offsets([
                at(0, Position::Earliest),
                at(1, Position::Latest),
                at(2, Position::FromEnd(3)),
                at(3, Position::FromEnd(3)),
                at(0, Position::Timestamp(1_004)),
                at(1, Position::Timestamp(9_000)),
                at(2, Position::Offset(7)),
                at(9, Position::Earliest),
            ])
            .await
            .unwrap();
        let unknown = listed[7].as_ref().unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::UnknownTopic);
        let listed: Vec<_> = listed.into_iter().take(7).map(Result::unwrap).collect();
        assert_eq!((listed[4].offset, listed[4].timestamp_ms), (4, Some(1_004)));
        listed.into_iter().map(|at| at.offset).collect::<Vec<_>>()
    };
    assert_eq!(ask().await, [0, 10, 7, 0, 4, 10, 7]);
    cluster.move_leader("t", 0, 3);
    cluster.move_leader("t", 1, 1);
    assert_eq!(ask().await, [0, 10, 7, 0, 4, 10, 7]);
    let newest = admin.max_timestamp_offsets([("t", 0), ("t", 3)]).await.unwrap();
    assert_eq!(newest[0].as_ref().unwrap().unwrap().offset, 9);
    assert_eq!(*newest[1].as_ref().unwrap(), None);
    let starts = admin.delete_records([(("t", 0), Some(4)), (("t", 2), None)]).await.unwrap();
    let starts: Vec<i64> = starts.into_iter().map(Result::unwrap).collect();
    assert_eq!(starts, [4, 10]);
    assert!(admin.list_offsets([(("nowhere", 0), Position::Latest)]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_change_is_repeated_only_if_nothing_can_have_happened() {
    let cluster = TestCluster::start(1);
    let admin = cluster.client().await.admin().timeout(Duration::from_secs(10));
    let refuse = |reason, retriable, definite| {
        let refusal = Some(error(reason, retriable, definite));
        cluster.faults(|faults| faults.refuse_calls = refusal);
    };
    let started = crate::clock::now();
    refuse(Reason::NotController, true, true);
    let error = admin.create_topic("t").send().await.unwrap_err();
    assert!(error.is_definite());
    assert!(crate::clock::now() - started > Duration::from_secs(8), "tried all that time");
    refuse(Reason::RequestTimedOut, true, false);
    let started = crate::clock::now();
    let error = admin.create_topic("t").send().await.unwrap_err();
    assert!(!error.is_definite());
    assert_eq!(crate::clock::now(), started, "not tried again");
    // Looking does no harm.
    let waiting = tokio::spawn({
        let admin = admin.clone();
        async move { admin.cluster().await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.faults(|faults| faults.refuse_calls = None);
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_controller_is_found_by_its_hint() {
    let cluster = TestCluster::start(2);
    let client = cluster.client().await;
    client.admin().cluster().await.unwrap();
    // Only broker 2 answers at first, and it sends the caller to the controller.
    cluster.stop(1);
    client.admin().cluster().await.unwrap();
    cluster.restart(1);
    client.admin().create_topic("t").send().await.unwrap();
}
