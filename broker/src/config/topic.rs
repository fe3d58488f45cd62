//! `[topic]`: the configuration keys of topics, under Kafka's names. In the broker's configuration
//! they are the defaults of all topics; a topic overrides them one by one
//! ([`TopicOverrides`](super::topic_overrides::TopicOverrides)).
//!
//! Two defaults depend on the number of replicas and on each other, so there are two types:
//! [`TopicDefaults`] is what is written (`majority`, `auto`), [`TopicConfig`] what it comes to for
//! one topic.

use std::time::Duration;

use riverrun_proto::limits::BATCH_BYTES_MAX;

use super::{
    section::section,
    units::ByteSize,
    value::{Value, words},
};

/// Room that Kafka leaves in `max.message.bytes` for the overhead of a batch around 1 MiB.
const KAFKA_MAX_MESSAGE_BYTES: ByteSize = ByteSize::bytes(1_048_588);

const DAY: Duration = Duration::from_secs(86_400);

section! {
    /// Defaults of all topics. Each topic may override each key, when it is created and later.
    pub struct TopicDefaults in "topic";

    /// Records older than this, by their timestamp, are deleted, a whole segment at a time.
    "retention.ms" => retention_ms: Option<Duration> = Some(7 * DAY);

    /// A partition's oldest segments are deleted while the others hold at least this much.
    "retention.bytes" => retention_bytes: Option<ByteSize> = None;

    /// A segment that reached this size is sealed and the next one begun. Retention deletes whole
    /// segments; small ones free space sooner, each costs three files.
    "segment.bytes" => segment_bytes: ByteSize = ByteSize::mib(256),
        in ByteSize::mib(1) => ByteSize::gib(1);

    /// A segment whose first record is older than this is sealed even if small, so that retention
    /// reaches the records of quiet topics.
    "segment.ms" => segment_ms: Duration = 7 * DAY,
        in Duration::from_secs(1) => Duration::from_secs(100 * 365 * 86_400);

    /// Largest record batch, compressed. Kafka's default: 1 MiB and the overhead of a batch. Larger
    /// ones need more of everybody's windows; store big things elsewhere and send where they are.
    "max.message.bytes" => max_message_bytes: ByteSize = KAFKA_MAX_MESSAGE_BYTES,
        in ByteSize::kib(1) => ByteSize::bytes(BATCH_BYTES_MAX as u64);

    /// Replicas that must hold a record before acks=all is answered; with fewer in sync the
    /// partition refuses acks=all. majority: more than half of the replicas.
    "min.insync.replicas" => min_insync_replicas: MinInsyncReplicas = MinInsyncReplicas::Majority;

    /// What an acknowledged record is in on each of those replicas: disk (synced, survives a power
    /// loss of all machines at once) or memory (the page cache, survives every kill of a process
    /// and the loss of fewer machines than min.insync.replicas). auto: disk where one replica is
    /// enough for an ack, memory otherwise.
    "durability" => durability: DurabilityChoice = DurabilityChoice::Auto;

    /// Which time a record carries: the producer's, or that of the append at the leader.
    "message.timestamp.type" => message_timestamp_type: TimestampType = TimestampType::CreateTime;

    /// With CreateTime: records that claim to be older than now by more than this are refused.
    "message.timestamp.before.max.ms" => message_timestamp_before_max_ms: Option<Duration> = None;

    /// With CreateTime: records that claim to be from later than now by more than this are refused,
    /// since one record from the future keeps its segment from retention. Kafka's default.
    "message.timestamp.after.max.ms" => message_timestamp_after_max_ms: Option<Duration> =
        Some(Duration::from_secs(3600));

    /// What happens to old records. Compaction does not exist in this version.
    "cleanup.policy" => cleanup_policy: CleanupPolicy = CleanupPolicy::Delete;

    /// Whether the broker compresses anew. It does not in this version: producers choose.
    "compression.type" => compression_type: CompressionType = CompressionType::Producer;
}

/// How `min.insync.replicas` was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinInsyncReplicas {
    /// More than half of the replicas.
    Majority,
    /// Just so many, at least one.
    Count(u32),
}

/// How `durability` was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurabilityChoice {
    /// By the number of replicas that must hold a record.
    Auto,
    /// See [`Durability::Disk`].
    Disk,
    /// See [`Durability::Memory`].
    Memory,
}

/// What an acknowledged record is in, on each replica that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Synced to disk.
    Disk,
    /// In the page cache.
    Memory,
}

/// Which time a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// That of the append at the leader.
    LogAppendTime,
}

/// What happens to old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanupPolicy {
    /// Retention deletes them.
    Delete,
}

/// Whether the broker compresses anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// Batches stay as producers made them.
    Producer,
}

words!(DurabilityChoice { "auto" => Auto, "disk" => Disk, "memory" => Memory });
words!(TimestampType { "CreateTime" => CreateTime, "LogAppendTime" => LogAppendTime });

