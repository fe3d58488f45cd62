//! Readers that do not read: paused, silent, ten thousand at once. They cost what the broker says
//! and nobody else anything.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use riverrun_proto::rpc::v1;
use riverrun_tests::{
    append::AppendStream,
    forge, http,
    process::{BrokerOptions, BrokerProcess, pid_of},
    proxy::{Proxy, Weather},
    raw::{self, Raw},
    wait::{self, soon},
};
use rustix::process::{Signal, kill_process};
use tokio::sync::mpsc;
use tonic::Streaming;
use v1::{fetch_stream_request::Request, fetch_stream_response::Response, partition_data};

use crate::{broker, data_dir};

const MIB: u64 = 1 << 20;

/// What a broker may have beside budget and windows: its own structures, the allocator's slack.
const SLACK_BYTES: u64 = 48 * MIB;

const WINDOW_BYTES: u64 = 4 * MIB;

fn bounded(data: &Path) -> BrokerOptions {
    broker(data)
        .set("network.http2.stream.window.bytes", "2MiB")
        .set("network.http2.connection.window.bytes", &WINDOW_BYTES.to_string())
        .set("produce.stream.in.flight.bytes", "2MiB")
}

fn bound(idle: u64, connections: u64) -> u64 {
    idle + 64 * MIB + connections * WINDOW_BYTES + SLACK_BYTES
}

/// An open stream: its requests, which keep it open, and its answers.
type Reading = (mpsc::Sender<v1::FetchStreamRequest>, Streaming<v1::FetchStreamResponse>);

async fn read_from(
    raw: &Raw,
    topic: &v1::Topic,
    credit: Option<u64>,
) -> Result<Reading, tonic::Status> {
    let open = v1::FetchStreamOpen {
        partitions: vec![raw::from_offset(topic, 0, 0)],
        format: v1::ReadFormat::Encoded.into(),
        initial_credit_bytes: credit,
        ..Default::default()
    };
    let open = v1::FetchStreamRequest { request: Some(Request::Open(open)) };
    let (held, requests) = raw::held_open(open);
    let answers = raw.consume.clone().fetch_stream(requests).await?.into_inner();
    Ok((held, answers))
}

/// Work that others want done: written and read over a connection of their own.
async fn others_are_served(broker: &BrokerProcess, name: &str) {
    let raw = broker.raw().await;
    let topic = raw.create_topic(name, 1, &[]).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    for n in 0..50 {
        let batch = forge::batch(&[&n.to_string()]);
        stream.append(&topic, 0, batch).await.expect("others are served");
    }
    assert_eq!(raw.read_out(&topic, 0).await.records.len(), 50);
}

async fn open_streams(broker: &BrokerProcess) -> u64 {
    let metrics = http::metrics(broker.http()).await;
    metrics.value("riverrun_open_streams{request=\"fetch_stream\"}") as u64
}

/// A topic with `batches` batches of nearly a MiB.
async fn large_topic(raw: &Raw, batches: usize) -> v1::Topic {
    let topic = raw.create_topic("large", 1, &[("durability", "memory")]).await;
    let mut stream = AppendStream::open(raw, v1::Acks::All).await;
    for _ in 0..batches {
        stream.append(&topic, 0, forge::large(1_000_000)).await.expect("it is fine");
    }
    topic
}

