//! Replicas: how many are in sync, how far behind they are, and how often that changed.

use std::fmt;

use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, metrics::counter::Counter,
};
use riverrun_proto::ids::{BrokerId, PartitionIndex, TopicName};

use super::{
    Registry,
    gauges::{Family, encode_gauge, encode_gauges},
};

/// What happens to ISRs and leaders of the partitions that a broker has. Cheap to clone; the default
/// is shown nowhere.
#[derive(Debug, Clone, Default)]
pub struct ReplicationMetrics {
    shrinks: Counter,
    expands: Counter,
    leaderships: Counter,
}

/// A follower of a partition that this broker leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerSample {
    /// Name of the partition's topic.
    pub topic: TopicName,
    /// Its number.
    pub partition: PartitionIndex,
    /// Who follows.
    pub follower: BrokerId,
    /// Records it has not acknowledged yet.
    pub lag_records: u64,
    /// For how long it has not had everything.
    pub lag_seconds: u64,
}

/// The cluster as a broker knows it. The same on all of them but for the time that news take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterSample {
    /// Brokers that are registered.
    pub brokers: u64,
    /// Of these, not heard from.
    pub fenced: u64,
    /// Topics.
    pub topics: u64,
    /// Their partitions.
    pub partitions: u64,
    /// Of these, without a leader.
    pub unavailable: u64,
    /// With fewer replicas in sync than there are to be.
    pub under_replicated: u64,
    /// With fewer than `min.insync.replicas`: nothing that waits for all is written to them.
    pub under_min_isr: u64,
    /// This node leads the metadata quorum.
    pub controls: bool,
    /// This broker may act on what it leads by itself.
    pub leased: bool,
}

// === impl ReplicationMetrics ===

impl ReplicationMetrics {
    /// Registers `riverrun_isr_{shrinks,expands}_total` and `riverrun_leadership_changes_total`.
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self::default();
        let help = "Times that a partition led here lost a replica that was in sync";
        registry.register("isr_shrinks", help, metrics.shrinks.clone());
        let help = "Times that a partition led here got one more replica in sync";
        registry.register("isr_expands", help, metrics.expands.clone());
        let help = "Times that this broker began to lead a partition, or ceased to";
        registry.register("leadership_changes", help, metrics.leaderships.clone());
        metrics
    }

    /// Members left the ISR of a partition led here.
    pub fn shrank(&self) {
        self.shrinks.inc();
    }

    /// Members joined it.
    pub fn expanded(&self) {
        self.expands.inc();
    }

    /// This broker leads a partition from now on, or does no more.
    pub fn leadership_changed(&self) {
        self.leaderships.inc();
    }

    /// Registers `riverrun_replication_lag_{records,seconds}{topic,partition,follower}` of at most
    /// `max` followers, and `riverrun_replication_series_left_out`. `read` is asked at every scrape.
    pub fn watch_followers<I>(
        registry: &Registry,
        max: u32,
        read: impl Fn() -> I + Send + Sync + 'static,
    ) where
        I: IntoIterator<Item = FollowerSample> + 'static,
    {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let read = move || {
            let mut samples = read().into_iter();
            let shown = samples.by_ref().take(max).collect();
            (shown, samples.count() as u64)
        };
        registry.collect("replication", Followers(Box::new(read)));
    }

    /// Registers `riverrun_cluster_*` and `riverrun_controller_active`. `read` is asked at every
    /// scrape.
    pub fn watch_cluster(
        registry: &Registry,
        read: impl Fn() -> ClusterSample + Send + Sync + 'static,
    ) {
        registry.collect("cluster", Cluster(Box::new(read)));
    }
}

/// What is shown, and how many are not.
type Shown = (Vec<FollowerSample>, u64);

struct Followers(Box<dyn Fn() -> Shown + Send + Sync>);

struct Cluster(Box<dyn Fn() -> ClusterSample + Send + Sync>);

impl fmt::Debug for Followers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Followers")
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster")
    }
}

