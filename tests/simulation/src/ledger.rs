//! What has been promised about one partition, by anybody, ever: no party knows all of it, and none
//! is told. The laws are about this.

use std::collections::BTreeMap;

use riverrun_proto::{epoch::LeaderEpoch, offset::Offset};

use crate::{
    message::End,
    mirror::{Entry, Mirror},
};

/// The book of one partition.
#[derive(Debug, Default)]
pub struct Ledger {
    /// What has been committed, in order, from the first offset on.
    committed: Mirror,
    /// Who led in which epoch.
    terms: BTreeMap<LeaderEpoch, End>,
    /// What lies below may be gone: somebody asked for that.
    deleted: Offset,
}

impl Ledger {
    /// Everything committed.
    pub fn committed(&self) -> &Mirror {
        &self.committed
    }

    /// The first offset that nobody has called committed.
    pub fn end(&self) -> Offset {
        self.committed.end().unwrap_or(Offset::ZERO)
    }

    /// What lies below may be gone.
    pub fn deleted(&self) -> Offset {
        self.deleted
    }

    /// Records below were deleted on request.
    pub fn delete(&mut self, below: Offset) {
        self.deleted = self.deleted.max(below);
    }

    /// S7: an epoch is led by one run of one broker.
    pub fn begin_term(&mut self, epoch: LeaderEpoch, who: End) -> Result<(), String> {
        match self.terms.insert(epoch, who) {
            Some(known) if known != who => {
                Err(format!("S7: epoch {epoch} is led by {known:?} and {who:?}"))
            }
            _ => Ok(()),
        }
    }

    /// S4: a leader, whose log is this, calls all below `end` committed.
    pub fn commit(&mut self, log: &Mirror, end: Offset) -> Result<(), String> {
        let known = self.end();
        if end <= known {
            return Ok(());
        }
        let new = log.between(known, end);
        if new.first().is_none_or(|first| first.base != known)
            || new.last().is_none_or(|last| last.end != end)
        {
            return Err(format!("S4: {known}..{end} was committed, which is not whole batches"));
        }
        for entry in new {
            self.committed.push(*entry);
        }
        Ok(())
    }

    /// Whether a log that begins at `start` has all that is committed; if not, what it lacks.
    pub fn missing_in(&self, log: &Mirror, start: Offset) -> Option<String> {
        let start = start.max(self.deleted);
        self.differs(log, start, self.end())
    }

    /// Where a log differs from what is committed, between two offsets.
    pub fn differs(&self, log: &Mirror, start: Offset, end: Offset) -> Option<String> {
        let must = self.committed.between(start, end);
        let has = log.between(start, end);
        if must == has {
            return None;
        }
        let at = must.iter().zip(has).position(|(a, b)| a != b);
        let at = at.unwrap_or_else(|| must.len().min(has.len()));
        Some(match (must.get(at), has.get(at)) {
            (Some(must), Some(has)) => {
                format!("has {} at {}, not {}", tell(has), has.base, tell(must))
            }
            (Some(must), None) => format!("ends before {} at {}", tell(must), must.base),
            (None, Some(has)) => format!("has {} at {} too much", tell(has), has.base),
            (None, None) => "differs".to_owned(),
        })
    }
}

fn tell(entry: &Entry) -> String {
    format!("batch {:08x} of epoch {}", entry.crc, entry.epoch)
}
