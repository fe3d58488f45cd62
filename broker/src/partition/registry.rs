//! The partitions of this broker: opened at the start, kept as the metadata log says from then on.
//!
//! A directory is removed only where a metadata record says that its topic was deleted. One that
//! belongs to no topic known here is set aside under another name and reported; absence from an
//! image proves nothing (NATS #7556: a corrupt snapshot, "orphans" cleaned up, data gone).

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use parking_lot::{Mutex, RwLock};
use riverrun_proto::ids::{BrokerId, PartitionIndex, TopicPartition};
use thiserror::Error;
use tokio::sync::watch;

use super::{
    owner::{Partition, PartitionEnv},
    settings::Settings,
};
use crate::{
    config::{LogConfig as LogSettings, ProduceConfig, TopicDefaults},
    io::SyncPoint,
    log::{self, Damage, Log, LogCounters, LogEnv, LogError, PartitionMeta, RecoveryReport},
    metadata::{Delta, MetadataImage, MetadataOffset, Partition as Registered, Topic},
    replica::{Registration, Replica},
};

/// What the registry works with; all of it plain configuration or shared handles.
#[derive(Debug, Clone)]
pub struct RegistryEnv {
    /// This broker.
    pub me: BrokerId,
    /// `<data>/data`: one directory per partition.
    pub dir: PathBuf,
    /// What logs share.
    pub log: LogEnv,
    /// What partitions share.
    pub partition: PartitionEnv,
    /// What topics that say nothing else are like.
    pub topic_defaults: TopicDefaults,
    /// How logs are kept.
    pub log_settings: LogSettings,
    /// What is remembered of producers.
    pub produce_settings: ProduceConfig,
}

/// See the module.
pub struct Registry {
    env: RegistryEnv,
    partitions: RwLock<HashMap<TopicPartition, Arc<Partition>>>,
    /// Partitions that are assigned to this broker and could not be opened, and why.
    failed: RwLock<HashMap<TopicPartition, String>>,
    /// What of the metadata log has been carried out here.
    applied: watch::Sender<MetadataOffset>,
}

/// What opening all partitions found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// Partitions that serve.
    pub opened: usize,
    /// Bytes that were scanned because the last stop was not a clean one.
    pub scanned_bytes: u64,
    /// Logs whose last append had not been finished; its remains were cut off.
    pub torn: usize,
    /// Partitions with damage among what was durable: they serve around it and take no appends.
    pub damaged: Vec<(TopicPartition, Damage)>,
    /// Directories that belong to no known topic, under the names they were given.
    pub set_aside: Vec<PathBuf>,
    /// Partitions that could not be opened, and why. They answer KAFKA_STORAGE_ERROR.
    pub failed: Vec<(TopicPartition, String)>,
}

/// The data directory could not be looked through.
#[derive(Debug, Error)]
#[error("cannot open the partitions in {}: {source}", dir.display())]
pub struct OpenError {
    dir: PathBuf,
    source: LogError,
}

