//! Leader epochs: which leader wrote which part of the log.
//!
//! The history and what replicas compare by it are [`EpochHistory`]'s; here is its file. It is derived
//! from the batches, each of which carries its epoch: the file is only there so that opening need not
//! read the whole log.

use std::ops::{Deref, DerefMut};

use bytes::{Buf, BufMut};
use riverrun_proto::{epoch::LeaderEpoch, epoch_history::EpochHistory};

use super::{
    checkpoint::get_offset,
    envelope::{self, FormatError},
    layout::FileKind,
};

/// The history of one partition's log, and its file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderEpochs(EpochHistory);

impl Deref for LeaderEpochs {
    type Target = EpochHistory;

    fn deref(&self) -> &EpochHistory {
        &self.0
    }
}

impl DerefMut for LeaderEpochs {
    fn deref_mut(&mut self) -> &mut EpochHistory {
        &mut self.0
    }
}

impl LeaderEpochs {
    /// The history alone.
    pub fn history(&self) -> &EpochHistory {
        &self.0
    }

    /// The file's bytes, for a log in this [life](super::checkpoint::Checkpoint::life).
    pub fn encode(&self, life: u32) -> Vec<u8> {
        let mut body = Vec::with_capacity(8 + 12 * self.entries().len());
        body.put_u32_le(life);
        body.put_u32_le(u32::try_from(self.entries().len()).expect("epochs are 31-bit numbers"));
        for entry in self.entries() {
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
        let mut history = EpochHistory::default();
        for _ in 0..count {
            let epoch = LeaderEpoch::new(body.try_get_i32_le()?)
                .ok_or(FormatError::Broken("an epoch is negative"))?;
            let start = get_offset(&mut body)?;
            if history
                .entries()
                .last()
                .is_some_and(|last| last.epoch >= epoch || last.start >= start)
            {
                return Err(FormatError::Broken("its epochs do not grow"));
            }
            history.note(epoch, start);
        }
        Ok(Self(history))
    }
}

#[cfg(test)]
#[path = "leader_epochs_test.rs"]
mod tests;
