//! Where each partition stands, asked at the scrape.

use std::fmt;

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};
use riverrun_proto::{
    ids::{BrokerId, PartitionIndex, TopicName},
    offset::Offset,
};

use super::{
    Registry,
    gauges::{Family, encode_gauge, encode_gauges},
};

/// Where one partition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSample {
    /// Name of its topic.
    pub topic: TopicName,
    /// Its number.
    pub partition: PartitionIndex,
    /// First offset that can be read.
    pub log_start_offset: Offset,
    /// First offset not committed.
    pub high_watermark: Offset,
    /// First offset not written.
    pub log_end_offset: Offset,
    /// First offset not known to be synced.
    pub flushed_end_offset: Offset,
    /// Bytes in its segment files.
    pub size_bytes: u64,
    /// How many segments.
    pub segments: u64,
    /// Produces that wait for replicas or the disk.
    pub produce_waiters: u64,
    /// Bytes of batches that wait for the log to be ready.
    pub parked_bytes: u64,
    /// Who has it.
    pub replicas: ReplicasSample,
}

/// Who has a partition, as its registration says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicasSample {
    /// Who leads.
    pub leader: Option<BrokerId>,
    /// How many are to have it.
    pub replicas: u64,
    /// How many of them are in sync; `None`: another broker leads, and says so.
    pub in_sync: Option<u64>,
}

/// One family: name, help, unit, value.
type Column = (&'static str, &'static str, Option<Unit>, fn(&PartitionSample) -> Option<u64>);

const COLUMNS: [Column; 12] = [
    ("partition_max_offset", "First offset not committed (high watermark)", None, |p| {
        Some(offset(p.high_watermark))
    }),
    ("partition_start_offset", "First offset that can be read (log start offset)", None, |p| {
        Some(offset(p.log_start_offset))
    }),
    ("partition_end_offset", "First offset not written (log end offset)", None, |p| {
        Some(offset(p.log_end_offset))
    }),
    ("partition_flushed_offset", "First offset not known to be synced to disk", None, |p| {
        Some(offset(p.flushed_end_offset))
    }),
    ("partition_size", "Bytes in segment files", Some(Unit::Bytes), |p| Some(p.size_bytes)),
    ("partition_segments", "Segment files", None, |p| Some(p.segments)),
    ("partition_produce_waiters", "Produces that wait for replicas or the disk", None, |p| {
        Some(p.produce_waiters)
    }),
    ("partition_parked", "Batches that wait for a log to be ready", Some(Unit::Bytes), |p| {
        Some(p.parked_bytes)
    }),
    ("partition_leader", "The broker that leads it", None, |p| {
        p.replicas.leader.map(|leader| u64::from(leader.0))
    }),
    ("partition_replicas", "Brokers that are to have it", None, |p| Some(p.replicas.replicas)),
    (
        "partition_in_sync_replicas",
        "Brokers that have all that is committed, as its leader says",
        None,
        |p| p.replicas.in_sync,
    ),
    (
        "partition_under_replicated",
        "1: fewer are in sync than are to have it, as its leader says",
        None,
        |p| p.replicas.in_sync.map(|in_sync| u64::from(in_sync < p.replicas.replicas)),
    ),
];

/// Registers `riverrun_partition_*{topic,partition}` for at most `max` partitions
/// (`telemetry.metrics.partition.series.max`), in the order `read` gives them, and
/// `riverrun_partition_series_left_out`. `read` is asked at every scrape; it must not wait for a
/// disk.
pub fn register_partitions<I>(
    registry: &Registry,
    max: u32,
    read: impl Fn() -> I + Send + Sync + 'static,
) where
    I: IntoIterator<Item = PartitionSample> + 'static,
{
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let read = move || {
        let mut samples = read().into_iter();
        let shown = samples.by_ref().take(max).collect();
        (shown, samples.count() as u64)
    };
    registry.collect("partition", Partitions(Box::new(read)));
}

/// What is shown, and how many are not.
type Shown = (Vec<PartitionSample>, u64);

struct Partitions(Box<dyn Fn() -> Shown + Send + Sync>);

impl fmt::Debug for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Partitions")
    }
}

impl Collector for Partitions {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (samples, left_out) = (self.0)();
        for (name, help, unit, value) in &COLUMNS {
            let family = Family { name, help, unit: unit.as_ref() };
            let series = samples.iter().filter_map(|sample| Some((labels(sample), value(sample)?)));
            encode_gauges(&mut encoder, family, series)?;
        }
        let help = "Partitions without metrics, past telemetry.metrics.partition.series.max";
        let family = Family { name: "partition_series_left_out", help, unit: None };
        encode_gauge(&mut encoder, family, left_out)
    }
}

fn labels(sample: &PartitionSample) -> [(&'static str, String); 2] {
    [("topic", sample.topic.to_string()), ("partition", sample.partition.to_string())]
}

fn offset(offset: Offset) -> u64 {
    u64::try_from(offset.get()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(partition: u32) -> PartitionSample {
        let offset = |n| Offset::new(n).unwrap();
        PartitionSample {
            topic: TopicName::try_new("orders").unwrap(),
            partition: PartitionIndex::new(partition).unwrap(),
            log_start_offset: offset(5),
            high_watermark: offset(17),
            log_end_offset: offset(19),
            flushed_end_offset: offset(18),
            size_bytes: 4_096,
            segments: 2,
            produce_waiters: 3,
            parked_bytes: 700,
            replicas: ReplicasSample {
                leader: Some(BrokerId(4)),
                replicas: 3,
                in_sync: (partition == 1).then_some(2),
            },
        }
    }

    #[test]
    fn partitions_past_the_bound_are_counted_not_shown() {
        let registry = Registry::new();
        register_partitions(&registry, 2, || (0..5).map(sample).collect::<Vec<_>>());
        let text = registry.encode();
        for line in [
            "riverrun_partition_max_offset{topic=\"orders\",partition=\"0\"} 17",
            "riverrun_partition_start_offset{topic=\"orders\",partition=\"1\"} 5",
            "riverrun_partition_end_offset{topic=\"orders\",partition=\"1\"} 19",
            "riverrun_partition_flushed_offset{topic=\"orders\",partition=\"1\"} 18",
            "riverrun_partition_size_bytes{topic=\"orders\",partition=\"1\"} 4096",
            "riverrun_partition_segments{topic=\"orders\",partition=\"1\"} 2",
            "riverrun_partition_produce_waiters{topic=\"orders\",partition=\"1\"} 3",
            "riverrun_partition_parked_bytes{topic=\"orders\",partition=\"1\"} 700",
            "riverrun_partition_leader{topic=\"orders\",partition=\"0\"} 4",
            "riverrun_partition_replicas{topic=\"orders\",partition=\"0\"} 3",
            "riverrun_partition_in_sync_replicas{topic=\"orders\",partition=\"1\"} 2",
            "riverrun_partition_under_replicated{topic=\"orders\",partition=\"1\"} 1",
            "riverrun_partition_series_left_out 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("partition=\"2\""), "{text}");
        let others = "riverrun_partition_in_sync_replicas{topic=\"orders\",partition=\"0\"}";
        assert!(!text.contains(others), "its leader says so, and nobody else: {text}");
    }

    #[test]
    fn without_partitions_there_are_no_empty_families() {
        let registry = Registry::new();
        register_partitions(&registry, 0, Vec::new);
        let text = registry.encode();
        assert!(!text.contains("riverrun_partition_max_offset"), "{text}");
        assert!(text.contains("riverrun_partition_series_left_out 0"), "{text}");
    }
}