impl Registry {
    /// Opens every partition that `image` assigns to this broker, several at a time. Blocks.
    ///
    /// `clean`: the last stop was a clean one, so that nothing needs to be scanned.
    ///
    /// # Errors
    /// If the directory cannot be read. A partition that cannot be opened is in the report: the
    /// others serve.
    pub fn open(
        env: RegistryEnv,
        image: &MetadataImage,
        clean: bool,
    ) -> Result<(Arc<Self>, OpenReport), OpenError> {
        let failed_on = |source| OpenError { dir: env.dir.clone(), source };
        let mut report = OpenReport::default();
        let present = sort_out_directories(&env, image, &mut report).map_err(failed_on)?;
        let registry = Arc::new(Self {
            env,
            partitions: RwLock::default(),
            failed: RwLock::default(),
            applied: watch::Sender::new(image.offset()),
        });

        let assigned: Vec<_> = image
            .topics()
            .flat_map(|topic| topic.partitions().map(move |(index, state)| (topic, index, state)))
            .filter(|(_, _, state)| state.replicas.contains(&registry.env.me))
            .collect();
        let next = AtomicUsize::new(0);
        let report = Mutex::new(report);
        let threads = thread::available_parallelism().map_or(2, usize::from) * 2;
        thread::scope(|scope| {
            for _ in 0..threads.min(assigned.len()) {
                scope.spawn(|| {
                    while let Some((topic, index, state)) =
                        assigned.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let id = TopicPartition::new(topic.id, *index);
                        let exists = present.contains(&id);
                        let opened = registry.start(topic, *index, state, exists, clean);
                        report.lock().note(id, opened);
                    }
                });
            }
        });
        let report = report.into_inner();
        registry.failed.write().extend(report.failed.iter().cloned());
        Ok((registry, report))
    }

    /// Carries out one change of the metadata. Changes must come in order. Blocks.
    pub fn apply(&self, delta: &Delta) {
        match delta {
            Delta::FeatureLevelChanged(_) | Delta::BrokerRegistered(_) => {}
            Delta::TopicCreated(topic) => self.start_from(topic, PartitionIndex::default()),
            Delta::PartitionsCreated { topic, first } => self.start_from(topic, *first),
            Delta::TopicConfigChanged(topic) => {
                let (settings, log) = self.settings(topic);
                for (index, _) in topic.partitions() {
                    if let Some(partition) = self.get(TopicPartition::new(topic.id, index)) {
                        partition.reconfigure(settings.clone(), log.clone());
                    }
                }
            }
            Delta::PartitionChanged { partition, state } => {
                if let Some(partition) = self.get(*partition) {
                    partition.register(registration(state));
                }
            }
            Delta::TopicDeleted(topic) => self.delete(topic),
        }
    }

    /// Everything up to `offset` was applied.
    pub fn note_applied(&self, offset: MetadataOffset) {
        self.applied.send_replace(offset);
    }

    /// Waits until the changes up to `offset` are carried out on this broker. Cancel safe.
    pub async fn wait_applied(&self, offset: MetadataOffset) {
        let mut applied = self.applied.subscribe();
        applied.wait_for(|at| *at >= offset).await.expect("the sender lives as long as self");
    }

    /// A partition of this broker.
    pub fn get(&self, id: TopicPartition) -> Option<Arc<Partition>> {
        self.partitions.read().get(&id).cloned()
    }

    /// Why a partition of this broker does not serve.
    pub fn failure_of(&self, id: TopicPartition) -> Option<String> {
        self.failed.read().get(&id).cloned()
    }

    /// All partitions of this broker, in no order.
    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().values().cloned().collect()
    }

    /// What the logs have done.
    pub fn counters(&self) -> Arc<LogCounters> {
        Arc::clone(&self.env.log.counters)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.partitions.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes all partitions and writes down what makes the next start a quick one. Returns whether
    /// every log was closed in order; only then may the clean-shutdown marker be written. Blocks.
    pub fn close(&self) -> bool {
        let all = self.all();
        for partition in &all {
            partition.close();
        }
        let next = AtomicUsize::new(0);
        let failures = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..CLOSERS.min(all.len()) {
                scope.spawn(|| {
                    while let Some(partition) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = partition.finish() {
                            failures.fetch_add(1, Ordering::Relaxed);
                            tracing::error!(partition = %partition.id(), topic = %partition.topic(), %error, "not closed in order");
                        }
                    }
                });
            }
        });
        failures.into_inner() == 0
    }

    fn start_from(&self, topic: &Topic, first: PartitionIndex) {
        for (index, state) in topic.partitions() {
            if index < first || !state.replicas.contains(&self.env.me) {
                continue;
            }
            if let Err(error) = self.start(topic, index, state, false, false) {
                let partition = TopicPartition::new(topic.id, index);
                tracing::error!(%partition, topic = %topic.name, %error, "partition not started");
                self.failed.write().insert(partition, error.to_string());
            }
        }
    }

    /// Opens or makes one partition and lets it serve.
    fn start(
        &self,
        topic: &Topic,
        index: PartitionIndex,
        state: &Registered,
        exists: bool,
        clean: bool,
    ) -> Result<RecoveryReport, LogError> {
        let id = TopicPartition::new(topic.id, index);
        let dir = self.env.dir.join(id.to_string());
        let (settings, log_config) = self.settings(topic);
        let (log, report) = if exists {
            let now = self.env.partition.clock.now();
            Log::open(self.env.log.clone(), dir, log_config, clean, now)?
        } else {
            let meta = PartitionMeta { partition: id, topic_name: topic.name.clone() };
            let log = Log::create(self.env.log.clone(), dir, &meta, log_config)?;
            (log, RecoveryReport::default())
        };
        let replica = Replica::new(
            self.env.me,
            settings.durability,
            log.log_start_offset(),
            log.log_end_offset(),
            log.high_watermark(),
        );
        let partition = Partition::new(
            id,
            topic.name.clone(),
            self.env.partition.clone(),
            settings,
            log,
            replica,
        );
        partition.register(registration(state));
        self.partitions.write().insert(id, partition);
        Ok(report)
    }

    fn settings(&self, topic: &Topic) -> (Settings, log::LogConfig) {
        Settings::of_topic(topic, &self.env)
    }

    fn delete(&self, topic: &Topic) {
        for (index, _) in topic.partitions() {
            let id = TopicPartition::new(topic.id, index);
            let partition = self.partitions.write().remove(&id);
            let had_failed = self.failed.write().remove(&id).is_some();
            match partition {
                Some(partition) => {
                    partition.close();
                    partition.wait_idle();
                }
                None if had_failed => {}
                None => continue,
            }
            let dir = self.env.dir.join(id.to_string());
            if let Err(error) = log::remove_partition(&self.env.log, &dir) {
                tracing::error!(partition = %id, topic = %topic.name, %error, dir = %dir.display(), "data of a deleted topic not removed; the next start tries again");
            }
        }
    }
}

