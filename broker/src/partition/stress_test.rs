//! Everything at once: producers, readers, deletions, retention, changes of configuration and of
//! leader epochs, on many threads, with nothing but the partition's own wake-ups to go on.
//!
//! What is checked: offsets are dense; what was acknowledged is read, once, where the ack says, in
//! its producer's order; nobody reads beyond the high watermark; every reader gets to the end of
//! every round by being woken alone; what an ack calls durable survives a power loss.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rand::{Rng, SeedableRng, rngs::StdRng};
use riverrun_proto::{
    ids::ProducerId,
    offset::Offset,
    record::{BatchBuilder, BatchOptions, ProducerStamp, RecordBatch},
};

use super::{test_support::*, watch::ReadySet, *};
use crate::{
    clock::Clock,
    io::{Disk, Failure, sim::PowerCut},
    log::{Log, LogBudgets, LogConfig, LogEnv, RetentionPolicy, SaltSource},
};

const PRODUCERS: i64 = 5;
const READERS: usize = 3;
const ROUNDS: usize = 12;
const BATCHES_PER_ROUND: usize = 30;
const IN_FLIGHT: usize = 16;

type Outcome = (u64, Result<Produced, ProduceError>);

#[derive(Debug)]
struct Sink(mpsc::SyncSender<Outcome>);

impl ProduceSink for Sink {
    fn complete(&self, tag: u64, outcome: Result<Produced, ProduceError>) {
        self.0.try_send((tag, outcome)).expect("room for all that is in flight");
    }
}

/// An idempotent producer: sends in order, and again from the first batch that was not
/// acknowledged.
struct Producer {
    id: i64,
    rng: StdRng,
    sink: Arc<Sink>,
    outcomes: mpsc::Receiver<Outcome>,
    next_sequence: i32,
    /// By first sequence: how many records, and where they are.
    sent: BTreeMap<i32, i32>,
    acked: BTreeMap<i32, Produced>,
}

impl Producer {
    fn new(id: i64, seed: u64) -> Self {
        let (sender, outcomes) = mpsc::sync_channel(2 * IN_FLIGHT);
        Self {
            id,
            rng: StdRng::seed_from_u64(seed ^ id.unsigned_abs()),
            sink: Arc::new(Sink(sender)),
            outcomes,
            next_sequence: 0,
            sent: BTreeMap::new(),
            acked: BTreeMap::new(),
        }
    }

