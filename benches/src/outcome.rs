//! What a measurement found: the JSON that every command writes with `--json`, and that `report`
//! and `compare` read. One [`Document`] holds any number of runs, of the product, of its ceilings
//! and of peers, and the ratios between them.
//!
//! # Compatibility
//!
//! `schema` is [`SCHEMA`]. Fields are only added, with a default; anything else raises it. A reader
//! refuses a higher one ([`Document::read`]).
//!
//! # Units
//!
//! The last word of a name is the unit: `_ns`, `_ms`, `_s`, `_bytes`, `_bytes_per_s`. Bytes without
//! another word are those of payloads (values), as an application counts them; GB is 10⁹.

use std::{collections::BTreeMap, fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer as _, V2DeflateSerializer},
};
use riverrun_broker::cli::Machine;
use serde::{Deserialize, Serialize};

use crate::{
    error::{BenchError, Result},
    failover::Failover,
    isr_faults::IsrFault,
    restart::Restart,
    workload::Workload,
};

/// Version of the format.
pub const SCHEMA: u32 = 1;

/// Everything one command measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// What was typed, the program's name first.
    pub command: Vec<String>,
    /// Where it ran.
    pub surroundings: Surroundings,
    /// In the order in which they were measured.
    pub runs: Vec<Run>,
    /// Ratios between runs of the same document that alternated.
    #[serde(default)]
    pub comparisons: Vec<Comparison>,
    /// Of `restart`, in the order in which they were made.
    #[serde(default)]
    pub restarts: Vec<Restart>,
    /// Of `failover`, in the order in which leaders were killed.
    #[serde(default)]
    pub failovers: Vec<Failover>,
    /// Of `isr-faults`, cell by cell.
    #[serde(default)]
    pub isr_faults: Vec<IsrFault>,
}

/// Where a measurement was made, and of what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Surroundings {
    /// Version of `riverrun-bench`.
    pub version: String,
    /// Commit of the source it was built from, `-dirty` behind it if something was changed; `None`
    /// where that is not known.
    pub commit: Option<String>,
    /// `release` or `debug`: figures of the latter mean nothing.
    pub build: String,
    /// Processor, kernel, memory, file system of the data.
    pub machine: Machine,
    /// Load average over one minute when it began: what else ran.
    pub load_average: Option<f64>,
    /// `vm.dirty_ratio` and `vm.dirty_background_ratio` in bytes at that time.
    pub dirty: Option<DirtyLimits>,
}

/// When the kernel writes dirty pages, and when it makes writers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyLimits {
    /// Writing back begins.
    pub background_bytes: u64,
    /// Writers wait.
    pub throttle_bytes: u64,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// What was measured: `riverrun`, a ceiling ([`Subject`]) or a peer.
    pub subject: String,
    /// Version of it, where it has one of its own.
    #[serde(default)]
    pub subject_version: Option<String>,
    /// Which round of an alternation, from 1.
    pub round: u32,
    /// What was done.
    pub workload: Workload,
    /// Settings of the subject that differ from its defaults, under its own names.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Written; absent for a workload that does not write.
    #[serde(default)]
    pub produced: Option<Throughput>,
    /// Read; absent for a workload that does not read.
    #[serde(default)]
    pub consumed: Option<Throughput>,
    /// Latencies by what they measure. See [`latency`] for the names.
    #[serde(default)]
    pub latencies: BTreeMap<String, Latency>,
    /// CPU, memory and disk of both sides.
    pub cost: Cost,
    /// What failed, in the whole run, warm-up included.
    #[serde(default)]
    pub errors: Errors,
    /// Second by second.
    #[serde(default)]
    pub series: Vec<Second>,
    /// What a reader of the figures must know: what could not be measured, what ended a run.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Names of subjects that this tool brings.
#[derive(Clone, Copy, Debug)]
pub struct Subject;

