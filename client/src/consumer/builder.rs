//! Options of a consumer, their defaults and what they may be.

use std::{fmt, sync::Arc, time::Duration};

use super::{Consumer, fetcher::Fetcher, shared::Shared};
use crate::{
    client::Client,
    config,
    error::{Error, Result},
    metadata::Freshness,
    retry::RetryPolicy,
    topic::{OffsetReset, Position, TopicPartition},
};

/// Least prefetch: a batch of default size and some.
const PREFETCH_MIN: u64 = 64 * 1024;

/// Characters of a rack; no broker's has more.
const RACK_CHARS_MAX: usize = 255;

/// What a consumer was built with; verified.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerConfig {
    pub(crate) reset: OffsetReset,
    pub(crate) prefetch_bytes: u64,
    pub(crate) partition_bytes: u32,
    pub(crate) min_bytes: u32,
    pub(crate) max_wait: Duration,
    pub(crate) read_committed: bool,
    pub(crate) silence_timeout: Duration,
    pub(crate) end_events: bool,
    pub(crate) retry: RetryPolicy,
    /// Empty: none.
    pub(crate) rack: String,
}

/// Options of a [`Consumer`]. Kafka's names; times are durations, sizes bytes.
#[derive(Clone)]
#[must_use = "call build()"]
pub struct ConsumerBuilder {
    client: Client,
    config: ConsumerConfig,
    assigned: Vec<(TopicPartition, Position)>,
    whole_topics: Vec<(Arc<str>, Position)>,
}

// === impl ConsumerConfig ===

impl ConsumerConfig {
    fn new(retry: RetryPolicy, request_timeout: Duration) -> Self {
        Self {
            reset: OffsetReset::Earliest,
            prefetch_bytes: 16 * 1024 * 1024,
            partition_bytes: 1024 * 1024,
            min_bytes: 1,
            max_wait: Duration::from_millis(500),
            read_committed: false,
            silence_timeout: request_timeout,
            end_events: false,
            retry,
            rack: String::new(),
        }
    }

    fn verify(&self) -> Result<()> {
        if self.prefetch_bytes < PREFETCH_MIN {
            return Err(Error::invalid(format!(
                "prefetch_bytes is at least {PREFETCH_MIN}, not {}",
                self.prefetch_bytes
            )));
        }
        if self.rack.chars().count() > RACK_CHARS_MAX {
            return Err(Error::invalid(format!("rack has at most {RACK_CHARS_MAX} characters")));
        }
        config::not_zero("silence_timeout", self.silence_timeout)?;
        config::verify_retry(&self.retry)
    }
}

// === impl ConsumerBuilder ===

