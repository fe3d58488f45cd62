//! `[fetch]`: what readers may take.

use std::time::Duration;

use super::{section::section, units::ByteSize};

section! {
    /// What readers may take.
    pub struct FetchConfig in "fetch";

    /// Share of the memory budget for batches on their way to readers. When it is used up, readers
    /// wait their turn.
    "memory.percent" => memory_percent: u8 = 25, in 5 => 90;

    /// Share of the memory budget for batches being read from disk, so that one reader's history
    /// cannot starve another's tail.
    "cold.read.percent" => cold_read_percent: u8 = 15, in 1 => 90;

    /// Bytes of one answer to a unary Fetch or of one message of a stream, if the client asks for
    /// more or names nothing. gRPC clients refuse messages over 4 MiB unless told otherwise; a
    /// single larger batch is still sent.
    "max.bytes" => max_bytes: ByteSize =
        ByteSize::bytes(riverrun_proto::limits::DEFAULT_RESPONSE_BYTES_MAX as u64),
        in ByteSize::kib(64) => ByteSize::mib(64);

    /// Credit that the broker accepts on one FetchStream; what a client grants beyond is not used.
    "stream.credit.bytes.max" => stream_credit_bytes_max: ByteSize = ByteSize::mib(64),
        in ByteSize::kib(64) => ByteSize::gib(4);

    /// Partitions of one FetchStream or unary Fetch.
    "partitions.max" => partitions_max: u32 = 10_000, in 1 => 100_000;

    /// Fetches waiting for records, on the whole broker. Past it a fetch is answered at once with
    /// what there is.
    "waiters.max" => waiters_max: u32 = 100_000, in 16 => 10_000_000;

    /// Longest wait of a unary Fetch, whatever the client asked for.
    "max.wait.ms" => max_wait_ms: Duration = Duration::from_secs(30),
        in Duration::from_millis(10) => Duration::from_secs(600);

    /// Whether leaders send readers that name their rack (`client.rack`) to a replica in it that is in
    /// sync (`broker.rack`), as Kafka's RackAwareReplicaSelector does. Readers that name none are served
    /// by leaders in any case.
    "follower.enable" => follower_enable: bool = true;

    /// Silence on a FetchStream before the broker sends a heartbeat, so that the reader can tell an
    /// idle partition from a dead connection.
    "heartbeat.ms" => heartbeat_ms: Duration = Duration::from_secs(10),
        in Duration::from_millis(100) => Duration::from_secs(600);
}
