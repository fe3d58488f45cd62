//! What is measured: every setting that changes a figure, with its default, in one type that is
//! read from a TOML file or from flags and printed with every result.
//!
//! | load | latency counts from | says |
//! |---|---|---|
//! | saturating (no `rate`): a new batch as soon as one is answered | the moment a record was handed over | throughput; the latency is that of full queues |
//! | open loop (`rate`): records at intended moments, whatever the answers do | the *intended* moment, so that a stall counts for all records it delayed | latency at that rate |

use std::time::Duration;

use clap::ValueEnum;
use riverrun_client::Compression;
use riverrun_proto::limits::{
    BATCH_BYTES_MAX, PACK_TARGET_BYTES, PARTITIONS_PER_TOPIC_MAX, PRODUCER_BATCHES_REMEMBERED,
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{BenchError, Result},
    units,
};

/// What a record carries for the measurement: the moment it was intended, and its number.
pub const STAMP_BYTES: usize = 16;

/// Smallest batch that can be asked for: a header and a small record.
const BATCH_BYTES_MIN: usize = 256;

/// Brokers of a cluster. Two would be no better at surviving one's loss than one is; more than nine
/// measure the scheduler.
pub const CLUSTER_NODES_MIN: u32 = 3;
/// The most.
pub const CLUSTER_NODES_MAX: u32 = 9;

/// Producers and consumers of one process: more of them measure the scheduler.
const CLIENTS_MAX: usize = 256;

/// A run, or what each run of an alternation has in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "snake_case")]
pub struct Workload {
    /// How it is called in reports. File names and identifiers: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// What is done.
    pub kind: Kind,
    /// Through which interface the load generator talks.
    pub path: Path,
    /// Bytes of a record's value. Records have no key.
    #[serde(with = "units::size")]
    pub payload_bytes: usize,
    /// Share of the payload that is noise, 0 to 1; the rest is zeros. 1 (the default) does not
    /// compress at all.
    pub entropy: f64,
    /// Bytes after which a batch is full, before compression.
    #[serde(with = "units::size")]
    pub batch_bytes: usize,
    /// Longest time that a batch waits for company while another one is in flight. Only
    /// [`Path::Records`].
    #[serde(with = "units::millis")]
    pub linger_ms: Duration,
    /// Unanswered batches per producer and partition.
    pub in_flight: usize,
    /// Broker processes, all on this machine, started for the run: one, or a cluster.
    pub nodes: u32,
    /// On how many of them each partition is.
    pub replication_factor: u32,
    /// The topic's `min.insync.replicas`.
    pub min_insync_replicas: u32,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Producers, each with a stream of its own. Each writes to all partitions in turn.
    pub producers: usize,
    /// Consumers, each with a stream of its own; partitions are dealt out to them.
    pub consumers: usize,
    /// When a record counts as written.
    pub acks: Acks,
    /// What an acknowledged record survives: the topic's setting.
    pub durability: Durability,
    /// What batches are compressed with.
    pub codec: Codec,
    /// Records per second of all producers together, at even intervals (open loop). Absent:
    /// saturating.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// How long is measured, after the warm-up. The run ends earlier at `records`, or where a
    /// burst ends.
    #[serde(with = "units::millis")]
    pub duration_ms: Duration,
    /// Load without measuring, before.
    #[serde(with = "units::millis")]
    pub warm_up_ms: Duration,
    /// Records to be measured, of all producers or consumers together. Absent: time decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// State of the segment files.
    pub segments: Segments,
    /// Below the kernel's dirty limit or past it.
    pub volume: Volume,
    /// Bytes of batches written before a consumer is measured.
    #[serde(with = "units::size")]
    pub backlog_bytes: usize,
}

/// What is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Records are written.
    #[default]
    Produce,
    /// Records written before are read.
    Consume,
    /// Both at once.
    ProduceConsume,
    /// Single records, from the intended moment of sending to the consumer's hands.
    EndToEnd,
}

/// Through which interface the load generator talks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// The public client, record by record: what an application gets.
    #[default]
    Records,
    /// `ProduceStream` and `FetchStream` with batches encoded before and not decoded after: what
    /// the broker does, and nothing of the client.
    Batches,
}

/// When a record counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Acks {
    /// All in-sync replicas have it.
    #[default]
    All,
    /// The leader has it.
    Leader,
    /// Nothing is waited for.
    None,
}

