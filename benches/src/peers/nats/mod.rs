//! NATS JetStream: one server on loopback with a file store, under the load of its own `nats bench`.
//!
//! # What its figures are
//!
//! A workload has batches, JetStream has none: see [`settings`] for what stands in. Its tool
//! measures the latency of a round of asynchronous publishing, from the first record of a full
//! window to the last acknowledgement; that of its atomic batches is no latency, and left out.

pub mod artifacts;
pub mod bench_file;
pub mod settings;

use std::{fs, path::PathBuf, time::Duration};

pub use self::artifacts::{Sources, VERSION};
use self::{artifacts::Artifacts, bench_file::Measured, settings::Tuning};
use super::{
    Peer, Task,
    cache::Cache,
    server::{Server, bytes_of_files, cost_per_gb, free_ports},
    tool::{Said, Tool},
};
use crate::{
    broker::DataDir,
    error::{BenchError, Result},
    outcome::{Cost, Errors, Run, latency},
    workload::{Durability, Kind},
};

/// Longest run of a load.
const LOAD_MAX: Duration = Duration::from_secs(30 * 60);

/// Longest run of a tool that asks the server for something.
const ASK_MAX: Duration = Duration::from_secs(60);

/// A server, and one way to load it.
#[derive(Debug)]
pub struct Nats {
    tuning: Tuning,
    artifacts: Artifacts,
    server: Server,
    address: String,
    data: PathBuf,
    streams: u32,
}

// === impl Nats ===

impl Nats {
    /// Two servers of the same settings, for plain and for tuned clients. Durability is the
    /// server's setting.
    ///
    /// # Errors
    /// Something to run or to build them with is missing, or they do not start.
    pub async fn start(
        cache: &Cache,
        sources: &Sources,
        durability: Durability,
        place: &DataDir,
    ) -> Result<Vec<Self>> {
        let artifacts = Artifacts::get(cache, sources).await?;
        let start = |tuning| Self::start_one(tuning, artifacts.clone(), durability, place);
        [Tuning::Defaults, Tuning::Tuned].into_iter().map(start).collect()
    }

    fn start_one(
        tuning: Tuning,
        artifacts: Artifacts,
        durability: Durability,
        place: &DataDir,
    ) -> Result<Self> {
        let dir = place.make()?;
        let data = dir.path().join("data");
        let port = free_ports(1)?[0];
        let file = dir.path().join("server.conf");
        fs::write(&file, settings::server_file(port, &data, durability))
            .map_err(BenchError::io("writing the configuration of NATS"))?;
        let server = Server::start("the NATS server", [(artifacts.server(&file)?, port)], dir)?;
        let address = format!("127.0.0.1:{port}");
        Ok(Self { tuning, artifacts, server, address, data, streams: 0 })
    }

    /// A `nats bench js` whose figures go to a file.
    fn bench(&self, arguments: Vec<String>) -> Result<(Tool, PathBuf)> {
        let file = self.server.dir().join("bench.csv");
        // That of the run before must not be read.
        let _ = fs::remove_file(&file);
        let mut command = self.artifacts.cli(self.server.dir(), &self.address)?;
        command.args(["bench", "js"]).args(arguments).arg("--csv").arg(&file);
        Ok((Tool::new("nats bench", command, LOAD_MAX), file))
    }

    async fn produce(&self, task: &Task<'_>, stream: &str) -> Result<Run> {
        let Task { workload, records, .. } = *task;
        let (load, file) = self.bench(self.tuning.publish(workload, stream, records))?;
        let (said, cost) = self.server.load(load, || bytes_of_files(&self.data, "blk")).await?;
        let window = (settings::records_per_batch(workload) * workload.in_flight) as u64;
        let measured = read(&file, task, records.div_ceil(window))?;
        let mut run = self.run_of(task, said, cost);
        run.produced = Some(measured.throughput);
        match measured.latency.filter(|_| self.tuning == Tuning::Defaults) {
            Some(measured) => {
                run.latencies.insert(latency::ACK.to_owned(), measured);
                run.notes.push(format!(
                    "nats: latencies are those of {window} records, from the first one published \
                     to the last one acknowledged"
                ));
            }
            None => run.notes.push("nats-tuned: atomic batches tell no latencies".into()),
        }
        run.notes.push(durability_note(workload.durability).to_owned());
        Ok(run)
    }

    async fn consume(&self, task: &Task<'_>, stream: &str) -> Result<Run> {
        let Task { workload, records, .. } = *task;
        let (filling, _) = self.bench(Tuning::Defaults.publish(workload, stream, records))?;
        filling.run().await?;
        let (load, file) = self.bench(self.tuning.read(workload, stream, records))?;
        let (said, cost) = self.server.load(load, || None).await?;
        let measured = read(&file, task, 0)?;
        let mut run = self.run_of(task, said, cost);
        run.consumed = Some(measured.throughput);
        Ok(run)
    }

    fn run_of(&self, task: &Task<'_>, said: Said, mut cost: Cost) -> Run {
        cost_per_gb(&mut cost, task.records * task.workload.payload_bytes as u64);
        Run {
            subject: self.subject().to_owned(),
            subject_version: Some(self.artifacts.version.clone()),
            round: task.round,
            workload: task.workload.clone(),
            settings: settings::report(self.tuning, task.workload),
            produced: None,
            consumed: None,
            latencies: Default::default(),
            cost,
            errors: Errors::default(),
            series: Vec::new(),
            notes: said.notes,
        }
    }
}

impl Peer for Nats {
    fn subject(&self) -> &'static str {
        match self.tuning {
            Tuning::Defaults => "nats",
            Tuning::Tuned => "nats-tuned",
        }
    }

    async fn run(&mut self, task: &Task<'_>) -> Result<Run> {
        self.streams += 1;
        let stream = format!("bench-{}", self.streams);
        let run = match task.workload.kind {
            Kind::Consume => self.consume(task, &stream).await,
            _ => self.produce(task, &stream).await,
        }?;
        let mut delete = self.artifacts.cli(self.server.dir(), &self.address)?;
        delete.args(["stream", "rm", "-f", &stream]);
        Tool::new("deleting a stream of NATS", delete, ASK_MAX).run().await?;
        Ok(run)
    }

    fn stop(self) {
        self.server.stop();
    }
}

fn read(file: &std::path::Path, task: &Task<'_>, operations: u64) -> Result<Measured> {
    let text = fs::read_to_string(file).map_err(BenchError::io("reading what nats bench found"))?;
    let Task { workload, records, .. } = *task;
    bench_file::read(&text, records, workload.payload_bytes, operations)
}

/// What is behind the same word.
fn durability_note(durability: Durability) -> &'static str {
    match durability {
        Durability::Disk => {
            "nats, durability=disk: sync_interval=always, so each record is written and synced by \
             itself before it is acknowledged; that is what it has, and it has no other way to \
             promise the same"
        }
        Durability::Memory => {
            "nats, durability=memory: its default, acknowledged in the page cache and synced every \
             two minutes"
        }
    }
}