/// Names of latencies.
pub mod latency {
    /// From the intended moment (open loop) or the hand-over (saturating) to the acknowledgement.
    pub const ACK: &str = "ack";
    /// From the same moment to the record in the consumer's hands.
    pub const END_TO_END: &str = "end_to_end";
    /// How late the load generator itself was: from the intended moment to the hand-over. Part of
    /// the others. Only of open loops.
    pub const GENERATOR_DELAY: &str = "generator_delay";
    /// From one ping to its pong, one in flight.
    pub const ROUND_TRIP: &str = "round_trip";
}

/// So much in so long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// The measured interval.
    pub seconds: f64,
    /// Acknowledged or read within it.
    pub records: u64,
    /// Of their payloads.
    pub bytes: u64,
    /// `records / seconds`
    pub records_per_s: f64,
    /// `bytes / seconds`
    pub bytes_per_s: f64,
}

/// A distribution of latencies in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile; `None` where a peer's tool does not tell it.
    #[serde(default)]
    pub p90_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// All of it: HdrHistogram's V2 format, deflated, base64, three significant digits, in
    /// nanoseconds; every HdrHistogram library reads it. Empty where a peer's tool tells percentiles
    /// and nothing else.
    #[serde(default)]
    pub histogram: String,
}

/// What the run took of the machine. `None`: could not be measured, and a note says why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Processor time of the load generator within the measured interval.
    pub generator_cpu_s: Option<f64>,
    /// Processor time of the subject, all its processes together.
    pub subject_cpu_s: Option<f64>,
    /// CPU seconds of the load generator per GB of payload, written and read added up.
    pub generator_cpu_s_per_gb: Option<f64>,
    /// CPU seconds of the subject per GB of payload, all its processes together.
    pub subject_cpu_s_per_gb: Option<f64>,
    /// Most memory the subject had resident so far, file pages included; of several processes the
    /// sum of what each had at most.
    pub subject_resident_bytes_max: Option<u64>,
    /// Of that at the end: anonymous memory, which is nobody's page cache.
    pub subject_anonymous_bytes: Option<u64>,
    /// Bytes of batches appended in the whole run, warm-up included.
    pub appended_bytes: Option<u64>,
    /// Bytes the kernel charged to the subject's processes for writing (`/proc/PID/io`), whole run.
    pub subject_written_bytes: Option<u64>,
    /// Bytes that reached the device of the data directory in the whole run and until everything
    /// was synced after it; whatever else wrote to that device is in it.
    pub device_written_bytes: Option<u64>,
    /// `device_written_bytes / appended_bytes`
    pub device_bytes_per_byte: Option<f64>,
}

/// Failures of records or batches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// How many records.
    pub records: u64,
    /// The first few kinds, in words.
    pub first: Vec<String>,
}

/// One second of a run. The first may belong to the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Its end, since the load began, in seconds.
    pub at_s: f64,
    /// Measured, not warm-up.
    pub measured: bool,
    /// Records acknowledged per second.
    pub produced_records_per_s: f64,
    /// Their payload.
    pub produced_bytes_per_s: f64,
    /// Records read per second.
    pub consumed_records_per_s: f64,
    /// Their payload.
    pub consumed_bytes_per_s: f64,
    /// 99th percentile of the latencies that ended in it: end to end where that is measured,
    /// acknowledgement otherwise.
    pub p99_ns: Option<u64>,
    /// Records that failed in it.
    pub errors: u64,
}

/// A ratio between two subjects that alternated, round by round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the workload.
    pub workload: String,
    /// The subject whose figure is divided.
    pub of: String,
    /// The subject it is divided by.
    pub to: String,
    /// The figure: `produced_bytes_per_s`, `ack.p50_ns` and the like.
    pub figure: String,
    /// One per round, in order.
    pub ratios: Vec<f64>,
    /// Median of them.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// Whether `to` is good enough to be divided by.
    #[serde(default)]
    pub yardstick: Option<Yardstick>,
}

/// What a ceiling was held against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Yardstick {
    /// The subject it was held against: loopback TCP.
    pub against: String,
    /// Median of the ceiling's share of that.
    pub share: f64,
    /// The least that is accepted.
    pub least: f64,
    /// `share >= least`. If not, the ratio says nothing and is not printed.
    pub accepted: bool,
}