/// Threads that close logs: as many syncs as a disk can merge, few enough for any machine.
const CLOSERS: usize = 16;

const SET_ASIDE: &str = ".set-aside";

impl OpenReport {
    fn note(&mut self, id: TopicPartition, opened: Result<RecoveryReport, LogError>) {
        match opened {
            Ok(recovery) => {
                self.opened += 1;
                self.scanned_bytes += recovery.scanned_bytes;
                self.torn += usize::from(recovery.cut.is_some());
                self.damaged.extend(recovery.damage.map(|damage| (id, damage)));
            }
            Err(error) => self.failed.push((id, error.to_string())),
        }
    }
}

/// What the directory holds of known partitions; removes what was deleted, sets aside the unknown.
fn sort_out_directories(
    env: &RegistryEnv,
    image: &MetadataImage,
    report: &mut OpenReport,
) -> Result<HashSet<TopicPartition>, LogError> {
    let disk = &env.log.disk;
    let failed = |what| move |source| LogError::Io { what, path: env.dir.clone(), source };
    let mut present = HashSet::new();
    for entry in disk.list(&env.dir).map_err(failed("listing"))? {
        let path = env.dir.join(&entry.name);
        if !entry.is_dir || entry.name.ends_with(SET_ASIDE) {
            continue;
        }
        if log::layout::is_deleted_dir(&entry.name) {
            log::finish_removal(&env.log, &path)?;
            continue;
        }
        match entry.name.parse::<TopicPartition>() {
            Ok(id) if image.partition(id).is_some() => {
                present.insert(id);
            }
            Ok(id) if image.deleted_at(id.topic).is_some() => {
                log::remove_partition(&env.log, &path)?
            }
            _ => {
                let aside = env.dir.join(format!("{}{SET_ASIDE}", entry.name));
                disk.rename(&path, &aside).map_err(failed("renaming a directory in"))?;
                disk.sync_dir(&env.dir, SyncPoint::PartitionRemovedDir)
                    .map_err(failed("syncing"))?;
                tracing::warn!(dir = %path.display(), now = %aside.display(), "directory of no known topic set aside");
                report.set_aside.push(aside);
            }
        }
    }
    Ok(present)
}

fn registration(state: &Registered) -> Registration {
    Registration {
        leader: state.leader,
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        replicas: state.replicas.clone(),
        isr: state.isr.clone(),
        min_isr: state.min_isr,
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("dir", &self.env.dir)
            .field("partitions", &self.len())
            .finish_non_exhaustive()
    }
}
