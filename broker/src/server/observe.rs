//! What a running broker shows: metrics of its parts, and whether it takes requests.

use std::sync::Arc;

use super::Parts;
use crate::{
    clock::Clock,
    config::Config,
    http::Readiness,
    partition::ReadBudget,
    telemetry::{
        Bounds, DiskSample, PartitionSample, Registry as Metrics, StorageMetrics, Usage,
        register_application, register_partitions,
    },
};

/// Registers whatever is asked at the scrape.
pub(super) fn watch(
    parts: &Parts,
    metrics: &Metrics,
    bounds: &Bounds,
    config: &Config,
    clock: &Arc<dyn Clock>,
    reads: ReadBudget,
) {
    let started = clock.monotonic();
    let uptime = Arc::clone(clock);
    register_application(metrics, move || uptime.monotonic().duration_since(started));

    let registry = Arc::clone(&parts.registry);
    register_partitions(metrics, config.telemetry.metrics_partition_series_max, move || {
        let mut all = registry.all();
        all.sort_unstable_by(|a, b| (a.topic(), a.id()).cmp(&(b.topic(), b.id())));
        all.into_iter().map(|partition| {
            let offsets = partition.offsets();
            PartitionSample {
                topic: partition.topic().clone(),
                partition: partition.id().partition,
                log_start_offset: offsets.log_start,
                high_watermark: offsets.high_watermark,
                log_end_offset: offsets.log_end,
                flushed_end_offset: offsets.flushed_end,
                size_bytes: offsets.size_bytes,
                segments: offsets.segments as u64,
            }
        })
    });

    let directory = Arc::clone(&parts.directory);
    let floor = config.topic.segment_bytes.get();
    StorageMetrics::watch_disk(metrics, move || {
        let space = directory.disk().space(directory.root()).ok();
        DiskSample {
            total: space.map_or(0, |space| space.total),
            free: space.map_or(0, |space| space.free),
            full: space.is_some_and(|space| space.free < floor),
            failed: directory.failure().is_failed(),
        }
    });

    let counters = parts.registry.counters();
    StorageMetrics::watch_log(metrics, move || counters.all());

    bounds.watch_pool("cold_reads", move || Usage {
        used: reads.used() as u64,
        limit: u64::from(reads.total()),
    });
}

/// Ready while it serves: the directory is sound, nobody asked it to stop.
pub(super) fn readiness(parts: &Parts) -> impl Fn() -> Readiness + Send + Sync + 'static {
    let directory = Arc::clone(&parts.directory);
    let shutdown = parts.shutdown.clone();
    move || {
        if shutdown.is_draining() {
            return Readiness::NotReady("the broker is stopping".to_owned());
        }
        match directory.failure().check() {
            Ok(()) => Readiness::Ready,
            Err(failed) => Readiness::NotReady(failed.to_string()),
        }
    }
}
