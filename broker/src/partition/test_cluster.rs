//! Several brokers' partitions for tests, wired to each other in memory: a registry each on its own
//! simulated disk, the metadata made by the commands that make it in a cluster, and connections that
//! carry what is said, in order, until they are cut. A test moves it by hand ([`Cluster::until`]), or
//! lets tasks do it ([`Cluster::started_on`]).

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, TopicPartition},
    offset::Offset,
    record::RecordBatch,
    timestamp::Timestamp,
};
use tokio::runtime::Handle;

use super::{
    registry::{Registry, RegistryEnv},
    replication::{Peers, Replication, ReplicationLimits},
    test_net::{Net, PeersOf},
    test_support::PATIENCE,
    *,
};
use crate::{
    clock::{Clock, ManualClock, SystemClock, WallTrust},
    config::{ByteSize, Config},
    io::{
        Disk, Failure, SyncPoint,
        sim::{PowerCut, SimDisk},
    },
    log::{LogBudgets, LogEnv, Read, SaltSource},
    metadata::{
        Command, Delta, IsrChange, MetadataImage, Partition as Registered, Presence, Rejection,
        Reply,
        command::{AlterIsr, Choice, CreateTopic, ElectLeader, SetPresence},
        decision::IsrRejection,
        test_support::{after, apply, configs, join, level_1, level_2, name, topic_id},
    },
    replica::Limits,
    telemetry::{Registry as Metrics, StorageMetrics},
};

/// The partition under test.
pub(crate) const TOPIC: u8 = 1;

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) image: Mutex<MetadataImage>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) net: Arc<Net>,
    limits: (ReplicationLimits, Limits),
}

pub(crate) struct Node {
    pub(crate) id: BrokerId,
    pub(crate) registry: Arc<Registry>,
    pub(crate) pool: IoPool,
    disk: SimDisk,
}

/// What a test may choose.
pub(crate) struct Setup {
    /// Brokers.
    pub(crate) replicas: u32,
    /// Brokers that have the topic at first.
    pub(crate) assigned: usize,
    pub(crate) min_isr: u32,
    pub(crate) partitions: usize,
    pub(crate) configs: Vec<(&'static str, &'static str)>,
    pub(crate) limits: ReplicationLimits,
    pub(crate) lag: Limits,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            replicas: 3,
            assigned: usize::MAX,
            min_isr: 2,
            partitions: 1,
            configs: vec![("durability", "memory")],
            limits: ReplicationLimits { window_bytes: 64 << 10, push_bytes: 4 << 10 },
            lag: Limits::default(),
        }
    }
}

impl Cluster {
    /// Brokers 1 to `replicas`, with a topic of one partition that all of them have and 1 leads.
    pub(crate) fn new(setup: Setup) -> Self {
        let net = Arc::default();
        Self::with(setup, &net, |me, _| Arc::new(PeersOf { me, net: Arc::downgrade(&net) }))
    }

    /// The same, with tasks that carry what is said.
    pub(crate) fn started_on(setup: Setup, tasks: Handle) -> Self {
        let net = Arc::new(Net { tasks: Some(tasks), ..Net::default() });
        Self::with(setup, &net, |me, _| Arc::new(PeersOf { me, net: Arc::downgrade(&net) }))
    }

    /// The same, with peers of the test's own.
    pub(crate) fn wired(
        setup: Setup,
        tasks: Handle,
        peers: impl Fn(BrokerId, BrokerEpoch) -> Arc<dyn Peers>,
    ) -> Self {
        let net = Arc::new(Net { tasks: Some(tasks), ..Net::default() });
        Self::with(setup, &net, peers)
    }

