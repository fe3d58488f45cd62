//! From what a request names to what this broker has: topics and partitions, or the error that says
//! what to do instead.

use std::{fmt, sync::Arc};

use riverrun_proto::{
    ids::{BrokerId, PartitionIndex, TopicId, TopicName, TopicPartition},
    reason::Reason,
    rpc::v1,
};
use tonic::Status;

use super::{
    convert::{self, PartitionRef, Start, TopicRef},
    status::Failure,
};
use crate::{
    controller::MetaQuorum,
    metadata::{MetadataImage, Topic},
    partition::{Partition, registry::Registry},
    telemetry::{TopicMetrics, TopicTraffic},
};

/// The read side of metadata, and the partitions of this broker.
#[derive(Clone)]
pub(super) struct Catalog {
    broker: BrokerId,
    quorum: Arc<dyn MetaQuorum>,
    partitions: Arc<Registry>,
    topics: TopicMetrics,
}

// === impl Catalog ===

impl Catalog {
    pub(super) fn new(
        broker: BrokerId,
        quorum: Arc<dyn MetaQuorum>,
        partitions: Arc<Registry>,
        topics: TopicMetrics,
    ) -> Self {
        Self { broker, quorum, partitions, topics }
    }

    /// The cluster as this broker knows it now.
    pub(super) fn image(&self) -> Arc<MetadataImage> {
        self.quorum.image()
    }

    /// The topic a request names. By id where there is one: a topic deleted and made anew is another.
    pub(super) fn topic(&self, named: &TopicRef) -> Result<Arc<Topic>, Failure> {
        let image = self.quorum.image();
        let found = match (named.id, &named.name) {
            (Some(id), _) => image.topic_by_id(id),
            (None, Some(name)) => image.topic(name),
            (None, None) => None,
        };
        found.cloned().ok_or_else(|| match (named.id, &named.name) {
            (Some(id), name) => unknown_id(&image, id, name.as_ref()),
            (None, Some(name)) => unknown_name(name),
            (None, None) => Failure::invalid("topic", "name a topic"),
        })
    }

    /// Which broker this is.
    pub(super) fn broker(&self) -> BrokerId {
        self.broker
    }

    /// Which other broker leads a partition, as far as known here.
    pub(super) fn led_elsewhere(&self, named: &PartitionRef) -> Option<BrokerId> {
        let topic = self.topic(&named.topic).ok()?;
        let index = convert::partition_index(named.partition)?;
        topic.partition(index)?.leader.filter(|leader| *leader != self.broker)
    }

    /// Whether the copy here is in sync and would serve a reader from `start`, whoever leads. Where it
    /// has less than is asked for, the leader does better.
    pub(super) fn in_sync_here(&self, named: &PartitionRef, start: Start) -> bool {
        let from = match start {
            Start::At(offset) => Some(offset),
            _ => None,
        };
        let id = self.partition_id(named).ok();
        id.and_then(|id| self.here(id)).is_some_and(|copy| copy.serves_in_sync(from))
    }

    /// Whether a topic is known here, or known to be gone.
    pub(super) fn knows_topic(&self, named: &TopicRef) -> bool {
        let image = self.quorum.image();
        match (named.id, &named.name) {
            (Some(id), _) => image.topic_by_id(id).is_some() || image.deleted_at(id).is_some(),
            (None, Some(name)) => image.topic(name).is_some(),
            (None, None) => true,
        }
    }

    /// Whether a partition is known here, or known to be gone.
    pub(super) fn knows(&self, named: &PartitionRef) -> bool {
        match self.topic(&named.topic) {
            Ok(topic) => self.index_of(&topic, named.partition).is_ok(),
            Err(_) => self.knows_topic(&named.topic),
        }
    }

    /// A partition of this broker, or whose it is.
    pub(super) fn partition(&self, named: &PartitionRef) -> Result<Arc<Partition>, Failure> {
        let (topic, index) = self.existing(named)?;
        self.partition_of(&topic, index)
    }

    /// Which partition a request names, wherever it is.
    pub(super) fn partition_id(&self, named: &PartitionRef) -> Result<TopicPartition, Failure> {
        let (topic, index) = self.existing(named)?;
        Ok(TopicPartition::new(topic.id, index))
    }

    fn existing(&self, named: &PartitionRef) -> Result<(Arc<Topic>, PartitionIndex), Failure> {
        let topic = self.topic(&named.topic)?;
        let index = self.index_of(&topic, named.partition)?;
        Ok((topic, index))
    }

