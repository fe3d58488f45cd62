//! A partition for tests: on the simulated disk, with real I/O threads.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use riverrun_proto::{
    epoch::{LeaderEpoch, PartitionEpoch},
    ids::{BrokerId, PartitionIndex, ProducerId, TopicId, TopicName, TopicPartition},
    offset::Offset,
    record::{BatchBuilder, BatchOptions, ProducerStamp, RecordBatch},
    timestamp::Timestamp,
};

use super::{replication::Replication, *};
use crate::{
    clock::{Clock, ManualClock, WallTrust},
    config::TimestampType,
    io::{Failure, SyncPoint, sim::SimDisk},
    log::{Log, LogBudgets, LogConfig, LogEnv, PartitionMeta, RetentionPolicy, SaltSource},
    replica::{Durability, Registration, Replica},
    telemetry::StorageMetrics,
};

pub(super) const ME: BrokerId = BrokerId(0);
/// Room for a few windows of the test's partition.
pub(super) const CAPACITY: u64 = 64 << 10;
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Outcomes(mpsc::SyncSender<(u64, Result<Produced, ProduceError>)>);

impl ProduceSink for Outcomes {
    fn complete(&self, tag: u64, outcome: Result<Produced, ProduceError>) {
        self.0.try_send((tag, outcome)).expect("tests answer fewer tickets than the channel holds");
    }
}

pub(super) struct Harness {
    pub(super) disk: SimDisk,
    pub(super) clock: Arc<ManualClock>,
    pub(super) pool: IoPool,
    pub(super) partition: Arc<Partition>,
    pub(super) sink: Arc<Outcomes>,
    outcomes: Mutex<mpsc::Receiver<(u64, Result<Produced, ProduceError>)>>,
}

pub(super) struct Setup {
    pub(super) durability: Durability,
    pub(super) parked_bytes_max: usize,
    pub(super) timestamp_type: TimestampType,
    pub(super) retention: RetentionPolicy,
    pub(super) segment_bytes: u64,
    pub(super) wall: WallTrust,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            durability: Durability::Disk,
            parked_bytes_max: 1 << 20,
            timestamp_type: TimestampType::CreateTime,
            retention: RetentionPolicy { age: None, bytes: None },
            segment_bytes: 1 << 20,
            wall: WallTrust::unquestioned(),
        }
    }
}

impl Harness {
    pub(super) fn new(setup: Setup) -> Self {
        let disk = SimDisk::new(7);
        Self::on(Arc::new(disk.clone()), disk, setup)
    }

