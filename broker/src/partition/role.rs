//! What this broker is to a partition, as readers see it without the lock.

use std::sync::atomic::{AtomicI64, Ordering};

use riverrun_proto::epoch::LeaderEpoch;

use crate::replica::Replica;

/// Whom a read asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// The leader alone.
    Leader,
    /// Any replica that is in sync: see [`Partition::read_any`](super::Partition::read_any).
    InSync,
}

/// What a replica can do for readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It leads in this epoch.
    Leads(LeaderEpoch),
    /// It follows in this epoch, and is in sync.
    InSync(LeaderEpoch),
    /// It hears from no leader, whom it is to ask again.
    Waits,
    /// It follows and has yet to catch up, or there is nobody to follow.
    Idle,
}

/// A [`Role`] in one word, so that nobody sees half of a change.
#[derive(Debug)]
pub(super) struct PublishedRole(AtomicI64);

const IDLE: i64 = -1;
const WAITS: i64 = -2;
/// That of epoch 0; those of later ones lie below.
const IN_SYNC: i64 = -3;

impl Role {
    pub(super) fn of(replica: &Replica) -> Self {
        if let Some(epoch) = replica.leads() {
            Self::Leads(epoch)
        } else if let Some(epoch) = replica.in_sync_in() {
            Self::InSync(epoch)
        } else if replica.is_paused() {
            Self::Waits
        } else {
            Self::Idle
        }
    }

    /// The epoch in which it serves readers of these copies; `None`: it does not.
    pub(super) fn serves(self, copies: Copies) -> Option<LeaderEpoch> {
        match (self, copies) {
            (Self::Leads(epoch), _) | (Self::InSync(epoch), Copies::InSync) => Some(epoch),
            _ => None,
        }
    }
}

// === impl PublishedRole ===

impl PublishedRole {
    pub(super) fn new() -> Self {
        Self(AtomicI64::new(IDLE))
    }

    pub(super) fn get(&self) -> Role {
        let word = self.0.load(Ordering::Acquire);
        let epoch = |n: i64| i32::try_from(n).ok().and_then(LeaderEpoch::new);
        match word {
            WAITS => Role::Waits,
            0.. => epoch(word).map_or(Role::Idle, Role::Leads),
            ..=IN_SYNC => epoch(IN_SYNC - word).map_or(Role::Idle, Role::InSync),
            _ => Role::Idle,
        }
    }

    /// Under the partition's lock. Whether it is another than before.
    pub(super) fn set(&self, role: Role) -> bool {
        let word = match role {
            Role::Leads(epoch) => i64::from(epoch.get()),
            Role::InSync(epoch) => IN_SYNC - i64::from(epoch.get()),
            Role::Waits => WAITS,
            Role::Idle => IDLE,
        };
        // Almost always: what is only read stays in the caches of those who read it.
        if self.0.load(Ordering::Relaxed) == word {
            return false;
        }
        self.0.store(word, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_survives_the_word_it_is_told_in() {
        let published = PublishedRole::new();
        assert_eq!(published.get(), Role::Idle);
        let epochs = [0, 1, 2, 3, i32::MAX].map(|n| LeaderEpoch::new(n).unwrap());
        let of_epoch = epochs.into_iter().flat_map(|e| [Role::Leads(e), Role::InSync(e)]);
        for role in of_epoch.chain([Role::Waits, Role::Idle]) {
            assert!(published.set(role), "{role:?}");
            assert!(!published.set(role), "{role:?} is no news");
            assert_eq!(published.get(), role);
        }
    }

    #[test]
    fn who_serves_whom() {
        let epoch = LeaderEpoch::new(4).unwrap();
        let cases = [
            (Role::Leads(epoch), Some(epoch), Some(epoch)),
            (Role::InSync(epoch), None, Some(epoch)),
            (Role::Waits, None, None),
            (Role::Idle, None, None),
        ];
        for (role, leader, in_sync) in cases {
            let served = (role.serves(Copies::Leader), role.serves(Copies::InSync));
            assert_eq!(served, (leader, in_sync), "{role:?}");
        }
    }
}
