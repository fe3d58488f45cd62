//! The owner of a partition's order: everything that changes it happens here, under one lock.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::{TopicName, TopicPartition},
    offset::Offset,
};
use tokio::sync::watch;

use super::{
    order::{Effects, State},
    pool::{IoPool, Lane},
    produce::Append,
    read::ReadBudget,
    settings::Settings,
    waiters::Waiters,
    watch::{ReadySet, Watch, Watchers},
};
use crate::{
    clock::{Clock, Instant},
    io::Failure,
    log::{Log, LogError, LogReader, LogWork, LogWorkDone},
    replica::{Event, Registration, Replica},
    telemetry::StorageMetrics,
};

/// What all partitions of a broker share.
#[derive(Debug, Clone)]
pub struct PartitionEnv {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether the directory that the log is in has failed.
    pub failure: Failure,
    /// Threads for what blocks.
    pub pool: IoPool,
    /// What is measured of appends and syncs.
    pub metrics: StorageMetrics,
    /// Bytes that reads from the disk may hold.
    pub read_budget: ReadBudget,
    /// Bytes of batches that may be parked in front of one partition's log.
    pub parked_bytes_max: usize,
}

/// The offsets of a partition at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// First offset still readable.
    pub log_start: Offset,
    /// First offset not committed.
    pub high_watermark: Offset,
    /// First offset not written.
    pub log_end: Offset,
    /// First offset not known to be on disk.
    pub flushed_end: Offset,
    /// Bytes of batches in segment files.
    pub size_bytes: u64,
    /// Segment files.
    pub segments: usize,
}

/// A partition of a topic on this broker.
pub struct Partition {
    id: TopicPartition,
    topic: TopicName,
    pub(super) env: PartitionEnv,
    pub(super) settings: ArcSwap<Settings>,
    state: Mutex<State>,
    /// Told when no work of the log is under way.
    idle: Condvar,
    pub(super) published: Published,
    pub(super) reader: LogReader,
    watchers: Arc<Watchers>,
}

/// What readers see without the lock. Written under it.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) high_watermark: AtomicI64,
    /// The leader epoch while this broker leads, else −1.
    pub(super) leads: AtomicI32,
    closed: AtomicBool,
    /// Produces wait for their acks.
    waiters: AtomicBool,
    /// Bytes that a restart after a kill would have to read.
    dirty_bytes: AtomicU64,
    /// The log start offset that a restart after a kill would find.
    pub(super) durable_log_start: watch::Sender<Offset>,
}

impl Partition {
    /// A partition over its opened log. It serves nobody before it is registered
    /// ([`Partition::register`]).
    pub fn new(
        id: TopicPartition,
        topic: TopicName,
        env: PartitionEnv,
        settings: Settings,
        log: Log,
        replica: Replica,
    ) -> Arc<Self> {
        let reader = log.reader();
        let published = Published {
            high_watermark: AtomicI64::new(replica.high_watermark().get()),
            leads: AtomicI32::new(-1),
            closed: AtomicBool::new(false),
            waiters: AtomicBool::new(false),
            dirty_bytes: AtomicU64::new(0),
            durable_log_start: watch::Sender::new(log.log_start_offset()),
        };
        let state = State {
            log,
            replica,
            waiters: Waiters::default(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            works: 0,
            closed: false,
        };
        Arc::new(Self {
            id,
            topic,
            env,
            settings: ArcSwap::from_pointee(settings),
            state: Mutex::new(state),
            idle: Condvar::new(),
            published,
            reader,
            watchers: Arc::default(),
        })
    }

    /// Which partition this is.
    pub fn id(&self) -> TopicPartition {
        self.id
    }

    /// The name of its topic.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Appends a batch, or parks it in order; its ticket is answered now or later. Never blocks.
    pub fn produce(self: &Arc<Self>, append: Append) {
        let now = self.env.clock.now();
        if let Err(refused) = self.settings.load().check(&append, now) {
            append.ticket.complete(Err(refused));
            return;
        }
        self.change(|state, effects| {
            if state.parked.is_empty() {
                state.try_append(self, append, now, effects);
            } else {
                state.park(self, append, effects);
            }
        });
    }

    /// The metadata log registered the partition anew.
    pub fn register(self: &Arc<Self>, registration: Registration) {
        self.change(|state, effects| state.step(self, Event::Registered(registration), effects));
    }

    /// The topic's configuration changed.
    pub fn reconfigure(self: &Arc<Self>, settings: Settings, log: crate::log::LogConfig) {
        let durability = settings.durability;
        self.settings.store(Arc::new(settings));
        self.change(|state, effects| {
            state.log.reconfigure(log);
            if state.replica.durability() != durability {
                state.step(self, Event::DurabilityChanged(durability), effects);
            }
        });
    }

    /// Asks for a checkpoint, so that a restart after a kill has less to read.
    pub fn request_checkpoint(self: &Arc<Self>) {
        self.change(|state, _| state.log.request_checkpoint());
    }

    /// Forgets old producers, tries a full disk again, gives back what an idle log holds.
    pub fn tick(self: &Arc<Self>) {
        let now = self.env.clock.now();
        self.change(|state, effects| {
            state.log.tick(now);
            state.drain_parked(self, now, effects);
        });
    }

    /// Answers produces that waited past their deadline.
    pub fn expire(self: &Arc<Self>, now: Instant) {
        self.change(|state, effects| state.expire(now, effects));
    }

    /// Deletes what retention no longer keeps, in the background.
    pub fn apply_retention(self: &Arc<Self>) {
        let now = self.env.clock.now();
        let retention = self.settings.load().retention;
        self.change(|state, effects| {
            if let Some(due) =
                state.log.retention_due(now, &retention, state.replica.high_watermark())
            {
                state.advance_log_start(due, effects);
            }
        });
    }

    /// Deletes what lies below `before`, at most up to the high watermark; returns the log start
    /// offset that holds now.
    pub(super) fn delete_before(self: &Arc<Self>, before: Option<Offset>) -> Option<Offset> {
        self.change(|state, effects| {
            let committed = state.replica.high_watermark();
            let before = before.unwrap_or(committed);
            if before > committed {
                return None;
            }
            state.advance_log_start(before, effects);
            Some(state.log.log_start_offset())
        })
    }

    /// Takes no more appends and answers whoever waits. Reads end, too.
    pub fn close(self: &Arc<Self>) {
        self.published.closed.store(true, Ordering::Release);
        self.change(State::close);
    }

    /// Waits until no work of the log is under way. Blocks; only after [`Partition::close`], which
    /// keeps new work from starting.
    pub(super) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while state.works > 0 {
            self.idle.wait(&mut state);
        }
    }

