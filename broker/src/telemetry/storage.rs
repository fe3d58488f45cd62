//! The log and its disk.

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, histogram::Histogram},
    registry::Unit,
};

use super::{
    Registry,
    gauges::{Family, encode_gauge},
};

/// Upper ends of the buckets of an append, in seconds: a memcpy into a populated window takes a
/// microsecond, one that waits for a roll or a page fault milliseconds.
const APPEND_BUCKETS: [f64; 13] = [
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_5,
    0.001,
    0.005,
    0.025,
    0.1,
    1.0,
];

/// Upper ends of the buckets of a sync, in seconds: NVMe 50 us, a cloud disk a millisecond, a sick
/// one seconds.
const FSYNC_BUCKETS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5,
    10.0,
];

/// Metrics of the log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StorageMetrics {
    append: Histogram,
    fsync: Histogram,
}

/// The state of the data directory and its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSample {
    /// Size of the file system, in bytes.
    pub total: u64,
    /// What we may still take, in bytes.
    pub free: u64,
    /// Appends are refused until space returns.
    pub full: bool,
    /// A sync failed: the directory takes nothing any more.
    pub failed: bool,
}

impl StorageMetrics {
    /// Registers `riverrun_append_duration_seconds` and `riverrun_fsync_duration_seconds`.
    pub fn register(registry: &Registry) -> Self {
        let metrics =
            Self { append: Histogram::new(APPEND_BUCKETS), fsync: Histogram::new(FSYNC_BUCKETS) };
        let help = "Time to append a batch to the log, without the wait for disk and replicas";
        registry.register_seconds("append_duration", help, metrics.append.clone());
        registry.register_seconds("fsync_duration", "Time of one sync", metrics.fsync.clone());
        metrics
    }

    /// Registers `riverrun_storage_disk_{total,free}_bytes`,
    /// `riverrun_storage_disk_free_space_alert` (1: full) and `riverrun_storage_failed` (1: a sync
    /// failed). `read` is asked at every scrape.
    pub fn watch_disk(registry: &Registry, read: impl Fn() -> DiskSample + Send + Sync + 'static) {
        registry.collect("storage_disk", Disk(Box::new(read)));
    }

    /// Registers `riverrun_log_<what>_total` for each counter of the log. `read` is asked at every
    /// scrape.
    pub fn watch_log(
        registry: &Registry,
        read: impl Fn() -> Vec<LogCounter> + Send + Sync + 'static,
    ) {
        registry.collect("log", Activity { of: "log", read: Box::new(read) });
    }

    /// Registers `riverrun_metadata_<what>_total` for each counter of the metadata log. `read` is
    /// asked at every scrape.
    pub fn watch_metadata(
        registry: &Registry,
        read: impl Fn() -> Vec<LogCounter> + Send + Sync + 'static,
    ) {
        registry.collect("metadata", Activity { of: "metadata", read: Box::new(read) });
    }

    /// A batch was appended.
    pub fn observe_append(&self, elapsed: Duration) {
        self.append.observe(elapsed.as_secs_f64());
    }

    /// A sync returned, well or not.
    pub fn observe_fsync(&self, elapsed: Duration) {
        self.fsync.observe(elapsed.as_secs_f64());
    }
}

/// A counter of the log: name, meaning, value.
pub type LogCounter = (&'static str, &'static str, u64);

struct Activity {
    of: &'static str,
    read: Box<dyn Fn() -> Vec<LogCounter> + Send + Sync>,
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activity").field("of", &self.of).finish_non_exhaustive()
    }
}

impl Collector for Activity {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in (self.read)() {
            let name = format!("{}_{name}", self.of);
            let counter = ConstCounter::new(value);
            let family =
                encoder.encode_descriptor(&name, help.trim(), None, MetricType::Counter)?;
            counter.encode(family)?;
        }
        Ok(())
    }
}

struct Disk(Box<dyn Fn() -> DiskSample + Send + Sync>);

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Collector for Disk {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let disk = (self.0)();
        let bytes = Some(&Unit::Bytes);
        let rows = [
            ("storage_disk_total", "Size of the data directory's disk", bytes, disk.total),
            ("storage_disk_free", "What is free of it for us", bytes, disk.free),
            (
                "storage_disk_free_space_alert",
                "1: the disk is full, appends are refused",
                None,
                u64::from(disk.full),
            ),
            (
                "storage_failed",
                "1: a sync failed, the data directory takes nothing any more",
                None,
                u64::from(disk.failed),
            ),
        ];
        for (name, help, unit, value) in rows {
            encode_gauge(&mut encoder, Family { name, help, unit }, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_and_its_disk_are_shown() {
        let registry = Registry::new();
        let metrics = StorageMetrics::register(&registry);
        let disk = DiskSample { total: 100, free: 7, full: true, failed: false };
        StorageMetrics::watch_disk(&registry, move || disk);
        metrics.observe_append(Duration::from_micros(3));
        metrics.observe_fsync(Duration::from_micros(300));
        StorageMetrics::watch_log(&registry, || vec![("rolls", " Segments begun.", 3)]);
        StorageMetrics::watch_metadata(&registry, || vec![("entries", "Entries written", 5)]);
        let text = registry.encode();
        for line in [
            "riverrun_metadata_entries_total 5",
            "riverrun_append_duration_seconds_bucket{le=\"0.000005\"} 1",
            "riverrun_fsync_duration_seconds_count 1",
            "riverrun_log_rolls_total 3",
            "riverrun_storage_disk_total_bytes 100",
            "riverrun_storage_disk_free_bytes 7",
            "riverrun_storage_disk_free_space_alert 1",
            "riverrun_storage_failed 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
