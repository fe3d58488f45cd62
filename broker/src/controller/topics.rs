//! Decisions about topics: from what somebody asks for, and the image, to a command. Pure: names,
//! ids and defaults come in as arguments. The command is judged again when it is applied; what is
//! refused here is refused without costing an entry of the log, and in words for the one who asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use riverrun_proto::{
    ids::{BrokerId, InvalidTopicName, TopicId, TopicName},
    limits::PARTITIONS_PER_TOPIC_MAX,
};
use thiserror::Error;

use super::placement::place;
use crate::{
    config::{BrokerConfig, Problems, TopicDefaults, TopicOverrides},
    metadata::{
        Broker, Command, MetadataImage, Topic,
        command::{AlterTopicConfigs, CreatePartitions, CreateTopic, DeleteTopic},
        partition::REPLICATION_FACTOR_MAX,
    },
};

const MIN_ISR: &str = "min.insync.replicas";

/// What this cluster's operator lets topics be.
#[derive(Debug, Clone)]
pub struct TopicPolicy {
    /// Partitions of a topic whose creator named no number.
    pub partitions: u32,
    /// Replicas of a topic whose creator named no number.
    pub replication_factor: u32,
    /// Replicas that each broker holds at most.
    pub partitions_per_broker_max: u32,
    /// Configuration of topics that set nothing.
    pub defaults: TopicDefaults,
}

/// A topic somebody asks for.
#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    /// Not checked yet.
    pub name: String,
    /// `None`: [`TopicPolicy::partitions`].
    pub partitions: Option<u32>,
    /// `None`: [`TopicPolicy::replication_factor`].
    pub replication_factor: Option<u32>,
    /// Keys and values as the user wrote them.
    pub configs: BTreeMap<String, String>,
}

/// A topic somebody means: by name, and where given by id as well.
#[derive(Debug, Clone)]
pub struct TopicRef {
    /// Its name.
    pub name: TopicName,
    /// Whose name that has to be: a topic made anew under it is another.
    pub id: Option<TopicId>,
}

/// Changes of a topic's configuration, as the user wrote them.
#[derive(Debug, Clone, Default)]
pub struct ConfigChanges {
    /// To set.
    pub set: BTreeMap<String, String>,
    /// To put back to the broker's default.
    pub reset: BTreeSet<String>,
}

/// Why it cannot be. Definite: nothing was written. The same request fails again until somebody
/// changes it, or the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TopicError {
    /// No topic can have that name.
    #[error(transparent)]
    Name(#[from] InvalidTopicName),
    /// The name is taken.
    #[error("topic '{name}' exists already")]
    Exists {
        /// The name.
        name: TopicName,
        /// Who has it.
        id: TopicId,
    },
    /// There is no such topic.
    #[error("there is no topic '{0}'")]
    Unknown(TopicName),
    /// It was deleted and made anew.
    #[error("topic '{name}' has id {found}, not {expected}: it was deleted and made anew since")]
    OtherTopic {
        /// The name.
        name: TopicName,
        /// Which one was meant.
        expected: TopicId,
        /// Which one has the name.
        found: TopicId,
    },
    /// None, or too many.
    #[error("a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {0}")]
    PartitionCount(u32),
    /// Fewer than there are, or as many.
    #[error(
        "topic '{name}' has {current} partitions; the number can only grow, {asked} is not more"
    )]
    NotMorePartitions {
        /// Which topic.
        name: TopicName,
        /// How many it has.
        current: u32,
        /// How many it should have.
        asked: u32,
    },
    /// The cluster is full.
    #[error(
        "the cluster would have {wanted} replicas of partitions, {brokers} brokers hold at most \
         {max}; delete topics, add brokers, or raise broker.partitions.max"
    )]
    TooManyPartitions {
        /// With this request.
        wanted: u64,
        /// The bound.
        max: u64,
        /// How many there are.
        brokers: usize,
    },
    /// Zero, or more than there are brokers.
    #[error("a replication factor of {asked} is not possible with {brokers} brokers{}", .away.tell())]
    ReplicationFactor {
        /// What was asked for.
        asked: u32,
        /// How many could hold a replica.
        brokers: usize,
        /// How many could if they were there.
        away: Away,
    },
    /// Unknown keys, bad values, or values that do not go together; all of them.
    #[error("{0}")]
    Config(Problems),
    /// A key to be set and reset at once.
    #[error("configuration key '{0}' is to be set and reset at once")]
    SetAndReset(String),
}

/// Brokers that are registered and not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away(pub usize);

impl Away {
    fn tell(self) -> String {
        match self {
            Self(0) => String::new(),
            Self(away) => {
                format!(
                    " that are there; {away} more are known and fenced or drained: start them first"
                )
            }
        }
    }
}

impl TopicPolicy {
    /// From the broker's configuration.
    pub fn new(broker: &BrokerConfig, defaults: TopicDefaults) -> Self {
        Self {
            partitions: broker.num_partitions,
            replication_factor: broker.default_replication_factor,
            partitions_per_broker_max: broker.partitions_max,
            defaults,
        }
    }

