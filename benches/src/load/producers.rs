//! Producers: records through `send`, each with its `Delivery`, each of which is awaited.
//!
//! ```text
//!   send ─┬─ deliveries of partition 0 ─► await in order, measure
//!         ├─ deliveries of partition 1 ─► …
//!         └─ …
//! ```
//! Within a partition deliveries resolve in order, so one task per partition awaits them without
//! one waiting behind another that is slower. Records go to all partitions in turn. Saturating, a
//! producer is a task that waits in `send` for memory; in an open loop it is a thread that keeps
//! the schedule.

use std::{mem, ops::ControlFlow, pin::pin, task::Poll, thread};

use futures::{FutureExt as _, future::try_join_all, poll};
use riverrun_client::{Delivery, Producer, Record, RecordMetadata, TrySendError};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::task::AbortOnDropHandle;

use super::Load;
use crate::{
    clock::Moment,
    error::{BenchError, Result},
    pacer,
    payload::{Payloads, Stamp},
    recorder::Measure,
    schedule::Schedule,
};

/// Records of one producer whose answers are awaited, over all partitions; at least
/// [`AWAITED_MIN`] per partition. The producer's own memory binds before.
const AWAITED: usize = 256 * 1024;
const AWAITED_MIN: usize = 256;

/// Records that are sent, over all partitions, before they are handed on to be awaited; and per
/// reading of the clock, unless `send` has to wait. What a generator does for each record is taken
/// from the product's share of the machine.
const RECORDS_PER_READING: usize = 64;

/// A record that was sent.
struct Sent {
    start: Moment,
    delivery: Delivery,
}

/// One producer.
struct Sender {
    load: Load,
    producer: Producer,
    payloads: Payloads,
    awaiting: Vec<mpsc::Sender<Vec<Sent>>>,
    sent: u64,
}

/// Runs all producers of `load` until it is told to stop or the quota is used up, and until every
/// record is answered. An open loop begins at `start`.
///
/// # Errors
/// A producer cannot be built or closed. Records that fail are counted, not an error.
pub async fn run(load: &Load, start: Moment) -> Result<()> {
    let workload = &load.workload;
    let payloads = Payloads::new(workload);
    let producers = (0..workload.producers).map(|index| {
        // Each begins elsewhere, so that they do not all send the same at the same time.
        let skipped = index * 1009 % 4096;
        let mut own = payloads.clone();
        (0..skipped).for_each(|_| _ = own.plain());
        produce(load.clone(), own, start, index)
    });
    let running: Vec<_> = producers.map(spawn).collect();
    for joined in try_join_all(running).await.map_err(died)? {
        joined?;
    }
    Ok(())
}

async fn produce(load: Load, payloads: Payloads, start: Moment, index: usize) -> Result<()> {
    let workload = &load.workload;
    let partitions = workload.partitions as usize;
    let record_bytes_max = workload.payload_bytes + 1024;
    let producer = load
        .client
        .producer()
        .acks(workload.acks.into())
        .batch_size(workload.batch_bytes)
        .linger(workload.linger_ms)
        .max_in_flight(workload.in_flight)
        .compression(workload.codec.into())
        .max_request_size(record_bytes_max.max(1 << 20))
        .buffer_memory((2 * record_bytes_max).max(32 << 20))
        .build()
        .await
        .map_err(BenchError::client("building a producer"))?;
    let ahead = (AWAITED / partitions).max(AWAITED_MIN) / records_per_handover(&load);
    let (awaiting, answers): (Vec<_>, Vec<_>) = (0..partitions)
        .map(|_| {
            let (sent, received) = mpsc::channel(ahead);
            (sent, spawn(await_answers(load.clone(), received)))
        })
        .unzip();
    let rate = workload.rate;
    let sender = Sender { producer: producer.clone(), payloads, awaiting, sent: 0, load };
    let load = sender.load.clone();
    match rate {
        None => sender.saturate().await?,
        Some(rate) => {
            let schedule = Schedule::new(start, rate, index, load.workload.producers);
            sender.keep(schedule).await?;
        }
    }
    // What lingers goes now: nothing more comes.
    let flushed = producer.flush().await;
    try_join_all(answers).await.map_err(died)?;
    // Failures are counted one by one where their deliveries are awaited.
    drop(flushed);
    let closed = producer.close(super::CLOSE_MAX).await;
    closed.or_else(|error| match load.recorder.counts().errors {
        0 => Err(BenchError::client("closing a producer")(error)),
        _ => Ok(()),
    })
}

// === impl Sender ===

impl Sender {
    /// As fast as there is memory.
    async fn saturate(mut self) -> Result<()> {
        let producer = self.producer.clone();
        let at_once = records_per_handover(&self.load);
        let mut pending: Vec<Vec<Sent>> = self.awaiting.iter().map(|_| Vec::new()).collect();
        let mut start = Moment::now();
        while !self.load.stop.is_told() && self.load.quota.take(1) > 0 {
            if self.sent.is_multiple_of(RECORDS_PER_READING as u64) {
                start = Moment::now();
            }
            let record = self.record(start);
            let mut sending = pin!(producer.send(record));
            let sent = match poll!(sending.as_mut()) {
                Poll::Ready(sent) => sent,
                Poll::Pending => {
                    for (lane, sent) in pending.iter_mut().enumerate() {
                        self.hand_over(lane, sent).await;
                    }
                    let sent = sending.await;
                    start = Moment::now();
                    sent
                }
            };
            let delivery = sent.map_err(|e| BenchError::client("sending")(e.into()))?;
            let lane = self.lane();
            pending[lane].push(Sent { start, delivery });
            if pending[lane].len() >= at_once {
                self.hand_over(lane, &mut pending[lane]).await;
            }
        }
        for (lane, sent) in pending.iter_mut().enumerate() {
            self.hand_over(lane, sent).await;
        }
        Ok(())
    }