    fn batch(&self, sequence: i32, records: i32) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for i in sequence..sequence + records {
            let value =
                format!("{}/{i}/{}", self.id, "x".repeat(usize::try_from(i % 400).unwrap()));
            let time = riverrun_proto::timestamp::Timestamp::from_millis(1_700_000_000_000);
            builder.append(time, None, Some(value.as_bytes()), []).unwrap();
        }
        let id = ProducerId::new(self.id).unwrap();
        builder.set_producer(ProducerStamp { id, epoch: 0, base_sequence: sequence });
        builder.finish()
    }

    fn send(&self, partition: &Arc<Partition>, clock: &dyn Clock, sequence: i32) {
        partition.produce(Append {
            batch: RecordBatch::validate(self.batch(sequence, self.sent[&sequence])).unwrap(),
            acks: Acks::All,
            leader_epoch: None,
            deadline: clock.monotonic() + Duration::from_secs(3600),
            ticket: Ticket::new(
                Arc::clone(&self.sink) as Arc<dyn ProduceSink>,
                u64::try_from(sequence).unwrap(),
                (),
            ),
        });
    }

    /// Until all of `batches` more are acknowledged.
    fn run(&mut self, partition: &Arc<Partition>, clock: &dyn Clock, batches: usize) {
        let mut fresh = batches;
        loop {
            // What is not acknowledged comes first, in order, and nothing of it is in flight. No
            // batch is further from the first of them than the partition remembers: what it has
            // forgotten cannot be told from what it never had.
            let open = self.sent.range(self.first_unacked()..).map(|(s, _)| *s);
            let mut line: Vec<i32> = open.clone().filter(|s| !self.acked.contains_key(s)).collect();
            // One alone until something is acknowledged: a partition that knows nothing of a producer
            // takes whatever comes for its first batch, and if that is the second it never takes the
            // first. (All were refused for a day of the test's time, on a busy machine.)
            let at_once = if self.acked.is_empty() { 1 } else { IN_FLIGHT };
            line.truncate(at_once);
            for _ in open.count()..at_once {
                if fresh == 0 {
                    break;
                }
                fresh -= 1;
                let records = self.rng.random_range(1..6);
                self.sent.insert(self.next_sequence, records);
                line.push(self.next_sequence);
                self.next_sequence += records;
            }
            if line.is_empty() {
                return;
            }
            for sequence in &line {
                self.send(partition, clock, *sequence);
            }
            for _ in &line {
                let (tag, outcome) = self.outcomes.recv_timeout(PATIENCE).expect("an answer each");
                self.take(i32::try_from(tag).unwrap(), outcome);
            }
        }
    }

    fn first_unacked(&self) -> i32 {
        let unacked = self.sent.keys().find(|sequence| !self.acked.contains_key(sequence));
        unacked.copied().unwrap_or(self.next_sequence)
    }

    fn take(&mut self, sequence: i32, outcome: Result<Produced, ProduceError>) {
        match outcome {
            Ok(produced) => {
                let records = produced.last_offset.next().distance_from(produced.base_offset);
                assert_eq!(records, u64::try_from(self.sent[&sequence]).unwrap());
                if let Some(before) = self.acked.insert(sequence, produced) {
                    assert_eq!(before.base_offset, produced.base_offset, "one batch, one place");
                }
            }
            // All of these are sent again.
            Err(
                ProduceError::Busy { .. }
                | ProduceError::TimedOut { .. }
                | ProduceError::OutOfOrderSequence { .. },
            ) => {}
            Err(other) => panic!("producer {} at {sequence}: {other}", self.id),
        }
    }
}

/// What a reader found: whose batch begins where.
#[derive(Default)]
struct Found {
    batches: BTreeMap<i64, (i64, i32)>,
    /// Deleted before it got there.
    gaps: Vec<(i64, i64)>,
}

struct Reader {
    partition: Arc<Partition>,
    position: Offset,
    high_watermark: Offset,
    log_start: Offset,
    found: Found,
}

impl Reader {
    /// Reads until there is nothing more, in pieces of any size.
    async fn catch_up(&mut self, rng: &mut StdRng) {
        loop {
            let max_bytes = rng.random_range(1..8192);
            let fetch =
                Fetch { from: self.position, max_bytes, leader_epoch: None, last_read_epoch: None };
            match self.partition.read(fetch).await {
                Ok(Fetched::Batches { batches, next_offset, high_watermark, log_start_offset }) => {
                    assert!(high_watermark >= self.high_watermark, "it went back");
                    assert!(log_start_offset >= self.log_start, "it went back");
                    assert!(log_start_offset <= high_watermark);
                    (self.high_watermark, self.log_start) = (high_watermark, log_start_offset);
                    if batches.is_empty() {
                        return;
                    }
                    for batch in batches {
                        self.take(batch);
                    }
                    assert_eq!(next_offset, self.position);
                }
                Err(FetchError::OutOfRange { log_start_offset, .. })
                    if self.position < log_start_offset =>
                {
                    self.found.gaps.push((self.position.get(), log_start_offset.get()));
                    self.position = log_start_offset;
                }
                Err(FetchError::Closing) => return,
                Ok(Fetched::Diverging { .. }) => panic!("nobody asked"),
                Err(other) => panic!("at {}: {other}", self.position),
            }
        }
    }