    fn with(
        setup: Setup,
        net: &Arc<Net>,
        peers: impl Fn(BrokerId, BrokerEpoch) -> Arc<dyn Peers>,
    ) -> Self {
        let mut image = after(&[level_1(), level_2()]);
        let ids: Vec<BrokerId> = (1..=setup.replicas).map(BrokerId).collect();
        for id in &ids {
            let joined = apply(&image, &join(id.0, u8::try_from(id.0).unwrap(), None));
            image = joined.image;
            let Ok(Reply::BrokerEpoch(broker_epoch)) = joined.outcome else { panic!("no epoch") };
            let active = SetPresence { broker: *id, broker_epoch, presence: Presence::Active };
            image = apply(&image, &Command::SetPresence(active)).image;
        }
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let start = |id: &BrokerId| {
            let epoch = image.broker(*id).expect("it is registered").epoch;
            let peers = peers(*id, epoch);
            let replication =
                Replication { limits: setup.limits, lag: setup.lag, ..Replication::with(peers) };
            Node::start(*id, small_disk(id.0), &image, &clock, replication)
        };
        let nodes = ids.iter().map(start).collect();
        let (image, limits) = (Mutex::new(image), (setup.limits, setup.lag));
        let cluster = Self { nodes, image, clock, net: Arc::clone(net), limits };
        for node in &cluster.nodes {
            cluster.net.board.write().insert(node.id, Arc::clone(&node.registry));
        }
        let create = Command::CreateTopic(CreateTopic {
            name: name("orders"),
            id: topic_id(TOPIC),
            assignment: vec![ids.into_iter().take(setup.assigned).collect(); setup.partitions],
            configs: configs(&setup.configs),
            min_isr: setup.min_isr,
        });
        cluster.command(&create).expect("accepted");
        cluster
    }

    /// The process of broker `at` dies, or its machine loses power, and comes back. What it lost is
    /// known: with its page cache, the broker has no proof that its logs are whole.
    pub(crate) fn restart(&mut self, at: u32, power: Option<PowerCut>) {
        let node = &self.nodes[at as usize - 1];
        let disk = power.map_or_else(|| node.disk.kill(), |cut| node.disk.power_loss(cut));
        self.net.board.write().remove(&node.id);
        let connections = self.net.connections.lock().clone();
        let own = connections.iter().filter(|c| c.follower == node.id || c.leader == node.id);
        own.for_each(|connection| self.net.cut(connection));
        let id = node.id;
        let before = self.image.lock().broker(id).expect("it is registered").epoch;
        let run = u8::try_from(before.get()).expect("few commands") + 100;
        let whole_since = power.is_none().then(|| before.get());
        self.command_to_others(id, &join(id.0, run, whole_since)).expect("accepted");
        let epoch = self.image.lock().broker(id).expect("it is registered").epoch;
        assert!(epoch > before, "another run");
        let peers = Arc::new(PeersOf { me: id, net: Arc::downgrade(&self.net) });
        let (limits, lag) = self.limits;
        let replication = Replication { limits, lag, ..Replication::with(peers) };
        let image = self.image.lock().clone();
        let node = Node::start(id, disk, &image, &self.clock, replication);
        self.net.board.write().insert(id, Arc::clone(&node.registry));
        self.nodes[at as usize - 1] = node;
        self.command(&self.presence(at, Presence::Active)).expect("accepted");
    }

    fn command_to_others(&self, down: BrokerId, command: &Command) -> Result<Reply, Rejection> {
        let (outcome, deltas) = self.decide(command);
        for node in self.nodes.iter().filter(|node| node.id != down) {
            deltas.iter().for_each(|delta| node.registry.apply(delta));
        }
        outcome
    }

    /// The partition at broker `at`.
    pub(crate) fn partition(&self, at: u32) -> Arc<Partition> {
        self.net.partition(BrokerId(at), id()).expect("it is there")
    }

    pub(crate) fn registered(&self) -> Registered {
        self.image.lock().partition(id()).expect("it is registered").clone()
    }

    pub(crate) fn leader(&self) -> Option<u32> {
        self.registered().leader.map(|leader| leader.0)
    }

    /// Carries out a command, and tells every broker.
    pub(crate) fn command(&self, command: &Command) -> Result<Reply, Rejection> {
        let (outcome, deltas) = self.decide(command);
        for node in &self.nodes {
            for delta in &deltas {
                node.registry.apply(delta);
            }
        }
        outcome
    }

    /// Carries out a command, and tells nobody.
    pub(crate) fn decide(&self, command: &Command) -> (Result<Reply, Rejection>, Vec<Delta>) {
        let mut image = self.image.lock();
        let applied = apply(&image, command);
        *image = applied.image;
        (applied.outcome, applied.deltas)
    }

    pub(crate) fn presence(&self, of: u32, presence: Presence) -> Command {
        let broker_epoch = self.image.lock().broker(BrokerId(of)).expect("it is registered").epoch;
        Command::SetPresence(SetPresence { broker: BrokerId(of), broker_epoch, presence })
    }

    pub(crate) fn election(&self, of: u32) -> Command {
        let expected = self.registered().partition_epoch;
        let choice = Choice::Member(BrokerId(of));
        Command::ElectLeader(ElectLeader { partition: id(), expected, choice })
    }

