//! A partition's order: what happens to a batch under the lock.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use riverrun_proto::{
    epoch::LeaderEpoch, offset::Offset, record::ProducerStamp, timestamp::Timestamp,
};

use super::{
    answers::Answer,
    cutting::Cutting,
    deletion::{DeletionAnswer, Deletions},
    following::Following,
    jobs::Piece,
    leading::Leading,
    moving::Moving,
    owner::Partition,
    produce::{Acks, Append, ProduceError, Produced, Stored},
    role::Role,
    waiters::{Waiter, Waiters},
};
use crate::{
    clock::Instant,
    config::TimestampType,
    log::{AppendError, Log, LogWork, ProducerCheck, RememberedBatch},
    replica::{Action, Admission, Durability, Event, FollowerView, IsrProposal, Replica},
};

/// Everything behind a partition's lock.
pub(super) struct State {
    pub(super) log: Log,
    pub(super) replica: Replica,
    pub(super) waiters: Waiters,
    /// Batches that came while the log was not ready, in order.
    pub(super) parked: VecDeque<Append>,
    pub(super) parked_bytes: usize,
    pub(super) deletions: Deletions,
    pub(super) leading: Leading,
    pub(super) following: Following,
    pub(super) cutting: Cutting,
    pub(super) moving: Moving,
    /// What the protocol said decides about appends that are parked: they are due before the lock is
    /// let go of.
    pub(super) resumed: bool,
    /// Pieces of log work on the pool; the log sees to it that they are few.
    pub(super) works: usize,
    /// Work failed for another reason than a full disk: none is begun before the next tick, or it
    /// would fail again and again.
    pub(super) stalled: bool,
    pub(super) closed: bool,
    /// Something panicked under the lock, or log work did: what memory says is not to be believed.
    pub(super) broken: Option<Arc<str>>,
}

/// What follows from a change and must happen after the lock is let go of.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) answers: Vec<Answer>,
    pub(super) deletions: Vec<DeletionAnswer>,
    pub(super) work: Vec<Piece>,
    pub(super) appended_in: Vec<Duration>,
    pub(super) wake_readers: bool,
}

impl State {
    pub(super) fn new(log: Log, replica: Replica) -> Self {
        Self {
            deletions: Deletions::new(log.log_start_offset()),
            log,
            replica,
            waiters: Waiters::default(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            leading: Leading::default(),
            following: Following::default(),
            cutting: Cutting::default(),
            moving: Moving::default(),
            resumed: false,
            works: 0,
            stalled: false,
            closed: false,
            broken: None,
        }
    }

    /// Appends a batch whose turn it is, or parks it behind those that came before.
    pub(super) fn take(
        &mut self,
        partition: &Arc<Partition>,
        append: Append,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        if !self.parked.is_empty() {
            return self.park(partition, append, effects);
        }
        match self.append(partition, &append, now, effects) {
            Ok(Some(stored)) => self.answer_when(append, stored, effects),
            Ok(None) => self.park(partition, append, effects),
            Err(refused) => effects.answers.push((append.ticket, Err(refused))),
        }
    }

    /// Whether anybody waits for something to happen here.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiters.is_empty() || !self.parked.is_empty() || !self.deletions.is_empty()
    }

