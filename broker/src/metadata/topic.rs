//! A topic and its partitions as the cluster knows them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use riverrun_proto::ids::{PartitionIndex, TopicId, TopicName};
use rpds::VectorSync;

use super::Partition;

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

    /// Replicas of each partition; where they are being changed, of what it is to be.
    pub fn replication_factor(&self) -> usize {
        self.first().assigned().len()
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
