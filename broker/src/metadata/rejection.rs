//! Why a command changed nothing.

use riverrun_proto::{
    epoch::{BrokerEpoch, PartitionEpoch},
    ids::{BrokerId, PartitionIndex, TopicId, TopicName, TopicPartition},
    limits::PARTITIONS_PER_TOPIC_MAX,
};
use thiserror::Error;

use super::{
    FeatureLevel, FeatureRange, TopicVersion, command::PRODUCER_ID_BLOCK_MAX,
    decision::IsrRejection, reassignment::ReassignmentRejection, topic::CONFIG_BYTES_MAX,
};

/// The image would not have it. Definite: nothing changed, on any node.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The name is taken.
    #[error("topic '{name}' exists already, with id {id}")]
    TopicExists {
        /// The name.
        name: TopicName,
        /// Who has it.
        id: TopicId,
    },
    /// The id is, or was, another topic's.
    #[error("topic id {0} was used before; draw another")]
    TopicIdUsed(TopicId),
    /// No such topic; it may have been deleted.
    #[error("there is no topic with id {0}; it may have been deleted")]
    UnknownTopic(TopicId),
    /// Somebody changed the topic in between.
    #[error(
        "topic {topic} is at version {current}, not {expected}: it was changed in between; read \
         it again and repeat the request"
    )]
    TopicChanged {
        /// Which topic.
        topic: TopicId,
        /// What the proposer saw.
        expected: TopicVersion,
        /// What holds.
        current: TopicVersion,
    },
    /// None, or too many.
    #[error("a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {0}")]
    PartitionCount(usize),
    /// Replicas that cannot be.
    #[error("partition {partition} cannot be placed: {problem}")]
    Assignment {
        /// Which partition.
        partition: PartitionIndex,
        /// What is wrong.
        problem: AssignmentProblem,
    },
    /// Zero, or more than there are replicas.
    #[error(
        "min.insync.replicas must lie between 1 and the replication factor {replication_factor}, \
         not be {min_isr}"
    )]
    MinIsr {
        /// What was asked for.
        min_isr: u32,
        /// The bound.
        replication_factor: usize,
    },
    /// A key to be set and reset at once.
    #[error("configuration key '{0}' is to be set and reset at once")]
    ConfigSetAndReset(String),
    /// Too much configuration.
    #[error("the topic's configuration would have {0} bytes; at most {CONFIG_BYTES_MAX} are kept")]
    ConfigTooLarge(usize),
    /// Not registered.
    #[error("{0:?} is not registered")]
    UnknownBroker(BrokerId),
    /// A request of an earlier run.
    #[error("{broker:?} has epoch {current} by now, not {given}: the request is of an earlier run")]
    StaleBrokerEpoch {
        /// Which broker.
        broker: BrokerId,
        /// The request's.
        given: BrokerEpoch,
        /// The registered one.
        current: BrokerEpoch,
    },
    /// The same run registered with other data.
    #[error("this run of {0:?} registered before, with other endpoints, rack or features")]
    RegistrationChanged(BrokerId),
    /// The broker comes back on another disk.
    #[error(
        "{0:?} was registered with another data directory; its replicas are in the old one. Start \
         it on the directory it had, or give it a broker id that was never used"
    )]
    DirectoryChanged(BrokerId),
    /// A registration that describes no broker.
    #[error("{broker:?} cannot be registered: {problem}")]
    Registration {
        /// Which broker.
        broker: BrokerId,
        /// What is wrong.
        problem: &'static str,
    },
    /// Not available yet.
    #[error("this needs feature level {needed}, the cluster is at {current}")]
    FeatureLevelTooLow {
        /// What introduced the command.
        needed: FeatureLevel,
        /// What is in force.
        current: FeatureLevel,
    },
    /// Not the level the proposer saw, or not upwards.
    #[error("the feature level is {current}; it cannot go from {expected} to {level}")]
    FeatureLevelOrder {
        /// What is in force.
        current: FeatureLevel,
        /// What the proposer saw.
        expected: FeatureLevel,
        /// What it asked for.
        level: FeatureLevel,
    },
    /// A broker's binary does not know the level.
    #[error(
        "{broker:?} runs at feature levels {supported}, not at {level}; upgrade it, or use another \
         version"
    )]
    FeatureLevelUnsupported {
        /// Which broker.
        broker: BrokerId,
        /// What its binary can do.
        supported: FeatureRange,
        /// What was asked of it.
        level: FeatureLevel,
    },
    /// No such partition.
    #[error("there is no partition {0}; its topic may have been deleted")]
    UnknownPartition(TopicPartition),
    /// Somebody changed the partition in between.
    #[error(
        "partition {partition} is at version {current}, not {expected}: it was changed in between; \
         look again and repeat the request"
    )]
    PartitionChanged {
        /// Which one.
        partition: TopicPartition,
        /// What the proposer saw.
        expected: PartitionEpoch,
        /// What holds.
        current: PartitionEpoch,
    },
    /// A leader's ISR is not what it asks for.
    #[error(transparent)]
    Isr(IsrRejection),
    /// Replicas are not what was asked for.
    #[error(transparent)]
    Reassignment(ReassignmentRejection),
    /// The leader that was asked for leads already, or may not.
    #[error(
        "no leader was elected for partition {0}: the one asked for leads already, is not there, or \
         is not in sync; only a partition without a leader can have one that may lack records"
    )]
    NoElection(TopicPartition),
    /// It is there, and would only register again.
    #[error("{0:?} is there; stop it, and wait until it is fenced")]
    BrokerIsThere(BrokerId),
    /// It is still to have copies.
    #[error(
        "{broker:?} still has replicas of {replicas} partitions; move them first: riverrun broker \
         drain {} --replicas", .broker.0
    )]
    BrokerHasReplicas {
        /// Which broker.
        broker: BrokerId,
        /// Of how many partitions.
        replicas: usize,
    },
    /// Zero, or too many.
    #[error("a block has 1 to {PRODUCER_ID_BLOCK_MAX} producer ids, not {0}")]
    ProducerIdCount(u32),
    /// All 2⁶³ are used up.
    #[error("no producer ids are left")]
    ProducerIdsExhausted,
}

