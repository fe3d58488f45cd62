//! Cutting the log: what a follower does where its leader's goes another way.
//!
//! The log's end moves at once; the files follow on the pool, and until they have nothing is
//! appended. A cut that fails is tried again by every tick: the follower's log and the protocol's
//! idea of it must not part.

use std::sync::{Arc, atomic::Ordering};

use riverrun_proto::offset::Offset;

use super::{
    order::{Effects, State},
    owner::Partition,
};
use crate::log::Completed;

/// The cut that was begun last; one before it no longer matters, whatever became of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cutting {
    /// Cuts begun so far.
    begun: u64,
    /// The last of them, until it is done.
    open: Option<Cut>,
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    to: Offset,
    /// All goes; the log begins anew there.
    restarts: bool,
    failed: bool,
}

impl State {
    /// Cuts the log to `to`, or empties it to begin there. What was pushed for the log that was is
    /// void.
    pub(super) fn cut(
        &mut self,
        partition: &Arc<Partition>,
        to: Offset,
        restarts: bool,
        effects: &mut Effects,
    ) {
        self.following.forget_pushes();
        if restarts {
            // Deletions of the log that was say nothing of the one that is.
            let leader = self.replica.registration().and_then(|r| r.leader);
            self.deletions.begin_anew(to, leader, effects);
        }
        self.cutting.open = Some(Cut { to, restarts, failed: false });
        self.begin_cut(effects);
        let high_watermark = self.replica.high_watermark();
        partition.published.high_watermark.store(high_watermark.get(), Ordering::Release);
        tracing::info!(partition = %partition.id(), topic = %partition.topic(), %to, restarts, "log cut to follow its leader");
    }

    fn begin_cut(&mut self, effects: &mut Effects) {
        let Some(Cut { to, restarts, .. }) = self.cutting.open else { return };
        self.cutting.begun += 1;
        let work = if restarts { self.log.start_reset(to) } else { self.log.start_truncate(to) };
        self.run(work, effects);
    }

    /// A cut that failed is begun again.
    pub(super) fn cut_again(&mut self, effects: &mut Effects) {
        if let Some(cut) = &mut self.cutting.open
            && std::mem::take(&mut cut.failed)
        {
            self.begin_cut(effects);
        }
    }

    /// The number of the cut that was begun last.
    pub(super) fn cuts_begun(&self) -> u64 {
        self.cutting.begun
    }

    /// Cut number `number` ran; `completed` unless it failed.
    pub(super) fn cut_ran(
        &mut self,
        number: u64,
        completed: Option<&Completed>,
        effects: &mut Effects,
    ) {
        if number != self.cutting.begun {
            return;
        }
        let Some(completed) = completed else {
            if let Some(cut) = &mut self.cutting.open {
                cut.failed = true;
            }
            return;
        };
        let wanted = self.cutting.open.take().map(|cut| cut.to);
        if completed.truncated_to != wanted {
            // Cut inside a batch: replicas agree on where epochs end, and that is between batches.
            let what =
                format!("the log was cut at {:?}, not at {wanted:?}", completed.truncated_to);
            return self.break_down(&what, effects);
        }
        // A leader that was elected while its log was being cut: its epoch begins where the cut is,
        // and went with what was cut.
        if let Some(epoch) = self.replica.leads() {
            self.log.note_epoch(epoch);
        }
        self.delete_next(effects);
    }
}
