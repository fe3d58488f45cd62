//! What a partition promises, on the simulated disk and real I/O threads.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use riverrun_proto::{
    epoch::{LeaderEpoch, PartitionEpoch},
    ids::{BrokerId, PartitionIndex, ProducerId, TopicId, TopicName, TopicPartition},
    offset::Offset,
    record::{BatchBuilder, BatchOptions, ProducerStamp, RecordBatch},
    timestamp::Timestamp,
};

use super::{watch::ReadySet, *};
use crate::{
    clock::{Clock, ManualClock},
    config::TimestampType,
    io::{
        Failure, SyncPoint,
        sim::{Fault, PowerCut, SimDisk},
    },
    log::{Log, LogBudgets, LogConfig, LogEnv, PartitionMeta, RetentionPolicy, SaltSource},
    replica::{Durability, Registration, Replica},
};

const ME: BrokerId = BrokerId(0);
/// Room for a few windows of the test's partition.
const CAPACITY: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Outcomes(mpsc::SyncSender<(u64, Result<Produced, ProduceError>)>);

impl ProduceSink for Outcomes {
    fn complete(&self, tag: u64, outcome: Result<Produced, ProduceError>) {
        self.0.try_send((tag, outcome)).expect("tests answer fewer tickets than the channel holds");
    }
}

struct Harness {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    pool: IoPool,
    partition: Arc<Partition>,
    sink: Arc<Outcomes>,
    outcomes: mpsc::Receiver<(u64, Result<Produced, ProduceError>)>,
}

struct Setup {
    durability: Durability,
    parked_bytes_max: usize,
    timestamp_type: TimestampType,
    retention: RetentionPolicy,
    segment_bytes: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            durability: Durability::Disk,
            parked_bytes_max: 1 << 20,
            timestamp_type: TimestampType::CreateTime,
            retention: RetentionPolicy { age: None, bytes: None },
            segment_bytes: 1 << 20,
        }
    }
}

impl Harness {
    fn new(setup: Setup) -> Self {
        let disk = SimDisk::new(7);
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let pool = IoPool::start(1, 1).unwrap();
        let id = TopicPartition::new(TopicId::random(), PartitionIndex::default());
        let topic = TopicName::try_new("orders").unwrap();
        let data = PathBuf::from("/data");
        crate::io::Disk::create_dir(&disk, &data).unwrap();
        crate::io::Disk::sync_dir(&disk, Path::new("/"), SyncPoint::DataDir).unwrap();
        let shared: Arc<dyn crate::io::Disk> = Arc::new(disk.clone());
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
                failure,
                pool: pool.clone(),
                read_budget: ReadBudget::new(1 << 20),
                parked_bytes_max: setup.parked_bytes_max,
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
        Self { disk, clock, pool, partition, sink: Arc::new(Outcomes(sender)), outcomes }
    }

    fn leading(setup: Setup) -> Self {
        let harness = Self::new(setup);
        harness.register(Some(ME), 1, 1);
        harness
    }

    fn register(&self, leader: Option<BrokerId>, leader_epoch: i32, partition_epoch: i32) {
        self.partition.register(Registration {
            leader,
            leader_epoch: epoch(leader_epoch),
            partition_epoch: PartitionEpoch::new(partition_epoch).unwrap(),
            replicas: vec![ME],
            isr: vec![ME],
            min_isr: 1,
        });
    }

    fn send(&self, tag: u64, batch: Bytes) {
        self.send_with(tag, batch, |_| {});
    }

