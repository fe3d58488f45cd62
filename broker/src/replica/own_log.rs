//! The own log, as far as the protocol looks at it: where it begins and ends, and who wrote what.

use riverrun_proto::{
    epoch::LeaderEpoch,
    epoch_history::{EpochHistory, EpochStart},
    offset::Offset,
};

/// `first ≤ start ≤ flushed_end ≤ end`, but for a start that has just moved past what was flushed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OwnLog {
    /// Where the batch begins that holds `start`, as far as that is known: records are deleted from
    /// any offset on, and batches are kept whole (KAFKA-6975). Who begins anew begins here.
    pub(super) first: Offset,
    pub(super) start: Offset,
    pub(super) end: Offset,
    pub(super) flushed_end: Offset,
    pub(super) epochs: EpochHistory,
}

/// Where another log goes its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    /// It is a prefix of this one.
    Prefix,
    /// It is not: the newest epoch here that is not newer than its last one, and where that ends; or
    /// that there is none, and where this log begins.
    Diverging { epoch: Option<LeaderEpoch>, end: Offset },
    /// It is empty and begins outside this one, or ends before this one begins.
    OutOfRange,
    /// Its last epoch is newer than any here.
    Inconsistent,
}

impl OwnLog {
    /// The epoch of the batch that ends at the log's end.
    pub(super) fn last_epoch(&self) -> Option<LeaderEpoch> {
        self.epoch_before(self.end)
    }

    /// The epoch of the batch that ends at `end`, an offset between start and end.
    pub(super) fn epoch_before(&self, end: Offset) -> Option<LeaderEpoch> {
        let last = (end > self.start).then(|| Offset::new(end.get() - 1)).flatten()?;
        self.epochs.epoch_of(last)
    }

    /// Compares with a log that ends at `end` with a batch of `last_epoch` (KIP-279). A log that
    /// lies below this one's start is out of range before it is anything else (KAFKA-12996). One whose
    /// epochs are all deleted here may have parted anywhere below: it has nothing of this log. To name
    /// this log's start as the end of its epoch, as Kafka does, may be to ask for a cut inside one of
    /// its batches, as the simulator found.
    pub(super) fn compare(&self, end: Offset, last_epoch: Option<LeaderEpoch>) -> Comparison {
        if end < self.first {
            return Comparison::OutOfRange;
        }
        let Some(last) = last_epoch else {
            return if end > self.end { Comparison::OutOfRange } else { Comparison::Prefix };
        };
        match self.epochs.end_offset_for(last, self.end) {
            None => Comparison::Inconsistent,
            Some((epoch, own_end)) if epoch < last || own_end < end => {
                let is_known = self.epochs.entries().first().is_some_and(|e| e.epoch <= epoch);
                let (epoch, end) =
                    if is_known { (Some(epoch), own_end) } else { (None, self.first) };
                Comparison::Diverging { epoch, end }
            }
            Some(_) => Comparison::Prefix,
        }
    }

    pub(super) fn append(&mut self, epochs: &[EpochStart], end: Offset) {
        for run in epochs {
            self.epochs.note(run.epoch, run.start);
        }
        self.end = end;
    }

    pub(super) fn truncate(&mut self, to: Offset) {
        self.end = to;
        self.flushed_end = self.flushed_end.min(to);
        self.epochs.truncate(to);
    }

    /// An epoch in which nothing was written never was.
    pub(super) fn forget_unwritten_epochs(&mut self) {
        self.epochs.truncate(self.end);
    }

    pub(super) fn restart(&mut self, at: Offset) {
        let epochs = EpochHistory::default();
        *self = Self { first: at, start: at, end: at, flushed_end: at, epochs };
    }

    pub(super) fn advance_start(&mut self, to: Offset) {
        self.first = to;
        self.start = to;
        self.epochs.advance_start(to);
    }
}
