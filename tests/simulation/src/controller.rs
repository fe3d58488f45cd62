//! The controller: what is to be written into the metadata log because of what brokers say.
//!
//! Shipped code: every decision, for it is taken where a command is applied. The simulator's own:
//! the choice of a leader by logs where no proof is left that anybody has all that is committed,
//! written as the product is to do it. Who is there at all is decided in [`sessions`](crate::sessions)
//! over an ideal log, and by shipped code over the quorum ([`member`](crate::member)).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use riverrun_broker::{
    metadata::{
        Command, Endpoint, FeatureLevel, FeatureRange, IsrChange, MetadataImage, MetadataOffset,
        Presence, Rejection, Reply, TopicConfigs,
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
        BrokerId, DirectoryId, IncarnationId, PartitionIndex, ProducerId, TopicId, TopicName,
        TopicPartition,
    },
};

use crate::{
    coverage::Fact,
    message::{Body, Extent, Node},
    metadata_log::{Applied, MetadataLog},
    setup::Setup,
    stage::Stage,
};

/// A controller. Over the quorum there is one in every process, and that of the leader acts.
#[derive(Debug)]
pub struct Controller<L> {
    /// The log it writes to.
    pub log: L,
    /// Where it is.
    pub at: Node,
    /// When each run of a broker was last heard of, and what it said.
    pub heard: BTreeMap<BrokerId, Heard>,
    /// Where each partition was last changed, or a later place.
    changed_at: Vec<MetadataOffset>,
    /// What was proposed and has not been answered, and who waits for that.
    asked: BTreeMap<u64, Asked>,
    proposed: u64,
}

/// What a broker said last.
#[derive(Debug)]
pub struct Heard {
    /// Its registration.
    pub epoch: BrokerEpoch,
    /// When.
    pub at: Duration,
    /// How far it has followed.
    pub applied: MetadataOffset,
    /// How far its copies go.
    pub copies: Vec<Extent>,
}

#[derive(Debug)]
enum Asked {
    Nobody,
    Joined { broker: usize, incarnation: IncarnationId },
    Isr { partition: usize, leader_epoch: LeaderEpoch, partition_epoch: PartitionEpoch },
    HandOver { partition: usize },
    Identity { client: usize },
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

/// What makes the cluster: the topic, and every broker registered in its first run, which it has yet
/// to say.
pub fn beginning(setup: &Setup, level: FeatureLevel) -> Vec<Command> {
    let levels = [(FeatureLevel::NONE, FeatureLevel::V1), (FeatureLevel::V1, FeatureLevel::V2)];
    let missing = levels.into_iter().filter(|(expected, _)| *expected >= level);
    let mut commands: Vec<Command> = missing
        .map(|(expected, level)| Command::SetFeatureLevel(SetFeatureLevel { expected, level }))
        .collect();
    for broker in 0..setup.brokers {
        commands.push(Command::RegisterBroker(registration(broker, incarnation(broker, 0))));
    }
    // The preferred leaders differ from partition to partition.
    let assignment = (0..setup.partitions).map(|partition| {
        (0..3).map(|broker| broker_id((partition + broker) % setup.brokers)).collect()
    });
    let (name, id) = topic();
    commands.push(Command::CreateTopic(CreateTopic {
        name,
        id,
        assignment: assignment.collect(),
        configs: TopicConfigs::default(),
        min_isr: setup.min_isr,
    }));
    commands
}

impl<L: MetadataLog> Controller<L> {
    /// One that has heard of nobody.
    pub fn over(log: L, at: Node, partitions: usize) -> Self {
        Self {
            log,
            at,
            heard: BTreeMap::new(),
            changed_at: vec![MetadataOffset::ZERO; partitions],
            asked: BTreeMap::new(),
            proposed: 0,
        }
    }

    /// The newest image here.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.log.image()
    }

    /// It begins to lead: of what happened before, it knows nothing but the image.
    pub fn begin(&mut self) {
        self.heard.clear();
        let offset = self.image().offset();
        self.changed_at.fill(offset);
    }

    /// Whether somebody waits for what was proposed here.
    pub fn is_waiting(&self) -> bool {
        !self.asked.is_empty()
    }

    // --- what is asked of it ---

    /// A process runs.
    pub fn join(
        &mut self,
        broker: usize,
        incarnation: IncarnationId,
        whole_since: Option<BrokerEpoch>,
    ) {
        let registration = registration(broker, incarnation);
        let command = Command::JoinBroker(JoinBroker { registration, whole_since });
        self.propose(command, Asked::Joined { broker, incarnation });
    }

