//! What the tests of the log share: a log on a simulated disk, driven to completion after every
//! call, and a model of what it should hold.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::{PartitionIndex, ProducerId, TopicId, TopicName, TopicPartition},
    offset::Offset,
    record::{BatchBuilder, BatchHeader, BatchOptions, ProducerStamp, RecordBatch, StampedBatch},
    timestamp::Timestamp,
};

use super::{
    AppendError, Appended, Completed, Log, LogBudgets, LogConfig, LogEnv, LogError, LogReader,
    LogWork, PartitionMeta, ProducerLimits, ProducerStates, Read, ReadError, RecoveryReport,
    SaltSource, producer_snapshot, replay,
};
use crate::io::{Disk, Failure, SyncPoint, WriteMode, sim::SimDisk};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

pub(super) fn at(n: i64) -> Offset {
    Offset::new(n).unwrap()
}

pub(super) fn meta() -> PartitionMeta {
    let topic: TopicId = "67e5504410b1426f9247bb680e5fe0c8".parse().unwrap();
    PartitionMeta {
        partition: TopicPartition::new(topic, PartitionIndex::new(3).unwrap()),
        topic_name: TopicName::try_new("orders").unwrap(),
    }
}

/// Segments of a few batches, an index entry for nearly every one.
pub(super) fn small_config() -> LogConfig {
    LogConfig {
        segment_bytes: 12 * 1024,
        segment_age: Duration::from_secs(3600),
        index_interval_bytes: 700,
        write_mode: WriteMode::Write,
        window_min: 4096,
        window_max: 16 * 1024,
        checkpoint_bytes: 5_000,
        producers_max: 100,
        ..LogConfig::default()
    }
}

pub(super) fn env(disk: Arc<dyn Disk>, data: &str, seed: u64) -> LogEnv {
    let failure = Failure::open(disk.clone(), data);
    let budgets = LogBudgets { open_segments: 3, ..LogBudgets::default() };
    LogEnv::new(disk, failure, SaltSource::seeded(seed), budgets)
}

/// A disk with an empty data directory, all of it durable.
pub(super) fn sim_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir("/data".as_ref()).unwrap();
    disk.sync_dir("/".as_ref(), SyncPoint::DataDir).unwrap();
    disk
}

pub(super) fn dir() -> PathBuf {
    super::layout::partition_dir("/data".as_ref(), meta().partition)
}

/// What a batch is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Make {
    pub records: u32,
    pub value_bytes: usize,
    pub epoch: i32,
    /// Mixed into values: batches of different marks differ.
    pub mark: u64,
    pub time: i64,
    /// Producer and its sequence.
    pub producer: Option<(i64, i32)>,
}

impl Default for Make {
    fn default() -> Self {
        Self { records: 2, value_bytes: 100, epoch: 0, mark: 0, time: 1000, producer: None }
    }
}

impl Make {
    pub(super) fn stamped(&self, base: Offset) -> StampedBatch {
        let mut builder = BatchBuilder::new(BatchOptions {
            bytes_max: 1 << 24,
            size_budget: 1 << 24,
            ..BatchOptions::default()
        });
        for n in 0..self.records {
            let mut value = vec![0; self.value_bytes];
            let pattern = (self.mark ^ base.get() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for (at, byte) in value.iter_mut().enumerate() {
                *byte = (pattern >> (at % 8 * 8)) as u8 ^ at as u8;
            }
            // Not in order, so that lookups by time have something to get wrong.
            let time = Timestamp::from_millis(self.time + i64::from(n * 7 % 3));
            builder.append(time, None, Some(&value), []).unwrap();
        }
        if let Some((id, base_sequence)) = self.producer {
            let id = ProducerId::new(id).unwrap();
            builder.set_producer(ProducerStamp { id, epoch: 0, base_sequence });
        }
        let batch = RecordBatch::validate(builder.finish()).unwrap();
        batch.stamp(base, LeaderEpoch::new(self.epoch).unwrap(), None)
    }
}

/// A log whose work runs at once.
#[derive(Debug)]
pub(super) struct Driven {
    pub log: Log,
    pub now: Timestamp,
    /// The last thing that went wrong with work.
    pub error: Option<LogError>,
    /// Checkpoints are made and never run: as if the disk stood still under them.
    pub stalls_checkpoints: bool,
    pub held: Vec<LogWork>,
}

impl Driven {
    pub(super) fn create(env: LogEnv, config: LogConfig) -> Self {
        let log = Log::create(env, dir(), &meta(), config).unwrap();
        Self::around(log)
    }

