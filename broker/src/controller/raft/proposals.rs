//! Proposals that wait for their answer.
//!
//! A proposal waits for room in the log file, then for its entry to be applied. It is answered by
//! the entry that has its place *and term*: that one is committed and no other. If another leader's
//! entry is committed at its place, it is certain that it never will be.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::types::Ticket;

/// One that is not in the log yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) record: Bytes,
}

/// One that is in the leader's log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logged {
    pub(super) ticket: Ticket,
    pub(super) term: u64,
    pub(super) kind: Kind,
}

/// What was proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Command,
    Change,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    pub(super) waiting: VecDeque<Waiting>,
    logged: BTreeMap<u64, Logged>,
    /// Ticks since this node stopped to lead while some were in its log.
    orphaned: u32,
}

impl Proposals {
    /// Notes that the entry at `index` is this one's.
    pub(super) fn logged(&mut self, index: u64, proposal: Logged) -> Option<Logged> {
        self.logged.insert(index, proposal)
    }

    /// Whoever waits for the entry at `index`.
    pub(super) fn take(&mut self, index: u64) -> Option<Logged> {
        self.logged.remove(&index)
    }

    /// All that wait for entries up to `index`: a snapshot has them, and does not tell them apart.
    pub(super) fn take_up_to(&mut self, index: u64) -> Vec<Logged> {
        let later = self.logged.split_off(&(index + 1));
        std::mem::replace(&mut self.logged, later).into_values().collect()
    }

    /// Counts ticks without being leader; `true` when those in the log have waited long enough.
    pub(super) fn tick(&mut self, leads: bool, patience: u32) -> bool {
        self.orphaned = if leads || self.logged.is_empty() { 0 } else { self.orphaned + 1 };
        self.orphaned > patience
    }
}
