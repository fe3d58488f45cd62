//! `AdminService`.

use std::collections::HashMap;

use super::{test_support::*, *};

fn create(name: &str) -> v1::CreateTopicRequest {
    v1::CreateTopicRequest { name: name.to_owned(), ..Default::default() }
}

fn configs(entries: &[(&str, &str)]) -> HashMap<String, String> {
    entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

async fn describe(broker: &Broker, name: &str) -> v1::DescribeTopicResponse {
    let request = v1::DescribeTopicRequest { name: name.to_owned() };
    broker.admin().describe_topic(request).await.unwrap().into_inner()
}

fn config(described: &v1::DescribeTopicResponse, key: &str) -> (String, bool) {
    let entry = described.configs.iter().find(|entry| entry.key == key).unwrap();
    assert!(!entry.documentation.is_empty());
    (entry.value.clone(), entry.overridden)
}

#[tokio::test]
async fn a_topic_lives_from_create_to_delete() {
    let broker = Broker::start().await;
    let longest = "x".repeat(249);
    let request = v1::CreateTopicRequest {
        partitions: Some(2),
        configs: configs(&[("retention.ms", "1d"), ("max.message.bytes", "64KiB")]),
        ..create(&longest)
    };
    let made = broker.admin().create_topic(request).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((made.partitions.len(), made.max_message_bytes), (2, 65_536));
    let topic = TopicId::from_bytes(&made.topic_id).unwrap();
    broker.write(topic, 1, &["a", "b"]).await;

    let described = describe(&broker, &longest).await;
    assert_eq!(config(&described, "retention.ms"), ("86400000".to_owned(), true));
    assert!(!config(&described, "segment.bytes").1);
    let Some(v1::partition_state::Outcome::Offsets(offsets)) = &described.partitions[1].outcome
    else {
        panic!("{described:?}")
    };
    assert_eq!(
        (offsets.log_start_offset, offsets.high_watermark, offsets.log_end_offset),
        (0, 2, 2)
    );
    assert!(offsets.size_bytes > 0 && offsets.segments >= 1);

    let delete = v1::DeleteTopicRequest { name: longest.clone(), ..Default::default() };
    broker.admin().delete_topic(delete.clone()).await.unwrap();
    assert_eq!(reason_of(broker.admin().delete_topic(delete).await), "UNKNOWN_TOPIC_OR_PARTITION");
    let gone = v1::DescribeTopicRequest { name: longest };
    assert_eq!(reason_of(broker.admin().describe_topic(gone).await), "UNKNOWN_TOPIC_OR_PARTITION");
}

#[tokio::test]
async fn what_no_topic_can_be_is_refused() {
    let broker = Broker::with(|setup| setup.config.broker.partitions_max = 100).await;
    broker.topic("orders", 1).await;
    let with = |entries: &[(&str, &str)]| v1::CreateTopicRequest {
        configs: configs(entries),
        ..create("new")
    };
    let partitions = |n| v1::CreateTopicRequest { partitions: Some(n), ..create("new") };
    let table = [
        (create("orders"), "TOPIC_ALREADY_EXISTS"),
        (create(""), "INVALID_TOPIC_EXCEPTION"),
        (create("a/b"), "INVALID_TOPIC_EXCEPTION"),
        (create(&"x".repeat(250)), "INVALID_TOPIC_EXCEPTION"),
        (partitions(0), "INVALID_PARTITIONS"),
        (partitions(10_001), "INVALID_PARTITIONS"),
        (partitions(101), "POLICY_VIOLATION"),
        (
            v1::CreateTopicRequest { replication_factor: Some(3), ..create("new") },
            "INVALID_REPLICATION_FACTOR",
        ),
        (with(&[("retention.sm", "1d")]), "INVALID_CONFIG"),
        (with(&[("retention.ms", "1 fortnight")]), "INVALID_CONFIG"),
        (with(&[("cleanup.policy", "compact")]), "INVALID_CONFIG"),
    ];
    for (request, reason) in table {
        let failed = broker.admin().create_topic(request).await.unwrap_err();
        let error = error_of(&failed);
        assert_eq!(error.reason, reason, "{error:?}");
        assert!(error.definite && !error.retriable, "{error:?}");
    }
    let failed = broker.admin().create_topic(with(&[("retention.sm", "1d")])).await.unwrap_err();
    assert!(failed.message().contains("retention.ms"), "did you mean: {failed}");
}

#[tokio::test]
async fn validate_only_changes_nothing() {
    let broker = Broker::start().await;
    let validate = v1::CreateTopicRequest { validate_only: true, ..create("new") };
    let would_be = broker.admin().create_topic(validate).await.unwrap().into_inner();
    assert_eq!(would_be.topic.unwrap().name, "new");
    assert!(broker.quorum.image().topics().next().is_none());
    broker.topic("orders", 1).await;
    let grow =
        v1::CreatePartitionsRequest { topic: "orders".into(), partitions: 3, validate_only: true };
    broker.admin().create_partitions(grow).await.unwrap();
    assert_eq!(describe(&broker, "orders").await.partitions.len(), 1);
}

#[tokio::test]
async fn partitions_grow_and_never_shrink() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let grow = |partitions| v1::CreatePartitionsRequest {
        topic: "orders".into(),
        partitions,
        validate_only: false,
    };
    let grown = broker.admin().create_partitions(grow(3)).await.unwrap().into_inner();
    assert_eq!(grown.topic.unwrap().partitions.len(), 3);
    broker.write(topic, 2, &["a"]).await;
    for fewer in [0, 2, 3] {
        let refused = broker.admin().create_partitions(grow(fewer)).await;
        assert_eq!(reason_of(refused), "INVALID_PARTITIONS", "{fewer}");
    }
}

