//! The first page of a segment: which segment of which partition this file is, and its salt.

use bytes::{Buf, BufMut};
use riverrun_proto::{
    ids::{PartitionIndex, TopicId, TopicPartition},
    offset::Offset,
};

use super::{
    checkpoint::get_offset,
    envelope::{self, FormatError},
    frame::Salt,
    layout::{ENVELOPE_BYTES, FileKind, SEGMENT_HEADER_BYTES},
};

/// What a segment file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose segment it is.
    pub partition: TopicPartition,
    /// Offset of its first record.
    pub base: Offset,
    /// Of this incarnation.
    pub salt: Salt,
}

// === impl SegmentHeader ===

impl SegmentHeader {
    /// The file's first [`SEGMENT_HEADER_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(SEGMENT_HEADER_BYTES - ENVELOPE_BYTES);
        body.put_slice(self.partition.topic.as_bytes());
        body.put_u32_le(self.partition.partition.get());
        body.put_i64_le(self.base.get());
        body.put_u64_le(self.salt.get());
        body.resize(SEGMENT_HEADER_BYTES - ENVELOPE_BYTES, 0);
        envelope::wrap(FileKind::Segment, &body)
    }

    /// Back from the file's first bytes, which must be those of this segment and no other.
    pub fn decode(
        bytes: &[u8],
        partition: TopicPartition,
        base: Offset,
    ) -> Result<Self, FormatError> {
        let found = Self::parse(bytes)?;
        if found.partition != partition {
            return Err(FormatError::Broken("it is a segment of another partition"));
        }
        if found.base != base {
            return Err(FormatError::Broken("it is another segment than its name says"));
        }
        Ok(found)
    }

    /// Back from the first bytes of any segment's file.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut body = envelope::unwrap(FileKind::Segment, bytes)?;
        if body.len() != SEGMENT_HEADER_BYTES - ENVELOPE_BYTES {
            return Err(FormatError::Broken("its header is not one page"));
        }
        let (id, rest) = body.split_at(16);
        body = rest;
        let topic = TopicId::from_bytes(id).map_err(|_| FormatError::Broken("no topic id"))?;
        let index = PartitionIndex::new(body.try_get_u32_le()?);
        let index = index.ok_or(FormatError::Broken("there is no such partition index"))?;
        Ok(Self {
            partition: TopicPartition::new(topic, index),
            base: get_offset(&mut body)?,
            salt: Salt::new(body.try_get_u64_le()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_page_and_belongs_to_one_segment() {
        let partition = TopicPartition::new(TopicId::random(), PartitionIndex::new(3).unwrap());
        let base = Offset::new(42).unwrap();
        let header = SegmentHeader { partition, base, salt: Salt::new(u64::MAX) };
        let bytes = header.encode();
        assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES);
        assert_eq!(SegmentHeader::decode(&bytes, partition, base), Ok(header));

        let other = TopicPartition::new(TopicId::random(), partition.partition);
        assert!(SegmentHeader::decode(&bytes, other, base).is_err());
        assert!(SegmentHeader::decode(&bytes, partition, Offset::ZERO).is_err());
        assert!(SegmentHeader::decode(&[0; SEGMENT_HEADER_BYTES], partition, base).is_err());
    }
}
