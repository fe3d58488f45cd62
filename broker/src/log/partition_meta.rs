//! `partition.meta`: which partition a directory holds.
//!
//! Directories are named by topic id, so that a topic made anew under an old name never meets old
//! data and a long name never meets the file system's limit; this file has the name for people and
//! tools. It is durable before the first byte of data, so a directory without it holds none.

use bytes::{Buf, BufMut};
use riverrun_proto::{
    ids::{PartitionIndex, TopicId, TopicName, TopicPartition},
    limits::TOPIC_NAME_CHARS_MAX,
};

use super::{
    envelope::{self, FormatError},
    layout::FileKind,
};

/// The identity of a partition's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMeta {
    /// Topic and partition, by identity.
    pub partition: TopicPartition,
    /// The topic's name when the directory was made; for people.
    pub topic_name: TopicName,
}

impl PartitionMeta {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let name = self.topic_name.as_str();
        let mut body = Vec::with_capacity(22 + name.len());
        body.put_slice(self.partition.topic.as_bytes());
        body.put_u32_le(self.partition.partition.get());
        body.put_u16_le(u16::try_from(name.len()).expect("names have at most 249 characters"));
        body.put_slice(name.as_bytes());
        envelope::wrap(FileKind::PartitionMeta, &body)
    }

    /// Back from the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut body = envelope::unwrap(FileKind::PartitionMeta, bytes)?;
        let (id, rest) =
            body.split_at_checked(16).ok_or(FormatError::Broken("the topic id is cut"))?;
        body = rest;
        let topic =
            TopicId::from_bytes(id).map_err(|_| FormatError::Broken("the topic id is zero"))?;
        let partition = PartitionIndex::new(body.try_get_u32_le()?)
            .ok_or(FormatError::Broken("there is no such partition index"))?;
        let len = usize::from(body.try_get_u16_le()?);
        let name = std::str::from_utf8(body)
            .ok()
            .filter(|name| name.len() == len && len <= TOPIC_NAME_CHARS_MAX)
            .and_then(|name| TopicName::try_new(name).ok())
            .ok_or(FormatError::Broken("the topic name is none"))?;
        Ok(Self { partition: TopicPartition::new(topic, partition), topic_name: name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_249_character_name_round_trips_and_a_cut_is_noticed() {
        let meta = PartitionMeta {
            partition: TopicPartition::new(TopicId::random(), PartitionIndex::new(3).unwrap()),
            topic_name: TopicName::try_new(&"n".repeat(249)).unwrap(),
        };
        let bytes = meta.encode();
        assert_eq!(PartitionMeta::decode(&bytes), Ok(meta));
        assert!(PartitionMeta::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