    /// `None`: the log is not ready.
    fn append(
        &mut self,
        partition: &Arc<Partition>,
        append: &Append,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<Option<Stored>, ProduceError> {
        let epoch = self.may_write(partition, append)?;
        let settings = partition.settings.load();
        let stamps_time = settings.timestamp_type == TimestampType::LogAppendTime;
        // Before what the topic allows is looked at: what has been written must not be called
        // refused because a retry comes late, or after the limits were lowered.
        if let Some(stamp) = append.batch.header().producer() {
            let last_offset_delta = append.batch.header().last_offset_delta;
            let Some(check) = self.log.check_producer(stamp, last_offset_delta, now) else {
                return Ok(None);
            };
            if let Some(original) = judge_producer(stamp, check)? {
                return Ok(Some(Stored {
                    base_offset: original.base_offset,
                    last_offset: original.last_offset(),
                    log_append_time: stamps_time.then_some(original.timestamp),
                    duplicate: true,
                }));
            }
        }
        settings.check(append, now)?;
        if self.replica.holds_appends() {
            return Ok(None);
        }
        if partition.env.gate.is_closed() {
            return Err(ProduceError::StorageFull);
        }
        let log_append_time = stamps_time.then_some(now);
        let base_offset = self.log.log_end_offset();
        let stamped = append.batch.stamp(base_offset, epoch, log_append_time);
        let began = partition.env.clock.monotonic();
        match self.log.append(&stamped, now) {
            Ok(_) => {
                let took = partition.env.clock.monotonic().duration_since(began);
                self.log.note_took(took);
                effects.appended_in.push(took);
            }
            Err(AppendError::NotReady) => return Ok(None),
            Err(AppendError::StorageFull) => return Err(ProduceError::StorageFull),
            Err(error @ (AppendError::Failed(_) | AppendError::Damaged(_))) => {
                let why = error.to_string();
                return Err(ProduceError::StorageFailed { why, appended: false });
            }
            Err(other) => return Err(ProduceError::Unstorable(other.to_string())),
        }
        let log_end = self.log.log_end_offset();
        let bytes = append.batch.bytes().len() as u64;
        self.note_grown(bytes);
        self.step(partition, Event::Appended { log_end, bytes }, effects);
        let last_offset = Offset::new(log_end.get() - 1).expect("a batch has a record");
        Ok(Some(Stored { base_offset, last_offset, log_append_time, duplicate: false }))
    }

    fn may_write(
        &self,
        partition: &Partition,
        append: &Append,
    ) -> Result<LeaderEpoch, ProduceError> {
        if self.closed {
            return Err(ProduceError::Closing { appended: false });
        }
        if let Some(why) = &self.broken {
            return Err(ProduceError::StorageFailed { why: why.to_string(), appended: false });
        }
        let Some(current) = self.replica.leads() else {
            return Err(self.not_leader(false));
        };
        match append.leader_epoch {
            Some(given) if given < current => {
                return Err(ProduceError::FencedLeaderEpoch { given, current });
            }
            Some(given) if given > current => {
                return Err(ProduceError::UnknownLeaderEpoch { given, current });
            }
            _ => {}
        }
        match (append.acks, self.replica.admits_acks_all()) {
            // Followers of a leader that was replaced refuse it; nobody else would.
            (Acks::Leader, _) if self.replica.others_may_lead() && !partition.holds_lease() => {
                Err(ProduceError::LeaseEnded)
            }
            (Acks::Leader, _) | (Acks::All, Admission::Open) => Ok(current),
            (Acks::All, Admission::NotLeader) => Err(self.not_leader(false)),
            (Acks::All, Admission::NotEnoughReplicas { isr, min_isr }) => {
                Err(ProduceError::NotEnoughReplicas { isr, min_isr })
            }
        }
    }

    fn not_leader(&self, appended: bool) -> ProduceError {
        let registration = self.replica.registration();
        ProduceError::NotLeader {
            leader: registration.and_then(|r| r.leader),
            epoch: registration.map(|r| r.leader_epoch),
            appended,
        }
    }

    /// The answer as of now: whoever waited is told what holds when the wait is over.
    fn produced(&self, acks: Acks, stored: Stored) -> Produced {
        let registration = self.replica.registration();
        let (durability, replicas) = match acks {
            Acks::All => {
                let isr = registration.map_or(1, |r| r.isr.len());
                (self.replica.durability(), u32::try_from(isr).unwrap_or(u32::MAX))
            }
            Acks::Leader => (Durability::Memory, 1),
        };
        let Stored { base_offset, last_offset, log_append_time, duplicate } = stored;
        Produced {
            base_offset,
            last_offset,
            log_append_time,
            log_start_offset: self.log.log_start_offset(),
            duplicate,
            leader_epoch: registration.map_or(LeaderEpoch::ZERO, |r| r.leader_epoch),
            durability,
            replicas,
        }
    }

    fn answer_when(&mut self, append: Append, stored: Stored, effects: &mut Effects) {
        let Append { acks, deadline, ticket, .. } = append;
        if acks == Acks::Leader || self.replica.acknowledged_end() >= stored.end() {
            effects.answers.push((ticket, Ok(self.produced(acks, stored))));
        } else {
            self.waiters.push(Waiter { deadline, stored, ticket });
        }
    }

    fn park(&mut self, partition: &Arc<Partition>, append: Append, effects: &mut Effects) {
        let bytes = append.batch.bytes().len();
        let limit = &partition.env.parked;
        if self.parked_bytes + bytes > limit.bytes() && !self.parked.is_empty() {
            limit.hit();
            let busy = ProduceError::Busy { parked_bytes: self.parked_bytes };
            effects.answers.push((append.ticket, Err(busy)));
            return;
        }
        self.parked_bytes += bytes;
        self.parked.push_back(append);
    }

    /// The log may be ready again: what is parked goes in, in order, until it is not.
    pub(super) fn drain_parked(
        &mut self,
        partition: &Arc<Partition>,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        while let Some(append) = self.parked.pop_front() {
            match self.append(partition, &append, now, effects) {
                Ok(None) => {
                    self.parked.push_front(append);
                    return;
                }
                Ok(Some(stored)) => {
                    self.parked_bytes -= append.batch.bytes().len();
                    self.answer_when(append, stored, effects);
                }
                Err(refused) => {
                    self.parked_bytes -= append.batch.bytes().len();
                    effects.answers.push((append.ticket, Err(refused)));
                }
            }
        }
    }

    /// Feeds the protocol and carries out what it says.
    pub(super) fn step(&mut self, partition: &Arc<Partition>, event: Event, effects: &mut Effects) {
        let mut actions = Vec::new();
        let now = partition.env.clock.monotonic().since_start();
        self.replica.step(now, event, &mut actions);
        for action in actions {
            match action {
                Action::StartEpoch { epoch, start } => {
                    debug_assert_eq!(
                        start,
                        self.log.log_end_offset(),
                        "an epoch starts at the end"
                    );
                    self.log.note_epoch(epoch);
                    self.following.forget_pushes();
                    effects.wake_readers = true;
                }
                Action::Resign { .. } => {
                    self.log.forget_unwritten_epoch();
                    self.answer_waiters(self.not_leader(true), effects);
                    // Those that are parked are refused at once, not by the next tick.
                    self.resumed = true;
                    // Whoever reads here is told where to go.
                    effects.wake_readers = true;
                }
                Action::RefuseWaiting { isr, min_isr } => {
                    let refused = ProduceError::NotEnoughReplicasAfterAppend { isr, min_isr };
                    self.answer_waiters(refused, effects);
                }
                Action::AdvanceHighWatermark(high_watermark) => {
                    self.log.note_high_watermark(high_watermark);
                    partition
                        .published
                        .high_watermark
                        .store(high_watermark.get(), Ordering::Release);
                    effects.wake_readers = true;
                }
                Action::Acknowledge(end) => {
                    for waiter in self.waiters.take_below(end) {
                        let produced = self.produced(Acks::All, waiter.stored);
                        effects.answers.push((waiter.ticket, Ok(produced)));
                    }
                }
                // Appends look for themselves.
                Action::HoldAppends => {}
                Action::ResumeAppends => self.resumed = true,
                Action::Append => self.wants_append(),
                Action::Truncate { to } => self.cut(partition, to, false, effects),
                Action::Restart { at } => {
                    self.cut(partition, at, true, effects);
                    effects.wake_readers = true;
                }
                Action::AdvanceLogStart(to) => {
                    if self.is_sound() {
                        self.advance_log_start(to, effects);
                    }
                }
                Action::Serve { follower, session, from } => self.serve(follower, session, from),
                Action::Reply { frame, .. } => self.reply(frame),
                Action::EndSession { session, .. } => {
                    self.leading.end(session);
                }
                Action::WakeSenders => self.leading.wake(),
                Action::ShareProgress => self.leading.share_progress(),
                Action::Subscribe(subscribe) => self.subscribe(partition, subscribe),
                Action::Ack(_) => self.acknowledge_to_leader(),
                Action::Unsubscribe(session) => self.unsubscribe(session),
                Action::ProposeIsr(proposal) => {
                    // Whom it takes in is waited for from here on, and held back no longer.
                    self.leading.let_all_in();
                    self.tell_who_leaves(partition, now, &proposal);
                    partition.env.replication.peers.propose_isr(partition.id(), &proposal);
                }
            }
        }
        // Whoever reads here is told where to go, or may read now.
        effects.wake_readers |= partition.published.role.set(Role::of(&self.replica));
        self.append_given(partition, effects);
    }

    /// Why, as far as numbers say it: whoever reads this later cannot ask any more.
    fn tell_who_leaves(&self, partition: &Partition, now: Duration, proposal: &IsrProposal) {
        for follower in self.replica.leaving(now, proposal) {
            let FollowerView { id, connected, bytes_behind, behind_for, .. } = follower;
            let producers_wait = self.replica.holds_appends();
            tracing::info!(partition = %partition.id(), topic = %partition.topic(), broker = %id, connected, bytes_behind, ?behind_for, producers_wait, "a replica is too slow and is to leave the ISR");
        }
    }

    /// Starts what the log wants done, and the flush that acks and readers wait for: with
    /// `durability=disk` nothing is read before it is on disk, whatever its acks.
    pub(super) fn start_work(&mut self, partition: &Arc<Partition>, effects: &mut Effects) {
        if self.closed || self.broken.is_some() {
            return;
        }
        if let Err(failed) = partition.env.failure.check() {
            // Perhaps by another partition: nothing here will be flushed any more, either.
            if self.is_waited_for() {
                self.fail_all(&failed.to_string(), effects);
            }
            return;
        }
        if self.stalled {
            return;
        }
        while let Some(work) = self.log.take_work() {
            self.run(work, effects);
        }
        // At most one flush is under way; those that come meanwhile share the next.
        if self.replica.durability() == Durability::Disk
            && let Some(flush) = self.log.start_flush()
        {
            self.run(flush, effects);
        }
    }

    pub(super) fn run(&mut self, work: LogWork, effects: &mut Effects) {
        self.works += 1;
        self.deletions.is_running |= work.is_delete();
        let cut = work.is_cut().then(|| self.cuts_begun());
        effects.work.push(Piece { work, cut });
    }

    /// Answers whoever waited past the deadline: parked batches were never written.
    pub(super) fn expire(&mut self, now: Instant, effects: &mut Effects) {
        for waiter in self.waiters.take_expired(now) {
            let timed_out = ProduceError::TimedOut { appended: true };
            effects.answers.push((waiter.ticket, Err(timed_out)));
        }
        if self.parked.iter().any(|append| append.deadline <= now) {
            let (expired, kept): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut self.parked).into_iter().partition(|a| a.deadline <= now);
            self.parked = kept;
            for append in expired {
                self.parked_bytes -= append.batch.bytes().len();
                let timed_out = ProduceError::TimedOut { appended: false };
                effects.answers.push((append.ticket, Err(timed_out)));
            }
        }
    }

