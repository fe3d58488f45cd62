//! Commands: what the metadata log stores. Each says what it wants and what it expects to find.
//!
//! A command is judged by [`MetadataImage::apply`](super::MetadataImage::apply) when it comes to be
//! applied, on every node alike. How each is stored is [`record`](super::record)'s business.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
};

use riverrun_proto::{
    epoch::{BrokerEpoch, PartitionEpoch},
    ids::{BrokerId, DirectoryId, IncarnationId, TopicId, TopicName, TopicPartition},
};

use super::{
    Endpoint, FeatureLevel, FeatureRange, IsrChange, Presence, TopicConfigs, TopicVersion,
};

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
    /// A broker's process says it runs, in a cluster.
    JoinBroker(JoinBroker),
    /// Fences a broker, lets it take part, or lets it leave.
    SetPresence(SetPresence),
    /// A leader asks for another ISR.
    AlterIsr(AlterIsr),
    /// Hands leadership over, or gives it to somebody where nobody has it.
    ElectLeader(ElectLeader),
    /// Sets out for other replicas.
    Reassign(Reassign),
    /// Goes back to the replicas from before.
    CancelReassignment(CancelReassignment),
    /// Keeps a broker from being given anything new, or no longer.
    SetDraining(SetDraining),
    /// Forgets a broker.
    RemoveBroker(RemoveBroker),
    /// Limits what moves of replicas take, or no longer.
    SetMoveThrottle(SetMoveThrottle),
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
            Self::JoinBroker(_)
            | Self::SetPresence(_)
            | Self::AlterIsr(_)
            | Self::ElectLeader(_)
            | Self::Reassign(_)
            | Self::CancelReassignment(_) => FeatureLevel::V2,
            Self::SetDraining(_) | Self::RemoveBroker(_) => FeatureLevel::V3,
            Self::SetMoveThrottle(_) => FeatureLevel::V4,
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

/// See [`Command::JoinBroker`]. As [`RegisterBroker`], and: the broker is fenced until it has caught
/// up with the log ([`SetPresence`]), and leaves every ISR and leadership in the same step, so that
/// nobody takes its log for what it was before. It stays an eligible leader, where it was in an ISR
/// that has become too small, only with proof that its log lost nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinBroker {
    /// Who, and what it can do.
    pub registration: RegisterBroker,
    /// The proof: the epoch of the run whose logs are whole in its directory, known from a clean stop
    /// of that run, or from the machine not having been restarted since and no write having failed.
    /// Believed if that was the last run.
    pub whole_since: Option<BrokerEpoch>,
}

/// See [`Command::SetPresence`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetPresence {
    /// Which broker.
    pub broker: BrokerId,
    /// The run it is about; it does not touch a later one.
    pub broker_epoch: BrokerEpoch,
    /// How it stands from now on.
    pub presence: Presence,
}

/// See [`Command::AlterIsr`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterIsr {
    /// Which partition.
    pub partition: TopicPartition,
    /// What its leader asks for.
    pub change: IsrChange,
}

/// See [`Command::ElectLeader`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElectLeader {
    /// Which partition.
    pub partition: TopicPartition,
    /// Its version, or this is rejected.
    pub expected: PartitionEpoch,
    /// Who.
    pub choice: Choice,
}

/// Who is to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The first of the replicas, if it is there and in sync.
    Preferred,
    /// This member of the ISR, if it is there.
    Member(BrokerId),
    /// This replica, although it may lack committed records: only where nobody leads, and noted in
    /// [`Partition::unclean_epoch`](super::Partition::unclean_epoch).
    Unclean(BrokerId),
}

/// See [`Command::Reassign`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassign {
    /// Which partition.
    pub partition: TopicPartition,
    /// Its version, or this is rejected.
    pub expected: PartitionEpoch,
    /// The replicas to be, the preferred leader first.
    pub to: Vec<BrokerId>,
}

/// See [`Command::CancelReassignment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CancelReassignment {
    /// Which partition.
    pub partition: TopicPartition,
    /// Its version, or this is rejected.
    pub expected: PartitionEpoch,
}

/// See [`Command::SetDraining`]. Says nothing of a run: it holds over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetDraining {
    /// Which broker.
    pub broker: BrokerId,
    /// Whether it is, from now on.
    pub draining: bool,
}

/// See [`Command::RemoveBroker`]. Only a fenced broker without replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoveBroker {
    /// Which broker.
    pub broker: BrokerId,
    /// The run that is gone; a later one stays.
    pub broker_epoch: BrokerEpoch,
}

/// See [`Command::SetMoveThrottle`]. The last one holds; it concerns replicas that are being added, as
/// long as they are, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetMoveThrottle {
    /// On each broker, in either direction; `None`: as many as there are.
    pub bytes_per_second: Option<NonZeroU64>,
}
