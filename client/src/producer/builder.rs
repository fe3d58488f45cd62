//! Options of a producer, their defaults and what they may be.

use std::{fmt, sync::Arc, time::Duration};

use riverrun_proto::{
    limits::{BATCH_BYTES_MAX, PACK_TARGET_BYTES, PRODUCER_BATCHES_REMEMBERED},
    record::{BatchOptions, Codec},
};

use super::{Producer, budget::Budget, partitioner::Partitioner};
use crate::{
    client::Client,
    config::{self, Acks},
    error::{Error, Result},
    retry::RetryPolicy,
};

/// Largest `batch_size`: above it latency grows and throughput does not.
const BATCH_SIZE_MAX: usize = 1024 * 1024;

/// What a producer was built with; verified.
#[derive(Clone, Debug)]
pub(crate) struct ProducerConfig {
    pub(crate) acks: Acks,
    pub(crate) linger: Duration,
    pub(crate) batch_size: usize,
    pub(crate) buffer_memory: usize,
    pub(crate) max_request_size: usize,
    pub(crate) compression: Codec,
    pub(crate) compression_level: Option<i32>,
    pub(crate) max_in_flight: usize,
    pub(crate) delivery_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) partitioner: Partitioner,
    pub(crate) idempotence: bool,
}

/// Options of a [`Producer`]. Kafka's names; times are durations, sizes bytes.
#[derive(Clone)]
#[must_use = "call build()"]
pub struct ProducerBuilder {
    client: Client,
    config: ProducerConfig,
}

// === impl ProducerConfig ===

impl ProducerConfig {
    fn new(retry: RetryPolicy, request_timeout: Duration) -> Self {
        Self {
            acks: Acks::All,
            linger: Duration::from_millis(5),
            batch_size: PACK_TARGET_BYTES,
            buffer_memory: 32 * 1024 * 1024,
            max_request_size: 1024 * 1024,
            compression: Codec::Lz4,
            compression_level: None,
            max_in_flight: PRODUCER_BATCHES_REMEMBERED,
            delivery_timeout: Duration::from_secs(120),
            request_timeout,
            retry,
            partitioner: Partitioner::default(),
            idempotence: true,
        }
    }

    fn verify(&self) -> Result<()> {
        let within = |name: &str, value: usize, min: usize, max: usize| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(Error::invalid(format!("{name} is {min} to {max}, not {value}")))
        };
        within("batch_size", self.batch_size, 1, BATCH_SIZE_MAX)?;
        within("max_request_size", self.max_request_size, 1_024, BATCH_BYTES_MAX as usize)?;
        within("max_in_flight", self.max_in_flight, 1, PRODUCER_BATCHES_REMEMBERED)?;
        within("buffer_memory", self.buffer_memory, self.max_request_size, Budget::CAPACITY_MAX)
            .map_err(|error| error.context("a record of max_request_size must fit"))?;
        config::not_zero("request_timeout", self.request_timeout)?;
        config::verify_retry(&self.retry)?;
        if self.delivery_timeout < self.linger + self.request_timeout {
            return Err(Error::invalid(format!(
                "delivery_timeout ({:?}) must leave time for linger ({:?}) and one request \
                 ({:?}); lower request_timeout or raise it",
                self.delivery_timeout, self.linger, self.request_timeout
            )));
        }
        if let Some(level) = self.compression_level {
            let levels = self.compression.levels();
            if !levels.as_ref().is_some_and(|levels| levels.contains(&level)) {
                return Err(Error::invalid(match levels {
                    Some(levels) => format!(
                        "{} has levels {} to {}, not {level}",
                        self.compression,
                        levels.start(),
                        levels.end()
                    ),
                    None => format!("{} has no compression levels", self.compression),
                }));
            }
        }
        Ok(())
    }

    /// How long a leader may wait for its replicas: a little less than this client waits for the
    /// answer, so that it is the broker that says what was missing.
    pub(crate) fn ack_timeout(&self) -> Duration {
        self.request_timeout - (self.request_timeout / 10).min(Duration::from_secs(1))
    }

    pub(crate) fn batch_options(&self, topic_bytes_max: u32) -> BatchOptions {
        BatchOptions {
            codec: self.compression,
            compression_level: self.compression_level,
            size_budget: self.batch_size,
            bytes_max: self.bytes_max(topic_bytes_max),
            ..BatchOptions::default()
        }
    }

    /// Largest batch: what this producer allows and the topic takes (0: it did not say).
    pub(crate) fn bytes_max(&self, topic_bytes_max: u32) -> usize {
        match topic_bytes_max as usize {
            0 => self.max_request_size,
            max => max.min(self.max_request_size),
        }
    }
}

