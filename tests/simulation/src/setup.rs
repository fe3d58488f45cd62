//! What holds for all of one run. Everything follows from the seed.

use std::time::Duration;

use riverrun_broker::replica::Durability;

use crate::{plant::Plant, random::Random};

/// A controller fences a broker it has not heard from for this long.
pub const SESSION_TIMEOUT: Duration = Duration::from_millis(600);
/// A connection on which something was lost is noticed as dead within this time.
pub const KEEPALIVE: Duration = Duration::from_millis(400);
/// How long a broker lets a produce wait for its replicas.
pub const PRODUCE_TIMEOUT: Duration = Duration::from_millis(1500);
/// A client takes a stream for dead on which nothing came back for this long.
pub const REQUEST_TIMEOUT: Duration = Duration::from_millis(2500);

/// What the metadata log of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// One that never fails, with a controller that never dies.
    Ideal,
    /// The shipped quorum: a node of it in every broker's process, a log of it on every disk; the
    /// controller is where the quorum's leader is.
    Quorum,
}

/// The bounds and habits of one run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What it follows from.
    pub seed: u64,
    /// What the metadata log is.
    pub metadata: Metadata,
    /// Brokers; three of them, at first, have a copy of each partition.
    pub brokers: usize,
    /// Entries between two snapshots of a node of the quorum.
    pub snapshot_entries: u64,
    /// What is broken on purpose.
    pub plant: Option<Plant>,
    /// Partitions of the one topic.
    pub partitions: usize,
    /// `durability`.
    pub durability: Durability,
    /// `min.insync.replicas`.
    pub min_isr: u32,
    /// `replica.lag.time.max.ms`.
    pub lag_time_max: Duration,
    /// `replica.lag.bytes.max`.
    pub lag_bytes_max: u64,
    /// How long a disk usually takes for a piece of work, in microseconds.
    pub work_us: (u64, u64),
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `log.checkpoint.bytes`.
    pub checkpoint_bytes: u64,
    /// How long faults go on.
    pub chaos: Duration,
    /// Time between two faults, on average.
    pub fault_every: Duration,
    /// The least and usual time a message takes, in microseconds.
    pub delay_us: (u64, u64),
    /// Messages of a thousand that are lost, with their connection if they had one.
    pub lost_permille: u64,
    /// Whether messages of one connection may overtake each other and come twice.
    pub disorder: bool,
    /// Which faults there are, by weight; in the order of [`crate::faults::Kind::ALL`].
    pub weights: Vec<u64>,
    /// Whether records are deleted now and then.
    pub deletes: bool,
    /// Producers of each partition.
    pub producers: usize,
    /// Time between two records of a producer, on average, in microseconds.
    pub record_every_us: u64,
    /// Bytes of a value, at most.
    pub value_bytes_max: u64,
}

impl Setup {
    /// What follows from a seed.
    pub fn of(seed: u64, metadata: Metadata, plant: Option<Plant>) -> Self {
        let mut random = Random::new(seed ^ 0x5e7_0000);
        let durability = random.pick(&[Durability::Disk, Durability::Memory]);
        let min_isr = match durability {
            Durability::Disk => random.pick(&[1, 2, 2, 3]),
            Durability::Memory => random.pick(&[1, 2, 2, 2, 3]),
        };
        let least = random.between(100, 1000);
        // Where much goes wrong, little is under way when the next thing does: in some runs there are
        // few kinds of faults, with time between them.
        let is_quiet = random.permille(400);
        // Those of operators who change what the cluster is like have chances of their own.
        let any = crate::faults::Kind::ALL.len() - 3;
        let mut weights: Vec<u64> = (0..any).map(|_| random.pick(&[0, 1, 1, 3])).collect();
        if is_quiet {
            weights.fill(0);
            (0..3).for_each(|_| weights[random.index(any)] = 1);
        }
        let mut changes = Random::new(seed ^ 0xc4a6_0000);
        // A bug that is looked for is found sooner where operators do not interfere.
        let is_hunt = plant.is_some() && metadata == Metadata::Ideal;
        let is_plain = is_quiet || is_hunt;
        let brokers = if is_plain { 3 } else { changes.pick(&[3, 3, 4, 5]) };
        let changes_much = !is_plain && (brokers > 3 || changes.permille(300));
        // Deletions in few: where there are none, more can be asked in the end.
        let operators = [[1, 2, 2, 4], [1, 2, 2, 4], [0, 0, 0, 6]];
        weights.extend(operators.map(|of| if changes_much { changes.pick(&of) } else { 0 }));
        let fault_every = if is_quiet { (600, 1_500) } else { (150, 900) };
        Self {
            seed,
            metadata,
            brokers,
            snapshot_entries: Random::new(seed ^ 0x9a57_0000).between(8, 48),
            plant,
            partitions: random.pick(&[1, 1, 2]),
            durability,
            min_isr,
            lag_time_max: Duration::from_millis(random.between(300, 900)),
            lag_bytes_max: random.pick(&[2_000, 20_000, 1_000_000]),
            work_us: random.pick(&[(50, 1_500), (500, 5_000), (3_000, 30_000)]),
            segment_bytes: random.between(8, 40) * 1024,
            checkpoint_bytes: random.between(4, 40) * 1024,
            chaos: Duration::from_millis(random.between(3_000, 7_000)),
            fault_every: Duration::from_millis(random.between(fault_every.0, fault_every.1)),
            delay_us: (least, least + random.between(100, 4000)),
            lost_permille: random.pick(&[0, 0, 2, 10]),
            disorder: random.permille(400),
            weights,
            deletes: random.permille(300),
            producers: usize::try_from(random.between(1, 3)).expect("few"),
            record_every_us: random.between(3_000, 40_000),
            value_bytes_max: random.pick(&[50, 400, 2_000]),
        }
    }
}