    /// Writes down what makes the next start a quick one: flush, indexes, snapshots, checkpoint.
    /// Blocks; only after [`Partition::close`].
    pub(super) fn finish(&self) -> Result<(), LogError> {
        self.wait_idle();
        let work = self.state.lock().log.start_close();
        let done = work.run();
        self.state.lock().log.complete(done).map(|_| ())
    }

    /// Where it stands.
    pub fn offsets(&self) -> PartitionOffsets {
        let state = self.state.lock();
        PartitionOffsets {
            log_start: state.log.log_start_offset(),
            high_watermark: state.replica.high_watermark(),
            log_end: state.log.log_end_offset(),
            flushed_end: state.log.flushed_end_offset(),
            size_bytes: state.log.size_bytes(),
            segments: state.log.segment_count(),
        }
    }

    /// Bytes that a restart after a kill would have to read.
    pub fn dirty_bytes(&self) -> u64 {
        self.published.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Whether produces wait: for a look without the lock.
    pub(super) fn has_waiters(&self) -> bool {
        self.published.waiters.load(Ordering::Relaxed)
    }

    /// Produces that wait and batches that are parked, for metrics.
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.waiters.len(), state.parked.len())
    }

    /// First offset not committed, without the lock.
    pub fn high_watermark(&self) -> Offset {
        Offset::new(self.published.high_watermark.load(Ordering::Acquire))
            .expect("only offsets are stored")
    }

    /// The leader epoch while this broker leads.
    pub fn leads(&self) -> Option<LeaderEpoch> {
        LeaderEpoch::new(self.published.leads.load(Ordering::Acquire))
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.published.closed.load(Ordering::Acquire)
    }

    /// Marks `token` in `set` whenever the high watermark moves or the partition closes.
    pub fn watch(&self, set: &Arc<ReadySet>, token: u64) -> Watch {
        self.watchers.register(set, token)
    }

    /// Looks at the protocol's state under the lock.
    pub(super) fn with_replica<T>(&self, look: impl FnOnce(&Replica, &Log) -> T) -> T {
        let state = self.state.lock();
        look(&state.replica, &state.log)
    }

    /// The one way to change a partition: under the lock, then whatever follows, in order.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut State, &mut Effects) -> T) -> T {
        let mut effects = Effects::default();
        let result = {
            let mut state = self.state.lock();
            let result = change(&mut state, &mut effects);
            state.start_work(&mut effects);
            let waits = state.waiters.len() > 0 || !state.parked.is_empty();
            self.published.waiters.store(waits, Ordering::Relaxed);
            self.published
                .dirty_bytes
                .store(state.log.bytes_above_recovery_point(), Ordering::Relaxed);
            if state.works == 0 {
                self.idle.notify_all();
            }
            result
        };
        if effects.wake_readers {
            self.watchers.wake();
        }
        for work in effects.work {
            let partition = Arc::clone(self);
            self.env.pool.run(Lane::Work, move || partition.work_done(partition.measured(work)));
        }
        for (ticket, outcome) in effects.answers {
            ticket.complete(outcome);
        }
        result
    }

    fn measured(&self, work: LogWork) -> LogWorkDone {
        let is_sync = work.is_flush();
        let began = self.env.clock.monotonic();
        let done = work.run();
        if is_sync {
            self.env.metrics.observe_fsync(self.env.clock.monotonic().duration_since(began));
        }
        done
    }

    fn work_done(self: &Arc<Self>, done: LogWorkDone) {
        let now = self.env.clock.now();
        self.change(|state, effects| {
            state.works -= 1;
            match state.log.complete(done) {
                Ok(completed) => {
                    if let Some(flushed_end) = completed.flushed_end {
                        state.step(self, Event::Flushed { flushed_end }, effects);
                    }
                    if let Some(start) = completed.log_start {
                        self.published.durable_log_start.send_if_modified(|durable| {
                            let moved = start > *durable;
                            *durable = start.max(*durable);
                            moved
                        });
                    }
                }
                Err(error) => {
                    tracing::error!(partition = %self.id, topic = %self.topic, %error, "log work failed");
                    if let Err(failed) = self.env.failure.check() {
                        state.fail_all(&failed.to_string(), effects);
                    }
                }
            }
            // Also after a failure: the log now says why it is not ready.
            state.drain_parked(self, now, effects);
        });
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}
