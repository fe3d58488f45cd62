//! The producer's background task: it resolves topics, opens streams to leaders, lets partitions
//! take turns on them, and hands answers out. All its state is in one struct that only it touches;
//! everything that decides about order is in [`super::sender`] and [`super::lane`].
//!
//! It is woken once per batch, by callers' marks, and otherwise by answers, finished lookups and
//! timers.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered, SelectAll},
};
use riverrun_proto::{
    ids::{BrokerId, TopicId},
    record::Compressor,
};
use tokio_util::sync::CancellationToken;

use super::{
    batch::Payload,
    lane::Lane,
    sender::{Identity, Sender},
    shared::{PartitionKey, PartitionQueue, Phase, Shared, TopicSlot},
};
use crate::{
    address::Address,
    client::Client,
    clock::{self, Instant},
    connection::{ProduceEvent, ProduceLimits, ProduceLink},
    error::{Error, Result},
    topic::Topic,
};

/// Bounds of the interval at which timeouts are looked for.
const SWEEP_MIN: Duration = Duration::from_millis(5);
const SWEEP_MAX: Duration = Duration::from_secs(1);
/// A batch unanswered for so long makes the worker ask whether somebody else leads its partition by now:
/// a leader that was cut off from the others says nothing, and knows nothing of it.
const DOUBT_AFTER: Duration = Duration::from_secs(2);
/// A timeout is found late by one part in this many.
const SWEEPS_PER_TIMEOUT: u32 = 16;

/// See the module.
pub(crate) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Client,
    pub(super) partitions: HashMap<PartitionKey, PartitionState>,
    pub(super) lanes: HashMap<BrokerId, Lane>,
    /// Lanes on which something may have become possible.
    pub(super) dirty: HashSet<BrokerId>,
    events: SelectAll<BoxStream<'static, LinkNews>>,
    pub(super) tasks: FuturesUnordered<BoxFuture<'static, TaskDone>>,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    /// Topics whose metadata is being fetched, and the failures so far.
    pub(super) lookups: HashMap<Arc<str>, Lookup>,
    identity: IdentitySource,
    pub(super) compressor: Compressor,
    pub(super) next_correlation_id: u64,
    next_sweep: Instant,
    next_metadata_refresh: Instant,
    /// A flush for closing has been ordered.
    flushed_for_close: bool,
}

/// A partition that was sent to.
pub(super) struct PartitionState {
    pub(super) queue: Arc<PartitionQueue>,
    pub(super) sender: Sender<Payload>,
    /// The lane its batches go by. Changes only while none is on the wire.
    pub(super) leader: Option<BrokerId>,
    /// Where they should go as far as metadata says, and of which epoch that is.
    pub(super) wanted_leader: Option<BrokerId>,
    pub(super) leader_epoch: i32,
    /// It waits for its turn on its lane.
    pub(super) has_turn: bool,
    /// A timer will look at it then.
    pub(super) armed: Option<Instant>,
    /// The oldest attempt on the wire, and when it was first seen there or doubted last.
    pub(super) watched: Option<(u64, Instant)>,
}

/// News of a stream: of which lane and incarnation; `None`: it ended.
type LinkNews = (BrokerId, u64, Option<Result<ProduceEvent>>);

/// What an opened stream comes with.
type OpenedStream = (ProduceLimits, ProduceLink, BoxStream<'static, Result<ProduceEvent>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Linger or backoff of a partition is over.
    Partition { topic: [u8; 16], partition: u32 },
    /// Backoff or throttle of a lane is over.
    Lane(u32),
}

pub(super) enum TaskDone {
    Opened(BrokerId, Result<OpenedStream>),
    Resolved(Arc<TopicSlot>, Result<Arc<Topic>>),
    Refreshed(Arc<str>, Result<Arc<Topic>>),
    Identified(Result<Identity>),
}

/// A topic that is being looked up.
#[derive(Default)]
pub(super) struct Lookup {
    pub(super) under_way: bool,
    pub(super) failures: u32,
    /// Before the next.
    pub(super) wait: Duration,
}

