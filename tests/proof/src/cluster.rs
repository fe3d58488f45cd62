//! A partition, its replicas and its controller, with everything that can go wrong between them.
//!
//! All decisions are the broker's own code: [`Replica::step`] and [`Decision`]. This file only keeps
//! what is outside of them: logs that lose their ends, a network that loses, delays, doubles and
//! reorders, metadata that arrives late and merged, processes that die, a controller that fences,
//! elects and reassigns whenever it likes. And it keeps what nobody in there knows: what has been
//! committed, and whether that is still so.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch},
    epoch_history::{EpochHistory, EpochStart},
    ids::BrokerId,
    offset::Offset,
};

use crate::{
    metadata::{
        self, Decision, Departure, IsrChange, Partition, Presence, Standing, Standings,
        decision::IsrRejection,
    },
    replica::{
        self, Action, BrokerStanding, Durability, Event, IsrProposal, Limits, Registration,
        Replica,
        frame::{Ack, DataHead, LeaderFrame, Subscribe},
    },
};

/// Brokers.
pub const N: usize = 3;

/// A leader's log passes this much time without news at a [`Lapse`](crate::model::Step::Lapse), in
/// four ticks.
const LAPSE: Duration = Duration::from_millis(45);
const LIMITS: Limits = Limits { lag_time_max: Duration::from_millis(100), lag_bytes_max: u64::MAX };

/// One record: who leads when it was written, and a value that no other write has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    pub epoch: LeaderEpoch,
    pub value: u8,
}

/// A version of what the metadata log says about the partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    pub partition: Partition,
    pub runs: [BrokerEpoch; N],
}

/// The controller's view of brokers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Brokers(pub [Standing; N]);

impl Standings for Brokers {
    fn standing(&self, broker: BrokerId) -> Option<Standing> {
        self.0.get(broker.0 as usize).copied()
    }
}

/// One broker's copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node<R: replica::Rules> {
    pub up: bool,
    /// Lost records since it last registered: the controller does not know yet.
    pub lossy: bool,
    pub run: BrokerEpoch,
    pub log: Vec<Record>,
    /// Which [`Version`] it has applied.
    pub seen: usize,
    pub replica: Replica<R>,
}

/// What is under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    Subscribe { to: usize, subscribe: Subscribe },
    Ack { to: usize, ack: Ack },
    Data { to: usize, head: DataHead, records: Vec<Record> },
    Frame { to: usize, frame: LeaderFrame },
    Propose(IsrProposal),
    Refuse { to: usize, leader_epoch: LeaderEpoch, partition_epoch: i32 },
}