/// What is wrong with a partition's replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AssignmentProblem {
    /// Nobody is to have it.
    #[error("it has no replica")]
    Empty,
    /// Too many.
    #[error("it has {0} replicas, more than {max}", max = super::partition::REPLICATION_FACTOR_MAX)]
    TooMany(usize),
    /// One broker twice.
    #[error("{0:?} is named twice")]
    Twice(BrokerId),
    /// Nobody knows that broker.
    #[error("{0:?} is not registered")]
    UnknownBroker(BrokerId),
    /// Not as many as the topic's other partitions.
    #[error("it has {0} replicas, other partitions of the topic have {1}")]
    Uneven(usize, usize),
}

impl Rejection {
    /// Whether the same request, decided anew on the current image, may succeed.
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::TopicChanged { .. }
            | Self::TopicIdUsed(_)
            | Self::PartitionChanged { .. }
            | Self::Isr(_)
            | Self::Reassignment(ReassignmentRejection::NotInSync { .. }) => true,
            Self::TopicExists { .. }
            | Self::UnknownTopic(_)
            | Self::UnknownPartition(_)
            | Self::Reassignment(_)
            | Self::NoElection(_)
            | Self::BrokerIsThere(_)
            | Self::BrokerHasReplicas { .. }
            | Self::PartitionCount(_)
            | Self::Assignment { .. }
            | Self::MinIsr { .. }
            | Self::ConfigSetAndReset(_)
            | Self::ConfigTooLarge(_)
            | Self::UnknownBroker(_)
            | Self::StaleBrokerEpoch { .. }
            | Self::RegistrationChanged(_)
            | Self::DirectoryChanged(_)
            | Self::Registration { .. }
            | Self::FeatureLevelTooLow { .. }
            | Self::FeatureLevelOrder { .. }
            | Self::FeatureLevelUnsupported { .. }
            | Self::ProducerIdCount(_)
            | Self::ProducerIdsExhausted => false,
        }
    }
}
