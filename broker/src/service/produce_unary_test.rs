//! Unary `Produce` and `InitProducer`.

use super::{test_support::*, *};

fn request(topic: &str, values: &[&str]) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: topic.to_owned(),
        records: Some(records(values)),
        ..Default::default()
    }
}

#[tokio::test]
async fn records_get_one_result_each_in_order() {
    let broker = Broker::start().await;
    broker.topic("orders", 4).await;
    let keyed = |key: &str, value: &str| v1::Record {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        timestamp_ms: Some(1_700_000_000_000),
        ..record(value)
    };
    let list = vec![keyed("a", "1"), record("2"), keyed("a", "3"), record("4"), keyed("b", "5")];
    let request = v1::ProduceRequest {
        records: Some(v1::RecordList { records: list, compression: v1::Compression::Zstd.into() }),
        ..request("orders", &[])
    };
    let answer = broker.producer().produce(request).await.unwrap().into_inner();
    let acks: Vec<_> = answer.results.iter().map(ack).collect();
    assert_eq!(acks.len(), 5);
    assert_eq!(acks[0].partition, acks[2].partition, "same key, same partition");
    assert!(acks[0].offset.unwrap() < acks[2].offset.unwrap(), "in order");
    assert_eq!(acks[1].partition, acks[3].partition, "keyless records stay together");
    assert_eq!(acks[0].timestamp_ms, Some(1_700_000_000_000));
    assert!(acks[1].timestamp_ms.unwrap() > 1_700_000_000_000, "the broker's time");
    assert!(acks.iter().all(|ack| ack.durability == i32::from(v1::Durability::Disk)));
    assert!(acks.iter().all(|ack| ack.replicas == 1 && !ack.duplicate));
}

#[tokio::test]
async fn without_acks_nothing_is_waited_for_and_no_offset_told() {
    let broker = Broker::with(|setup| setup.io_threads = 1).await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let gate = broker.hold_log_work(1).await;
    let request = v1::ProduceRequest { acks: v1::Acks::None.into(), ..request("orders", &["a"]) };
    let answer = soon(broker.producer().produce(request)).await.unwrap().into_inner();
    assert_eq!(ack(&answer.results[0]).offset, None);
    drop(gate);
    until(|| broker.partition(topic, 0).offsets().log_end.get() == 2).await;
}

#[tokio::test]
async fn what_cannot_be_written_is_refused_as_a_whole() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    let call = async |request| reason_of(broker.producer().produce(request).await);
    let with = |change: fn(&mut v1::ProduceRequest)| {
        let mut asked = request("orders", &["a"]);
        change(&mut asked);
        asked
    };
    let table: Vec<(&str, v1::ProduceRequest, &str)> = vec![
        ("no such topic", request("nowhere", &["a"]), "UNKNOWN_TOPIC_OR_PARTITION"),
        ("a name no topic has", request("no/where", &["a"]), "INVALID_TOPIC_EXCEPTION"),
        ("no name", request("", &["a"]), "INVALID_REQUEST"),
        ("no records", request("orders", &[]), "INVALID_RECORD"),
        ("partition", with(|r| r.partition = Some(2)), "UNKNOWN_TOPIC_OR_PARTITION"),
        ("negative partition", with(|r| r.partition = Some(-1)), "UNKNOWN_TOPIC_OR_PARTITION"),
        ("acks", with(|r| r.acks = 9), "INVALID_REQUIRED_ACKS"),
        (
            "codec",
            with(|r| r.records.as_mut().unwrap().compression = 9),
            "UNSUPPORTED_COMPRESSION_TYPE",
        ),
        (
            "idempotency key",
            with(|r| r.records.as_mut().unwrap().records[0].idempotency_key = Some("k".into())),
            "UNSUPPORTED_VERSION",
        ),
        (
            "too many records",
            with(|r| r.records = Some(records(&vec!["x"; 10_001]))),
            "MESSAGE_TOO_LARGE",
        ),
        (
            "too many bytes",
            with(|r| r.records = Some(records(&["x".repeat(2 << 20).as_str()]))),
            "MESSAGE_TOO_LARGE",
        ),
        (
            "another topic's id",
            with(|r| r.topic_id = convert::wire_topic_id(TopicId::random())),
            "UNKNOWN_TOPIC_ID",
        ),
    ];
    for (name, asked, reason) in table {
        assert_eq!(call(asked).await, reason, "{name}");
    }
    assert_eq!(broker.partition(topic, 0).offsets().log_end.get(), 0, "nothing was written");
}

#[tokio::test]
async fn an_unknown_topic_says_how_to_create_it() {
    let broker = Broker::start().await;
    let failed = broker.producer().produce(request("nowhere", &["a"])).await.unwrap_err();
    assert_eq!(failed.code(), Code::NotFound);
    assert!(failed.message().contains("riverrun topic create nowhere"), "{failed}");
}

