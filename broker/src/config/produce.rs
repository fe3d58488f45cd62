//! `[produce]`: what producers may have on its way, and what the broker remembers of them.

use std::time::Duration;

use super::{section::section, units::ByteSize};

section! {
    /// What producers may have on its way, and what the broker remembers of them.
    pub struct ProduceConfig in "produce";

    /// Share of the memory budget for batches received and not yet acknowledged. When it is used
    /// up, streams are not read and unary calls wait. One partition gets a quarter of it at most,
    /// less while others have much. Half as much again is for large messages being received.
    "admission.percent" => admission_percent: u8 = 40, in 5 => 90;

    /// Share of that which one partition may park in front of a log that is not ready (a new
    /// segment is being made, the disk is slow). Past it batches for this partition are refused, to
    /// be sent again; the others go on.
    "parked.percent" => parked_percent: u8 = 25, in 1 => 100;

    /// How long a unary call waits for admission before it is told to come back later
    /// (RESOURCE_EXHAUSTED with a delay); and how long a partition that has its share may stand
    /// still before a stream's batches for it are told the same, so that others on the stream go on.
    "admission.wait.ms" => admission_wait_ms: Duration = Duration::from_secs(5),
        in Duration::ZERO => Duration::from_secs(60);

    /// Unacknowledged bytes of one ProduceStream, announced to the client when it opens. Below the
    /// HTTP/2 connection window, so that acks and other calls still pass. A single larger batch is
    /// let through alone.
    "stream.in.flight.bytes" => stream_in_flight_bytes: ByteSize = ByteSize::mib(8),
        in ByteSize::kib(64) => ByteSize::gib(1);

    /// How long the broker waits for replicas and disk where the client named no time.
    "ack.timeout.ms" => ack_timeout_ms: Duration = Duration::from_secs(30),
        in Duration::from_millis(100) => Duration::from_secs(3600);

    /// Idempotent producers remembered per partition, about 1 KiB each when busy. Past it the one
    /// unused for longest is forgotten: its retries are refused rather than written twice.
    "producers.per.partition.max" => producers_per_partition_max: u32 = 10_000, in 1 => 100_000;

    /// A producer that wrote nothing for so long is forgotten (Kafka's key and default). Must
    /// exceed the longest time that clients retry.
    "producer.id.expiration.ms" => producer_id_expiration_ms: Duration =
        Duration::from_secs(86_400), in Duration::from_secs(1) => Duration::from_secs(30 * 86_400);
}
