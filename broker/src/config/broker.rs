//! `[broker]`: who this broker is, where its data lives, what it may take of the machine.

use std::{path::PathBuf, time::Duration};

use super::{
    section::section,
    units::ByteSize,
    value::{MemoryBudget, Value},
};
use crate::config::machine;

/// Under this, group commit and read-ahead have no room to work and streams stall one another; a
/// share of a small machine is raised to it.
pub const MEMORY_BUDGET_MIN: ByteSize = ByteSize::mib(64);

section! {
    /// Who this broker is, where its data lives, what it may take of the machine.
    pub struct BrokerConfig in "broker";

    /// Number of this broker in its cluster. Written into the data directory on first start; a
    /// directory of another broker is refused.
    "node.id" => node_id: u32 = 1, in 0 => 2_147_483_647;

    /// Directory of all data. Made if missing, locked while the broker runs.
    "data.dir" => data_dir: PathBuf = PathBuf::from("riverrun-data");

    /// Rack or zone this broker stands in, as clients and replica placement know it.
    "rack" => rack: Option<String> = None;

    /// Memory for data on its way: produce requests being appended, responses being sent, batches
    /// read from disk. A share is of what the machine or the container's cgroup (v1 or v2) allows,
    /// at least 64MiB. Not in it: HTTP/2 windows (network.max.connections times
    /// network.http2.connection.window.bytes, if every client fills its window) and the page cache.
    "memory.budget" => memory_budget: MemoryBudget = MemoryBudget::Share(25);

    /// Partitions this broker holds at most. Each costs file handles and some KiB of memory even
    /// when idle; creating more topics is refused with the reason.
    "partitions.max" => partitions_max: u32 = 10_000, in 1 => 200_000;

    /// Partitions of a topic whose creator named no number.
    "num.partitions" => num_partitions: u32 = 1,
        in 1 => riverrun_proto::limits::PARTITIONS_PER_TOPIC_MAX;

    /// Replicas of a topic whose creator named no number. With 1, what a broker holds is gone while
    /// it is away, and lost with its disk; 3 survive the loss of one and go on.
    "default.replication.factor" => default_replication_factor: u32 = 1, in 1 => 16;

    /// Create a topic when somebody produces to it. Off: a mistyped name should be an error.
    /// `riverrun dev` turns it on.
    "auto.create.topics.enable" => auto_create_topics_enable: bool = false;

    /// A broker that was not heard from for so long is fenced: others lead its partitions. Of the
    /// node that leads the metadata quorum; the same on all nodes.
    "session.timeout.ms" => session_timeout_ms: Duration = Duration::from_secs(6),
        in Duration::from_secs(1) => Duration::from_secs(600);

    /// How often a broker says that it is there. A few times within the session timeout.
    "heartbeat.interval.ms" => heartbeat_interval_ms: Duration = Duration::from_millis(500),
        in Duration::from_millis(50) => Duration::from_secs(60);

    /// How far a broker's wall clock may be from that of the node that leads the metadata quorum. One
    /// that comes with a clock further away is not taken in; one that is in stays in, is named by
    /// `riverrun cluster health`, and deletes nothing for its age (retention.ms) until its clock is right.
    /// Well above what NTP leaves, well below any retention. The same on all nodes.
    "clock.offset.max.ms" => clock_offset_max_ms: Duration = Duration::from_secs(10),
        in Duration::from_millis(100) => Duration::from_secs(24 * 3600);

    /// How long a stopping broker lets calls in flight finish and streams reconnect elsewhere
    /// before it closes their connections. Acknowledged records are safe either way.
    "shutdown.drain.ms" => shutdown_drain_ms: Duration = Duration::from_secs(30),
        in Duration::ZERO => Duration::from_secs(3600);
}

impl BrokerConfig {
    /// The memory budget in bytes, on this machine. Reads `/proc` and `/sys`; call it once, at start.
    pub fn memory_budget_bytes(&self) -> ByteSize {
        self.memory_budget.of(machine::memory())
    }
}

impl MemoryBudget {
    /// In bytes, where `memory` is what the process may use in all.
    pub fn of(self, memory: ByteSize) -> ByteSize {
        match self {
            Self::Fixed(size) => size,
            Self::Share(percent) => memory.percent(percent).max(MEMORY_BUDGET_MIN),
        }
    }

    /// Whether it is a fixed size too small to work with; says so.
    pub(super) fn too_small(self) -> Option<String> {
        match self {
            Self::Fixed(size) if size < MEMORY_BUDGET_MIN => {
                Some(format!("{} is below the least, {MEMORY_BUDGET_MIN}", size.show()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_small_machine_is_raised_to_the_floor() {
        assert_eq!(MemoryBudget::Share(25).of(ByteSize::gib(8)), ByteSize::gib(2));
        assert_eq!(MemoryBudget::Share(25).of(ByteSize::mib(128)), MEMORY_BUDGET_MIN);
        assert_eq!(MemoryBudget::Fixed(ByteSize::gib(1)).of(ByteSize::mib(1)), ByteSize::gib(1));
        assert!(BrokerConfig::default().memory_budget_bytes() >= MEMORY_BUDGET_MIN);
    }
}
