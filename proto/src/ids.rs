//! Names and ids, validated where they are made.

use std::{
    fmt::{self, Write as _},
    str::FromStr,
    sync::Arc,
};

use thiserror::Error;
use uuid::Uuid;

use crate::limits::{PARTITIONS_PER_TOPIC_MAX, TOPIC_NAME_CHARS_MAX};

/// A topic's name: 1 to 249 of `a-z A-Z 0-9 . _ -`, not `.` or `..` (Kafka's rule). Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Why a topic cannot be called that.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidTopicName {
    /// Nothing at all.
    #[error("a topic name must not be empty")]
    Empty,
    /// Too long.
    #[error("a topic name has at most {TOPIC_NAME_CHARS_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// `.` or `..`
    #[error("a topic cannot be called '.' or '..'")]
    Dots,
    /// A character outside the set.
    #[error("a topic name consists of a-z, A-Z, 0-9, '.', '_' and '-'; {0:?} is none of them")]
    Character(char),
}

impl TopicName {
    /// Checks Kafka's rule.
    pub fn try_new(name: &str) -> Result<Self, InvalidTopicName> {
        if name.is_empty() {
            return Err(InvalidTopicName::Empty);
        }
        if let Some(c) =
            name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-'))
        {
            return Err(InvalidTopicName::Character(c));
        }
        if name.len() > TOPIC_NAME_CHARS_MAX {
            return Err(InvalidTopicName::TooLong(name.len()));
        }
        if name == "." || name == ".." {
            return Err(InvalidTopicName::Dots);
        }
        Ok(Self(name.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TopicName {
    type Err = InvalidTopicName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::try_new(name)
    }
}

/// Not 16 bytes, not 32 hexadecimal digits, or all zero.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("an id is 16 bytes (as text: 32 hexadecimal digits), not all of them zero")]
pub struct InvalidId;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new one, from 122 random bits.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// From its 16 bytes; all zero is no id.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidId> {
                match Uuid::from_slice(bytes) {
                    Ok(id) if !id.is_nil() => Ok(Self(id)),
                    _ => Err(InvalidId),
                }
            }

            /// Its 16 bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_simple().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_simple().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                match Uuid::try_parse(text) {
                    Ok(id) if !id.is_nil() => Ok(Self(id)),
                    _ => Err(InvalidId),
                }
            }
        }
    };
}

uuid_id! {
    /// Identity of a topic: a topic deleted and made anew has another, so neither is ever taken for
    /// the other.
    TopicId
}
uuid_id! {
    /// Identity of a cluster.
    ClusterId
}
uuid_id! {
    /// Identity of a data directory: a wiped disk is another one.
    DirectoryId
}
uuid_id! {
    /// Identity of one run of a broker's process; each start draws another.
    IncarnationId
}

/// Index of a partition within its topic, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PartitionIndex(u32);

impl PartitionIndex {
    /// `None` if it cannot exist ([`PARTITIONS_PER_TOPIC_MAX`]).
    pub const fn new(index: u32) -> Option<Self> {
        if index < PARTITIONS_PER_TOPIC_MAX { Some(Self(index)) } else { None }
    }

    /// From the wire's signed form.
    pub fn from_wire(index: i32) -> Option<Self> {
        u32::try_from(index).ok().and_then(Self::new)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The wire's signed form.
    pub const fn to_wire(self) -> i32 {
        self.0.cast_signed()
    }
}

impl fmt::Display for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition of a topic, by identity. Displays as its directory is named: `<topic id>-<index>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionIndex,
}

impl TopicPartition {
    /// Both parts.
    pub const fn new(topic: TopicId, partition: PartitionIndex) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.topic.fmt(f)?;
        f.write_char('-')?;
        self.partition.fmt(f)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TopicPartition {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (topic, partition) = text.rsplit_once('-').ok_or(InvalidId)?;
        let index: u32 = partition.parse().map_err(|_| InvalidId)?;
        if topic.len() != 32 || index.to_string() != partition {
            return Err(InvalidId);
        }
        Ok(Self { topic: topic.parse()?, partition: PartitionIndex::new(index).ok_or(InvalidId)? })
    }
}

/// A broker of the cluster, chosen by the operator; unique in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerId(pub u32);

impl fmt::Display for BrokerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BrokerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broker {}", self.0)
    }
}

/// An idempotent producer, handed out by the cluster; never negative (−1 in a batch is "none").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProducerId(i64);

impl ProducerId {
    /// `None` for a negative number.
    pub const fn new(id: i64) -> Option<Self> {
        if id < 0 { None } else { Some(Self(id)) }
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_follow_kafkas_rule() {
        for good in ["a", "orders.v2", "A_b-9", "...", &"x".repeat(249)] {
            assert_eq!(TopicName::try_new(good).unwrap().as_str(), good);
        }
        let cases = [
            ("", InvalidTopicName::Empty),
            (".", InvalidTopicName::Dots),
            ("..", InvalidTopicName::Dots),
            ("a/b", InvalidTopicName::Character('/')),
            ("naïve", InvalidTopicName::Character('ï')),
            (&"x".repeat(250), InvalidTopicName::TooLong(250)),
        ];
        for (bad, why) in cases {
            assert_eq!(TopicName::try_new(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn directory_names_round_trip_and_nothing_else_parses() {
        let tp = TopicPartition::new(TopicId::random(), PartitionIndex::new(7).unwrap());
        assert_eq!(tp.to_string().parse::<TopicPartition>(), Ok(tp));
        let id = tp.topic.to_string();
        for bad in [
            "meta".to_owned(),
            id.clone(),
            format!("{id}-"),
            format!("{id}-07"),
            format!("{id}-+7"),
            format!("{id}-10000"),
            format!("{}-0", "0".repeat(32)),
        ] {
            assert!(bad.parse::<TopicPartition>().is_err(), "{bad}");
        }
    }
}
