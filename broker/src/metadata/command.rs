//! Commands: what the metadata log stores. Each says what it wants and what it expects to find.
//!
//! A command is judged by [`MetadataImage::apply`](super::MetadataImage::apply) when it comes to be
//! applied, on every node alike. How each is stored is [`record`](super::record)'s business.

use std::collections::{BTreeMap, BTreeSet};

use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, DirectoryId, IncarnationId, TopicId, TopicName},
};

use super::{Endpoint, FeatureLevel, FeatureRange, TopicConfigs, TopicVersion};

/// Producer ids handed out at once: a broker takes a block so that a producer's start costs no
/// record. Kafka's blocks have 1000; more only wastes ids on a restart.
pub const PRODUCER_ID_BLOCK_MAX: u32 = 1_000_000;

/// A change somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Raises the feature level.
    SetFeatureLevel(SetFeatureLevel),
    /// A broker's process says it runs.
    RegisterBroker(RegisterBroker),
    /// Makes a topic.
    CreateTopic(CreateTopic),
    /// Adds partitions to a topic.
    CreatePartitions(CreatePartitions),
    /// Changes a topic's configuration.
    AlterTopicConfigs(AlterTopicConfigs),
    /// Deletes a topic and its data.
    DeleteTopic(DeleteTopic),
    /// Takes a block of producer ids.
    AllocateProducerIds(AllocateProducerIds),
}

impl Command {
    /// The feature level that introduced this command; below it, it is rejected.
    pub const fn since(&self) -> FeatureLevel {
        match self {
            Self::SetFeatureLevel(_) => FeatureLevel::NONE,
            Self::RegisterBroker(_)
            | Self::CreateTopic(_)
            | Self::CreatePartitions(_)
            | Self::AlterTopicConfigs(_)
            | Self::DeleteTopic(_)
            | Self::AllocateProducerIds(_) => FeatureLevel::V1,
        }
    }
}

/// See [`Command::SetFeatureLevel`]. Levels only go up; every registered broker must know the new
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetFeatureLevel {
    /// The level in force, or this is rejected.
    pub expected: FeatureLevel,
    /// The level from this record on.
    pub level: FeatureLevel,
}

/// See [`Command::RegisterBroker`]. A new incarnation gets this record's offset as its broker epoch,
/// and every partition it leads a new leader epoch in the same step: what an earlier run wrote can
/// never be taken for what this one writes. The same incarnation again is a retry and changes
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterBroker {
    /// Which broker.
    pub broker: BrokerId,
    /// Which run of it.
    pub incarnation: IncarnationId,
    /// Which disk it runs on.
    pub directory: DirectoryId,
    /// Where it is reached.
    pub endpoints: Vec<Endpoint>,
    /// Its failure domain.
    pub rack: Option<String>,
    /// What its binary can do.
    pub features: FeatureRange,
}

/// See [`Command::CreateTopic`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTopic {
    /// Must be free.
    pub name: TopicName,
    /// Drawn by the proposer.
    pub id: TopicId,
    /// Replicas of each partition, in order; the first of each leads.
    pub assignment: Vec<Vec<BrokerId>>,
    /// Canonical overrides.
    pub configs: TopicConfigs,
    /// `min.insync.replicas`, resolved by the proposer from overrides and defaults.
    pub min_isr: u32,
}

/// See [`Command::CreatePartitions`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatePartitions {
    /// Which topic.
    pub topic: TopicId,
    /// The topic's version, or this is rejected.
    pub expected: TopicVersion,
    /// Replicas of each added partition.
    pub assignment: Vec<Vec<BrokerId>>,
}

/// See [`Command::AlterTopicConfigs`]. All or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterTopicConfigs {
    /// Which topic.
    pub topic: TopicId,
    /// The topic's version, or this is rejected.
    pub expected: TopicVersion,
    /// Overrides to set, canonical.
    pub set: BTreeMap<String, String>,
    /// Overrides to drop; no key may be in both.
    pub reset: BTreeSet<String>,
    /// `min.insync.replicas` as it follows from all that; takes effect on every partition in this
    /// record.
    pub min_isr: u32,
}

/// See [`Command::DeleteTopic`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteTopic {
    /// Which topic: by id, so that a topic made anew under the name survives a late request.
    pub topic: TopicId,
}

/// See [`Command::AllocateProducerIds`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocateProducerIds {
    /// For whom.
    pub broker: BrokerId,
    /// Its registration; an earlier run's request is rejected.
    pub broker_epoch: BrokerEpoch,
    /// How many, 1 to [`PRODUCER_ID_BLOCK_MAX`].
    pub count: u32,
}
