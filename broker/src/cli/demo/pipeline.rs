//! Lines go out, acknowledgements and records come back, all at once.
//!
//! ```text
//!   source ─chunks─► send ─┬─deliveries of partition 0─► await, chain, measure
//!                          ├─deliveries of partition 1─► …
//!                          └─…
//!   consumer ─records─► check, chain, measure        until every partition's end is read
//! ```
//! Deliveries are awaited per partition because they resolve in order within one: an
//! acknowledgement is timed when it comes, not when that of another partition has been looked at.
//! Every channel is bounded; the producer's and the consumer's buffers are the clients' defaults.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use riverrun_client::{Client, Consumer, Delivery, Durability, Position, TopicPartition};
use riverrun_proto::murmur2;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    TOPIC,
    progress::Progress,
    report::{Latencies, Moments},
    source::{Chunk, Line, Source},
    task_died,
    uplink::{LINE_BYTES_MAX, STAMP_HEADER, Stamp, Uplink},
    verify::{Chain, KEYS, Observed, Tally, key_of},
};
use crate::{
    cli::{
        error::{Failure, Result},
        output::counted,
        session::monotonic,
    },
    clock::Instant,
};

/// Records of one partition whose acknowledgement is awaited.
const DELIVERIES_AHEAD: usize = 16 * 1024;

/// Silence after which records that must be there count as lost.
const STALL: Duration = Duration::from_secs(30);

/// A run.
#[derive(Debug)]
pub(super) struct Pipeline<'a> {
    client: Client,
    partitions: u32,
    start: Instant,
    progress: &'a Progress,
}

/// What both sides saw.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) written: Tally,
    pub(super) acked: Vec<Chain>,
    pub(super) read: Observed,
    pub(super) moments: Moments,
    /// In words, as the acknowledgements said it.
    pub(super) durability: String,
    pub(super) ack_latency: Latencies,
    pub(super) end_to_end: Latencies,
}

/// A record that was sent.
struct Sent {
    fingerprint: u128,
    line_bytes: usize,
    at: Instant,
    delivery: Delivery,
}

/// Acknowledgements of one partition.
struct Acked {
    chain: Chain,
    latencies: Latencies,
    first: Option<Instant>,
    last: Option<Instant>,
    durability: Option<(Durability, u32)>,
}

/// The reading side's result.
struct ReadBack {
    observed: Observed,
    latencies: Latencies,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// The sending side's result.
struct Written {
    tally: Tally,
    first_send: Option<Instant>,
}

// === impl Pipeline ===

impl<'a> Pipeline<'a> {
    pub(super) fn new(
        client: Client,
        partitions: u32,
        start: Instant,
        progress: &'a Progress,
    ) -> Self {
        Self { client, partitions, start, progress }
    }

    /// Runs to the end of the source and of the log. Dropped, it ends all of its tasks.
    pub(super) async fn run(self, source: Source) -> Result<Outcome> {
        let (ends, ends_known) = watch::channel(None);
        let mut reading = spawn(self.reader(ends_known).await?.run());
        let (acks, awaiting): (Vec<_>, Vec<_>) = (0..self.partitions)
            .map(|partition| {
                let (sent, deliveries) = mpsc::channel(DELIVERIES_AHEAD);
                (sent, spawn(await_acks(partition, deliveries, self.progress.clone())))
            })
            .unzip();
        let writing = async {
            let written = self.write(source, acks).await?;
            let mut acked = Vec::new();
            for task in awaiting {
                acked.push(joined(task.await)?);
            }
            // Also what lies behind the last acknowledged record, if a retry wrote one twice.
            ends.send_replace(Some(self.log_ends().await?));
            Ok::<_, Failure>((written, acked))
        };
        let both = async {
            tokio::pin!(writing);
            // A reader that fails ends the run; one that is done waits for the writer.
            let (written, acked) = tokio::select! {
                written = &mut writing => written?,
                read = &mut reading => return Err(joined(read).err().unwrap_or_else(ended_early)),
            };
            Ok((written, acked, joined(reading.await)?))
        };
        let (written, acked, read) = tokio::select! {
            outcome = both => outcome?,
            () = self.progress.show() => unreachable!("bars move until they are dropped"),
        };
        Ok(self.outcome(written, acked, read))
    }