// === impl ProducerBuilder ===

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        let config = ProducerConfig::new(client.config().retry, client.config().request_timeout);
        Self { client, config }
    }

    /// When a record counts as written. Default [`Acks::All`].
    pub fn acks(mut self, acks: Acks) -> Self {
        self.config.acks = acks;
        self
    }

    /// Longest time that a batch waits for company, and only while another batch of its partition
    /// is in flight: an idle partition sends at once. Default 5 ms.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// Bytes of a full batch, before compression, at most 1 MiB. A larger record has a batch to
    /// itself. Default 64 KiB.
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.config.batch_size = bytes;
        self
    }

    /// Bytes of records that may wait or be in flight, as [`Record::size`](crate::Record::size)
    /// counts them. At the bound [`send`](Producer::send) waits. Default 32 MiB.
    ///
    /// Beside it a batch takes memory while it is compressed and sent: at most the window the
    /// broker advertises, and one batch; and 2 MiB of empty buffers are kept for the next ones.
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.config.buffer_memory = bytes;
        self
    }

    /// Bytes of the largest record, before compression; the topic's `max.message.bytes` holds as
    /// well. Default 1 MiB.
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.config.max_request_size = bytes;
        self
    }

    /// What batches are compressed with. Default [`Codec::Lz4`].
    pub fn compression(mut self, codec: Codec) -> Self {
        self.config.compression = codec;
        self
    }

    /// See [`Codec::levels`]. Default: the codec's.
    pub fn compression_level(mut self, level: i32) -> Self {
        self.config.compression_level = Some(level);
        self
    }

    /// Batches of one partition in flight; 1 to 32. Order holds whatever it is, as long as
    /// [`enable_idempotence`](Self::enable_idempotence) is on; without, only 1 keeps order.
    /// Default 32; the broker may advertise fewer.
    pub fn max_in_flight(mut self, batches: usize) -> Self {
        self.config.max_in_flight = batches;
        self
    }

    /// Time from `send` to success or failure, retries included. Default 120 s.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.config.delivery_timeout = timeout;
        self
    }

    /// Time after which a batch without an answer means that the connection is dead.
    /// Default: the client's, 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// Bounds of the wait before a refused batch or a lost connection is tried again: the first
    /// and the longest; see [`ClientBuilder::retry_backoff`](crate::ClientBuilder::retry_backoff).
    /// Default: the client's, 50 ms to 1 s.
    pub fn retry_backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.config.retry = RetryPolicy { initial, max };
        self
    }

    /// How records are spread over partitions. Default [`Partitioner::Murmur2`].
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.config.partitioner = partitioner;
        self
    }

    /// Shorthand for [`Partitioner::Custom`].
    pub fn partition_with(self, partition: impl super::ChoosePartition) -> Self {
        self.partitioner(Partitioner::Custom(Arc::new(partition)))
    }

    /// Batches carry a producer id and a sequence, so that a retry is never stored twice and never
    /// overtakes. Off, a retry after a lost connection may repeat and reorder. Default on.
    pub fn enable_idempotence(mut self, on: bool) -> Self {
        self.config.idempotence = on;
        self
    }

    /// Checks the options and starts the producer's background task on the current tokio runtime.
    /// No broker is asked yet.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), naming the option, or if there is
    /// no runtime.
    #[expect(clippy::unused_async, reason = "a named producer will have to ask a broker here")]
    pub async fn build(self) -> Result<Producer> {
        self.config.verify()?;
        Producer::start(self.client, self.config)
    }
}

impl fmt::Debug for ProducerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> ProducerConfig {
        ProducerConfig::new(RetryPolicy::default(), Duration::from_secs(30))
    }

    #[test]
    fn the_defaults_are_those_promised() {
        let config = valid();
        config.verify().unwrap();
        assert_eq!((config.acks, config.compression), (Acks::All, Codec::Lz4));
        assert_eq!((config.batch_size, config.buffer_memory), (64 << 10, 32 << 20));
        assert_eq!(config.linger, Duration::from_millis(5));
        assert_eq!(config.delivery_timeout, Duration::from_secs(120));
        assert_eq!((config.max_in_flight, config.idempotence), (32, true));
        assert_eq!(config.retry.initial, Duration::from_millis(50));
        assert_eq!(config.retry.max, Duration::from_secs(1));
        assert_eq!(config.ack_timeout(), Duration::from_secs(29));
    }

    #[test]
    fn each_mistake_is_named() {
        let cases: [(&str, ProducerConfig); 8] = [
            ("batch_size", ProducerConfig { batch_size: 0, ..valid() }),
            ("batch_size", ProducerConfig { batch_size: 2 << 20, ..valid() }),
            ("max_in_flight", ProducerConfig { max_in_flight: 33, ..valid() }),
            ("max_request_size", ProducerConfig { max_request_size: 1 << 30, ..valid() }),
            ("buffer_memory", ProducerConfig { buffer_memory: 1_000, ..valid() }),
            (
                "delivery_timeout",
                ProducerConfig { delivery_timeout: Duration::from_secs(30), ..valid() },
            ),
            ("levels", ProducerConfig { compression_level: Some(1), ..valid() }),
            (
                "levels",
                ProducerConfig {
                    compression: Codec::Zstd,
                    compression_level: Some(1_000),
                    ..valid()
                },
            ),
        ];
        for (name, config) in cases {
            let error = config.verify().unwrap_err();
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn the_smaller_of_the_two_limits_holds() {
        let config = valid();
        assert_eq!(config.bytes_max(0), 1 << 20);
        assert_eq!(config.bytes_max(1_000), 1_000);
        assert_eq!(config.bytes_max(64 << 20), 1 << 20);
    }
}