impl Collector for Followers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (samples, left_out) = (self.0)();
        type Column = (&'static str, &'static str, fn(&FollowerSample) -> u64);
        let columns: [Column; 2] = [
            (
                "replication_lag_records",
                "Records that a follower has not acknowledged, as its leader knows",
                |sample| sample.lag_records,
            ),
            (
                "replication_lag_seconds",
                "For how long a follower has not had everything, as its leader knows",
                |sample| sample.lag_seconds,
            ),
        ];
        for (name, help, value) in columns {
            let series = samples.iter().map(|sample| (labels(sample), value(sample)));
            encode_gauges(&mut encoder, Family { name, help, unit: None }, series)?;
        }
        let help = "Followers without metrics, past telemetry.metrics.partition.series.max";
        let family = Family { name: "replication_series_left_out", help, unit: None };
        encode_gauge(&mut encoder, family, left_out)
    }
}

fn labels(sample: &FollowerSample) -> [(&'static str, String); 3] {
    let FollowerSample { topic, partition, follower, .. } = sample;
    [
        ("topic", topic.to_string()),
        ("partition", partition.to_string()),
        ("follower", follower.to_string()),
    ]
}

impl Collector for Cluster {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let cluster = (self.0)();
        let rows = [
            ("cluster_brokers", "Brokers that are registered", cluster.brokers),
            ("cluster_fenced_brokers", "Of these, not heard from", cluster.fenced),
            ("cluster_topics", "Topics", cluster.topics),
            ("cluster_partitions", "Their partitions", cluster.partitions),
            ("cluster_unavailable_partitions", "Partitions without a leader", cluster.unavailable),
            (
                "cluster_under_replicated_partitions",
                "Partitions with fewer replicas in sync than there are to be",
                cluster.under_replicated,
            ),
            (
                "cluster_under_min_isr_partitions",
                "Partitions with fewer replicas in sync than min.insync.replicas: nothing that \
                 waits for all is written",
                cluster.under_min_isr,
            ),
            (
                "controller_active",
                "1: this node leads the metadata quorum",
                u64::from(cluster.controls),
            ),
            (
                "broker_lease_held",
                "1: heard by the metadata quorum lately; else acks=0 and 1 and questions for the \
                 latest offset are refused",
                u64::from(cluster.leased),
            ),
        ];
        for (name, help, value) in rows {
            encode_gauge(&mut encoder, Family { name, help, unit: None }, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_and_the_cluster_are_shown() {
        let registry = Registry::new();
        let metrics = ReplicationMetrics::register(&registry);
        metrics.shrank();
        metrics.expanded();
        metrics.leadership_changed();
        metrics.leadership_changed();
        let follower = |id| FollowerSample {
            topic: TopicName::try_new("orders").unwrap(),
            partition: PartitionIndex::new(1).unwrap(),
            follower: BrokerId(id),
            lag_records: 17,
            lag_seconds: 3,
        };
        ReplicationMetrics::watch_followers(&registry, 2, move || (2..9).map(follower));
        let cluster = ClusterSample {
            brokers: 3,
            fenced: 1,
            topics: 2,
            partitions: 9,
            unavailable: 4,
            under_replicated: 5,
            under_min_isr: 6,
            controls: true,
            leased: true,
        };
        ReplicationMetrics::watch_cluster(&registry, move || cluster);
        let text = registry.encode();
        for line in [
            "riverrun_isr_shrinks_total 1",
            "riverrun_isr_expands_total 1",
            "riverrun_leadership_changes_total 2",
            "riverrun_replication_lag_records{topic=\"orders\",partition=\"1\",follower=\"2\"} 17",
            "riverrun_replication_lag_seconds{topic=\"orders\",partition=\"1\",follower=\"3\"} 3",
            "riverrun_replication_series_left_out 5",
            "riverrun_cluster_brokers 3",
            "riverrun_cluster_fenced_brokers 1",
            "riverrun_cluster_topics 2",
            "riverrun_cluster_partitions 9",
            "riverrun_cluster_unavailable_partitions 4",
            "riverrun_cluster_under_replicated_partitions 5",
            "riverrun_cluster_under_min_isr_partitions 6",
            "riverrun_controller_active 1",
            "riverrun_broker_lease_held 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("follower=\"4\""), "bounded: {text}");
    }
}