    /// A leader wants another ISR.
    pub fn alter_isr(&mut self, partition: usize, proposal: IsrProposal) {
        let IsrProposal { leader, broker_epoch, leader_epoch, partition_epoch, isr } = proposal;
        let change = IsrChange { leader, broker_epoch, leader_epoch, partition_epoch, isr };
        let alter = AlterIsr { partition: partition_id(partition), change };
        let asked = Asked::Isr { partition, leader_epoch, partition_epoch };
        self.propose(Command::AlterIsr(alter), asked);
    }

    /// A broker stands differently.
    pub fn stand(&mut self, broker: BrokerId, broker_epoch: BrokerEpoch, presence: Presence) {
        let set = SetPresence { broker, broker_epoch, presence };
        self.propose(Command::SetPresence(set), Asked::Nobody);
    }

    /// An operator wants another leader of a partition.
    pub fn hand_over(&mut self, partition: usize, choice: Choice) {
        let Some(expected) =
            self.image().partition(partition_id(partition)).map(|p| p.partition_epoch)
        else {
            return;
        };
        let elect = ElectLeader { partition: partition_id(partition), expected, choice };
        self.propose(Command::ElectLeader(elect), Asked::HandOver { partition });
    }

    /// A client wants a producer id that nobody else has.
    pub fn identify(&mut self, client: usize) {
        let image = self.image();
        let Some(broker) = image.brokers().next() else { return };
        let allocate =
            AllocateProducerIds { broker: broker.id, broker_epoch: broker.epoch, count: 1 };
        self.propose(Command::AllocateProducerIds(allocate), Asked::Identity { client });
    }

    /// Where neither ISR nor ELR has anybody left, the log with the newest epoch, and of those the
    /// longest, has all that was committed if any has. So all replicas have to have said how far
    /// theirs goes, after they heard that nobody leads: until then a log may still change.
    pub fn elect_by_log(&mut self, partition: usize, stage: &mut Stage) {
        let image = self.image();
        let Some(state) = image.partition(partition_id(partition)) else { return };
        if state.leader.is_some() || !state.isr.is_empty() || !state.elr.is_empty() {
            return;
        }
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
        let (expected, choice) = (state.partition_epoch, Choice::Unclean(best));
        let elect = ElectLeader { partition: partition_id(partition), expected, choice };
        self.propose(Command::ElectLeader(elect), Asked::Nobody);
    }

    /// Proposes what nobody waits for.
    pub fn order(&mut self, command: Command) {
        self.propose(command, Asked::Nobody);
    }

    fn propose(&mut self, command: Command, asked: Asked) {
        self.proposed += 1;
        self.asked.insert(self.proposed, asked);
        self.log.propose(self.proposed, command);
    }

    // --- what becomes of it ---

    /// Answers who asked, and remembers where partitions changed. Returns the producer id that was
    /// asked for.
    pub fn note(&mut self, applied: &Applied, stage: &mut Stage) -> Option<(usize, ProducerId)> {
        let [before, after] = &applied.images;
        stage.note_decided(after);
        for partition in 0..self.changed_at.len() {
            let id = partition_id(partition);
            if before.partition(id) != after.partition(id) {
                self.changed_at[partition] = after.offset();
            }
        }
        let (tag, outcome) = applied.answer.as_ref()?;
        match (self.asked.remove(tag)?, outcome) {
            (Asked::Joined { broker, incarnation }, Ok(Reply::BrokerEpoch(epoch))) => {
                let joined = Body::Joined { incarnation, epoch: *epoch };
                stage.send(self.at, Node::Broker(broker), joined);
            }
            (
                Asked::Isr { partition, leader_epoch, partition_epoch },
                Err(Rejection::Isr(IsrRejection::Ineligible(_))),
            ) => {
                stage.note(Fact::IsrRefused);
                let leader = after.partition(partition_id(partition)).and_then(|p| p.leader);
                if let Some(leader) = leader {
                    let to = Node::Broker(broker_number(leader));
                    let refused = Body::Refused { partition, leader_epoch, partition_epoch };
                    stage.send(self.at, to, refused);
                }
            }
            (Asked::HandOver { partition }, Ok(_)) => {
                let epoch = |image: &MetadataImage| {
                    image.partition(partition_id(partition)).map(|p| p.leader_epoch)
                };
                if epoch(after) > epoch(before) {
                    stage.note(Fact::HandedOver);
                }
            }
            (Asked::Identity { client }, Ok(Reply::ProducerIds(block))) => {
                return Some((client, block.first));
            }
            _ => {}
        }
        None
    }

    /// Whoever waited for this asks again, of himself.
    pub fn failed(&mut self, tag: u64) {
        self.asked.remove(&tag);
    }
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
