//! What a simulation has met. A kind of trouble that never came proves nothing: any zero fails the
//! suite.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Coverage(BTreeMap<&'static str, u64>);

/// All that must have come in a suite of runs.
const REQUIRED: &[&str] = &[
    "elections won",
    "leaders isolated",
    "one-way cuts",
    "messages lost",
    "messages doubled",
    "messages for another disk",
    "processes killed",
    "power losses",
    "power losses of all",
    "power losses in a write",
    "torn tails cut",
    "damaged logs refused",
    "failed syncs",
    "slow disks",
    "full disks",
    "proposals refused by a full disk",
    "disks wiped",
    "voters added",
    "voters removed",
    "voters replaced",
    "changes refused: not caught up",
    "leads handed over",
    "suffixes truncated",
    "snapshots made",
    "snapshots installed",
    "proposals acknowledged",
    "proposals rejected",
    "proposals refused: not leader",
    "proposals of unknown outcome",
    "reads answered",
    "reads refused",
];

impl Coverage {
    pub(super) fn add(&mut self, what: &'static str, n: u64) {
        *self.0.entry(what).or_default() += n;
    }

    pub(super) fn met(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (what, n) in &other.0 {
            self.add(what, *n);
        }
    }

    pub(super) fn missing(&self) -> Vec<&'static str> {
        REQUIRED.iter().copied().filter(|what| self.0.get(what).is_none_or(|n| *n == 0)).collect()
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|(what, n)| writeln!(f, "{n:>10}  {what}"))
    }
}
