//! Everything that can happen to a replica.

use riverrun_proto::{
    epoch::{LeaderEpoch, PartitionEpoch},
    ids::BrokerId,
    offset::Offset,
};

use super::Durability;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The metadata log says how the partition is registered now.
    Registered(Registration),
    /// The own log grew to `log_end`.
    Appended {
        /// The first offset not yet written.
        log_end: Offset,
    },
    /// The own disk has everything below `flushed_end`.
    Flushed {
        /// The first offset not known to be on disk.
        flushed_end: Offset,
    },
    /// The topic's durability was changed. What was committed stays committed.
    DurabilityChanged(Durability),
}

/// How the metadata log registers a partition; one version of it per partition epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Who leads; `None`: nobody can at the moment.
    pub leader: Option<BrokerId>,
    /// The term.
    pub leader_epoch: LeaderEpoch,
    /// The version.
    pub partition_epoch: PartitionEpoch,
    /// Brokers that should have a copy, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Brokers whose copy is complete.
    pub isr: Vec<BrokerId>,
    /// `min.insync.replicas`, versioned with the rest so that no two brokers disagree about it.
    pub min_isr: u32,
}

impl Registration {
    /// A topic cannot ask for more copies than it has replicas.
    pub fn effective_min_isr(&self) -> usize {
        usize::try_from(self.min_isr).unwrap_or(usize::MAX).clamp(1, self.replicas.len().max(1))
    }
}