/// What holds for all of one search.
#[derive(Debug, Clone, Copy)]
pub struct Setup<R, C> {
    pub replica_rules: R,
    pub controller_rules: C,
    pub durability: Durability,
    pub min_isr: u32,
    /// How many of the brokers have a copy at first.
    pub replicas: usize,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cluster<R: replica::Rules> {
    pub now: Duration,
    pub versions: Vec<Arc<Version>>,
    pub brokers: Brokers,
    pub nodes: [Arc<Node<R>>; N],
    pub network: BTreeSet<Message>,
    pub next_value: u8,
    pub next_run: i64,
    /// Faults and orders so far, to bound them.
    pub restarts: u8,
    pub orders: u8,
    pub lapses: u8,
    /// What has been committed, ever since the last unclean election.
    pub committed: Vec<Record>,
    /// Leaders of earlier epochs than this have no say any more in what is committed.
    pub era: LeaderEpoch,
    /// An unclean election, whose leader has yet to hear of it.
    pub era_begins: bool,
    /// Who led in which epoch, and in which run.
    pub terms: Vec<(LeaderEpoch, usize, BrokerEpoch)>,
    /// What was seen to go wrong in the last transition.
    pub fault: Option<&'static str>,
}

pub fn at(n: usize) -> Offset {
    i64::try_from(n).ok().and_then(Offset::new).expect("logs of the model are short")
}

pub fn index(offset: Offset) -> usize {
    usize::try_from(offset.get()).expect("logs of the model are short")
}

pub fn id(node: usize) -> BrokerId {
    BrokerId(u32::try_from(node).expect("few brokers"))
}

fn run(n: i64) -> BrokerEpoch {
    BrokerEpoch::new(n).expect("not negative")
}

/// The history that the batches of a log tell.
pub fn derived(log: &[Record]) -> EpochHistory {
    let entry = |(i, record): (usize, &Record)| EpochStart { epoch: record.epoch, start: at(i) };
    log.iter().enumerate().map(entry).collect()
}

impl<R: replica::Rules> Cluster<R> {
    pub fn new<C>(setup: &Setup<R, C>) -> Self {
        let replicas = (0..setup.replicas).map(id).collect();
        let partition = Partition::new(replicas, setup.min_isr);
        let runs = [run(1), run(2), run(3)];
        let node = |i: usize| Node {
            up: true,
            lossy: false,
            run: runs[i],
            log: Vec::new(),
            seen: 0,
            replica: blank(setup, i, runs[i], &[], 0),
        };
        let mut cluster = Self {
            now: Duration::ZERO,
            versions: vec![Arc::new(Version { partition, runs })],
            brokers: Brokers(runs.map(|epoch| Standing { epoch, presence: Presence::Active })),
            nodes: [node(0), node(1), node(2)].map(Arc::new),
            network: BTreeSet::new(),
            next_value: 1,
            next_run: 4,
            restarts: 0,
            orders: 0,
            lapses: 0,
            committed: Vec::new(),
            era: LeaderEpoch::ZERO,
            era_begins: false,
            terms: Vec::new(),
            fault: None,
        };
        for i in 0..N {
            cluster.apply(i, 0);
        }
        for i in 1..setup.replicas {
            if let Some((leader, Err(subscribe))) = cluster.node(i).replica.position_for_leader() {
                cluster.answer(leader.0 as usize, id(i), Event::Subscribe(subscribe), true);
            }
        }
        cluster
    }

    pub fn partition(&self) -> &Partition {
        &self.versions.last().expect("there is always one").partition
    }

    pub fn node(&self, i: usize) -> &Node<R> {
        &self.nodes[i]
    }

    fn node_mut(&mut self, i: usize) -> &mut Node<R> {
        Arc::make_mut(&mut self.nodes[i])
    }

    fn fail(&mut self, what: &'static str) {
        self.fault.get_or_insert(what);
    }

    /// Feeds one replica and carries out what it says, but for what it wants to send: that is
    /// returned.
    pub(crate) fn feed(&mut self, i: usize, event: Event) -> Vec<Action> {
        let now = self.now;
        let before = self.node(i).replica.high_watermark();
        let mut actions = Vec::new();
        self.node_mut(i).replica.step(now, event, &mut actions);
        for action in &actions {
            match action {
                Action::Truncate { to } => {
                    if *to < before && self.era == LeaderEpoch::ZERO {
                        self.fail("S9: truncated below the high watermark");
                    }
                    self.node_mut(i).log.truncate(index(*to));
                }
                Action::Restart { at } => {
                    if index(*at) != 0 {
                        self.fail("model: nothing is ever deleted, so nobody starts anywhere else");
                    }
                    self.node_mut(i).log.clear();
                }
                Action::StartEpoch { epoch, .. } => self.begin_term(i, *epoch),
                Action::AdvanceHighWatermark(end) => self.commit(i, index(*end)),
                Action::Acknowledge(end) => {
                    let led = self.node(i).replica.leads();
                    if index(*end) > self.committed.len() && led >= Some(self.era) {
                        self.fail("S4: acknowledged what is not committed");
                    }
                }
                Action::ProposeIsr(proposal) => {
                    self.network.insert(Message::Propose(proposal.clone()));
                }
                _ => {}
            }
        }
        actions
    }