/// What an acknowledged record survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Power loss: synced before it is acknowledged.
    #[default]
    Disk,
    /// The end of processes: in the page cache.
    Memory,
}

/// What batches are compressed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Codec {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// State of the segment files that are written or read. The first touch of a page costs more than
/// everything else that is done to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Segments {
    /// Written: new files, whose pages are touched for the first time. Read: as it was just
    /// written, in the page cache.
    #[default]
    Fresh,
    /// Written: files taken over from retention, whose pages are in memory; only for brokers that
    /// recycle segments. Read: the same as fresh.
    Resident,
    /// Read from the disk: the broker is restarted and the page cache dropped before. Only for
    /// consumers, and a broker that was started here.
    Cold,
}

/// Below the kernel's dirty limit or past it: past it writers wait for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Volume {
    /// The run ends before the kernel makes writers wait (`vm.dirty_ratio`), however short that
    /// makes it; it begins with a clean page cache.
    #[default]
    Burst,
    /// As long as it was told to. Retention deletes what is old, so that the disk does not fill.
    Sustained,
}

// === impl Workload ===

impl Default for Workload {
    fn default() -> Self {
        Self {
            name: "unnamed".to_owned(),
            kind: Kind::default(),
            path: Path::default(),
            payload_bytes: 1024,
            entropy: 1.0,
            batch_bytes: PACK_TARGET_BYTES,
            linger_ms: Duration::from_millis(5),
            in_flight: PRODUCER_BATCHES_REMEMBERED,
            nodes: 1,
            replication_factor: 1,
            min_insync_replicas: 1,
            partitions: 1,
            producers: 1,
            consumers: 1,
            acks: Acks::default(),
            durability: Durability::default(),
            codec: Codec::default(),
            rate: None,
            duration_ms: Duration::from_secs(10),
            warm_up_ms: Duration::from_secs(1),
            records: None,
            segments: Segments::default(),
            volume: Volume::default(),
            backlog_bytes: 1 << 30,
        }
    }
}

impl Workload {
    /// Reads a TOML file of ours.
    ///
    /// # Errors
    /// The place and what is wrong there; keys that do not exist are wrong.
    pub fn from_toml(text: &str) -> Result<Self> {
        let workload: Self = toml::from_str(text).map_err(|e| BenchError::Usage(e.to_string()))?;
        workload.checked()
    }

