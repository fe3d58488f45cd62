//! `FetchStream`: pushes batches of many partitions within the byte credit a client grants.
//!
//! The whole stream is one state machine that runs only when HTTP/2 has room for another message:
//! a client which does not read costs the message that waits and nothing more, no task, no channel.
//! Each step either has an answer to send (data, then what the client asked for, in that order, so
//! that an answer to an update comes after all data from before it), or waits for the first of: a
//! request, a piece of data, the end of gathering, the drain, the heartbeat.

use std::{collections::VecDeque, fmt, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use riverrun_proto::{ids::TopicPartition, limits::PACK_TARGET_BYTES, rpc::v1};
use tokio::time::{Sleep, sleep};
use tonic::{Status, Streaming};

use super::{
    admission::BytePermit,
    convert,
    core::Core,
    credit::Credit,
    nearby::Nearby,
    status::Failure,
    subscriptions::{Piece, Place, Subscriptions},
};
use crate::telemetry::{OpenGuard, Request as Called};

use v1::{fetch_stream_request::Request, fetch_stream_response::Response};

/// Starts a stream; it opens with its first request.
pub(super) fn serve(
    core: Arc<Core>,
    requests: Streaming<v1::FetchStreamRequest>,
) -> impl Stream<Item = Result<v1::FetchStreamResponse, Status>> + Send + 'static {
    let stream = FetchStream::new(core, requests);
    futures::stream::unfold(Some(stream), |stream| async {
        let mut stream = stream?;
        match stream.step().await {
            Ok(response) => {
                let response = v1::FetchStreamResponse { response: Some(response) };
                Some((Ok(response), Some(stream)))
            }
            Err(End::Done) => None,
            Err(End::Failed(failure)) => Some((Err(stream.core.catalog.status(&failure)), None)),
        }
    })
}

struct FetchStream {
    core: Arc<Core>,
    requests: Streaming<v1::FetchStreamRequest>,
    /// The client sends no more requests.
    half_closed: bool,
    opened: Option<Opened>,
    /// Answers that wait their turn, behind the data packed so far. At most one request's.
    answers: VecDeque<Response>,
    /// Memory of a large message handed out last; by the next step it has been encoded.
    sent: Option<BytePermit>,
    ending: bool,
    _open: OpenGuard,
}

/// What a stream has once it is open.
struct Opened {
    subscriptions: Subscriptions,
    credit: Credit,
    /// The credit ran out and that was counted.
    stalled: bool,
    message_bytes_max: usize,
    min_bytes: usize,
    max_wait: Duration,
    packed: Vec<v1::PartitionData>,
    packed_bytes: usize,
    /// Did not fit into the message any more and begins the next; paid for.
    left_over: Option<Piece>,
    /// What is packed must not wait for more.
    push_now: bool,
    /// Runs while there is something packed, but less than `min_bytes`.
    gathering: Option<Pin<Box<Sleep>>>,
}

enum End {
    /// All is said, or the client is gone.
    Done,
    Failed(Box<Failure>),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// What a step waited for.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is taken apart at once"
)]
enum Woken {
    Request(Result<Option<v1::FetchStreamRequest>, Status>),
    Piece(Piece),
    Gathered,
    Drain,
    Idle,
}

// === impl FetchStream ===

impl FetchStream {
    fn new(core: Arc<Core>, requests: Streaming<v1::FetchStreamRequest>) -> Self {
        Self {
            _open: core.requests.stream_opened(Called::FetchStream),
            core,
            requests,
            half_closed: false,
            opened: None,
            answers: VecDeque::new(),
            sent: None,
            ending: false,
        }
    }

