//! A broker's partitions for tests, with all that surrounds them: a registry on a simulated disk,
//! and the metadata, made by the commands that make it in a broker. It can be killed, lose power,
//! stop well, and start again.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use riverrun_proto::{
    ids::{BrokerId, PartitionIndex, TopicPartition},
    record::RecordBatch,
    timestamp::Timestamp,
};

use super::{
    registry::{OpenReport, Registry, RegistryEnv},
    replication::Replication,
    test_support::{PATIENCE, block_on},
    *,
};
use crate::{
    clock::{Clock, ManualClock, WallTrust},
    config::{ByteSize, Config},
    io::{
        Disk, Failure, SyncPoint,
        sim::{PowerCut, SimDisk},
    },
    log::{LogBudgets, LogEnv, SaltSource},
    metadata::{
        Command, MetadataImage,
        command::CreateTopic,
        test_support::{apply, bytes16, configs, name, topic_id},
    },
    telemetry::{Registry as Metrics, StorageMetrics},
};

const ME: BrokerId = BrokerId(1);

/// What outlives the broker's process.
pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) image: MetadataImage,
    pub(super) clock: Arc<ManualClock>,
    /// The last stop was a clean one.
    pub(super) clean: bool,
    runs: u8,
}

/// A running broker's partitions.
pub(super) struct Node {
    pub(super) registry: Arc<Registry>,
    pub(super) report: OpenReport,
    pub(super) pool: IoPool,
    pub(super) failure: Failure,
    sink: Arc<Sink>,
    outcomes: Mutex<mpsc::Receiver<(u64, Result<Produced, ProduceError>)>>,
}

#[derive(Debug)]
struct Sink(mpsc::SyncSender<(u64, Result<Produced, ProduceError>)>);

impl ProduceSink for Sink {
    fn complete(&self, tag: u64, outcome: Result<Produced, ProduceError>) {
        // A node that was killed is listened to no more.
        let _ = self.0.try_send((tag, outcome));
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        disk.create_dir(Path::new("/data")).unwrap();
        disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
        let image =
            crate::metadata::test_support::after(&[crate::metadata::test_support::level_1()]);
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        Self { disk, image, clock, clean: false, runs: 0 }
    }

    /// Carries out a command; the running node, if there is one, follows.
    pub(super) fn command(&mut self, node: Option<&Node>, command: &Command) {
        let applied = apply(&self.image, command);
        applied.outcome.as_ref().expect("accepted");
        self.image = applied.image;
        if let Some(node) = node {
            for delta in &applied.deltas {
                node.registry.apply(delta);
            }
            node.registry.note_applied(self.image.offset());
        }
    }

    /// Topic `n` with so many partitions, all on this broker.
    pub(super) fn create(&mut self, node: Option<&Node>, n: u8, called: &str, partitions: usize) {
        self.create_with(node, n, called, partitions, &[]);
    }

    pub(super) fn create_with(
        &mut self,
        node: Option<&Node>,
        n: u8,
        called: &str,
        partitions: usize,
        set: &[(&str, &str)],
    ) {
        let create = CreateTopic {
            name: name(called),
            id: topic_id(n),
            assignment: vec![vec![ME]; partitions],
            configs: configs(set),
            min_isr: 1,
        };
        self.command(node, &Command::CreateTopic(create));
    }

    /// Starts a process: a new incarnation, then whatever the directory holds.
    pub(super) fn start(&mut self) -> Node {
        self.runs += 1;
        let register = crate::metadata::test_support::register(ME.0, self.runs);
        self.command(None, &register);
        let clean = std::mem::take(&mut self.clean);
        self.open(&self.disk, clean)
    }