    /// Checks that it can be run.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn checked(self) -> Result<Self> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(self);
        }
        let list = problems.join("\n  ");
        Err(BenchError::Usage(format!("workload {:?} cannot be run:\n  {list}", self.name)))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |fine: bool, problem: String| {
            if !fine {
                problems.push(problem);
            }
        };
        let within = |name: &str, value: usize, min: usize, max: usize| {
            let fine = (min..=max).contains(&value);
            (fine, format!("{name} is {min} to {max}, not {value}"))
        };
        let payload_min = if self.stamps() { STAMP_BYTES } else { 1 };
        let ranges = [
            within("payload_bytes", self.payload_bytes, payload_min, BATCH_BYTES_MAX as usize / 2),
            within("batch_bytes", self.batch_bytes, BATCH_BYTES_MIN, 1 << 20),
            within("in_flight", self.in_flight, 1, PRODUCER_BATCHES_REMEMBERED),
            within("partitions", self.partitions as usize, 1, PARTITIONS_PER_TOPIC_MAX as usize),
            within("producers", self.producers, 1, CLIENTS_MAX),
            within("consumers", self.consumers, 1, CLIENTS_MAX),
        ];
        ranges.into_iter().for_each(|(fine, problem)| check(fine, problem));
        check(
            !self.name.is_empty()
                && self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
            format!("name has letters, digits, '-', '_' and '.', not {:?}", self.name),
        );
        check(
            (0.0..=1.0).contains(&self.entropy),
            format!("entropy is 0 to 1, not {}", self.entropy),
        );
        check(
            self.rate.is_none_or(|rate| rate.is_finite() && rate > 0.0),
            "rate is above zero; leave it out to saturate".to_owned(),
        );
        check(self.records != Some(0), "records is above zero".to_owned());
        check(!self.duration_ms.is_zero(), "duration_ms is above zero".to_owned());
        check(
            self.kind != Kind::EndToEnd || self.rate.is_some(),
            "end-to-end is an open loop: it needs a rate".to_owned(),
        );
        check(
            self.kind != Kind::Consume || self.rate.is_none(),
            "consume reads as fast as it can: it takes no rate".to_owned(),
        );
        check(
            self.path == Path::Records
                || !matches!(self.kind, Kind::ProduceConsume | Kind::EndToEnd),
            "batches encoded before carry no moment of sending: this kind needs path = \"records\""
                .to_owned(),
        );
        check(
            self.segments != Segments::Cold || self.kind == Kind::Consume,
            "only a consumer can meet cold segments".to_owned(),
        );
        self.problems_of_the_cluster(&mut check);
        check(
            self.consumers <= self.partitions as usize,
            format!(
                "{} consumers of {} partitions: some would have none",
                self.consumers, self.partitions
            ),
        );
        problems
    }

    fn problems_of_the_cluster(&self, check: &mut impl FnMut(bool, String)) {
        let Self { nodes, replication_factor, min_insync_replicas, .. } = *self;
        check(
            nodes == 1 || (CLUSTER_NODES_MIN..=CLUSTER_NODES_MAX).contains(&nodes),
            format!(
                "nodes is 1, or {CLUSTER_NODES_MIN} to {CLUSTER_NODES_MAX} for a cluster, not {nodes}"
            ),
        );
        check(
            (1..=nodes).contains(&replication_factor),
            format!("replication_factor is 1 to nodes ({nodes}), not {replication_factor}"),
        );
        check(
            (1..=replication_factor).contains(&min_insync_replicas),
            format!(
                "min_insync_replicas is 1 to replication_factor ({replication_factor}), not \
                 {min_insync_replicas}"
            ),
        );
        check(
            nodes == 1 || self.path == Path::Records || self.partitions == 1,
            "path = \"batches\" talks to one broker: with several nodes, which lead one partition \
             each, it takes partitions = 1"
                .to_owned(),
        );
        check(
            nodes == 1 || self.segments != Segments::Cold,
            "segments = \"cold\" restarts the broker: one node".to_owned(),
        );
    }

    /// The same for one broker, which keeps the only copy.
    #[must_use]
    pub fn on_one_broker(&self) -> Self {
        Self { nodes: 1, replication_factor: 1, min_insync_replicas: 1, ..self.clone() }
    }

    /// Whether records carry the moment they were intended.
    pub fn stamps(&self) -> bool {
        matches!(self.kind, Kind::ProduceConsume | Kind::EndToEnd)
    }

    /// Whether records are written while it is measured.
    pub fn writes(&self) -> bool {
        self.kind != Kind::Consume
    }

    /// Whether records are read while it is measured.
    pub fn reads(&self) -> bool {
        self.kind != Kind::Produce
    }

    /// One line for people: what no two runs of a comparison may differ in.
    pub fn line(&self) -> String {
        let load = match self.rate {
            Some(rate) => format!("open loop at {}", units::show_rate(rate)),
            None => "saturating".to_owned(),
        };
        let Self { payload_bytes, batch_bytes, in_flight, partitions, producers, .. } = self;
        let mut line = format!(
            "{load}, {payload_bytes} B records in {batch_bytes} B batches, {in_flight} in flight, \
             {partitions} partition(s)",
        );
        if self.writes() {
            line += &format!(
                ", {producers} producer(s), acks={}, durability={}",
                name_of(self.acks),
                name_of(self.durability)
            );
        }
        if self.kind != Kind::Produce {
            line += &format!(", {} consumer(s)", self.consumers);
        }
        if self.nodes > 1 {
            line += &format!(
                ", {} brokers, replication factor {}, min.insync.replicas {}",
                self.nodes, self.replication_factor, self.min_insync_replicas
            );
        }
        line += &format!(
            ", codec={}, path={}, segments={}, {}",
            name_of(self.codec),
            name_of(self.path),
            name_of(self.segments),
            name_of(self.volume)
        );
        line
    }
}

/// The name of a value, as it is written in files and flags.
pub fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

// === to the product's types ===

impl From<Acks> for riverrun_client::Acks {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::All => Self::All,
            Acks::Leader => Self::Leader,
            Acks::None => Self::None,
        }
    }
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip,
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

#[cfg(test)]
#[path = "workload_test.rs"]
mod tests;
