//! The controller: who is there, and what is to be written into the metadata log because of it.
//!
//! Shipped code: every decision, for it is taken where a command is applied. The simulator's own:
//! sessions, and the choice of a leader by logs where no proof is left that anybody has all that is
//! committed. Those two are written as the product is to do it, for its timers do not exist yet.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use riverrun_broker::{
    metadata::{
        Command, Endpoint, FeatureLevel, FeatureRange, IsrChange, MetadataImage, MetadataOffset,
        Partition, Presence, ProducerIdBlock, Rejection, Reply, TopicConfigs,
        command::{
            AllocateProducerIds, AlterIsr, Choice, CreateTopic, ElectLeader, JoinBroker,
            RegisterBroker, SetFeatureLevel, SetPresence,
        },
        decision::IsrRejection,
    },
    replica::IsrProposal,
};
use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch},
    ids::{
        BrokerId, DirectoryId, IncarnationId, PartitionIndex, TopicId, TopicName, TopicPartition,
    },
};

use crate::{
    coverage::Fact,
    message::{Body, Extent, Node},
    metadata_log::{Applied, MetadataLog},
    setup::{BROKERS, SESSION_TIMEOUT},
    stage::{Event, Stage},
};

/// How often sessions are looked at.
const TICK: Duration = Duration::from_millis(50);

/// The one controller, which never dies: the metadata log is ideal.
#[derive(Debug)]
pub struct Controller {
    log: Box<dyn MetadataLog>,
    /// When each run of a broker was last heard of, and what it said.
    heard: BTreeMap<BrokerId, Heard>,
    /// Where each partition was last changed.
    changed_at: Vec<MetadataOffset>,
    /// What is to be answered when a command is applied.
    asked: BTreeMap<u64, Asked>,
    proposed: u64,
}

#[derive(Debug)]
struct Heard {
    epoch: BrokerEpoch,
    at: Duration,
    applied: MetadataOffset,
    copies: Vec<Extent>,
}

#[derive(Debug)]
enum Asked {
    Joined { broker: usize, incarnation: IncarnationId },
    Isr { partition: usize, leader_epoch: LeaderEpoch, partition_epoch: PartitionEpoch },
}

/// The topic of all runs.
pub fn topic() -> (TopicName, TopicId) {
    let name = TopicName::try_new("orders").expect("a legal name");
    (name, TopicId::from_bytes(&[7; 16]).expect("a legal id"))
}

/// One of its partitions.
pub fn partition_id(partition: usize) -> TopicPartition {
    let index = i32::try_from(partition).ok().and_then(PartitionIndex::from_wire);
    TopicPartition::new(topic().1, index.expect("few partitions"))
}

/// A broker's id; not its number, so that nobody takes one for the other.
pub fn broker_id(broker: usize) -> BrokerId {
    BrokerId(u32::try_from(broker).expect("few brokers") + 1)
}

/// A broker's number.
pub fn broker_number(id: BrokerId) -> usize {
    id.0 as usize - 1
}

impl Controller {
    /// With the topic made, and every broker registered in its first run, which it has yet to say.
    pub fn new(log: Box<dyn MetadataLog>, stage: &mut Stage) -> Self {
        let partitions = stage.setup.partitions;
        let mut controller = Self {
            log,
            heard: BTreeMap::new(),
            changed_at: vec![MetadataOffset::ZERO; partitions],
            asked: BTreeMap::new(),
            proposed: 0,
        };
        for (expected, level) in
            [(FeatureLevel::NONE, FeatureLevel::V1), (FeatureLevel::V1, FeatureLevel::V2)]
        {
            controller.propose(Command::SetFeatureLevel(SetFeatureLevel { expected, level }));
        }
        for broker in 0..BROKERS {
            let registration = registration(broker, first_incarnation(broker));
            controller.propose(Command::RegisterBroker(registration));
        }
        // The preferred leaders differ from partition to partition.
        let assignment = (0..partitions).map(|partition| {
            (0..BROKERS).map(|broker| broker_id((partition + broker) % BROKERS)).collect()
        });
        let (name, id) = topic();
        controller.propose(Command::CreateTopic(CreateTopic {
            name,
            id,
            assignment: assignment.collect(),
            configs: TopicConfigs::default(),
            min_isr: stage.setup.min_isr,
        }));
        controller.take_applied(stage);
        stage.schedule.after(TICK, Event::ControllerTick);
        controller
    }

