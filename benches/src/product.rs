//! Runs of the product: a topic made for the run, the load, and what the broker says afterwards,
//! which has to agree with what was counted here.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use futures::try_join;
use riverrun_client::{Client, Position, Topic, TopicPartition};
use rustix::fs::{Advice, fadvise, syncfs};
use tokio::sync::watch;

use crate::{
    accounting,
    broker::{Broker, BrokerArgs, End, RunTopic},
    clock::Moment,
    error::{BenchError, Result},
    load::{Load, consumers, producers},
    measure::Measurement,
    outcome::{Run, Subject},
    payload::Batches,
    recorder::{Measure, Recorder},
    stop::{Quota, Stop},
    wire::{drain, pump},
    workload::{Acks, Kind, Path, Segments, Volume, Workload},
};

/// A broker under load.
#[derive(Debug)]
pub struct Product {
    broker: Broker,
    subject: &'static str,
    progress: bool,
}

/// A backlog that was written before.
pub(crate) struct Backlog {
    /// First offset not written, by partition.
    pub(crate) ends: Vec<i64>,
    /// Where it is.
    pub(crate) topic: RunTopic,
}

// === impl Product ===

impl Product {
    /// Starts a broker, or as many as `workload` says, or takes those that were named.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(args: &BrokerArgs, workload: &Workload, progress: bool) -> Result<Self> {
        let broker = Broker::start(args, workload.nodes).await?;
        Ok(Self { broker, subject: Subject::RIVERRUN, progress })
    }

    /// The same under another name, where two alternate.
    #[must_use]
    pub fn called(self, subject: &'static str) -> Self {
        Self { subject, ..self }
    }

    /// Its data directory, if it is ours.
    pub fn data(&self) -> Option<&FilePath> {
        self.broker.data()
    }

    /// Does what `workload` says, once.
    ///
    /// # Errors
    /// It cannot be done, or the broker and this program count differently.
    pub async fn run(&mut self, workload: &Workload, round: u32) -> Result<Run> {
        if workload.segments == Segments::Resident && workload.writes() {
            return Err(BenchError::Usage(
                "segments=resident: this broker does not recycle segment files, each is a new one; \
                 measure segments=fresh"
                    .into(),
            ));
        }
        let name = format!("bench-{}-{round}", workload.name);
        let client = self.broker.client().await?;
        let run = match workload.kind {
            Kind::Consume => self.consume(client, &name, workload, round).await,
            _ => self.write(client, &name, workload, round).await,
        };
        let client = self.broker.client().await?;
        let deleted = client.admin().delete_topic(&name).await;
        let run = run?;
        deleted.map_err(BenchError::client(format!("deleting topic {name}")))?;
        Ok(run)
    }

    async fn write(
        &self,
        client: Client,
        name: &str,
        workload: &Workload,
        round: u32,
    ) -> Result<Run> {
        let RunTopic { topic, settings } =
            self.broker.create_topic(&client, name, workload).await?;
        let load = self.load(&client, &topic, workload);
        self.write_back().await?;
        let accounts = self.broker.accounts();
        let mut measurement = self.measurement(&load, round, &accounts, settings);
        measurement.burst_bytes = accounting::burst(workload);
        let mut run = match (workload.kind, workload.path) {
            (Kind::Produce, Path::Records) => {
                measurement.run(|start| producers::run(&load, start)).await?
            }
            (Kind::Produce, Path::Batches) => {
                let pumps = self.pumps(&load, Batches::encode(workload)?);
                measurement.run(|start| pump::run(&pumps, start)).await?
            }
            _ => measurement.run(|start| both(&load, start)).await?,
        };
        self.reconcile(&mut run, &load).await?;
        Ok(run)
    }

    async fn consume(
        &mut self,
        mut client: Client,
        name: &str,
        workload: &Workload,
        round: u32,
    ) -> Result<Run> {
        let backlog = self.fill(&client, name, workload).await?;
        if workload.segments == Segments::Cold {
            self.write_back().await?;
            self.broker.restart(End::Orderly, drop_from_cache)?;
            client = self.broker.client().await?;
        }
        let Backlog { ends, topic: RunTopic { topic, settings } } = backlog;
        let load = self.load(&client, &topic, workload);
        let accounts = self.broker.accounts();
        let mut measurement = self.measurement(&load, round, &accounts, settings);
        // Nothing is written.
        measurement.data = None;
        match workload.path {
            Path::Records => {
                let records: Vec<u64> =
                    ends.iter().map(|end| u64::try_from(*end).unwrap_or(0)).collect();
                measurement.run(|_| consumers::read_backlog(&load, &records)).await
            }
            Path::Batches => {
                let drains = drain::Drains {
                    address: self.broker.address_of_leader(&topic).to_owned(),
                    topic: topic.id,
                    workload: Arc::clone(&load.workload),
                    ends: Some(Arc::new(ends)),
                    recorder: Arc::clone(&load.recorder),
                    stop: load.stop.clone(),
                    quota: Arc::clone(&load.quota),
                };
                measurement.run(|_| drain::run(&drains)).await
            }
        }
    }

    /// The broker under load.
    pub(crate) const fn broker(&mut self) -> &mut Broker {
        &mut self.broker
    }

    /// Writes what a consumer will read.
    pub(crate) async fn fill(
        &self,
        client: &Client,
        name: &str,
        workload: &Workload,
    ) -> Result<Backlog> {
        let topic = self.broker.create_topic(client, name, workload).await?;
        let batches = Batches::encode(workload)?;
        let count = (workload.backlog_bytes / batches.bytes_max()).max(1) as u64;
        let filling = Workload {
            kind: Kind::Produce,
            path: Path::Batches,
            acks: Acks::All,
            producers: 1,
            rate: None,
            records: Some(count * batches.records),
            ..workload.clone()
        };
        let load = self.load(client, &topic.topic, &filling);
        if workload.nodes > 1 {
            // Several of them may lead: only the client knows whom to talk to.
            producers::run(&load, Moment::now()).await?;
        } else {
            pump::run(&self.pumps(&load, batches), Moment::now()).await?;
        }
        let errors = load.recorder.errors();
        if errors.records > 0 {
            return Err(BenchError::Failed(format!(
                "writing the backlog: {} records failed: {}",
                errors.records,
                errors.first.join("; ")
            )));
        }
        let ends = ends(client, &topic.topic).await?;
        Ok(Backlog { ends, topic })
    }

    fn load(&self, client: &Client, topic: &Topic, workload: &Workload) -> Load {
        Load {
            workload: Arc::new(workload.clone()),
            client: client.clone(),
            topic: topic.clone(),
            recorder: Arc::new(Recorder::new()),
            stop: Stop::new(),
            quota: Arc::new(Quota::new(workload.records)),
        }
    }

    fn measurement<'a>(
        &self,
        load: &'a Load,
        round: u32,
        accounts: &'a crate::accounting::Accounts,
        settings: BTreeMap<String, String>,
    ) -> Measurement<'a> {
        Measurement {
            subject: self.subject,
            round,
            workload: &load.workload,
            recorder: &load.recorder,
            stop: &load.stop,
            accounts,
            data: self.broker.data().map(PathBuf::from),
            burst_bytes: None,
            settings,
            progress: self.progress,
        }
    }

    fn pumps(&self, load: &Load, batches: Batches) -> pump::Pumps {
        pump::Pumps {
            address: self.broker.address_of_leader(&load.topic).to_owned(),
            topic: load.topic.id,
            workload: Arc::clone(&load.workload),
            batches,
            measure: Measure::Ack,
            recorder: Arc::clone(&load.recorder),
            stop: load.stop.clone(),
            quota: Arc::clone(&load.quota),
        }
    }

    /// A burst begins with a clean page cache.
    async fn write_back(&self) -> Result<()> {
        let Some(data) = self.broker.data().map(PathBuf::from) else { return Ok(()) };
        let sync = move || Ok(syncfs(File::open(data)?)?);
        let synced: io::Result<()> =
            tokio::task::spawn_blocking(sync).await.expect("syncing does not panic");
        synced.map_err(BenchError::io("syncing the data"))
    }

    /// What the broker has must be what was acknowledged; and it knows best how many bytes that is.
    async fn reconcile(&self, run: &mut Run, load: &Load) -> Result<()> {
        let described = load.client.admin().describe_topic(&*load.topic.name).await;
        let described = described.map_err(BenchError::client("describing the topic"))?;
        let (mut committed, mut bytes) = (0, 0);
        for (partition, offsets) in described.partitions {
            let offsets =
                offsets.map_err(BenchError::client(format!("describing partition {partition}")))?;
            committed += u64::try_from(offsets.high_watermark).unwrap_or(0);
            bytes += offsets.size_bytes;
        }
        if load.workload.volume == Volume::Burst {
            run.cost.set_appended(bytes);
        }
        let acknowledged = load.recorder.counts().produced_records;
        // A record that failed may have been written all the same.
        if committed < acknowledged || (committed > acknowledged && run.errors.records == 0) {
            let says =
                format!("{acknowledged} records were acknowledged, the topic has {committed}");
            if load.workload.acks == Acks::All {
                return Err(BenchError::Failed(says));
            }
            run.notes.push(says);
        }
        self.look_at_the_isr(run, load).await
    }

    /// A follower that left the ISR took less of the load than the figure says.
    async fn look_at_the_isr(&self, run: &mut Run, load: &Load) -> Result<()> {
        let topic = load.client.admin().topic(&*load.topic.name).await;
        let topic = topic.map_err(BenchError::client("asking who is in sync"))?;
        let all = load.workload.replication_factor as usize;
        let fewer = topic.partitions.iter().filter(|p| p.in_sync_replicas.len() < all).count();
        if fewer > 0 && load.workload.nodes > 1 {
            run.notes.push(format!("{fewer} partition(s) ended with fewer than {all} in sync"));
        }
        Ok(())
    }

    /// Ends the broker, if it is ours, and removes its data.
    ///
    /// # Errors
    /// It did not end in order.
    pub fn stop(self) -> Result<()> {
        self.broker.stop()
    }
}

