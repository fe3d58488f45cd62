//! What clients send: the order of `broker/src/partition/order.rs`.

use std::time::Duration;

use bytes::Bytes;
use riverrun_broker::{
    log::{AppendError, ProducerCheck},
    partition::{Acks, ProduceError},
    replica::{Admission, Durability, Event, Rules},
};
use riverrun_proto::{epoch::LeaderEpoch, offset::Offset, record::RecordBatch};

use super::{Around, Shell};
use crate::{
    coverage::Fact,
    message::{Body, Connection},
    mirror::Entry,
    setup::PRODUCE_TIMEOUT,
};

/// Bytes that may wait for a log to be ready.
const PARKED_BYTES_MAX: usize = 64 * 1024;

/// A batch that came.
#[derive(Debug)]
pub(super) struct Append {
    batch: RecordBatch,
    acks: Acks,
    leader_epoch: Option<LeaderEpoch>,
    deadline: Duration,
    answer: Answer,
}

/// Who is to be told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    on: Connection,
    correlation_id: u64,
}

/// A batch that is in the log and waits to be acknowledged by all.
#[derive(Debug)]
pub(super) struct Waiter {
    base: Offset,
    end: Offset,
    duplicate: bool,
    deadline: Duration,
    answer: Answer,
}

/// Where a batch lies.
struct Stored {
    base: Offset,
    end: Offset,
    duplicate: bool,
}

/// What a batch is to the log.
enum Checked {
    New,
    Duplicate(Stored),
    /// The log is being cut.
    NotNow,
}

impl<R: Rules> Shell<R> {
    /// A client sends a batch.
    pub fn produce(
        &mut self,
        (on, correlation_id): (Connection, u64),
        batch: Bytes,
        acks: Acks,
        leader_epoch: Option<LeaderEpoch>,
        around: &mut Around<'_>,
    ) {
        let answer = Answer { on, correlation_id };
        let Ok(batch) = RecordBatch::validate(batch) else {
            return around.stage.fail("the client sent a broken batch");
        };
        let deadline = around.stage.now() + PRODUCE_TIMEOUT;
        let append = Append { batch, acks, leader_epoch, deadline, answer };
        self.take(append, around);
        self.start_work(around);
    }

    fn take(&mut self, append: Append, around: &mut Around<'_>) {
        if !self.parked.is_empty() {
            return self.park(append, around);
        }
        match self.append(&append, around) {
            Ok(Some(stored)) => self.answer_when(&append, &stored, around),
            Ok(None) => self.park(append, around),
            Err(refused) => self.refuse(append.answer, refused, around),
        }
    }

    /// `None`: the log is not ready, or followers are too far behind.
    fn append(
        &mut self,
        append: &Append,
        around: &mut Around<'_>,
    ) -> Result<Option<Stored>, ProduceError> {
        let epoch = self.may_write(append)?;
        match self.check_producer(append, around)? {
            Checked::New => {}
            Checked::Duplicate(original) => return Ok(Some(original)),
            Checked::NotNow => return Ok(None),
        }
        if self.replica.holds_appends() {
            return Ok(None);
        }
        let base = self.log.log_end_offset();
        let stamped = append.batch.stamp(base, epoch, None);
        match self.log.append(&stamped, around.wall) {
            Ok(_) => {}
            Err(AppendError::NotReady) => return Ok(None),
            Err(AppendError::StorageFull) => return Err(ProduceError::StorageFull),
            Err(error @ (AppendError::Failed(_) | AppendError::Damaged(_))) => {
                let why = error.to_string();
                return Err(ProduceError::StorageFailed { why, appended: false });
            }
            Err(other) => return Err(ProduceError::Unstorable(other.to_string())),
        }
        self.mirror.extend(Entry::of(stamped.header()));
        let end = self.log.log_end_offset();
        let bytes = append.batch.bytes().len() as u64;
        self.step(Event::Appended { log_end: end, bytes }, around);
        Ok(Some(Stored { base, end, duplicate: false }))
    }