    fn send_with(&self, tag: u64, batch: Bytes, change: impl FnOnce(&mut Append)) {
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

    fn outcome(&self) -> (u64, Result<Produced, ProduceError>) {
        self.outcomes.recv_timeout(PATIENCE).expect("an answer")
    }

    fn offsets(&self, tag: u64) -> (i64, i64) {
        let (answered, outcome) = self.outcome();
        let produced = outcome.unwrap();
        assert_eq!(answered, tag);
        (produced.base_offset.get(), produced.last_offset.get())
    }

    fn refusal(&self) -> ProduceError {
        self.outcome().1.unwrap_err()
    }

    /// Holds up the only thread for log work until the returned gate is dropped.
    fn hold_work(&self) -> mpsc::SyncSender<()> {
        let (gate, held) = mpsc::sync_channel::<()>(0);
        let (started, has_started) = mpsc::sync_channel(1);
        self.pool.run(Lane::Work, move || {
            started.send(()).unwrap();
            let _ = held.recv();
        });
        has_started.recv_timeout(PATIENCE).unwrap();
        gate
    }

    fn fetch(&self, from: i64) -> Result<Fetched, FetchError> {
        self.fetch_with(Fetch {
            from: at(from),
            max_bytes: 1 << 20,
            leader_epoch: None,
            last_read_epoch: None,
        })
    }

    fn fetch_with(&self, fetch: Fetch) -> Result<Fetched, FetchError> {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(self.partition.read(fetch))
    }

    /// All committed record offsets from `from` on.
    fn readable(&self, from: i64) -> Vec<i64> {
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

impl Drop for Harness {
    fn drop(&mut self) {
        self.pool.close();
    }
}

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn epoch(epoch: i32) -> LeaderEpoch {
    LeaderEpoch::new(epoch).unwrap()
}

fn batch_at(time: i64, records: usize, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for i in 0..records {
        let value = vec![u8::try_from(i % 251).unwrap(); value_bytes];
        builder.append(Timestamp::from_millis(time), Some(b"key"), Some(&value), []).unwrap();
    }
    builder.finish()
}

fn batch(records: usize, value_bytes: usize) -> Bytes {
    batch_at(1_700_000_000_000, records, value_bytes)
}

fn sequenced(producer: i64, epoch: i16, sequence: i32, records: usize) -> Bytes {
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

#[test]
fn offsets_are_dense_and_what_is_acked_is_readable_in_order() {
    for durability in [Durability::Disk, Durability::Memory] {
        let harness = Harness::leading(Setup { durability, ..Setup::default() });
        let mut expected = 0;
        for tag in 0..50 {
            let records = 1 + tag % 7;
            harness
                .send(u64::try_from(tag).unwrap(), batch(usize::try_from(records).unwrap(), 100));
            let (base, last) = harness.offsets(u64::try_from(tag).unwrap());
            assert_eq!((base, last), (expected, expected + records - 1));
            expected += records;
            assert!(harness.partition.high_watermark().get() >= expected);
        }
        assert_eq!(harness.readable(0), (0..expected).collect::<Vec<_>>());
        assert_eq!(harness.readable(20).last(), Some(&(expected - 1)));
    }
}

#[test]
fn durability_disk_survives_power_loss_at_the_ack() {
    let harness = Harness::leading(Setup::default());
    harness.send(1, batch(3, 1000));
    harness.offsets(1);
    let offsets = harness.partition.offsets();
    assert_eq!(offsets.flushed_end, at(3));
    let found = harness.disk.power_loss(PowerCut::LoseUnsynced);
    let data = PathBuf::from("/data");
    let shared: Arc<dyn crate::io::Disk> = Arc::new(found);
    let env = LogEnv::new(
        Arc::clone(&shared),
        Failure::open(shared, &data),
        SaltSource::seeded(12),
        LogBudgets::default(),
    );
    let dir = data.join(harness.partition.id().to_string());
    let (log, _) = Log::open(env, dir, LogConfig::default(), false, harness.clock.now()).unwrap();
    assert_eq!(log.log_end_offset(), at(3));
}

#[test]
fn nobody_writes_or_reads_where_this_broker_does_not_lead() {
    let harness = Harness::new(Setup::default());
    harness.send(1, batch(1, 10));
    assert_eq!(
        harness.refusal(),
        ProduceError::NotLeader { leader: None, epoch: None, appended: false }
    );
    assert!(matches!(harness.fetch(0), Err(FetchError::NotLeader { .. })));
    harness.register(Some(BrokerId(9)), 4, 4);
    harness.send(2, batch(1, 10));
    assert_eq!(
        harness.refusal(),
        ProduceError::NotLeader {
            leader: Some(BrokerId(9)),
            epoch: Some(epoch(4)),
            appended: false
        }
    );
}

#[test]
fn leader_epochs_fence_both_ways() {
    let harness = Harness::leading(Setup::default());
    harness.register(Some(ME), 5, 2);
    for (given, fenced) in [(4, true), (6, false)] {
        harness.send_with(1, batch(1, 10), |append| append.leader_epoch = Some(epoch(given)));
        match harness.refusal() {
            ProduceError::FencedLeaderEpoch { current, .. } if fenced => {
                assert_eq!(current, epoch(5));
            }
            ProduceError::UnknownLeaderEpoch { current, .. } if !fenced => {
                assert_eq!(current, epoch(5));
            }
            other => panic!("{given}: {other}"),
        }
    }
    harness.send_with(2, batch(1, 10), |append| append.leader_epoch = Some(epoch(5)));
    harness.offsets(2);
}

#[test]
fn a_retry_is_answered_with_the_first_offsets_and_not_written_again() {
    let harness = Harness::leading(Setup::default());
    harness.send(1, sequenced(70, 0, 0, 4));
    harness.send(2, sequenced(70, 0, 4, 2));
    harness.offsets(1);
    harness.offsets(2);
    harness.send(3, sequenced(70, 0, 0, 4));
    let (_, outcome) = harness.outcome();
    let again = outcome.unwrap();
    assert!(again.duplicate);
    assert_eq!((again.base_offset, again.last_offset), (at(0), at(3)));
    harness.send(4, sequenced(70, 0, 9, 1));
    assert_eq!(
        harness.refusal(),
        ProduceError::OutOfOrderSequence { producer_id: 70, given: 9, expected: 6 }
    );
    harness.send(5, sequenced(70, 1, 0, 1));
    harness.offsets(5);
    harness.send(6, sequenced(70, 0, 6, 1));
    assert_eq!(
        harness.refusal(),
        ProduceError::InvalidProducerEpoch { producer_id: 70, given: 0, current: 1 }
    );
    assert_eq!(harness.readable(0).len(), 7);
}

#[test]
fn size_and_time_are_bounded_before_anything_is_written() {
    let harness = Harness::leading(Setup::default());
    harness.send(1, batch(1, 70 << 10));
    assert!(matches!(harness.refusal(), ProduceError::TooLarge { max: 65536, .. }));
    let now = 1_700_000_000_000;
    for (time, side) in [(now - 3_600_001, "before"), (now + 3_600_001, "after")] {
        harness.send(2, batch_at(time, 1, 10));
        assert!(
            matches!(harness.refusal(), ProduceError::InvalidTimestamp { side: s, .. } if s == side)
        );
    }
    for time in [now - 3_600_000, now + 3_600_000] {
        harness.send(3, batch_at(time, 1, 10));
        harness.outcome().1.unwrap();
    }
    assert_eq!(harness.partition.offsets().log_end, at(2));
}

#[test]
fn the_broker_may_stamp_the_time() {
    let harness = Harness::leading(Setup {
        timestamp_type: TimestampType::LogAppendTime,
        ..Setup::default()
    });
    harness.send(1, batch_at(5, 1, 10));
    let produced = harness.outcome().1.unwrap();
    assert_eq!(produced.log_append_time, Some(harness.clock.now()));
    let Fetched::Batches { batches, .. } = harness.fetch(0).unwrap() else { panic!() };
    let stored = RecordBatch::validate(batches[0].clone()).unwrap();
    assert_eq!(stored.header().max_timestamp, harness.clock.now());
}

#[test]
fn batches_park_in_order_while_the_log_is_not_ready() {
    let harness = Harness::leading(Setup::default());
    let gate = harness.hold_work();
    for tag in 0..40 {
        harness.send(tag, batch(1, 1000));
    }
    let (_, parked) = harness.partition.waiting();
    assert!(parked > 20, "{parked} parked: one window holds a few, the rest waits for a roll");
    drop(gate);
    for tag in 0..40 {
        assert_eq!(harness.offsets(tag).0, i64::try_from(tag).unwrap());
    }
}

#[test]
fn what_parks_is_bounded() {
    let harness = Harness::leading(Setup { parked_bytes_max: 10_000, ..Setup::default() });
    let gate = harness.hold_work();
    for tag in 0..40 {
        harness.send(tag, batch(1, 1000));
    }
    let mut refused = 0;
    while let Ok((_, outcome)) = harness.outcomes.try_recv() {
        let error = outcome.unwrap_err();
        assert!(matches!(error, ProduceError::Busy { parked_bytes } if parked_bytes <= 10_000));
        assert!(error.is_definite());
        refused += 1;
    }
    assert!(refused > 20);
    drop(gate);
    for _ in refused..40 {
        harness.outcome().1.unwrap();
    }
}

#[test]
fn deadlines_answer_appended_and_parked_apart() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send(1, batch(1, 10));
    for tag in 2..20 {
        harness.send(tag, batch(1, 1000));
    }
    harness.partition.expire(harness.clock.monotonic() + Duration::from_secs(29));
    assert!(harness.outcomes.try_recv().is_err(), "nothing is due yet");
    harness.partition.expire(harness.clock.monotonic() + Duration::from_secs(31));
    let outcomes: Vec<_> = (1..20).map(|_| harness.outcome()).collect();
    let appended = |tag: u64| {
        let (_, outcome) = outcomes.iter().find(|(t, _)| *t == tag).unwrap();
        match outcome {
            Err(ProduceError::TimedOut { appended }) => *appended,
            other => panic!("{other:?}"),
        }
    };
    assert!(appended(1), "it is in the log and may yet commit");
    assert!(!appended(19), "it never got there");
    drop(gate);
    harness.send(50, batch(1, 10));
    harness.offsets(50);
}

#[test]
fn a_full_disk_refuses_and_comes_back_by_itself() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 100));
    harness.offsets(0);
    harness.disk.set_capacity(Some(CAPACITY));
    let mut tag = 1;
    let refused = loop {
        harness.send(tag, batch(4, 900));
        match harness.outcome().1 {
            Ok(_) => tag += 1,
            Err(error) => break error,
        }
        assert!(tag < 1000, "the disk never filled up");
    };
    assert_eq!(refused, ProduceError::StorageFull);
    assert!(refused.is_definite());
    let end = harness.partition.offsets().log_end;
    assert_eq!(harness.readable(0).len(), usize::try_from(end.get()).unwrap(), "reads go on");
    harness.disk.set_capacity(None);
    for _ in 0..2 {
        // The first may find the window still missing and be what asks for it.
        harness.send(999, batch(1, 100));
        if harness.outcome().1.is_ok() {
            return;
        }
    }
    panic!("room is back, the partition is not");
}

