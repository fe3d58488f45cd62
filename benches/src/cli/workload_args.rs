//! A workload from flags, or from a file whose settings flags replace one by one.

use std::time::Duration;

use clap::Args;

use crate::{
    error::{BenchError, Result},
    named,
    omb::Loaded,
    units::{parse_rate, parse_size, parse_time},
    workload::{Acks, Codec, Durability, Kind, Path, Segments, Volume, Workload, name_of},
};

/// Flags that make a workload. What is not given is as in the file, or the default.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Workload")]
pub struct WorkloadArgs {
    /// A workload by name (see suite --list) or file (TOML; YAML of the OpenMessaging benchmark);
    /// flags replace its settings
    #[arg(short, long, value_name = "NAME|FILE")]
    workload: Option<String>,

    /// Bytes of a record's value [default: 1KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    payload: Option<usize>,

    /// Share of the payload that is noise; the rest is zeros [default: 1, does not compress]
    #[arg(long, value_name = "0..1")]
    entropy: Option<f64>,

    /// Bytes of a full batch [default: 64KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    batch: Option<usize>,

    /// Longest wait of a batch for company, while another one is in flight [default: 5ms]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    linger: Option<Duration>,

    /// Unanswered batches per producer and partition [default: 32]
    #[arg(long, value_name = "N")]
    in_flight: Option<usize>,

    /// Broker processes that are started for it: one, or a cluster of three to nine [default: 1]
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,

    /// On how many of them each partition is [default: 1]
    #[arg(long, value_name = "N")]
    replication_factor: Option<u32>,

    /// The topic's min.insync.replicas [default: 1]
    #[arg(long, value_name = "N")]
    min_insync_replicas: Option<u32>,

    /// Partitions of the topic [default: 1]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,

    /// Producers [default: 1]
    #[arg(long, value_name = "N")]
    producers: Option<usize>,

    /// Consumers [default: 1]
    #[arg(long, value_name = "N")]
    consumers: Option<usize>,

    /// When a record counts as written [default: all]
    #[arg(long, value_enum, value_name = "ACKS")]
    acks: Option<Acks>,

    /// What an acknowledged record survives [default: disk]
    #[arg(long, value_enum, value_name = "DURABILITY")]
    durability: Option<Durability>,

    /// What batches are compressed with [default: none]
    #[arg(long, value_enum, value_name = "CODEC")]
    codec: Option<Codec>,

    /// Through the public client, or with batches encoded before [default: records]
    #[arg(long, value_enum, value_name = "PATH")]
    path: Option<Path>,

    /// Open loop: records per second of all producers (1000, 200k, 3M)
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate: Option<f64>,

    /// As fast as answers come, whatever the file says [default]
    #[arg(long, conflicts_with = "rate")]
    saturate: bool,

    /// How long is measured [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    duration: Option<Duration>,

    /// Load before that is not measured [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    warm_up: Option<Duration>,

    /// Measure so many records, if the time does not end first
    #[arg(long, value_name = "N")]
    records: Option<u64>,

    /// State of the segment files [default: fresh]
    #[arg(long, value_enum, value_name = "STATE")]
    segments: Option<Segments>,

    /// Below the kernel's dirty limit or past it [default: burst]
    #[arg(long, value_enum, value_name = "VOLUME")]
    volume: Option<Volume>,

    /// Bytes of batches written before a consumer is measured [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    backlog: Option<usize>,
}

// === impl WorkloadArgs ===

impl WorkloadArgs {
    /// The workload that was asked for.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn workload(&self, kind: Kind) -> Result<Workload> {
        let Some(name) = &self.workload else {
            let mut workload = defaults(kind);
            self.replace_in(&mut workload);
            return workload.checked();
        };
        let workload = self.load(name)?;
        if workload.kind != kind {
            return Err(BenchError::Usage(format!(
                "{name} is for another command: its kind is {}",
                name_of(workload.kind)
            )));
        }
        Ok(workload)
    }

    /// A workload by name or file, changed by what was given. Says on standard error what of it was
    /// taken otherwise than it is written.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self, name_or_path: &str) -> Result<Workload> {
        let Loaded { mut workload, notes } = named::load(name_or_path)?;
        notes.iter().for_each(|note| eprintln!("note: {name_or_path}: {note}"));
        self.replace_in(&mut workload);
        workload.checked()
    }

    /// Puts what was given in place of what is there.
    pub fn replace_in(&self, workload: &mut Workload) {
        fn set<T: Clone>(place: &mut T, given: &Option<T>) {
            if let Some(given) = given {
                place.clone_from(given);
            }
        }
        set(&mut workload.payload_bytes, &self.payload);
        set(&mut workload.entropy, &self.entropy);
        set(&mut workload.batch_bytes, &self.batch);
        set(&mut workload.linger_ms, &self.linger);
        set(&mut workload.in_flight, &self.in_flight);
        set(&mut workload.nodes, &self.nodes);
        set(&mut workload.replication_factor, &self.replication_factor);
        set(&mut workload.min_insync_replicas, &self.min_insync_replicas);
        set(&mut workload.partitions, &self.partitions);
        set(&mut workload.producers, &self.producers);
        set(&mut workload.consumers, &self.consumers);
        set(&mut workload.acks, &self.acks);
        set(&mut workload.durability, &self.durability);
        set(&mut workload.codec, &self.codec);
        set(&mut workload.path, &self.path);
        set(&mut workload.duration_ms, &self.duration);
        set(&mut workload.warm_up_ms, &self.warm_up);
        set(&mut workload.segments, &self.segments);
        set(&mut workload.volume, &self.volume);
        set(&mut workload.backlog_bytes, &self.backlog);
        workload.rate = self.rate.or(workload.rate.filter(|_| !self.saturate));
        workload.records = self.records.or(workload.records);
    }
}

/// What a command does without a file.
fn defaults(kind: Kind) -> Workload {
    let name = name_of(kind);
    let rate = (kind == Kind::EndToEnd).then_some(1_000.0);
    Workload { name, kind, rate, ..Workload::default() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: WorkloadArgs,
    }

    fn workload(kind: Kind, flags: &[&str]) -> Result<Workload> {
        let line = [&["bench"], flags].concat();
        Line::try_parse_from(line).expect("these are flags").args.workload(kind)
    }

    #[test]
    fn flags_replace_the_file_and_the_file_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.toml");
        fs::write(&file, "name = 'w'\npayload_bytes = 100\nrate = 5\npartitions = 3").unwrap();
        let file = file.to_str().unwrap();
        let plain = workload(Kind::Produce, &["-w", file]).unwrap();
        assert_eq!((plain.payload_bytes, plain.rate, plain.partitions), (100, Some(5.0), 3));
        let flags = ["-w", file, "--payload", "2KiB", "--saturate", "--codec", "zstd"];
        let changed = workload(Kind::Produce, &flags).unwrap();
        assert_eq!((changed.payload_bytes, changed.rate), (2048, None));
        assert_eq!((changed.codec, changed.partitions), (Codec::Zstd, 3));
        let error = workload(Kind::Consume, &["-w", file]).unwrap_err();
        assert!(error.to_string().contains("its kind is produce"), "{error}");
    }

    #[test]
    fn each_kind_has_defaults_that_can_be_run() {
        use clap::ValueEnum as _;
        for kind in Kind::value_variants() {
            let workload = workload(*kind, &[]).unwrap();
            assert_eq!(workload.kind, *kind);
        }
        assert!(workload(Kind::Produce, &["--in-flight", "100"]).is_err());
        assert!(workload(Kind::Produce, &["-w", "/no/such/file.toml"]).is_err());
    }
}