    /// Carries out what leaders proposed, by the controller's rules.
    pub(crate) fn judge_proposals(&self, mut carry_out: impl FnMut(&Command) -> Option<Rejection>) {
        // Let go of at once: what is carried out makes proposals.
        let proposed = std::mem::take(&mut *self.net.proposals.lock());
        for (partition, proposal) in proposed {
            if self.net.undecided.lock().contains(&partition) {
                continue;
            }
            let IsrProposal { leader, broker_epoch, leader_epoch, partition_epoch, isr } = proposal;
            let change = IsrChange { leader, broker_epoch, leader_epoch, partition_epoch, isr };
            let refused = carry_out(&Command::AlterIsr(AlterIsr { partition, change }));
            if let Some(Rejection::Isr(IsrRejection::Ineligible(_))) = refused
                && let Some(leader) = self.net.partition(leader, partition)
            {
                leader.isr_refused(leader_epoch, partition_epoch);
            }
        }
    }

    /// Moves everything until `done`.
    pub(crate) fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let began = SystemClock.monotonic();
        while !done() {
            let waited = SystemClock.monotonic().duration_since(began);
            assert!(waited < PATIENCE, "never: {what}; {:?}", self.describe());
            if self.net.tasks.is_none() {
                self.net.pump();
            } else {
                self.ask_again();
            }
            self.judge_proposals(|command| self.command(command).err());
            thread::yield_now();
        }
    }

    /// Until all replicas are in the ISR and have all of the leader's log, also on their disks if
    /// that counts, and know that it is committed.
    pub(crate) fn until_in_sync(&self) {
        self.until("all in sync", || {
            let ends: Vec<_> = self.copies().iter().map(|(_, copy)| copy.offsets()).collect();
            let replicas = self.registered().replicas.len();
            let end = ends[0].log_end;
            (self.registered().isr.len(), ends.len()) == (replicas, replicas)
                && self.leader().is_some_and(|leader| self.serves_all(leader))
                && ends.iter().all(|at| at.log_end == end && at.high_watermark == end)
        });
    }

    /// The partition at every broker that has it.
    pub(crate) fn copies(&self) -> Vec<(BrokerId, Arc<Partition>)> {
        let ids = self.nodes.iter().map(|node| node.id);
        ids.filter_map(|broker| Some((broker, self.net.partition(broker, id())?))).collect()
    }

    fn serves_all(&self, leader: u32) -> bool {
        let mut others = self.registered().replicas.into_iter().filter(|id| id.0 != leader);
        self.partition(leader)
            .with_replica(|replica, _| others.all(|id| replica.progress(id).is_some()))
    }

    /// Leaders that were not ready are asked again, as housekeeping does.
    pub(crate) fn ask_again(&self) {
        for partition in self.nodes.iter().flat_map(|node| node.registry.all()) {
            if partition.waits_to_subscribe() {
                partition.subscribe_again();
            }
        }
    }

    /// Some time passes, and what is due because of it is done.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.advance(time);
        for node in &self.nodes {
            node.registry.let_moves_in();
            node.registry.all().iter().for_each(Partition::tick);
        }
    }

    pub(crate) fn describe(&self) -> Vec<String> {
        let partitions = self.copies().into_iter();
        let mut all: Vec<_> = partitions
            .map(|(id, partition)| {
                let replica = partition.with_replica(|replica, _| format!("{replica:?}"));
                format!("\n{id} {:?} {:?} {replica}", partition.offsets(), partition.under_way())
            })
            .collect();
        all.push(format!("\n{:?}", self.registered()));
        all
    }

    /// All replicas have the same bytes, as far as any of them knows them to be committed, from where
    /// the last of them begins. How many batches that is.
    pub(crate) fn assert_equal(&self) -> usize {
        let logs: Vec<_> = self.copies().iter().map(|(_, copy)| bytes_of(copy)).collect();
        let copies = self.copies();
        let offsets = copies.iter().map(|(_, copy)| copy.offsets());
        let start = offsets.clone().map(|at| at.log_start).max().expect("there are nodes");
        let end = offsets.map(|at| at.high_watermark).min().expect("there are nodes");
        let within = |log: &[(Offset, Bytes)]| -> Vec<(Offset, Bytes)> {
            // With the batch that holds the log start, which may begin below it.
            let from = log.partition_point(|(at, _)| *at <= start).saturating_sub(1);
            log[from..].iter().filter(|(at, _)| *at < end).cloned().collect()
        };
        let first = within(&logs[0]);
        for ((broker, _), log) in copies.iter().zip(&logs) {
            assert_eq!(within(log), first, "{broker} differs");
        }
        first.len()
    }
}

