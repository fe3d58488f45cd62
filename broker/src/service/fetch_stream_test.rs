//! `FetchStream`.

use tokio::sync::mpsc as channel;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use v1::{fetch_stream_request::Request, fetch_stream_response::Response, partition_data::Outcome};

use super::{test_support::*, *};

struct Client {
    requests: channel::Sender<v1::FetchStreamRequest>,
    answers: Streaming<v1::FetchStreamResponse>,
}

impl Client {
    async fn open(broker: &Broker, open: v1::FetchStreamOpen) -> Self {
        let (requests, receiver) = channel::channel(100);
        requests.try_send(wrap(Request::Open(open))).unwrap();
        let answers = broker.consumer().fetch_stream(ReceiverStream::new(receiver)).await;
        Self { requests, answers: answers.unwrap().into_inner() }
    }

    fn credit(&self, bytes: u64) {
        self.requests.try_send(wrap(Request::Credit(v1::Credit { bytes }))).unwrap();
    }

    fn update(&self, update: v1::UpdatePartitions) {
        self.requests.try_send(wrap(Request::Update(update))).unwrap();
    }

    async fn next(&mut self) -> Response {
        soon(self.answers.message()).await.unwrap().unwrap().response.unwrap()
    }

    async fn data(&mut self) -> Vec<v1::PartitionData> {
        match self.next().await {
            Response::Data(data) => data.items,
            other => panic!("{other:?}"),
        }
    }

    /// Values read until `wanted` have come, in order of their coming, with their partition.
    async fn values(&mut self, wanted: usize) -> Vec<(i32, String)> {
        let mut got = Vec::new();
        while got.len() < wanted {
            for item in self.data().await {
                let partition = item.partition.as_ref().unwrap().partition;
                got.extend(values_of(&item).into_iter().map(|value| (partition, value)));
            }
        }
        got
    }

    async fn failure(&mut self) -> v1::Error {
        loop {
            match soon(self.answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => return error_of(&status),
            }
        }
    }
}

fn wrap(request: Request) -> v1::FetchStreamRequest {
    v1::FetchStreamRequest { request: Some(request) }
}

fn values_of(data: &v1::PartitionData) -> Vec<String> {
    match data.outcome.as_ref().unwrap() {
        Outcome::Batches(batches) => values(batches),
        Outcome::Records(records) => plain_values(records),
        other => panic!("{other:?}"),
    }
}

fn open(partitions: Vec<v1::PartitionFrom>) -> v1::FetchStreamOpen {
    v1::FetchStreamOpen { partitions, format: v1::ReadFormat::Encoded.into(), ..Default::default() }
}

fn owned(values: &[&str]) -> Vec<(i32, String)> {
    values.iter().map(|value| (0, (*value).to_owned())).collect()
}

#[tokio::test]
async fn what_is_there_and_what_comes_is_pushed_in_order() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a", "b"]).await;
    let mut client = Client::open(&broker, open(vec![from_offset(named("orders", 0), 0)])).await;
    let first = client.data().await;
    assert_eq!(values_of(&first[0]), ["a", "b"]);
    assert_eq!(first[0].partition.as_ref().unwrap().topic, "orders", "as the client named it");
    assert!(first[0].caught_up);
    assert_eq!(first[0].next_offset, Some(2));
    for value in ["c", "d", "e"] {
        broker.write(topic, 0, &[value]).await;
        assert_eq!(client.values(1).await, owned(&[value]));
    }
}

#[tokio::test]
async fn an_empty_partition_says_that_the_reader_is_caught_up() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let mut client = Client::open(&broker, open(vec![from_offset(by_id(topic, 0), 0)])).await;
    let first = client.data().await;
    assert!(first[0].caught_up);
    assert_eq!((first[0].next_offset, first[0].high_watermark), (Some(0), Some(0)));
    assert_eq!(first[0].credit_bytes, 0);
}

#[tokio::test]
async fn plain_records_come_where_they_are_asked_for() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a", "b", "c"]).await;
    let asked = v1::FetchStreamOpen { format: 0, ..open(vec![from_offset(by_id(topic, 0), 1)]) };
    let mut client = Client::open(&broker, asked).await;
    assert_eq!(client.values(2).await, owned(&["b", "c"]));
}