#[derive(Default)]
struct IdentitySource {
    current: Option<Identity>,
    asking: bool,
}

// === impl Worker ===

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, client: Client) -> Self {
        let now = clock::now();
        Self {
            next_sweep: now + sweep_interval(&shared),
            next_metadata_refresh: now + client.config().metadata_max_age,
            shared,
            client,
            partitions: HashMap::new(),
            lanes: HashMap::new(),
            dirty: HashSet::new(),
            events: SelectAll::new(),
            tasks: FuturesUnordered::new(),
            timers: BinaryHeap::new(),
            lookups: HashMap::new(),
            identity: IdentitySource::default(),
            compressor: Compressor::new(),
            next_correlation_id: 1,
            flushed_for_close: false,
        }
    }

    /// Runs until the producer is closed and everything is answered.
    pub(crate) async fn run(mut self) {
        loop {
            self.on_marks();
            self.pump();
            if self.is_over() {
                return;
            }
            let timer = self.next_timer();
            tokio::select! {
                () = self.shared.marked() => {}
                Some(news) = self.events.next(), if !self.events.is_empty() => self.on_link(news),
                Some(done) = self.tasks.next(), if !self.tasks.is_empty() => self.on_task(done),
                () = tokio::time::sleep_until(timer) => self.on_timers(),
            }
        }
    }

    fn is_over(&mut self) -> bool {
        match self.shared.phase() {
            Phase::Open => false,
            Phase::Closing => {
                if !self.flushed_for_close {
                    self.flushed_for_close = true;
                    let records = self.unanswered();
                    if self.shared.was_dropped() && records > 0 {
                        tracing::warn!(
                            records,
                            "a producer was dropped with records not acknowledged yet; they are \
                             sent in the background, but close() would have told what became of them"
                        );
                    }
                    for state in self.partitions.values() {
                        state.queue.accumulator.lock().flush();
                    }
                    let keys: Vec<_> = self.partitions.keys().copied().collect();
                    keys.into_iter().for_each(|key| self.give_turn(key));
                    self.pump();
                }
                self.partitions.values().all(PartitionState::is_empty)
                    && self.shared.slots().iter().all(|slot| slot.parked_count() == 0)
            }
            Phase::Aborting => true,
        }
    }

    /// Records that are not answered.
    pub(super) fn unanswered(&self) -> u64 {
        let parked: u64 = self.shared.slots().iter().map(|slot| slot.parked_count()).sum();
        let states = self.partitions.values();
        parked
            + states
                .map(|state| {
                    state.sender.record_count() + state.queue.accumulator.lock().record_count()
                })
                .sum::<u64>()
    }

    // --- what callers marked ---

    fn on_marks(&mut self) {
        let marks = self.shared.take_marks();
        for slot in marks.slots {
            self.resolve(slot);
        }
        for queue in marks.queues {
            self.give_turn(queue.key);
        }
    }

    // --- what finished ---

    fn on_task(&mut self, done: TaskDone) {
        match done {
            TaskDone::Opened(broker, opened) => self.on_opened(broker, opened),
            TaskDone::Identified(identity) => self.on_identity(identity),
            TaskDone::Resolved(slot, topic) => {
                self.lookups.remove(&slot.name);
                match topic {
                    Ok(topic) => self.apply(&topic, Some(&slot)),
                    Err(error) => self
                        .shared
                        .refuse(&slot, &error.context(format_args!("topic {:?}", slot.name))),
                }
            }
            TaskDone::Refreshed(name, topic) => self.on_refreshed(&name, topic),
        }
    }

    // --- identity ---

    /// Gives the partition an identity if it waits for one and there is another than it lost.
    pub(super) fn identify(&mut self, key: PartitionKey) {
        let Some(state) = self.partitions.get_mut(&key) else { return };
        let Some(lost) = state.sender.wants_identity() else { return };
        match self.identity.current {
            Some(identity) if Some(identity) != lost => {
                state.sender.identify(identity, Payload::restamp);
                self.hand_out(key);
            }
            _ => self.ask_for_identity(),
        }
    }

    fn ask_for_identity(&mut self) {
        if std::mem::replace(&mut self.identity.asking, true) {
            return;
        }
        let client = self.client.clone();
        let within = self.shared.config.delivery_timeout;
        self.tasks.push(
            async move {
                let connections = client.connections();
                let ask_at = |at: Address| async move { connections.init_producer(&at).await };
                let ask = || client.metadata().at_any_broker(ask_at);
                let identity = client.with_retries(within, true, ask).await;
                TaskDone::Identified(identity.map(|(id, epoch)| Identity { id, epoch }))
            }
            .boxed(),
        );
    }

    fn on_identity(&mut self, identity: Result<Identity>) {
        self.identity.asking = false;
        match identity {
            Ok(identity) => {
                self.identity.current = Some(identity);
                let waiting = self
                    .partitions
                    .iter()
                    .filter(|(_, state)| state.sender.wants_identity().is_some());
                let keys: Vec<_> = waiting.map(|(key, _)| *key).collect();
                for key in keys {
                    self.identify(key);
                    self.give_turn(key);
                }
            }
            // Batches expire by themselves; those that are left ask again.
            Err(error) if error.is_retriable() => self.ask_for_identity(),
            Err(error) => {
                let error = error.context("asking for a producer id");
                for state in self.partitions.values_mut() {
                    if state.sender.wants_identity().is_some() {
                        state.fail_batches(&self.shared, &error);
                    }
                }
            }
        }
    }

    // --- streams ---

    pub(super) fn open(&mut self, broker: BrokerId) {
        let Some(address) = self.client.metadata().address(broker) else {
            self.on_opened(
                broker,
                Err(Error::connection(format!("the address of {broker:?} is not known"))),
            );
            return;
        };
        let client = self.client.clone();
        let (acks, ack_timeout) = (self.shared.config.acks, self.shared.config.ack_timeout());
        self.tasks.push(
            async move {
                let opened = client.connections().produce_stream(&address, acks, ack_timeout).await;
                TaskDone::Opened(broker, opened)
            }
            .boxed(),
        );
    }

    /// Listens to an opened stream; its end is news as well.
    pub(super) fn listen(
        &mut self,
        broker: BrokerId,
        incarnation: u64,
        events: BoxStream<'static, Result<ProduceEvent>>,
        until: CancellationToken,
    ) {
        let news = events
            .map(move |event| (broker, incarnation, Some(event)))
            .chain(stream::iter([(broker, incarnation, None)]))
            .take_until(until.cancelled_owned());
        self.events.push(news.boxed());
    }

    // --- time ---

    pub(super) fn set_timer(&mut self, at: Instant, timer: Timer) {
        self.timers.push(Reverse((at, timer)));
    }

    fn next_timer(&self) -> Instant {
        let next = self.timers.peek().map_or(self.next_sweep, |Reverse((at, _))| *at);
        next.min(self.next_sweep)
    }

    fn on_timers(&mut self) {
        let now = clock::now();
        while let Some(Reverse((at, timer))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            match timer {
                Timer::Lane(broker) => {
                    self.dirty.insert(BrokerId(broker));
                }
                Timer::Partition { topic, partition } => {
                    let topic = TopicId::from_bytes(&topic).expect("from of_partition");
                    let key = PartitionKey { topic, partition };
                    if let Some(state) = self.partitions.get_mut(&key) {
                        state.armed = None;
                    }
                    self.give_turn(key);
                }
            }
        }
        if self.next_sweep <= now {
            self.next_sweep = now + sweep_interval(&self.shared);
            self.sweep(now);
        }
        if self.next_metadata_refresh <= now {
            self.next_metadata_refresh = now + self.client.config().metadata_max_age;
            for slot in self.shared.slots() {
                self.refresh(&slot.name);
            }
        }
    }

    /// Finds batches past their delivery timeout and streams past their request timeout.
    fn sweep(&mut self, now: Instant) {
        let timeout = self.shared.config.delivery_timeout;
        if let Some(created) = now.checked_sub(timeout) {
            let keys: Vec<_> = self.partitions.keys().copied().collect();
            for key in keys {
                let Some(state) = self.partitions.get_mut(&key) else { continue };
                let waiting = state.queue.accumulator.lock().expire(created);
                state.sender.expire(created, timeout, now);
                let definite = super::sender::timed_out(timeout, true);
                // What is taken is older than what is not: hand that out first.
                self.hand_out(key);
                for batch in waiting {
                    self.shared.count_failed(&definite, batch.builder.record_count().into());
                    batch.ack.complete(Err(definite.clone()));
                }
            }
        }
        self.doubt(now);
        let request_timeout = self.shared.config.request_timeout;
        let silent: Vec<_> = self
            .lanes
            .values_mut()
            .filter_map(|lane| {
                let broker = lane.broker;
                lane.open_link()?.is_silent(request_timeout, now).then_some(broker)
            })
            .collect();
        for broker in silent {
            let error = Error::connection(format!("no answer within {request_timeout:?}"));
            self.on_lost(broker, &error);
        }
    }

    /// Asks anew for topics of which a batch waits for its answer for long. What is on the wire stays there
    /// unless another leader is found.
    fn doubt(&mut self, now: Instant) {
        let mut doubted = HashSet::new();
        for state in self.partitions.values_mut() {
            let Some(oldest) = state.sender.oldest_sent() else {
                state.watched = None;
                continue;
            };
            match state.watched {
                Some((watched, since)) if watched == oldest => {
                    if now.duration_since(since) >= DOUBT_AFTER {
                        state.watched = Some((oldest, now));
                        doubted.insert(Arc::clone(&state.queue.topic));
                    }
                }
                _ => state.watched = Some((oldest, now)),
            }
        }
        for name in doubted {
            self.refresh(&name);
        }
    }
}

