//! Load that keeps a history: idempotent producers, readers by the client and by stubs alone, and
//! somebody who asks for ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use riverrun_client::{Acks, Client, Delivery, Position, Record};
use riverrun_proto::rpc::v1;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use v1::{fetch_stream_request, fetch_stream_response::Response, partition_data};

use crate::{
    history::{Moment, Outcome, Poll, Recorder, Value},
    raw::{self, Raw},
    wait::{self, HANG},
};

/// Records of one producer on their way. Few enough for a history that is checked in moments, many
/// enough for batches in flight at every kill.
const IN_FLIGHT_MAX: usize = 256;

/// Bytes that follow a record's value.
const PADDING: &str = " ------------------------------------------------------------------------";

/// Pause of a reader that lost its broker, and of the one who asks.
const PAUSE: Duration = Duration::from_millis(5);

/// What a load does.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The topic, made already.
    pub topic: v1::Topic,
    /// Producers; each writes to all partitions in turn.
    pub producers: u32,
    /// Readers; each follows all partitions, every other one by stubs alone.
    pub readers: u32,
    /// When a record counts as written.
    pub acks: Acks,
}

/// Load on its way. Ends when dropped.
#[derive(Debug)]
pub struct Load {
    shape: Shape,
    addresses: Vec<String>,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
    producers: JoinSet<()>,
    others: JoinSet<()>,
}

// === impl Load ===

impl Load {
    /// Starts it against the broker at `address`, which may go away and come back there.
    pub async fn start(address: &str, shape: Shape) -> Self {
        Self::start_on(vec![address.to_owned()], shape).await
    }

    /// Starts it against a cluster, any node of which may go away and come back.
    pub async fn start_on(addresses: Vec<String>, shape: Shape) -> Self {
        Self::start_paced(addresses, shape, Duration::ZERO).await
    }

    /// As [`Load::start_on`]; each producer pauses for `pace` after each record.
    pub async fn start_paced(addresses: Vec<String>, shape: Shape, pace: Duration) -> Self {
        let mut load = Self {
            addresses,
            recorder: Recorder::default(),
            stop: Arc::default(),
            producers: JoinSet::new(),
            others: JoinSet::new(),
            shape,
        };
        if load.shape.acks != Acks::All {
            load.recorder.acks_of_the_leader();
        }
        for number in 0..load.shape.producers {
            let client = load.client().await;
            let (shape, recorder) = (load.shape.clone(), load.recorder.clone());
            let stop = Arc::clone(&load.stop);
            load.producers.spawn(produce(number, client, shape, pace, recorder, stop));
        }
        for reader in (0..load.shape.readers).step_by(2) {
            let client = load.client().await;
            let (topic, recorder) = (load.shape.topic.name.clone(), load.recorder.clone());
            load.others.spawn(consume(reader, client, topic, recorder));
        }
        for reader in (1..load.shape.readers).step_by(2) {
            for partition in &load.shape.topic.partitions {
                let (topic, recorder) = (load.shape.topic.clone(), load.recorder.clone());
                let brokers = load.brokers();
                load.others.spawn(follow(reader, brokers, topic, partition.partition, recorder));
            }
        }
        for broker in load.brokers() {
            let (topic, recorder) = (load.shape.topic.clone(), load.recorder.clone());
            load.others.spawn(ask_for_ends(broker, topic, recorder));
        }
        load
    }

    async fn client(&self) -> Client {
        let client = Client::builder().bootstrap_servers(self.addresses.clone()).build().await;
        client.expect("valid settings")
    }

    /// Stubs of each.
    fn brokers(&self) -> Vec<Raw> {
        self.addresses.iter().map(|address| Raw::lazy(address)).collect()
    }

    /// Waits until `records` more were acknowledged.
    pub async fn progress(&self, records: usize) {
        let enough = self.recorder.acked() + records;
        wait::until("more records are acknowledged", async || self.recorder.acked() >= enough)
            .await;
    }

    /// Lets the producers finish, reads every partition out, and gives the history.
    pub async fn finish(mut self) -> Recorder {
        self.stop.store(true, Ordering::SeqCst);
        let ended = async {
            while self
                .producers
                .join_next()
                .await
                .transpose()
                .expect("no producer panics")
                .is_some()
            {}
        };
        wait::soon("the producers to end", ended).await;
        // A reader that ended by itself has something to say.
        if let Some(ended) = self.others.try_join_next() {
            panic!("a reader ended: {ended:?}");
        }
        self.others.abort_all();
        let brokers = self.brokers();
        for partition in &self.shape.topic.partitions {
            let partition = partition.partition;
            let leader = leader(&brokers, &self.shape.topic, partition).await;
            read_out(leader, &self.shape.topic, partition, &self.recorder).await;
        }
        self.recorder
    }

    /// What was taken down so far.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }
}

/// Whoever of `brokers` leads a partition; waits until somebody does.
pub async fn leader<'a>(brokers: &'a [Raw], topic: &v1::Topic, partition: i32) -> &'a Raw {
    let mut found = None;
    wait::until("somebody leads the partition", async || {
        for broker in brokers {
            if broker.latest(topic, partition).await.is_some() {
                found = Some(broker);
            }
        }
        found.is_some()
    })
    .await;
    found.expect("it was waited for")
}

