//! Replicas: how many are in sync, how far behind they are, and how often that changed.

use std::fmt;

use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, metrics::counter::Counter, registry::Unit,
};
use riverrun_proto::ids::{BrokerId, PartitionIndex, TopicName};

use super::{
    Registry,
    gauges::{Family, encode_gauge, encode_gauges, encode_signed_gauge},
};

/// What happens to ISRs and leaders of the partitions that a broker has. Cheap to clone; the default
/// is shown nowhere.
#[derive(Debug, Clone, Default)]
pub struct ReplicationMetrics {
    shrinks: Counter,
    expands: Counter,
    leaderships: Counter,
    move_sent_bytes: Counter,
    move_received_bytes: Counter,
    move_send_waits: Counter,
    move_receive_waits: Counter,
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
#[derive(Debug, Clone, Copy, Default, PartialEq)]
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
    /// The throttle of moves in bytes a second; 0: there is none.
    pub move_throttle: u64,
    /// This node leads the metadata quorum.
    pub controls: bool,
    /// This broker may act on what it leads by itself.
    pub leased: bool,
    /// How far its wall clock is ahead of that of the node that leads the metadata quorum, in seconds;
    /// `None`: not compared yet.
    pub clock_ahead: Option<f64>,
    /// And it may delete what is old by it.
    pub clock_trusted: bool,
}

// === impl ReplicationMetrics ===

impl ReplicationMetrics {
    /// Registers `riverrun_isr_{shrinks,expands}_total`, `riverrun_leadership_changes_total`,
    /// `riverrun_move_{sent,received}_bytes_total` and `riverrun_move_{send,receive}_waits_total`.
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self::default();
        let help = "Times that a partition led here lost a replica that was in sync";
        registry.register("isr_shrinks", help, metrics.shrinks.clone());
        let help = "Times that a partition led here got one more replica in sync";
        registry.register("isr_expands", help, metrics.expands.clone());
        let help = "Times that this broker began to lead a partition, or ceased to";
        registry.register("leadership_changes", help, metrics.leaderships.clone());
        let help = "Bytes sent to replicas that are being added and not in sync yet";
        registry.register("move_sent_bytes", help, metrics.move_sent_bytes.clone());
        let help = "Bytes taken by replicas here that are being added and not in sync yet";
        registry.register("move_received_bytes", help, metrics.move_received_bytes.clone());
        let help = "Times that the throttle of moves put off what was to be sent";
        registry.register("move_send_waits", help, metrics.move_send_waits.clone());
        let help = "Times that the throttle of moves put off what was to be acknowledged";
        registry.register("move_receive_waits", help, metrics.move_receive_waits.clone());
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

    /// So many bytes went to a replica that is being added elsewhere, or came to one here.
    pub fn moved(&self, was_sent: bool, bytes: u64) {
        let counter = if was_sent { &self.move_sent_bytes } else { &self.move_received_bytes };
        counter.inc_by(bytes);
    }

    /// The throttle of moves put something off.
    pub fn move_waited(&self, is_sender: bool) {
        let counter = if is_sender { &self.move_send_waits } else { &self.move_receive_waits };
        counter.inc();
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

    /// Registers `riverrun_cluster_*`, `riverrun_controller_active` and `riverrun_broker_*`. `read` is asked at every
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
                "cluster_move_throttle_bytes_per_second",
                "What each broker may send to replicas that are being added, and take for them; 0: \
                 there is no throttle",
                cluster.move_throttle,
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
            (
                "broker_clock_trusted",
                "1: the wall clock is compared and right; else nothing is deleted for its age",
                u64::from(cluster.clock_trusted),
            ),
        ];
        for (name, help, value) in rows {
            encode_gauge(&mut encoder, Family { name, help, unit: None }, value)?;
        }
        let Some(ahead) = cluster.clock_ahead else { return Ok(()) };
        let help = "How far the wall clock is ahead of that of the leader of the metadata quorum";
        let family = Family { name: "broker_clock_offset", help, unit: Some(&Unit::Seconds) };
        encode_signed_gauge(&mut encoder, family, ahead)
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
        metrics.moved(true, 11);
        metrics.moved(false, 22);
        metrics.move_waited(true);
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
            move_throttle: 7,
            controls: true,
            leased: true,
            clock_ahead: Some(-1.5),
            clock_trusted: true,
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
            "riverrun_cluster_move_throttle_bytes_per_second 7",
            "riverrun_move_sent_bytes_total 11",
            "riverrun_move_received_bytes_total 22",
            "riverrun_move_send_waits_total 1",
            "riverrun_move_receive_waits_total 0",
            "riverrun_controller_active 1",
            "riverrun_broker_lease_held 1",
            "riverrun_broker_clock_trusted 1",
            "riverrun_broker_clock_offset_seconds -1.5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("follower=\"4\""), "bounded: {text}");
    }
}