/// A reader that never reads costs at most its credit and one batch.
#[tokio::test]
async fn no_more_is_pushed_than_the_credit_and_one_batch() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let values: Vec<String> = (0..20).map(|i| format!("{i:0500}")).collect();
    broker.write(topic, 0, &values.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let size = batch(&[&values[0]]).len() as u64;
    let asked = v1::FetchStreamOpen {
        initial_credit_bytes: Some(size + 1),
        ..open(vec![from_offset(by_id(topic, 0), 0)])
    };
    let mut client = Client::open(&broker, asked).await;
    let mut pushed = Vec::new();
    for item in client.data().await {
        assert!(item.credit_bytes > 0);
        pushed.extend(values_of(&item));
    }
    while pushed.len() < 2 {
        pushed.extend(client.data().await.iter().flat_map(values_of));
    }
    assert_eq!(pushed, values[..2], "one within the credit, one that overdraws it");
    let stalled = "riverrun_stream_window_stalls_total{request=\"fetch_stream\"}";
    until(|| broker.metric(stalled) == 1.0).await;
    let fetched = broker.metric("riverrun_records_fetched_total{topic=\"orders\"}");
    assert_eq!(fetched, 2.0, "nothing else was even read");

    client.credit(size - 1);
    broker.write(topic, 0, &["wakes nobody"]).await;
    client.credit(1);
    assert_eq!(client.values(1).await, owned(&[&values[2]]), "what was owed is made up for first");
    client.credit(1 << 30);
    assert_eq!(client.values(18).await.len(), 18);
}

#[tokio::test]
async fn without_credit_nothing_is_pushed() {
    let broker = Broker::with(|setup| {
        setup.limits.fetch_heartbeat = Duration::from_millis(20);
    })
    .await;
    let topic = broker.topic("orders", 1).await;
    broker.write(topic, 0, &["a"]).await;
    let asked = v1::FetchStreamOpen {
        initial_credit_bytes: Some(0),
        ..open(vec![from_offset(by_id(topic, 0), 0)])
    };
    let mut client = Client::open(&broker, asked).await;
    for _ in 0..3 {
        assert!(matches!(client.next().await, Response::Heartbeat(_)));
    }
    client.credit(1);
    assert_eq!(client.values(1).await, owned(&["a"]));
}

#[tokio::test]
async fn an_idle_stream_has_a_heartbeat() {
    let broker = Broker::with(|setup| {
        setup.limits.fetch_heartbeat = Duration::from_millis(10);
    })
    .await;
    let mut client = Client::open(&broker, open(vec![])).await;
    for _ in 0..3 {
        assert!(matches!(client.next().await, Response::Heartbeat(_)));
    }
}

#[tokio::test]
async fn after_a_seek_is_answered_only_the_new_place_is_read() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let values: Vec<String> = (0..50).map(|i| format!("{i}-{}", "x".repeat(5000))).collect();
    broker.write(topic, 0, &values.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut client = Client::open(&broker, open(vec![from_offset(by_id(topic, 0), 0)])).await;
    client.data().await;
    client.update(v1::UpdatePartitions {
        generation: 7,
        set: vec![from_offset(by_id(topic, 0), 40)],
        ..Default::default()
    });
    let mut before = 0;
    loop {
        match client.next().await {
            Response::Data(data) => before += data.items.len(),
            Response::Updated(updated) => {
                assert_eq!(updated.generation, 7);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let after: Vec<String> = client.values(10).await.into_iter().map(|(_, value)| value).collect();
    assert_eq!(after, values[40..], "after {before} pieces of the old place");
}

#[tokio::test]
async fn partitions_are_added_paused_resumed_and_removed() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    let mut client = Client::open(&broker, open(vec![from_offset(by_id(topic, 0), 0)])).await;
    assert!(client.data().await[0].caught_up);
    client.update(v1::UpdatePartitions {
        generation: 1,
        set: vec![from_offset(by_id(topic, 1), 0)],
        pause: vec![by_id(topic, 0)],
        ..Default::default()
    });
    assert!(matches!(client.next().await, Response::Updated(_)));
    assert_eq!(client.data().await[0].partition.as_ref().unwrap().partition, 1);
    broker.write(topic, 0, &["paused"]).await;
    broker.write(topic, 1, &["new"]).await;
    assert_eq!(client.values(1).await, [(1, "new".to_owned())]);
    client.update(v1::UpdatePartitions {
        generation: 2,
        resume: vec![by_id(topic, 0)],
        remove: vec![by_id(topic, 1)],
        ..Default::default()
    });
    assert!(matches!(client.next().await, Response::Updated(_)));
    broker.write(topic, 1, &["removed"]).await;
    broker.write(topic, 0, &["again"]).await;
    assert_eq!(client.values(2).await, owned(&["paused", "again"]));
}

#[tokio::test]
async fn a_partitions_error_is_told_and_the_others_go_on() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    broker.write(topic, 0, &["a"]).await;
    let places = vec![
        from_offset(by_id(topic, 1), 99),
        from_offset(named("nowhere", 0), 0),
        from_offset(by_id(topic, 0), 0),
    ];
    let mut client = Client::open(&broker, open(places)).await;
    let (mut errors, mut values) = (Vec::new(), Vec::new());
    while errors.len() < 2 || values.is_empty() {
        for item in client.data().await {
            match item.outcome.as_ref().unwrap() {
                Outcome::Error(error) => errors.push(error.reason.clone()),
                _ => values.extend(values_of(&item)),
            }
        }
    }
    errors.sort();
    assert_eq!(errors, ["OFFSET_OUT_OF_RANGE", "UNKNOWN_TOPIC_OR_PARTITION"]);
    assert_eq!(values, ["a"]);
    client.update(v1::UpdatePartitions {
        generation: 1,
        set: vec![from_offset(by_id(topic, 1), 0)],
        ..Default::default()
    });
    assert!(matches!(client.next().await, Response::Updated(_)));
    broker.write(topic, 1, &["back"]).await;
    assert_eq!(client.values(1).await, [(1, "back".to_owned())], "set anew, it is read again");
}

#[tokio::test]
async fn a_deleted_topic_is_told_to_its_readers() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let mut client = Client::open(&broker, open(vec![from_offset(by_id(topic, 0), 0)])).await;
    assert!(client.data().await[0].caught_up);
    let delete = v1::DeleteTopicRequest { name: "orders".into(), ..Default::default() };
    broker.admin().delete_topic(delete).await.unwrap();
    let told = client.data().await;
    let Some(Outcome::Error(error)) = &told[0].outcome else { panic!("{told:?}") };
    assert_eq!(error.reason, "UNKNOWN_TOPIC_ID");
}