    /// No more appends; whoever waits is told.
    pub(super) fn close(&mut self, effects: &mut Effects) {
        self.stop_following();
        self.closed = true;
        self.leading.stop();
        self.answer_parked(&ProduceError::Closing { appended: false }, effects);
        self.answer_waiters(ProduceError::Closing { appended: true }, effects);
        self.deletions.close(effects);
        effects.wake_readers = true;
    }

    /// What waits can never be acknowledged here.
    pub(super) fn fail_all(&mut self, why: &str, effects: &mut Effects) {
        let failed = |appended| ProduceError::StorageFailed { why: why.to_owned(), appended };
        self.answer_parked(&failed(false), effects);
        self.answer_waiters(failed(true), effects);
        self.deletions.fail(why, effects);
    }

    /// From now on nothing is written here; what was published can still be read.
    pub(super) fn break_down(&mut self, why: &str, effects: &mut Effects) {
        let why = format!("internal error: {why}; restart the broker and please report this");
        self.fail_all(&why, effects);
        self.broken.get_or_insert_with(|| why.into());
    }

    pub(super) fn answer_parked(&mut self, error: &ProduceError, effects: &mut Effects) {
        self.parked_bytes = 0;
        let parked = std::mem::take(&mut self.parked);
        effects.answers.extend(parked.into_iter().map(|a| (a.ticket, Err(error.clone()))));
    }

    fn answer_waiters(&mut self, error: ProduceError, effects: &mut Effects) {
        let waiters = self.waiters.take_all();
        effects.answers.extend(waiters.into_iter().map(|w| (w.ticket, Err(error.clone()))));
    }
}

/// The batch as it was first written, if this is a retry.
fn judge_producer(
    stamp: ProducerStamp,
    check: ProducerCheck,
) -> Result<Option<RememberedBatch>, ProduceError> {
    let producer_id = stamp.id.get();
    match check {
        ProducerCheck::New => Ok(None),
        ProducerCheck::Duplicate(original) => Ok(Some(original)),
        ProducerCheck::OutOfOrder { expected } => Err(ProduceError::OutOfOrderSequence {
            producer_id,
            given: stamp.base_sequence,
            expected,
        }),
        ProducerCheck::TooManyProducers { count_max } => {
            Err(ProduceError::TooManyProducers { max: count_max })
        }
        ProducerCheck::Fenced { current } => {
            Err(ProduceError::InvalidProducerEpoch { producer_id, given: stamp.epoch, current })
        }
    }
}