/// Readers whose network takes nothing any more, though they granted everything.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_never_read_cost_what_is_stated() {
    let data = data_dir();
    let options = bounded(data.path());
    let proxy = Proxy::start(options.address().parse().expect("it is an address")).await;
    let broker = options.start();
    let topic = large_topic(&broker.raw().await, 40).await;
    let idle = broker.anonymous_bytes();

    let (connections, streams) = (10, 20);
    let mut readings = Vec::new();
    for _ in 0..connections {
        let raw = Raw::connect(&proxy.address()).await;
        // One answer says that the connection works; from then on nothing is read.
        let (held, mut answers) = read_from(&raw, &topic, Some(1)).await.expect("it opens");
        soon("a first answer", answers.message()).await.expect("it works");
        readings.push((raw, (held, answers)));
    }
    proxy.set(Weather { to_client_stalls: true, ..Weather::default() });
    let mut more = Vec::new();
    for (raw, _) in &readings {
        for _ in 1..streams {
            // The answer to opening does not come, either.
            let (raw, topic) = (raw.clone(), topic.clone());
            more.push(tokio::spawn(async move {
                let reading = read_from(&raw, &topic, None).await;
                // Held, and never read.
                std::future::pending::<()>().await;
                drop(reading);
            }));
        }
    }
    let wanted = connections * streams;
    wait::until("all streams are open", async || open_streams(&broker).await == wanted).await;
    let mut most = 0;
    for round in 0..5 {
        others_are_served(&broker, &format!("others-{round}")).await;
        most = most.max(broker.anonymous_bytes());
    }
    let allowed = bound(idle, connections + 1);
    println!("{} MiB more than idle held, of {}", (most - idle) / MIB, (allowed - idle) / MIB);
    assert!(most < allowed, "{most} bytes held for {wanted} dead readers, {allowed} is the bound");

    // When they are gone so is what they cost.
    for task in more {
        task.abort();
    }
    drop(readings);
    proxy.cut().await;
    wait::until("their streams are gone", async || open_streams(&broker).await == 0).await;
    let metrics = http::metrics(broker.http()).await;
    for pool in ["fetch", "cold_reads"] {
        let used = format!("riverrun_memory_budget_used_bytes{{pool=\"{pool}\"}}");
        assert_eq!(metrics.value(&used), 0.0, "{pool}");
    }
}

/// A reader gets what it granted and one batch, and more when it grants more.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_given_its_credit_and_one_batch_at_most() {
    let data = data_dir();
    let broker = bounded(data.path()).start();
    let raw = broker.raw().await;
    let topic = raw.create_topic("t", 1, &[]).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    let batch = forge::large(10_000);
    for _ in 0..100 {
        stream.append(&topic, 0, batch.clone()).await.expect("it is fine");
    }
    let credit = 45_000;
    let (grants, mut answers) = read_from(&raw, &topic, Some(credit)).await.expect("it opens");
    let (mut granted, mut taken, mut batches) = (credit, 0, 0);
    while batches < 100 {
        let answer = soon("more batches", answers.message()).await.expect("it goes on");
        let Some(Response::Data(data)) = answer.expect("it does not end").response else {
            continue;
        };
        for item in data.items {
            let Some(partition_data::Outcome::Batches(read)) = item.outcome else {
                panic!("{:?}", item.outcome);
            };
            let bytes: usize = read.batches.iter().map(bytes::Bytes::len).sum();
            assert_eq!(item.credit_bytes, bytes as u64, "the price is what it weighs");
            taken += item.credit_bytes;
            batches += read.batches.len();
        }
        assert!(taken <= granted + batch.len() as u64, "{taken} bytes of {granted}");
        if taken >= granted {
            let credit = v1::Credit { bytes: credit };
            let request = v1::FetchStreamRequest { request: Some(Request::Credit(credit)) };
            grants.send(request).await.expect("it is open");
            granted += credit.bytes;
        }
    }
    assert_eq!(batches, 100);
    let metrics = http::metrics(broker.http()).await;
    let stalls = metrics.value("riverrun_stream_window_stalls_total{request=\"fetch_stream\"}");
    assert!(stalls >= 10.0, "{stalls}: each time it ran out is counted");
}

/// A client killed when dropped.
struct ClientProcess(Child);

