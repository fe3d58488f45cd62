//! `ProduceStream`: encoded batches in, acks out; the fast path.
//!
//! The whole stream is one state machine, driven by HTTP/2 asking for its next message. In order of
//! precedence it answers what is answered, places what was read, and only then reads on. Three
//! things keep it from reading, and so fill the client's HTTP/2 window and make it wait:
//! the client is past its advertised window, the broker's admission bytes are used up or the
//! partition's share of them ([`super::shares`]), or nobody takes the acks.
//!
//! ```text
//!          read ──► admitted ──► checked ──► Partition::produce ──► AckQueue ──► coalesced acks
//!   window: batches and bytes between `admitted` and the ack          any thread │ this stream
//! ```
//!
//! # A partition over its share
//! HTTP/2 gives one order of bytes per stream, so a batch that must wait holds up those behind it,
//! also of other partitions. As long as its partition gets on, that is backpressure: the stream's
//! client asks for more than the disk gives and is slowed. Where the partition hangs (its high
//! watermark stood still for `produce.admission.wait.ms`), its batches are refused instead, in band,
//! retriable and definite, and the others go on: a stream is held up by one hanging disk once, for
//! that time at most. The client keeps what was refused and its callers wait for it.
//!
//! A batch's bytes are a slice of the receive buffer all the way. Order holds per partition because
//! batches are placed one after the other; acks come as partitions complete them.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, Stream, future::BoxFuture};
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::TopicId,
    limits::{PACK_TARGET_BYTES, PRODUCER_BATCHES_REMEMBERED},
    rpc::v1,
};
use tokio::time::{Sleep, sleep};
use tonic::{Status, Streaming};

use super::{
    batch,
    convert::{self, AckMode, PartitionRef, TopicRef},
    core::Core,
    in_flight::{AckQueue, InFlight, Outcome, Sent},
    shares::Admitted,
    status::Failure,
};
use crate::{
    partition::{Acks, Append, Partition, ProduceSink, Ticket},
    telemetry::{OpenGuard, Request as Called, TopicTraffic},
};

use v1::{produce_stream_request::Request, produce_stream_response::Response};

/// Acks in one message: some 50 bytes each.
const ACKS_PER_MESSAGE_MAX: usize = 1024;
/// What a batch costs besides its bytes until it is answered: ticket, waiter, slot, ack.
pub(super) const BATCH_OVERHEAD_BYTES: usize = 512;
/// Several batches in a message larger than this are copied out of it: else one small batch that
/// waits keeps the whole message in memory.
const SHARED_MESSAGE_BYTES_MAX: usize = 16 * PACK_TARGET_BYTES;
/// A client's name for itself, in log lines.
const CLIENT_ID_BYTES_MAX: usize = 255;

/// Starts a stream; it opens with its first request.
pub(super) fn serve(
    core: Arc<Core>,
    requests: Streaming<v1::ProduceStreamRequest>,
) -> impl Stream<Item = Result<v1::ProduceStreamResponse, Status>> + Send + 'static {
    let stream = ProduceStream::new(core, requests);
    futures::stream::unfold(Some(stream), |stream| async {
        let mut stream = stream?;
        match stream.step().await {
            Some(Ok(response)) => {
                let response = v1::ProduceStreamResponse { response: Some(response) };
                Some((Ok(response), Some(stream)))
            }
            Some(Err(failure)) => {
                stream.core.requests.observe_error(Called::ProduceStreamAppend, failure.reason());
                Some((Err(stream.core.catalog.status(&failure)), None))
            }
            None => None,
        }
    })
}

struct ProduceStream {
    core: Arc<Core>,
    requests: Streaming<v1::ProduceStreamRequest>,
    opened: Option<Opened>,
    /// Batches of the message read last that wait for admission, in order. At most one message's.
    waiting: VecDeque<v1::ProduceStreamAppend>,
    /// The first of them is in line for admission.
    admission: Option<BoxFuture<'static, Result<Admitted, Failure>>>,
    in_flight: InFlight<Target>,
    acks: Arc<AckQueue>,
    taken: Vec<Outcome>,
    /// Batches refused before they reached a partition.
    refused: Vec<v1::ProduceStreamAck>,
    traffic: HashMap<TopicId, TopicTraffic>,
    reading: Reading,
    /// Ends [`Reading::Draining`].
    drain_over: Option<Pin<Box<Sleep>>>,
    stalled: bool,
    /// Why the stream ends once all is answered.
    failure: Option<Failure>,
    _open: OpenGuard,
}

