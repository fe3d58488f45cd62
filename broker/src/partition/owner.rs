//! The owner of a partition's order: everything that changes it happens here, under one lock.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};
use riverrun_proto::{
    epoch::{LeaderEpoch, PartitionEpoch},
    ids::{TopicName, TopicPartition},
    offset::Offset,
    timestamp::Timestamp,
};

use super::{
    answers::Answers,
    error::CloseError,
    moving::MovingView,
    order::{Effects, State},
    parked_limit::ParkedLimit,
    pool::{IoPool, panic_text},
    produce::Append,
    read::ReadBudget,
    replication::Replication,
    role::{PublishedRole, Role},
    settings::Settings,
    watch::{ReadySet, Watch, Watchers},
};
use crate::{
    clock::{Clock, Instant, WallTrust},
    io::Failure,
    log::{Log, LogConfig, LogReader},
    replica::{
        BrokerStanding, Event, FollowerView, IsrProposal, LeaderView, Registration, Replica,
    },
    telemetry::StorageMetrics,
};

/// What all partitions of a broker share.
#[derive(Debug, Clone)]
pub struct PartitionEnv {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether what it says of the day may delete anything.
    pub wall: WallTrust,
    /// Whether the directory that the log is in has failed.
    pub failure: Failure,
    /// Whether there is room for appends.
    pub gate: WriteGate,
    /// Threads for what blocks.
    pub pool: IoPool,
    /// What is measured of appends and syncs.
    pub metrics: StorageMetrics,
    /// Bytes that reads from the disk may hold.
    pub read_budget: ReadBudget,
    /// How much may be parked in front of one partition's log.
    pub parked: ParkedLimit,
    /// Other brokers, and bounds of what goes between them.
    pub replication: Replication,
}

/// Closed while the disk has so little room that what is left is for deletions, checkpoints and the
/// metadata: appends are refused as on a full disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct WriteGate(Arc<AtomicBool>);

impl WriteGate {
    /// Closes or opens it.
    pub fn set_closed(&self, closed: bool) {
        self.0.store(closed, Ordering::Relaxed);
    }

    /// Whether appends are refused.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
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

/// Who waits for a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Produces that were appended and wait for replicas or the disk.
    pub for_acks: usize,
    /// Batches that wait for the log to be ready.
    pub parked: usize,
    /// Their bytes.
    pub parked_bytes: usize,
    /// Calls that wait for a new log start to be durable.
    pub deletions: usize,
}

/// The replicas of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas {
    /// As the metadata log has them.
    pub registration: Registration,
    /// What this broker knows of the others, where it leads.
    pub followers: Vec<FollowerView>,
}

/// A partition's copy on this broker, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub offsets: PartitionOffsets,
    /// In which leader epoch its last record was written; `None`: it has none.
    pub last_epoch: Option<LeaderEpoch>,
    /// What it knows of the others, where it leads.
    pub leading: Option<LeaderView>,
    /// How replicas come along that are being added, where it leads.
    pub moving: Option<MovingView>,
}

/// What is under way between a partition and other brokers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Bytes that were pushed to followers and not acknowledged.
    pub pushed_bytes: usize,
    /// Bytes that came from the leader and wait for the log to be ready.
    pub waiting_bytes: usize,
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
    answers: Answers,
}

/// What readers see without the lock. Written under it.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) high_watermark: AtomicI64,
    pub(super) role: PublishedRole,
    closed: AtomicBool,
    /// Produces wait for their acks.
    waiters: AtomicBool,
    /// Bytes that a restart after a kill would have to read.
    dirty_bytes: AtomicU64,
}