#[test]
fn a_failed_sync_is_final() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 100));
    harness.offsets(0);
    harness.disk.fail_after(0, Fault::SyncError);
    harness.send(1, batch(1, 100));
    let error = harness.refusal();
    assert!(matches!(error, ProduceError::StorageFailed { appended: true, .. }), "{error}");
    assert!(!error.is_definite());
    harness.send(2, batch(1, 100));
    let error = harness.refusal();
    assert!(matches!(error, ProduceError::StorageFailed { appended: false, .. }), "{error}");
}

#[test]
fn closing_answers_whoever_waits() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send(1, batch(1, 10));
    harness.partition.close();
    assert_eq!(harness.refusal(), ProduceError::Closing { appended: true });
    harness.send(2, batch(1, 10));
    assert_eq!(harness.refusal(), ProduceError::Closing { appended: false });
    assert_eq!(harness.fetch(0), Err(FetchError::Closing));
    drop(gate);
    harness.partition.finish().unwrap();
}

#[test]
fn losing_leadership_leaves_the_outcome_open() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send(1, batch(1, 10));
    harness.register(Some(BrokerId(3)), 2, 2);
    let error = harness.refusal();
    assert!(!error.is_definite());
    assert!(matches!(error, ProduceError::NotLeader { leader: Some(BrokerId(3)), .. }));
    drop(gate);
}