    /// S7: an epoch is led once, by one run of one broker.
    fn begin_term(&mut self, i: usize, epoch: LeaderEpoch) {
        let term = (epoch, i, self.node(i).run);
        match self.terms.iter().find(|(led, ..)| *led == epoch) {
            Some(known) if *known != term => self.fail("S7: an epoch is led twice"),
            Some(_) => {}
            None => self.terms.push(term),
        }
        if epoch >= self.era && self.era_begins {
            self.era_begins = false;
            let node = self.node(i);
            self.committed = node.log[..index(node.replica.high_watermark())].to_vec();
        }
    }

    /// S4, S6, S12: what a leader commits is what was committed; followers show nothing else.
    fn commit(&mut self, i: usize, end: usize) {
        let node = Arc::clone(&self.nodes[i]);
        let Some(epoch) = node.replica.leads() else {
            let follows = node.replica.registration().map(|r| r.leader_epoch);
            if end > self.committed.len() && follows >= Some(self.era) {
                self.fail("S12: a follower shows what is not committed");
            }
            return;
        };
        let registration = node.replica.registration().expect("a leader has one");
        if registration.isr.len() < registration.effective_min_isr() {
            self.fail("S6: committed below min.insync.replicas");
        }
        if epoch < self.era {
            return;
        }
        for (offset, record) in node.log[..end].iter().enumerate() {
            match self.committed.get(offset) {
                Some(known) if known != record => self.fail("S4: what was committed has changed"),
                Some(_) => {}
                None => self.committed.push(*record),
            }
        }
    }

    // === Brokers ===

    pub fn write(&mut self, i: usize) {
        let epoch = self.node(i).replica.leads().expect("only leaders write");
        let value = self.next_value;
        self.next_value += 1;
        self.node_mut(i).log.push(Record { epoch, value });
        let log_end = at(self.node(i).log.len());
        self.feed(i, Event::Appended { log_end, bytes: 0 });
    }

    pub fn flush(&mut self, i: usize) {
        let flushed_end = at(self.node(i).log.len());
        self.feed(i, Event::Flushed { flushed_end });
    }

    /// A broker applies all up to a version, of which it sees the sum.
    pub fn apply(&mut self, i: usize, version: usize) {
        let Version { partition, runs } = &*Arc::clone(&self.versions[version]);
        self.node_mut(i).seen = version;
        for (broker, epoch) in runs.iter().enumerate() {
            // Whether it may join is for the controller to judge: here everybody always may.
            let standing = BrokerStanding { broker: id(broker), epoch: *epoch, may_join: true };
            self.feed(i, Event::Broker(standing));
        }
        self.feed(i, Event::Registered(registration(partition)));
    }

    /// Time passes for one leader, and nobody says anything meanwhile.
    pub fn lapse(&mut self, i: usize) {
        self.lapses += 1;
        for _ in 0..4 {
            self.now += LAPSE;
            self.feed(i, Event::Tick);
        }
    }

    /// The process dies, and of the log `keep` records survive.
    pub fn crash(&mut self, i: usize, keep: usize) {
        self.restarts += 1;
        let node = self.node_mut(i);
        node.lossy = keep < node.log.len();
        node.up = false;
        node.log.truncate(keep);
        self.network.retain(|message| match message {
            Message::Data { to, .. } | Message::Frame { to, .. } => *to != i,
            _ => true,
        });
    }

    /// It is back and registers; whether it claims that its log lost nothing.
    pub fn register<C: metadata::Rules>(&mut self, setup: &Setup<R, C>, i: usize, whole: bool) {
        let epoch = run(self.next_run);
        self.next_run += 1;
        self.brokers.0[i] = Standing { epoch, presence: Presence::Active };
        let how = if whole { Departure::RestartedWhole } else { Departure::RestartedUnproven };
        let partition = self.partition().clone();
        let next = self.decide(setup, |decision| {
            let departed = decision.depart(&partition, id(i), how);
            let left = departed.clone().unwrap_or_else(|| partition.clone());
            decision.arrive(&left, id(i)).or(departed)
        });
        self.push(next.unwrap_or(partition));
        let keep = self.node(i).log.clone();
        let hw = index(self.node(i).replica.high_watermark());
        let replica = blank(setup, i, epoch, &keep, hw);
        let node = self.node_mut(i);
        (node.up, node.lossy, node.run, node.replica) = (true, false, epoch, replica);
        self.apply(i, self.versions.len() - 1);
    }

