//! The partitions of this broker: opened at the start, kept as the metadata log says from then on.
//!
//! A partition that cannot be opened or made does not keep the others from serving: it answers
//! KAFKA_STORAGE_ERROR with the reason, and where that may pass (a full disk, too few handles) it is
//! tried again ([`Registry::retry_failed`]).

use std::{
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use parking_lot::{Mutex, RwLock};
use riverrun_proto::ids::{BrokerId, PartitionIndex, TopicId, TopicPartition};
use thiserror::Error;
use tokio::sync::watch;

use super::{
    CloseError, directories,
    owner::{Partition, PartitionEnv},
    pool::panic_text,
    settings::Settings,
};
use crate::{
    config::{LogConfig as LogSettings, ProduceConfig, TopicDefaults},
    log::{self, Damage, Log, LogCounters, LogEnv, LogError, PartitionMeta, RecoveryReport},
    metadata::{
        Broker, Delta, MetadataImage, MetadataOffset, Partition as Registered, Presence, Topic,
    },
    replica::{BrokerStanding, Registration, Replica},
};

/// Logs opened, made, removed or closed at once: as many syncs as a disk can merge, few enough for
/// any machine.
const AT_ONCE: usize = 16;

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
    pub(super) env: RegistryEnv,
    pub(super) partitions: RwLock<HashMap<TopicPartition, Arc<Partition>>>,
    /// Partitions that are assigned to this broker and do not serve.
    pub(super) failed: RwLock<HashMap<TopicPartition, Failed>>,
    /// Topics as last heard of, for partitions that are given to this broker later.
    pub(super) topics: RwLock<HashMap<TopicId, Arc<Topic>>>,
    /// How brokers stand, for partitions that are opened or made.
    standings: RwLock<HashMap<BrokerId, BrokerStanding>>,
    /// What of the metadata log has been carried out here.
    applied: watch::Sender<Applied>,
    /// Held while a change is carried out; set for good when all is closed.
    closed: Mutex<bool>,
}

/// Why a partition does not serve.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) why: String,
    /// Trying again may help.
    may_pass: bool,
    /// It was to be made and there was no room: it has no log that a start would have to look at.
    is_unmade: bool,
}

#[derive(Debug)]
struct Applied {
    offset: MetadataOffset,
    /// Nothing more will be applied, and why.
    ended: Option<Arc<str>>,
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

/// The partitions could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The data directory could not be looked through.
    #[error("cannot open the partitions in {}: {source}", dir.display())]
    Unreadable {
        /// Which one.
        dir: PathBuf,
        /// What went wrong.
        source: LogError,
    },
    /// Told to stop meanwhile. Nothing is lost: the next start goes on.
    #[error("told to stop while opening the partitions")]
    Interrupted,
}