/// Producers and consumers at once; the consumers end when they have read all that was written.
async fn both(load: &Load, start: Moment) -> Result<()> {
    let (told, written) = watch::channel(None);
    let writing = async {
        producers::run(load, start).await?;
        told.send_replace(Some(load.recorder.counts().produced_records));
        Ok(())
    };
    // The consumers' records are those of the producers: only these have a quota.
    try_join!(writing, consumers::follow(load, written))?;
    Ok(())
}

async fn ends(client: &Client, topic: &Topic) -> Result<Vec<i64>> {
    let partitions = 0..u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
    let place = |partition| TopicPartition::new(Arc::clone(&topic.name), partition);
    let queries = partitions.map(|partition| (place(partition), Position::Latest));
    let asking = || BenchError::client("asking where the backlog ends");
    let ends = client.admin().list_offsets(queries).await.map_err(asking())?;
    ends.into_iter().map(|end| Ok(end.map_err(asking())?.offset)).collect()
}

/// Takes all files below `dir` out of the page cache.
fn drop_from_cache(dir: &FilePath) -> Result<()> {
    let dropping = || BenchError::io(format!("dropping {} from the page cache", dir.display()));
    for entry in fs::read_dir(dir).map_err(dropping())? {
        let entry = entry.map_err(dropping())?;
        if entry.file_type().map_err(dropping())?.is_dir() {
            drop_from_cache(&entry.path())?;
            continue;
        }
        let file = File::open(entry.path()).map_err(dropping())?;
        file.sync_all().map_err(dropping())?;
        fadvise(&file, 0, None, Advice::DontNeed).map_err(|e| dropping()(e.into()))?;
    }
    Ok(())
}
