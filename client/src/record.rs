//! Records as the caller writes them ([`Record`]) and as a consumer gets them
//! ([`ConsumerRecord`]).
//!
//! A consumed record's key, value and headers are views into the batch it came in; as long as one
//! of them lives, so does the whole decompressed batch. Keep few, or
//! [`detach`](ConsumerRecord::detach) what is kept.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use riverrun_proto::record::encoded_record_bytes_max;

use crate::topic::TopicPartition;

/// A record to be produced. Without a value it is a tombstone: null, which is not empty.
///
/// ```
/// use riverrun_client::Record;
///
/// let record = Record::to("orders").key("42").value("{\"total\": 7}").header("source", "web");
/// assert!(record.size() > 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: Option<u32>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
}

/// A header of a record. Names may repeat and order is kept; the value may be null.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// UTF-8, checked where it is made.
    key: Bytes,
    value: Option<Bytes>,
}

/// A record read from a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerRecord {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: u32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
}

// === impl Record ===

impl Record {
    /// A record for `topic`, so far without key and value. A topic name that is already an
    /// `Arc<str>` is not copied.
    pub fn to(topic: impl Into<Arc<str>>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }

    /// Records with equal keys go to the same partition (Kafka's murmur2) and keep their order.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The payload.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Appends a header.
    #[must_use]
    pub fn header(mut self, key: impl Into<Bytes> + AsRef<str>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { key: key.into(), value: Some(value.into()) });
        self
    }

    /// Appends a header whose value is null.
    #[must_use]
    pub fn null_header(mut self, key: impl Into<Bytes> + AsRef<str>) -> Self {
        self.headers.push(Header { key: key.into(), value: None });
        self
    }

    /// Milliseconds since the epoch. Without it: the time of the `send`.
    #[must_use]
    pub fn timestamp(mut self, ms: i64) -> Self {
        self.timestamp_ms = Some(ms);
        self
    }

    /// This partition, whatever the partitioner would say.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The topic it is for.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Bytes it takes of the producer's buffer, and at most takes in a batch before compression.
    /// What [`reserve`](crate::Producer::reserve) wants to know.
    pub fn size(&self) -> usize {
        encoded_record_bytes_max(
            self.key.as_deref(),
            self.value.as_deref(),
            self.headers.iter().map(|header| (header.key(), header.value())),
        )
    }
}

// === impl Header ===

impl Header {
    pub(crate) fn from_views(key: Bytes, value: Option<Bytes>) -> Self {
        debug_assert!(std::str::from_utf8(&key).is_ok(), "checked by the decoder");
        Self { key, value }
    }

    /// Its name.
    pub fn key(&self) -> &str {
        std::str::from_utf8(&self.key).expect("every constructor takes UTF-8")
    }

    /// Its value; `None` is null, which is not empty.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.key(), self.value)
    }
}

// === impl ConsumerRecord ===

impl ConsumerRecord {
    /// The topic it is from.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition it is from.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Topic and partition in one.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), self.partition)
    }

    /// Its place in the partition.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Milliseconds since the epoch: the producer's time, or the broker's where the topic says so.
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    /// The leadership under which it was written; −1 if unknown.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// Its key; `None` is null, which is not empty.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// Its value; `None` is null (a tombstone), which is not empty.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The key without a copy; it keeps the batch alive.
    pub fn key_bytes(&self) -> Option<&Bytes> {
        self.key.as_ref()
    }

    /// The value without a copy; it keeps the batch alive.
    pub fn value_bytes(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    /// Its headers, in the order the producer gave them.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The value of the last header of that name.
    pub fn header(&self, key: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|header| header.key() == key)?.value()
    }

    /// Copies what it points to, so that it no longer keeps its batch in memory.
    #[must_use]
    pub fn detach(self) -> Self {
        let copy = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
        Self {
            key: self.key.map(copy),
            value: self.value.map(copy),
            headers: self
                .headers
                .into_iter()
                .map(|header| Header { key: copy(header.key), value: header.value.map(copy) })
                .collect(),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_covers_everything_that_is_stored() {
        let bare = Record::to("t").size();
        let full = Record::to("t").key("kk").value(vec![0; 100]).header("h", "vv");
        assert!(full.size() >= bare + 2 + 100 + 1 + 2, "{bare} {}", full.size());
        assert_eq!(full.topic(), "t");
    }

    #[test]
    fn a_detached_record_lets_go_of_its_batch() {
        let batch = Bytes::from(vec![7_u8; 1 << 16]);
        let name = Bytes::from_static(b"h");
        let record = ConsumerRecord {
            topic: "t".into(),
            partition: 1,
            offset: 9,
            timestamp_ms: 5,
            leader_epoch: 0,
            key: Some(batch.slice(..4)),
            value: Some(batch.slice(4..8)),
            headers: vec![
                Header::from_views(name.clone(), None),
                Header::from_views(name, Some(batch.slice(..1))),
            ],
        };
        assert!(!batch.is_unique());
        let before = record.clone();
        let detached = record.detach();
        assert_eq!(detached, before);
        drop(before);
        assert!(batch.is_unique());
        assert_eq!(detached.header("h"), Some(&[7_u8][..]));
        assert_eq!(detached.header("x"), None);
    }
}