#[test]
fn acks_leader_does_not_wait_for_the_disk() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(1, 10));
    harness.offsets(0);
    let gate = harness.hold_work();
    harness.send_with(1, batch(1, 10), |append| append.acks = Acks::Leader);
    let produced = harness.outcome().1.unwrap();
    assert_eq!((produced.durability, produced.replicas), (Durability::Memory, 1));
    assert_eq!(harness.readable(0), [0], "not committed, so not readable");
    drop(gate);
}

#[tokio::test]
async fn readers_are_woken_when_something_commits() {
    let harness = Harness::leading(Setup::default());
    let set = ReadySet::new();
    let _watch = harness.partition.watch(&set, 42);
    harness.send(1, batch(1, 10));
    let mut tokens = Vec::new();
    set.ready(&mut tokens).await;
    assert_eq!(tokens, [42]);
    assert_eq!(harness.partition.high_watermark(), at(1));
}

#[test]
fn reading_outside_the_log_says_where_it_is() {
    let harness = Harness::leading(Setup { segment_bytes: 16 << 10, ..Setup::default() });
    for tag in 0..100 {
        harness.send(tag, batch(1, 1000));
        harness.offsets(tag);
    }
    assert_eq!(harness.partition.delete_records(Some(at(50)), None), Ok(at(50)));
    let out = |offset| FetchError::OutOfRange {
        offset: at(offset),
        log_start_offset: at(50),
        log_end_offset: at(100),
    };
    assert_eq!(harness.fetch(49), Err(out(49)));
    assert_eq!(harness.fetch(101), Err(out(101)));
    assert_eq!(harness.readable(50), (50..100).collect::<Vec<_>>());
    assert!(harness.readable(100).is_empty());
    assert!(matches!(
        harness.partition.delete_records(Some(at(101)), None),
        Err(FetchError::OutOfRange { .. })
    ));
    assert_eq!(harness.partition.delete_records(None, None), Ok(at(100)));
    assert_eq!(harness.partition.delete_records(Some(at(10)), None), Ok(at(100)), "never back");
}