    pub(super) fn open(env: LogEnv, config: LogConfig, clean: bool) -> (Self, RecoveryReport) {
        Self::try_open(env, config, clean).unwrap()
    }

    pub(super) fn try_open(
        env: LogEnv,
        config: LogConfig,
        clean: bool,
    ) -> Result<(Self, RecoveryReport), LogError> {
        let (log, report) = Log::open(env, dir(), config, clean, NOW)?;
        Ok((Self::around(log), report))
    }

    pub(super) fn around(log: Log) -> Self {
        Self { log, now: NOW, error: None, stalls_checkpoints: false, held: Vec::new() }
    }

    pub(super) fn run(&mut self, work: LogWork) -> Completed {
        match self.log.complete(work.run()) {
            Ok(completed) => completed,
            Err(error) => {
                self.error = Some(error);
                Completed::default()
            }
        }
    }

    pub(super) fn work(&mut self) {
        while let Some(work) = self.log.take_work() {
            if self.stalls_checkpoints && work.name() == "checkpoint" {
                self.held.push(work);
            } else {
                self.run(work);
            }
        }
    }

    pub(super) fn append(&mut self, make: Make) -> Result<Appended, AppendError> {
        let batch = make.stamped(self.log.log_end_offset());
        self.append_stamped(&batch)
    }

    pub(super) fn append_stamped(&mut self, batch: &StampedBatch) -> Result<Appended, AppendError> {
        for _ in 0..4 {
            match self.log.append(batch, self.now) {
                Err(AppendError::NotReady) => self.work(),
                other => {
                    self.work();
                    return other;
                }
            }
        }
        self.log.append(batch, self.now)
    }

    pub(super) fn flush(&mut self) {
        if let Some(work) = self.log.start_flush() {
            self.run(work);
        }
    }

    pub(super) fn checkpoint(&mut self) {
        self.log.request_checkpoint();
        self.work();
    }

    pub(super) fn truncate(&mut self, to: Offset) -> Completed {
        let work = self.log.start_truncate(to);
        self.run(work)
    }

    pub(super) fn advance(&mut self, to: Offset) {
        if let Some(work) = self.log.advance_log_start(to) {
            self.run(work);
        }
    }

    pub(super) fn close(mut self) {
        let done = self.log.start_close().run();
        assert!(done.error().is_none(), "{:?}", done.error());
    }

    pub(super) fn batches(&self) -> Vec<Bytes> {
        let reader = self.log.reader();
        read_all(&reader, reader.log_start_offset(), 4000).unwrap()
    }
}

/// All batches from an offset to the end, as a consumer would read them.
pub(super) fn read_all(
    reader: &LogReader,
    from: Offset,
    max_bytes: usize,
) -> Result<Vec<Bytes>, ReadError> {
    let (mut from, mut all) = (from, Vec::new());
    loop {
        let found = match reader.read(from, Offset::MAX, max_bytes)? {
            Read::Empty => return Ok(all),
            Read::Batches(batches) => batches,
            Read::Cold(cold) => cold.run()?,
        };
        assert!(found.next_offset > from, "a read that finds something moves on");
        from = found.next_offset;
        all.extend(found.batches);
    }
}

pub(super) fn header(batch: &Bytes) -> BatchHeader {
    BatchHeader::parse(batch).unwrap()
}

/// Producer state as bytes, without times: equal states are equal bytes.
pub(super) fn fingerprint(states: &ProducerStates) -> Vec<u8> {
    let mut plain = ProducerStates::new(limits());
    for (id, state) in states.iter() {
        let state = super::producer_state::ProducerState { last_seen: NOW, ..state.clone() };
        plain.restore(id, state);
    }
    producer_snapshot::encode(Offset::ZERO, 0, &plain)
}

/// Producer state by replay of batches, first to last.
pub(super) fn replayed<'a>(batches: impl Iterator<Item = &'a Bytes>) -> Vec<u8> {
    let mut states = ProducerStates::new(limits());
    for batch in batches {
        let header = header(batch);
        replay::follow(&mut states, &header, at(header.base_offset), NOW);
    }
    fingerprint(&states)
}

pub(super) fn limits() -> ProducerLimits {
    small_config().producer_limits()
}
