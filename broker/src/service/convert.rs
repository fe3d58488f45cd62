//! Between wire and domain, both ways; nothing else translates. Whatever comes in is checked here,
//! once: an unknown enum value, a negative epoch or duration, an id of 15 bytes never gets further.

use std::time::Duration;

use bytes::Bytes;
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::{PartitionIndex, TopicId, TopicName, TopicPartition},
    offset::Offset,
    reason::Reason,
    record::Codec,
    rpc::v1,
    timestamp::Timestamp,
};

use super::status::Failure;
use crate::{
    metadata::{Broker, Endpoint, Topic},
    partition::{Durability, OffsetAt, OffsetSpec, PartitionOffsets, Produced},
};

// === in ===

/// A topic as a request names it: by id, by name, or both (then the id counts).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicRef {
    pub(super) id: Option<TopicId>,
    pub(super) name: Option<TopicName>,
}

/// A partition as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartitionRef {
    pub(super) topic: TopicRef,
    pub(super) partition: i32,
}

/// When to answer a produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckMode {
    All,
    Leader,
    /// The leader has taken it; no offset is told.
    None,
}

/// Where to start reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    At(Offset),
    Timestamp(Timestamp),
    FromEnd(u64),
    Earliest,
    Latest,
}

/// How records go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Encoded,
    Records,
}

/// A partition to read and where from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReadPlace {
    pub(super) partition: PartitionRef,
    pub(super) start: Start,
    pub(super) leader_epoch: Option<LeaderEpoch>,
    pub(super) last_read_epoch: Option<LeaderEpoch>,
    /// `None`: no limit but the request's.
    pub(super) max_bytes: Option<usize>,
    /// Whoever leads is not to name another replica.
    pub(super) no_redirect: bool,
}

pub(super) fn topic_ref(name: &str, id: &Bytes) -> Result<TopicRef, Failure> {
    let id = match id.len() {
        0 => None,
        _ => Some(topic_id(id)?),
    };
    let name = match name {
        "" if id.is_none() => {
            return Err(Failure::invalid("topic", "name a topic, or give its 16-byte id"));
        }
        "" => None,
        name => Some(TopicName::try_new(name)?),
    };
    Ok(TopicRef { id, name })
}

pub(super) fn topic_id(id: &Bytes) -> Result<TopicId, Failure> {
    TopicId::from_bytes(id)
        .map_err(|error| Failure::invalid("topic_id", format!("topic id: {error}")))
}

pub(super) fn partition_ref(wire: Option<&v1::TopicPartition>) -> Result<PartitionRef, Failure> {
    let wire = wire.ok_or_else(|| Failure::invalid("partition", "name a partition"))?;
    let topic = topic_ref(&wire.topic, &wire.topic_id)?;
    Ok(PartitionRef { topic, partition: wire.partition })
}

/// The index, if it can exist at all; whether it does is the topic's to say.
pub(super) fn partition_index(wire: i32) -> Option<PartitionIndex> {
    PartitionIndex::from_wire(wire)
}

pub(super) fn ack_mode(wire: i32) -> Result<AckMode, Failure> {
    match v1::Acks::try_from(wire) {
        Ok(v1::Acks::Unspecified | v1::Acks::All) => Ok(AckMode::All),
        Ok(v1::Acks::Leader) => Ok(AckMode::Leader),
        Ok(v1::Acks::None) => Ok(AckMode::None),
        Err(_) => Err(Failure::new(
            Reason::InvalidRequiredAcks,
            format!("acks {wire} do not exist: use ACKS_ALL, ACKS_LEADER or ACKS_NONE"),
        )
        .at_field("acks")),
    }
}

pub(super) fn leader_epoch(
    wire: Option<i32>,
    field: &'static str,
) -> Result<Option<LeaderEpoch>, Failure> {
    match wire {
        None => Ok(None),
        Some(epoch) => LeaderEpoch::new(epoch).map(Some).ok_or_else(|| {
            Failure::invalid(field, format!("{field} {epoch}: leave it out if it is not known"))
        }),
    }
}

/// `None` where the client left it to the broker.
pub(super) fn duration(
    wire: Option<&prost_types::Duration>,
    field: &'static str,
) -> Result<Option<Duration>, Failure> {
    let Some(wire) = wire else { return Ok(None) };
    Duration::try_from(*wire)
        .map(Some)
        .map_err(|_| Failure::invalid(field, format!("{field} must not be negative")))
}

