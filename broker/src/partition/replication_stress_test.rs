//! Three replicas on many threads: producers that wait for all of the ISR, a controller that fences,
//! elects and hears proposals, brokers that hear of it each in its own time, connections that are
//! cut, records that are deleted, logs that roll.
//!
//! What is checked, when all is quiet again: everybody is in sync; the replicas' bytes are equal;
//! every batch was acknowledged, and lies, once, where its ack said, in its producer's order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use riverrun_proto::{offset::Offset, record::RecordBatch};
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    test_cluster::*,
    test_support::{block_on, sequenced},
    *,
};
use crate::metadata::{Command, Delta, Presence, Rejection};

const PRODUCERS: i64 = 3;
const BATCHES: usize = 2000;
const IN_FLIGHT: usize = 8;

/// An idempotent producer: sends in order to whoever leads, and again from the first batch that was
/// not acknowledged.
struct Producer {
    id: i64,
    rng: StdRng,
    client: Client,
    next_sequence: i32,
    /// By first sequence: how many records.
    sent: BTreeMap<i32, usize>,
    acked: BTreeMap<i32, Produced>,
    refused: HashMap<&'static str, usize>,
}

impl Producer {
    fn new(id: i64, seed: u64) -> Self {
        Self {
            id,
            rng: StdRng::seed_from_u64(seed ^ id.unsigned_abs()),
            client: Client::new(),
            next_sequence: 0,
            sent: BTreeMap::new(),
            acked: BTreeMap::new(),
            refused: HashMap::new(),
        }
    }

    /// Until all of [`BATCHES`] are acknowledged, and more while the chaos has not had its say: a
    /// machine with much else to do may run producers alone for a while.
    fn run(&mut self, cluster: &Cluster, ends: &Mutex<Vec<Offset>>, happened: &Happened) {
        let mut fresh = BATCHES;
        let mut more = 10 * BATCHES;
        loop {
            if fresh == 0 && more > 0 && !happened.all() {
                more -= 1;
                fresh += 1;
            }
            let open = self.sent.keys().find(|sequence| !self.acked.contains_key(sequence));
            let open = self.sent.range(open.copied().unwrap_or(self.next_sequence)..);
            let known = open.clone().count();
            let mut line: Vec<i32> =
                open.map(|(s, _)| *s).filter(|s| !self.acked.contains_key(s)).collect();
            for _ in known..IN_FLIGHT.min(known + fresh) {
                fresh -= 1;
                let records = self.rng.random_range(1..6);
                self.sent.insert(self.next_sequence, records);
                line.push(self.next_sequence);
                self.next_sequence += i32::try_from(records).unwrap();
            }
            if line.is_empty() {
                return;
            }
            let Some(leader) = cluster.leader() else {
                thread::yield_now();
                continue;
            };
            let leader = cluster.partition(leader);
            for sequence in &line {
                let batch = sequenced(self.id, 0, *sequence, self.sent[sequence]);
                self.client.send(&leader, u64::try_from(*sequence).unwrap(), batch, Acks::All);
            }
            for _ in &line {
                let (tag, outcome) = self.client.outcome();
                if let Some(end) = self.take(i32::try_from(tag).unwrap(), outcome) {
                    ends.lock().push(end);
                }
            }
        }
    }

    fn take(&mut self, sequence: i32, outcome: Result<Produced, ProduceError>) -> Option<Offset> {
        let again = match outcome {
            Ok(produced) => {
                if let Some(before) = self.acked.insert(sequence, produced) {
                    assert_eq!(before.base_offset, produced.base_offset, "one batch, one place");
                }
                return Some(produced.last_offset.next());
            }
            Err(ProduceError::NotLeader { .. }) => "not leader",
            Err(ProduceError::NotEnoughReplicas { .. }) => "not enough replicas",
            Err(ProduceError::NotEnoughReplicasAfterAppend { .. }) => "not enough, after append",
            Err(ProduceError::OutOfOrderSequence { .. }) => "out of order",
            Err(ProduceError::Busy { .. }) => "busy",
            Err(other) => panic!("producer {} at {sequence}: {other}", self.id),
        };
        *self.refused.entry(again).or_default() += 1;
        None
    }
}