    async fn write(&self, source: Source, acks: Vec<mpsc::Sender<Sent>>) -> Result<Written> {
        let mut chunks =
            source.start(LINE_BYTES_MAX).map_err(|e| Failure::io("cannot start a thread", &e))?;
        let keys: Vec<Bytes> = (0..KEYS).map(|number| Bytes::from(key_of(number))).collect();
        let mut uplink = Uplink::new(self.client.clone()).await?;
        let mut first_send = None;
        loop {
            match chunks.recv().await {
                Some(Chunk::Lines(lines)) => {
                    for line in lines {
                        let key = &keys[(line.number % KEYS) as usize];
                        let sent = self.send(line, key, &mut uplink).await?;
                        first_send.get_or_insert(sent.at);
                        let partition = murmur2::partition_of(key, self.partitions) as usize;
                        if acks[partition].send(sent).await.is_err() {
                            // It has met a failure, which is told when it is joined.
                            return Ok(Written { tally: Tally::default(), first_send });
                        }
                    }
                }
                Some(Chunk::End(tally)) => {
                    uplink.close().await?;
                    return Ok(Written { tally, first_send });
                }
                Some(Chunk::Failed(failure)) => return Err(failure),
                None => return Err(Failure::failed("the source died")),
            }
        }
    }

    async fn send(&self, line: Line, key: &Bytes, uplink: &mut Uplink) -> Result<Sent> {
        let Line { number, bytes, fingerprint } = line;
        let at = monotonic();
        let line_bytes = bytes.len();
        let delivery = uplink
            .send(key.clone(), bytes, Stamp { number, sent_us: self.micros(at) })
            .await
            .map_err(|failure| failure.context(format!("line {}", number + 1)))?;
        Ok(Sent { fingerprint, line_bytes, at, delivery })
    }

    /// Since the start of the process.
    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    fn topic_partitions(&self) -> impl Iterator<Item = TopicPartition> + use<> {
        let topic: Arc<str> = TOPIC.into();
        (0..self.partitions)
            .map(move |partition| TopicPartition::new(Arc::clone(&topic), partition))
    }

    async fn log_ends(&self) -> Result<Vec<i64>> {
        let queries = self.topic_partitions().map(|partition| (partition, Position::Latest));
        let ends = self.client.admin().list_offsets(queries).await?;
        ends.into_iter().map(|end| Ok(end?.offset)).collect()
    }

    async fn reader(&self, ends: watch::Receiver<Option<Vec<i64>>>) -> Result<Reader> {
        let positions = self
            .topic_partitions()
            .map(|partition| (partition.topic, partition.partition, Position::Earliest));
        let consumer = self.client.consumer().assign(positions).build().await?;
        Ok(Reader {
            consumer,
            start: self.start,
            ends,
            progress: self.progress.clone(),
            result: ReadBack {
                observed: Observed::new(self.partitions),
                latencies: Latencies::new(),
                first: None,
                last: None,
            },
        })
    }

