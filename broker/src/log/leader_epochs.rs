//! Leader epochs: which leader wrote which part of the log.
//!
//! Replicas find where two logs part by comparing (epoch, end offset) pairs, never by high
//! watermark (KIP-101, KIP-279): [`LeaderEpochs::end_offset_for`] is that comparison's one half.
//!
//! The history is derived from the batches, each of which carries its epoch; the file is only there
//! so that opening need not read the whole log. One entry may be ahead of the batches: a leader
//! notes its epoch the moment it takes over, before it has written anything, so that a follower
//! with an idle partition is accepted at once (KAFKA-15608, KAFKA-20961).
//!
//! Laws: epochs and start offsets both grow strictly. So an epoch that wrote nothing is displaced by
//! the next one that begins at the same offset, and there are never more entries than batches + 1.

use bytes::{Buf, BufMut};
use riverrun_proto::{epoch::LeaderEpoch, offset::Offset};

use super::{
    checkpoint::get_offset,
    envelope::{self, FormatError},
    layout::FileKind,
};

/// An epoch and the first offset it wrote, or will write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Its first offset.
    pub start: Offset,
}

/// The history of one partition's log, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<EpochStart>,
}

impl LeaderEpochs {
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
    /// epoch that is (replication.md 1.2, KIP-279). `None`: `epoch` is newer than all that is known
    /// here, which between peers of the same leader epoch is a protocol error.
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

    /// The file's bytes, for a log in this [life](super::checkpoint::Checkpoint::life).
    pub fn encode(&self, life: u32) -> Vec<u8> {
        let mut body = Vec::with_capacity(8 + 12 * self.entries.len());
        body.put_u32_le(life);
        body.put_u32_le(u32::try_from(self.entries.len()).expect("epochs are 31-bit numbers"));
        for entry in &self.entries {
            body.put_i32_le(entry.epoch.get());
            body.put_i64_le(entry.start.get());
        }
        envelope::wrap(FileKind::LeaderEpochs, &body)
    }

    /// Back from the file's bytes, if they are of this life.
    pub fn decode(bytes: &[u8], life: u32) -> Result<Self, FormatError> {
        let mut body = envelope::unwrap(FileKind::LeaderEpochs, bytes)?;
        if body.try_get_u32_le()? != life {
            return Err(FormatError::Broken("it is of an earlier life of the log"));
        }
        let count = body.try_get_u32_le()?;
        let mut entries: Vec<EpochStart> = Vec::new();
        for _ in 0..count {
            let epoch = LeaderEpoch::new(body.try_get_i32_le()?)
                .ok_or(FormatError::Broken("an epoch is negative"))?;
            let start = get_offset(&mut body)?;
            if entries.last().is_some_and(|last| last.epoch >= epoch || last.start >= start) {
                return Err(FormatError::Broken("its epochs do not grow"));
            }
            entries.push(EpochStart { epoch, start });
        }
        Ok(Self { entries })
    }
}

#[cfg(test)]
#[path = "leader_epochs_test.rs"]
mod tests;
