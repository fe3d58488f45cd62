//! Moving the log start forward: what retention and DeleteRecords come to.
//!
//! Readers are told of a new start when its work begins; it is written down, and files go, in the
//! background. One such work is under way at a time, however many ask: those that come meanwhile
//! share the next. A DeleteRecords is answered once its start is durable, so that nothing it deleted comes
//! back with a crash.

use std::sync::Arc;

use riverrun_proto::{epoch::LeaderEpoch, ids::BrokerId, offset::Offset};
use tokio::sync::oneshot;

use super::{
    error::{FetchError, OffsetsError},
    order::{Effects, State},
    owner::Partition,
    role::Copies,
};
use crate::log::LogError;

type Outcome = Result<Offset, OffsetsError>;

/// A DeleteRecords and its outcome.
pub(super) type DeletionAnswer = (oneshot::Sender<Outcome>, Outcome);

/// What waits for the log start to move.
pub(super) struct Deletions {
    /// The log start that is known to be durable.
    durable: Offset,
    /// A work is under way.
    pub(super) is_running: bool,
    /// Where the start is to go next; nowhere, if it is there.
    next: Offset,
    /// Those who wait, and for which start. Bounded by the calls under way: one that was given up
    /// goes when the next one comes.
    waiting: Vec<(Offset, oneshot::Sender<Outcome>)>,
}

impl Partition {
    /// Deletes what lies below `before` (`None`: below the high watermark). Returns the log start
    /// offset that is durable then, at or past `before`.
    ///
    /// Cancel safe: dropped once it was polled, the records go all the same.
    ///
    /// # Errors
    /// Unless the error is definite ([`OffsetsError::is_definite`]) the start may have moved for
    /// readers and not be durable; asking again is harmless.
    pub async fn delete_records(
        self: &Arc<Self>,
        before: Option<Offset>,
        leader_epoch: Option<LeaderEpoch>,
    ) -> Result<Offset, OffsetsError> {
        self.check_epoch(leader_epoch, Copies::Leader)?;
        let (answer, answered) = oneshot::channel();
        self.change(|state, effects| match state.deletable(before) {
            Ok(to) if to <= state.deletions.durable => {
                effects.deletions.push((answer, Ok(state.deletions.durable)));
            }
            Ok(to) => {
                state.deletions.wait(to, answer);
                state.advance_log_start(to, effects);
            }
            Err(refused) => effects.deletions.push((answer, Err(refused))),
        });
        answered.await.unwrap_or(Err(FetchError::Closing.into()))
    }

    /// Deletes what retention no longer keeps, in the background. Nothing goes for its age while the wall
    /// clock is not to be trusted.
    pub fn apply_retention(self: &Arc<Self>) {
        let now = self.env.clock.now();
        let mut retention = self.settings.load().retention;
        if !self.may_delete_by_age(now) {
            retention.age = None;
        }
        self.change(|state, effects| {
            // A leader that does not know yet what is committed deletes nothing (replication.md 1.5).
            if state.is_sound()
                && state.replica.high_watermark_is_current()
                && let Some(due) =
                    state.log.retention_due(now, &retention, state.replica.high_watermark())
            {
                state.advance_log_start(due, effects);
            }
        });
    }
}

impl State {
    /// Neither closed nor broken.
    pub(super) fn is_sound(&self) -> bool {
        !self.closed && self.broken.is_none()
    }

    fn deletable(&self, before: Option<Offset>) -> Result<Offset, OffsetsError> {
        if self.closed {
            return Err(FetchError::Closing.into());
        }
        if let Some(why) = &self.broken {
            return Err(FetchError::StorageFailed { why: why.to_string() }.into());
        }
        if !self.replica.high_watermark_is_current() {
            return Err(OffsetsError::NotAvailable);
        }
        let committed = self.replica.high_watermark();
        match before {
            Some(before) if before > committed => Err(FetchError::OutOfRange {
                offset: before,
                log_start_offset: self.log.log_start_offset(),
                log_end_offset: committed,
            }
            .into()),
            before => Ok(before.unwrap_or(committed)),
        }
    }

    /// Only of a partition that is neither closed nor broken: its directory may be gone otherwise.
    pub(super) fn advance_log_start(&mut self, to: Offset, effects: &mut Effects) {
        self.deletions.next = self.deletions.next.max(to);
        self.delete_next(effects);
    }

    /// Begins what is to be deleted next, unless something is being deleted.
    pub(super) fn delete_next(&mut self, effects: &mut Effects) {
        let to = self.deletions.next;
        if self.is_sound()
            && !self.deletions.is_running
            && let Some(work) = self.log.advance_log_start(to)
        {
            self.run(work, effects);
        }
    }

    /// A deletion ran, well or not. Those who are told of a failure need not wait: it is tried again
    /// without them.
    pub(super) fn deleted(&mut self, failed: Option<&LogError>, effects: &mut Effects) {
        self.deletions.is_running = false;
        match failed {
            None => {}
            Some(error) if error.is_storage_full() => {
                self.deletions.answer(&OffsetsError::StorageFull, effects);
            }
            Some(error) => self.deletions.fail(&error.to_string(), effects),
        }
        self.delete_next(effects);
    }
}

impl Deletions {
    pub(super) fn new(durable: Offset) -> Self {
        Self { durable, is_running: false, next: durable, waiting: Vec::new() }
    }

    /// The log begins anew at `at`, behind `leader`: what was to be deleted is gone, and whoever
    /// waits is to ask there.
    pub(super) fn begin_anew(
        &mut self,
        at: Offset,
        leader: Option<BrokerId>,
        effects: &mut Effects,
    ) {
        self.durable = Offset::ZERO;
        self.next = at;
        self.answer(&FetchError::NotLeader { leader, epoch: None }.into(), effects);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn wait(&mut self, to: Offset, answer: oneshot::Sender<Outcome>) {
        self.waiting.retain(|(_, waits)| !waits.is_closed());
        self.waiting.push((to, answer));
    }

    /// A deletion or a checkpoint wrote `start` down.
    pub(super) fn note_durable(&mut self, start: Offset, effects: &mut Effects) {
        self.durable = self.durable.max(start);
        let durable = self.durable;
        for (_, answer) in self.waiting.extract_if(.., |(to, _)| *to <= durable) {
            effects.deletions.push((answer, Ok(durable)));
        }
    }

    pub(super) fn close(&mut self, effects: &mut Effects) {
        self.answer(&FetchError::Closing.into(), effects);
    }

    pub(super) fn fail(&mut self, why: &str, effects: &mut Effects) {
        self.answer(&FetchError::StorageFailed { why: why.to_owned() }.into(), effects);
    }

    fn answer(&mut self, error: &OffsetsError, effects: &mut Effects) {
        let waiting = self.waiting.drain(..);
        effects.deletions.extend(waiting.map(|(_, answer)| (answer, Err(error.clone()))));
    }
}
