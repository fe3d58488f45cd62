//! Every bound of the gRPC service in one place: those an operator may set come from the
//! configuration, under whose keys they are metered; the rest is fixed here, with its derivation.

use std::{num::NonZero, thread, time::Duration};

use riverrun_proto::limits::{BATCH_BYTES_MAX, GRPC_DECODE_BYTES_MAX};

use crate::config::{ByteSize, Config};

/// The bounds of one broker's service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of batches received and not yet answered, broker-wide (`produce.admission.percent`).
    pub admission_bytes: usize,
    /// Of these, what one partition may park while its log is not ready (`produce.parked.percent`).
    pub parked_bytes_max: usize,
    /// Bytes of unusually large messages being received, broker-wide: half as much again, since a
    /// message is held here until its batches are admitted.
    pub receive_bytes: usize,
    /// How long a unary produce waits for admission (`produce.admission.wait.ms`).
    pub admission_wait: Duration,
    /// Unanswered bytes of one ProduceStream (`produce.stream.in.flight.bytes`).
    pub stream_in_flight_bytes: usize,
    /// Unanswered batches of one ProduceStream: 256 partitions with all the batches in flight that
    /// one producer may have. Past it the stream is not read.
    pub stream_in_flight_batches: usize,
    /// Batches in one message of a ProduceStream. More than this do not make it faster.
    pub appends_per_message_max: usize,
    /// Wait for replicas and disk where the client names no time (`produce.ack.timeout.ms`).
    pub ack_timeout: Duration,
    /// The longest such wait, whatever the client says.
    pub ack_timeout_max: Duration,
    /// Largest batch taken.
    pub batch_bytes_max: usize,
    /// Records of one unary produce.
    pub unary_records_max: usize,
    /// Bytes of the keys, values and headers of one unary produce.
    pub unary_bytes_max: usize,
    /// Bytes of large answers on their way to readers, broker-wide (`fetch.memory.percent`).
    pub fetch_memory_bytes: usize,
    /// Bytes of one answer, where a single batch is not larger (`fetch.max.bytes`).
    pub response_bytes_max: usize,
    /// Credit of one FetchStream (`fetch.stream.credit.bytes.max`).
    pub credit_bytes_max: u64,
    /// Partitions of one fetch or stream (`fetch.partitions.max`).
    pub fetch_partitions_max: usize,
    /// Unary fetches that wait for records, broker-wide (`fetch.waiters.max`).
    pub fetch_waiters_max: usize,
    /// Calls passed on to other brokers at once, and as many tails: as many as answers of the
    /// largest size fit into the readers' memory, in reason.
    pub forwarded_max: usize,
    /// Bytes of one answer of another broker: a batch of the largest size and what goes around it.
    pub forwarded_answer_bytes_max: usize,
    /// Whether leaders send readers that named their rack to followers there
    /// (`fetch.follower.enable`).
    pub sends_to_followers: bool,
    /// Longest wait of a fetch (`fetch.max.wait.ms`).
    pub fetch_wait_max: Duration,
    /// Wait of a unary fetch that names none: Kafka's `fetch.max.wait.ms`.
    pub fetch_wait: Duration,
    /// Silence on a stream before a heartbeat (`fetch.heartbeat.ms`).
    pub fetch_heartbeat: Duration,
    /// Decompressions at once, broker-wide: one per core, as they do nothing but compute.
    pub decode_jobs_max: usize,
    /// Time for a unary call without a deadline (`network.request.timeout.ms`); also for the first
    /// request of a stream.
    pub request_timeout: Duration,
    /// How long a draining broker still reads a ProduceStream after it asked the client to
    /// reconnect: what was sent before the client heard of it is still taken.
    pub drain_read_wait: Duration,
    /// Topics one request may name, and the size of a page where the client names none.
    pub topics_per_request_max: usize,
    /// Partitions on one page of topics: about 30 bytes each, well below 4 MiB.
    pub partitions_per_page_max: usize,
    /// Partitions one ListOffsets or DeleteRecords may name.
    pub partitions_per_request_max: usize,
    /// Bytes of a request of a service that carries no records.
    pub control_request_bytes_max: usize,
    /// Bytes of a request that carries records.
    pub data_request_bytes_max: usize,
}

