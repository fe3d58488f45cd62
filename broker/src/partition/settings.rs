//! What a topic's configuration means to one of its partitions.

use std::time::Duration;

use riverrun_proto::timestamp::Timestamp;

use super::{
    produce::{Append, ProduceError},
    registry::RegistryEnv,
};
use crate::{
    config::{self, TimestampType, TopicOverrides},
    io::WriteMode,
    log::{LogConfig, RetentionPolicy},
    metadata::Topic,
    replica::Durability,
};

/// What a topic's configuration means to one of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `max.message.bytes`
    pub max_message_bytes: usize,
    /// What acknowledgements survive.
    pub durability: Durability,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`
    pub timestamp_before_max: Option<Duration>,
    /// `message.timestamp.after.max.ms`
    pub timestamp_after_max: Option<Duration>,
    /// `retention.bytes`, `retention.ms`
    pub retention: RetentionPolicy,
}

impl Settings {
    /// What `topic`'s overrides and the broker's defaults come to, for the partition and for its log.
    pub(super) fn of_topic(topic: &Topic, env: &RegistryEnv) -> (Self, LogConfig) {
        let (overrides, problems) = TopicOverrides::understood(&topic.configs);
        if !problems.is_empty() {
            // Written by another version: what is understood holds, the data stays readable.
            tracing::error!(topic = %topic.name, %problems, "stored topic configuration not understood");
        }
        let replicas = u32::try_from(topic.replication_factor()).unwrap_or(u32::MAX);
        let config = overrides.resolve(&env.topic_defaults, replicas);
        let (durability, write_mode) = match config.durability {
            config::Durability::Disk => (Durability::Disk, WriteMode::Write),
            config::Durability::Memory => (Durability::Memory, WriteMode::Map),
        };
        let settings = Self {
            max_message_bytes: usize::try_from(config.max_message_bytes.get())
                .unwrap_or(usize::MAX),
            durability,
            timestamp_type: config.timestamp_type,
            timestamp_before_max: config.timestamp_before_max,
            timestamp_after_max: config.timestamp_after_max,
            retention: RetentionPolicy {
                age: config.retention,
                bytes: config.retention_bytes.map(config::ByteSize::get),
            },
        };
        let (log, produce) = (&env.log_settings, &env.produce_settings);
        let log = LogConfig {
            segment_bytes: config.segment_bytes.get(),
            segment_age: config.segment_age,
            index_interval_bytes: u32::try_from(log.index_interval_bytes.get()).unwrap_or(u32::MAX),
            write_mode,
            window_min: log.window_bytes_min.get(),
            window_max: log.window_bytes_max.get(),
            idle_after: log.window_idle_ms,
            checkpoint_bytes: log.checkpoint_bytes.get(),
            producer_id_expiration: produce.producer_id_expiration_ms,
            producers_max: produce.producers_per_partition_max as usize,
        };
        (settings, log)
    }

    /// What can be said of a batch without looking at the partition.
    pub(super) fn check(&self, append: &Append, now: Timestamp) -> Result<(), ProduceError> {
        let bytes = append.batch.bytes().len();
        if bytes > self.max_message_bytes {
            return Err(ProduceError::TooLarge { bytes, max: self.max_message_bytes });
        }
        if self.timestamp_type == TimestampType::LogAppendTime {
            return Ok(());
        }
        let header = append.batch.header();
        let bounds = [
            (
                self.timestamp_before_max,
                now.duration_since(header.base_timestamp),
                header.base_timestamp,
                "before",
                "message.timestamp.before.max.ms",
            ),
            (
                self.timestamp_after_max,
                header.max_timestamp.duration_since(now),
                header.max_timestamp,
                "after",
                "message.timestamp.after.max.ms",
            ),
        ];
        for (bound, distance, timestamp, side, key) in bounds {
            if let Some(bound) = bound
                && distance > bound
            {
                let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
                return Err(ProduceError::InvalidTimestamp { timestamp, now, bound_ms, side, key });
            }
        }
        Ok(())
    }
}