    /// The next message.
    async fn step(&mut self) -> Result<Response, End> {
        self.sent = None;
        if self.opened.is_none() {
            self.opened = Some(self.open().await?);
        }
        let opened = self.opened.as_mut().expect("just opened");
        let heartbeat = sleep(self.core.limits.fetch_heartbeat);
        tokio::pin!(heartbeat);
        loop {
            if let Some((data, bytes)) = opened.take_packed() {
                // A message of ordinary size is part of what a stream costs; large ones share a
                // budget, so that many streams with large batches stay within the memory.
                if bytes > PACK_TARGET_BYTES {
                    self.sent = Some(self.core.fetch_memory(bytes).await);
                }
                return Ok(data);
            }
            if let Some(answer) = self.answers.pop_front() {
                return Ok(answer);
            }
            if self.ending {
                return Err(End::Done);
            }
            let requests = (!self.half_closed).then_some(&mut self.requests);
            match opened.wait(&self.core, requests, heartbeat.as_mut()).await {
                Woken::Request(Ok(Some(request))) => {
                    // However fast requests come, others get their turn.
                    tokio::task::consume_budget().await;
                    if let Some(Request::Update(update)) = &request.request {
                        hear_of(&self.core, &update.set).await;
                    }
                    if let Some(answer) = opened.take_request(&self.core, request)? {
                        self.answers.push_back(answer);
                    }
                }
                // It still listens. Had it gone, the stream would have been dropped.
                Woken::Request(Ok(None)) => self.half_closed = true,
                Woken::Request(Err(status)) => return Err(Failure::from(&status).into()),
                Woken::Piece(piece) => opened.pack(piece),
                Woken::Gathered => opened.push_now = true,
                Woken::Drain => {
                    self.ending = true;
                    opened.push_now = true;
                    let control = v1::StreamControl { reconnect: true, throttle: None };
                    self.answers.push_back(Response::Control(control));
                }
                Woken::Idle => return Ok(Response::Heartbeat(v1::Heartbeat {})),
            }
        }
    }

    async fn open(&mut self) -> Result<Opened, End> {
        let first = self.core.first_request(&mut self.requests).await?.ok_or(End::Done)?;
        let Some(Request::Open(open)) = first.request else {
            return Err(Failure::invalid("open", "the first request must be `open`").into());
        };
        let mut opened = Opened::new(&self.core, &open)?;
        hear_of(&self.core, &open.partitions).await;
        opened.set(&self.core, &open.partitions)?;
        Ok(opened)
    }
}

// === impl Opened ===

impl Opened {
    fn new(core: &Core, open: &v1::FetchStreamOpen) -> Result<Self, Failure> {
        let format = convert::read_format(open.format)?;
        convert::isolation(open.isolation)?;
        let limits = &core.limits;
        let message_bytes_max = match open.max_response_bytes as usize {
            0 => limits.response_bytes_max,
            bytes => bytes.min(limits.response_bytes_max),
        };
        let max_wait = convert::duration(open.max_wait.as_ref(), "max_wait")?.unwrap_or_default();
        Ok(Self {
            subscriptions: Subscriptions::new(core.catalog.clone(), core.decoder.clone(), format)
                .nearby(Nearby::of(core, &open.client_rack)),
            credit: Credit::new(open.initial_credit_bytes, limits.credit_bytes_max),
            stalled: false,
            message_bytes_max,
            min_bytes: (open.min_bytes as usize).min(message_bytes_max),
            max_wait: max_wait.min(limits.fetch_wait_max),
            packed: Vec::new(),
            packed_bytes: 0,
            left_over: None,
            push_now: false,
            gathering: None,
        })
    }

