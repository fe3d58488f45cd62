//! Batches through `ProduceStream`, pulled by the transport: a message is put together when HTTP/2
//! can take it, as the product's client does, and nothing else happens on the way. Against the
//! broker this is what the broker can take; against the null sink it is what gRPC can carry.

use std::{
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, future::try_join_all};
use parking_lot::Mutex;
use riverrun_proto::{
    ids::TopicId,
    limits::PACK_TARGET_BYTES,
    rpc::v1::{
        self, produce_service_client::ProduceServiceClient, produce_stream_ack::Outcome,
        produce_stream_request::Request, produce_stream_response::Response,
    },
};
use tokio_util::task::AbortOnDropHandle;

use super::{MESSAGE_BYTES_MAX, connect};
use crate::{
    clock::Moment,
    error::{BenchError, Result},
    pacer,
    payload::Batches,
    recorder::{Measure, Recorder},
    schedule::Schedule,
    stop::{Quota, Stop},
    workload::{Acks, Workload},
};

/// Bytes of envelope per batch, for packing: ids, lengths and tags.
const ENVELOPE_BYTES: usize = 64;

/// What the pumps of one run share.
#[derive(Clone, Debug)]
pub struct Pumps {
    /// Whom to connect to.
    pub address: String,
    /// Where the batches belong.
    pub topic: TopicId,
    /// What is done.
    pub workload: Arc<Workload>,
    /// The batches.
    pub batches: Batches,
    /// What the time until the answer is called.
    pub measure: Measure,
    /// Where it is counted.
    pub recorder: Arc<Recorder>,
    /// When it ends.
    pub stop: Stop,
    /// Records that are still to be sent; whole batches are taken.
    pub quota: Arc<Quota>,
}

/// One stream's way in, shared by the transport that pulls, the answers that come back, and the
/// pacer of an open loop.
struct Pump {
    pumps: Pumps,
    open: Option<v1::ProduceStreamOpen>,
    topic: Bytes,
    next_partition: u32,
    /// When the batch of each correlation id was to be sent; the id is the place.
    starts: Vec<Moment>,
    /// Places that are free.
    free: Vec<usize>,
    in_flight_bytes: usize,
    /// What the broker advertised, once it has.
    window_bytes: usize,
    /// Of an open loop; `None`: saturating.
    schedule: Option<Schedule>,
    /// Batches handed over so far.
    sent: u64,
    ended: bool,
    waker: Option<Waker>,
}

/// The transport's end.
struct Pulled(Arc<Mutex<Pump>>);

/// Sends until it is told to stop or the quota is used up, and until all is answered. An open loop
/// begins at `start`.
///
/// # Errors
/// A stream breaks. Batches that are refused are counted, not an error.
pub async fn run(pumps: &Pumps, start: Moment) -> Result<()> {
    let running = (0..pumps.workload.producers).map(|index| {
        let pumps = pumps.clone();
        AbortOnDropHandle::new(tokio::spawn(one(pumps, start, index)))
    });
    let running: Vec<_> = running.collect();
    let ended = try_join_all(running).await;
    let ended = ended.map_err(|e| BenchError::Failed(format!("a pump died: {e}")))?;
    ended.into_iter().collect()
}