    fn outcome(&self, written: Written, acked: Vec<Acked>, read: ReadBack) -> Outcome {
        let mut ack_latency = Latencies::new();
        acked.iter().for_each(|acked| ack_latency.add(&acked.latencies));
        let weakest = acked.iter().filter_map(|acked| acked.durability).min_by_key(strength);
        Outcome {
            written: written.tally,
            moments: Moments {
                first_send: written.first_send,
                first_ack: acked.iter().filter_map(|acked| acked.first).min(),
                last_ack: acked.iter().filter_map(|acked| acked.last).max(),
                first_read: read.first,
                last_read: read.last,
            },
            acked: acked.into_iter().map(|acked| acked.chain).collect(),
            durability: in_words(weakest),
            read: read.observed,
            ack_latency,
            end_to_end: read.latencies,
        }
    }
}

/// Awaits one partition's acknowledgements in order.
async fn await_acks(
    partition: u32,
    mut deliveries: mpsc::Receiver<Sent>,
    progress: Progress,
) -> Result<Acked> {
    let mut acked = Acked {
        chain: Chain::default(),
        latencies: Latencies::new(),
        first: None,
        last: None,
        durability: None,
    };
    while let Some(Sent { fingerprint, line_bytes, at, delivery }) = deliveries.recv().await {
        let place = delivery.await?;
        let now = monotonic();
        if place.partition() != partition {
            return Err(Failure::failed(format!(
                "a record whose key belongs to partition {partition} went to {}",
                place.partition()
            )));
        }
        let offset = place
            .offset()
            .ok_or_else(|| Failure::failed("an acknowledgement of acks=all names no offset"))?;
        acked.chain.add(offset, fingerprint);
        acked.latencies.record(now.duration_since(at));
        acked.first.get_or_insert(now);
        acked.last = Some(now);
        let durability = (place.durability(), place.replicas());
        acked.durability = acked.durability.into_iter().chain([durability]).min_by_key(strength);
        progress.acked(line_bytes);
    }
    Ok(acked)
}

/// The consuming task.
struct Reader {
    consumer: Consumer,
    start: Instant,
    /// Where the log ends, once nothing more is written.
    ends: watch::Receiver<Option<Vec<i64>>>,
    progress: Progress,
    result: ReadBack,
}

// === impl Reader ===

impl Reader {
    async fn run(mut self) -> Result<ReadBack> {
        loop {
            let ends = self.ends.borrow_and_update().clone();
            if ends.as_ref().is_some_and(|ends| self.has_read(ends)) {
                return Ok(self.result);
            }
            // The ready ones first: a timer per record would be most of the work.
            while let std::task::Poll::Ready(next) = futures::poll!(self.consumer.next()) {
                let Some(record) = next else { return Err(ended_early()) };
                self.take(&record?);
            }
            if ends.as_ref().is_some_and(|ends| self.has_read(ends)) {
                return Ok(self.result);
            }
            let next = tokio::select! {
                next = timeout(STALL, self.consumer.next()) => next,
                changed = self.ends.changed() => match changed {
                    Ok(()) => continue,
                    // The writer has failed and says why.
                    Err(_) => return Err(ended_early()),
                },
            };
            match (next, ends) {
                (Ok(Some(record)), _) => self.take(&record?),
                (Ok(None), _) => return Err(ended_early()),
                // Nothing to read may only mean that nothing is written.
                (Err(_), None) => {}
                (Err(_), Some(ends)) => return Err(self.stalled(&ends)),
            }
        }
    }

    fn take(&mut self, record: &riverrun_client::ConsumerRecord) {
        let stamp = record.header(STAMP_HEADER).and_then(Stamp::decode);
        let line = record.value().unwrap_or_default();
        let place = (record.partition(), record.offset());
        let number = stamp.map(|stamp| stamp.number);
        let ReadBack { observed, latencies, first, last } = &mut self.result;
        observed.record(place, record.key(), number, line);
        let now = monotonic();
        first.get_or_insert(now);
        *last = Some(now);
        if let Some(stamp) = stamp {
            let since_start = now.duration_since(self.start);
            latencies.record(since_start.saturating_sub(Duration::from_micros(stamp.sent_us)));
        }
        self.progress.read(line.len());
    }

    fn has_read(&self, ends: &[i64]) -> bool {
        let read = &self.result.observed.partitions;
        read.iter().zip(ends).all(|(chain, end)| chain.next_offset >= *end)
    }

    fn stalled(&self, ends: &[i64]) -> Failure {
        let failure = Failure::failed(format!("no record came for {} s", STALL.as_secs()));
        let read = &self.result.observed.partitions;
        (0..).zip(read.iter().zip(ends)).filter(|(_, (chain, end))| chain.next_offset < **end).fold(
            failure,
            |failure, (partition, (chain, end)): (u32, _)| {
                failure.advise(format!(
                    "partition {partition} ends at {end} and was read up to {}",
                    chain.next_offset
                ))
            },
        )
    }
}

/// A task that ends when its handle is dropped.
fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> AbortOnDropHandle<T> {
    let handle: JoinHandle<T> = tokio::spawn(task);
    AbortOnDropHandle::new(handle)
}

fn joined<T>(ended: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    ended.map_err(|e| task_died(&e))?
}

fn ended_early() -> Failure {
    Failure::failed("the consumer ended before everything was read")
}

/// Orders what acknowledgements say, the weakest first.
fn strength((durability, replicas): &(Durability, u32)) -> (u8, u32) {
    let rank = match durability {
        Durability::Disk => 2,
        Durability::Memory => 1,
        _ => 0,
    };
    (rank, *replicas)
}

fn in_words(weakest: Option<(Durability, u32)>) -> String {
    let Some((durability, replicas)) = weakest else { return "nothing acknowledged".into() };
    let on = match durability {
        Durability::Disk => "disk",
        Durability::Memory => "memory",
        _ => "unknown",
    };
    format!("{on} on {}", counted(u64::from(replicas), "replica"))
}