    // === The controller ===

    fn decide<C: metadata::Rules, T>(
        &self,
        setup: &Setup<R, C>,
        f: impl FnOnce(Decision<'_, Brokers, C>) -> T,
    ) -> T {
        f(Decision { standings: &self.brokers, rules: setup.controller_rules })
    }

    /// S7, S8: versions only grow, and are what a registration must be.
    fn push(&mut self, next: Partition) {
        let old = self.partition().clone();
        if next != old {
            if next.partition_epoch <= old.partition_epoch || next.leader_epoch < old.leader_epoch {
                self.fail("S7: an epoch went back");
            }
            if next.leader != old.leader && next.leader_epoch == old.leader_epoch {
                self.fail("S7: another leader in the same epoch");
            }
            if next.violation().is_some() {
                self.fail("S8: not a registration");
            }
            let added = next.isr.iter().filter(|member| !old.isr.contains(member));
            if added.into_iter().any(|member| {
                self.brokers.standing(*member).is_none_or(|s| s.presence != Presence::Active)
            }) {
                self.fail("S8: a broker that is not there joined the ISR");
            }
        }
        let runs = self.brokers.0.map(|standing| standing.epoch);
        self.versions.push(Arc::new(Version { partition: next, runs }));
    }

    fn change(&mut self, next: Option<Partition>) -> bool {
        let changes = next.is_some();
        if let Some(next) = next {
            self.push(next);
        }
        changes
    }

    pub fn fence<C: metadata::Rules>(&mut self, setup: &Setup<R, C>, i: usize, how: Departure) {
        self.orders += 1;
        self.brokers.0[i].presence = match how {
            Departure::Leaving => Presence::Leaving,
            _ => Presence::Fenced,
        };
        let next = self.decide(setup, |decision| decision.depart(self.partition(), id(i), how));
        self.change(next);
    }

    pub fn unfence<C: metadata::Rules>(&mut self, setup: &Setup<R, C>, i: usize) {
        self.brokers.0[i].presence = Presence::Active;
        let next = self.decide(setup, |decision| decision.arrive(self.partition(), id(i)));
        self.change(next);
    }

    /// Hands leadership over to a member of the ISR.
    pub fn elect<C: metadata::Rules>(&mut self, setup: &Setup<R, C>, i: usize) -> bool {
        self.orders += 1;
        let next = self.decide(setup, |decision| decision.hand_over(self.partition(), id(i)));
        self.change(next)
    }

    /// Somebody gives up what may be lost. What the new leader takes for committed when its term
    /// begins is what is committed now, and only leaders from here on have a say.
    pub fn elect_uncleanly<C: metadata::Rules>(&mut self, setup: &Setup<R, C>, i: usize) -> bool {
        self.orders += 1;
        let next = self.decide(setup, |decision| decision.elect_unclean(self.partition(), id(i)));
        if let Some(next) = &next {
            self.era = next.leader_epoch;
            self.era_begins = true;
            self.committed.clear();
        }
        self.change(next)
    }

    pub fn reassign<C: metadata::Rules>(&mut self, setup: &Setup<R, C>, to: &[usize]) -> bool {
        self.orders += 1;
        let to: Vec<_> = to.iter().map(|i| id(*i)).collect();
        let next = self.decide(setup, |decision| decision.reassign(self.partition(), &to));
        self.change(next.ok())
    }

    pub fn cancel<C: metadata::Rules>(&mut self, setup: &Setup<R, C>) -> bool {
        self.orders += 1;
        let next = self.decide(setup, |decision| decision.cancel_reassignment(self.partition()));
        self.change(next.ok())
    }

    // === The network ===

    /// What a follower has to say now, and to whom.
    pub fn says(&self, i: usize) -> Option<Message> {
        let (leader, says) = self.node(i).replica.position_for_leader()?;
        let to = leader.0 as usize;
        Some(match says {
            Ok(ack) => Message::Ack { to, ack },
            Err(subscribe) => Message::Subscribe { to, subscribe },
        })
    }

    /// The next record for a follower, from `base`.
    pub fn pushes(&self, leader: usize, follower: usize, base: usize) -> Option<Message> {
        let node = self.node(leader);
        let head = node.replica.data_head(id(follower), at(base), at(base + 1))?;
        let records = vec![node.log[base]];
        Some(Message::Data { to: follower, head, records })
    }

    /// A follower hears how far the log is committed.
    pub fn share(&mut self, leader: usize, follower: usize) {
        if let Some(progress) = self.node(leader).replica.progress(id(follower))
            && self.node(follower).up
        {
            self.feed(follower, Event::Leader(LeaderFrame::Progress(progress)));
        }
    }

    /// A message arrives. Whoever sends it may still have it and send it again.
    pub fn deliver<C: metadata::Rules>(
        &mut self,
        setup: &Setup<R, C>,
        message: Message,
        room: bool,
    ) {
        match message {
            Message::Subscribe { to, subscribe } => {
                self.answer(to, subscribe.0.follower, Event::Subscribe(subscribe), room);
            }
            Message::Ack { to, ack } => self.answer(to, ack.0.follower, Event::Ack(ack), room),
            Message::Data { to, head, records } => {
                if !self.node(to).up {
                    return;
                }
                let actions = self.feed(to, Event::Leader(LeaderFrame::Data(head.clone())));
                if actions.contains(&Action::Append) {
                    self.node_mut(to).log.extend(records);
                    self.feed(to, Event::Replicated(head));
                }
            }
            Message::Frame { to, frame } => {
                if self.node(to).up {
                    self.feed(to, Event::Leader(frame));
                }
            }
            Message::Propose(proposal) => self.judge(setup, proposal),
            Message::Refuse { to, leader_epoch, partition_epoch } => {
                if self.node(to).up {
                    let partition_epoch =
                        riverrun_proto::epoch::PartitionEpoch::new(partition_epoch)
                            .expect("it was one");
                    self.feed(to, Event::IsrRefused { leader_epoch, partition_epoch });
                }
            }
        }
    }

    /// What a leader answers. That logs part may reach the follower late; all else at once or never,
    /// for it is said again whenever asked.
    fn answer(&mut self, to: usize, follower: BrokerId, event: Event, room: bool) {
        if !self.node(to).up {
            return;
        }
        let follower = follower.0 as usize;
        for action in self.feed(to, event) {
            match action {
                Action::Reply { frame: frame @ LeaderFrame::Diverging(_), .. } if room => {
                    self.network.insert(Message::Frame { to: follower, frame });
                }
                Action::Reply { frame: LeaderFrame::Diverging(_), .. } => {}
                Action::Reply { frame, .. } if self.node(follower).up => {
                    self.feed(follower, Event::Leader(frame));
                }
                Action::Serve { .. } => self.share(to, follower),
                _ => {}
            }
        }
    }

    fn judge<C: metadata::Rules>(&mut self, setup: &Setup<R, C>, proposal: IsrProposal) {
        let IsrProposal { leader, broker_epoch, leader_epoch, partition_epoch, isr } = proposal;
        let change = IsrChange { leader, broker_epoch, leader_epoch, partition_epoch, isr };
        match self.decide(setup, |decision| decision.alter_isr(self.partition(), &change)) {
            Ok(next) => self.push(next),
            Err(IsrRejection::Ineligible(_)) => {
                let partition_epoch = partition_epoch.get();
                let to = leader.0 as usize;
                self.network.insert(Message::Refuse { to, leader_epoch, partition_epoch });
            }
            Err(_) => {}
        }
    }
}

fn blank<R: replica::Rules, C>(
    setup: &Setup<R, C>,
    i: usize,
    epoch: BrokerEpoch,
    log: &[Record],
    high_watermark: usize,
) -> Replica<R> {
    let ends = (at(0), at(log.len()), at(high_watermark));
    Replica::with_rules(setup.replica_rules, id(i), setup.durability, ends)
        .running_as(epoch)
        .with_epochs(derived(log))
        .with_limits(LIMITS)
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