/// A busy partition does not keep a quiet one from being read.
#[tokio::test]
async fn partitions_take_turns() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    let large = "x".repeat(60 << 10);
    broker.write(topic, 0, &[large.as_str(); 20]).await;
    broker.write(topic, 1, &["quiet"]).await;
    let places = vec![from_offset(by_id(topic, 0), 0), from_offset(by_id(topic, 1), 0)];
    let mut client = Client::open(&broker, open(places)).await;
    let mut messages = 0;
    'read: loop {
        messages += 1;
        for item in client.data().await {
            if item.partition.as_ref().unwrap().partition == 1 {
                break 'read;
            }
        }
    }
    assert!(messages <= 2, "{messages} messages before the quiet partition's turn");
}

/// Small pieces of many partitions share a message.
#[tokio::test]
async fn small_pieces_are_packed() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 8).await;
    for partition in 0..8 {
        broker.write(topic, partition, &["a"]).await;
    }
    let places = (0..8).map(|p| from_offset(by_id(topic, p), 0)).collect();
    let mut client = Client::open(&broker, open(places)).await;
    assert_eq!(client.data().await.len(), 8);
}

/// However much a client would take, a message stays within the broker's limit, but for one batch.
#[tokio::test]
async fn messages_stay_within_the_brokers_limit() {
    let broker = Broker::with(|setup| setup.limits.response_bytes_max = 1000).await;
    let topic = broker.topic("orders", 1).await;
    let value = "x".repeat(300);
    broker.write(topic, 0, &[value.as_str(); 10]).await;
    let size = batch(&[&value]).len();
    let asked = v1::FetchStreamOpen {
        max_response_bytes: 1 << 30,
        ..open(vec![from_offset(by_id(topic, 0), 0)])
    };
    let mut client = Client::open(&broker, asked).await;
    let mut seen = 0;
    while seen < 10 {
        let data = client.data().await;
        let bytes: u64 = data.iter().map(|item| item.credit_bytes).sum();
        assert!(bytes <= (1000 / size * size) as u64, "{bytes} bytes in one message");
        seen += data.iter().map(|item| values_of(item).len()).sum::<usize>();
    }
}

#[tokio::test]
async fn gathering_waits_for_more_but_not_longer_than_asked() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let one = batch(&["a"]).len() as u32;
    let gather = |min_bytes, max_wait| v1::FetchStreamOpen {
        min_bytes,
        max_wait: Some(convert::wire_duration(max_wait)),
        ..open(vec![from_offset(by_id(topic, 0), 0)])
    };
    broker.write(topic, 0, &["a"]).await;
    let mut patient = Client::open(&broker, gather(2 * one, PATIENCE * 2)).await;
    broker.write(topic, 0, &["b"]).await;
    let both: Vec<_> = patient.data().await.iter().flat_map(values_of).collect();
    assert_eq!(both, ["a", "b"], "in one message");
    let mut hasty = Client::open(&broker, gather(1 << 20, Duration::from_millis(5))).await;
    assert_eq!(hasty.values(2).await, owned(&["a", "b"]));
}

