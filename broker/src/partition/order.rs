//! A partition's order: what happens to a batch under the lock.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use riverrun_proto::{epoch::LeaderEpoch, offset::Offset, timestamp::Timestamp};

use super::{
    owner::Partition,
    produce::{Acks, Append, ProduceError, Produced, Ticket},
    waiters::{Waiter, Waiters},
};
use crate::{
    clock::Instant,
    config::TimestampType,
    log::{AppendError, Log, LogWork, ProducerCheck},
    replica::{Action, Admission, Durability, Event, Replica},
};

/// Everything behind a partition's lock.
pub(super) struct State {
    pub(super) log: Log,
    pub(super) replica: Replica,
    pub(super) waiters: Waiters,
    /// Batches that came while the log was not ready, in order.
    pub(super) parked: VecDeque<Append>,
    pub(super) parked_bytes: usize,
    /// Pieces of log work on the pool; the log sees to it that they are few.
    pub(super) works: usize,
    pub(super) closed: bool,
}

/// What follows from a change and must happen after the lock is let go of.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) answers: Vec<(Ticket, Result<Produced, ProduceError>)>,
    pub(super) work: Vec<LogWork>,
    pub(super) wake_readers: bool,
}

impl State {
    /// Appends one batch whose turn it is.
    pub(super) fn try_append(
        &mut self,
        partition: &Arc<Partition>,
        append: Append,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        match self.append(partition, &append, now, effects) {
            Ok(Some((required, produced))) => self.answer_when(append, required, produced, effects),
            Ok(None) => self.park(partition, append, effects),
            Err(refused) => effects.answers.push((append.ticket, Err(refused))),
        }
    }