    fn take(&mut self, batch: Bytes) {
        let batch = RecordBatch::validate(batch).expect("whole, with the CRC it came with");
        let header = batch.header();
        let (base, last) = (header.base_offset, header.last_offset());
        assert!(last < self.high_watermark.get(), "{last} is not committed");
        let behind_gap = self.found.gaps.last().is_some_and(|gap| gap.1 == self.position.get());
        assert!(
            base == self.position.get() || (behind_gap && base < self.position.get()),
            "{base} follows {}",
            self.position
        );
        let stamp = header.producer().unwrap();
        self.found.batches.insert(base, (stamp.id.get(), stamp.base_sequence));
        self.position = at(last + 1);
    }
}

/// Where a reader has got to.
#[derive(Default)]
struct Progress {
    position: Mutex<Offset>,
    moved: Condvar,
}

/// Reports its position each time it has everything, and what it found at the end.
fn reader(
    partition: Arc<Partition>,
    seed: u64,
    done: Arc<AtomicBool>,
    progress: Arc<Progress>,
) -> Found {
    let mut rng = StdRng::seed_from_u64(seed);
    // From the first offset, however late this thread gets to run: what was deleted before is a gap.
    let mut reader = Reader {
        partition: Arc::clone(&partition),
        position: Offset::ZERO,
        high_watermark: Offset::ZERO,
        log_start: Offset::ZERO,
        found: Found::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let set = ReadySet::new();
        let mut tokens = Vec::new();
        let mut watch = partition.watch(&set, 1);
        loop {
            reader.catch_up(&mut rng).await;
            if done.load(Ordering::SeqCst) {
                return;
            }
            *progress.position.lock() = reader.position;
            progress.moved.notify_all();
            // Now and then a reader comes anew; then it has to look before it waits.
            if rng.random_ratio(1, 4) {
                drop(watch);
                watch = partition.watch(&set, 1);
                continue;
            }
            set.ready(&mut tokens).await;
            tokens.clear();
        }
    });
    reader.found
}

/// Does whatever an operator, a client or housekeeping may do, until told to stop.
fn meddle(harness: &Harness, rng: &mut StdRng, epoch: &mut i32, until: &AtomicBool) {
    let partition = &harness.partition;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    while !until.load(Ordering::SeqCst) {
        match rng.random_range(0..10) {
            0 => partition.tick(),
            1 => partition.request_checkpoint(),
            2 => partition.apply_retention(),
            3 => {
                let before = rng.random_range(0..=partition.high_watermark().get());
                // Mostly what is deleted already.
                let before = before / 2;
                match runtime.block_on(partition.delete_records(Some(at(before)), None)) {
                    Ok(start) => assert!(start >= at(before)),
                    // A new leader epoch began and the flush that says what is committed is under
                    // way: whoever asked asks again.
                    Err(OffsetsError::NotAvailable) => {}
                    Err(other) => panic!("{before} is committed: {other}"),
                }
            }
            4 => {
                let disk = rng.random_bool(0.5);
                let segment_bytes = rng.random_range(4096..40_000);
                harness.reconfigure(|settings, log| {
                    settings.durability = if disk { Durability::Disk } else { Durability::Memory };
                    log.segment_bytes = segment_bytes;
                    log.window_min = 4096;
                });
            }
            5 => {
                *epoch += 1;
                harness.register(Some(ME), *epoch, *epoch);
            }
            // Whoever waits is sent away: seldom, or nobody would get anywhere.
            6 if rng.random_ratio(1, 50) => {
                partition.expire(harness.clock.monotonic() + Duration::from_secs(7200));
            }
            7 => harness.clock.advance(Duration::from_millis(5)),
            _ => thread::yield_now(),
        }
    }
}

