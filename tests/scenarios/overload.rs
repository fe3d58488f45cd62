//! More than a broker or its disk can take: the overloader waits, nobody else, and nothing fails.
//!
//! A disk that hangs is real (see [`HangingDisk`]): the page cache goes on, no sync comes back.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use riverrun_client::{Client, Compression, Delivery, Producer, Record};
use riverrun_proto::rpc::v1;
use riverrun_tests::{
    append::AppendStream,
    clock,
    disk::{HangingDisk, Shown},
    files, forge, http,
    process::{BrokerOptions, BrokerProcess},
    wait::{self, soon},
};
use tokio::task::JoinSet;

use crate::{broker, data_dir, passed_over};

const MIB: u64 = 1 << 20;

/// What a broker may have beside budget and windows: its own structures, the allocator's slack.
const SLACK_BYTES: u64 = 48 * MIB;

/// Small windows, so that the bound means something.
fn bounded(data: &Path) -> BrokerOptions {
    broker(data)
        .set("network.http2.stream.window.bytes", "2MiB")
        .set("network.http2.connection.window.bytes", "4MiB")
        .set("produce.stream.in.flight.bytes", "2MiB")
}

/// The stated bound for so many connections: budget, and each connection's window.
fn bound(idle: u64, connections: u64) -> u64 {
    idle + 64 * MIB + connections * 4 * MIB + SLACK_BYTES
}

async fn producer(broker: &BrokerProcess, buffer_memory: usize) -> Producer {
    let client: Client = broker.client().await;
    let built = client.producer().buffer_memory(buffer_memory).compression(Compression::None);
    let built = built.linger(Duration::ZERO).build().await;
    built.expect("valid settings")
}

/// A hung disk under the whole broker: producers fill their own buffers and wait, the broker holds
/// what it says and no more, calls that need no disk are answered, and when the disk comes back
/// everything is written, once, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_disk_makes_producers_wait_and_fails_nothing() {
    let mut disk = match HangingDisk::new(400) {
        Ok(disk) => disk,
        Err(why) => return passed_over(&format!("cannot mount a hanging disk: {why}")),
    };
    let broker = bounded(&disk.path().join("data")).start();
    let raw = broker.raw().await;
    let topic = raw.create_topic("t", 4, &[("durability", "disk")]).await;
    let idle = broker.anonymous_bytes();
    let mut producers = Vec::new();
    for _ in 0..8 {
        producers.push(producer(&broker, 8 << 20).await);
    }
    // All of them are connected and known before the disk hangs.
    for (n, producer) in producers.iter().enumerate() {
        let record = Record::to("t").value("first").partition(n as u32 % 4);
        producer.send(record).await.expect("it is open").await.expect("the disk works");
    }

    disk.hang();
    let mut sending = JoinSet::new();
    for (n, producer) in producers.iter().cloned().enumerate() {
        sending.spawn(async move {
            let mut deliveries: Vec<Delivery> = Vec::new();
            // Twice what its buffer takes.
            for i in 0..256 {
                let value = format!("{n}/{i} {}", "-".repeat(64_000));
                let record = Record::to("t").value(value).partition(n as u32 % 4);
                deliveries.push(producer.send(record).await.expect("it is open"));
            }
            let mut offsets = Vec::new();
            for delivery in deliveries {
                let place = delivery.await.expect("the disk came back in time");
                offsets.push(place.offset().expect("acks are all"));
            }
            offsets
        });
    }
    wait::until("every producer has filled its buffer", async || {
        producers.iter().all(|producer| producer.buffered_bytes() > 7 << 20)
    })
    .await;
    let (held, most) = (broker.anonymous_bytes(), bound(idle, 9));
    assert!(held < most, "{held} bytes held, {most} is the bound");
    // Others are served, by a connection of their own.
    let others = broker.raw().await;
    assert!(others.topic("t").await.is_some());
    let state = others.state("t", 0).await.expect("it serves");
    assert!(state.flushed_end_offset < state.log_end_offset, "the disk does hang: {state:?}");

    disk.recover();
    let mut acked = 0;
    while let Some(offsets) = soon("the rest", sending.join_next()).await {
        let offsets = offsets.expect("no producer fails");
        assert!(offsets.is_sorted(), "in order");
        acked += offsets.len();
    }
    assert_eq!(acked, 8 * 256);
    let mut read = 0;
    for partition in 0..4 {
        read += raw.read_out(&topic, partition).await.records.len();
    }
    assert_eq!(read, 8 * 257, "each once");
    let held = broker.anonymous_bytes();
    assert!(held < most, "{held} bytes held, {most} is the bound");
    drop((raw, others, producers));
    assert!(broker.stop().0.success());
}