    /// `None`: the log is not ready.
    pub(super) fn append(
        &mut self,
        partition: &Arc<Partition>,
        append: &Append,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<Option<(Offset, Produced)>, ProduceError> {
        let epoch = self.may_write(append)?;
        if let Some(stamp) = append.batch.header().producer() {
            match self.log.producers().check(stamp, append.batch.header().last_offset_delta, now) {
                ProducerCheck::New => {}
                ProducerCheck::Duplicate(original) => {
                    let produced = self.produced(
                        append.acks,
                        epoch,
                        (original.base_offset, original.last_offset()),
                        None,
                        true,
                    );
                    return Ok(Some((original.last_offset().next(), produced)));
                }
                ProducerCheck::OutOfOrder { expected } => {
                    return Err(ProduceError::OutOfOrderSequence {
                        producer_id: stamp.id.get(),
                        given: stamp.base_sequence,
                        expected,
                    });
                }
                ProducerCheck::TooManyProducers { count_max } => {
                    return Err(ProduceError::TooManyProducers { max: count_max });
                }
                ProducerCheck::Fenced { current } => {
                    return Err(ProduceError::InvalidProducerEpoch {
                        producer_id: stamp.id.get(),
                        given: stamp.epoch,
                        current,
                    });
                }
            }
        }
        let stamped_time = match partition.settings.load().timestamp_type {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(now),
        };
        let base_offset = self.log.log_end_offset();
        let stamped = append.batch.stamp(base_offset, epoch, stamped_time);
        let began = partition.env.clock.monotonic();
        match self.log.append(&stamped, now) {
            Ok(_) => {
                let elapsed = partition.env.clock.monotonic().duration_since(began);
                partition.env.metrics.observe_append(elapsed);
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
        self.step(partition, Event::Appended { log_end }, effects);
        let last_offset = Offset::new(log_end.get() - 1).expect("a batch has a record");
        let produced =
            self.produced(append.acks, epoch, (base_offset, last_offset), stamped_time, false);
        Ok(Some((log_end, produced)))
    }

    pub(super) fn may_write(&self, append: &Append) -> Result<LeaderEpoch, ProduceError> {
        if self.closed {
            return Err(ProduceError::Closing { appended: false });
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
            (Acks::Leader, _) | (Acks::All, Admission::Open) => Ok(current),
            (Acks::All, Admission::NotLeader) => Err(self.not_leader(false)),
            (Acks::All, Admission::NotEnoughReplicas { isr, min_isr }) => {
                Err(ProduceError::NotEnoughReplicas { isr, min_isr })
            }
        }
    }

    pub(super) fn not_leader(&self, appended: bool) -> ProduceError {
        let registration = self.replica.registration();
        ProduceError::NotLeader {
            leader: registration.and_then(|r| r.leader),
            epoch: registration.map(|r| r.leader_epoch),
            appended,
        }
    }

    pub(super) fn produced(
        &self,
        acks: Acks,
        leader_epoch: LeaderEpoch,
        (base_offset, last_offset): (Offset, Offset),
        log_append_time: Option<Timestamp>,
        duplicate: bool,
    ) -> Produced {
        let (durability, replicas) = match acks {
            Acks::All => {
                let isr = self.replica.registration().map_or(1, |r| r.isr.len());
                (self.replica.durability(), u32::try_from(isr).unwrap_or(u32::MAX))
            }
            Acks::Leader => (Durability::Memory, 1),
        };
        Produced {
            base_offset,
            last_offset,
            log_append_time,
            log_start_offset: self.log.log_start_offset(),
            duplicate,
            leader_epoch,
            durability,
            replicas,
        }
    }

    pub(super) fn answer_when(
        &mut self,
        append: Append,
        required: Offset,
        produced: Produced,
        effects: &mut Effects,
    ) {
        let Append { acks, deadline, ticket, .. } = append;
        if acks == Acks::Leader || self.replica.high_watermark() >= required {
            effects.answers.push((ticket, Ok(produced)));
        } else {
            self.waiters.push(Waiter { required, deadline, produced, ticket });
        }
    }

    pub(super) fn park(
        &mut self,
        partition: &Arc<Partition>,
        append: Append,
        effects: &mut Effects,
    ) {
        let bytes = append.batch.bytes().len();
        if self.parked_bytes + bytes > partition.env.parked_bytes_max && !self.parked.is_empty() {
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
                Ok(Some((required, produced))) => {
                    self.parked_bytes -= append.batch.bytes().len();
                    self.answer_when(append, required, produced, effects);
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
        self.replica.step(event, &mut actions);
        for action in actions {
            match action {
                Action::StartEpoch { epoch, start } => {
                    debug_assert_eq!(
                        start,
                        self.log.log_end_offset(),
                        "an epoch starts at the end"
                    );
                    self.log.note_epoch(epoch);
                }
                Action::Resign { .. } => {
                    for waiter in self.waiters.take_all() {
                        effects.answers.push((waiter.ticket, Err(self.not_leader(true))));
                    }
                }
                Action::AdvanceHighWatermark(high_watermark) => {
                    self.log.note_high_watermark(high_watermark);
                    partition
                        .published
                        .high_watermark
                        .store(high_watermark.get(), Ordering::Release);
                    effects.wake_readers = true;
                    for waiter in self.waiters.take_committed(high_watermark) {
                        effects.answers.push((waiter.ticket, Ok(waiter.produced)));
                    }
                }
            }
        }
        let leads = self.replica.leads().map_or(-1, LeaderEpoch::get);
        partition.published.leads.store(leads, Ordering::Release);
    }

    pub(super) fn advance_log_start(&mut self, to: Offset, effects: &mut Effects) {
        if to > self.log.log_start_offset()
            && let Some(work) = self.log.advance_log_start(to)
        {
            self.run(work, effects);
        }
    }

    /// Starts what the log wants done, and the flush that acks and readers wait for: with
    /// `durability=disk` nothing is read before it is on disk, whatever its acks.
    pub(super) fn start_work(&mut self, effects: &mut Effects) {
        if self.closed {
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

    fn run(&mut self, work: LogWork, effects: &mut Effects) {
        self.works += 1;
        effects.work.push(work);
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
        self.closed = true;
        let closing = |appended| Err(ProduceError::Closing { appended });
        for append in self.parked.drain(..) {
            effects.answers.push((append.ticket, closing(false)));
        }
        self.parked_bytes = 0;
        for waiter in self.waiters.take_all() {
            effects.answers.push((waiter.ticket, closing(true)));
        }
        effects.wake_readers = true;
    }

    /// The directory failed: what waits can never be acknowledged here.
    pub(super) fn fail_all(&mut self, why: &str, effects: &mut Effects) {
        let failed = |appended| ProduceError::StorageFailed { why: why.to_owned(), appended };
        for append in self.parked.drain(..) {
            effects.answers.push((append.ticket, Err(failed(false))));
        }
        self.parked_bytes = 0;
        for waiter in self.waiters.take_all() {
            effects.answers.push((waiter.ticket, Err(failed(true))));
        }
    }
}
