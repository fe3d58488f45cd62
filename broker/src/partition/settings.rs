//! What a topic's configuration means to one of its partitions.

use std::time::Duration;

use riverrun_proto::{record::TimestampType, timestamp::Timestamp};

use super::produce::{Append, ProduceError};
use crate::{log::RetentionPolicy, replica::Durability};

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
    /// What can be said of a batch without looking at the partition.
    fn check(&self, append: &Append, now: Timestamp) -> Result<(), ProduceError> {
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

