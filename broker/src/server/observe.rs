//! What a running broker shows: metrics of its parts.

use std::sync::Arc;

use super::DataDirectory;
use crate::{
    clock::Clock,
    config::Config,
    controller::{LocalOptions, LocalQuorum},
    partition::registry::{Registry, RegistryEnv},
    telemetry::{
        Bounds, DiskSample, PartitionSample, Registry as Metrics, StorageMetrics, Usage,
        register_application, register_partitions,
    },
};

/// What is looked at.
pub(super) struct Watched<'a> {
    pub(super) directory: &'a Arc<DataDirectory>,
    pub(super) quorum: &'a Arc<LocalQuorum>,
    pub(super) registry: &'a Arc<Registry>,
    pub(super) env: &'a RegistryEnv,
}

/// Registers whatever is asked at the scrape.
pub(super) fn watch(
    watched: &Watched<'_>,
    metrics: &Metrics,
    bounds: &Bounds,
    config: &Config,
    clock: &Arc<dyn Clock>,
) {
    let started = clock.monotonic();
    let uptime = Arc::clone(clock);
    register_application(metrics, move || uptime.monotonic().duration_since(started));

    let registry = Arc::clone(watched.registry);
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

    let directory = Arc::clone(watched.directory);
    let gate = watched.env.partition.gate.clone();
    StorageMetrics::watch_disk(metrics, move || {
        let space = directory.disk().space(directory.root()).ok();
        DiskSample {
            total: space.map_or(0, |space| space.total),
            free: space.map_or(0, |space| space.free),
            full: gate.is_closed(),
            failed: directory.failure().is_failed(),
        }
    });

    let counters = watched.registry.counters();
    StorageMetrics::watch_log(metrics, move || counters.all());

    watch_bounds(watched, bounds, config);
}

fn watch_bounds(watched: &Watched<'_>, bounds: &Bounds, config: &Config) {
    watched.env.partition.read_budget.watch(bounds);
    watched.env.partition.pool.watch(bounds);
    let (log, limit) = (watched.env.log.clone(), config.log.window_budget_bytes.get());
    bounds.watch_pool("log_windows", move || Usage { used: log.window_bytes_taken(), limit });
    let (log, limit) = (watched.env.log.clone(), u64::from(config.log.open_segments_max));
    bounds
        .watch("log.open.segments.max", move || Usage { used: log.open_segments() as u64, limit });
    let (quorum, limit) = (Arc::downgrade(watched.quorum), LocalOptions::default().inbox_bytes);
    bounds.watch_pool("metadata", move || Usage {
        used: quorum.upgrade().map_or(0, |quorum| quorum.stats().inbox_bytes as u64),
        limit: limit as u64,
    });
}