    /// As a process that found `disk` would; nothing of the world changes.
    pub(super) fn open(&self, disk: &SimDisk, clean: bool) -> Node {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let failure = Failure::open(Arc::clone(&shared), "/data");
        let pool = IoPool::start(2, 1).unwrap();
        let mut config = Config::default();
        config.topic.segment_bytes = ByteSize::kib(16);
        config.log.window_bytes_min = ByteSize::kib(4);
        config.log.window_bytes_max = ByteSize::kib(16);
        config.log.checkpoint_bytes = ByteSize::kib(20);
        let salts = SaltSource::seeded(disk.ops() ^ (u64::from(self.runs) << 32));
        let env = RegistryEnv {
            me: ME,
            dir: PathBuf::from("/data"),
            log: LogEnv::new(shared, failure.clone(), salts, LogBudgets::default()),
            partition: PartitionEnv {
                clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
                wall: WallTrust::unquestioned(),
                failure: failure.clone(),
                gate: WriteGate::default(),
                pool: pool.clone(),
                metrics: StorageMetrics::register(&Metrics::new()),
                read_budget: ReadBudget::new(1 << 20),
                parked: ParkedLimit::new(1 << 20),
                replication: Replication::alone(),
            },
            topic_defaults: config.topic,
            log_settings: config.log,
            produce_settings: config.produce,
        };
        let (registry, report) = Registry::open(env, &self.image, clean).unwrap();
        let (sender, outcomes) = mpsc::sync_channel(10_000);
        Node {
            registry,
            report,
            pool,
            failure,
            sink: Arc::new(Sink(sender)),
            outcomes: Mutex::new(outcomes),
        }
    }

    /// The process dies.
    pub(super) fn kill(&mut self, node: Node) {
        self.disk = self.disk.kill();
        drop(node);
    }

    /// The machine does.
    pub(super) fn power_loss(&mut self, node: Node, cut: PowerCut) {
        self.disk = self.disk.power_loss(cut);
        drop(node);
    }

    /// A stop in order.
    pub(super) fn stop(&mut self, node: Node) {
        self.clean = node.registry.close();
        drop(node);
        self.disk = self.disk.kill();
    }
}

impl Node {
    pub(super) fn partition(&self, n: u8, index: u32) -> Arc<Partition> {
        self.registry.get(id(n, index)).expect("it serves")
    }

    pub(super) fn send(&self, to: &Arc<Partition>, tag: u64, batch: Bytes) {
        to.produce(Append {
            batch: RecordBatch::validate(batch).unwrap(),
            acks: Acks::All,
            leader_epoch: None,
            deadline: ManualClock::default().monotonic() + Duration::from_secs(3600),
            ticket: Ticket::new(Arc::clone(&self.sink) as Arc<dyn ProduceSink>, tag, ()),
        });
    }

    pub(super) fn outcome(&self) -> (u64, Result<Produced, ProduceError>) {
        self.outcomes.lock().recv_timeout(PATIENCE).expect("an answer")
    }

    /// An answer that has come already.
    pub(super) fn answered(&self) -> Option<(u64, Result<Produced, ProduceError>)> {
        self.outcomes.lock().try_recv().ok()
    }

    /// Writes one batch and waits for its ack.
    pub(super) fn write(&self, to: &Arc<Partition>, batch: Bytes) -> Produced {
        self.send(to, 0, batch);
        self.outcome().1.unwrap()
    }

    /// All that can be read, by batch, with where it begins.
    pub(super) fn read_all(&self, partition: &Arc<Partition>) -> Vec<(i64, Bytes)> {
        let mut found = Vec::new();
        let mut from = partition.offsets().log_start;
        loop {
            let fetch =
                Fetch { from, max_bytes: 1 << 20, leader_epoch: None, last_read_epoch: None };
            let Fetched::Batches { batches, next_offset, .. } =
                block_on(partition.read(fetch)).unwrap()
            else {
                panic!("diverging")
            };
            if batches.is_empty() {
                return found;
            }
            for batch in batches {
                let header = *RecordBatch::validate(batch.clone()).unwrap().header();
                found.push((header.base_offset, batch));
            }
            from = next_offset;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.pool.close();
    }
}

pub(super) fn id(n: u8, index: u32) -> TopicPartition {
    TopicPartition::new(topic_id(n), PartitionIndex::new(index).unwrap())
}

pub(super) fn dir_of(n: u8, index: u32) -> PathBuf {
    PathBuf::from("/data").join(id(n, index).to_string())
}

/// Names in the partitions' directory.
pub(super) fn names(disk: &SimDisk) -> Vec<String> {
    disk.list(Path::new("/data")).unwrap().into_iter().map(|entry| entry.name).collect()
}

/// Another directory id than any topic's here.
pub(super) fn unknown_dir() -> PathBuf {
    let id = riverrun_proto::ids::TopicId::from_bytes(&bytes16(200)).unwrap();
    PathBuf::from("/data").join(TopicPartition::new(id, PartitionIndex::default()).to_string())
}