impl Limits {
    /// As `config` says, of a memory budget of `memory`.
    pub fn new(config: &Config, memory: ByteSize) -> Self {
        let (produce, fetch) = (&config.produce, &config.fetch);
        let admission = memory.percent(produce.admission_percent);
        Self {
            admission_bytes: admission.as_usize(),
            parked_bytes_max: admission.percent(produce.parked_percent).as_usize(),
            receive_bytes: memory.percent(produce.admission_percent / 2).as_usize(),
            admission_wait: produce.admission_wait_ms,
            stream_in_flight_bytes: produce.stream_in_flight_bytes.as_usize(),
            stream_in_flight_batches: 8192,
            appends_per_message_max: 4096,
            ack_timeout: produce.ack_timeout_ms,
            ack_timeout_max: Duration::from_secs(3600),
            batch_bytes_max: BATCH_BYTES_MAX as usize,
            unary_records_max: 10_000,
            unary_bytes_max: 1024 * 1024,
            fetch_memory_bytes: memory.percent(fetch.memory_percent).as_usize(),
            response_bytes_max: fetch.max_bytes.as_usize(),
            credit_bytes_max: fetch.stream_credit_bytes_max.get(),
            fetch_partitions_max: fetch.partitions_max as usize,
            fetch_waiters_max: fetch.waiters_max as usize,
            forwarded_max: (memory.percent(fetch.memory_percent).as_usize()
                / fetch.max_bytes.as_usize().max(1))
            .clamp(16, 256),
            forwarded_answer_bytes_max: GRPC_DECODE_BYTES_MAX + fetch.max_bytes.as_usize(),
            sends_to_followers: fetch.follower_enable,
            fetch_wait_max: fetch.max_wait_ms,
            fetch_wait: Duration::from_millis(500),
            fetch_heartbeat: fetch.heartbeat_ms,
            decode_jobs_max: thread::available_parallelism().map_or(1, NonZero::get),
            request_timeout: config.network.request_timeout_ms,
            drain_read_wait: Duration::from_secs(1),
            topics_per_request_max: 1_000,
            partitions_per_page_max: 50_000,
            partitions_per_request_max: 10_000,
            control_request_bytes_max: 1024 * 1024,
            data_request_bytes_max: GRPC_DECODE_BYTES_MAX,
        }
    }

    /// How long to wait for replicas and disk, where the client asked for `asked`.
    pub(super) fn ack_timeout_for(&self, asked: Option<Duration>) -> Duration {
        match asked {
            None | Some(Duration::ZERO) => self.ack_timeout,
            Some(asked) => asked.min(self.ack_timeout_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use riverrun_proto::limits::{DEFAULT_RESPONSE_BYTES_MAX, http2};

    use super::*;

    #[test]
    fn the_defaults_fit_each_other() {
        let limits = Limits::new(&Config::default(), ByteSize::mib(512));
        assert_eq!(limits.admission_bytes, ByteSize::mib(512).percent(40).as_usize());
        assert_eq!(limits.fetch_memory_bytes, 128 << 20);
        assert_eq!(limits.response_bytes_max, DEFAULT_RESPONSE_BYTES_MAX);
        assert!(limits.stream_in_flight_bytes < http2::CONNECTION_WINDOW_BYTES as usize);
        assert!(limits.stream_in_flight_bytes <= limits.admission_bytes);
        assert!(limits.unary_bytes_max < limits.data_request_bytes_max);
        assert!(limits.batch_bytes_max < limits.data_request_bytes_max);
    }
}
