//! A topic and its partitions as the cluster knows them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use riverrun_proto::{
    epoch::{LeaderEpoch, PartitionEpoch},
    ids::{BrokerId, PartitionIndex, TopicId, TopicName},
};
use rpds::VectorSync;

/// Replicas of one partition. Nobody needs more, and it keeps the assignment of
/// [`PARTITIONS_PER_TOPIC_MAX`](riverrun_proto::limits::PARTITIONS_PER_TOPIC_MAX) partitions in one
/// record: 10 000 × 15 × 5 bytes (the longest broker id) < [`super::record::RECORD_BYTES_MAX`].
pub const REPLICATION_FACTOR_MAX: usize = 15;

/// Bytes of keys and values of one topic's configuration: every key there is, several times over.
pub const CONFIG_BYTES_MAX: usize = 32 * 1024;

/// Configuration set on a topic: canonical keys and values; what is absent is the broker's default.
pub type TopicConfigs = BTreeMap<String, String>;

/// Grows with every change of a topic's configuration or number of partitions: the token by which
/// two changes at once are noticed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TopicVersion(pub u64);

impl TopicVersion {
    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for TopicVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic. Cheap to clone; changes share what they leave alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its identity: a topic deleted and made anew has another.
    pub id: TopicId,
    /// Its name, unique at any time.
    pub name: TopicName,
    /// See [`TopicVersion`].
    pub version: TopicVersion,
    /// Overrides of the broker's defaults.
    pub configs: Arc<TopicConfigs>,
    partitions: VectorSync<Partition>,
}

impl Topic {
    pub(super) fn new(
        id: TopicId,
        name: TopicName,
        version: TopicVersion,
        configs: TopicConfigs,
        partitions: impl IntoIterator<Item = Partition>,
    ) -> Self {
        Self {
            id,
            name,
            version,
            configs: Arc::new(configs),
            partitions: partitions.into_iter().collect(),
        }
    }

    pub(super) fn next_version(&self) -> Self {
        Self { version: self.version.next(), ..self.clone() }
    }

    pub(super) fn push_partition(&mut self, partition: Partition) {
        self.partitions.push_back_mut(partition);
    }

    /// Replaces the state of a partition that exists.
    pub(super) fn set_partition(&mut self, index: PartitionIndex, partition: Partition) {
        let replaced = self.partitions.set_mut(index.get() as usize, partition);
        debug_assert!(replaced, "partition {index} of {} does not exist", self.name);
    }

    /// A partition's state.
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        self.partitions.get(index.get() as usize)
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> impl ExactSizeIterator<Item = (PartitionIndex, &Partition)> {
        self.partitions.iter().enumerate().map(|(i, partition)| (index(i), partition))
    }

    /// How many partitions there are; at least one.
    pub fn partition_count(&self) -> u32 {
        u32::try_from(self.partitions.len()).expect("bounded by PARTITIONS_PER_TOPIC_MAX")
    }

    /// Replicas of each partition.
    pub fn replication_factor(&self) -> usize {
        self.first().replicas.len()
    }

    /// `min.insync.replicas`, the same for all partitions.
    pub fn min_isr(&self) -> u32 {
        self.first().min_isr
    }

    fn first(&self) -> &Partition {
        self.partitions.first().expect("a topic has at least one partition")
    }
}

fn index(i: usize) -> PartitionIndex {
    u32::try_from(i)
        .ok()
        .and_then(PartitionIndex::new)
        .expect("apply and install bound partitions by PARTITIONS_PER_TOPIC_MAX")
}

/// A partition's registration: who has it, who leads it, who is in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Brokers that are to have a copy; the first is the preferred leader.
    pub replicas: Vec<BrokerId>,
    /// In-sync replicas: they have all that is committed.
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966): out of the ISR, yet known to have all that is committed.
    pub elr: Vec<BrokerId>,
    /// `None`: no replica may lead now.
    pub leader: Option<BrokerId>,
    /// See [`LeaderEpoch`].
    pub leader_epoch: LeaderEpoch,
    /// See [`PartitionEpoch`].
    pub partition_epoch: PartitionEpoch,
    /// `min.insync.replicas` as resolved when it was set; part of what the partition epoch
    /// versions, so that leader and controller never judge an ISR by different minima.
    pub min_isr: u32,
}

impl Partition {
    /// A new partition: everybody assigned is in sync, for there is nothing to have; the first
    /// leads.
    pub(super) fn new(replicas: Vec<BrokerId>, min_isr: u32) -> Self {
        Self {
            isr: replicas.clone(),
            elr: Vec::new(),
            leader: replicas.first().copied(),
            leader_epoch: LeaderEpoch::ZERO,
            partition_epoch: PartitionEpoch::ZERO,
            min_isr,
            replicas,
        }
    }

    /// The same leader (or lack of one) in a new leadership term.
    pub(super) fn next_term(&self) -> Self {
        Self {
            leader_epoch: self.leader_epoch.next(),
            partition_epoch: self.partition_epoch.next(),
            ..self.clone()
        }
    }

    /// With another `min.insync.replicas`. Raising it never adds to the ELR after the fact;
    /// lowering it clears the ELR where the ISR now suffices (KIP-966).
    pub(super) fn with_min_isr(&self, min_isr: u32) -> Self {
        let enough = u32::try_from(self.isr.len()).is_ok_and(|isr| isr >= min_isr);
        Self {
            min_isr,
            elr: if enough { Vec::new() } else { self.elr.clone() },
            partition_epoch: self.partition_epoch.next(),
            ..self.clone()
        }
    }

    /// In-sync replicas without which nothing commits: `min.insync.replicas`, or all replicas where
    /// there are fewer.
    pub fn effective_min_isr(&self) -> usize {
        (self.min_isr as usize).min(self.replicas.len())
    }
}