/// Records that fit the quarter of a stream's window which one partition may have, and more.
const BLOCKED_RECORDS: usize = 64;

/// Records whose time is taken; more where it matters.
const FREE_RECORDS: usize = 5_000;
const FREE_RECORDS_STRICT: usize = 100_000;

/// One producer, one stream, two partitions. The disk of the one hangs; the other goes on: all of its
/// records are acknowledged while not one of the blocked partition's is.
///
/// How much of its rate it keeps is printed. That it is 0.9 is asserted where `RIVERRUN_TEST_STRICT`
/// is set: on a machine that does nothing else, this scenario alone.
#[tokio::test(flavor = "multi_thread")]
async fn one_blocked_partition_leaves_the_other_of_the_same_stream_alone() {
    let mut disk = match HangingDisk::new(128) {
        Ok(disk) => disk,
        Err(why) => return passed_over(&format!("cannot mount a hanging disk: {why}")),
    };
    let data = data_dir();
    let options = broker(data.path());
    let (blocked, _shown) = match blocked_and_free(&options, &disk).await {
        Ok(made) => made,
        Err(why) => return passed_over(&why),
    };
    let broker = options.start();
    let raw = broker.raw().await;
    let producer = producer(&broker, 32 << 20).await;
    write_free(&producer).await;

    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        alone.push(write_free(&producer).await);
        disk.hang();
        let mut waiting = Vec::new();
        for _ in 0..BLOCKED_RECORDS {
            let record = Record::to("blocked").value("x".repeat(64_000)).partition(0);
            waiting.push(producer.send(record).await.expect("it is open"));
        }
        let before = raw.state("blocked", 0).await.expect("it serves");
        beside.push(write_free(&producer).await);
        let after = raw.state("blocked", 0).await.expect("it serves");
        assert_eq!(before.high_watermark, after.high_watermark, "it was blocked all the time");
        assert!(after.high_watermark < after.log_end_offset, "and had something to do: {after:?}");
        disk.recover();
        for delivery in waiting {
            soon("the blocked partition", delivery).await.expect("the disk came back");
        }
    }
    alone.sort();
    beside.sort();
    let ratio = alone[alone.len() / 2].as_secs_f64() / beside[beside.len() / 2].as_secs_f64();
    println!("beside a blocked partition the other keeps {ratio:.2} of its rate");
    assert!(!strict() || ratio >= 0.9, "{ratio} of {alone:?} is left: {beside:?}");
    let read = raw.read_out(&blocked, 0).await.records.len();
    assert_eq!(read, 5 * BLOCKED_RECORDS, "nothing of the blocked one is lost");
    drop((raw, producer));
    assert!(broker.stop().0.success());
}

/// Makes a topic on a disk that can hang and one beside it that is fine.
async fn blocked_and_free(
    options: &BrokerOptions,
    disk: &HangingDisk,
) -> Result<(v1::Topic, Shown), String> {
    let broker = options.start();
    let raw = broker.raw().await;
    let blocked = raw.create_topic("blocked", 1, &[("durability", "disk")]).await;
    raw.create_topic("free", 1, &[("durability", "disk")]).await;
    assert!(broker.stop().0.success());
    let dir = files::partition_dir(options.data(), &blocked, 0);
    let shown = Shown::moved(&dir, disk.path());
    Ok((blocked, shown.map_err(|why| format!("cannot bind a directory: {why}"))?))
}