/// Does whatever a cluster may do to a partition, until told to stop.
struct Chaos<'a> {
    cluster: &'a Cluster,
    rng: StdRng,
    /// To each broker, in order; each hears in its own time.
    news: Vec<mpsc::SyncSender<Vec<Delta>>>,
    /// Where acknowledged batches end.
    ends: &'a Mutex<Vec<Offset>>,
    fenced: Option<u32>,
    tasks: Handle,
    deleting: Option<JoinHandle<()>>,
    happened: &'a Happened,
}

/// What the chaos came to.
#[derive(Debug, Default)]
struct Happened {
    cuts: AtomicUsize,
    elections: AtomicUsize,
}

impl Happened {
    fn all(&self) -> bool {
        self.cuts.load(Ordering::Relaxed) > 0 && self.elections.load(Ordering::Relaxed) > 0
    }
}

impl Chaos<'_> {
    fn order(&self, command: &Command) -> Option<Rejection> {
        let (outcome, deltas) = self.cluster.decide(command);
        for broker in &self.news {
            broker.send(deltas.clone()).expect("brokers listen until the end");
        }
        outcome.err()
    }

    fn run(&mut self, done: &AtomicBool) {
        let (mut acked_then, mut idle) = (0, 0);
        while !done.load(Ordering::SeqCst) {
            self.cluster.judge_proposals(|command| self.order(command));
            let acked = self.ends.lock().len();
            // In step with the producers: whatever happens, they are to get somewhere.
            if acked < acked_then + 3 && idle < 3000 {
                idle += 1;
                if idle % 100 == 0 {
                    self.cluster.ask_again();
                    self.cluster.pass(Duration::from_millis(50));
                }
                thread::yield_now();
                continue;
            }
            (acked_then, idle) = (acked, 0);
            match self.rng.random_range(0..12) {
                0 => self.change_leader(),
                1 => self.fence_or_not(),
                2..=4 => self.cut(),
                5 => self.delete(),
                6 => self.any().request_checkpoint(),
                _ => self.cluster.pass(Duration::from_millis(100)),
            }
        }
        if let Some(broker) = self.fenced.take() {
            self.order(&self.cluster.presence(broker, Presence::Active));
        }
    }

    fn any(&mut self) -> Arc<Partition> {
        self.cluster.partition(self.rng.random_range(1..=3))
    }

    fn change_leader(&mut self) {
        let to = self.rng.random_range(1..=3);
        // Who is not in the ISR is not elected, and nothing happens.
        if self.order(&self.cluster.election(to)).is_none() {
            self.happened.elections.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn fence_or_not(&mut self) {
        if let Some(broker) = self.fenced.take() {
            self.order(&self.cluster.presence(broker, Presence::Active));
        } else {
            let broker = self.rng.random_range(1..=3);
            self.order(&self.cluster.presence(broker, Presence::Fenced));
            self.fenced = Some(broker);
        }
    }

    fn cut(&mut self) {
        let connections = self.cluster.net.connections.lock().clone();
        if !connections.is_empty() {
            let at = self.rng.random_range(0..connections.len());
            self.cluster.net.cut(&connections[at]);
            self.happened.cuts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Some of what was acknowledged long ago, up to the end of a batch. One at a time; it ends when
    /// it ends.
    fn delete(&mut self) {
        if let Some(deleting) = self.deleting.take_if(|deleting| deleting.is_finished()) {
            block_on(deleting).expect("a deletion failed");
        }
        let ends = self.ends.lock();
        let to = ends.get(ends.len() / 3).copied();
        drop(ends);
        let (None, Some(to), Some(leader)) = (&self.deleting, to, self.cluster.leader()) else {
            return;
        };
        let leader = self.cluster.partition(leader);
        self.deleting = Some(self.tasks.spawn(async move {
            match leader.delete_records(Some(to), None).await {
                Ok(start) => assert!(start >= to),
                // It has just been elected, or has not heard that it was; or leads no more.
                Err(
                    OffsetsError::NotAvailable
                    | OffsetsError::Fetch(
                        FetchError::NotLeader { .. } | FetchError::OutOfRange { .. },
                    ),
                ) => {}
                Err(other) => panic!("{to} is committed: {other}"),
            }
        }));
    }
}

fn run(seed: u64, durability: &'static str) {
    let tasks = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let setup = Setup { configs: vec![("durability", durability)], ..Setup::default() };
    let cluster = Cluster::started_on(setup, tasks.handle().clone());
    let mut producers: Vec<_> = (1..=PRODUCERS).map(|id| Producer::new(id, seed)).collect();
    let (done, ends) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let happened = Happened::default();
    thread::scope(|scope| {
        let mut news = Vec::new();
        for node in &cluster.nodes {
            let (sender, heard) = mpsc::sync_channel::<Vec<Delta>>(64);
            news.push(sender);
            let mut rng = StdRng::seed_from_u64(seed ^ (u64::from(node.id.0) << 8));
            scope.spawn(move || {
                while let Ok(deltas) = heard.recv() {
                    for _ in 0..rng.random_range(0..50) {
                        thread::yield_now();
                    }
                    deltas.iter().for_each(|delta| node.registry.apply(delta));
                }
            });
        }
        let mut chaos = Chaos {
            cluster: &cluster,
            rng: StdRng::seed_from_u64(seed),
            news,
            ends: &ends,
            fenced: None,
            tasks: tasks.handle().clone(),
            deleting: None,
            happened: &happened,
        };
        let done = &done;
        let chaos = scope.spawn(move || chaos.run(done));
        let (cluster, ends, happened) = (&cluster, &ends, &happened);
        let running: Vec<_> = producers
            .iter_mut()
            .map(|producer| scope.spawn(move || producer.run(cluster, ends, happened)))
            .collect();
        let ended: Vec<_> = running.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::SeqCst);
        let chaos = chaos.join();
        assert!(ended.iter().all(Result::is_ok), "a producer failed: {:?}", cluster.describe());
        chaos.expect("the controller failed");
    });
    cluster.until_in_sync();
    cluster.assert_equal();
    check(&cluster, &producers);
    assert!(happened.all(), "a quiet run checks nothing: {happened:?}");
    tasks.shutdown_background();
}

fn check(cluster: &Cluster, producers: &[Producer]) {
    for node in &cluster.nodes {
        let partition = cluster.partition(node.id.0);
        let start = partition.offsets().log_start;
        let mut places: HashMap<(i64, i32), Offset> = HashMap::new();
        let mut last_of: HashMap<i64, i32> = HashMap::new();
        for (base, bytes) in bytes_of(&partition) {
            let stamp = RecordBatch::parse_stored(bytes).unwrap().header().producer().unwrap();
            let (producer, sequence) = (stamp.id.get(), stamp.base_sequence);
            assert_eq!(
                places.insert((producer, sequence), base),
                None,
                "twice: {producer} {sequence}"
            );
            let last = last_of.insert(producer, sequence);
            assert!(last.is_none_or(|last| last < sequence), "{producer} back at {base}");
        }
        for producer in producers {
            assert_eq!(producer.acked.len(), producer.sent.len());
            for (sequence, produced) in &producer.acked {
                if produced.base_offset >= start {
                    let place = places.get(&(producer.id, *sequence)).copied();
                    assert_eq!(place, Some(produced.base_offset), "{} at {sequence}", producer.id);
                }
            }
        }
        assert!(!places.is_empty(), "all was deleted: nothing was checked");
    }
}

#[test]
fn three_replicas_in_memory() {
    for seed in [1, 2, 3] {
        run(seed, "memory");
    }
}

#[test]
fn three_replicas_on_disk() {
    run(4, "disk");
}
