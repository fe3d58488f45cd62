//! `Tail`.

use tonic::Streaming;
use v1::partition_data::Outcome;

use super::{test_support::*, *};

fn request(topic: &str) -> v1::TailRequest {
    v1::TailRequest { topic: topic.to_owned(), ..Default::default() }
}

async fn tail(broker: &Broker, request: v1::TailRequest) -> Streaming<v1::TailResponse> {
    broker.consumer().tail(request).await.unwrap().into_inner()
}

/// All values up to the end of the stream.
async fn all(stream: &mut Streaming<v1::TailResponse>) -> Vec<String> {
    let mut values = Vec::new();
    while let Some(response) = soon(stream.message()).await.unwrap() {
        match response.data.unwrap().outcome.unwrap() {
            Outcome::Records(records) => values.extend(plain_values(&records)),
            other => panic!("{other:?}"),
        }
    }
    values
}

#[tokio::test]
async fn it_ends_where_the_topic_ended() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    broker.write(topic, 0, &["a", "b"]).await;
    broker.write(topic, 1, &["c"]).await;
    let mut values = all(&mut tail(&broker, request("orders")).await).await;
    values.sort();
    assert_eq!(values, ["a", "b", "c"]);
    let one = v1::TailRequest { partitions: vec![1], ..request("orders") };
    assert_eq!(all(&mut tail(&broker, one).await).await, ["c"]);
    broker.topic("empty", 2).await;
    assert_eq!(all(&mut tail(&broker, request("empty")).await).await, [""; 0]);
}

#[tokio::test]
async fn it_starts_where_it_is_told_and_stops_after_so_many() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a", "b", "c", "d"]).await;
    let start = |at| Some(v1::ReadFrom { at: Some(at) });
    let last = v1::TailRequest { start: start(v1::read_from::At::FromEnd(2)), ..request("orders") };
    assert_eq!(all(&mut tail(&broker, last).await).await, ["c", "d"]);
    let two = v1::TailRequest {
        start: start(v1::read_from::At::Offset(1)),
        limit: 2,
        follow: true,
        ..request("orders")
    };
    assert_eq!(all(&mut tail(&broker, two).await).await, ["b", "c"]);
    let latest = v1::TailRequest {
        start: start(v1::read_from::At::Edge(v1::Edge::Latest.into())),
        ..request("orders")
    };
    assert_eq!(all(&mut tail(&broker, latest).await).await, [""; 0]);
}

#[tokio::test]
async fn followed_it_goes_on() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a"]).await;
    let mut stream = tail(&broker, v1::TailRequest { follow: true, ..request("orders") }).await;
    for value in ["a", "b", "c"] {
        if value != "a" {
            broker.write(topic, 0, &[value]).await;
        }
        let data = soon(stream.message()).await.unwrap().unwrap().data.unwrap();
        let Some(Outcome::Records(records)) = &data.outcome else { panic!("{data:?}") };
        assert_eq!(plain_values(records), [value]);
    }
    drop(stream);
    until(|| broker.metric("riverrun_open_streams{request=\"tail\"}") == 0.0).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let broker = Broker::start().await;
    broker.topic("orders", 1).await;
    let table = [
        (request("nowhere"), "UNKNOWN_TOPIC_OR_PARTITION"),
        (request("no/where"), "INVALID_TOPIC_EXCEPTION"),
        (
            v1::TailRequest { partitions: vec![1], ..request("orders") },
            "UNKNOWN_TOPIC_OR_PARTITION",
        ),
        (
            v1::TailRequest {
                topic_id: convert::wire_topic_id(TopicId::random()),
                ..request("orders")
            },
            "UNKNOWN_TOPIC_ID",
        ),
    ];
    for (asked, reason) in table {
        assert_eq!(reason_of(broker.consumer().tail(asked).await), reason);
    }
}

/// A batch whose records lie is told in band, and what follows still comes.
#[tokio::test]
async fn a_damaged_batch_is_skipped_with_a_word() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a"]).await;
    let mut lying = batch(&["lies"]).to_vec();
    lying[riverrun_proto::record::HEADER_BYTES] = 0x7e;
    let crc = crc32c::crc32c(&lying[21..]);
    lying[17..21].copy_from_slice(&crc.to_be_bytes());
    let mut producer = super::produce_stream_test::Client::open(&broker).await;
    producer.send(vec![super::produce_stream_test::append(1, topic, 0, lying.into())]);
    assert_eq!(producer.result().await.base_offset, Some(1), "no record is decoded on append");
    broker.write(topic, 0, &["b"]).await;

    let mut stream = tail(&broker, request("orders")).await;
    let (mut seen, mut errors) = (Vec::new(), Vec::new());
    while let Some(response) = soon(stream.message()).await.unwrap() {
        let data = response.data.unwrap();
        match data.outcome.unwrap() {
            Outcome::Records(records) => seen.extend(plain_values(&records)),
            Outcome::Error(error) => errors.push((error.reason, data.next_offset)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["a", "b"]);
    assert_eq!(errors, [("CORRUPT_RECORD".to_owned(), Some(2))]);
}