async fn one(pumps: Pumps, start: Moment, index: usize) -> Result<()> {
    let channel = connect(&pumps.address).await?;
    let mut client = ProduceServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let stop = pumps.stop.clone();
    // Whole batches at even intervals.
    let schedule = pumps.workload.rate.map(|rate| {
        let batches_per_second = rate / pumps.batches.records as f64;
        Schedule::new(start, batches_per_second, index, pumps.workload.producers)
    });
    let pump = Arc::new(Mutex::new(Pump::new(pumps, schedule)));
    let answers = client.produce_stream(Pulled(Arc::clone(&pump))).await;
    let mut answers = answers.map_err(BenchError::rpc("opening a produce stream"))?.into_inner();
    let opened = answers.message().await.map_err(BenchError::rpc("opening a produce stream"))?;
    let Some(Response::Opened(opened)) = opened.and_then(|answer| answer.response) else {
        return Err(BenchError::Failed("the broker did not open the produce stream".into()));
    };
    pump.lock().open(&opened);
    let pacing = schedule.map(|schedule| {
        let (pump, stop) = (Arc::clone(&pump), stop.clone());
        thread::spawn(move || {
            pacer::keep(schedule, &stop, |_, _| {
                let mut pump = pump.lock();
                pump.wake();
                if pump.ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        })
    });
    // The transport sleeps while it may not send: it must hear of the end.
    let telling = AbortOnDropHandle::new(tokio::spawn({
        let pump = Arc::clone(&pump);
        async move {
            stop.told().await;
            pump.lock().wake();
        }
    }));
    while let Some(answer) =
        answers.message().await.map_err(BenchError::rpc("reading acknowledgements"))?
    {
        match answer.response {
            Some(Response::Acks(acks)) => pump.lock().answered(acks),
            Some(Response::Control(control)) if control.reconnect => {
                return Err(BenchError::Failed("the broker drains and ends the stream".into()));
            }
            _ => {}
        }
    }
    drop(telling);
    let unanswered = {
        let mut pump = pump.lock();
        pump.ended = true;
        pump.in_flight()
    };
    if unanswered > 0 {
        return Err(BenchError::Failed(format!(
            "the stream ended with {unanswered} batches unanswered"
        )));
    }
    if let Some(pacing) = pacing {
        // It looks at the stop at least every 50 ms, and its last batch ended the stream.
        let joined = tokio::task::spawn_blocking(move || pacing.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            return Err(BenchError::Failed("a pacer died".into()));
        }
    }
    Ok(())
}

// === impl Pump ===

impl Pump {
    fn new(pumps: Pumps, schedule: Option<Schedule>) -> Self {
        let workload = &pumps.workload;
        let places = workload.in_flight * workload.partitions as usize;
        let open = v1::ProduceStreamOpen {
            client_id: "riverrun-bench".into(),
            acks: acks(workload.acks).into(),
            ack_timeout: prost_types::Duration::try_from(Duration::from_secs(30)).ok(),
        };
        Self {
            open: Some(open),
            topic: Bytes::copy_from_slice(pumps.topic.as_bytes()),
            next_partition: 0,
            starts: vec![Moment::NEVER; places],
            free: (0..places).rev().collect(),
            in_flight_bytes: 0,
            window_bytes: 0,
            schedule,
            sent: 0,
            ended: false,
            waker: None,
            pumps,
        }
    }

    fn open(&mut self, opened: &v1::ProduceStreamOpened) {
        self.window_bytes = usize::try_from(opened.max_in_flight_bytes).unwrap_or(usize::MAX);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn in_flight(&self) -> usize {
        self.starts.len() - self.free.len()
    }

    /// The next message that may be sent now: as many batches as fit, as the product packs them.
    fn pull(&mut self) -> Option<v1::ProduceStreamRequest> {
        let mut items = Vec::new();
        let mut packed = 0;
        while let Some(item) = self.pull_batch(packed) {
            packed += item.batch.len() + ENVELOPE_BYTES;
            items.push(item);
        }
        (!items.is_empty()).then(|| v1::ProduceStreamRequest {
            request: Some(Request::Appends(v1::ProduceStreamAppends { items })),
        })
    }

    fn pull_batch(&mut self, packed: usize) -> Option<v1::ProduceStreamAppend> {
        if self.ended || self.pumps.stop.is_told() {
            self.ended = true;
            return None;
        }
        let next_bytes = self.pumps.batches.peek().len();
        let fits_message = packed == 0 || packed + next_bytes + ENVELOPE_BYTES <= PACK_TARGET_BYTES;
        let in_flight = self.in_flight();
        // A single batch above the window is let through alone.
        let fits_window = in_flight == 0 || self.in_flight_bytes + next_bytes <= self.window_bytes;
        if !fits_message || !fits_window || self.window_bytes == 0 || self.free.is_empty() {
            return None;
        }
        let now = Moment::now();
        let start = match &self.schedule {
            Some(schedule) => schedule.intended(self.sent),
            None => now,
        };
        if start > now {
            return None;
        }
        if self.pumps.quota.take(self.pumps.batches.records) == 0 {
            self.ended = true;
            return None;
        }
        let place = self.free.pop().expect("one is free");
        self.starts[place] = start;
        let batch = self.pumps.batches.take();
        self.in_flight_bytes += batch.len();
        self.sent += 1;
        if self.schedule.is_some() {
            self.pumps.recorder.record(Measure::GeneratorDelay).add(start, now);
        }
        let partition = self.next_partition;
        self.next_partition = (partition + 1) % self.pumps.workload.partitions;
        Some(v1::ProduceStreamAppend {
            correlation_id: place as u64,
            topic_id: self.topic.clone(),
            partition: partition.cast_signed(),
            leader_epoch: None,
            batch,
            format: v1::BatchFormat::KafkaV2.into(),
        })
    }

    fn answered(&mut self, acks: v1::ProduceStreamAcks) {
        if let Some(window) = acks.max_in_flight_bytes {
            self.window_bytes = usize::try_from(window).unwrap_or(usize::MAX);
        }
        let now = Moment::now();
        let (records, bytes) = (self.pumps.batches.records, self.pumps.batches.payload_bytes);
        // All batches have nearly the same size; what counts is that the sum comes back to zero.
        let mut written = 0;
        {
            let mut recording = self.pumps.recorder.record(self.pumps.measure);
            for ack in &acks.items {
                let place = usize::try_from(ack.correlation_id).unwrap_or(usize::MAX);
                let Some(start) = self.starts.get_mut(place) else { continue };
                match &ack.outcome {
                    Some(Outcome::Result(_)) => {
                        recording.add(*start, now);
                        written += 1;
                    }
                    Some(Outcome::Error(error)) => {
                        let why = format!("{}: {}", error.reason, error.message);
                        self.pumps.recorder.failed(records, why);
                    }
                    None => self.pumps.recorder.failed(records, "an answer without an outcome"),
                }
                *start = Moment::NEVER;
                self.free.push(place);
            }
        }
        let in_flight = self.in_flight();
        self.in_flight_bytes = in_flight * self.pumps.batches.bytes_max();
        self.pumps.recorder.produced(written * records, written * bytes);
        self.pumps.recorder.appended(written * self.pumps.batches.bytes_max() as u64);
        self.wake();
    }
}

// === impl Pulled ===

impl Stream for Pulled {
    type Item = v1::ProduceStreamRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut pump = self.0.lock();
        if let Some(open) = pump.open.take() {
            return Poll::Ready(Some(v1::ProduceStreamRequest {
                request: Some(Request::Open(open)),
            }));
        }
        if let Some(message) = pump.pull() {
            return Poll::Ready(Some(message));
        }
        if pump.ended {
            return Poll::Ready(None);
        }
        pump.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn acks(acks: Acks) -> v1::Acks {
    match acks {
        Acks::All => v1::Acks::All,
        Acks::Leader => v1::Acks::Leader,
        Acks::None => v1::Acks::None,
    }
}
