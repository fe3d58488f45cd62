//! A broker: a machine, and the process on it, if one runs.
//!
//! A process opens its logs, joins, follows the metadata, and hands what comes to the shells of its
//! partitions. After a failed sync nothing on its directory can be believed, and it ends.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use riverrun_broker::{
    controller::OpenError,
    io::{Failure, WriteMode},
    log::{Log, LogBudgets, LogConfig, LogEnv, LogError, PartitionMeta, Read, SaltSource},
    metadata::{Delta, MetadataImage, Partition, Presence},
    replica::{BrokerStanding, Durability, Event, Limits, Registration, Rules},
};
use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, IncarnationId},
    offset::Offset,
};

use crate::{
    controller::{broker_id, incarnation, partition_id, topic},
    coverage::Fact,
    machine::{DATA, Machine},
    member::Member,
    message::{Body, Connection, End, Envelope, Node, Readable},
    mirror::Entry,
    operator::DURABILITY,
    setup::{Metadata, Setup},
    shell::{Around, Make, Shell, working::Works},
    stage::{self, Stage},
};

/// Bytes of a fetch, about.
const FETCH_BYTES: usize = 6000;

/// See the module.
#[derive(Debug)]
pub struct Broker<R: Rules> {
    /// Which one.
    pub number: usize,
    /// What outlives its process.
    pub machine: Machine,
    /// What runs there.
    pub process: Option<Process<R>>,
    /// The registration it had when data was lost here that its topic's acks rested on.
    pub lost_at: Option<BrokerEpoch>,
    rules: R,
    runs: u32,
}

/// A broker's process.
#[derive(Debug)]
pub struct Process<R: Rules> {
    /// Which run of which broker.
    pub end: End,
    /// Its copies, one of each partition.
    pub shells: Vec<Shell<R>>,
    /// Its slow work.
    pub works: Works,
    /// It takes part: since it was registered and knows the metadata from that on.
    pub begun: bool,
    /// Nothing happens in it before this.
    pub paused_until: Duration,
    /// It wants to stop.
    pub leaves: bool,
    incarnation: IncarnationId,
    epoch: Option<BrokerEpoch>,
    image: Arc<MetadataImage>,
    /// Its node of the metadata quorum, if there is one.
    pub member: Option<Member>,
    uplinks: BTreeMap<BrokerId, Connection>,
    failure: Failure,
}

/// Why there is no process after a start.
#[derive(Debug)]
pub enum NotStarted {
    /// The directory has failed for good.
    DiskFailed,
    /// Trying again may help.
    TryAgain,
}

impl<R: Rules> Broker<R> {
    /// A machine on which nothing runs yet.
    pub fn new(number: usize, rules: R, setup: &Setup) -> Self {
        let ignored = setup.plant.and_then(crate::plant::Plant::ignored_sync);
        let seed = setup.seed.wrapping_mul(31).wrapping_add(number as u64);
        let machine = Machine::new(number, seed, setup, ignored);
        Self { number, machine, process: None, lost_at: None, rules, runs: 0 }
    }

    /// Starts a process: it opens, or makes, its logs.
    pub fn start(&mut self, stage: &mut Stage) -> Result<(), NotStarted> {
        self.runs += 1;
        let failure = Failure::open(self.machine.shared(), DATA);
        if failure.is_failed() {
            return Err(NotStarted::DiskFailed);
        }
        let salts = SaltSource::seeded(stage.random.number());
        let budgets = LogBudgets { open_segments: 4, ..LogBudgets::default() };
        let env = LogEnv::new(self.machine.shared(), failure.clone(), salts, budgets);
        let clean = std::mem::take(&mut self.machine.is_clean);
        let make = Make {
            rules: self.rules,
            broker: self.number,
            durability: stage.setup.durability,
            limits: Limits {
                lag_time_max: stage.setup.lag_time_max,
                lag_bytes_max: stage.setup.lag_bytes_max,
            },
        };
        let mut shells = Vec::new();
        for partition in 0..stage.setup.partitions {
            let opened = self.open(&env, partition, clean, stage);
            let shell = opened.and_then(|log| {
                Shell::new(&make, partition, log).map_err(|what| {
                    // A read that failed on purpose looks the same.
                    stage.say(format_args!("b{} p{partition} not read: {what}", self.number));
                    NotStarted::TryAgain
                })
            });
            match shell {
                Ok(shell) => shells.push(shell),
                Err(_) if failure.is_failed() => return Err(NotStarted::DiskFailed),
                Err(error) => return Err(error),
            }
        }
        let end = End { node: Node::Broker(self.number), run: self.runs };
        let member = match stage.setup.metadata {
            Metadata::Ideal => None,
            Metadata::Quorum => Some(self.open_member(end, &failure, stage)?),
        };
        stage.network.note_up(end);
        self.process = Some(Process {
            end,
            shells,
            works: Works::new(self.machine.work_us),
            begun: false,
            paused_until: Duration::ZERO,
            leaves: false,
            incarnation: incarnation(self.number, self.runs),
            epoch: None,
            image: Arc::default(),
            member,
            uplinks: BTreeMap::new(),
            failure,
        });
        stage.schedule.after(Duration::ZERO, stage::Event::Tick { at: end });
        stage.is_dirty = true;
        self.with_process(stage, Process::begin_attending);
        Ok(())
    }