/// `None`: as the topic says.
pub(super) fn codec(wire: i32) -> Result<Option<Codec>, Failure> {
    match v1::Compression::try_from(wire) {
        Ok(v1::Compression::Unspecified) => Ok(None),
        Ok(v1::Compression::None) => Ok(Some(Codec::None)),
        Ok(v1::Compression::Gzip) => Ok(Some(Codec::Gzip)),
        Ok(v1::Compression::Snappy) => Ok(Some(Codec::Snappy)),
        Ok(v1::Compression::Lz4) => Ok(Some(Codec::Lz4)),
        Ok(v1::Compression::Zstd) => Ok(Some(Codec::Zstd)),
        Err(_) => Err(Failure::new(
            Reason::UnsupportedCompressionType,
            format!("compression {wire} does not exist here"),
        )
        .at_field("records.compression")),
    }
}

pub(super) fn batch_format(wire: i32) -> Result<(), Failure> {
    match v1::BatchFormat::try_from(wire) {
        Ok(v1::BatchFormat::Unspecified | v1::BatchFormat::KafkaV2) => Ok(()),
        Err(_) => {
            Err(Failure::invalid("format", format!("batch format {wire} does not exist here")))
        }
    }
}

pub(super) fn read_format(wire: i32) -> Result<Format, Failure> {
    match v1::ReadFormat::try_from(wire) {
        Ok(v1::ReadFormat::Unspecified | v1::ReadFormat::Records) => Ok(Format::Records),
        Ok(v1::ReadFormat::Encoded) => Ok(Format::Encoded),
        Err(_) => {
            Err(Failure::invalid("format", format!("read format {wire} does not exist here")))
        }
    }
}

/// Without transactions every committed record is visible at every level.
pub(super) fn isolation(wire: i32) -> Result<(), Failure> {
    match v1::IsolationLevel::try_from(wire) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::invalid(
            "isolation",
            format!("isolation level {wire} does not exist here"),
        )),
    }
}

/// Absent: earliest, so that a reader without a place misses nothing.
pub(super) fn start(wire: Option<&v1::ReadFrom>) -> Result<Start, Failure> {
    let Some(at) = wire.and_then(|from| from.at) else { return Ok(Start::Earliest) };
    match at {
        v1::read_from::At::Offset(offset) => Offset::new(offset).map(Start::At).ok_or_else(|| {
            Failure::new(
                Reason::OffsetOutOfRange,
                format!("offset {offset}: offsets start at 0; name ends by edge or from_end"),
            )
            .at_field("start.offset")
        }),
        v1::read_from::At::TimestampMs(ms) => Ok(Start::Timestamp(Timestamp::from_millis(ms))),
        v1::read_from::At::FromEnd(records) => Ok(Start::FromEnd(records)),
        v1::read_from::At::Edge(wire) => match v1::Edge::try_from(wire) {
            Ok(v1::Edge::Unspecified | v1::Edge::Earliest) => Ok(Start::Earliest),
            Ok(v1::Edge::Latest) => Ok(Start::Latest),
            Ok(v1::Edge::Committed) => Err(Failure::invalid(
                "start.edge",
                "EDGE_COMMITTED is a group's place; this call has no group",
            )),
            Err(_) => {
                Err(Failure::invalid("start.edge", format!("edge {wire} does not exist here")))
            }
        },
    }
}

pub(super) fn read_place(wire: &v1::PartitionFrom) -> Result<ReadPlace, Failure> {
    Ok(ReadPlace {
        partition: partition_ref(wire.partition.as_ref())?,
        start: start(wire.start.as_ref())?,
        leader_epoch: leader_epoch(wire.leader_epoch, "leader_epoch")?,
        last_read_epoch: leader_epoch(wire.last_read_epoch, "last_read_epoch")?,
        max_bytes: (wire.max_bytes > 0).then_some(wire.max_bytes as usize),
        no_redirect: wire.no_redirect,
    })
}