impl PartitionOffsets {
    fn of(replica: &Replica, log: &Log) -> Self {
        Self {
            log_start: log.log_start_offset(),
            high_watermark: replica.high_watermark(),
            log_end: log.log_end_offset(),
            flushed_end: log.flushed_end_offset(),
            size_bytes: log.size_bytes(),
            segments: log.segment_count(),
        }
    }
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
            role: PublishedRole::new(),
            closed: AtomicBool::new(false),
            waiters: AtomicBool::new(false),
            dirty_bytes: AtomicU64::new(0),
        };
        let state = State::new(log, replica);
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
            answers: Answers::default(),
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
        self.change(|state, effects| state.take(self, append, now, effects));
    }

    /// The metadata log registered the partition anew.
    pub fn register(self: &Arc<Self>, registration: Registration) {
        self.change(|state, effects| {
            if state.is_sound() {
                let before = state.replica.registration().cloned();
                let me = state.replica.me();
                state.step(self, Event::Registered(registration), effects);
                if let Some(now) = state.replica.registration() {
                    self.env.replication.count(me, before.as_ref(), now);
                }
                state.change_traffic(self, effects);
            }
        });
    }

    /// Whether what this broker leads is its own to tell of, without asking others.
    pub(super) fn holds_lease(&self) -> bool {
        self.env.replication.lease.holds(self.env.clock.monotonic())
    }

    /// Whether another broker may lead the partition by now, while this one, which led it when it was last
    /// heard, serves its readers: what it has is committed, and may not be all.
    pub fn may_be_superseded(&self) -> bool {
        // Nearly always the first question is all there is to it.
        !self.holds_lease()
            && self.leads().is_some()
            && self.with_replica(|replica, _| replica.others_may_lead())
    }

    /// The lease has ended, or is granted again: readers who wait at the end hear of it.
    pub(super) fn tell_of_lease(&self) {
        self.watchers.wake();
    }

    /// Whether what the wall clock shows is believed enough to delete what is old.
    pub(super) fn may_delete_by_age(&self, now: Timestamp) -> bool {
        self.env.wall.vouches(now, self.env.clock.monotonic())
    }

    /// Whether a registration is newer than the one in force.
    pub(super) fn is_newer(&self, epoch: PartitionEpoch) -> bool {
        self.with_replica(|replica, _| {
            replica.registration().is_none_or(|known| known.partition_epoch < epoch)
        })
    }

    /// The metadata log says how a broker stands now.
    pub fn note_broker(self: &Arc<Self>, standing: BrokerStanding) {
        self.change(|state, effects| {
            if state.is_sound() {
                state.step(self, Event::Broker(standing), effects);
            }
        });
    }

    /// The controller will not have a proposed ISR because of a member.
    pub fn isr_refused(
        self: &Arc<Self>,
        leader_epoch: LeaderEpoch,
        partition_epoch: PartitionEpoch,
    ) {
        self.change(|state, effects| {
            if state.is_sound() {
                let refused = Event::IsrRefused { leader_epoch, partition_epoch };
                state.step(self, refused, effects);
            }
        });
    }

    /// The topic's configuration changed.
    pub fn reconfigure(self: &Arc<Self>, settings: Settings, log: LogConfig) {
        self.change(|state, effects| {
            if !state.is_sound() {
                return;
            }
            state.log.reconfigure(log);
            let durability = settings.durability;
            self.settings.store(Arc::new(settings));
            if state.replica.durability() != durability {
                // A log that was emptied is flushed without a flush.
                let flushed_end = state.log.flushed_end_offset();
                state.step(self, Event::Flushed { flushed_end }, effects);
                state.step(self, Event::DurabilityChanged(durability), effects);
            }
        });
    }

    /// Asks for a checkpoint, so that a restart after a kill has less to read.
    pub fn request_checkpoint(self: &Arc<Self>) {
        self.change(|state, _| {
            if state.is_sound() {
                state.log.request_checkpoint();
            }
        });
    }

    /// To be called every second or so: forgets old producers, tries again what failed or met a full
    /// disk, gives back what an idle log holds.
    pub fn tick(self: &Arc<Self>) {
        let now = self.env.clock.now();
        let by_age = self.may_delete_by_age(now);
        self.change(|state, effects| {
            if state.is_sound() {
                state.stalled = false;
                state.measure_growth(self.env.clock.monotonic());
                state.log.tick(now);
                if by_age {
                    state.log.expire_producers(now);
                }
                state.step(self, Event::Tick, effects);
                state.cut_again(effects);
                state.delete_next(effects);
                state.drain_parked(self, now, effects);
                state.drain_pushes(self, effects);
                if let Some(proposal) = state.replica.pending_proposal() {
                    self.env.replication.peers.propose_isr(self.id, proposal);
                }
            }
        });
    }

    /// Answers produces that waited past their deadline.
    pub fn expire(self: &Arc<Self>, now: Instant) {
        self.change(|state, effects| state.expire(now, effects));
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
    pub(super) fn finish(&self) -> Result<(), CloseError> {
        self.wait_idle();
        let work = {
            let mut state = self.state.lock();
            if let Some(why) = &state.broken {
                return Err(CloseError::Broken(Arc::clone(why)));
            }
            if let Some(damage) = state.log.damage() {
                return Err(CloseError::Damaged(damage.clone()));
            }
            state.log.start_close()
        };
        let done = work.run();
        self.state.lock().log.complete(done)?;
        Ok(())
    }

    /// Where it stands.
    pub fn offsets(&self) -> PartitionOffsets {
        self.with_replica(PartitionOffsets::of)
    }

    /// Where it stands, and what it knows of the others; one moment's.
    pub fn standing(&self) -> Standing {
        let now = self.env.clock.monotonic().since_start();
        self.with_state(|state| {
            let replica = &state.replica;
            let offsets = PartitionOffsets::of(replica, &state.log);
            let last = Offset::new(offsets.log_end.get() - 1);
            let last = last.filter(|last| *last >= offsets.log_start);
            Standing {
                offsets,
                last_epoch: last.and_then(|last| replica.epochs().epoch_of(last)),
                leading: replica.leader_view(now),
                moving: self.moving_of(state),
            }
        })
    }

    /// Bytes that a restart after a kill would have to read.
    pub fn dirty_bytes(&self) -> u64 {
        self.published.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Whether produces wait: for a look without the lock.
    pub(super) fn has_waiters(&self) -> bool {
        self.published.waiters.load(Ordering::Relaxed)
    }

    /// Who waits here, for metrics.
    pub fn waiting(&self) -> Waiting {
        if !self.has_waiters() {
            return Waiting::default();
        }
        let state = self.state.lock();
        Waiting {
            for_acks: state.waiters.len(),
            parked: state.parked.len(),
            parked_bytes: state.parked_bytes,
            deletions: state.deletions.len(),
        }
    }

    /// What this leader proposes of its ISR, until that is decided.
    pub fn pending_proposal(&self) -> Option<IsrProposal> {
        self.with_replica(|replica, _| replica.pending_proposal().cloned())
    }

    /// Who has it, who leads it, and what its leader knows of the others.
    pub fn replicas(&self) -> Option<Replicas> {
        let now = self.env.clock.monotonic().since_start();
        self.with_replica(|replica, _| {
            Some(Replicas {
                registration: replica.registration()?.clone(),
                followers: replica.followers(now),
            })
        })
    }

    /// What is under way between this partition and other brokers, for metrics.
    pub fn under_way(&self) -> UnderWay {
        self.with_state(|state| UnderWay {
            pushed_bytes: state.leading.under_way(),
            waiting_bytes: state.following.waiting_bytes(),
        })
    }

    /// First offset not committed, without the lock.
    pub fn high_watermark(&self) -> Offset {
        Offset::new(self.published.high_watermark.load(Ordering::Acquire))
            .expect("only offsets are stored")
    }

    /// The leader epoch while this broker leads.
    pub fn leads(&self) -> Option<LeaderEpoch> {
        match self.published.role.get() {
            Role::Leads(epoch) => Some(epoch),
            _ => None,
        }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.published.closed.load(Ordering::Acquire)
    }

    /// Marks `token` in `set` whenever the high watermark moves, this broker begins or ceases to
    /// serve readers, its lease ends or is granted, or the partition closes.
    pub fn watch(&self, set: &Arc<ReadySet>, token: u64) -> Watch {
        self.watchers.register(set, token)
    }

    /// Under the lock, for what changes nothing that anybody would have to be told.
    pub(super) fn with_state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock())
    }

    /// Looks at the protocol's state under the lock.
    pub(super) fn with_replica<T>(&self, look: impl FnOnce(&Replica, &Log) -> T) -> T {
        let state = self.state.lock();
        look(&state.replica, &state.log)
    }

    /// The one way to change a partition: under the lock, then whatever follows, in order.
    ///
    /// A panic in there leaves the state half changed: the partition then takes no more writes and
    /// answers whoever waits, and the panic goes on its way.
    pub(super) fn change<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut State, &mut Effects) -> T,
    ) -> T {
        let mut effects = Effects::default();
        let answered;
        let result = {
            let mut state = self.state.lock();
            let result = catch_unwind(AssertUnwindSafe(|| {
                let result = change(&mut state, &mut effects);
                if std::mem::take(&mut state.resumed) {
                    state.drain_parked(self, self.env.clock.now(), &mut effects);
                }
                state.start_work(self, &mut effects);
                result
            }));
            if let Err(panic) = &result {
                state.break_down(panic_text(panic.as_ref()), &mut effects);
            }
            let published = &self.published;
            published.waiters.store(state.is_waited_for(), Ordering::Relaxed);
            let dirty = state.log.bytes_above_recovery_point();
            published.dirty_bytes.store(dirty, Ordering::Relaxed);
            if state.works == 0 {
                self.idle.notify_all();
            }
            answered = !effects.answers.is_empty();
            self.answers.give(&mut effects.answers);
            result
        };
        self.carry_out(effects);
        if answered {
            self.answers.hand_out();
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn carry_out(self: &Arc<Self>, effects: Effects) {
        let Effects { answers: _, deletions, work, appended_in, wake_readers } = effects;
        if wake_readers {
            self.watchers.wake();
        }
        for work in work {
            self.hand_to_pool(work);
        }
        for (answer, outcome) in deletions {
            // Whoever asked may be gone; then nobody wants to know.
            let _ = answer.send(outcome);
        }
        for took in appended_in {
            self.env.metrics.observe_append(took);
        }
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