    /// Its node of the quorum. S14: what is on the disk can be read, unless a read fails on purpose.
    fn open_member(
        &self,
        end: End,
        failure: &Failure,
        stage: &mut Stage,
    ) -> Result<Member, NotStarted> {
        Member::start(&self.machine, failure, end, stage).map_err(|error| {
            stage.say(format_args!("b{} has no metadata log: {error}", self.number));
            if let OpenError::Damaged { .. } = error {
                stage.fail(format!("S14: b{}: {error}", self.number));
            }
            if failure.is_failed() { NotStarted::DiskFailed } else { NotStarted::TryAgain }
        })
    }

    /// As the registry does: a directory that a crash left half-made is taken over.
    fn open(
        &self,
        env: &LogEnv,
        partition: usize,
        clean: bool,
        stage: &mut Stage,
    ) -> Result<Log, NotStarted> {
        let id = partition_id(partition);
        let dir = PathBuf::from(DATA).join(id.to_string());
        let config = LogConfig {
            segment_bytes: stage.setup.segment_bytes,
            index_interval_bytes: 700,
            write_mode: WriteMode::Write,
            window_min: 4096,
            window_max: 16 * 1024,
            checkpoint_bytes: stage.setup.checkpoint_bytes,
            ..LogConfig::default()
        };
        let failed = |error: &LogError, stage: &mut Stage| {
            stage.say(format_args!("b{} p{partition} not opened: {error}", self.number));
            NotStarted::TryAgain
        };
        if env.disk.list(&dir).is_ok() {
            let wall = self.machine.wall(stage.now());
            match Log::open(env.clone(), dir.clone(), config.clone(), clean, wall) {
                Ok((log, report)) => {
                    if report.cut.is_some() {
                        stage.note(Fact::TornTail);
                    }
                    if let Some(damage) = report.damage {
                        stage.fail(format!("S14: b{} p{partition}: {damage}", self.number));
                    }
                    return Ok(log);
                }
                Err(LogError::NoMeta { has_segments: false, .. }) => {}
                Err(error) => return Err(failed(&error, stage)),
            }
        }
        let meta = PartitionMeta { partition: id, topic_name: topic().0 };
        Log::create(env.clone(), dir, &meta, config).map_err(|error| failed(&error, stage))
    }

    /// Hands something to the process, if it is the one that is meant.
    pub fn with_process(
        &mut self,
        stage: &mut Stage,
        f: impl FnOnce(&mut Process<R>, &mut Machine, &mut Stage),
    ) {
        if let Some(process) = &mut self.process {
            process.works.takes_us = self.machine.work_us;
            f(process, &mut self.machine, stage);
        }
    }

    /// A process whose directory has failed can do nothing any more.
    pub fn has_failed(&self) -> bool {
        self.process.as_ref().is_some_and(Process::has_failed)
    }

    /// A process that another run has replaced is not heard any more.
    pub fn is_replaced(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_replaced)
    }

    /// The process stops in order: whether all its logs were closed.
    pub fn stop_in_order(&mut self, stage: &mut Stage) {
        let mut closed = false;
        self.with_process(stage, |process, machine, stage| {
            closed = process.close(machine, stage);
        });
        self.machine.is_clean = closed;
        self.process = None;
        self.machine.kill();
    }
}