// === impl Subject ===

impl Subject {
    /// The product.
    pub const RIVERRUN: &str = "riverrun";
    /// The product as one broker with the only copy, beside the product as a cluster.
    pub const ONE_BROKER: &str = "riverrun-one-broker";
    /// A gRPC server that acknowledges batches and keeps nothing.
    pub const NULL_SINK: &str = "null-sink";
    /// A gRPC server that sends the same batches again and again.
    pub const NULL_SOURCE: &str = "null-source";
    /// The null sink, one single record at a time.
    pub const PING_PONG: &str = "grpc-ping-pong";
    /// The same batches through a TCP connection over loopback, from the load generator.
    pub const TCP_UP: &str = "tcp-loopback-up";
    /// The same, towards the load generator.
    pub const TCP_DOWN: &str = "tcp-loopback-down";
    /// 1 MiB pwrite and fdatasync in turn, on the disk of the data.
    pub const DISK: &str = "disk";
    /// The same batches through bare TCP into a file, and sent on to others that do so too, until there
    /// are as many copies as the workload has replicas.
    pub const BARE_COPIES: &str = "bare-copies";
    /// The same, into one file.
    pub const BARE_COPY: &str = "bare-copy";
}

// === impl Document ===

impl Document {
    /// Reads one.
    ///
    /// # Errors
    /// The file cannot be read, is no such document, or is one of a newer version.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(BenchError::io(format!("reading {shown}")))?;
        let not_ours =
            |e| BenchError::Usage(format!("{shown} is no result of riverrun-bench: {e}"));
        let Version { schema } = serde_json::from_str(&text).map_err(not_ours)?;
        if schema > SCHEMA {
            return Err(BenchError::Usage(format!(
                "{shown} has version {schema} of the format, this program knows {SCHEMA}: take a newer one"
            )));
        }
        serde_json::from_str(&text).map_err(not_ours)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = || BenchError::io(format!("writing {}", path.display()));
        let mut text = serde_json::to_string_pretty(self).expect("maps have keys that are texts");
        text.push('\n');
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let file =
            tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new("."))).map_err(failed())?;
        fs::write(file.path(), text).map_err(failed())?;
        file.persist(path).map_err(|e| failed()(e.error))?;
        Ok(())
    }
}

// === impl Cost ===

impl Cost {
    /// Takes what a broker says it appended in place of what was counted here.
    pub fn set_appended(&mut self, bytes: u64) {
        self.appended_bytes = Some(bytes).filter(|bytes| *bytes > 0);
        self.device_bytes_per_byte = self
            .device_written_bytes
            .zip(self.appended_bytes)
            .map(|(device, appended)| device as f64 / appended as f64);
    }
}

// === impl Throughput ===

impl Throughput {
    /// Zero rates where no time passed.
    pub fn new(records: u64, bytes: u64, seconds: f64) -> Self {
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        Self {
            seconds,
            records,
            bytes,
            records_per_s: per_second(records),
            bytes_per_s: per_second(bytes),
        }
    }
}

// === impl Latency ===

impl Latency {
    /// `None` if nothing was measured. `histogram` is of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let mut encoded = Vec::new();
        V2DeflateSerializer::new()
            .serialize(histogram, &mut encoded)
            .expect("a histogram within its bounds is written into memory");
        Some(Self {
            count: histogram.len(),
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: Some(histogram.value_at_quantile(0.9)),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
            histogram: BASE64.encode(encoded),
        })
    }

    /// All of it again.
    ///
    /// # Errors
    /// The text is damaged, or there is none.
    pub fn histogram(&self) -> Result<Histogram<u64>> {
        let damaged = |e: String| BenchError::Usage(format!("damaged histogram: {e}"));
        let bytes = BASE64.decode(&self.histogram).map_err(|e| damaged(e.to_string()))?;
        Deserializer::new().deserialize(&mut &*bytes).map_err(|e| damaged(e.to_string()))
    }
}

#[cfg(test)]
#[path = "outcome_test.rs"]
mod tests;