/// A read that waits for the disk steps aside: another partition's data comes meanwhile.
#[tokio::test]
async fn a_cold_partition_does_not_hold_up_a_hot_one() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 2).await;
    broker.write(topic, 0, &["cold"]).await;
    // Both threads of the read lane are taken: a cold read cannot end.
    let mut gates = Vec::new();
    for _ in 0..2 {
        let (gate, held) = mpsc::sync_channel::<()>(0);
        broker.pool.run(Lane::Read, move || _ = held.recv());
        gates.push(gate);
    }
    until(|| broker.pool.waiting(Lane::Read) == 0).await;
    broker.disk.set_cold(true);
    let mut client = Client::open(&broker, open(vec![from_offset(by_id(topic, 0), 0)])).await;
    until(|| broker.pool.waiting(Lane::Read) == 1).await;
    broker.disk.set_cold(false);
    client.update(v1::UpdatePartitions {
        generation: 1,
        set: vec![from_offset(by_id(topic, 1), 0)],
        ..Default::default()
    });
    assert!(matches!(client.next().await, Response::Updated(_)));
    broker.write(topic, 1, &["hot"]).await;
    assert_eq!(client.values(1).await, [(1, "hot".to_owned())]);
    drop(gates);
    assert_eq!(client.values(1).await, owned(&["cold"]));
}

/// So many reads of one stream wait for the disk at once; each holds one piece.
#[tokio::test]
async fn cold_reads_of_one_stream_are_bounded() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 20).await;
    for partition in 0..20 {
        broker.write(topic, partition, &["cold"]).await;
    }
    let mut gates = Vec::new();
    for _ in 0..2 {
        let (gate, held) = mpsc::sync_channel::<()>(0);
        broker.pool.run(Lane::Read, move || _ = held.recv());
        gates.push(gate);
    }
    until(|| broker.pool.waiting(Lane::Read) == 0).await;
    broker.disk.set_cold(true);
    let places = (0..20).map(|p| from_offset(by_id(topic, p), 0)).collect();
    let mut client = Client::open(&broker, open(places)).await;
    until(|| broker.pool.waiting(Lane::Read) == subscriptions::ASIDE_MAX).await;
    // The stream goes on serving requests meanwhile, and starts no other read.
    client.update(v1::UpdatePartitions { generation: 1, ..Default::default() });
    assert!(matches!(client.next().await, Response::Updated(_)));
    assert_eq!(broker.pool.waiting(Lane::Read), subscriptions::ASIDE_MAX);
    drop(gates);
    assert_eq!(client.values(20).await.len(), 20);
}

#[tokio::test]
async fn protocol_errors_end_the_stream_with_a_reason() {
    let broker = Broker::with(|setup| setup.limits.fetch_partitions_max = 1).await;
    let topic = broker.topic("orders", 2).await;
    let place = |partition| from_offset(by_id(topic, partition), 0);
    let (requests, receiver) = channel::channel(10);
    requests.try_send(wrap(Request::Credit(v1::Credit { bytes: 1 }))).unwrap();
    let answers = broker.consumer().fetch_stream(ReceiverStream::new(receiver)).await.unwrap();
    let mut early = Client { requests, answers: answers.into_inner() };
    assert_eq!(early.failure().await.reason, "INVALID_REQUEST");

    let mut twice = Client::open(&broker, open(vec![])).await;
    twice.requests.try_send(wrap(Request::Open(open(vec![])))).unwrap();
    assert_eq!(twice.failure().await.reason, "INVALID_REQUEST");

    let mut many = Client::open(&broker, open(vec![place(0), place(1)])).await;
    assert_eq!(many.failure().await.reason, "INVALID_REQUEST");

    let mut strange =
        Client::open(&broker, v1::FetchStreamOpen { format: 9, ..open(vec![]) }).await;
    assert_eq!(strange.failure().await.reason, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_client_that_sends_no_more_still_listens() {
    let broker = Broker::start().await;
    let topic = broker.topic("orders", 1).await;
    let Client { requests, mut answers } =
        Client::open(&broker, open(vec![from_offset(by_id(topic, 0), 0)])).await;
    drop(requests);
    assert!(soon(answers.message()).await.unwrap().is_some());
    broker.write(topic, 0, &["a"]).await;
    let Some(Response::Data(data)) = soon(answers.message()).await.unwrap().unwrap().response
    else {
        panic!()
    };
    assert_eq!(values_of(&data.items[0]), ["a"]);
    drop(answers);
    until(|| broker.metric("riverrun_open_streams{request=\"fetch_stream\"}") == 0.0).await;
}