impl<R: Rules> Process<R> {
    /// The regular look at things.
    pub fn tick(&mut self, machine: &mut Machine, stage: &mut Stage) {
        self.look_at_quorum(machine, stage);
        let every = stage.setup.lag_time_max / 10;
        stage.schedule.after(every, stage::Event::Tick { at: self.end });
        let Node::Broker(number) = self.end.node else { return };
        let body = match self.epoch {
            None => Body::Join { incarnation: self.incarnation, whole_since: machine.whole_since },
            Some(epoch) if self.leaves => Body::Leave { epoch },
            Some(epoch) => self.heartbeat(epoch),
        };
        if let Some(controller) = self.controller() {
            stage.send(self.end.node, controller, body);
            if let (Some(epoch), true) = (self.epoch, self.leaves) {
                let heartbeat = self.heartbeat(epoch);
                stage.send(self.end.node, controller, heartbeat);
            }
        }
        if self.begun {
            self.each(machine, stage, Shell::tick);
        }
        if self.leaves && self.leads_nothing(broker_id(number)) {
            let mut handed_on = false;
            self.in_quorum(machine, stage, |member, stage| handed_on = member.hand_on(stage));
            if handed_on {
                return;
            }
            stage.schedule.after(Duration::ZERO, stage::Event::StopNow { at: self.end });
        }
    }

    fn heartbeat(&self, epoch: BrokerEpoch) -> Body {
        let copies = self.shells.iter().map(Shell::extent).collect();
        Body::Heartbeat { epoch, applied: self.image.offset(), copies, leaves: self.leaves }
    }

    fn leads_nothing(&self, me: BrokerId) -> bool {
        let mut partitions = (0..self.shells.len()).map(partition_id);
        partitions.all(|id| self.image.partition(id).is_none_or(|p| p.leader != Some(me)))
    }

    /// Takes a message.
    pub fn hear(&mut self, envelope: Envelope, machine: &mut Machine, stage: &mut Stage) {
        let Envelope { from, on, body, .. } = envelope;
        match body {
            Body::Joined { incarnation, epoch }
                if incarnation == self.incarnation && self.epoch.is_none() =>
            {
                self.epoch = Some(epoch);
                machine.whole_since = Some(epoch);
                self.begin(machine, stage);
            }
            Body::Metadata(image) => self.follow(image, None, machine, stage),
            Body::Quorum { message } => {
                self.in_quorum(machine, stage, |member, _| member.node().receive(&message));
            }
            body @ (Body::Join { .. }
            | Body::Heartbeat { .. }
            | Body::Propose { .. }
            | Body::Enlist { .. }
            | Body::Identify { .. }) => self.hear_for_controller(from, body, machine, stage),
            body if self.begun => match (body, on) {
                (Body::Refused { partition, leader_epoch, partition_epoch }, _) => {
                    let refused = Event::IsrRefused { leader_epoch, partition_epoch };
                    self.one(partition, machine, stage, |shell, around| {
                        shell.feed(refused, around);
                    });
                }
                (Body::Ask { partition }, _) => self.say_who_leads(partition, from, stage),
                (Body::Fetch { partition, from: offset }, _) => {
                    self.fetch(partition, offset, from, stage);
                }
                (body, Some(on)) => self.hear_on(on, body, machine, stage),
                _ => {}
            },
            _ => {}
        }
    }

    /// Something for the controller: it is here, or a client has to be passed on.
    fn hear_for_controller(
        &mut self,
        from: Node,
        body: Body,
        machine: &mut Machine,
        stage: &mut Stage,
    ) {
        let leads = self.member.as_ref().is_some_and(|member| member.leads().is_some());
        match (leads, from, self.controller()) {
            (true, ..) => {
                self.in_quorum(machine, stage, |member, stage| member.hear(from, body, stage));
            }
            (false, Node::Client(_), Some(leader)) => stage.send(self.end.node, leader, body),
            // Brokers ask again, whoever leads by then.
            _ => {}
        }
    }