/// A partition that is to be opened or made.
pub(super) type Assigned<'a> = (&'a Topic, PartitionIndex, &'a Registered);

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
        Self::open_unless(env, image, clean, || false)
    }

    /// As [`Registry::open`]; asks before each partition whether to go on.
    ///
    /// # Errors
    /// As well if it was interrupted.
    pub fn open_unless(
        env: RegistryEnv,
        image: &MetadataImage,
        clean: bool,
        interrupted: impl Fn() -> bool + Sync,
    ) -> Result<(Arc<Self>, OpenReport), OpenError> {
        let dir = env.dir.clone();
        let found = directories::sort_out(&env.log, &dir, image)
            .map_err(|source| OpenError::Unreadable { dir, source })?;
        env.partition
            .replication
            .throttle
            .set(image.move_throttle(), env.partition.clock.monotonic());
        let registry = Arc::new(Self {
            env,
            partitions: RwLock::default(),
            failed: RwLock::default(),
            topics: RwLock::new(image.topics().map(|t| (t.id, Arc::clone(t))).collect()),
            standings: RwLock::new(image.brokers().map(|b| (b.id, standing(b))).collect()),
            applied: watch::Sender::new(Applied { offset: image.offset(), ended: None }),
            closed: Mutex::new(false),
        });
        let assigned: Vec<_> = image
            .topics()
            .flat_map(|topic| topic.partitions().map(move |(at, state)| (&**topic, at, state)))
            .filter(|(_, _, state)| state.replicas.contains(&registry.env.me))
            .collect();
        let report = OpenReport { set_aside: found.set_aside, ..OpenReport::default() };
        let report = Mutex::new(report);
        let stopped = AtomicUsize::new(0);
        in_parallel(&assigned, |&assigned| {
            if interrupted() {
                stopped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let id = TopicPartition::new(assigned.0.id, assigned.1);
            let opened = registry.start(assigned, Some(found.present.contains(&id)), clean);
            report.lock().note(id, opened);
        });
        if stopped.into_inner() > 0 {
            return Err(OpenError::Interrupted);
        }
        Ok((registry, report.into_inner()))
    }

    /// Carries out one change of the metadata. Changes must come in order. Blocks.
    pub fn apply(&self, delta: &Delta) {
        let closed = self.closed.lock();
        if *closed {
            return;
        }
        match delta {
            Delta::FeatureLevelChanged(_) => {}
            Delta::MoveThrottleChanged(rate) => {
                let env = &self.env.partition;
                env.replication.throttle.set(*rate, env.clock.monotonic());
            }
            Delta::BrokerRegistered(broker) => {
                let standing = standing(broker);
                self.standings.write().insert(broker.id, standing);
                for partition in self.all() {
                    partition.note_broker(standing);
                }
            }
            // It had no copies: no partition here has to know.
            Delta::BrokerRemoved(id) => _ = self.standings.write().remove(id),
            Delta::TopicCreated(topic) => {
                self.know(topic);
                self.start_from(topic, PartitionIndex::default());
            }
            Delta::PartitionsCreated { topic, first } => {
                self.know(topic);
                self.start_from(topic, *first);
            }
            Delta::TopicConfigChanged(topic) => {
                self.know(topic);
                let (settings, log) = self.settings(topic);
                for (index, _) in topic.partitions() {
                    if let Some(partition) = self.get(TopicPartition::new(topic.id, index)) {
                        partition.reconfigure(settings.clone(), log.clone());
                    }
                }
            }
            Delta::PartitionChanged { partition, state } => {
                self.reassign(*partition, state);
            }
            Delta::TopicDeleted(topic) => self.delete(topic),
        }
    }

    /// Tries again to open or make partitions whose failure may have passed; `image` is the newest
    /// whose changes were applied. Blocks.
    pub fn retry_failed(&self, image: &MetadataImage) {
        let closed = self.closed.lock();
        if *closed {
            return;
        }
        let due: Vec<_> =
            self.failed.read().iter().filter(|f| f.1.may_pass).map(|f| *f.0).collect();
        let assigned = due.iter().filter_map(|id| {
            let topic = image.topic_by_id(id.topic)?;
            Some((&**topic, id.partition, topic.partition(id.partition)?))
        });
        for (id, outcome) in self.start_all(&assigned.collect::<Vec<_>>()) {
            if outcome.is_ok() {
                tracing::info!(partition = %id, "partition serves now");
            }
        }
    }

    /// Replicas that are being added go on, as far as the throttle of moves lets them. To be called a few
    /// times a second.
    pub fn let_moves_in(&self) {
        let env = &self.env.partition;
        env.replication.throttle.let_in(env.clock.monotonic());
    }

    /// Whether [`Registry::retry_failed`] has anything to do.
    pub fn has_retriable(&self) -> bool {
        self.failed.read().values().any(|failed| failed.may_pass)
    }

    /// Everything up to `offset` was applied.
    pub fn note_applied(&self, offset: MetadataOffset) {
        self.applied.send_modify(|applied| applied.offset = offset);
    }

    /// Nothing more will be applied: nobody is to wait for it.
    pub fn end_applying(&self, why: &str) {
        self.applied.send_modify(|applied| applied.ended = Some(why.into()));
    }

    /// Why nothing more will be applied, if so.
    pub fn applying_ended(&self) -> Option<Arc<str>> {
        self.applied.borrow().ended.clone()
    }

    /// Waits until nothing more will be applied, and says why. Cancel safe.
    pub async fn end_of_applying(&self) -> Arc<str> {
        let mut applied = self.applied.subscribe();
        let applied = applied.wait_for(|applied| applied.ended.is_some()).await;
        let applied = applied.expect("the sender lives as long as self");
        applied.ended.clone().expect("just looked at")
    }

    /// Waits until the changes up to `offset` are carried out on this broker, or never will be;
    /// says which. Cancel safe.
    pub async fn wait_applied(&self, offset: MetadataOffset) -> bool {
        let mut applied = self.applied.subscribe();
        let applied = applied
            .wait_for(|applied| applied.offset >= offset || applied.ended.is_some())
            .await
            .expect("the sender lives as long as self");
        applied.offset >= offset
    }

    /// A partition of this broker.
    pub fn get(&self, id: TopicPartition) -> Option<Arc<Partition>> {
        self.partitions.read().get(&id).cloned()
    }

    /// Why a partition of this broker does not serve.
    pub fn failure_of(&self, id: TopicPartition) -> Option<String> {
        self.failed.read().get(&id).map(|failed| failed.why.clone())
    }

    /// Whether a partition that does not serve is tried again by itself.
    pub fn failure_may_pass(&self, id: TopicPartition) -> bool {
        self.failed.read().get(&id).is_some_and(|failed| failed.may_pass)
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

    /// Closes all partitions and writes down what makes the next start a quick one; no change is
    /// carried out any more. Returns whether every log of this broker was closed in order; only then
    /// may the clean-shutdown marker be written. Blocks.
    pub fn close(&self) -> bool {
        // Waits for a change under way: what it makes is closed, too.
        *self.closed.lock() = true;
        let all = self.all();
        for partition in &all {
            partition.close();
        }
        let unopened = self.failed.read().values().filter(|failed| !failed.is_unmade).count();
        let failures = AtomicUsize::new(unopened);
        in_parallel(&all, |partition| {
            let closed = catch_unwind(AssertUnwindSafe(|| partition.finish()))
                .unwrap_or_else(|panic| Err(CloseError::Broken(panic_text(&*panic).into())));
            if let Err(error) = closed {
                failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(partition = %partition.id(), topic = %partition.topic(), %error, "not closed in order");
            }
        });
        failures.into_inner() == 0
    }

    /// Lets the I/O threads end. After [`Registry::close`].
    pub fn end_threads(&self) {
        self.env.partition.pool.close();
    }

    fn start_from(&self, topic: &Topic, first: PartitionIndex) {
        let mine = |(index, state): &(PartitionIndex, &Registered)| {
            *index >= first && state.replicas.contains(&self.env.me)
        };
        let assigned = topic.partitions().filter(mine).map(|(index, state)| (topic, index, state));
        for (partition, outcome) in self.start_all(&assigned.collect::<Vec<_>>()) {
            if let Err(Failed { why, .. }) = outcome {
                tracing::error!(%partition, topic = %topic.name, %why, "partition not started");
            }
        }
    }

    /// Opens or makes them, several at a time.
    pub(super) fn start_all(
        &self,
        assigned: &[Assigned<'_>],
    ) -> Vec<(TopicPartition, Result<RecoveryReport, Failed>)> {
        let outcomes = Mutex::new(Vec::with_capacity(assigned.len()));
        in_parallel(assigned, |&assigned| {
            let outcome = self.start(assigned, None, false);
            outcomes.lock().push((TopicPartition::new(assigned.0.id, assigned.1), outcome));
        });
        outcomes.into_inner()
    }

    /// Opens or makes one partition and lets it serve; else notes why it does not.
    fn start(
        &self,
        assigned: Assigned<'_>,
        exists: Option<bool>,
        clean: bool,
    ) -> Result<RecoveryReport, Failed> {
        let (topic, index, state) = assigned;
        let id = TopicPartition::new(topic.id, index);
        // One log that takes us by surprise does not keep the others from being opened.
        let started = catch_unwind(AssertUnwindSafe(|| {
            let (partition, report) = self.try_start(id, topic, exists, clean)?;
            for standing in self.standings.read().values() {
                partition.note_broker(*standing);
            }
            partition.note_adding(state.adding().collect());
            partition.register(registration(state));
            Ok((partition, report))
        }))
        .unwrap_or_else(|panic| Err(Failed::panicked(panic_text(&*panic))));
        match started {
            Ok((partition, report)) => {
                self.partitions.write().insert(id, partition);
                self.failed.write().remove(&id);
                Ok(report)
            }
            Err(failed) => {
                self.failed.write().insert(id, failed.clone());
                Err(failed)
            }
        }
    }

    fn try_start(
        &self,
        id: TopicPartition,
        topic: &Topic,
        exists: Option<bool>,
        clean: bool,
    ) -> Result<(Arc<Partition>, RecoveryReport), Failed> {
        let (settings, log_config) = self.settings(topic);
        let (log, report) = self.open_or_make(id, topic, log_config, exists, clean)?;
        let replica = Replica::new(
            self.env.me,
            settings.durability,
            log.log_start_offset(),
            log.log_end_offset(),
            log.high_watermark(),
        )
        .with_epochs(log.leader_epochs().history().clone())
        .with_limits(self.env.partition.replication.lag);
        let me = self.standings.read().get(&self.env.me).copied();
        let replica = match me {
            Some(standing) => replica.running_as(standing.epoch),
            None => replica,
        };
        let env = self.env.partition.clone();
        Ok((Partition::new(id, topic.name.clone(), env, settings, log, replica), report))
    }

    fn open_or_make(
        &self,
        id: TopicPartition,
        topic: &Topic,
        config: log::LogConfig,
        exists: Option<bool>,
        clean: bool,
    ) -> Result<(Log, RecoveryReport), Failed> {
        let env = &self.env.log;
        let dir = self.env.dir.join(id.to_string());
        if exists.unwrap_or_else(|| env.disk.list(&dir).is_ok()) {
            let now = self.env.partition.clock.now();
            match Log::open(env.clone(), dir.clone(), config.clone(), clean, now) {
                // A crash came between the directory and its first file: nothing was in it ever.
                Err(LogError::NoMeta { has_segments: false, .. }) => {}
                opened => return Ok(opened?),
            }
        }
        let meta = PartitionMeta { partition: id, topic_name: topic.name.clone() };
        match Log::create(env.clone(), dir, &meta, config) {
            Ok(log) => Ok((log, RecoveryReport::default())),
            Err(error) => {
                // It makes sure that there is nothing before it needs room.
                let is_unmade = error.is_storage_full();
                Err(Failed { is_unmade, ..Failed::from(error) })
            }
        }
    }

    fn settings(&self, topic: &Topic) -> (Settings, log::LogConfig) {
        Settings::of_topic(topic, &self.env)
    }
}

impl Failed {
    fn panicked(what: &str) -> Self {
        let why = format!("internal error: {what}; restart the broker and please report this");
        Self { why, may_pass: false, is_unmade: false }
    }
}

impl From<LogError> for Failed {
    fn from(error: LogError) -> Self {
        let may_pass = matches!(error, LogError::StorageFull { .. } | LogError::Io { .. });
        let why = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        Self { why, may_pass, is_unmade: false }
    }
}

impl OpenReport {
    fn note(&mut self, id: TopicPartition, opened: Result<RecoveryReport, Failed>) {
        match opened {
            Ok(recovery) => {
                self.opened += 1;
                self.scanned_bytes += recovery.scanned_bytes;
                self.torn += usize::from(recovery.cut.is_some());
                self.damaged.extend(recovery.damage.map(|damage| (id, damage)));
            }
            Err(failed) => self.failed.push((id, failed.why)),
        }
    }
}

/// Does something slow for each, several at a time.
pub(super) fn in_parallel<T: Sync>(items: &[T], job: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            job(item);
        }
    };
    thread::scope(|scope| {
        // The caller is one of them; a machine that gives no more threads makes it slower only.
        for _ in 1..AT_ONCE.min(items.len()) {
            if thread::Builder::new().spawn_scoped(scope, run).is_err() {
                break;
            }
        }
        run();
    });
}

fn standing(broker: &Broker) -> BrokerStanding {
    let may_join = broker.presence == Presence::Active;
    BrokerStanding { broker: broker.id, epoch: broker.epoch, may_join }
}

pub(super) fn registration(state: &Registered) -> Registration {
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
