//! How a stopping broker lets go of its clients.

use v1::{
    fetch_stream_request::Request as FetchRequest, fetch_stream_response::Response as Fetched,
    produce_stream_response::Response as Produced,
};

use super::{
    produce_stream_test::{Client, append},
    test_support::*,
    *,
};

#[tokio::test]
async fn streams_are_asked_to_reconnect_and_what_is_in_flight_is_answered() {
    let broker = Broker::with(|setup| setup.io_threads = 1).await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let gate = broker.hold_log_work(1).await;
    let mut producer = Client::open(&broker).await;
    producer.send(vec![append(1, topic, 0, batch(&["a"]))]);
    until(|| broker.partition(topic, 0).offsets().log_end.get() == 2).await;

    let open = v1::FetchStreamOpen {
        partitions: vec![from_offset(by_id(topic, 0), 1)],
        ..Default::default()
    };
    let request = v1::FetchStreamRequest { request: Some(FetchRequest::Open(open)) };
    let requests =
        futures::StreamExt::chain(tokio_stream::iter([request]), futures::stream::pending());
    let mut reader = broker.consumer().fetch_stream(requests).await.unwrap().into_inner();
    assert!(matches!(
        soon(reader.message()).await.unwrap().unwrap().response,
        Some(Fetched::Data(_))
    ));

    broker.shutdown.begin_drain();
    match producer.other().await.unwrap() {
        Some(Produced::Control(control)) => assert!(control.reconnect),
        other => panic!("{other:?}"),
    }
    match soon(reader.message()).await.unwrap().unwrap().response {
        Some(Fetched::Control(control)) => assert!(control.reconnect),
        other => panic!("{other:?}"),
    }
    assert!(soon(reader.message()).await.unwrap().is_none(), "the reader's stream ends well");

    drop(gate);
    assert_eq!(producer.result().await.base_offset, Some(1), "answered although it stops");
    assert!(producer.other().await.unwrap().is_none(), "then the stream ends well");
    drop((producer, reader));
    soon(broker.serving).await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_leaves_does_not_keep_the_broker() {
    let broker = Broker::with(|setup| setup.io_threads = 1).await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let _gate = broker.hold_log_work(1).await;
    let producer = Client::open(&broker).await;
    producer.send(vec![append(1, topic, 0, batch(&["never answered"]))]);
    broker.shutdown.begin_drain();
    assert!(!broker.serving.is_finished());
    broker.shutdown.stop();
    soon(broker.serving).await.unwrap();
    drop(producer);
}

#[tokio::test]
async fn a_long_poll_is_answered_when_the_broker_drains() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let asked = v1::FetchRequest {
        partitions: vec![from_offset(by_id(topic, 0), 0)],
        max_wait: Some(convert::wire_duration(PATIENCE * 2)),
        ..Default::default()
    };
    let polling = tokio::spawn({
        let mut consumer = broker.consumer();
        async move { consumer.fetch(asked).await }
    });
    until(|| broker.metric("riverrun_bound_used{bound=\"fetch.waiters.max\"}") == 1.0).await;
    broker.shutdown.begin_drain();
    soon(polling).await.unwrap().unwrap();
    soon(broker.serving).await.unwrap();
}
