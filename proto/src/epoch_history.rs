//! Which leader wrote which part of a log.
//!
//! Replicas find where two logs part by comparing (epoch, end offset) pairs, never by high
//! watermark (KIP-101, KIP-279): [`EpochHistory::end_offset_for`] is that comparison's one half. The
//! log keeps such a history beside its segments, the replication protocol decides by one: both by
//! this code.
//!
//! The history is derived from the batches, each of which carries its epoch. One entry may be ahead
//! of them: a leader notes its epoch the moment it takes over, before it has written anything, so
//! that a follower of an idle partition is accepted at once (KAFKA-15608, KAFKA-20961).
//!
//! Laws: epochs and start offsets both grow strictly. So an epoch that wrote nothing is displaced by
//! the next one that begins at the same offset, and there are never more entries than batches + 1.

use crate::{epoch::LeaderEpoch, offset::Offset};

/// An epoch and the first offset it wrote, or will write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Its first offset.
    pub start: Offset,
}

/// The history of one partition's log, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct EpochHistory {
    entries: Vec<EpochStart>,
}

impl EpochHistory {
    /// Notes that `epoch` begins at `start`, which is the log end offset. What is known already, or
    /// older than what is known, changes nothing; returns whether something changed.
    pub fn note(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if self.latest().is_some_and(|latest| latest >= epoch) {
            return false;
        }
        self.truncate(start);
        self.entries.push(EpochStart { epoch, start });
        true
    }

    /// The log now ends at `end`: epochs that began there or later are gone.
    pub fn truncate(&mut self, end: Offset) {
        let keep = self.entries.partition_point(|entry| entry.start < end);
        self.entries.truncate(keep);
    }

    /// The log now begins at `start`: of the epochs before it, only the one that covers it stays,
    /// as beginning there.
    pub fn advance_start(&mut self, start: Offset) {
        let covering = self.entries.partition_point(|entry| entry.start <= start);
        if covering > 0 {
            self.entries.drain(..covering - 1);
            self.entries[0].start = start;
        }
    }

    /// The newest epoch, which may not have written anything yet.
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// The epoch that wrote `offset`, an offset below the log end.
    pub fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start <= offset);
        after.checked_sub(1).map(|at| self.entries[at].epoch)
    }

    /// Where the batches written in `epoch`, or in the last known epoch before it, end, and which
    /// epoch that is (KIP-279). `None`: `epoch` is newer than all that is known here, which between
    /// peers of the same leader epoch is a protocol error.
    ///
    /// * the newest epoch ends at the log end offset;
    /// * any other one ends where the next begins;
    /// * one that is older than all that is known ends where the oldest known begins, so that
    ///   whoever asks cuts its log to that.
    pub fn end_offset_for(
        &self,
        epoch: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        if self.latest() == Some(epoch) {
            return Some((epoch, log_end));
        }
        let higher = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end = self.entries.get(higher)?.start;
        let found = higher.checked_sub(1).map_or(epoch, |at| self.entries[at].epoch);
        Some((found, end))
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }
}

impl FromIterator<EpochStart> for EpochHistory {
    /// In order; what does not grow is left out.
    fn from_iter<I: IntoIterator<Item = EpochStart>>(entries: I) -> Self {
        let mut history = Self::default();
        for entry in entries {
            history.note(entry.epoch, entry.start);
        }
        history
    }
}