    /// The newest image.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.log.image()
    }

    /// A partition as it is registered.
    pub fn partition(&self, partition: usize) -> Partition {
        self.image().partition(partition_id(partition)).expect("it is never deleted").clone()
    }

    /// The epoch of a broker's registration.
    pub fn epoch_of(&self, broker: usize) -> Option<BrokerEpoch> {
        self.image().broker(broker_id(broker)).map(|known| known.epoch)
    }

    /// An order of an operator.
    pub fn order(&mut self, command: Command, stage: &mut Stage) {
        self.propose(command);
        self.take_applied(stage);
    }

    /// A producer id nobody else has.
    pub fn producer_ids(&mut self, stage: &mut Stage) -> Option<ProducerIdBlock> {
        let image = self.image();
        let broker = image.brokers().next()?;
        self.proposed += 1;
        self.log.propose(
            self.proposed,
            Command::AllocateProducerIds(AllocateProducerIds {
                broker: broker.id,
                broker_epoch: broker.epoch,
                count: 1,
            }),
        );
        let mut ids = None;
        while let Some(applied) = self.log.applied() {
            if let Ok(Reply::ProducerIds(block)) = &applied.outcome {
                ids = Some(*block);
            }
            self.note(&applied, stage);
        }
        ids
    }

    /// Takes a message.
    pub fn hear(&mut self, from: Node, body: Body, stage: &mut Stage) {
        let Node::Broker(broker) = from else { return };
        match body {
            Body::Join { incarnation, whole_since } => {
                let registration = registration(broker, incarnation);
                let command = Command::JoinBroker(JoinBroker { registration, whole_since });
                let tag = self.propose(command);
                self.asked.insert(tag, Asked::Joined { broker, incarnation });
            }
            Body::Heartbeat { epoch, applied, copies } => {
                self.heartbeat(broker, epoch, applied, copies, stage);
            }
            Body::Leave { epoch } => self.stand(broker_id(broker), epoch, Presence::Leaving),
            Body::Propose { partition, proposal } => self.alter_isr(partition, proposal),
            _ => {}
        }
        self.take_applied(stage);
    }

    /// Looks at sessions, and at partitions that nobody leads.
    pub fn tick(&mut self, stage: &mut Stage) {
        stage.schedule.after(TICK, Event::ControllerTick);
        let now = stage.now();
        for broker in self.image().brokers() {
            let heard = self.heard.get(&broker.id).filter(|heard| heard.epoch == broker.epoch);
            let silent_since = heard.map_or(Duration::ZERO, |heard| heard.at);
            if broker.presence != Presence::Fenced
                && now.saturating_sub(silent_since) > SESSION_TIMEOUT
            {
                self.stand(broker.id, broker.epoch, Presence::Fenced);
            }
        }
        self.take_applied(stage);
        for partition in 0..self.changed_at.len() {
            self.elect_by_log(partition, stage);
        }
    }

    /// As another controller would begin: it knows nobody, and gives everybody a full session.
    pub fn forget_sessions(&mut self, now: Duration) {
        for heard in self.heard.values_mut() {
            heard.at = now;
            heard.copies.clear();
        }
    }

    fn heartbeat(
        &mut self,
        broker: usize,
        epoch: BrokerEpoch,
        applied: MetadataOffset,
        copies: Vec<Extent>,
        stage: &mut Stage,
    ) {
        let image = self.image();
        let Some(known) = image.broker(broker_id(broker)) else { return };
        if known.epoch != epoch {
            return;
        }
        let at = stage.now();
        let newer = |heard: &Heard| heard.epoch == epoch && heard.applied > applied;
        if self.heard.get(&known.id).is_some_and(newer) {
            return;
        }
        self.heard.insert(known.id, Heard { epoch, at, applied, copies });
        if applied < image.offset() {
            stage.send(Node::Controller, Node::Broker(broker), Body::Metadata(Arc::clone(&image)));
        }
        let caught_up = i64::try_from(applied.get()).is_ok_and(|applied| applied >= epoch.get());
        if known.presence == Presence::Fenced && caught_up {
            self.stand(known.id, epoch, Presence::Active);
        }
    }

    fn alter_isr(&mut self, partition: usize, proposal: IsrProposal) {
        let IsrProposal { leader, broker_epoch, leader_epoch, partition_epoch, isr } = proposal;
        let change = IsrChange { leader, broker_epoch, leader_epoch, partition_epoch, isr };
        let alter = AlterIsr { partition: partition_id(partition), change };
        let tag = self.propose(Command::AlterIsr(alter));
        self.asked.insert(tag, Asked::Isr { partition, leader_epoch, partition_epoch });
    }

    fn stand(&mut self, broker: BrokerId, broker_epoch: BrokerEpoch, presence: Presence) {
        self.propose(Command::SetPresence(SetPresence { broker, broker_epoch, presence }));
    }

    /// Where neither ISR nor ELR has anybody left, the log with the newest epoch, and of those the
    /// longest, has all that was committed if any has. So all replicas have to have said how far
    /// theirs goes, after they heard that nobody leads: until then a log may still change.
    fn elect_by_log(&mut self, partition: usize, stage: &mut Stage) {
        let state = self.partition(partition);
        if state.leader.is_some() || !state.isr.is_empty() || !state.elr.is_empty() {
            return;
        }
        let image = self.image();
        let said = state.replicas.iter().map(|id| {
            let (known, heard) = (image.broker(*id)?, self.heard.get(id)?);
            let current = known.presence == Presence::Active
                && heard.epoch == known.epoch
                && heard.applied >= self.changed_at[partition];
            let extent = heard.copies.get(partition).filter(|_| current)?;
            Some((extent.last_epoch, extent.log_end, std::cmp::Reverse(*id)))
        });
        let Some(said) = said.collect::<Option<Vec<_>>>() else { return };
        let Some((.., std::cmp::Reverse(best))) = said.into_iter().max() else { return };
        stage.note(Fact::ElectedByLog);
        self.propose(Command::ElectLeader(ElectLeader {
            partition: partition_id(partition),
            expected: state.partition_epoch,
            choice: Choice::Unclean(best),
        }));
        self.take_applied(stage);
    }

    fn propose(&mut self, command: Command) -> u64 {
        self.proposed += 1;
        self.log.propose(self.proposed, command);
        self.proposed
    }

    fn take_applied(&mut self, stage: &mut Stage) {
        while let Some(applied) = self.log.applied() {
            self.note(&applied, stage);
        }
    }

    /// Answers who asked, and tells everybody.
    fn note(&mut self, applied: &Applied, stage: &mut Stage) {
        let [before, after] = &applied.images;
        match (self.asked.remove(&applied.tag), &applied.outcome) {
            (Some(Asked::Joined { broker, incarnation }), Ok(Reply::BrokerEpoch(epoch))) => {
                let joined = Body::Joined { incarnation, epoch: *epoch };
                stage.send(Node::Controller, Node::Broker(broker), joined);
            }
            (
                Some(Asked::Isr { partition, leader_epoch, partition_epoch }),
                Err(Rejection::Isr(IsrRejection::Ineligible(_))),
            ) => {
                stage.note(Fact::IsrRefused);
                let leader = after.partition(partition_id(partition)).and_then(|p| p.leader);
                if let Some(leader) = leader {
                    let to = Node::Broker(broker_number(leader));
                    let refused = Body::Refused { partition, leader_epoch, partition_epoch };
                    stage.send(Node::Controller, to, refused);
                }
            }
            _ => {}
        }
        if applied.outcome.is_err() {
            return;
        }
        stage.is_dirty = true;
        if let Some(what) = after.violation() {
            stage.fail(format!("S8: {what}"));
        }
        for partition in 0..self.changed_at.len() {
            let id = partition_id(partition);
            if let (Some(was), Some(is)) = (before.partition(id), after.partition(id))
                && was != is
            {
                self.changed_at[partition] = after.offset();
                count_changes(was, is, stage);
                stage.say(format_args!(
                    "p{partition} is now {} {} led by {:?}, isr {:?} elr {:?}",
                    is.partition_epoch, is.leader_epoch, is.leader, is.isr, is.elr
                ));
            }
        }
        for broker in 0..BROKERS {
            let metadata = Body::Metadata(Arc::clone(after));
            stage.send(Node::Controller, Node::Broker(broker), metadata);
        }
    }
}

