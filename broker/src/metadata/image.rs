//! The cluster at one offset of the metadata log.

use std::{collections::BTreeSet, num::NonZeroU64, ops::Bound, sync::Arc};

use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, ProducerId, TopicId, TopicName, TopicPartition},
};
use rpds::RedBlackTreeMapSync;

use super::{Broker, Delta, FeatureLevel, MetadataOffset, Partition, Rejection, Topic};

/// Deleted topics an image remembers, newest kept. A broker that was away while a topic was deleted
/// finds here that it may remove the data; past this many, the directory is merely unknown, and
/// unknown directories are set aside, not removed.
pub const DELETED_TOPICS_REMEMBERED: usize = 10_000;

/// An image: immutable, cheap to clone, next images share what did not change. Its maps are ordered
/// trees, so that everything computed from them comes out alike on every node.
///
/// A change costs O(log n) in the number of topics and partitions; a thousand topics or ten thousand
/// partitions are nothing out of the ordinary.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetadataImage {
    pub(super) offset: MetadataOffset,
    pub(super) feature_level: FeatureLevel,
    pub(super) next_producer_id: i64,
    pub(super) move_throttle: Option<NonZeroU64>,
    partition_count: usize,
    brokers: RedBlackTreeMapSync<BrokerId, Arc<Broker>>,
    by_name: RedBlackTreeMapSync<TopicName, Arc<Topic>>,
    by_id: RedBlackTreeMapSync<TopicId, Arc<Topic>>,
    deleted: RedBlackTreeMapSync<TopicId, MetadataOffset>,
    deleted_in_order: RedBlackTreeMapSync<MetadataOffset, TopicId>,
}

/// What became of a command.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The image after it; after a rejection the same one, an offset further on.
    pub image: MetadataImage,
    /// For the proposer.
    pub outcome: Result<Reply, Rejection>,
    /// For everybody, in order; none after a rejection.
    pub deltas: Vec<Delta>,
}

/// The answer to a command that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The level now in force.
    FeatureLevel(FeatureLevel),
    /// The epoch of the broker's registration.
    BrokerEpoch(BrokerEpoch),
    /// The topic as it now is.
    Topic(Arc<Topic>),
    /// The topic is gone.
    TopicDeleted,
    /// The broker is forgotten.
    BrokerRemoved,
    /// The partition as it now is.
    Partition(Partition),
    /// The throttle of moves now in force.
    MoveThrottle(Option<NonZeroU64>),
    /// A block that nobody else has.
    ProducerIds(ProducerIdBlock),
}

/// Producer ids `first`, `first + 1`, … : `count` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerIdBlock {
    /// The first one.
    pub first: ProducerId,
    /// How many; at least one.
    pub count: u32,
}

impl ProducerIdBlock {
    /// The block without its first id, if there is anything left.
    pub fn rest(self) -> Option<Self> {
        let count = self.count.checked_sub(1).filter(|left| *left > 0)?;
        let first = ProducerId::new(self.first.get() + 1).expect("apply bounds a block's end");
        Some(Self { first, count })
    }
}

impl MetadataImage {
    /// The last entry of the log that is in here.
    pub const fn offset(&self) -> MetadataOffset {
        self.offset
    }

    /// The rules in force.
    pub const fn feature_level(&self) -> FeatureLevel {
        self.feature_level
    }

    /// Bytes a second that replicas which are being added may be sent by a broker, and may take on
    /// one; `None`: as many as there are.
    pub const fn move_throttle(&self) -> Option<NonZeroU64> {
        self.move_throttle
    }

    /// A registered broker.
    pub fn broker(&self, id: BrokerId) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    /// Whether any broker is in this failure domain.
    pub fn has_rack(&self, rack: &str) -> bool {
        self.brokers.values().any(|broker| broker.rack.as_deref() == Some(rack))
    }

