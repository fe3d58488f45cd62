//! Kafka: one broker that is its own controller, or as many as the workload has nodes, each of which
//! is a controller too; on loopback, under the load of Kafka's own `ProducerPerformance` and
//! `ConsumerPerformance`.
//!
//! # What its figures are
//!
//! The broker stays up for all rounds, and has had load before the first, so that its code is
//! compiled. A load generator is a new virtual machine each time: a producer's first records are its
//! warm-up and do not count; a consumer has none, its figure contains its compilation. The CPU
//! seconds of a load generator contain all of its life.

pub mod artifacts;
pub mod perf;
pub mod settings;

use std::{fs, path::PathBuf, process::Command, time::Duration};

use self::{
    artifacts::Artifacts,
    settings::{Settings, Tuning},
};
pub use self::{artifacts::VERSION, settings::IN_FLIGHT_MAX};
use super::{
    Peer, Task,
    cache::Cache,
    server::{Server, bytes_of_files, cost_per_gb, free_ports},
    tool::Tool,
};
use crate::{
    broker::DataDir,
    error::{BenchError, Result},
    outcome::{Errors, Run, latency},
    workload::{Durability, Kind, Workload},
};

/// Longest run of a load generator.
const LOAD_MAX: Duration = Duration::from_secs(30 * 60);

/// Longest run of a tool that asks the broker for something.
const ASK_MAX: Duration = Duration::from_secs(120);

/// Brokers with their settings.
#[derive(Debug)]
pub struct Kafka {
    tuning: Tuning,
    artifacts: Artifacts,
    server: Server,
    /// All of them.
    addresses: String,
    /// Where each has its data.
    data: Vec<PathBuf>,
    /// Topics made so far: a deleted one leaves its name a while later.
    topics: u32,
}

// === impl Kafka ===

impl Kafka {
    /// Two rows of `nodes` brokers each: as shipped and tuned.
    ///
    /// # Errors
    /// Something to run or to fetch them with is missing, or they do not start.
    pub async fn start(
        cache: &Cache,
        version: &str,
        nodes: u32,
        place: &DataDir,
    ) -> Result<Vec<Self>> {
        let artifacts = Artifacts::get(cache, version).await?;
        let mut rows = Vec::new();
        for tuning in [Tuning::Defaults, Tuning::Tuned] {
            rows.push(Self::start_row(tuning, artifacts.clone(), nodes, place).await?);
        }
        Ok(rows)
    }

    async fn start_row(
        tuning: Tuning,
        artifacts: Artifacts,
        nodes: u32,
        place: &DataDir,
    ) -> Result<Self> {
        let dir = place.make()?;
        let ports: Vec<[u16; 2]> = free_ports(2 * nodes as usize)?
            .chunks_exact(2)
            .map(|of_node| [of_node[0], of_node[1]])
            .collect();
        let mut brokers = Vec::new();
        let mut data = Vec::new();
        for (index, [port, _]) in ports.iter().enumerate() {
            let node = index + 1;
            let place = dir.path().join(format!("data-{node}"));
            let mut all = settings::broker_place(index, &ports, &place);
            all.extend(tuning.broker());
            let file = dir.path().join(format!("server-{node}.properties"));
            fs::write(&file, settings::properties(&all))
                .map_err(BenchError::io("writing the properties of Kafka"))?;

            let mut format = artifacts.program(&[], "kafka.tools.StorageTool")?;
            format.args(["format", "-t", settings::CLUSTER_ID, "-c"]).arg(&file);
            Tool::new("Kafka's StorageTool", format, ASK_MAX).run().await?;

            let mut broker = artifacts.program(&tuning.broker_jvm(nodes), "kafka.Kafka")?;
            broker.arg(&file);
            brokers.push((broker, *port));
            data.push(place);
        }
        let server = Server::start("Kafka", brokers, dir)?;
        let addresses: Vec<_> = ports.iter().map(|[port, _]| format!("127.0.0.1:{port}")).collect();
        Ok(Self { tuning, artifacts, server, addresses: addresses.join(","), data, topics: 0 })
    }

    fn tool(&self, jvm: &[&str], class: &str) -> Result<Command> {
        let mut command =
            self.artifacts.program(jvm, &format!("org.apache.kafka.tools.{class}"))?;
        command.args(["--bootstrap-server", &self.addresses]);
        Ok(command)
    }

    async fn create_topic(&mut self, workload: &Workload) -> Result<String> {
        self.topics += 1;
        let name = format!("bench-{}", self.topics);
        let mut command = self.tool(&[], "TopicCommand")?;
        command.args(["--create", "--topic", &name]);
        command.args(["--replication-factor", &workload.replication_factor.to_string()]);
        command.args(["--partitions", &workload.partitions.to_string()]);
        for (key, value) in settings::topic(workload) {
            command.arg("--config").arg(format!("{key}={value}"));
        }
        Tool::new("creating a Kafka topic", command, ASK_MAX).run().await?;
        Ok(name)
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        let mut command = self.tool(&[], "TopicCommand")?;
        command.args(["--delete", "--topic", name]);
        Tool::new("deleting a Kafka topic", command, ASK_MAX).run().await?;
        Ok(())
    }

