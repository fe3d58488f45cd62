//! `MetadataService`.

use v1::topic_result::Outcome;

use super::{test_support::*, *};

fn topics(names: &[&str]) -> v1::GetTopicsRequest {
    v1::GetTopicsRequest {
        topics: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn reason_in(result: &v1::TopicResult) -> &str {
    match result.outcome.as_ref().unwrap() {
        Outcome::Error(error) => &error.reason,
        Outcome::Topic(topic) => panic!("{topic:?}"),
    }
}

#[tokio::test]
async fn the_cluster_knows_itself() {
    let broker = Broker::start().await;
    let cluster =
        broker.metadata().get_cluster(v1::GetClusterRequest {}).await.unwrap().into_inner();
    assert_eq!(cluster.cluster_id.len(), 32);
    assert_eq!((cluster.broker_id, cluster.controller_id), (1, 1));
    assert_eq!(cluster.brokers.len(), 1);
    assert_eq!(cluster.brokers[0].host, "127.0.0.1");
    assert_eq!(cluster.version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn topics_are_found_by_name_and_by_id_or_say_why_not() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    let asked = v1::GetTopicsRequest {
        topic_ids: vec![
            convert::wire_topic_id(topic),
            convert::wire_topic_id(TopicId::random()),
            Bytes::from_static(b"short"),
        ],
        allow_auto_create: true,
        ..topics(&["orders", "nowhere", "no/where"])
    };
    let found = broker.metadata().get_topics(asked).await.unwrap().into_inner();
    let Some(Outcome::Topic(orders)) = &found.topics[0].outcome else { panic!("{found:?}") };
    assert_eq!((orders.name.as_str(), orders.partitions.len()), ("orders", 2));
    assert_eq!(orders.partitions[1].leader, Some(1));
    assert_eq!(orders.max_message_bytes, 1_048_588);
    assert_eq!(found.topics[1].name, "nowhere");
    assert_eq!(reason_in(&found.topics[1]), "UNKNOWN_TOPIC_OR_PARTITION", "no auto-create here");
    assert_eq!(reason_in(&found.topics[2]), "INVALID_TOPIC_EXCEPTION");
    assert!(matches!(found.topics[3].outcome, Some(Outcome::Topic(_))));
    assert_eq!(reason_in(&found.topics[4]), "UNKNOWN_TOPIC_ID");
    assert_eq!(reason_in(&found.topics[5]), "INVALID_REQUEST");
}

#[tokio::test]
async fn all_topics_come_in_pages() {
    let broker = Broker::start().await;
    for name in ["d", "b", "a", "c", "e"] {
        broker.topic(name, 1).await;
    }
    let (mut seen, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let asked = v1::GetTopicsRequest { page_size: 2, page_token: token, ..topics(&[]) };
        let page = broker.metadata().get_topics(asked).await.unwrap().into_inner();
        seen.extend(page.topics.into_iter().map(|topic| topic.name));
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((seen.join(""), pages), ("abcde".to_owned(), 3));
    let bad = v1::GetTopicsRequest { page_token: "no token".into(), ..topics(&[]) };
    assert_eq!(reason_of(broker.metadata().get_topics(bad).await), "INVALID_REQUEST");
}

#[tokio::test]
async fn pages_are_bounded_by_partitions_too() {
    let broker = Broker::with(|setup| {
        setup.limits.partitions_per_page_max = 4;
        setup.limits.topics_per_request_max = 3;
    })
    .await;
    for (name, partitions) in [("a", 3), ("b", 3), ("c", 9)] {
        broker.topic(name, partitions).await;
    }
    let page = broker.metadata().get_topics(topics(&[])).await.unwrap().into_inner();
    assert_eq!((page.topics.len(), page.next_page_token.as_str()), (1, "a"));
    let after = v1::GetTopicsRequest { page_token: "b".into(), ..topics(&[]) };
    let page = broker.metadata().get_topics(after).await.unwrap().into_inner();
    assert_eq!(page.topics[0].name, "c", "one topic comes, however large");
    let many = broker.metadata().get_topics(topics(&["a"; 4])).await;
    assert_eq!(reason_of(many), "INVALID_REQUEST");
}

#[tokio::test]
async fn a_topic_asked_for_is_made_where_that_is_allowed() {
    let broker = Broker::with(|setup| setup.config.broker.auto_create_topics_enable = true).await;
    let plain = broker.metadata().get_topics(topics(&["new"])).await.unwrap().into_inner();
    assert_eq!(reason_in(&plain.topics[0]), "UNKNOWN_TOPIC_OR_PARTITION", "it was not asked for");
    let asked = v1::GetTopicsRequest { allow_auto_create: true, ..topics(&["new"]) };
    let made = broker.metadata().get_topics(asked).await.unwrap().into_inner();
    assert!(matches!(made.topics[0].outcome, Some(Outcome::Topic(_))), "{made:?}");
}

#[tokio::test]
async fn places_become_offsets() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let at = |ms: i64, value: &str| v1::Record { timestamp_ms: Some(ms), ..record(value) };
    for (ms, value) in [(1_000, "a"), (3_000, "b"), (2_000, "c")] {
        let list = v1::RecordList { records: vec![at(ms, value)], compression: 0 };
        let request = v1::ProduceRequest {
            topic: "orders".into(),
            records: Some(list),
            ..Default::default()
        };
        ack(&broker.producer().produce(request).await.unwrap().into_inner().results[0]);
    }
    use v1::offset_query::At;
    let edge = |edge: v1::Edge| At::Edge(edge.into());
    let table = [
        (edge(v1::Edge::Earliest), Some((Some(0), None))),
        (edge(v1::Edge::Latest), Some((Some(3), None))),
        (At::TimestampMs(500), Some((Some(0), Some(1_000)))),
        (At::TimestampMs(1_500), Some((Some(1), Some(3_000)))),
        (At::TimestampMs(9_000), Some((None, None))),
        (At::MaxTimestamp(true), Some((Some(1), Some(3_000)))),
        (edge(v1::Edge::Committed), None),
    ];
    let query = |at: At| v1::OffsetQuery {
        partition: Some(by_id(topic, 0)),
        at: Some(at),
        leader_epoch: None,
    };
    let queries = table.iter().map(|(at, _)| query(*at)).collect();
    let answer = broker.metadata().list_offsets(v1::ListOffsetsRequest { queries }).await;
    for (result, (at, expected)) in answer.unwrap().into_inner().results.iter().zip(&table) {
        let found = match result.outcome.as_ref().unwrap() {
            v1::offset_result::Outcome::Found(found) => Some((found.offset, found.timestamp_ms)),
            v1::offset_result::Outcome::Error(error) => {
                assert_eq!(error.reason, "INVALID_REQUEST");
                None
            }
        };
        assert_eq!(found, *expected, "{at:?}");
    }
    let unknown = v1::OffsetQuery { partition: Some(named("nowhere", 0)), ..query(table[0].0) };
    let request = v1::ListOffsetsRequest { queries: vec![unknown] };
    let answer = broker.metadata().list_offsets(request).await.unwrap().into_inner();
    let Some(v1::offset_result::Outcome::Error(error)) = &answer.results[0].outcome else {
        panic!("{answer:?}")
    };
    assert_eq!(error.reason, "UNKNOWN_TOPIC_OR_PARTITION");
}

#[tokio::test]
async fn a_request_names_so_many_partitions_at_most() {
    let broker = Broker::with(|setup| setup.limits.partitions_per_request_max = 2).await;
    let topic = broker.topic("orders", 3).await;
    let query = |partition| v1::OffsetQuery {
        partition: Some(by_id(topic, partition)),
        at: Some(v1::offset_query::At::Edge(v1::Edge::Latest.into())),
        leader_epoch: None,
    };
    let request = v1::ListOffsetsRequest { queries: (0..3).map(query).collect() };
    assert_eq!(reason_of(broker.metadata().list_offsets(request).await), "INVALID_REQUEST");
    let delete = |partition| v1::DeleteRecordsBefore {
        partition: Some(by_id(topic, partition)),
        before_offset: None,
    };
    let request =
        v1::DeleteRecordsRequest { partitions: (0..3).map(delete).collect(), ..Default::default() };
    assert_eq!(reason_of(broker.admin().delete_records(request).await), "INVALID_REQUEST");
}