impl Drop for Worker {
    /// The producer was closed, or its runtime is being shut down: nobody may wait for ever.
    fn drop(&mut self) {
        self.shared.advance(Phase::Closing);
        let error = Error::closed("producer");
        self.shared.close_topics();
        for state in self.partitions.values_mut() {
            state.fail(&self.shared, &error);
        }
        self.shared.finished.cancel();
    }
}

// === impl PartitionState ===

impl PartitionState {
    pub(super) fn is_empty(&self) -> bool {
        self.sender.is_empty() && self.queue.accumulator.lock().is_empty()
    }

    /// Fails all there is, and takes no more.
    pub(super) fn fail(&mut self, shared: &Shared, error: &Error) {
        let waiting = self.queue.accumulator.lock().close(error.clone());
        self.fail_all(waiting, shared, error);
    }

    /// Fails all there is.
    fn fail_batches(&mut self, shared: &Shared, error: &Error) {
        let waiting = self.queue.accumulator.lock().drain();
        self.fail_all(waiting, shared, error);
    }

    fn fail_all(
        &mut self,
        waiting: Vec<super::accumulator::Batch>,
        shared: &Shared,
        error: &Error,
    ) {
        self.sender.fail(error);
        while let Some((payload, outcome)) = self.sender.pop_done() {
            self.queue.accumulator.lock().answered();
            if let Err(error) = &outcome {
                shared.count_failed(error, payload.records.into());
            }
            payload.ack.complete(outcome);
        }
        for batch in waiting {
            shared.count_failed(error, batch.builder.record_count().into());
            batch.ack.complete(Err(error.clone()));
        }
    }
}

fn sweep_interval(shared: &Shared) -> Duration {
    let shortest = shared.config.request_timeout.min(shared.config.delivery_timeout);
    (shortest / SWEEPS_PER_TIMEOUT).clamp(SWEEP_MIN, SWEEP_MAX)
}

impl Timer {
    pub(super) fn of_partition(key: PartitionKey) -> Self {
        Self::Partition { topic: *key.topic.as_bytes(), partition: key.partition }
    }
}
