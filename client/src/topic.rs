//! What the cluster is made of, as this client sees it: brokers, topics, partitions, leaders.

use std::{fmt, sync::Arc};

use riverrun_proto::ids::{BrokerId, TopicId};

use crate::address::Address;

/// A partition of a topic, by name. Cheap to clone; made from `("orders", 3)` as well.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Index of the partition, from 0.
    pub partition: u32,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its identity: a topic deleted and made anew has another.
    pub id: TopicId,
    /// Its partitions; the one with index `i` is at place `i`.
    pub partitions: Vec<Partition>,
    /// Copies of each partition.
    pub replication_factor: u32,
    /// Largest batch the topic takes, in bytes.
    pub max_message_bytes: u32,
}

/// A partition and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// Index, from 0.
    pub index: u32,
    /// `None`: no leader at the moment.
    pub leader: Option<BrokerId>,
    /// Grows with each change of leader.
    pub leader_epoch: i32,
    /// Brokers that have a copy.
    pub replicas: Vec<BrokerId>,
    /// Those whose copy is complete.
    pub in_sync_replicas: Vec<BrokerId>,
}

/// A broker and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broker {
    /// Its id, unique in the cluster.
    pub id: BrokerId,
    /// Where clients reach it.
    pub address: Address,
    /// Empty: not told.
    pub rack: String,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cluster {
    /// 32 hexadecimal digits.
    pub id: String,
    /// All registered brokers.
    pub brokers: Vec<Broker>,
    /// The broker that decides about topics.
    pub controller: BrokerId,
    /// The broker that answered.
    pub answered_by: BrokerId,
    /// Version of the broker that answered.
    pub version: String,
}

// === impl TopicPartition ===

impl TopicPartition {
    /// Both parts.
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl<T: Into<Arc<str>>> From<(T, u32)> for TopicPartition {
    fn from((topic, partition): (T, u32)) -> Self {
        Self::new(topic, partition)
    }
}

impl From<&TopicPartition> for TopicPartition {
    fn from(partition: &TopicPartition) -> Self {
        partition.clone()
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where to start, or go on, reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// This offset.
    Offset(i64),
    /// The first record that is there (log start offset).
    Earliest,
    /// What is written from now on (high watermark).
    Latest,
    /// The first record at or after this time, in milliseconds since the epoch; none: latest.
    Timestamp(i64),
    /// This many records before the end; fewer if there are not that many.
    FromEnd(u64),
}

/// What to do when a position lies outside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OffsetReset {
    /// Read from the first record that is there. The default: it repeats rather than loses.
    #[default]
    Earliest,
    /// Read what is written from now on.
    Latest,
    /// Hand the error out; the caller seeks.
    None,
}
