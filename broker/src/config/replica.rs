//! `[replica]`: how far behind a replica may be, and what goes between brokers for it.

use std::time::Duration;

use super::{section::section, units::ByteSize};

section! {
    /// How far behind a replica may be, and what goes between brokers for it.
    pub struct ReplicaConfig in "replica";

    /// A member of the ISR that has not reached, for so long, where its leader's log ended then, is
    /// taken out of it: producers with acks=all wait for it no more. One whose broker is gone is
    /// out sooner, when that is fenced (broker.session.timeout.ms).
    "lag.time.max.ms" => lag_time_max_ms: Duration = Duration::from_secs(10),
        in Duration::from_secs(3) => Duration::from_secs(600);

    /// How far a member of the ISR may be behind its leader before producers of the partition wait
    /// for it, so that load puts nobody out of the ISR. One that alone makes them wait for most of the
    /// time, while another follower is fast, is taken out of it before replica.lag.time.max.ms has gone
    /// by, where min.insync.replicas can do without it. Producers with acks=all have a quarter of
    /// produce.admission.percent (by default a tenth of broker.memory.budget) on their way to a partition
    /// at most: they never get anybody as far behind as a larger value here.
    "lag.bytes.max" => lag_bytes_max: ByteSize = ByteSize::mib(64),
        in ByteSize::mib(1) => ByteSize::gib(16);

    /// What a leader sends a follower of a partition ahead of its acknowledgements: bandwidth times
    /// round trip of the longest link between brokers.
    "window.bytes" => window_bytes: ByteSize = ByteSize::mib(8),
        in ByteSize::kib(64) => ByteSize::gib(1);

    /// Batches of one partition that go to a follower at once, about, before another partition has
    /// its turn (Kafka's replica.fetch.max.bytes).
    "push.bytes" => push_bytes: ByteSize = ByteSize::kib(128),
        in ByteSize::kib(4) => ByteSize::mib(8);
}
