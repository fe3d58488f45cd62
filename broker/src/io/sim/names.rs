//! The directories of the simulated disk: which names there are, and which of them would be found
//! after a power loss.
//!
//! Creating, removing and renaming are atomic and durable once every directory they touch was
//! synced. Before that each may be kept or lost, in any combination and out of order, except that
//! changes of the same name keep their order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{PowerCut, rng::Rng};

/// Number of a file or directory.
pub(super) type Inode = u64;

/// A name in a directory.
pub(super) type Name = (Inode, String);

/// The tree of names.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    current: Arc<BTreeMap<Name, Inode>>,
    durable: Arc<BTreeMap<Name, Inode>>,
    pending: Vec<Change>,
}

/// One atomic change of names.
#[derive(Debug, Clone)]
struct Change {
    sets: Vec<(Name, Option<Inode>)>,
    unsynced: BTreeSet<Inode>,
}

// === impl Names ===

impl Names {
    pub(super) fn get(&self, name: &Name) -> Option<Inode> {
        self.current.get(name).copied()
    }

    /// What is in a directory, sorted.
    pub(super) fn list(&self, dir: Inode) -> impl Iterator<Item = (&str, Inode)> {
        self.current
            .range((dir, String::new())..(dir + 1, String::new()))
            .map(|((_, name), inode)| (name.as_str(), *inode))
    }

    /// Makes one atomic change: each name gets its inode, or none.
    pub(super) fn change(&mut self, sets: Vec<(Name, Option<Inode>)>) {
        let unsynced = sets.iter().map(|((dir, _), _)| *dir).collect();
        let change = Change { sets, unsynced };
        change.apply(Arc::make_mut(&mut self.current));
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self, dir: Inode) {
        for change in &mut self.pending {
            change.unsynced.remove(&dir);
        }
        let synced = self.pending.iter().map(|change| change.unsynced.is_empty()).collect();
        let keep = self.with_what_they_need(synced);
        let mut kept = keep.iter();
        let durable = Arc::make_mut(&mut self.durable);
        self.pending.retain(|change| {
            let keep = *kept.next().expect("one for each");
            if keep {
                change.apply(durable);
            }
            !keep
        });
    }

    /// The names found when the power is back.
    pub(super) fn after(&self, cut: PowerCut, rng: &mut Rng) -> Self {
        let names = match cut {
            PowerCut::LoseUnsynced | PowerCut::LoseNames => self.durable.clone(),
            PowerCut::KeepUnsynced | PowerCut::LoseContent => self.current.clone(),
            PowerCut::Random(_) => {
                let percent = [5, 50, 95][rng.below(3)];
                let some = self.pending.iter().map(|_| rng.percent(percent)).collect();
                let keep = self.with_what_they_need(some);
                let mut names = (*self.durable).clone();
                for (change, _) in self.pending.iter().zip(keep).filter(|(_, keep)| *keep) {
                    change.apply(&mut names);
                }
                Arc::new(names)
            }
        };
        Self { current: names.clone(), durable: names, pending: Vec::new() }
    }

    /// Forgets the names in directories that have none themselves: a directory that was lost took
    /// its content with it.
    pub(super) fn forget_unreachable(&mut self, root: Inode) {
        let mut reached = BTreeSet::from([root]);
        let mut next = vec![root];
        while let Some(dir) = next.pop() {
            next.extend(
                self.list(dir).map(|(_, inode)| inode).filter(|inode| reached.insert(*inode)),
            );
        }
        Arc::make_mut(&mut self.current).retain(|(dir, _), _| reached.contains(dir));
        self.durable = self.current.clone();
    }

    /// Every inode that has a name.
    pub(super) fn named(&self) -> BTreeSet<Inode> {
        self.current.values().copied().collect()
    }

    /// A kept change needs all earlier ones of the same names.
    fn with_what_they_need(&self, mut keep: Vec<bool>) -> Vec<bool> {
        for later in (0..keep.len()).rev() {
            let (before, from) = keep.split_at_mut(later);
            if from[0] {
                for (earlier, keep) in before.iter_mut().enumerate() {
                    *keep |= self.pending[earlier].touches(&self.pending[later]);
                }
            }
        }
        keep
    }
}

// === impl Change ===

impl Change {
    fn apply(&self, names: &mut BTreeMap<Name, Inode>) {
        for (name, inode) in &self.sets {
            match inode {
                Some(inode) => names.insert(name.clone(), *inode),
                None => names.remove(name),
            };
        }
    }

    fn touches(&self, other: &Self) -> bool {
        self.sets.iter().any(|(name, _)| other.sets.iter().any(|(theirs, _)| theirs == name))
    }
}