    /// Has the answers awaited.
    async fn hand_over(&self, lane: usize, sent: &mut Vec<Sent>) {
        if !sent.is_empty() {
            let room = Vec::with_capacity(sent.len());
            // The other end awaits until this one is dropped.
            let _ = self.awaiting[lane].send(mem::replace(sent, room)).await;
        }
    }

    /// At the moments of `schedule`, on a thread.
    async fn keep(self, schedule: Schedule) -> Result<()> {
        let runtime = Handle::current();
        let (done, ended) = oneshot::channel();
        thread::Builder::new()
            .name("pacer".into())
            .spawn(move || _ = done.send(self.keep_blocking(schedule, &runtime)))
            .map_err(BenchError::io("starting a thread"))?;
        ended.await.unwrap_or_else(|_| Err(BenchError::Failed("a pacer died".into())))
    }

    fn keep_blocking(mut self, schedule: Schedule, runtime: &Handle) -> Result<()> {
        let stop = self.load.stop.clone();
        let mut outcome = Ok(());
        pacer::keep(schedule, &stop, |_, intended| {
            if self.load.quota.take(1) == 0 {
                return ControlFlow::Break(());
            }
            let record = self.record(intended);
            let sent = match self.producer.try_send(record) {
                Err(TrySendError::Full(record)) => {
                    runtime.block_on(self.producer.send(record)).map_err(Into::into)
                }
                sent => sent.map_err(Into::into),
            };
            let delivery = match sent {
                Ok(delivery) => delivery,
                Err(error) => {
                    outcome = Err(BenchError::client("sending")(error));
                    return ControlFlow::Break(());
                }
            };
            let recorder = &self.load.recorder;
            recorder.record(Measure::GeneratorDelay).add(intended, Moment::now());
            let lane = self.lane();
            let _ = self.awaiting[lane].blocking_send(vec![Sent { start: intended, delivery }]);
            ControlFlow::Continue(())
        });
        outcome
    }

    fn record(&mut self, intended: Moment) -> Record {
        let value = if self.load.workload.stamps() {
            self.payloads.stamped(Stamp { intended, number: self.sent })
        } else {
            self.payloads.plain()
        };
        let partition = self.sent % u64::from(self.load.workload.partitions);
        Record::to(std::sync::Arc::clone(&self.load.topic.name))
            .partition(u32::try_from(partition).expect("below the number of partitions"))
            .value(value)
    }

    /// The partition of the record sent last, and one more is sent.
    fn lane(&mut self) -> usize {
        let lane = self.sent % self.awaiting.len() as u64;
        self.sent += 1;
        usize::try_from(lane).expect("below the number of partitions")
    }
}

/// Awaits the answers of one partition in order, and counts them.
async fn await_answers(load: Load, mut received: mpsc::Receiver<Vec<Sent>>) {
    while let Some(sent) = received.recv().await {
        let mut sent = sent.into_iter().peekable();
        while let Some(Sent { start, mut delivery }) = sent.next() {
            let outcome = match (&mut delivery).now_or_never() {
                Some(outcome) => outcome,
                None => delivery.await,
            };
            let now = Moment::now();
            let mut answered = Answered::default();
            answered.take(&load, outcome);
            let mut recording = load.recorder.record(Measure::Ack);
            recording.add(start, now);
            // The rest of its batch is answered too: one reading of the clock for all of it.
            while let Some(outcome) =
                sent.peek_mut().and_then(|next| (&mut next.delivery).now_or_never())
            {
                let next = sent.next().expect("it was peeked at");
                recording.add(next.start, now);
                answered.take(&load, outcome);
            }
            drop(recording);
            load.recorder.produced(answered.records, answered.bytes);
            load.recorder.appended(answered.bytes);
        }
    }
}

#[derive(Default)]
struct Answered {
    records: u64,
    bytes: u64,
}

// === impl Answered ===

impl Answered {
    fn take(&mut self, load: &Load, outcome: riverrun_client::Result<RecordMetadata>) {
        match outcome {
            Ok(_) => {
                self.records += 1;
                self.bytes += load.workload.payload_bytes as u64;
            }
            Err(error) => load.recorder.failed(1, error),
        }
    }
}

/// Records of one partition that are handed on at once; each waits for that.
fn records_per_handover(load: &Load) -> usize {
    (RECORDS_PER_READING / load.workload.partitions as usize).max(1)
}

fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> AbortOnDropHandle<T> {
    let handle: JoinHandle<T> = tokio::spawn(task);
    AbortOnDropHandle::new(handle)
}

fn died(error: tokio::task::JoinError) -> BenchError {
    BenchError::Failed(format!("a task of the load died: {error}"))
}