impl Node {
    fn start(
        me: BrokerId,
        disk: SimDisk,
        image: &MetadataImage,
        clock: &Arc<ManualClock>,
        replication: Replication,
    ) -> Self {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let failure = Failure::open(Arc::clone(&shared), "/data");
        let pool = IoPool::start(1, 1).unwrap();
        let mut config = Config::default();
        config.topic.segment_bytes = ByteSize::kib(16);
        config.log.window_bytes_min = ByteSize::kib(4);
        config.log.window_bytes_max = ByteSize::kib(16);
        config.log.checkpoint_bytes = ByteSize::kib(20);
        let env = RegistryEnv {
            me,
            dir: PathBuf::from("/data"),
            log: LogEnv::new(
                shared,
                failure.clone(),
                SaltSource::seeded(u64::from(me.0) ^ (disk.ops() << 8)),
                LogBudgets::default(),
            ),
            partition: PartitionEnv {
                clock: Arc::clone(clock) as Arc<dyn Clock>,
                wall: WallTrust::unquestioned(),
                failure,
                gate: WriteGate::default(),
                pool: pool.clone(),
                metrics: StorageMetrics::register(&Metrics::new()),
                read_budget: ReadBudget::new(1 << 20),
                parked: ParkedLimit::new(1 << 20),
                replication,
            },
            topic_defaults: config.topic,
            log_settings: config.log,
            produce_settings: config.produce,
        };
        let (registry, _) = Registry::open(env, image, false).unwrap();
        Self { id: me, registry, pool, disk }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.pool.close();
    }
}

fn small_disk(seed: u32) -> SimDisk {
    let disk = SimDisk::new(u64::from(seed));
    disk.create_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
    disk
}

/// The partition under test.
pub(crate) fn id() -> TopicPartition {
    crate::metadata::test_support::first_of(TOPIC)
}

/// Every batch of a replica's log, committed or not, with where it begins.
pub(crate) fn bytes_of(partition: &Partition) -> Vec<(Offset, Bytes)> {
    let offsets = partition.offsets();
    let (mut from, mut all) = (offsets.log_start, Vec::new());
    while from < offsets.log_end {
        let read = match partition.reader.read(from, offsets.log_end, 1 << 20).unwrap() {
            Read::Cold(cold) => cold.run().unwrap(),
            Read::Batches(batches) => batches,
            Read::Empty => panic!("nothing at {from}, the log ends at {}", offsets.log_end),
        };
        for batch in read.batches {
            let whole = RecordBatch::parse_stored(batch.clone()).expect("whole");
            all.push((whole.base_offset(), batch));
        }
        from = read.next_offset;
    }
    all
}

/// Where outcomes go.
#[derive(Debug)]
pub(crate) struct Outcomes(mpsc::SyncSender<(u64, Result<Produced, ProduceError>)>);

impl ProduceSink for Outcomes {
    fn complete(&self, tag: u64, outcome: Result<Produced, ProduceError>) {
        let answered = self.0.try_send((tag, outcome));
        // A client that is gone wants to know nothing.
        assert!(!matches!(answered, Err(mpsc::TrySendError::Full(_))), "room for all in flight");
    }
}

/// A client of the partition.
pub(crate) struct Client {
    sink: Arc<Outcomes>,
    outcomes: mpsc::Receiver<(u64, Result<Produced, ProduceError>)>,
}

impl Client {
    pub(crate) fn new() -> Self {
        let (sender, outcomes) = mpsc::sync_channel(10_000);
        Self { sink: Arc::new(Outcomes(sender)), outcomes }
    }

    pub(crate) fn send(&self, to: &Arc<Partition>, tag: u64, batch: Bytes, acks: Acks) {
        to.produce(Append {
            batch: RecordBatch::validate(batch).unwrap(),
            acks,
            leader_epoch: None,
            deadline: ManualClock::default().monotonic() + Duration::from_secs(100_000),
            ticket: Ticket::new(Arc::clone(&self.sink) as Arc<dyn ProduceSink>, tag, ()),
        });
    }

    pub(crate) fn answered(&self) -> Option<(u64, Result<Produced, ProduceError>)> {
        self.outcomes.try_recv().ok()
    }

    pub(crate) fn outcome(&self) -> (u64, Result<Produced, ProduceError>) {
        self.outcomes.recv_timeout(PATIENCE).expect("an answer")
    }
}