    /// The index of a partition that the topic has.
    pub(super) fn index_of(
        &self,
        topic: &Topic,
        partition: i32,
    ) -> Result<PartitionIndex, Failure> {
        convert::partition_index(partition)
            .filter(|index| topic.partition(*index).is_some())
            .ok_or_else(|| unknown_partition(topic, partition))
    }

    /// A partition that exists.
    pub(super) fn partition_of(
        &self,
        topic: &Topic,
        index: PartitionIndex,
    ) -> Result<Arc<Partition>, Failure> {
        self.partitions
            .get(TopicPartition::new(topic.id, index))
            .ok_or_else(|| self.not_here(topic, index))
    }

    /// The copy on this broker, if there is one that serves.
    pub(super) fn here(&self, id: TopicPartition) -> Option<Arc<Partition>> {
        self.partitions.get(id)
    }

    /// The fast way to a partition: one look into the registry. The explanation why it is not there
    /// takes the long way.
    pub(super) fn partition_by_id(
        &self,
        id: TopicId,
        partition: i32,
    ) -> Result<Arc<Partition>, Failure> {
        if let Some(index) = convert::partition_index(partition)
            && let Some(found) = self.partitions.get(TopicPartition::new(id, index))
        {
            return Ok(found);
        }
        self.partition(&PartitionRef { topic: TopicRef { id: Some(id), name: None }, partition })
    }

    /// A closing partition of a topic that is gone does not come back: says so instead.
    pub(super) fn refine(&self, failure: Failure, topic: TopicId) -> Failure {
        if failure.reason() != Reason::BrokerShuttingDown {
            return failure;
        }
        let image = self.quorum.image();
        match image.topic_by_id(topic) {
            Some(_) => failure,
            None => unknown_id(&image, topic, None).definite_as(&failure),
        }
    }

    /// In-band form of a failure.
    pub(super) fn wire_error(&self, failure: &Failure) -> v1::Error {
        failure.to_proto(&self.quorum.image())
    }

    /// Whole-call form of a failure.
    pub(super) fn status(&self, failure: &Failure) -> Status {
        failure.to_status(&self.quorum.image())
    }

    /// Counters of a topic's traffic; get them once and keep them.
    pub(super) fn traffic(&self, topic: &TopicName) -> TopicTraffic {
        self.topics.topic(topic)
    }

    fn not_here(&self, topic: &Topic, index: PartitionIndex) -> Failure {
        let Some(state) = topic.partition(index) else {
            return unknown_partition(topic, index.to_wire());
        };
        let id = TopicPartition::new(topic.id, index);
        let led_elsewhere = state.leader.is_some_and(|leader| leader != self.broker);
        // Whoever wants the partition has no use for what ails a replica that does not lead.
        if let Some(why) = self.partitions.failure_of(id).filter(|_| !led_elsewhere) {
            return Failure::unusable(&why, self.partitions.failure_may_pass(id));
        }
        match state.leader {
            // Registered, not opened yet: a moment after it was created.
            Some(leader) if leader == self.broker => Failure::opening(),
            leader => Failure::not_leader(leader, Some(state.leader_epoch)),
        }
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("broker", &self.broker).finish_non_exhaustive()
    }
}

fn unknown_name(name: &TopicName) -> Failure {
    Failure::new(
        Reason::UnknownTopicOrPartition,
        format!("there is no topic '{name}'; create it: riverrun topic create {name}"),
    )
    .at_field("topic")
    .with("topic", name)
}

fn unknown_id(image: &MetadataImage, id: TopicId, name: Option<&TopicName>) -> Failure {
    let message = match name.and_then(|name| image.topic(name)) {
        Some(now) => format!(
            "topic id {id} is not that of '{}' (any more): it was deleted and made anew, its id is \
             {} now; read the metadata again",
            now.name, now.id
        ),
        None if image.deleted_at(id).is_some() => format!("the topic with id {id} was deleted"),
        None => format!("there is no topic with id {id}; read the metadata again"),
    };
    Failure::new(Reason::UnknownTopicId, message).at_field("topic_id").with("topic_id", id)
}

fn unknown_partition(topic: &Topic, partition: i32) -> Failure {
    Failure::new(
        Reason::UnknownTopicOrPartition,
        format!(
            "topic '{}' has no partition {partition}; it has 0 to {}",
            topic.name,
            topic.partition_count() - 1
        ),
    )
    .at_field("partition")
    .with("partitions", topic.partition_count())
}