#[tokio::test]
async fn configurations_change_all_or_nothing() {
    let broker = Broker::start().await;
    broker.topic_with("orders", 1, &[("retention.ms", "1d")]).await;
    let alter = |set: &[(&str, &str)], reset: &[&str]| v1::AlterTopicConfigsRequest {
        topic: "orders".into(),
        set: configs(set),
        reset: reset.iter().map(|key| (*key).to_owned()).collect(),
        validate_only: false,
    };
    let bad = alter(&[("max.message.bytes", "2KiB"), ("no.such.key", "1")], &[]);
    assert_eq!(reason_of(broker.admin().alter_topic_configs(bad).await), "INVALID_CONFIG");
    let untouched = describe(&broker, "orders").await;
    assert!(!config(&untouched, "max.message.bytes").1, "nothing of it was done");

    let good = alter(&[("max.message.bytes", "2KiB")], &["retention.ms"]);
    broker.admin().alter_topic_configs(good).await.unwrap();
    let altered = describe(&broker, "orders").await;
    assert_eq!(config(&altered, "max.message.bytes"), ("2048".to_owned(), true));
    assert!(!config(&altered, "retention.ms").1);

    // In force at once: the producer meets the new limit.
    let request = v1::ProduceRequest {
        topic: "orders".into(),
        records: Some(records(&["x".repeat(3000).as_str()])),
        ..Default::default()
    };
    let answer = broker.producer().produce(request).await.unwrap().into_inner();
    let Some(v1::record_result::Outcome::Error(error)) = &answer.results[0].outcome else {
        panic!("{answer:?}")
    };
    assert_eq!(error.reason, "MESSAGE_TOO_LARGE");
}

#[tokio::test]
async fn a_deletion_that_the_disk_holds_up_ends_when_the_caller_said_and_is_done_later() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    for partition in [0, 1] {
        broker.write(topic, partition, &["a", "b", "c"]).await;
    }
    let delete = async |timeout| {
        let partitions = [0, 1].map(|index| v1::DeleteRecordsBefore {
            partition: Some(by_id(topic, index)),
            before_offset: Some(2),
        });
        let request = v1::DeleteRecordsRequest { partitions: partitions.to_vec(), timeout };
        let answer = broker.admin().delete_records(request).await.unwrap().into_inner();
        answer.results.into_iter().map(|result| result.outcome.unwrap()).collect::<Vec<_>>()
    };
    let gate = broker.hold_log_work(2).await;
    let soon = prost_types::Duration { seconds: 0, nanos: 1_000_000 };
    for outcome in delete(Some(soon)).await {
        let v1::delete_records_result::Outcome::Error(error) = outcome else {
            panic!("the disk stands still: {outcome:?}")
        };
        assert_eq!(error.reason, "REQUEST_TIMED_OUT");
        assert!(error.retriable && !error.definite, "{error:?}");
    }
    drop(gate);
    let done = v1::delete_records_result::Outcome::LogStartOffset(2);
    assert_eq!(delete(None).await, [done.clone(), done]);
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let request = v1::DeleteRecordsRequest { partitions: vec![], timeout: Some(negative) };
    let refused = broker.admin().delete_records(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn records_are_deleted_up_to_what_is_committed() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a", "b", "c"]).await;
    let delete = async |partition, before_offset| {
        let request = v1::DeleteRecordsRequest {
            partitions: vec![v1::DeleteRecordsBefore { partition: Some(partition), before_offset }],
            ..Default::default()
        };
        let answer = broker.admin().delete_records(request).await.unwrap().into_inner();
        match answer.results[0].outcome.clone().unwrap() {
            v1::delete_records_result::Outcome::LogStartOffset(start) => Ok(start),
            v1::delete_records_result::Outcome::Error(error) => Err(error.reason),
        }
    };
    assert_eq!(delete(by_id(topic, 0), Some(2)).await, Ok(2));
    assert_eq!(delete(by_id(topic, 0), Some(1)).await, Ok(2), "never back");
    assert_eq!(delete(by_id(topic, 0), Some(9)).await, Err("OFFSET_OUT_OF_RANGE".into()));
    assert_eq!(delete(by_id(topic, 0), Some(-1)).await, Err("OFFSET_OUT_OF_RANGE".into()));
    assert_eq!(delete(by_id(topic, 7), None).await, Err("UNKNOWN_TOPIC_OR_PARTITION".into()));
    assert_eq!(delete(named("orders", 0), None).await, Ok(3), "all that is committed");
}

#[tokio::test]
async fn a_topic_made_anew_is_not_deleted_by_its_old_id() {
    let broker = Broker::start().await;
    let old = broker.topic("orders", 1).await;
    let delete = |id: Option<TopicId>| v1::DeleteTopicRequest {
        name: "orders".into(),
        topic_id: id.map(convert::wire_topic_id).unwrap_or_default(),
        validate_only: false,
    };
    broker.admin().delete_topic(delete(Some(old))).await.unwrap();
    let new = broker.topic("orders", 1).await;
    assert_eq!(reason_of(broker.admin().delete_topic(delete(Some(old))).await), "UNKNOWN_TOPIC_ID");
    broker.admin().delete_topic(delete(Some(new))).await.unwrap();
}
