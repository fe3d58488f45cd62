//! `[log]`: how segments are written, flushed and cleaned. What a topic may override is in
//! `[topic]`.

use std::time::Duration;

use super::{section::section, units::ByteSize};

section! {
    /// How segments are written, flushed and cleaned. What a topic may override is in `[topic]`.
    pub struct LogConfig in "log";

    /// Bytes between two entries of a segment's offset and time indexes. A lookup scans at most
    /// this much; every entry costs 20 bytes.
    "index.interval.bytes" => index_interval_bytes: ByteSize = ByteSize::kib(4),
        in ByteSize::bytes(1) => ByteSize::mib(16);

    /// Bytes of one data directory above its partitions' recovery points: with
    /// durability=memory, what a flusher keeps the page cache from growing past, and what recovery
    /// after a kill has to scan.
    "flush.dirty.bytes.max" => flush_dirty_bytes_max: ByteSize = ByteSize::gib(1),
        in ByteSize::mib(16) => ByteSize::gib(64);

    /// A partition's recovery point is written when this much lies above it, besides what the
    /// flusher does: how much of it is read after a kill.
    "checkpoint.bytes" => checkpoint_bytes: ByteSize = ByteSize::mib(256),
        in ByteSize::mib(1) => ByteSize::gib(64);

    /// Room set aside in a reserve file of the data directory. It is freed when the disk is full,
    /// so that checkpoints, metadata and deletions still find room.
    "reserve.bytes" => reserve_bytes: ByteSize = ByteSize::mib(64),
        in ByteSize::bytes(0) => ByteSize::gib(16);

    /// Window that is allocated ahead of a partition's writer, and mapped for small batches with
    /// durability=memory, to begin with. Doubles with the rate; ten thousand idle partitions have none.
    "window.bytes.min" => window_bytes_min: ByteSize = ByteSize::kib(64),
        in ByteSize::kib(4) => ByteSize::mib(64);

    /// Largest window of one partition: at 1 GB/s, 16 ms ahead.
    "window.bytes.max" => window_bytes_max: ByteSize = ByteSize::mib(16),
        in ByteSize::kib(64) => ByteSize::gib(1);

    /// What the windows of all partitions may exceed their least by, together.
    "window.budget.bytes" => window_budget_bytes: ByteSize = ByteSize::mib(512),
        in ByteSize::mib(1) => ByteSize::gib(64);

    /// A partition without an append for this long gives back the map and the rest of its window.
    "window.idle.ms" => window_idle_ms: Duration = Duration::from_secs(600),
        in Duration::from_secs(1) => Duration::from_secs(86_400);

    /// Sealed segments kept open for readers, of all partitions together: a map and a file handle
    /// each.
    "open.segments.max" => open_segments_max: u32 = 1_024, in 16 => 1_000_000;

    /// Memory for the indexes of those.
    "open.indexes.bytes" => open_indexes_bytes: ByteSize = ByteSize::mib(64),
        in ByteSize::mib(1) => ByteSize::gib(64);

    /// How often retention looks for segments to delete, and rolls those that are too old.
    "retention.check.interval.ms" => retention_check_interval_ms: Duration =
        Duration::from_secs(300), in Duration::from_millis(100) => Duration::from_secs(86_400);

    /// Threads that read, sync, create and delete files, so that no network thread ever waits for
    /// a disk. 0: four per core, at least eight.
    "io.threads" => io_threads: u32 = 0, in 0 => 512;
}
