//! What a NATS server with JetStream, and its own `nats bench`, are told so that they do what a
//! workload says.
//!
//! | workload | NATS JetStream |
//! |---|---|
//! | `durability = disk` | `sync_interval: always`: the file store syncs what it writes before it is acknowledged |
//! | `durability = memory` | its default: synced every two minutes |
//! | `batch_bytes`, `in_flight` | there are no batches: as many records unacknowledged as fit into that many batches (`nats`), or atomic batches of as many records, one at a time, acknowledged once each (`nats-tuned`) |
//! | `acks = all` | the only way JetStream has with one replica |

use std::{collections::BTreeMap, path::Path};

use crate::workload::{Durability, Workload};

/// Largest store that the server may make; the disk ends before it.
const STORE_MAX: &str = "1TB";

/// Most bytes of a stream. What `nats bench` takes by default is less than a run.
const STREAM_MAX: &str = "256GB";

/// Bytes of a record beside its payload in a batch, about: what tells how many fit.
const RECORD_OVERHEAD_BYTES: usize = 10;

/// Most records of an atomic batch: the server's default limit.
const ATOMIC_BATCH_MAX: usize = 1000;

/// Which of the two rows of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// Asynchronous publishing, each record acknowledged: what clients do.
    Defaults,
    /// Atomic batches when publishing, and a larger buffer when reading.
    Tuned,
}

/// The file of a server on loopback.
pub fn server_file(port: u16, data: &Path, durability: Durability) -> String {
    let sync = match durability {
        Durability::Disk => "  sync_interval: always\n",
        Durability::Memory => "",
    };
    let data = data.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{\n  store_dir: \"{data}\"\n  \
         max_file_store: {STORE_MAX}\n{sync}}}\n"
    )
}

/// Records of a full batch.
pub fn records_per_batch(workload: &Workload) -> usize {
    (workload.batch_bytes / (workload.payload_bytes + RECORD_OVERHEAD_BYTES)).max(1)
}

// === impl Tuning ===

impl Tuning {
    /// Arguments of `nats bench js` that publish `records` to `stream`.
    pub fn publish(self, workload: &Workload, stream: &str, records: u64) -> Vec<String> {
        let per_batch = records_per_batch(workload);
        let mut arguments = match self {
            Self::Defaults => {
                let outstanding = (per_batch * workload.in_flight).to_string();
                texts(["pub", "async", "--batch", &outstanding])
            }
            Self::Tuned => {
                let batch = (per_batch * workload.in_flight).min(ATOMIC_BATCH_MAX).to_string();
                texts(["pub", "batch", "--batch", &batch])
            }
        };
        if let Some(rate) = workload.rate {
            arguments.extend(texts(["--throughput", &format!("{rate:.0}")]));
        }
        arguments.extend(texts(["--create", "--storage", "file", "--maxbytes", STREAM_MAX]));
        arguments.extend(common(workload, stream, records));
        arguments.push(format!("bench.{stream}"));
        arguments
    }

    /// Arguments of `nats bench js` that read `records` of `stream`.
    pub fn read(self, workload: &Workload, stream: &str, records: u64) -> Vec<String> {
        let mut arguments = texts(["ordered"]);
        if self == Self::Tuned {
            arguments.extend(texts(["--batch", "10000"]));
        }
        arguments.extend(common(workload, stream, records));
        arguments
    }
}

fn common(workload: &Workload, stream: &str, records: u64) -> Vec<String> {
    let (records, payload) = (records.to_string(), workload.payload_bytes.to_string());
    let pairs = ["--clients", "1", "--msgs", &records, "--size", &payload, "--stream", stream];
    [texts(["--no-progress"]), texts(pairs)].concat()
}

fn texts<const N: usize>(parts: [&str; N]) -> Vec<String> {
    parts.map(str::to_owned).to_vec()
}

/// What the figures of a run stand on, for the report.
pub fn report(tuning: Tuning, workload: &Workload) -> BTreeMap<String, String> {
    let sync = match workload.durability {
        Durability::Disk => "always",
        Durability::Memory => "2m (default)",
    };
    let load = match workload.reads() {
        true => tuning.read(workload, "STREAM", 0),
        false => tuning.publish(workload, "STREAM", 0),
    };
    let shown: Vec<&str> =
        load.iter().map(String::as_str).take_while(|a| *a != "--no-progress").collect();
    BTreeMap::from([
        ("jetstream.sync_interval".to_owned(), sync.to_owned()),
        ("stream".to_owned(), "storage=file replicas=1".to_owned()),
        ("load".to_owned(), format!("nats bench js {}", shown.join(" "))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Kind;

    fn workload() -> Workload {
        Workload { in_flight: 4, ..Workload::default() }
    }

    fn follows(arguments: &[String], flag: &str) -> Option<String> {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    }

    #[test]
    fn the_server_syncs_always_only_for_the_disk() {
        let file = |durability| server_file(4222, Path::new("/d/\"x\""), durability);
        assert!(file(Durability::Disk).contains("sync_interval: always"));
        assert!(!file(Durability::Memory).contains("sync_interval"));
        assert!(file(Durability::Disk).contains("listen: \"127.0.0.1:4222\""));
        assert!(file(Durability::Disk).contains(r#"store_dir: "/d/\"x\"""#));
    }

    #[test]
    fn as_many_records_are_unacknowledged_as_batches_hold() {
        let per_batch = records_per_batch(&workload());
        assert_eq!(per_batch, 63);
        let plain = Tuning::Defaults.publish(&workload(), "s", 1000);
        assert_eq!(plain[..2], ["pub", "async"]);
        assert_eq!(follows(&plain, "--batch").as_deref(), Some("252"));
        let atomic = Tuning::Tuned.publish(&workload(), "s", 1000);
        assert_eq!(atomic[..2], ["pub", "batch"]);
        assert_eq!(follows(&atomic, "--batch").as_deref(), Some("252"));
        let wide = Workload { in_flight: 100, ..workload() };
        let widest = Tuning::Tuned.publish(&wide, "s", 1000);
        assert_eq!(follows(&widest, "--batch").as_deref(), Some("1000"));
        for arguments in [plain, atomic] {
            assert_eq!(follows(&arguments, "--msgs").as_deref(), Some("1000"));
            assert_eq!(follows(&arguments, "--size").as_deref(), Some("1024"));
            assert_eq!(follows(&arguments, "--throughput"), None);
            assert_eq!(arguments.last().map(String::as_str), Some("bench.s"));
        }
        let large = Workload { payload_bytes: 1 << 20, ..workload() };
        assert_eq!(records_per_batch(&large), 1);
    }

    #[test]
    fn a_rate_is_passed_on_and_the_report_names_the_load() {
        let paced = Workload { rate: Some(2500.0), ..workload() };
        let arguments = Tuning::Defaults.publish(&paced, "s", 1);
        assert_eq!(follows(&arguments, "--throughput").as_deref(), Some("2500"));
        let told = report(Tuning::Tuned, &workload());
        assert_eq!(told["jetstream.sync_interval"], "always");
        assert!(told["load"].starts_with("nats bench js pub batch --batch 252"), "{told:?}");
        let consume =
            Workload { kind: Kind::Consume, durability: Durability::Memory, ..workload() };
        let told = report(Tuning::Defaults, &consume);
        assert_eq!(told["load"], "nats bench js ordered");
        assert_eq!(told["jetstream.sync_interval"], "2m (default)");
    }
}