    /// All registered brokers, by id.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// A topic by its name.
    pub fn topic(&self, name: &TopicName) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// A topic by its identity.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    /// A partition's state.
    pub fn partition(&self, partition: TopicPartition) -> Option<&Partition> {
        self.topic_by_id(partition.topic)?.partition(partition.partition)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// Topics whose names come after `name`, by name: the next page. Stays right where topics come
    /// and go between pages.
    pub fn topics_after(&self, name: &TopicName) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.range((Bound::Excluded(name), Bound::Unbounded)).map(|(_, topic)| topic)
    }

    /// Partitions of all topics together.
    pub const fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// Where a topic was deleted, if that was one of the last [`DELETED_TOPICS_REMEMBERED`].
    pub fn deleted_at(&self, id: TopicId) -> Option<MetadataOffset> {
        self.deleted.get(&id).copied()
    }

    pub(super) fn deleted(&self) -> impl Iterator<Item = (MetadataOffset, TopicId)> {
        self.deleted_in_order.iter().map(|(offset, id)| (*offset, *id))
    }

    /// The same, an entry or more further on.
    pub(crate) fn at(&self, offset: MetadataOffset) -> Self {
        Self { offset, ..self.clone() }
    }

    pub(super) fn put_broker(&mut self, broker: Arc<Broker>) {
        self.brokers.insert_mut(broker.id, broker);
    }

    pub(super) fn forget_broker(&mut self, id: BrokerId) {
        self.brokers.remove_mut(&id);
    }

    /// Adds a topic, or replaces the one with its id, whose name must be the same.
    pub(super) fn put_topic(&mut self, topic: &Arc<Topic>) {
        let before = self.by_id.get(&topic.id).map_or(0, |old| old.partition_count() as usize);
        self.partition_count = self.partition_count - before + topic.partition_count() as usize;
        self.by_name.insert_mut(topic.name.clone(), Arc::clone(topic));
        self.by_id.insert_mut(topic.id, Arc::clone(topic));
    }

    /// Removes a topic that exists and remembers that.
    pub(super) fn remove_topic(&mut self, topic: &Topic, at: MetadataOffset) {
        self.partition_count -= topic.partition_count() as usize;
        self.by_name.remove_mut(&topic.name);
        self.by_id.remove_mut(&topic.id);
        self.remember_deleted(topic.id, at);
    }

    pub(super) fn remember_deleted(&mut self, id: TopicId, at: MetadataOffset) {
        self.deleted.insert_mut(id, at);
        self.deleted_in_order.insert_mut(at, id);
        while self.deleted_in_order.size() > DELETED_TOPICS_REMEMBERED {
            let Some((&oldest, &id)) = self.deleted_in_order.first() else { break };
            self.deleted_in_order.remove_mut(&oldest);
            self.deleted.remove_mut(&id);
        }
    }

    /// What is wrong with this image; `None` is as it must be. Looks at everything.
    pub fn violation(&self) -> Option<String> {
        if self.by_name.size() != self.by_id.size() {
            return Some(format!("{} names, {} ids", self.by_name.size(), self.by_id.size()));
        }
        let named: BTreeSet<_> = self.topics().map(|topic| topic.id).collect();
        if named.len() != self.by_id.size() {
            return Some("two topics with one id".into());
        }
        let partitions: usize = self.topics().map(|t| t.partition_count() as usize).sum();
        if partitions != self.partition_count {
            return Some(format!("counted {partitions} partitions, not {}", self.partition_count));
        }
        for broker in self.brokers() {
            if u64::try_from(broker.epoch.get()).is_ok_and(|epoch| epoch > self.offset.get()) {
                return Some(format!("{:?} registered after offset {}", broker.id, self.offset));
            }
        }
        for topic in self.topics() {
            if self.deleted_at(topic.id).is_some() {
                return Some(format!("topic '{}' exists and is deleted", topic.name));
            }
            for (index, partition) in topic.partitions() {
                if let Some(what) = partition.violation_in(self) {
                    return Some(format!("partition {index} of topic '{}': {what}", topic.name));
                }
            }
        }
        None
    }
}