    fn producer(&self, task: &Task<'_>, topic: &str, records: u64, warm_up: u64) -> Result<Tool> {
        let workload = task.workload;
        let mut command = self.tool(&self.tuning.load_jvm(), "ProducerPerformance")?;
        let rate = workload.rate.map_or_else(|| "-1".to_owned(), |rate| format!("{rate:.0}"));
        command.args(["--topic", topic, "--throughput", &rate]);
        command.args(["--num-records", &(records + warm_up).to_string()]);
        command.args(["--record-size", &workload.payload_bytes.to_string()]);
        if warm_up > 0 {
            command.args(["--warmup-records", &warm_up.to_string()]);
        }
        command.arg("--command-property").args(pairs(self.tuning.producer(workload)));
        Ok(Tool::new("Kafka's ProducerPerformance", command, LOAD_MAX))
    }

    fn consumer(&self, topic: &str, records: u64) -> Result<Tool> {
        let mut command = self.tool(&self.tuning.load_jvm(), "ConsumerPerformance")?;
        command.args(["--topic", topic, "--num-records", &records.to_string()]);
        let mut consumer = self.tuning.consumer();
        // The tool overrides it with an option of its own.
        if let Some(bytes) = consumer.remove("max.partition.fetch.bytes") {
            command.args(["--fetch-size", &bytes]);
        }
        for pair in pairs(consumer) {
            command.args(["--command-property", &pair]);
        }
        Ok(Tool::new("Kafka's ConsumerPerformance", command, LOAD_MAX))
    }

    async fn produce(&self, task: &Task<'_>, topic: &str) -> Result<Run> {
        let Task { workload, records, warm_up, .. } = *task;
        let load = self.producer(task, topic, records, warm_up)?;
        let (said, mut cost) = self.server.load(load, || self.bytes_of(topic, workload)).await?;
        let produced = perf::produced(&said.lines, workload.payload_bytes)?;
        let lost = (records + warm_up).saturating_sub(produced.acknowledged);
        if lost > 0 {
            return Err(BenchError::Failed(format!("Kafka did not acknowledge {lost} records")));
        }
        cost_per_gb(&mut cost, (records + warm_up) * workload.payload_bytes as u64);
        let mut run = self.run_of(task, said.notes);
        run.produced = Some(produced.throughput);
        run.latencies.insert(latency::ACK.to_owned(), produced.latency);
        run.cost = cost;
        run.notes.push(durability_note(workload.durability).to_owned());
        run.notes.push(
            "kafka: latencies are those of its tool: from the call of send, in whole milliseconds"
                .into(),
        );
        Ok(run)
    }

    async fn consume(&self, task: &Task<'_>, topic: &str) -> Result<Run> {
        let Task { workload, records, .. } = *task;
        let filling = self.producer(task, topic, records, 0)?;
        let said = filling.run().await?;
        let written = perf::produced(&said.lines, workload.payload_bytes)?.acknowledged;
        let load = self.consumer(topic, records)?;
        let (said, mut cost) = self.server.load(load, || None).await?;
        let consumed = perf::consumed(&said.lines, workload.payload_bytes)?;
        if consumed.records < records || written < records {
            return Err(BenchError::Failed(format!(
                "Kafka acknowledged {written} of {records} records, and gave {} back",
                consumed.records
            )));
        }
        cost_per_gb(&mut cost, consumed.bytes);
        let mut run = self.run_of(task, said.notes);
        run.consumed = Some(consumed);
        run.cost = cost;
        run.notes.push(
            "kafka: a consumer's time does not contain that of joining its group, and contains \
             that of its virtual machine to warm up"
                .into(),
        );
        Ok(run)
    }

    /// Bytes of one copy of a topic.
    fn bytes_of(&self, topic: &str, workload: &Workload) -> Option<u64> {
        let mut bytes = 0;
        for data in &self.data {
            let dirs = (0..workload.partitions).map(|p| data.join(format!("{topic}-{p}")));
            // Not every broker has a copy of each partition.
            for dir in dirs.filter(|dir| dir.exists()) {
                bytes += bytes_of_files(&dir, "log")?;
            }
        }
        Some(bytes / u64::from(workload.replication_factor)).filter(|bytes| *bytes > 0)
    }

    fn run_of(&self, task: &Task<'_>, notes: Vec<String>) -> Run {
        Run {
            subject: self.subject().to_owned(),
            subject_version: Some(self.artifacts.version.clone()),
            round: task.round,
            workload: task.workload.clone(),
            settings: settings::report(self.tuning, task.workload),
            produced: None,
            consumed: None,
            latencies: Default::default(),
            cost: Default::default(),
            errors: Errors::default(),
            series: Vec::new(),
            notes,
        }
    }
}

impl Peer for Kafka {
    fn subject(&self) -> &'static str {
        match self.tuning {
            Tuning::Defaults => "kafka",
            Tuning::Tuned => "kafka-tuned",
        }
    }

    async fn run(&mut self, task: &Task<'_>) -> Result<Run> {
        let topic = self.create_topic(task.workload).await?;
        let run = match task.workload.kind {
            Kind::Consume => self.consume(task, &topic).await,
            _ => self.produce(task, &topic).await,
        }?;
        self.delete_topic(&topic).await?;
        Ok(run)
    }

    fn stop(self) {
        self.server.stop();
    }
}

fn pairs(settings: Settings) -> impl Iterator<Item = String> {
    settings.into_iter().map(|(key, value)| format!("{key}={value}"))
}

/// What is behind the same word.
fn durability_note(durability: Durability) -> &'static str {
    match durability {
        Durability::Disk => {
            "kafka, durability=disk: flush.messages=1, so the leader syncs log and indexes after \
             each append and before it acknowledges; one sync per batch, never one for several. \
             Its makers leave that to replication"
        }
        Durability::Memory => {
            "kafka, durability=memory: its default, acknowledged in the page cache and written \
             back by the kernel"
        }
    }
}