    fn may_write(&self, append: &Append) -> Result<LeaderEpoch, ProduceError> {
        if self.closed {
            return Err(ProduceError::Closing { appended: false });
        }
        let Some(current) = self.replica.leads() else { return Err(self.not_leader(false)) };
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

    fn check_producer(
        &self,
        append: &Append,
        around: &mut Around<'_>,
    ) -> Result<Checked, ProduceError> {
        let header = append.batch.header();
        let Some(stamp) = header.producer() else { return Ok(Checked::New) };
        let producer_id = stamp.id.get();
        let (log, delta) = (&self.log, header.last_offset_delta);
        let Some(check) = log.check_producer(stamp, delta, around.wall) else {
            return Ok(Checked::NotNow);
        };
        match check {
            ProducerCheck::New => Ok(Checked::New),
            ProducerCheck::Duplicate(original) => {
                around.stage.note(Fact::DuplicateRefused);
                Ok(Checked::Duplicate(Stored {
                    base: original.base_offset,
                    end: original.last_offset().next(),
                    duplicate: true,
                }))
            }
            ProducerCheck::OutOfOrder { expected } => {
                let given = stamp.base_sequence;
                Err(ProduceError::OutOfOrderSequence { producer_id, given, expected })
            }
            ProducerCheck::TooManyProducers { count_max } => {
                Err(ProduceError::TooManyProducers { max: count_max })
            }
            ProducerCheck::Fenced { current } => {
                Err(ProduceError::InvalidProducerEpoch { producer_id, given: stamp.epoch, current })
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

    fn answer_when(&mut self, append: &Append, stored: &Stored, around: &mut Around<'_>) {
        let &Append { acks, deadline, answer, .. } = append;
        let &Stored { base, end, duplicate } = stored;
        if acks == Acks::Leader {
            around.stage.note(Fact::AckedLeader);
            return reply(answer, Ok((base, duplicate)), around);
        }
        let waiter = Waiter { base, end, duplicate, deadline, answer };
        if self.replica.acknowledged_end() >= end {
            self.complete(&waiter, around);
        } else {
            self.waiters.push(waiter);
        }
    }

    /// S4: what is acknowledged to all is committed, and is what was committed there.
    fn complete(&self, waiter: &Waiter, around: &mut Around<'_>) {
        let ledger = &around.stage.ledgers[self.partition];
        if waiter.end > ledger.end() {
            let end = waiter.end;
            around.stage.fail(format!("S4: {end} is acknowledged and not committed"));
        } else if let Some(what) = ledger.differs(&self.mirror, waiter.base, waiter.end)
            && waiter.base >= ledger.deleted()
        {
            around.stage.fail(format!("S4: acknowledged is not what was committed: {what}"));
        }
        around.stage.note(Fact::AckedAll);
        if self.replica.durability() == Durability::Disk {
            around.stage.note(Fact::AckedDisk);
        }
        reply(waiter.answer, Ok((waiter.base, waiter.duplicate)), around);
    }

    fn park(&mut self, append: Append, around: &mut Around<'_>) {
        let parked_bytes: usize = self.parked.iter().map(|a| a.batch.total_bytes()).sum();
        if !self.parked.is_empty() && parked_bytes + append.batch.total_bytes() > PARKED_BYTES_MAX {
            return self.refuse(append.answer, ProduceError::Busy { parked_bytes }, around);
        }
        around.stage.note(Fact::BatchParked);
        self.parked.push_back(append);
    }

    /// What is parked goes in, in order, until the log is not ready.
    pub(super) fn drain_parked(&mut self, around: &mut Around<'_>) {
        while let Some(append) = self.parked.pop_front() {
            match self.append(&append, around) {
                Ok(None) => {
                    self.parked.push_front(append);
                    return;
                }
                Ok(Some(stored)) => self.answer_when(&append, &stored, around),
                Err(refused) => self.refuse(append.answer, refused, around),
            }
        }
    }

    pub(super) fn acknowledge(&mut self, end: Offset, around: &mut Around<'_>) {
        for waiter in self.waiters.extract_if(.., |w| w.end <= end).collect::<Vec<_>>() {
            self.complete(&waiter, around);
        }
    }

    pub(super) fn refuse_waiters(&mut self, error: &ProduceError, around: &mut Around<'_>) {
        for waiter in std::mem::take(&mut self.waiters) {
            self.refuse(waiter.answer, error.clone(), around);
        }
    }

    pub(super) fn refuse_for_isr(&mut self, isr: usize, min_isr: usize, around: &mut Around<'_>) {
        let error = ProduceError::NotEnoughReplicasAfterAppend { isr, min_isr };
        self.refuse_waiters(&error, around);
    }

    pub(super) fn refuse_parked(&mut self, error: &ProduceError, around: &mut Around<'_>) {
        for append in std::mem::take(&mut self.parked) {
            self.refuse(append.answer, error.clone(), around);
        }
    }

    /// Answers whoever waited too long: what is parked was never written.
    pub(super) fn expire(&mut self, around: &mut Around<'_>) {
        let now = around.stage.now();
        for waiter in self.waiters.extract_if(.., |w| w.deadline <= now).collect::<Vec<_>>() {
            self.refuse(waiter.answer, ProduceError::TimedOut { appended: true }, around);
        }
        let (expired, kept) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition::<Vec<_>, _>(|append| append.deadline <= now);
        self.parked = kept.into();
        for append in expired {
            self.refuse(append.answer, ProduceError::TimedOut { appended: false }, around);
        }
    }

    /// No more is taken; whoever waits is told.
    pub fn close(&mut self, around: &mut Around<'_>) {
        self.closed = true;
        self.refuse_parked(&ProduceError::Closing { appended: false }, around);
        self.refuse_waiters(&ProduceError::Closing { appended: true }, around);
    }

    fn refuse(&self, answer: Answer, error: ProduceError, around: &mut Around<'_>) {
        let fact = match &error {
            ProduceError::OutOfOrderSequence { .. } => Some(Fact::OutOfOrder),
            ProduceError::NotEnoughReplicas { .. } => Some(Fact::NotEnoughReplicas),
            ProduceError::NotLeader { .. } => Some(Fact::NotLeader),
            ProduceError::TimedOut { .. } => Some(Fact::TimedOut),
            _ => None,
        };
        fact.into_iter().for_each(|fact| around.stage.note(fact));
        reply(answer, Err(error), around);
    }
}

fn reply(answer: Answer, outcome: Result<(Offset, bool), ProduceError>, around: &mut Around<'_>) {
    let Answer { on, correlation_id } = answer;
    around.send_on(on, Body::Produced { correlation_id, outcome });
}