    fn hear_on(&mut self, on: Connection, body: Body, machine: &mut Machine, stage: &mut Stage) {
        match body {
            Body::Subscribe { partition, subscribe } => {
                self.one(partition, machine, stage, |s, a| s.subscribed(on, subscribe, a));
            }
            Body::Ack { partition, ack } => {
                self.one(partition, machine, stage, |s, a| s.acked(on, ack, a));
            }
            Body::Unsubscribed { partition, follower, session } => {
                self.one(partition, machine, stage, |s, a| s.unsubscribed(follower, session, a));
            }
            Body::Frame { partition, frame, batches } => {
                self.one(partition, machine, stage, |s, a| s.leader_says(frame, batches, a));
            }
            Body::Ended { partition, session } => {
                self.one(partition, machine, stage, |s, a| s.leader_ended(session, a));
            }
            Body::Produce { partition, correlation_id, batch, acks, leader_epoch } => {
                self.one(partition, machine, stage, |s, a| {
                    s.produce((on, correlation_id), batch, acks, leader_epoch, a);
                });
            }
            _ => {}
        }
    }

    /// A connection is gone.
    pub fn lost(&mut self, connection: Connection, machine: &mut Machine, stage: &mut Stage) {
        self.uplinks.retain(|_, uplink| *uplink != connection);
        if self.begun {
            self.each(machine, stage, |shell, around| shell.connection_lost(connection, around));
        }
    }

    /// Slow work is over.
    pub fn work_done(&mut self, work: u64, machine: &mut Machine, stage: &mut Stage) {
        if let Some(piece) = self.works.take(work) {
            self.one(piece.partition, machine, stage, |shell, around| {
                shell.work_done(piece, around);
            });
        }
    }

    /// Newer metadata, be it the next or much later: what lies between is the difference.
    pub fn follow(
        &mut self,
        image: Arc<MetadataImage>,
        deltas: Option<Vec<Delta>>,
        machine: &mut Machine,
        stage: &mut Stage,
    ) {
        if image.offset() <= self.image.offset() {
            return;
        }
        let before = std::mem::replace(&mut self.image, Arc::clone(&image));
        if !self.begun {
            return self.begin(machine, stage);
        }
        let deltas = deltas.unwrap_or_else(|| Delta::between(&before, &image));
        for delta in &deltas {
            if let Delta::BrokerRegistered(broker) = delta {
                let standing = standing(broker);
                self.each(machine, stage, |s, a| s.feed(Event::Broker(standing), a));
            }
        }
        self.configure(machine, stage);
        for delta in deltas {
            if let Delta::PartitionChanged { partition, state } = delta {
                let at = partition.partition.get() as usize;
                let registration = registration(&state);
                self.one(at, machine, stage, |s, a| s.registered(registration, a));
            }
        }
    }

    /// Takes part, once it is registered and knows the metadata from its registration on.
    fn begin(&mut self, machine: &mut Machine, stage: &mut Stage) {
        let Some(epoch) = self.epoch else { return };
        if i64::try_from(self.image.offset().get()).is_ok_and(|at| at < epoch.get()) {
            return;
        }
        self.begun = true;
        let image = Arc::clone(&self.image);
        for shell in &mut self.shells {
            shell.begin(epoch);
        }
        for broker in image.brokers() {
            let standing = standing(broker);
            self.each(machine, stage, |s, a| s.feed(Event::Broker(standing), a));
        }
        self.configure(machine, stage);
        for at in 0..self.shells.len() {
            if let Some(state) = image.partition(partition_id(at)) {
                let registration = registration(state);
                self.one(at, machine, stage, |s, a| s.registered(registration, a));
            }
        }
    }

    /// The topic's durability, as it is configured now.
    fn configure(&mut self, machine: &Machine, stage: &mut Stage) {
        let known = self.image.topic_by_id(topic().1);
        let durability = match known.and_then(|topic| topic.configs.get(DURABILITY)) {
            Some(durability) if durability == "disk" => Durability::Disk,
            Some(_) => Durability::Memory,
            None => stage.setup.durability,
        };
        for at in 0..self.shells.len() {
            if self.shells[at].replica.durability() != durability {
                stage.note(Fact::DurabilityChanged);
                self.one(at, machine, stage, |shell, around| {
                    shell.feed(Event::DurabilityChanged(durability), around);
                });
            }
        }
    }

    fn say_who_leads(&self, partition: usize, to: Node, stage: &mut Stage) {
        if let Some(state) = self.image.partition(partition_id(partition)) {
            let (leader, epoch) = (state.leader, state.leader_epoch);
            stage.send(self.end.node, to, Body::Leader { partition, leader, epoch });
        }
    }