#[derive(Debug, Clone, Copy)]
struct Opened {
    mode: AckMode,
    ack_timeout: Duration,
}

/// Whose a batch is.
#[derive(Debug)]
struct Target {
    topic: TopicId,
    traffic: TopicTraffic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Yes,
    /// The client was asked to reconnect; what it had sent before is still read.
    Draining,
    Ended,
}

/// What a step waited for.
enum Woken {
    Acks,
    Admitted(Result<Admitted, Failure>),
    Request(Result<Option<v1::ProduceStreamRequest>, Status>),
    Drain,
    DrainOver,
}

// === impl ProduceStream ===

impl ProduceStream {
    fn new(core: Arc<Core>, requests: Streaming<v1::ProduceStreamRequest>) -> Self {
        Self {
            _open: core.requests.stream_opened(Called::ProduceStreamAppend),
            core,
            requests,
            opened: None,
            waiting: VecDeque::new(),
            admission: None,
            in_flight: InFlight::default(),
            acks: Arc::default(),
            taken: Vec::new(),
            refused: Vec::new(),
            traffic: HashMap::new(),
            reading: Reading::Yes,
            drain_over: None,
            stalled: false,
            failure: None,
        }
    }

    /// The next message; `None`: the stream ends well.
    async fn step(&mut self) -> Option<Result<Response, Failure>> {
        if self.opened.is_none() {
            return match self.open().await {
                Ok(Some(opened)) => Some(Ok(Response::Opened(opened))),
                Ok(None) => None,
                Err(failure) => Some(Err(failure)),
            };
        }
        loop {
            self.place_waiting();
            if let Some(acks) = self.take_acks() {
                return Some(Ok(Response::Acks(acks)));
            }
            if self.reading == Reading::Ended
                && self.waiting.is_empty()
                && self.in_flight.is_empty()
            {
                return self.failure.take().map(Err);
            }
            match self.wait().await {
                Woken::Acks => {}
                Woken::Admitted(outcome) => {
                    self.admission = None;
                    if let Some(append) = self.waiting.pop_front() {
                        self.place(append, outcome);
                    }
                }
                Woken::Request(request) => {
                    // However fast requests come, others get their turn.
                    tokio::task::consume_budget().await;
                    self.take_request(request);
                }
                Woken::Drain => {
                    self.reading = Reading::Draining;
                    self.drain_over = Some(Box::pin(sleep(self.core.limits.drain_read_wait)));
                    let control = v1::StreamControl { reconnect: true, throttle: None };
                    return Some(Ok(Response::Control(control)));
                }
                Woken::DrainOver => self.reading = Reading::Ended,
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let may_read = self.may_read();
        let drain_over = async {
            match &mut self.drain_over {
                Some(timer) => timer.await,
                None => std::future::pending().await,
            }
        };
        let admission = async {
            match &mut self.admission {
                Some(admission) => admission.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.acks.ready() => Woken::Acks,
            permit = admission => Woken::Admitted(permit),
            () = self.core.shutdown.draining(), if self.reading == Reading::Yes => Woken::Drain,
            request = self.requests.message(), if may_read => Woken::Request(request),
            () = drain_over, if self.reading == Reading::Draining => Woken::DrainOver,
        }
    }

    /// Whether the client is within its window and what was read has been placed.
    fn may_read(&mut self) -> bool {
        if self.reading == Reading::Ended || !self.waiting.is_empty() {
            return false;
        }
        let limits = &self.core.limits;
        let within = self.in_flight.bytes() < limits.stream_in_flight_bytes
            && self.in_flight.batches() < limits.stream_in_flight_batches;
        if !within && !self.stalled {
            self.core.requests.observe_window_stall(Called::ProduceStreamAppend);
            self.core.hits.stream_in_flight.hit();
        }
        self.stalled = !within;
        within
    }

    async fn open(&mut self) -> Result<Option<v1::ProduceStreamOpened>, Failure> {
        let Some(first) = self.core.first_request(&mut self.requests).await? else {
            return Ok(None);
        };
        let Some(Request::Open(open)) = first.request else {
            return Err(Failure::invalid("open", "the first request must be `open`"));
        };
        if open.client_id.len() > CLIENT_ID_BYTES_MAX {
            let message = format!("a client id has at most {CLIENT_ID_BYTES_MAX} bytes");
            return Err(Failure::invalid("open.client_id", message));
        }
        let limits = &self.core.limits;
        let asked = convert::duration(open.ack_timeout.as_ref(), "open.ack_timeout")?;
        let ack_timeout = limits.ack_timeout_for(asked);
        self.opened = Some(Opened { mode: convert::ack_mode(open.acks)?, ack_timeout });
        Ok(Some(v1::ProduceStreamOpened {
            max_in_flight_bytes: limits.stream_in_flight_bytes as u64,
            max_batch_bytes: u32::try_from(limits.batch_bytes_max).unwrap_or(u32::MAX),
            max_in_flight_batches: u32::try_from(PRODUCER_BATCHES_REMEMBERED).unwrap_or(u32::MAX),
            broker_id: self.core.broker.0,
        }))
    }

    fn take_request(&mut self, request: Result<Option<v1::ProduceStreamRequest>, Status>) {
        let appends = match request {
            Ok(None) => return self.reading = Reading::Ended,
            Err(status) => return self.end(Failure::from(&status)),
            Ok(Some(request)) => match request.request {
                Some(Request::Appends(appends)) => appends.items,
                Some(Request::Open(_)) => {
                    return self.end(Failure::invalid("open", "the stream is open already"));
                }
                None => return self.end(Failure::invalid("request", "the request is empty")),
            },
        };
        let max = self.core.limits.appends_per_message_max;
        if appends.len() > max {
            let message = format!("{} batches in one message; at most {max}", appends.len());
            return self.end(Failure::invalid("appends.items", message));
        }
        let bytes: usize = appends.iter().map(|append| append.batch.len()).sum();
        self.waiting = appends.into();
        if self.waiting.len() > 1 && bytes > SHARED_MESSAGE_BYTES_MAX {
            for append in &mut self.waiting {
                append.batch = Bytes::copy_from_slice(&append.batch);
            }
        }
    }

    /// Reads no more; what is in flight is answered first.
    fn end(&mut self, failure: Failure) {
        self.reading = Reading::Ended;
        self.failure = Some(failure);
    }

    /// Places what waits, as far as admission goes.
    fn place_waiting(&mut self) {
        while self.admission.is_none()
            && let Some(append) = self.waiting.pop_front()
        {
            let partition = match self.partition_of(&append) {
                Ok(partition) => partition,
                Err(_) if self.is_news(&append) => {
                    let core = Arc::clone(&self.core);
                    let named = (append.topic_id.clone(), append.partition);
                    let bytes = append.batch.len() + BATCH_OVERHEAD_BYTES;
                    self.admission = Some(admit_when_known(core, named, bytes).boxed());
                    self.waiting.push_front(append);
                    continue;
                }
                Err(failure) => {
                    self.refuse(append.correlation_id, &failure);
                    continue;
                }
            };
            let bytes = append.batch.len() + BATCH_OVERHEAD_BYTES;
            match self.core.try_admit(&partition, bytes) {
                Some(admitted) => self.place(append, Ok(admitted)),
                None => {
                    let core = Arc::clone(&self.core);
                    self.admission = Some(core.admit_in_turn(partition, bytes).boxed());
                    self.waiting.push_front(append);
                }
            }
        }
    }

    fn place(&mut self, append: v1::ProduceStreamAppend, admitted: Result<Admitted, Failure>) {
        let correlation_id = append.correlation_id;
        if let Err(failure) = admitted.and_then(|admitted| self.try_place(append, admitted)) {
            self.refuse(correlation_id, &failure);
        }
    }

    /// Answers a batch that reaches no partition.
    fn refuse(&mut self, correlation_id: u64, failure: &Failure) {
        self.core.requests.observe_error(Called::ProduceStreamAppend, failure.reason());
        let error = self.core.catalog.wire_error(failure);
        let outcome = Some(v1::produce_stream_ack::Outcome::Error(error));
        self.refused.push(v1::ProduceStreamAck { correlation_id, outcome });
    }

    fn partition_of(&self, append: &v1::ProduceStreamAppend) -> Result<Arc<Partition>, Failure> {
        let topic = convert::topic_id(&append.topic_id)?;
        self.core.catalog.partition_by_id(topic, append.partition)
    }

    /// Whether a partition is none that this broker knows of, present or gone.
    fn is_news(&self, append: &v1::ProduceStreamAppend) -> bool {
        convert::topic_id(&append.topic_id).is_ok_and(|id| {
            let topic = TopicRef { id: Some(id), name: None };
            !self.core.catalog.knows(&PartitionRef { topic, partition: append.partition })
        })
    }

    fn try_place(
        &mut self,
        append: v1::ProduceStreamAppend,
        admitted: Admitted,
    ) -> Result<(), Failure> {
        let opened = self.opened.expect("only an open stream reads appends");
        convert::batch_format(append.format)?;
        let leader_epoch: Option<LeaderEpoch> =
            convert::leader_epoch(append.leader_epoch, "leader_epoch")?;
        // Once more: it may have waited for long.
        let partition = self.partition_of(&append)?;
        let topic = partition.id().topic;
        let bytes = append.batch.len();
        let batch = batch::check(append.batch)?;
        let arrived = self.core.clock.monotonic();
        let of = Target { topic, traffic: self.traffic_of(topic, &partition) };
        let tag = self.in_flight.insert(Sent {
            correlation_id: append.correlation_id,
            bytes,
            arrived,
            of,
        });
        partition.produce(Append {
            batch,
            acks: match opened.mode {
                AckMode::All => Acks::All,
                AckMode::Leader | AckMode::None => Acks::Leader,
            },
            leader_epoch,
            deadline: arrived + opened.ack_timeout,
            ticket: Ticket::new(Arc::clone(&self.acks) as Arc<dyn ProduceSink>, tag, admitted),
        });
        Ok(())
    }

    fn traffic_of(&mut self, topic: TopicId, partition: &Partition) -> TopicTraffic {
        let catalog = &self.core.catalog;
        self.traffic.entry(topic).or_insert_with(|| catalog.traffic(partition.topic())).clone()
    }

    /// All that is answered, in one message.
    fn take_acks(&mut self) -> Option<v1::ProduceStreamAcks> {
        let mut items = std::mem::take(&mut self.refused);
        self.acks.take(ACKS_PER_MESSAGE_MAX.saturating_sub(items.len()).max(1), &mut self.taken);
        if items.is_empty() && self.taken.is_empty() {
            return None;
        }
        let mode = self.opened.map_or(AckMode::All, |opened| opened.mode);
        let now = self.core.clock.monotonic();
        for (tag, outcome) in self.taken.drain(..) {
            let Some(sent) = self.in_flight.remove(tag) else { continue };
            self.core.requests.observe(Called::ProduceStreamAppend, sent.age(now));
            let outcome = match outcome {
                Ok(produced) => {
                    if !produced.duplicate {
                        let records =
                            produced.last_offset.next().distance_from(produced.base_offset);
                        sent.of.traffic.observe_produced(records, sent.bytes as u64);
                    }
                    v1::produce_stream_ack::Outcome::Result(convert::append_result(&produced, mode))
                }
                Err(error) => {
                    let failure = self.core.catalog.refine(error.into(), sent.of.topic);
                    self.core.requests.observe_error(Called::ProduceStreamAppend, failure.reason());
                    v1::produce_stream_ack::Outcome::Error(self.core.catalog.wire_error(&failure))
                }
            };
            let correlation_id = sent.correlation_id;
            items.push(v1::ProduceStreamAck { correlation_id, outcome: Some(outcome) });
        }
        Some(v1::ProduceStreamAcks { items, max_in_flight_bytes: None })
    }
}

/// Admission to a partition that may have been made elsewhere a moment ago.
async fn admit_when_known(
    core: Arc<Core>,
    (topic, partition): (Bytes, i32),
    bytes: usize,
) -> Result<Admitted, Failure> {
    core.catch_up().await;
    let partition = core.catalog.partition_by_id(convert::topic_id(&topic)?, partition)?;
    core.admit_in_turn(partition, bytes).await
}

impl fmt::Debug for ProduceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProduceStream")
            .field("in_flight", &self.in_flight)
            .field("reading", &self.reading)
            .finish_non_exhaustive()
    }
}