impl ConsumerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        let config = ConsumerConfig::new(client.config().retry, client.config().request_timeout);
        Self { client, config, assigned: Vec::new(), whole_topics: Vec::new() }
    }

    /// Partitions to read, and where each begins. May be called more than once.
    pub fn assign<T, I>(mut self, partitions: I) -> Self
    where
        T: Into<Arc<str>>,
        I: IntoIterator<Item = (T, u32, Position)>,
    {
        self.assigned.extend(
            partitions
                .into_iter()
                .map(|(topic, index, at)| (TopicPartition::new(topic, index), at)),
        );
        self
    }

    /// All partitions of a topic, each from `position`. Partitions added later are found within
    /// the client's `metadata_max_age` and read from their beginning.
    pub fn assign_all(mut self, topic: impl Into<Arc<str>>, position: Position) -> Self {
        self.whole_topics.push((topic.into(), position));
        self
    }

    /// What to do when a position lies outside the log. Default [`OffsetReset::Earliest`].
    pub fn auto_offset_reset(mut self, reset: OffsetReset) -> Self {
        self.config.reset = reset;
        self
    }

    /// Bytes fetched ahead of the reader, as they travel: batches stay compressed until the reader
    /// gets to them, and one at a time is decompressed, so the consumer's memory is this and one
    /// decompressed batch. One batch may exceed it, so that a large one never sticks; after the
    /// leaders have become more, it may be up to twice as much until it was read. Default 16 MiB.
    pub fn prefetch_bytes(mut self, bytes: u64) -> Self {
        self.config.prefetch_bytes = bytes;
        self
    }

    /// Bytes of one partition the broker sends in one piece; a larger batch is sent alone.
    /// Default 1 MiB.
    pub fn max_partition_fetch_bytes(mut self, bytes: u32) -> Self {
        self.config.partition_bytes = bytes;
        self
    }

    /// Bytes the broker gathers before it sends, for [`fetch_max_wait`](Self::fetch_max_wait) at
    /// most. Default 1.
    pub fn fetch_min_bytes(mut self, bytes: u32) -> Self {
        self.config.min_bytes = bytes;
        self
    }

    /// Longest time the broker gathers. Default 500 ms.
    pub fn fetch_max_wait(mut self, wait: Duration) -> Self {
        self.config.max_wait = wait;
        self
    }

    /// Leave out records of transactions that were not committed. Default off.
    pub fn read_committed(mut self, on: bool) -> Self {
        self.config.read_committed = on;
        self
    }

    /// A stream on which not even a heartbeat came for this long is dead and replaced; brokers
    /// send one at least every 10 s. Default: the client's request timeout, 30 s.
    pub fn silence_timeout(mut self, timeout: Duration) -> Self {
        self.config.silence_timeout = timeout;
        self
    }

    /// Tell when the end of a partition is reached, through
    /// [`Consumer::events`]. Default off.
    pub fn end_of_partition_events(mut self, on: bool) -> Self {
        self.config.end_events = on;
        self
    }

    /// Bounds of the wait before something that failed is tried again. Default: the client's.
    pub fn retry_backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.config.retry = RetryPolicy { initial, max };
        self
    }

    /// Where this consumer runs, in the words of the brokers' `broker.rack`: Kafka's `client.rack`.
    /// Leaders then send it to replicas in its rack that are in sync, where there are any, and it reads
    /// from those: less traffic between racks, for records that come later by the time a leader takes to
    /// tell its followers what is committed. A choice holds for the client's `metadata_max_age`; whatever
    /// goes wrong with such a replica, its leader is read from at once, and nothing is lost or read twice.
    /// Default: none, and leaders are read from.
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.config.rack = rack.into();
        self
    }

    /// Checks the options and starts fetching in a background task on the current tokio runtime.
    /// A broker is asked only for the partitions of [`assign_all`](Self::assign_all).
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), naming the option, or if there is
    /// no runtime. What a broker answered about a topic of `assign_all`. Topics of `assign` that
    /// do not exist show when the consumer is polled.
    pub async fn build(self) -> Result<Consumer> {
        let Self { client, config, mut assigned, whole_topics } = self;
        config.verify()?;
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| Error::invalid("a consumer is built inside a tokio runtime"))?;
        for (_, position) in &assigned {
            super::verify_position(*position)?;
        }
        for (name, position) in &whole_topics {
            super::verify_position(*position)?;
            let within = client.config().request_timeout;
            let ask = || client.metadata().topic(name, Freshness::Cached, false);
            let topic = client
                .with_retries(within, true, ask)
                .await
                .map_err(|error| error.context(format_args!("topic {name:?}")))?;
            let all = topic.partitions.iter();
            assigned.extend(all.map(|partition| {
                (TopicPartition::new(Arc::clone(name), partition.index), *position)
            }));
        }
        if assigned.is_empty() {
            return Err(Error::invalid("no partition is assigned; call assign or assign_all"));
        }
        let shared = Shared::new(config);
        for (partition, position) in assigned {
            shared.assign(partition, position);
        }
        let whole_topics = whole_topics.into_iter().map(|(name, _)| name).collect();
        runtime.spawn(Fetcher::new(Arc::clone(&shared), client.clone(), whole_topics).run());
        Ok(Consumer::new(shared, client))
    }
}

impl fmt::Debug for ConsumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder")
            .field("assigned", &self.assigned)
            .field("whole_topics", &self.whole_topics)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