/// The disk of one partition hangs, and more streams write to it than the broker has room for. They
/// wait, for their share of it; who writes to another partition does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_partition_does_not_take_the_brokers_room_from_others() {
    let mut disk = match HangingDisk::new(128) {
        Ok(disk) => disk,
        Err(why) => return passed_over(&format!("cannot mount a hanging disk: {why}")),
    };
    let data = data_dir();
    // Nothing is refused here and no wait ends: who is over its share waits.
    let options = bounded(data.path())
        .set("produce.admission.wait.ms", "60s")
        .set("produce.ack.timeout.ms", "10m");
    let (blocked, _shown) = match blocked_and_free(&options, &disk).await {
        Ok(made) => made,
        Err(why) => return passed_over(&why),
    };
    let broker = options.start();
    let idle = broker.anonymous_bytes();
    let others = producer(&broker, 8 << 20).await;
    write_free(&others).await;

    disk.hang();
    // Twice what the broker admits of all partitions, two MiB on each stream.
    let (streams, batches) = (24u32, 32u64);
    let mut writing = JoinSet::new();
    for _ in 0..streams {
        let mut stream = AppendStream::open(&broker.raw().await, v1::Acks::All).await;
        let blocked = blocked.clone();
        writing.spawn(async move {
            for _ in 0..batches {
                stream.send(&blocked, 0, forge::large(64_000)).await.expect("it is open");
            }
            for id in 1..=batches {
                let ack = soon("the disk to come back", stream.ack()).await;
                let ack = ack.expect("the stream stays").expect("it does not end");
                assert_eq!(ack.correlation_id, id);
                let outcome = ack.outcome.expect("there is one");
                let written = matches!(outcome, v1::produce_stream_ack::Outcome::Result(_));
                assert!(written, "{outcome:?}");
            }
        });
    }
    let share = async |what: &str| {
        let metrics = http::metrics(broker.http()).await;
        metrics.value(&format!("riverrun_bound_{what}{{bound=\"produce.partition.share\"}}"))
    };
    // The share is as much as three of them send; all the others wait.
    wait::until("the streams wait for their share", async || {
        share("hits_total").await >= f64::from(streams - 4)
    })
    .await;
    assert!(share("used").await <= share("limit").await);
    let raw = broker.raw().await;
    let before = raw.state("blocked", 0).await.expect("it serves");
    write_free(&others).await;
    let after = raw.state("blocked", 0).await.expect("it serves");
    assert_eq!(before.high_watermark, after.high_watermark, "it was blocked all the time");
    let (held, most) = (broker.anonymous_bytes(), bound(idle, u64::from(streams) + 3));
    assert!(held < most, "{held} bytes held, {most} is the bound");

    disk.recover();
    while let Some(ended) = soon("the blocked ones", writing.join_next()).await {
        ended.expect("nothing failed");
    }
    let end = raw.edge(&blocked, 0, v1::Edge::Latest).await;
    assert_eq!(end, i64::from(streams) * batches as i64);
    drop((raw, others));
    assert!(broker.stop().0.success());
}

/// The machine does nothing else: figures may be asserted.
fn strict() -> bool {
    std::env::var_os("RIVERRUN_TEST_STRICT").is_some()
}

/// Writes to the free partition, one record after the other in flight; how long it took.
async fn write_free(producer: &Producer) -> Duration {
    let start: Instant = clock::now().into_std();
    let mut deliveries = Vec::new();
    let records = if strict() { FREE_RECORDS_STRICT } else { FREE_RECORDS };
    for _ in 0..records {
        let record = Record::to("free").value("x".repeat(1_000)).partition(0);
        deliveries.push(producer.send(record).await.expect("it is open"));
    }
    for delivery in deliveries {
        soon("the free partition", delivery).await.expect("its disk works");
    }
    start.elapsed()
}

