//! What a running broker shows: metrics of its parts.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use super::{DataDirectory, space::Full};
use crate::{
    clock::Clock,
    config::Config,
    controller::{
        MetaQuorum,
        raft::{RaftOptions, RaftQuorum},
    },
    io::{limits, real::RealDisk},
    metadata::{Broker, MetadataImage, Presence},
    partition::{
        Partition, Replicas,
        registry::{Registry, RegistryEnv},
    },
    peer::{PeerTransport, transport::QUEUE_MESSAGES_MAX},
    replica::FollowerView,
    telemetry::{
        Bounds, ClusterSample, DiskSample, FollowerSample, PartitionSample, Registry as Metrics,
        ReplicasSample, ReplicationMetrics, StorageMetrics, Usage, register_application,
        register_partitions,
    },
};

/// What is looked at.
pub(super) struct Watched<'a> {
    pub(super) directory: &'a Arc<DataDirectory>,
    pub(super) disk: &'a RealDisk,
    pub(super) full: Arc<Full>,
    pub(super) quorum: &'a Arc<RaftQuorum>,
    pub(super) transport: &'a Arc<PeerTransport>,
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
            let (offsets, waiting) = (partition.offsets(), partition.waiting());
            PartitionSample {
                topic: partition.topic().clone(),
                partition: partition.id().partition,
                log_start_offset: offsets.log_start,
                high_watermark: offsets.high_watermark,
                log_end_offset: offsets.log_end,
                flushed_end_offset: offsets.flushed_end,
                size_bytes: offsets.size_bytes,
                segments: offsets.segments as u64,
                produce_waiters: waiting.for_acks as u64,
                parked_bytes: waiting.parked_bytes as u64,
                replicas: replicas_of(&partition),
            }
        })
    });

    watch_replicas(watched, metrics, config);

    let directory = Arc::clone(watched.directory);
    let full = Arc::clone(&watched.full);
    StorageMetrics::watch_disk(metrics, move || {
        let space = directory.disk().space(directory.root()).ok();
        DiskSample {
            total: space.map_or(0, |space| space.total),
            free: space.map_or(0, |space| space.free),
            full: full.now(),
            failed: directory.failure().is_failed(),
        }
    });

    let counters = watched.registry.counters();
    let disk = watched.disk.clone();
    StorageMetrics::watch_log(metrics, move || {
        let maps = disk.map_counts();
        let of_maps = [
            (
                "maps_refused",
                "Maps that were not to be had: read and written without",
                maps.refused,
            ),
            ("maps_evicted", "Sealed segments that lost their map to others", maps.evicted),
        ];
        counters.all().into_iter().chain(of_maps).collect()
    });

    let (quorum, transport) = (Arc::downgrade(watched.quorum), Arc::downgrade(watched.transport));
    StorageMetrics::watch_metadata(metrics, move || {
        let (Some(quorum), Some(transport)) = (quorum.upgrade(), transport.upgrade()) else {
            return Vec::new();
        };
        let (stats, sent) = (quorum.stats(), transport.stats());
        let node = stats.node;
        vec![
            ("entries", "Entries of the metadata log applied", node.entries),
            ("rejected", "Of these, commands that were rejected", node.rejected),
            ("snapshots", "Snapshots made", node.snapshots_made),
            ("snapshots_installed", "Snapshots of a leader taken over", node.snapshots_installed),
            ("disk_full", "Proposals refused because the disk is full", node.disk_full),
            ("elections_won", "Elections this node has won", node.elections_won),
            ("voter_changes", "Changes of the voters that came into force", node.changes),
            ("peer_connections", "Connections made to other nodes of the quorum", sent.connected),
            ("peer_messages_sent", "Messages of the quorum sent to other nodes", sent.sent),
            (
                "peer_messages_dropped",
                "Messages of the quorum that found no room or whose node could not be reached",
                sent.dropped,
            ),
            (
                "peer_messages_refused",
                "Messages of other nodes that found no room or could not be read",
                stats.messages_dropped + node.messages_refused,
            ),
        ]
    });

    watch_bounds(watched, bounds, config);
}

fn replicas_of(partition: &Partition) -> ReplicasSample {
    let Some(Replicas { registration, .. }) = partition.replicas() else {
        return ReplicasSample::default();
    };
    ReplicasSample {
        leader: registration.leader,
        replicas: registration.replicas.len() as u64,
        in_sync: partition.leads().map(|_| registration.isr.len() as u64),
    }
}