    /// Where `count` more partitions go.
    fn place(
        &self,
        image: &MetadataImage,
        count: u32,
        replication_factor: usize,
    ) -> Result<Vec<Vec<BrokerId>>, TopicError> {
        // Whoever is away, or about to go, gets nothing new: a copy there would be missing from the
        // first record on.
        let takes_more = |broker: &&Arc<Broker>| broker.takes_more();
        let racks: Vec<_> = image
            .brokers()
            .filter(takes_more)
            .filter_map(|broker| broker.rack.as_deref())
            .collect();
        let brokers: Vec<_> = image.brokers().filter(takes_more).map(|broker| broker.id).collect();
        if !(1..=brokers.len().min(REPLICATION_FACTOR_MAX)).contains(&replication_factor) {
            let away = Away(image.brokers().len() - brokers.len());
            let asked = u32::try_from(replication_factor).unwrap_or(u32::MAX);
            return Err(TopicError::ReplicationFactor { asked, brokers: brokers.len(), away });
        }
        let existing: u64 = image
            .topics()
            .map(|topic| u64::from(topic.partition_count()) * topic.replication_factor() as u64)
            .sum();
        let wanted = existing + u64::from(count) * replication_factor as u64;
        let max = u64::from(self.partitions_per_broker_max) * brokers.len() as u64;
        if wanted > max {
            return Err(TopicError::TooManyPartitions { wanted, max, brokers: brokers.len() });
        }
        let racks = if racks.len() == brokers.len() { racks } else { Vec::new() };
        Ok(place(&brokers, &racks, image.partition_count(), count as usize, replication_factor))
    }
}

/// Makes a topic; `id` was drawn for it.
pub fn create_topic(
    image: &MetadataImage,
    policy: &TopicPolicy,
    topic: &NewTopic,
    id: TopicId,
) -> Result<Command, TopicError> {
    let name = TopicName::try_new(&topic.name)?;
    if let Some(existing) = image.topic(&name) {
        return Err(TopicError::Exists { name, id: existing.id });
    }
    let partitions = topic.partitions.unwrap_or(policy.partitions);
    if partitions == 0 || partitions > PARTITIONS_PER_TOPIC_MAX {
        return Err(TopicError::PartitionCount(partitions));
    }
    let asked = topic.replication_factor.unwrap_or(policy.replication_factor);
    let replication_factor = usize::try_from(asked).unwrap_or(usize::MAX);
    let assignment = policy.place(image, partitions, replication_factor)?;
    let overrides = TopicOverrides::try_new(&topic.configs, &policy.defaults, asked)
        .map_err(TopicError::Config)?;
    let min_isr = overrides.resolve(&policy.defaults, asked).min_insync_replicas;
    Ok(Command::CreateTopic(CreateTopic {
        name,
        id,
        assignment,
        configs: overrides.into_map(),
        min_isr,
    }))
}

/// Deletes a topic.
pub fn delete_topic(image: &MetadataImage, topic: &TopicRef) -> Result<Command, TopicError> {
    let topic = find(image, topic)?;
    Ok(Command::DeleteTopic(DeleteTopic { topic: topic.id }))
}

/// Grows a topic to `partitions`. Never shrinks it: records would be lost, and keys would be where
/// nobody looks for them.
pub fn create_partitions(
    image: &MetadataImage,
    policy: &TopicPolicy,
    topic: &TopicRef,
    partitions: u32,
) -> Result<Command, TopicError> {
    let topic = find(image, topic)?;
    let current = topic.partition_count();
    if partitions > PARTITIONS_PER_TOPIC_MAX {
        return Err(TopicError::PartitionCount(partitions));
    }
    if partitions <= current {
        let name = topic.name.clone();
        return Err(TopicError::NotMorePartitions { name, current, asked: partitions });
    }
    Ok(Command::CreatePartitions(CreatePartitions {
        topic: topic.id,
        expected: topic.version,
        assignment: policy.place(image, partitions - current, topic.replication_factor())?,
    }))
}

/// Changes a topic's configuration, all or nothing.
pub fn alter_topic_configs(
    image: &MetadataImage,
    policy: &TopicPolicy,
    topic: &TopicRef,
    changes: &ConfigChanges,
) -> Result<Command, TopicError> {
    let topic = find(image, topic)?;
    if let Some(key) = changes.set.keys().find(|key| changes.reset.contains(*key)) {
        return Err(TopicError::SetAndReset(key.clone()));
    }
    let replication_factor =
        u32::try_from(topic.replication_factor()).expect("bounded by REPLICATION_FACTOR_MAX");
    let set = changes.set.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let reset = changes.reset.iter().map(String::as_str);
    let overrides = TopicOverrides::from_stored(&topic.configs)
        .and_then(|stored| stored.altered(set, reset, &policy.defaults, replication_factor))
        .map_err(TopicError::Config)?;
    // Only on request: the broker's default may have changed since the topic was made.
    let min_isr = if changes.set.contains_key(MIN_ISR) || changes.reset.contains(MIN_ISR) {
        overrides.resolve(&policy.defaults, replication_factor).min_insync_replicas
    } else {
        topic.min_isr()
    };
    let mut canonical = overrides.into_map();
    canonical.retain(|key, _| changes.set.contains_key(key));
    Ok(Command::AlterTopicConfigs(AlterTopicConfigs {
        topic: topic.id,
        expected: topic.version,
        set: canonical,
        reset: changes.reset.clone(),
        min_isr,
    }))
}

fn find<'a>(image: &'a MetadataImage, topic: &TopicRef) -> Result<&'a Topic, TopicError> {
    let found = image.topic(&topic.name).ok_or_else(|| TopicError::Unknown(topic.name.clone()))?;
    match topic.id {
        Some(expected) if expected != found.id => {
            Err(TopicError::OtherTopic { name: topic.name.clone(), expected, found: found.id })
        }
        _ => Ok(found),
    }
}

#[cfg(test)]
#[path = "topics_test.rs"]
mod tests;