#[tokio::test]
async fn a_topic_made_anew_is_not_written_by_its_old_id() {
    let broker = Broker::start().await;
    let old = broker.topic("orders", 1).await;
    let delete = v1::DeleteTopicRequest { name: "orders".into(), ..Default::default() };
    broker.admin().delete_topic(delete).await.unwrap();
    let new = broker.topic("orders", 1).await;
    assert_ne!(old, new);
    let asked =
        v1::ProduceRequest { topic_id: convert::wire_topic_id(old), ..request("orders", &["a"]) };
    let failed = broker.producer().produce(asked).await.unwrap_err();
    assert_eq!(error_of(&failed).reason, "UNKNOWN_TOPIC_ID");
    assert!(failed.message().contains(&new.to_string()), "{failed}");
    assert_eq!(broker.partition(new, 0).offsets().log_end.get(), 0);
}

#[tokio::test]
async fn a_topic_comes_into_being_where_the_operator_allows_it() {
    let broker = Broker::with(|setup| setup.config.broker.auto_create_topics_enable = true).await;
    let answer = broker.producer().produce(request("new", &["a"])).await.unwrap().into_inner();
    assert_eq!(ack(&answer.results[0]).offset, Some(0));
    assert_eq!(
        reason_of(broker.producer().produce(request("no/where", &["a"])).await),
        "INVALID_TOPIC_EXCEPTION"
    );
}

#[tokio::test]
async fn one_record_too_large_is_refused_in_its_place() {
    let broker = Broker::start().await;
    broker.topic_with("small", 1, &[("max.message.bytes", "1024")]).await;
    let large = "x".repeat(2000);
    let answer = broker
        .producer()
        .produce(request("small", &["a", &large, "b"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(ack(&answer.results[0]).offset, Some(0));
    assert_eq!(ack(&answer.results[2]).offset, Some(1));
    let Some(v1::record_result::Outcome::Error(error)) = &answer.results[1].outcome else {
        panic!("{answer:?}")
    };
    assert_eq!((error.reason.as_str(), error.definite), ("MESSAGE_TOO_LARGE", true));
}

#[tokio::test]
async fn more_than_one_batch_takes_is_written_in_order() {
    let broker = Broker::start().await;
    let topic = broker.topic_with("small", 1, &[("max.message.bytes", "1024")]).await;
    let values: Vec<String> = (0..50).map(|i| format!("{i:0100}")).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let answer = broker.producer().produce(request("small", &values)).await.unwrap().into_inner();
    let offsets: Vec<_> = answer.results.iter().map(|result| ack(result).offset.unwrap()).collect();
    assert_eq!(offsets, (0..50).collect::<Vec<_>>());
    assert_eq!(broker.partition(topic, 0).offsets().high_watermark.get(), 50);
}

#[tokio::test]
async fn a_deadline_is_answered_before_it_is_over() {
    let broker = Broker::with(|setup| setup.io_threads = 1).await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let _gate = broker.hold_log_work(1).await;
    let mut asked = tonic::Request::new(request("orders", &["a"]));
    asked.set_timeout(Duration::from_millis(200));
    let answer = soon(broker.producer().produce(asked)).await.unwrap().into_inner();
    let Some(v1::record_result::Outcome::Error(error)) = &answer.results[0].outcome else {
        panic!("{answer:?}")
    };
    assert_eq!(error.reason, "REQUEST_TIMED_OUT");
    assert!(error.retriable && !error.definite, "it may yet commit: {error:?}");
}

#[tokio::test]
async fn admission_used_up_is_told_after_a_while() {
    let broker = Broker::with(|setup| {
        setup.io_threads = 1;
        setup.limits.admission_bytes = 3000;
        setup.limits.admission_wait = Duration::from_millis(20);
    })
    .await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let gate = broker.hold_log_work(1).await;
    let kept = tokio::spawn({
        let mut producer = broker.producer();
        async move { producer.produce(request("orders", &["x".repeat(1400).as_str()])).await }
    });
    until(|| broker.metric("riverrun_memory_budget_used_bytes{pool=\"produce\"}") > 2000.0).await;
    let refused = broker.producer().produce(request("orders", &["x".repeat(1400).as_str()])).await;
    let error = error_of(&refused.unwrap_err());
    assert_eq!(error.reason, "THROTTLING_QUOTA_EXCEEDED");
    assert!(error.retriable && error.definite && error.retry_after.is_some(), "{error:?}");
    let hits = "riverrun_bound_hits_total{bound=\"produce.partition.share\"}";
    assert!(broker.metric(hits) >= 1.0);
    drop(gate);
    let answer = soon(kept).await.unwrap().unwrap().into_inner();
    assert_eq!(ack(&answer.results[0]).offset, Some(1));
}

#[tokio::test]
async fn producers_get_ids_of_their_own_and_no_names() {
    let broker = Broker::start().await;
    let anonymous = v1::InitProducerRequest::default();
    let first = broker.producer().init_producer(anonymous.clone()).await.unwrap().into_inner();
    let second = broker.producer().init_producer(anonymous).await.unwrap().into_inner();
    assert_ne!(first.producer_id, second.producer_id);
    assert_eq!((first.producer_epoch, second.producer_epoch), (0, 0));
    let named = v1::InitProducerRequest { producer_name: "billing".into() };
    let failed = broker.producer().init_producer(named).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unimplemented);
    assert_eq!(error_of(&failed).reason, "UNSUPPORTED_VERSION");
}
