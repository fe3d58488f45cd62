//! `ProduceStream`.

use riverrun_proto::{
    ids::ProducerId,
    record::{BatchHeader, Codec, HEADER_BYTES, ProducerStamp},
};
use tokio::sync::mpsc as channel;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use v1::{
    produce_stream_ack::Outcome, produce_stream_request::Request, produce_stream_response::Response,
};

use super::{test_support::*, *};

/// A client's side of a stream.
pub(super) struct Client {
    requests: channel::Sender<v1::ProduceStreamRequest>,
    answers: Streaming<v1::ProduceStreamResponse>,
    pub(super) opened: v1::ProduceStreamOpened,
    acks: std::collections::VecDeque<v1::ProduceStreamAck>,
}

impl Client {
    pub(super) async fn open(broker: &Broker) -> Self {
        Self::open_with(broker, v1::ProduceStreamOpen::default()).await.unwrap()
    }

    async fn open_with(broker: &Broker, open: v1::ProduceStreamOpen) -> Result<Self, Status> {
        let (requests, receiver) = channel::channel(10_000);
        requests.try_send(wrap(Request::Open(open))).unwrap();
        let stream = broker.producer().produce_stream(ReceiverStream::new(receiver)).await?;
        let mut answers = stream.into_inner();
        match soon(answers.message()).await?.unwrap().response {
            Some(Response::Opened(opened)) => {
                Ok(Self { requests, answers, opened, acks: Default::default() })
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn send(&self, items: Vec<v1::ProduceStreamAppend>) {
        let appends = v1::ProduceStreamAppends { items };
        self.requests.try_send(wrap(Request::Appends(appends))).unwrap();
    }

    /// The next ack.
    pub(super) async fn ack(&mut self) -> v1::ProduceStreamAck {
        while self.acks.is_empty() {
            match soon(self.answers.message()).await.unwrap().unwrap().response {
                Some(Response::Acks(acks)) => self.acks.extend(acks.items),
                other => panic!("{other:?}"),
            }
        }
        self.acks.pop_front().unwrap()
    }

    /// The next answer that is no ack; `None` at the end of the stream.
    pub(super) async fn other(&mut self) -> Result<Option<Response>, Status> {
        loop {
            match soon(self.answers.message()).await? {
                None => return Ok(None),
                Some(answer) => match answer.response.unwrap() {
                    Response::Acks(acks) => self.acks.extend(acks.items),
                    other => return Ok(Some(other)),
                },
            }
        }
    }

    async fn error(&mut self) -> v1::Error {
        match self.ack().await.outcome.unwrap() {
            Outcome::Error(error) => error,
            Outcome::Result(result) => panic!("{result:?}"),
        }
    }

    pub(super) async fn result(&mut self) -> v1::AppendResult {
        match self.ack().await.outcome.unwrap() {
            Outcome::Result(result) => result,
            Outcome::Error(error) => panic!("{error:?}"),
        }
    }

    /// Sends no more.
    fn half_close(self) -> (Streaming<v1::ProduceStreamResponse>, v1::ProduceStreamOpened) {
        (self.answers, self.opened)
    }
}

fn wrap(request: Request) -> v1::ProduceStreamRequest {
    v1::ProduceStreamRequest { request: Some(request) }
}

pub(super) fn append(
    id: u64,
    topic: TopicId,
    partition: i32,
    batch: Bytes,
) -> v1::ProduceStreamAppend {
    v1::ProduceStreamAppend {
        correlation_id: id,
        topic_id: convert::wire_topic_id(topic),
        partition,
        batch,
        ..Default::default()
    }
}

/// The batch with a changed header and a CRC that holds.
fn with_header(bytes: &Bytes, change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut bytes = bytes.to_vec();
    let mut header = BatchHeader::parse(&bytes).unwrap();
    change(&mut header);
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[tokio::test]
async fn batches_are_acked_with_their_place() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    let mut client = Client::open(&broker).await;
    assert_eq!(client.opened.broker_id, 1);
    assert_eq!(client.opened.max_in_flight_batches, 32);
    client.send(vec![
        append(1, topic, 0, batch(&["a", "b"])),
        append(2, topic, 1, batch(&["c"])),
        append(3, topic, 0, batch(&["d"])),
    ]);
    let mut places = std::collections::BTreeMap::new();
    for _ in 0..3 {
        let ack = client.ack().await;
        let Some(Outcome::Result(result)) = ack.outcome else { panic!("{ack:?}") };
        assert_eq!(result.durability, i32::from(v1::Durability::Disk));
        places
            .insert(ack.correlation_id, (result.base_offset.unwrap(), result.last_offset.unwrap()));
    }
    assert_eq!(places.into_values().collect::<Vec<_>>(), [(0, 1), (0, 0), (2, 2)]);
    let (mut answers, _) = client.half_close();
    assert!(soon(answers.message()).await.unwrap().is_none(), "the stream ends well");
    assert_eq!(broker.metric("riverrun_records_produced_total{topic=\"orders\"}"), 4.0);
}

#[tokio::test]
async fn each_bad_batch_is_refused_in_band_and_the_stream_stays() {
    let broker = Broker::start().await;
    let topic = broker.topic_with("orders", 1, &[("max.message.bytes", "2048")]).await;
    let mut client = Client::open(&broker).await;
    let good = batch(&["good"]);
    let flip = |at: usize| {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        Bytes::from(bytes)
    };
    let two = Bytes::from([good.clone(), good.clone()].concat());
    let epoch = |epoch| v1::ProduceStreamAppend {
        leader_epoch: Some(epoch),
        ..append(0, topic, 0, good.clone())
    };
    let old = with_header(&good, |h| {
        h.base_timestamp = Timestamp::from_millis(i64::MAX / 2);
        h.max_timestamp = Timestamp::from_millis(i64::MAX / 2);
    });
    let stamp = |sequence| ProducerStamp {
        id: ProducerId::new(77).unwrap(),
        epoch: 0,
        base_sequence: sequence,
    };
    let sequence = |sequence| {
        let options = BatchOptions { producer: Some(stamp(sequence)), ..BatchOptions::default() };
        batch_with(&["x"], options)
    };
    let table: Vec<(&str, v1::ProduceStreamAppend, &str)> = vec![
        ("partition", append(0, topic, 1, good.clone()), "UNKNOWN_TOPIC_OR_PARTITION"),
        ("negative", append(0, topic, -1, good.clone()), "UNKNOWN_TOPIC_OR_PARTITION"),
        ("topic", append(0, TopicId::random(), 0, good.clone()), "UNKNOWN_TOPIC_ID"),
        (
            "no topic id",
            v1::ProduceStreamAppend { topic_id: Bytes::new(), ..epoch(0) },
            "INVALID_REQUEST",
        ),
        ("no bytes", append(0, topic, 0, Bytes::new()), "CORRUPT_MESSAGE"),
        (
            "no records",
            append(0, topic, 0, with_header(&good, |h| h.record_count = 0)),
            "INVALID_RECORD",
        ),
        ("magic", append(0, topic, 0, flip(16)), "INVALID_RECORD"),
        ("crc", append(0, topic, 0, flip(18)), "CORRUPT_MESSAGE"),
        ("a flipped record", append(0, topic, 0, flip(good.len() - 1)), "CORRUPT_MESSAGE"),
        (
            "count that lies",
            append(0, topic, 0, with_header(&good, |h| h.record_count = 3)),
            "INVALID_RECORD",
        ),
        ("two batches", append(0, topic, 0, two), "INVALID_RECORD"),
        (
            "too large",
            append(0, topic, 0, batch(&["x".repeat(4000).as_str()])),
            "MESSAGE_TOO_LARGE",
        ),
        ("time to come", append(0, topic, 0, old), "INVALID_TIMESTAMP"),
        ("format", v1::ProduceStreamAppend { format: 7, ..epoch(0) }, "INVALID_REQUEST"),
        ("epoch to come", epoch(1000), "UNKNOWN_LEADER_EPOCH"),
        ("negative epoch", epoch(-5), "INVALID_REQUEST"),
    ];
    for (name, bad, reason) in table {
        client.send(vec![bad]);
        let error = client.error().await;
        assert_eq!(error.reason, reason, "{name}: {error:?}");
        assert!(error.definite, "{name}: {error:?}");
        assert!(!error.message.is_empty());
    }
    assert_eq!(broker.partition(topic, 0).offsets().log_end.get(), 0, "nothing was written");

    client.send(vec![append(1, topic, 0, sequence(0))]);
    assert_eq!(client.result().await.base_offset, Some(0));
    client.send(vec![append(2, topic, 0, sequence(5))]);
    let error = client.error().await;
    assert_eq!(error.reason, "OUT_OF_ORDER_SEQUENCE_NUMBER");
    assert_eq!(error.metadata["expected_sequence"], "1");
    client.send(vec![append(3, topic, 0, sequence(0))]);
    let duplicate = client.result().await;
    assert!(duplicate.duplicate);
    assert_eq!(duplicate.base_offset, Some(0), "the first write's offsets");
}

#[tokio::test]
async fn a_batch_that_only_its_readers_can_tell_to_be_a_bomb_is_stored() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let mut client = Client::open(&broker).await;
    let options = BatchOptions { codec: Codec::Zstd, bytes_max: 8 << 20, ..Default::default() };
    let bomb = batch_with(&["0".repeat(4 << 20).as_str()], options);
    assert!(bomb.len() < 64 << 10);
    client.send(vec![append(1, topic, 0, bomb)]);
    assert_eq!(client.result().await.base_offset, Some(0));
}

#[tokio::test]
async fn protocol_errors_end_the_stream_with_a_reason() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let open = || Request::Open(v1::ProduceStreamOpen::default());
    let first: Vec<(&str, Vec<v1::ProduceStreamRequest>)> = vec![
        ("appends before open", vec![wrap(Request::Appends(Default::default()))]),
        ("an empty request", vec![v1::ProduceStreamRequest::default()]),
        ("open twice", vec![wrap(open()), wrap(open())]),
        ("empty after open", vec![wrap(open()), v1::ProduceStreamRequest::default()]),
        (
            "a client id without end",
            vec![wrap(Request::Open(v1::ProduceStreamOpen {
                client_id: "x".repeat(300),
                ..Default::default()
            }))],
        ),
    ];
    for (name, requests) in first {
        let stream = broker.producer().produce_stream(tokio_stream::iter(requests)).await.unwrap();
        let mut answers = stream.into_inner();
        let status = loop {
            match soon(answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{name}: it ended well"),
                Err(status) => break status,
            }
        };
        assert_eq!(error_of(&status).reason, "INVALID_REQUEST", "{name}");
    }
    let bad_acks = v1::ProduceStreamOpen { acks: 9, ..Default::default() };
    let refused = Client::open_with(&broker, bad_acks).await.err().unwrap();
    assert_eq!(error_of(&refused).reason, "INVALID_REQUIRED_ACKS");

    // What was in flight before the error is still answered.
    let mut client = Client::open(&broker).await;
    client.send(vec![append(1, topic, 0, batch(&["a"]))]);
    client.requests.try_send(wrap(open())).unwrap();
    let failed = client.other().await.unwrap_err();
    assert_eq!(error_of(&failed).reason, "INVALID_REQUEST");
    assert_eq!(client.acks.len(), 1);
}

#[tokio::test]
async fn too_many_batches_in_a_message_end_the_stream() {
    let broker = Broker::with(|setup| setup.limits.appends_per_message_max = 2).await;
    let topic = broker.topic("orders", 1).await;
    let mut client = Client::open(&broker).await;
    client.send((0..3).map(|id| append(id, topic, 0, batch(&["a"]))).collect());
    assert_eq!(error_of(&client.other().await.unwrap_err()).reason, "INVALID_REQUEST");
    assert_eq!(broker.partition(topic, 0).offsets().log_end.get(), 0);
}

#[tokio::test]
async fn without_acks_an_append_gets_a_cheap_ack() {
    let broker = Broker::with(|setup| setup.io_threads = 1).await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let _gate = broker.hold_log_work(1).await;
    let open = v1::ProduceStreamOpen { acks: v1::Acks::None.into(), ..Default::default() };
    let mut client = Client::open_with(&broker, open).await.unwrap();
    client.send(vec![append(1, topic, 0, batch(&["a"]))]);
    let result = client.result().await;
    assert_eq!((result.base_offset, result.last_offset), (None, None));
    let open = v1::ProduceStreamOpen { acks: v1::Acks::Leader.into(), ..Default::default() };
    let mut client = Client::open_with(&broker, open).await.unwrap();
    client.send(vec![append(1, topic, 0, batch(&["b"]))]);
    let result = client.result().await;
    assert_eq!(result.base_offset, Some(2), "the leader has it, no flush was waited for");
    assert_eq!(result.durability, i32::from(v1::Durability::Memory));
}

/// A client past its window is not read; what it sent waits in HTTP/2's windows.
#[tokio::test]
async fn past_the_window_the_broker_stops_reading() {
    let window = 8 * 1024;
    let broker = Broker::with(|setup| {
        setup.io_threads = 1;
        setup.limits.stream_in_flight_bytes = window;
    })
    .await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let gate = broker.hold_log_work(1).await;
    let mut client = Client::open(&broker).await;
    assert_eq!(client.opened.max_in_flight_bytes, window as u64);
    let value = "x".repeat(1000);
    for id in 0..100 {
        client.send(vec![append(id, topic, 0, batch(&[&value]))]);
    }
    let stalls = "riverrun_bound_hits_total{bound=\"produce.stream.in.flight.bytes\"}";
    until(|| broker.metric(stalls) >= 1.0).await;
    let size = batch(&[&value]).len();
    let used = || broker.metric("riverrun_memory_budget_used_bytes{pool=\"produce\"}");
    let most = (window / size + 1) * (size + 512);
    assert!(used() <= most as f64, "{} of at most {most}", used());
    let in_log = broker.partition(topic, 0).offsets().log_end.get();
    assert!(in_log <= 1 + (window / size + 1) as i64, "{in_log} records");

    drop(gate);
    for id in 0..100 {
        let ack = client.ack().await;
        assert_eq!(ack.correlation_id, id);
        assert!(matches!(ack.outcome, Some(Outcome::Result(_))), "{ack:?}");
    }
    until(|| used() == 0.0).await;
}

/// Tiny batches run into the number of batches long before the bytes.
#[tokio::test]
async fn past_so_many_batches_the_broker_stops_reading() {
    let broker = Broker::with(|setup| {
        setup.io_threads = 1;
        setup.limits.stream_in_flight_batches = 10;
    })
    .await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let gate = broker.hold_log_work(1).await;
    let mut client = Client::open(&broker).await;
    for id in 0..50 {
        client.send(vec![append(id, topic, 0, batch(&["a"]))]);
    }
    let stalls = "riverrun_bound_hits_total{bound=\"produce.stream.in.flight.bytes\"}";
    until(|| broker.metric(stalls) >= 1.0).await;
    assert_eq!(broker.partition(topic, 0).offsets().log_end.get(), 11);
    drop(gate);
    for id in 0..50 {
        assert_eq!(client.ack().await.correlation_id, id);
    }
}

/// A client within its window keeps the other partitions going while one is blocked.
#[tokio::test]
async fn a_blocked_partition_does_not_hold_up_the_others() {
    let broker = Broker::with(|setup| setup.io_threads = 1).await;
    let blocked = broker.topic("blocked", 1).await;
    let free = broker.topic_with("free", 1, &[("durability", "memory")]).await;
    broker.write(blocked, 0, &["warm"]).await;
    broker.write(free, 0, &["warm"]).await;
    let gate = broker.hold_log_work(1).await;
    let mut client = Client::open(&broker).await;
    client.send((0..32).map(|id| append(id, blocked, 0, batch(&["stuck"]))).collect());
    for id in 100..200 {
        client.send(vec![append(id, free, 0, batch(&["goes"]))]);
        let ack = client.ack().await;
        assert_eq!(ack.correlation_id, id, "only the free partition answers");
    }
    drop(gate);
    for id in 0..32 {
        assert_eq!(client.ack().await.correlation_id, id);
    }
}

/// What a partition may have of the budget used up: streams wait, nothing is refused, everything gets through.
#[tokio::test]
async fn admission_used_up_makes_streams_wait() {
    let broker = Broker::with(|setup| {
        setup.io_threads = 1;
        setup.limits.admission_bytes = 4096;
    })
    .await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let gate = broker.hold_log_work(1).await;
    let mut clients = vec![Client::open(&broker).await, Client::open(&broker).await];
    let value = "x".repeat(1000);
    for client in &clients {
        let large = batch(&["y".repeat(6000).as_str()]);
        client.send((0..10).map(|id| append(id, topic, 0, batch(&[&value]))).collect());
        client.send(vec![append(10, topic, 0, large)]);
    }
    let hits = "riverrun_bound_hits_total{bound=\"produce.partition.share\"}";
    until(|| broker.metric(hits) >= 2.0).await;
    let used = broker.metric("riverrun_memory_budget_used_bytes{pool=\"produce\"}");
    assert!(used <= 4096.0, "{used}");
    drop(gate);
    for client in &mut clients {
        for id in 0..=10 {
            let ack = client.ack().await;
            assert_eq!(ack.correlation_id, id, "also the one larger than the whole budget");
            assert!(matches!(ack.outcome, Some(Outcome::Result(_))), "{ack:?}");
        }
    }
}

#[tokio::test]
async fn a_deleted_topic_answers_what_waits_with_its_id_unknown() {
    let broker = Broker::with(|setup| setup.io_threads = 1).await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let gate = broker.hold_log_work(1).await;
    let mut client = Client::open(&broker).await;
    client.send(vec![append(1, topic, 0, batch(&["a"]))]);
    until(|| broker.partition(topic, 0).offsets().log_end.get() == 2).await;
    let deleting = tokio::spawn({
        let mut admin = broker.admin();
        async move {
            let delete = v1::DeleteTopicRequest { name: "orders".into(), ..Default::default() };
            admin.delete_topic(delete).await
        }
    });
    let error = client.error().await;
    assert_eq!(error.reason, "UNKNOWN_TOPIC_ID", "{error:?}");
    assert!(!error.definite, "it had been appended");
    drop(gate);
    soon(deleting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_that_is_never_opened_ends() {
    let broker =
        Broker::with(|setup| setup.limits.request_timeout = Duration::from_millis(20)).await;
    let silent = futures::stream::pending::<v1::ProduceStreamRequest>();
    let mut answers = broker.producer().produce_stream(silent).await.unwrap().into_inner();
    let failed = soon(answers.message()).await.unwrap_err();
    assert_eq!(error_of(&failed).reason, "REQUEST_TIMED_OUT");
    until(|| broker.metric("riverrun_open_streams{request=\"produce_stream_append\"}") == 0.0)
        .await;
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_nothing_behind() {
    let broker = Broker::with(|setup| setup.io_threads = 1).await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["warm"]).await;
    let gate = broker.hold_log_work(1).await;
    let client = Client::open(&broker).await;
    client.send((0..10).map(|id| append(id, topic, 0, batch(&["a"]))).collect());
    until(|| broker.partition(topic, 0).offsets().log_end.get() == 11).await;
    drop(client);
    until(|| broker.metric("riverrun_open_streams{request=\"produce_stream_append\"}") == 0.0)
        .await;
    drop(gate);
    until(|| broker.metric("riverrun_memory_budget_used_bytes{pool=\"produce\"}") == 0.0).await;
    let offsets = broker.partition(topic, 0).offsets();
    assert_eq!(offsets.high_watermark.get(), 11, "what was sent is written, answered or not");
}