    /// Reads what is committed, as far as this replica knows. S12: nothing else is ever shown.
    fn fetch(&self, partition: usize, from: Offset, to: Node, stage: &mut Stage) {
        let Some(shell) = self.shells.get(partition) else { return };
        let read = self.read(shell, from);
        if let Ok(batches) = &read {
            let leads = shell.replica.leads().is_some();
            for batch in batches {
                stage.note(if leads { Fact::Read } else { Fact::ReadFromFollower });
                let Some(entry) = Entry::of_batch(batch) else { continue };
                let committed = stage.ledgers[partition].committed();
                if committed.between(entry.base, entry.end) != [entry] {
                    let at = self.end;
                    stage.fail(format!("S12: {at:?} shows what is not committed: {entry:?}"));
                }
            }
        }
        stage.send(self.end.node, to, Body::Fetched { partition, from, read });
    }

    fn read(&self, shell: &Shell<R>, from: Offset) -> Result<Vec<bytes::Bytes>, Readable> {
        let (start, end) = (shell.log.log_start_offset(), shell.replica.high_watermark());
        let serves =
            shell.replica.leads().is_some() || shell.replica.position_for_leader().is_some();
        if !serves || from > end {
            return Err(Readable::NotHere);
        }
        if from < start {
            return Err(Readable::OutOfRange { start, end });
        }
        let read = match shell.log.reader().read(from, end, FETCH_BYTES) {
            Ok(Read::Batches(batches)) => Ok(batches),
            Ok(Read::Cold(cold)) => cold.run(),
            Ok(Read::Empty) => return Ok(Vec::new()),
            Err(error) => Err(error),
        };
        read.map(|read| read.batches).map_err(|_| Readable::NotHere)
    }

    /// Closes all logs; whether all of it went well.
    fn close(&mut self, machine: &mut Machine, stage: &mut Stage) -> bool {
        self.each(machine, stage, Shell::close);
        // What is under way is waited for.
        for piece in self.works.take_all() {
            self.one(piece.partition, machine, stage, |shell, around| {
                shell.work_done(piece, around);
            });
        }
        let closed: Vec<bool> = self.shells.iter_mut().map(Shell::finish).collect();
        closed.into_iter().all(|went_well| went_well)
    }

    /// Does something in one shell.
    pub fn one(
        &mut self,
        partition: usize,
        machine: &Machine,
        stage: &mut Stage,
        f: impl FnOnce(&mut Shell<R>, &mut Around<'_>),
    ) {
        let (wall, controller) = (machine.wall(stage.now()), self.controller());
        let Self { shells, works, uplinks, end, .. } = self;
        let mut around = Around { stage, me: *end, works, uplinks, wall, controller };
        if let Some(shell) = shells.get_mut(partition) {
            f(shell, &mut around);
        }
    }

    fn each(
        &mut self,
        machine: &Machine,
        stage: &mut Stage,
        f: impl Fn(&mut Shell<R>, &mut Around<'_>),
    ) {
        for partition in 0..self.shells.len() {
            self.one(partition, machine, stage, &f);
        }
    }

    /// Whether its directory has failed: it can do nothing any more.
    pub fn has_failed(&self) -> bool {
        self.failure.is_failed()
    }

    /// Whether a later run is known in its place: a join that was long on its way came after its own.
    pub fn is_replaced(&self) -> bool {
        let Node::Broker(broker) = self.end.node else { return false };
        let known = self.image.broker(broker_id(broker)).map(|known| known.epoch);
        self.epoch.is_some_and(|ours| known.is_some_and(|known| known > ours))
    }

    /// The registration of this run.
    pub fn epoch(&self) -> Option<BrokerEpoch> {
        self.epoch
    }
}

fn standing(broker: &riverrun_broker::metadata::Broker) -> BrokerStanding {
    let may_join = broker.presence == Presence::Active;
    BrokerStanding { broker: broker.id, epoch: broker.epoch, may_join }
}

fn registration(partition: &Partition) -> Registration {
    Registration {
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        replicas: partition.replicas.clone(),
        isr: partition.isr.clone(),
        min_isr: partition.min_isr,
    }
}