fn count_changes(was: &Partition, is: &Partition, stage: &mut Stage) {
    let grown = is.isr.iter().any(|id| !was.isr.contains(id));
    let shrunk = was.isr.iter().any(|id| !is.isr.contains(id));
    let from_elr = is.leader.is_some_and(|id| was.elr.contains(&id));
    for (fact, is_so) in [
        (Fact::Election, is.leader.is_some() && is.leader_epoch != was.leader_epoch),
        (Fact::ElectedFromElr, from_elr),
        (Fact::IsrGrew, grown),
        (Fact::IsrShrunk, shrunk),
    ] {
        if is_so {
            stage.note(fact);
        }
    }
}

/// The run in which a broker was registered before it ever ran.
fn first_incarnation(broker: usize) -> IncarnationId {
    incarnation(broker, 0)
}

/// Names a run of a broker.
pub fn incarnation(broker: usize, run: u32) -> IncarnationId {
    let mut bytes = [9; 16];
    bytes[0] = u8::try_from(broker).expect("few brokers");
    bytes[1..5].copy_from_slice(&run.to_be_bytes());
    IncarnationId::from_bytes(&bytes).expect("not nil")
}

fn registration(broker: usize, incarnation: IncarnationId) -> RegisterBroker {
    let directory = [u8::try_from(broker).expect("few brokers") + 1; 16];
    RegisterBroker {
        broker: broker_id(broker),
        incarnation,
        directory: DirectoryId::from_bytes(&directory).expect("not nil"),
        endpoints: vec![Endpoint {
            listener: Endpoint::CLIENTS.into(),
            host: "localhost".into(),
            port: 9190,
        }],
        rack: None,
        features: FeatureRange::SUPPORTED,
    }
}