#[test]
fn a_reader_of_another_history_is_told_where_they_part() {
    let harness = Harness::leading(Setup::default());
    harness.send(0, batch(3, 10));
    harness.offsets(0);
    harness.register(Some(ME), 4, 2);
    harness.send(1, batch(3, 10));
    harness.offsets(1);
    let ask = |from, last_read| {
        harness.fetch_with(Fetch {
            from: at(from),
            max_bytes: 1 << 20,
            leader_epoch: None,
            last_read_epoch: Some(epoch(last_read)),
        })
    };
    assert!(matches!(ask(3, 1), Ok(Fetched::Batches { .. })));
    assert!(matches!(ask(6, 4), Ok(Fetched::Batches { .. })));
    assert_eq!(ask(5, 1), Ok(Fetched::Diverging { epoch: epoch(1), end: at(3) }));
    assert_eq!(ask(5, 3), Ok(Fetched::Diverging { epoch: epoch(1), end: at(3) }));
}

#[tokio::test]
async fn offsets_are_found_by_name_and_time() {
    let harness = Harness::leading(Setup::default());
    for (tag, time) in [(0, 100), (1, 300), (2, 200)] {
        harness.send(tag, batch_at(1_700_000_000_000 + time, 2, 10));
        harness.offsets(tag);
    }
    let time = |ms: i64| Timestamp::from_millis(1_700_000_000_000 + ms);
    let cases = [
        (OffsetSpec::Earliest, Some((0, None))),
        (OffsetSpec::Latest, Some((6, None))),
        (OffsetSpec::Timestamp(time(0)), Some((0, Some(time(100))))),
        (OffsetSpec::Timestamp(time(101)), Some((2, Some(time(300))))),
        (OffsetSpec::Timestamp(time(301)), None),
        (OffsetSpec::MaxTimestamp, Some((2, Some(time(300))))),
    ];
    for (spec, expected) in cases {
        let found = harness.partition.offset_at(spec, None).await.unwrap();
        assert_eq!(found.map(|f| (f.offset.get(), f.timestamp)), expected, "{spec:?}");
    }
}