/// Reads a partition from its beginning to its end, into a history.
pub async fn read_out(raw: &Raw, topic: &v1::Topic, partition: i32, recorder: &Recorder) {
    // With acks of the leader alone the high watermark may still be on its way.
    wait::until("all that is written is committed", async || {
        let state = raw.state(&topic.name, partition).await.expect("it serves");
        state.high_watermark == state.log_end_offset
    })
    .await;
    let read = raw.read_out(topic, partition).await;
    let records = read.records.iter().map(entry).collect();
    let partition = partition.cast_unsigned();
    recorder.polled(Poll { reader: u32::MAX, partition, moved_to: Some(read.start), records });
    recorder.read_out(partition, read.end);
}

fn entry(record: &v1::ConsumedRecord) -> (i64, Value) {
    let value = record.record.as_ref().and_then(|record| record.value.as_ref());
    let value = value.and_then(|value| Value::parse(value));
    (record.offset, value.expect("only records of the load are in its topic"))
}

/// One producer: sends until told to stop, and waits for everything it sent.
async fn produce(
    number: u32,
    client: Client,
    shape: Shape,
    pace: Duration,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
) {
    let producer = client.producer().acks(shape.acks).build().await.expect("valid settings");
    let (sent, mut answers) = mpsc::channel::<(Value, u32, Moment, Delivery)>(IN_FLIGHT_MAX);
    let answering = async {
        while let Some((value, partition, called, delivery)) = answers.recv().await {
            let outcome = match delivery.await {
                Ok(place) => place.offset().map_or(Outcome::Unknown, Outcome::Acked),
                Err(error) if error.is_definite() => Outcome::Refused,
                Err(_) => Outcome::Unknown,
            };
            recorder.sent(value, partition, called, outcome);
        }
    };
    let sending = async {
        let partitions = u32::try_from(shape.topic.partitions.len()).expect("it is few");
        let mut value = Value { producer: number, number: 0 };
        while !stop.load(Ordering::SeqCst) {
            let partition = u32::try_from(value.number).unwrap_or(0) % partitions;
            let text = [&value.to_bytes(), PADDING.as_bytes()].concat();
            let record = Record::to(shape.topic.name.as_str()).value(text).partition(partition);
            let called = recorder.moment();
            let delivery = producer.send(record).await.expect("it is open");
            sent.send((value, partition, called, delivery)).await.expect("somebody receives");
            value.number += 1;
            if !pace.is_zero() {
                sleep(pace).await;
            }
        }
        drop(sent);
    };
    tokio::join!(answering, sending);
    producer.close(HANG).await.ok();
}

/// One consumer of the client. It rides through everything by itself, so any error is one too many.
async fn consume(reader: u32, client: Client, topic: String, recorder: Recorder) {
    let consumer = client.consumer().assign_all(topic.as_str(), Position::Earliest).build().await;
    let mut consumer = consumer.expect("valid settings");
    while let Some(record) = consumer.next().await {
        let record = record.expect("a consumer retries what can be retried");
        let value = record.value().and_then(Value::parse);
        let value = value.expect("only records of the load are in its topic");
        let (partition, records) = (record.partition(), vec![(record.offset(), value)]);
        recorder.polled(Poll { reader, partition, moved_to: None, records });
    }
}

/// One reader of one partition: goes on where it was whenever a broker has it.
async fn follow(
    reader: u32,
    brokers: Vec<Raw>,
    topic: v1::Topic,
    partition: i32,
    recorder: Recorder,
) {
    let mut next = 0;
    for raw in brokers.iter().cycle() {
        // Failed or ended: the broker is away, drains, or does not lead.
        let _ = follow_once(reader, raw, &topic, partition, &recorder, &mut next).await;
        sleep(PAUSE).await;
    }
}

async fn follow_once(
    reader: u32,
    raw: &Raw,
    topic: &v1::Topic,
    partition: i32,
    recorder: &Recorder,
    next: &mut i64,
) -> Result<(), tonic::Status> {
    let open = v1::FetchStreamOpen {
        partitions: vec![raw::from_offset(topic, partition, *next)],
        format: v1::ReadFormat::Records.into(),
        ..Default::default()
    };
    let open = v1::FetchStreamRequest { request: Some(fetch_stream_request::Request::Open(open)) };
    let (_held, requests) = raw::held_open(open);
    let mut answers = raw.consume.clone().fetch_stream(requests).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let Some(Response::Data(data)) = answer.response else { continue };
        for item in data.items {
            match item.outcome {
                Some(partition_data::Outcome::Records(read)) => {
                    let records: Vec<_> = read.records.iter().map(entry).collect();
                    let partition = partition.cast_unsigned();
                    recorder.polled(Poll { reader, partition, moved_to: None, records });
                    *next = item.next_offset.unwrap_or(*next);
                }
                // Another broker has it.
                Some(partition_data::Outcome::Error(_)) => return Ok(()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Asks a broker where the partitions end, again and again: if it thinks that it leads it must know.
async fn ask_for_ends(broker: Raw, topic: v1::Topic, recorder: Recorder) {
    loop {
        for partition in &topic.partitions {
            let called = recorder.moment();
            if let Some(end) = broker.latest(&topic, partition.partition).await {
                recorder.end(partition.partition.cast_unsigned(), called, end);
            }
        }
        sleep(PAUSE).await;
    }
}