    async fn wait(
        &mut self,
        core: &Core,
        requests: Option<&mut Streaming<v1::FetchStreamRequest>>,
        heartbeat: Pin<&mut Sleep>,
    ) -> Woken {
        let may_read = self.credit.is_open() && self.packed_bytes < self.message_bytes_max;
        if !self.credit.is_open() && !std::mem::replace(&mut self.stalled, true) {
            core.requests.observe_window_stall(Called::FetchStream);
        }
        let piece_bytes = self.piece_bytes();
        let request = async {
            match requests {
                Some(requests) => requests.message().await,
                None => std::future::pending().await,
            }
        };
        let gathered = async {
            match &mut self.gathering {
                Some(timer) => timer.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            request = request => Woken::Request(request),
            piece = self.subscriptions.next(piece_bytes), if may_read => Woken::Piece(piece),
            () = gathered => Woken::Gathered,
            () = core.shutdown.draining() => Woken::Drain,
            () = heartbeat => Woken::Idle,
        }
    }

    /// Puts a piece into the message, and whatever else is there without waiting.
    fn pack(&mut self, piece: Piece) {
        let mut next = Some(piece);
        while let Some(piece) = next.take() {
            self.credit.spend(piece.bytes);
            // One batch may exceed the message, but only alone: most gRPC clients take no larger
            // message than they asked for.
            if !self.packed.is_empty() && self.packed_bytes + piece.bytes > self.message_bytes_max {
                self.left_over = Some(piece);
                self.push_now = true;
                return;
            }
            self.add(piece);
            let more = self.packed_bytes < PACK_TARGET_BYTES.min(self.message_bytes_max)
                && self.credit.is_open();
            if more {
                next = self.subscriptions.try_next(self.piece_bytes());
            }
        }
        if self.gathering.is_none() && !self.is_due() {
            self.gathering = Some(Box::pin(sleep(self.max_wait)));
        }
    }

    fn add(&mut self, piece: Piece) {
        // What carries no records is news: an end reached, an error.
        self.push_now |= piece.bytes == 0;
        self.packed_bytes += piece.bytes;
        self.packed.push(piece.data);
    }

    fn is_due(&self) -> bool {
        self.push_now
            || self.packed_bytes >= self.min_bytes
            || self.max_wait.is_zero()
            || !self.credit.is_open()
    }

    /// The message packed so far and its bytes, if it is due.
    fn take_packed(&mut self) -> Option<(Response, usize)> {
        if self.packed.is_empty() || !self.is_due() {
            return None;
        }
        self.push_now = false;
        self.gathering = None;
        let bytes = std::mem::take(&mut self.packed_bytes);
        let items = std::mem::take(&mut self.packed);
        if let Some(piece) = self.left_over.take() {
            // Answers to updates come after it, so it does not wait.
            self.push_now = true;
            self.add(piece);
        }
        Some((Response::Data(v1::PartitionDataList { items }), bytes))
    }

    /// Bytes to ask a partition for: a turn of the round robin.
    fn piece_bytes(&self) -> usize {
        let room = self.message_bytes_max.saturating_sub(self.packed_bytes);
        self.credit.within(PACK_TARGET_BYTES.min(room)).max(1)
    }

    fn take_request(
        &mut self,
        core: &Core,
        request: v1::FetchStreamRequest,
    ) -> Result<Option<Response>, Failure> {
        match request.request {
            Some(Request::Credit(credit)) => {
                self.credit.grant(credit.bytes);
                self.stalled &= !self.credit.is_open();
                Ok(None)
            }
            Some(Request::Update(update)) => self.update(core, &update).map(Some),
            Some(Request::Open(_)) => Err(Failure::invalid("open", "the stream is open already")),
            None => Err(Failure::invalid("request", "the request is empty")),
        }
    }

    /// Changes places. What is packed is from the old ones and goes out before the answer.
    fn update(&mut self, core: &Core, update: &v1::UpdatePartitions) -> Result<Response, Failure> {
        for gone in &update.remove {
            if let Some(id) = named(core, gone)? {
                self.subscriptions.remove(id);
            }
        }
        self.set(core, &update.set)?;
        for paused in &update.pause {
            if let Some(id) = named(core, paused)? {
                self.subscriptions.pause(id);
            }
        }
        for resumed in &update.resume {
            if let Some(id) = named(core, resumed)? {
                self.subscriptions.resume(id);
            }
        }
        self.push_now = true;
        Ok(Response::Updated(v1::PartitionsUpdated { generation: update.generation }))
    }

    fn set(&mut self, core: &Core, places: &[v1::PartitionFrom]) -> Result<(), Failure> {
        for wire in places {
            let place = convert::read_place(wire)?;
            match core.catalog.partition(&place.partition) {
                Ok(partition) => {
                    let topic = &place.partition.topic;
                    self.subscriptions.set(&partition, topic, Place::from(&place));
                }
                Err(failure) => {
                    core.requests.observe_error(Called::FetchStream, failure.reason());
                    self.packed.push(convert::partition_error(
                        wire.partition.clone(),
                        core.catalog.wire_error(&failure),
                    ));
                    self.push_now = true;
                }
            }
            let max = core.limits.fetch_partitions_max;
            if self.subscriptions.len().max(self.packed.len()) > max {
                core.hits.fetch_partitions.hit();
                let message = format!("a stream reads at most {max} partitions");
                return Err(Failure::invalid("partitions", message));
            }
        }
        Ok(())
    }
}

/// Before anybody is told that one of these does not exist.
async fn hear_of(core: &Core, places: &[v1::PartitionFrom]) {
    core.hear_of(places.iter().map(|place| place.partition.as_ref())).await;
}

/// The partition of a remove, pause or resume; `None` if it is gone, and with it the subscription.
fn named(core: &Core, wire: &v1::TopicPartition) -> Result<Option<TopicPartition>, Failure> {
    let named = convert::partition_ref(Some(wire))?;
    Ok(core.catalog.partition_id(&named).ok())
}

impl fmt::Debug for FetchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchStream").field("open", &self.opened.is_some()).finish_non_exhaustive()
    }
}