impl Drop for ClientProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that is stopped holds its connections and reads nothing; the broker notices by the ping
/// that is not answered and lets go. Woken, the client finds its way back and misses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_client_is_let_go_and_comes_back() {
    let data = data_dir();
    let options = bounded(data.path())
        .set("network.keepalive.interval.ms", "1s")
        .set("network.keepalive.timeout.ms", "1s");
    let broker = options.start();
    let raw = broker.raw().await;
    let topic = large_topic(&raw, 8).await;
    let idle = broker.anonymous_bytes();
    let open_connections = async || {
        let metrics = http::metrics(broker.http()).await;
        metrics.value("riverrun_open_connections")
    };
    let before = open_connections().await;

    let out = data.path().join("offsets");
    let client = Command::new(env!("CARGO_BIN_EXE_riverrun-under-test"))
        .args(["consume", "large", "--brokers", &broker.address(), "-f", "%o\\n"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).expect("there is room"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary under test exists");
    let client = ClientProcess(client);
    let offsets = || -> Vec<i64> {
        let text = std::fs::read_to_string(&out).expect("it is there");
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    wait::until("it has read what there was", async || offsets().len() == 8).await;
    kill_process(pid_of(&client.0), Signal::STOP).expect("it runs");

    // More than any window takes, while it is away.
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    for _ in 0..60 {
        stream.append(&topic, 0, forge::large(1_000_000)).await.expect("it is fine");
    }
    wait::until("the broker lets go of it", async || open_connections().await <= before).await;
    others_are_served(&broker, "others").await;
    let (held, allowed) = (broker.anonymous_bytes(), bound(idle, 4));
    assert!(held < allowed, "{held} bytes held, {allowed} is the bound");

    kill_process(pid_of(&client.0), Signal::CONT).expect("it is still there");
    wait::until("it has read the rest", async || offsets().len() >= 68).await;
    assert_eq!(offsets(), (0..68).collect::<Vec<_>>(), "nothing twice, nothing left out");
}

/// Ten thousand streams that wait for records; one connection that wants them all for itself gets
/// its share.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_cost_what_is_stated() {
    let data = data_dir();
    let broker = bounded(data.path()).start();
    let raw = broker.raw().await;
    let topic = raw.create_topic("t", 1, &[]).await;
    let idle = broker.anonymous_bytes();

    let (connections, streams) = (50u64, 200u64);
    let mut readings = Vec::new();
    for _ in 0..connections {
        let raw = broker.raw().await;
        let opening = (0..streams).map(|_| read_from(&raw, &topic, None));
        let opened = soon("streams to open", futures::future::try_join_all(opening)).await;
        readings.extend(opened.expect("a connection may have 256"));
    }
    assert_eq!(open_streams(&broker).await, connections * streams);
    let held = broker.anonymous_bytes();
    let allowed = bound(idle, connections + 1);
    assert!(held < allowed, "{held} bytes held, {allowed} is the bound");
    println!("{} streams cost {} KiB each", readings.len(), (held - idle) / 1024 / 10_000);
    others_are_served(&broker, "others").await;

    // All of them are woken by one record, and given it.
    raw.produce("t", 0, &["for everybody"]).await.expect("it is fine");
    for (_, answers) in &mut readings {
        loop {
            let answer = soon("the record", answers.message()).await.expect("it goes on");
            let answer = answer.expect("it does not end").response;
            if let Some(Response::Data(data)) = answer
                && data.items.iter().any(|item| item.credit_bytes > 0)
            {
                break;
            }
        }
    }
    let held = broker.anonymous_bytes();
    assert!(held < allowed, "{held} bytes held, {allowed} is the bound");

    // One connection: 256 at a time, the others wait at the client.
    let greedy = broker.raw().await;
    let (opened, mut open) = mpsc::channel(10_000);
    let mut tasks = Vec::new();
    for _ in 0..10_000 {
        let (greedy, topic, opened) = (greedy.clone(), topic.clone(), opened.clone());
        tasks.push(tokio::spawn(async move {
            let reading = read_from(&greedy, &topic, None).await;
            let _ = opened.send(()).await;
            std::future::pending::<()>().await;
            drop(reading);
        }));
    }
    for _ in 0..256 {
        soon("its share", open.recv()).await.expect("somebody sends");
    }
    others_are_served(&broker, "others-2").await;
    let all = connections * streams + 256;
    wait::until("only its share is open", async || open_streams(&broker).await == all).await;
    let held = broker.anonymous_bytes();
    assert!(held < allowed + WINDOW_BYTES, "{held} bytes held, {allowed} is the bound");
    for task in tasks {
        task.abort();
    }
}