fn check(producers: &[Producer], found: &Found) {
    let mut last_of: HashMap<i64, i32> = HashMap::new();
    for (base, (producer, sequence)) in &found.batches {
        let last = last_of.insert(*producer, *sequence);
        assert!(last.is_none_or(|l| l < *sequence), "producer {producer}, again or back at {base}");
    }
    let mut read = 0;
    for producer in producers {
        assert_eq!(producer.acked.len(), producer.sent.len());
        for (sequence, produced) in &producer.acked {
            let (base, end) = (produced.base_offset.get(), produced.last_offset.get() + 1);
            match found.batches.get(&base) {
                Some(whose) => assert_eq!(*whose, (producer.id, *sequence), "at {base}"),
                None => {
                    let deleted = found.gaps.iter().any(|gap| gap.0 <= base && end <= gap.1);
                    assert!(deleted, "{base} was acknowledged and not read: {:?}", found.gaps);
                    continue;
                }
            }
            read += 1;
        }
    }
    assert!(read > 0, "a reader that saw nothing checks nothing");
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let harness = Harness::leading(Setup {
        segment_bytes: 16 << 10,
        parked_bytes_max: 16 << 10,
        retention: RetentionPolicy { age: None, bytes: Some(256 << 10) },
        ..Setup::default()
    });
    let mut producers: Vec<_> = (1..=PRODUCERS).map(|id| Producer::new(id, seed)).collect();
    let done = Arc::new(AtomicBool::new(false));
    let mut epoch = 1;
    let mut progress = Vec::new();
    let mut readers = Vec::new();
    for n in 0..READERS {
        let (partition, done) = (Arc::clone(&harness.partition), Arc::clone(&done));
        let reports = Arc::new(Progress::default());
        progress.push(Arc::clone(&reports));
        readers.push(thread::spawn(move || reader(partition, seed + n as u64, done, reports)));
    }
    for _ in 0..ROUNDS {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let meddling = scope.spawn(|| meddle(&harness, &mut rng, &mut epoch, &over));
            let running: Vec<_> = producers
                .iter_mut()
                .map(|producer| {
                    let (partition, clock) = (&harness.partition, &*harness.clock);
                    scope.spawn(move || producer.run(partition, clock, BATCHES_PER_ROUND))
                })
                .collect();
            let ended: Vec<_> = running.into_iter().map(|producer| producer.join()).collect();
            over.store(true, Ordering::SeqCst);
            assert!(ended.iter().all(Result::is_ok), "a producer failed");
            meddling.join().expect("the meddler failed");
        });
        // Nothing moves any more: who was not woken for the last move never will be.
        let end = harness.partition.high_watermark();
        for reader in &progress {
            let mut position = reader.position.lock();
            while *position < end {
                let waited = reader.moved.wait_for(&mut position, PATIENCE);
                assert!(!waited.timed_out(), "woken for {end}? at {position}");
            }
        }
    }
    done.store(true, Ordering::SeqCst);
    harness.partition.close();
    for reader in readers {
        check(&producers, &reader.join().expect("a reader failed"));
    }
    harness.partition.wait_idle();
    survives_power_loss(&harness, &producers);
}

/// Whatever an ack called durable is there after a power loss.
fn survives_power_loss(harness: &Harness, producers: &[Producer]) {
    let disk: Arc<dyn Disk> = Arc::new(harness.disk.power_loss(PowerCut::LoseUnsynced));
    let failure = Failure::open(Arc::clone(&disk), "/data");
    let env = LogEnv::new(disk, failure, SaltSource::seeded(1), LogBudgets::default());
    let dir = std::path::PathBuf::from("/data").join(harness.partition.id().to_string());
    let (log, report) =
        Log::open(env, dir, LogConfig::default(), false, harness.clock.now()).unwrap();
    assert_eq!(report.damage, None);
    let durable = producers
        .iter()
        .flat_map(|producer| producer.acked.values())
        .filter(|produced| produced.durability == Durability::Disk)
        .map(|produced| produced.last_offset)
        .max();
    assert!(durable.is_none_or(|last| last < log.log_end_offset()), "{durable:?}");
}

#[test]
fn everything_at_once() {
    for seed in [1, 2, 3] {
        run(seed);
    }
}