impl Value for MinInsyncReplicas {
    fn expects() -> String {
        "majority, or a number from 1".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "majority" => Ok(Self::Majority),
            Ok(count @ 1..) => Ok(Self::Count(count)),
            _ => Err(format!("{text:?} is no number of replicas")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Majority => "majority".to_owned(),
            Self::Count(count) => count.to_string(),
        }
    }
}

impl Value for CleanupPolicy {
    fn expects() -> String {
        "delete".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "delete" => Ok(Self::Delete),
            _ if text.contains("compact") => {
                Err("compaction does not exist in this version".to_owned())
            }
            _ => Err(format!("{text:?} is no cleanup policy")),
        }
    }

    fn show(&self) -> String {
        "delete".to_owned()
    }
}

impl Value for CompressionType {
    fn expects() -> String {
        "producer".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "producer" => Ok(Self::Producer),
            "none" | "uncompressed" | "gzip" | "snappy" | "lz4" | "zstd" => {
                Err(format!("the broker does not recompress; set {text} at the producer"))
            }
            _ => Err(format!("{text:?} is no compression")),
        }
    }

    fn show(&self) -> String {
        "producer".to_owned()
    }
}

/// The configuration of one topic with everything decided: what partitions work by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// `None`: kept whatever their age.
    pub retention: Option<Duration>,
    /// `None`: kept whatever their size.
    pub retention_bytes: Option<ByteSize>,
    /// Size at which a segment is sealed.
    pub segment_bytes: ByteSize,
    /// Age at which a segment is sealed.
    pub segment_age: Duration,
    /// Largest batch as it travels, without the frame.
    pub max_message_bytes: ByteSize,
    /// From 1 to the number of replicas, or more: then the topic takes no acks=all.
    pub min_insync_replicas: u32,
    /// What acks stand for.
    pub durability: Durability,
    /// Which time records carry.
    pub timestamp_type: TimestampType,
    /// `None`: records may be of any age.
    pub timestamp_before_max: Option<Duration>,
    /// `None`: records may be from any time to come.
    pub timestamp_after_max: Option<Duration>,
}

impl TopicDefaults {
    /// What the settings come to for a topic of `replication_factor` replicas (0 counts as 1).
    pub fn resolve(&self, replication_factor: u32) -> TopicConfig {
        let min_insync_replicas = match self.min_insync_replicas {
            MinInsyncReplicas::Majority => replication_factor.max(1) / 2 + 1,
            MinInsyncReplicas::Count(count) => count,
        };
        let durability = match self.durability {
            DurabilityChoice::Auto if min_insync_replicas == 1 => Durability::Disk,
            DurabilityChoice::Auto | DurabilityChoice::Memory => Durability::Memory,
            DurabilityChoice::Disk => Durability::Disk,
        };
        TopicConfig {
            retention: self.retention_ms,
            retention_bytes: self.retention_bytes,
            // Refused when it is set; may come about later by a change of the broker's defaults.
            segment_bytes: self.segment_bytes.max(self.max_message_bytes),
            segment_age: self.segment_ms,
            max_message_bytes: self.max_message_bytes,
            min_insync_replicas,
            durability,
            timestamp_type: self.message_timestamp_type,
            timestamp_before_max: self.message_timestamp_before_max_ms,
            timestamp_after_max: self.message_timestamp_after_max_ms,
        }
    }

    /// Whether a segment has no room for the largest batch; says so.
    pub(super) fn segments_too_small(&self) -> Option<String> {
        (self.segment_bytes < self.max_message_bytes).then(|| {
            format!(
                "a segment of {} has no room for a batch of {} (max.message.bytes)",
                self.segment_bytes, self.max_message_bytes
            )
        })
    }
}

impl Default for TopicConfig {
    /// All defaults, one replica.
    fn default() -> Self {
        TopicDefaults::default().resolve(1)
    }
}

impl Durability {
    /// As it is written in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_insync_replicas_and_durability_follow_the_replicas() {
        use Durability::{Disk, Memory};
        let cases = [(0, 1, Disk), (1, 1, Disk), (2, 2, Memory), (3, 2, Memory), (5, 3, Memory)];
        for (replicas, min_isr, durability) in cases {
            let config = TopicDefaults::default().resolve(replicas);
            assert_eq!(
                (config.min_insync_replicas, config.durability),
                (min_isr, durability),
                "{replicas} replicas"
            );
        }
        let one_is_enough = TopicDefaults {
            min_insync_replicas: MinInsyncReplicas::Count(1),
            ..TopicDefaults::default()
        };
        assert_eq!(one_is_enough.resolve(3).durability, Disk);
    }

    #[test]
    fn the_promised_defaults() {
        let config = TopicConfig::default();
        assert_eq!(config.segment_bytes, ByteSize::mib(256));
        assert_eq!(config.segment_age, 7 * DAY);
        assert_eq!(config.retention, Some(7 * DAY));
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.max_message_bytes.get(), 1_048_588);
        assert_eq!(config.timestamp_before_max, None);
        assert_eq!(config.timestamp_after_max, Some(Duration::from_secs(3600)));
    }
}