    /// On `shared`, which passes everything on to `disk`.
    pub(super) fn on(shared: Arc<dyn crate::io::Disk>, disk: SimDisk, setup: Setup) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let pool = IoPool::start(1, 1).unwrap();
        let id = TopicPartition::new(TopicId::random(), PartitionIndex::default());
        let topic = TopicName::try_new("orders").unwrap();
        let data = PathBuf::from("/data");
        crate::io::Disk::create_dir(&disk, &data).unwrap();
        crate::io::Disk::sync_dir(&disk, Path::new("/"), SyncPoint::DataDir).unwrap();
        let failure = Failure::open(Arc::clone(&shared), &data);
        let env =
            LogEnv::new(shared, failure.clone(), SaltSource::seeded(11), LogBudgets::default());
        let config = LogConfig {
            segment_bytes: setup.segment_bytes,
            window_min: 4096,
            window_max: 4096,
            ..LogConfig::default()
        };
        let meta = PartitionMeta { partition: id, topic_name: topic.clone() };
        let log = Log::create(env, data.join(id.to_string()), &meta, config).unwrap();
        let replica =
            Replica::new(ME, setup.durability, Offset::ZERO, log.log_end_offset(), Offset::ZERO);
        let partition = Partition::new(
            id,
            topic,
            PartitionEnv {
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                wall: setup.wall,
                failure,
                gate: WriteGate::default(),
                pool: pool.clone(),
                metrics: StorageMetrics::register(&crate::telemetry::Registry::new()),
                read_budget: ReadBudget::new(1 << 20),
                parked: ParkedLimit::new(setup.parked_bytes_max),
                replication: Replication::alone(),
            },
            Settings {
                max_message_bytes: 64 << 10,
                durability: setup.durability,
                timestamp_type: setup.timestamp_type,
                timestamp_before_max: Some(Duration::from_secs(3600)),
                timestamp_after_max: Some(Duration::from_secs(3600)),
                retention: setup.retention,
            },
            log,
            replica,
        );
        let (sender, outcomes) = mpsc::sync_channel(10_000);
        Self {
            disk,
            clock,
            pool,
            partition,
            sink: Arc::new(Outcomes(sender)),
            outcomes: Mutex::new(outcomes),
        }
    }

    pub(super) fn leading(setup: Setup) -> Self {
        let harness = Self::new(setup);
        harness.register(Some(ME), 1, 1);
        harness
    }

    pub(super) fn register(
        &self,
        leader: Option<BrokerId>,
        leader_epoch: i32,
        partition_epoch: i32,
    ) {
        self.partition.register(Registration {
            leader,
            leader_epoch: epoch(leader_epoch),
            partition_epoch: PartitionEpoch::new(partition_epoch).unwrap(),
            replicas: vec![ME],
            isr: vec![ME],
            min_isr: 1,
        });
    }

    pub(super) fn reconfigure(&self, change: impl FnOnce(&mut Settings, &mut LogConfig)) {
        let mut settings = Settings::clone(&self.partition.settings.load());
        let mut log = self.partition.with_replica(|_, log| log.config().clone());
        change(&mut settings, &mut log);
        self.partition.reconfigure(settings, log);
    }

    pub(super) fn send(&self, tag: u64, batch: Bytes) {
        self.send_with(tag, batch, |_| {});
    }

    pub(super) fn send_with(&self, tag: u64, batch: Bytes, change: impl FnOnce(&mut Append)) {
        let mut append = Append {
            batch: RecordBatch::validate(batch).unwrap(),
            acks: Acks::All,
            leader_epoch: None,
            deadline: self.clock.monotonic() + Duration::from_secs(30),
            ticket: Ticket::new(Arc::clone(&self.sink) as Arc<dyn ProduceSink>, tag, ()),
        };
        change(&mut append);
        self.partition.produce(append);
    }

    pub(super) fn outcome(&self) -> (u64, Result<Produced, ProduceError>) {
        self.outcomes.lock().recv_timeout(PATIENCE).expect("an answer")
    }

    /// No answer has come.
    pub(super) fn is_silent(&self) -> bool {
        self.answered().is_none()
    }

    /// An answer that has come already.
    pub(super) fn answered(&self) -> Option<(u64, Result<Produced, ProduceError>)> {
        self.outcomes.lock().try_recv().ok()
    }

    pub(super) fn offsets(&self, tag: u64) -> (i64, i64) {
        let (answered, outcome) = self.outcome();
        let produced = outcome.unwrap();
        assert_eq!(answered, tag);
        (produced.base_offset.get(), produced.last_offset.get())
    }

    pub(super) fn refusal(&self) -> ProduceError {
        self.outcome().1.unwrap_err()
    }

    /// Holds up the only thread for log work until the returned gate is dropped.
    pub(super) fn hold_work(&self) -> mpsc::SyncSender<()> {
        self.hold(Lane::Work)
    }

    /// The same for any lane.
    pub(super) fn hold(&self, lane: Lane) -> mpsc::SyncSender<()> {
        let (gate, held) = mpsc::sync_channel::<()>(0);
        let (started, has_started) = mpsc::sync_channel(1);
        self.pool.run(lane, move || {
            started.send(()).unwrap();
            let _ = held.recv();
        });
        has_started.recv_timeout(PATIENCE).unwrap();
        gate
    }

    pub(super) fn fetch(&self, from: i64) -> Result<Fetched, FetchError> {
        self.fetch_with(Fetch {
            from: at(from),
            max_bytes: 1 << 20,
            leader_epoch: None,
            last_read_epoch: None,
        })
    }

    pub(super) fn fetch_with(&self, fetch: Fetch) -> Result<Fetched, FetchError> {
        block_on(self.partition.read(fetch))
    }

    pub(super) fn delete(&self, before: Option<i64>) -> Result<Offset, OffsetsError> {
        block_on(self.partition.delete_records(before.map(at), None))
    }

    /// All committed record offsets from `from` on.
    pub(super) fn readable(&self, from: i64) -> Vec<i64> {
        let mut offsets = Vec::new();
        let mut next = at(from);
        loop {
            let Fetched::Batches { batches, next_offset, .. } = self.fetch(next.get()).unwrap()
            else {
                panic!("diverging");
            };
            if batches.is_empty() {
                return offsets;
            }
            for batch in batches {
                let header = *RecordBatch::validate(batch).unwrap().header();
                offsets.extend(header.base_offset..=header.last_offset());
            }
            next = next_offset;
        }
    }
}

pub(super) fn block_on<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await.expect("an answer") })
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.pool.close();
    }
}

pub(super) fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

pub(super) fn epoch(epoch: i32) -> LeaderEpoch {
    LeaderEpoch::new(epoch).unwrap()
}

pub(super) fn batch_at(time: i64, records: usize, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for i in 0..records {
        let value = vec![u8::try_from(i % 251).unwrap(); value_bytes];
        builder.append(Timestamp::from_millis(time), Some(b"key"), Some(&value), []).unwrap();
    }
    builder.finish()
}

pub(super) fn batch(records: usize, value_bytes: usize) -> Bytes {
    batch_at(1_700_000_000_000, records, value_bytes)
}

pub(super) fn sequenced(producer: i64, epoch: i16, sequence: i32, records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for _ in 0..records {
        builder
            .append(Timestamp::from_millis(1_700_000_000_000), None, Some(b"value"), [])
            .unwrap();
    }
    let id = ProducerId::new(producer).unwrap();
    builder.set_producer(ProducerStamp { id, epoch, base_sequence: sequence });
    builder.finish()
}