pub(super) fn offset_spec(wire: Option<v1::offset_query::At>) -> Result<OffsetSpec, Failure> {
    let missing =
        || Failure::invalid("at", "say which offset: edge, timestamp_ms or max_timestamp");
    match wire.ok_or_else(missing)? {
        v1::offset_query::At::TimestampMs(ms) => {
            Ok(OffsetSpec::Timestamp(Timestamp::from_millis(ms)))
        }
        v1::offset_query::At::MaxTimestamp(true) => Ok(OffsetSpec::MaxTimestamp),
        v1::offset_query::At::MaxTimestamp(false) => Err(missing()),
        v1::offset_query::At::Edge(edge) => match v1::Edge::try_from(edge) {
            Ok(v1::Edge::Earliest) => Ok(OffsetSpec::Earliest),
            Ok(v1::Edge::Latest) => Ok(OffsetSpec::Latest),
            Ok(v1::Edge::Unspecified) => Err(missing()),
            Ok(v1::Edge::Committed) => Err(Failure::invalid(
                "at.edge",
                "EDGE_COMMITTED is a group's place; this call has no group",
            )),
            Err(_) => Err(Failure::invalid("at.edge", format!("edge {edge} does not exist here"))),
        },
    }
}

// === out ===

pub(super) fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

pub(super) fn wire_topic_id(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

pub(super) fn wire_partition(id: TopicPartition) -> v1::TopicPartition {
    v1::TopicPartition {
        topic: String::new(),
        topic_id: wire_topic_id(id.topic),
        partition: id.partition.to_wire(),
    }
}

/// A partition that gave nothing, as the request named it.
pub(super) fn partition_error(
    partition: Option<v1::TopicPartition>,
    error: v1::Error,
) -> v1::PartitionData {
    v1::PartitionData {
        partition,
        outcome: Some(v1::partition_data::Outcome::Error(error)),
        ..v1::PartitionData::default()
    }
}

pub(super) fn wire_durability(durability: Durability) -> v1::Durability {
    match durability {
        Durability::Disk => v1::Durability::Disk,
        Durability::Memory => v1::Durability::Memory,
    }
}

pub(super) fn append_result(produced: &Produced, mode: AckMode) -> v1::AppendResult {
    let told = mode != AckMode::None;
    v1::AppendResult {
        base_offset: told.then_some(produced.base_offset.get()),
        last_offset: told.then_some(produced.last_offset.get()),
        log_append_time_ms: produced.log_append_time.map(Timestamp::as_millis),
        log_start_offset: told.then_some(produced.log_start_offset.get()),
        duplicate: produced.duplicate,
        leader_epoch: produced.leader_epoch.get(),
        durability: wire_durability(produced.durability).into(),
        replicas: produced.replicas,
    }
}

/// `max_message_bytes` is the topic's, resolved.
pub(super) fn wire_topic(topic: &Topic, max_message_bytes: usize) -> v1::Topic {
    let partitions = topic.partitions().map(|(index, state)| v1::Partition {
        partition: index.to_wire(),
        leader: state.leader.map(|id| id.0),
        leader_epoch: state.leader_epoch.get(),
        replicas: state.replicas.iter().map(|id| id.0).collect(),
        in_sync_replicas: state.isr.iter().map(|id| id.0).collect(),
    });
    v1::Topic {
        name: topic.name.to_string(),
        topic_id: wire_topic_id(topic.id),
        partitions: partitions.collect(),
        replication_factor: u32::try_from(topic.replication_factor()).unwrap_or(u32::MAX),
        max_message_bytes: u32::try_from(max_message_bytes).unwrap_or(u32::MAX),
    }
}

/// `None` for a broker that clients cannot reach.
pub(super) fn wire_broker(broker: &Broker) -> Option<v1::Broker> {
    let endpoint = broker.endpoint(Endpoint::CLIENTS)?;
    Some(v1::Broker {
        broker_id: broker.id.0,
        host: endpoint.host.clone(),
        port: endpoint.port.into(),
        rack: broker.rack.clone().unwrap_or_default(),
    })
}

pub(super) fn wire_offsets(offsets: &PartitionOffsets) -> v1::PartitionOffsets {
    v1::PartitionOffsets {
        log_start_offset: offsets.log_start.get(),
        high_watermark: offsets.high_watermark.get(),
        log_end_offset: offsets.log_end.get(),
        flushed_end_offset: offsets.flushed_end.get(),
        size_bytes: offsets.size_bytes,
        segments: u32::try_from(offsets.segments).unwrap_or(u32::MAX),
    }
}

pub(super) fn found_offset(found: Option<OffsetAt>, leader_epoch: LeaderEpoch) -> v1::FoundOffset {
    v1::FoundOffset {
        offset: found.map(|at| at.offset.get()),
        timestamp_ms: found.and_then(|at| at.timestamp).map(Timestamp::as_millis),
        leader_epoch: leader_epoch.get(),
    }
}

#[cfg(test)]
#[path = "convert_test.rs"]
mod tests;