/// Who cannot wait for the disk is told the truth: written, not known to be durable. What that was
/// is there when the disk is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_over_says_that_the_outcome_is_open() {
    let mut disk = match HangingDisk::new(64) {
        Ok(disk) => disk,
        Err(why) => return passed_over(&format!("cannot mount a hanging disk: {why}")),
    };
    let broker = bounded(&disk.path().join("data")).start();
    let raw = broker.raw().await;
    let topic = raw.create_topic("t", 1, &[("durability", "disk")]).await;
    raw.produce("t", 0, &["before"]).await.expect("the disk works");
    disk.hang();
    let record = v1::Record { value: Some("late".into()), ..Default::default() };
    let request = |acks: v1::Acks| v1::ProduceRequest {
        topic: "t".to_owned(),
        records: Some(v1::RecordList { records: vec![record.clone()], compression: 0 }),
        partition: Some(0),
        acks: acks.into(),
        ack_timeout: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }),
        ..Default::default()
    };
    let late = raw.produce.clone().produce(request(v1::Acks::All)).await.expect("in band");
    let outcome = late.into_inner().results.pop().and_then(|result| result.outcome);
    let Some(v1::record_result::Outcome::Error(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.reason, "REQUEST_TIMED_OUT");
    assert!(error.retriable && !error.definite, "it may yet be committed: {error:?}");
    // Who asked for less is answered at once, and told what he got.
    let quick = raw.produce.clone().produce(request(v1::Acks::Leader)).await.expect("in band");
    let outcome = quick.into_inner().results.pop().and_then(|result| result.outcome);
    let Some(v1::record_result::Outcome::Ack(ack)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((ack.offset, ack.durability()), (Some(2), v1::Durability::Memory));
    // Nobody reads what is not committed.
    assert_eq!(raw.edge(&topic, 0, v1::Edge::Latest).await, 1);

    disk.recover();
    wait::until("both are committed", async || raw.edge(&topic, 0, v1::Edge::Latest).await == 3)
        .await;
    assert_eq!(raw.read_out(&topic, 0).await.texts(), ["before", "late", "late"]);
    drop(raw);
    assert!(broker.stop().0.success());
}

/// Far more offered than a disk writes: no errors, and no more memory than stated.
#[tokio::test(flavor = "multi_thread")]
async fn producers_that_outrun_the_disk_wait_and_lose_nothing() {
    let data = data_dir();
    let broker = bounded(data.path()).start();
    let raw = broker.raw().await;
    let topic = raw.create_topic("t", 4, &[("durability", "disk")]).await;
    let idle = broker.anonymous_bytes();
    let mut sending = JoinSet::new();
    for n in 0..6u32 {
        let producer = producer(&broker, 8 << 20).await;
        sending.spawn(async move {
            let mut deliveries = Vec::new();
            for _ in 0..400 {
                let record = Record::to("t").value("x".repeat(50_000)).partition(n % 4);
                deliveries.push(producer.send(record).await.expect("it is open"));
            }
            for delivery in deliveries {
                delivery.await.expect("nothing fails for being too much");
            }
        });
    }
    let mut most = 0;
    wait::until("all of it is written", async || {
        most = most.max(broker.anonymous_bytes());
        while let Some(ended) = sending.try_join_next() {
            ended.expect("no producer fails");
        }
        sending.is_empty()
    })
    .await;
    let allowed = bound(idle, 7);
    assert!(most < allowed, "{most} bytes held, {allowed} is the bound");
    let mut ends = 0;
    for partition in 0..4 {
        ends += raw.edge(&topic, partition, v1::Edge::Latest).await;
    }
    assert_eq!(ends, 6 * 400);
}
