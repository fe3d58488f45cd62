//! What changed, in the words of whoever runs partitions.

use std::{num::NonZeroU64, sync::Arc};

use riverrun_proto::ids::{BrokerId, PartitionIndex, TopicPartition};

use super::{Broker, FeatureLevel, MetadataImage, Partition, Topic};

/// One change. Apply them in order: a topic may be deleted and its name used again by the next.
/// Producer ids make none; nobody but the asker needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Other rules are in force.
    FeatureLevelChanged(FeatureLevel),
    /// Another throttle of moves, or none.
    MoveThrottleChanged(Option<NonZeroU64>),
    /// A broker registered, or registered anew, or stands differently now.
    BrokerRegistered(Arc<Broker>),
    /// A broker is forgotten; it had nothing.
    BrokerRemoved(BrokerId),
    /// A topic with all its partitions.
    TopicCreated(Arc<Topic>),
    /// Partitions from `first` on are new.
    PartitionsCreated {
        /// The topic as it is now.
        topic: Arc<Topic>,
        /// The first new partition; all after it are new as well.
        first: PartitionIndex,
    },
    /// A topic's overrides; the topic as it is now.
    TopicConfigChanged(Arc<Topic>),
    /// Leader, ISR, epochs or min ISR of a partition that existed before.
    PartitionChanged {
        /// Which one.
        partition: TopicPartition,
        /// Its state now. Older news, by partition epoch, must be ignored.
        state: Partition,
    },
    /// The topic as it was. Its data is to be removed.
    TopicDeleted(Arc<Topic>),
}

impl Delta {
    /// The changes that lead from `old` to `new`, a later image of the same log: for a reader that
    /// fell behind, or was handed a snapshot. Costs a look at every topic, and at the partitions of
    /// those that changed.
    ///
    /// A topic that is in `old` and not in `new` was deleted by a record: both are images of one
    /// log, and ids are never used again.
    pub fn between(old: &MetadataImage, new: &MetadataImage) -> Vec<Self> {
        let mut deltas = Vec::new();
        if old.feature_level() != new.feature_level() {
            deltas.push(Self::FeatureLevelChanged(new.feature_level()));
        }
        if old.move_throttle() != new.move_throttle() {
            deltas.push(Self::MoveThrottleChanged(new.move_throttle()));
        }
        for broker in new.brokers() {
            if old.broker(broker.id).is_none_or(|known| **known != **broker) {
                deltas.push(Self::BrokerRegistered(Arc::clone(broker)));
            }
        }
        let removed = old.brokers().filter(|broker| new.broker(broker.id).is_none());
        deltas.extend(removed.map(|broker| Self::BrokerRemoved(broker.id)));
        // Deletions first: they free the names that creations may use.
        for topic in old.topics() {
            if new.topic_by_id(topic.id).is_none() {
                deltas.push(Self::TopicDeleted(Arc::clone(topic)));
            }
        }
        for topic in new.topics() {
            match old.topic_by_id(topic.id) {
                None => deltas.push(Self::TopicCreated(Arc::clone(topic))),
                Some(known) if Arc::ptr_eq(known, topic) => {}
                Some(known) => between_topics(known, topic, &mut deltas),
            }
        }
        deltas
    }
}

fn between_topics(old: &Topic, new: &Arc<Topic>, deltas: &mut Vec<Delta>) {
    if let Some(first) = PartitionIndex::new(old.partition_count())
        && new.partition(first).is_some()
    {
        deltas.push(Delta::PartitionsCreated { topic: Arc::clone(new), first });
    }
    if old.configs != new.configs {
        deltas.push(Delta::TopicConfigChanged(Arc::clone(new)));
    }
    for (index, was) in old.partitions() {
        if let Some(is) = new.partition(index)
            && is != was
        {
            deltas.push(Delta::PartitionChanged {
                partition: TopicPartition::new(new.id, index),
                state: is.clone(),
            });
        }
    }
}