fn watch_replicas(watched: &Watched<'_>, metrics: &Metrics, config: &Config) {
    let registry = Arc::clone(watched.registry);
    let max = config.telemetry.metrics_partition_series_max;
    ReplicationMetrics::watch_followers(metrics, max, move || {
        let mut all = registry.all();
        all.sort_unstable_by(|a, b| (a.topic(), a.id()).cmp(&(b.topic(), b.id())));
        all.into_iter().flat_map(|partition| followers_of(&partition))
    });
    let quorum = Arc::downgrade(watched.quorum);
    let env = &watched.env.partition;
    let (lease, wall, clock) =
        (env.replication.lease.clone(), env.wall.clone(), Arc::clone(&env.clock));
    ReplicationMetrics::watch_cluster(metrics, move || {
        let Some(quorum) = quorum.upgrade() else { return ClusterSample::default() };
        let leader = *quorum.leader().borrow();
        let controls = leader.is_some_and(|leader| leader.node == quorum.voter().node);
        let now = clock.monotonic();
        let leased = lease.holds(now);
        let clock_trusted = wall.vouches(clock.now(), now);
        let ms = wall.offset().map(|offset| offset.ahead_ms());
        let clock_ahead = ms.map(seconds);
        let cluster = cluster(&quorum.image());
        ClusterSample { controls, leased, clock_ahead, clock_trusted, ..cluster }
    });
}

/// In seconds, to the millisecond; the few clocks that are centuries away lose that.
fn seconds(ms: i64) -> f64 {
    let sign = if ms < 0 { -1.0 } else { 1.0 };
    sign * Duration::from_millis(ms.unsigned_abs()).as_secs_f64()
}

fn followers_of(partition: &Partition) -> Vec<FollowerSample> {
    let Some(Replicas { followers, .. }) = partition.replicas() else { return Vec::new() };
    if followers.is_empty() {
        return Vec::new();
    }
    let end = partition.offsets().log_end.get();
    let sample = |follower: FollowerView| {
        let has = follower.log_end.map_or(0, |offset| offset.get());
        FollowerSample {
            topic: partition.topic().clone(),
            partition: partition.id().partition,
            follower: follower.id,
            lag_records: u64::try_from(end - has).unwrap_or(0),
            lag_seconds: follower.behind_for.map_or(0, |behind| behind.as_secs()),
        }
    };
    followers.into_iter().map(sample).collect()
}

fn cluster(image: &MetadataImage) -> ClusterSample {
    let is_fenced = |broker: &&Arc<Broker>| broker.presence == Presence::Fenced;
    let mut sample = ClusterSample {
        brokers: image.brokers().len() as u64,
        fenced: image.brokers().filter(is_fenced).count() as u64,
        topics: image.topics().len() as u64,
        move_throttle: image.move_throttle().map_or(0, NonZeroU64::get),
        ..ClusterSample::default()
    };
    for (_, partition) in image.topics().flat_map(|topic| topic.partitions()) {
        sample.partitions += 1;
        sample.unavailable += u64::from(partition.leader.is_none());
        sample.under_replicated += u64::from(partition.is_under_replicated());
        sample.under_min_isr += u64::from(!partition.isr_suffices());
    }
    sample
}

fn watch_bounds(watched: &Watched<'_>, bounds: &Bounds, config: &Config) {
    watched.env.partition.read_budget.watch(bounds);
    watched.env.partition.pool.watch(bounds);
    let registry = Arc::downgrade(watched.registry);
    watched.env.partition.parked.watch(bounds, move || {
        let all = registry.upgrade().map_or_else(Vec::new, |registry| registry.all());
        all.iter().map(|partition| partition.waiting().parked_bytes as u64).max().unwrap_or(0)
    });
    let disk = watched.disk.clone();
    bounds.watch("vm.max_map_count", move || {
        let maps = disk.map_counts();
        Usage { used: maps.live as u64, limit: maps.limit as u64 }
    });
    let disk = watched.disk.clone();
    bounds.watch("read.buffers.bytes", move || {
        let (used, limit) = disk.buffer_bytes();
        Usage { used: used as u64, limit: limit as u64 }
    });
    bounds.watch("rlimit.nofile", || {
        let (open, limit) = (limits::open_files(), limits::Limits::read().open_files);
        Usage { used: open.unwrap_or(0), limit: limit.unwrap_or(0) }
    });
    let (log, limit) = (watched.env.log.clone(), config.log.window_budget_bytes.get());
    bounds
        .watch("log.window.budget.bytes", move || Usage { used: log.window_bytes_taken(), limit });
    let (log, limit) = (watched.env.log.clone(), u64::from(config.log.open_segments_max));
    bounds
        .watch("log.open.segments.max", move || Usage { used: log.open_segments() as u64, limit });
    let (quorum, limit) = (Arc::downgrade(watched.quorum), RaftOptions::default().inbox_bytes);
    bounds.watch("metadata.proposals.bytes", move || Usage {
        used: quorum.upgrade().map_or(0, |quorum| quorum.stats().inbox_bytes as u64),
        limit: limit as u64,
    });
    let transport = Arc::downgrade(watched.transport);
    bounds.watch("metadata.peer.messages", move || Usage {
        used: transport.upgrade().map_or(0, |transport| transport.stats().waiting),
        limit: QUEUE_MESSAGES_MAX as u64,
    });
}
