//! A broker's part in the metadata quorum: its node, and the controller that acts while it leads.
//!
//! Shipped: the node, its log on the broker's disk, who is there ([`Liveness`]), and all that is
//! decided when a command is applied. The simulator's own: that nodes find each other, and the
//! operator who has them vote, as `peer::cluster` and `cluster add-voter` do.

use std::{collections::BTreeMap, path::Path, time::Duration};

use riverrun_broker::{
    clock::{Clock as _, Instant, ManualClock},
    controller::{
        Heartbeat, Liveness, OpenError,
        raft::{NodeStats, RaftOptions, Step, SteppedNode, Voter, stepped::StepOutputs},
    },
    io::Failure,
    metadata::MetadataImage,
};
use riverrun_proto::{
    ids::{BrokerId, ClusterId, DirectoryId},
    timestamp::Timestamp,
};

use crate::{
    controller::{Controller, beginning, broker_id, broker_number},
    coverage::Fact,
    machine::{DATA, Machine},
    message::{Body, End, Node},
    metadata_log::{MetadataLog as _, Told},
    plant::Plant,
    raft_log::RaftLog,
    setup::{SESSION_TIMEOUT, Setup},
    stage::Stage,
};

/// The unit of the quorum's times.
pub const TICK: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub struct Member {
    /// This node, on this disk.
    pub voter: Voter,
    /// What is proposed here.
    pub controller: Controller<RaftLog>,
    liveness: Liveness,
    leads: Option<u64>,
    /// Nodes that want to vote, by the broker, with the disk they have now.
    enlisted: BTreeMap<BrokerId, Voter>,
    changes: u64,
    counted: NodeStats,
    me: End,
}

/// The cluster of all runs.
pub fn cluster() -> ClusterId {
    ClusterId::from_bytes(&[5; 16]).expect("not nil")
}

/// A broker's node in the quorum, on its `disk`-th disk. Another disk is another voter, unless it is
/// planted that it is not.
pub fn voter(broker: usize, disk: u64, plant: Option<Plant>) -> Voter {
    let disk = if plant == Some(Plant::WipedAsOld) { 1 } else { disk };
    let mut bytes = [3; 16];
    bytes[0] = u8::try_from(broker).expect("few brokers") + 1;
    bytes[1..9].copy_from_slice(&disk.to_le_bytes());
    Voter::new(broker_id(broker), DirectoryId::from_bytes(&bytes).expect("not nil"))
}

/// Which broker has, or had, a voter.
fn broker_of(voter: riverrun_broker::controller::raft::VoterId) -> usize {
    usize::from(voter.get().to_le_bytes()[0]) - 1
}

/// Puts an empty log of the quorum on a disk; that of a founder, or of one who is to join.
pub fn format(machine: &Machine, me: Voter, founds: bool) {
    let failure = Failure::open(machine.shared(), DATA);
    let data = Path::new(DATA);
    let made = if founds {
        SteppedNode::found(&machine.disk, data, cluster(), me, &failure)
    } else {
        SteppedNode::prepare(&machine.disk, data, cluster(), &failure)
    };
    made.expect("an empty disk takes a log");
}

/// The founder makes the topic, alone, before anything happens.
pub fn make_topic(machine: &Machine, me: Voter, setup: &Setup) {
    let failure = Failure::open(machine.shared(), DATA);
    let node = open(machine, me, &failure, setup.seed, setup);
    let mut node = node.expect("a new log opens");
    let settle = |node: &mut SteppedNode| {
        while node.outputs().wants_write {
            node.finish();
        }
    };
    settle(&mut node);
    for (ticket, command) in (0..).zip(beginning(setup, node.image().feature_level())) {
        node.propose(ticket, &command).expect("a small command");
        settle(&mut node);
    }
    assert_eq!(node.image().topics().len(), 1, "a node that is alone decides alone");
}

fn open(
    machine: &Machine,
    me: Voter,
    failure: &Failure,
    seed: u64,
    setup: &Setup,
) -> Result<SteppedNode, OpenError> {
    let options = RaftOptions {
        tick: TICK,
        election_ticks: 10,
        heartbeat_ticks: 2,
        snapshot_entries: setup.snapshot_entries,
        keep_entries: 4,
        ..RaftOptions::default()
    };
    SteppedNode::open(machine.shared(), Path::new(DATA), me, failure, seed, &options)
}

impl Member {
    /// In a process that starts: recovers the log on its machine's disk.
    pub fn start(
        machine: &Machine,
        failure: &Failure,
        me: End,
        stage: &mut Stage,
    ) -> Result<Self, OpenError> {
        let Some(voter) = machine.voter else { unreachable!("every machine has a log") };
        let seed = stage.random.number();
        let node = open(machine, voter, failure, seed, &stage.setup)?;
        let found = node.found_in_log();
        if found.entries > 0 {
            stage.note(Fact::MetaRecovered);
        }
        if found.torn {
            stage.note(Fact::MetaTorn);
        }
        let log = RaftLog::new(node, stage.setup.plant);
        stage.note_decided(&log.image());
        Ok(Self {
            voter,
            controller: Controller::over(log, me.node, stage.setup.partitions),
            liveness: Liveness::new(SESSION_TIMEOUT),
            leads: None,
            enlisted: BTreeMap::new(),
            changes: 0,
            counted: NodeStats::default(),
            me,
        })
    }

    /// Its node.
    pub fn node(&mut self) -> &mut SteppedNode {
        &mut self.controller.log.node
    }

    /// Its node, to be looked at.
    pub fn looked_at(&self) -> &SteppedNode {
        &self.controller.log.node
    }

    /// The term in which it leads the quorum.
    pub fn leads(&self) -> Option<u64> {
        self.looked_at().leads()
    }

    /// Where the controller is, as far as this node knows.
    pub fn leader(&self) -> Option<usize> {
        self.looked_at().leader().map(|leader| broker_number(leader.node))
    }

    /// Whether it votes.
    pub fn votes(&self) -> bool {
        self.looked_at().voters().voting.contains(&self.voter)
    }

    /// It leads, and somebody waits for what it is to decide.
    pub fn is_in_the_midst(&self) -> bool {
        self.leads.is_some() && self.controller.is_waiting()
    }

    // --- the controller, while this node leads ---

    /// Takes what a broker, or a client, says to the controller.
    pub fn hear(&mut self, from: Node, body: Body, stage: &mut Stage) {
        if self.leads().is_none() {
            // Whoever asked finds the one that does.
            return;
        }
        match (body, from) {
            (Body::Join { incarnation, whole_since }, Node::Broker(broker)) => {
                self.controller.join(broker, incarnation, whole_since);
            }
            (Body::Heartbeat { epoch, applied, copies, leaves }, Node::Broker(broker)) => {
                let broker = broker_id(broker);
                let newer = |heard: &crate::controller::Heard| {
                    heard.epoch > epoch || heard.epoch == epoch && heard.applied > applied
                };
                if self.controller.heard.get(&broker).is_some_and(newer) {
                    return;
                }
                let at = stage.now();
                let said = Heartbeat { broker, epoch, applied, wants_to_stop: leaves, clock: None };
                self.liveness.heard(said, 0, instant(at));
                let heard = crate::controller::Heard { epoch, at, applied, copies };
                self.controller.heard.insert(broker, heard);
            }
            (Body::Propose { partition, proposal }, _) => {
                self.controller.alter_isr(partition, proposal);
            }
            (Body::Enlist { voter }, _) => _ = self.enlisted.insert(voter.node, voter),
            (Body::Identify { client }, _) => self.controller.identify(client),
            _ => {}
        }
    }

    /// Looks who is there, at partitions that nobody leads, and at who is to vote.
    pub fn tick(&mut self, stage: &mut Stage) {
        if self.leads().is_none() {
            return;
        }
        let image = self.controller.image();
        for change in self.liveness.decide(&image, instant(stage.now())) {
            self.controller.stand(change.broker, change.broker_epoch, change.presence);
        }
        for partition in 0..stage.setup.partitions {
            self.controller.elect_by_log(partition, stage);
        }
        if let Some(steps) = self.next_change() {
            if steps.len() == 2 {
                stage.note(Fact::MetaVoterReplaced);
            }
            self.changes += 1;
            // Not among those of the controller: nobody waits.
            let ticket = u64::MAX - self.changes;
            self.node().change(ticket, &steps);
        }
    }

    /// As an operator would go on: whoever is new listens, then votes; in the place of his old disk,
    /// if there was one.
    fn next_change(&self) -> Option<Vec<Step>> {
        let now = self.looked_at().voters();
        if !now.leaving.is_empty() {
            return None;
        }
        let present = |old: &Voter| self.enlisted.get(&old.node).is_none_or(|new| new.id == old.id);
        if let Some(gone) = now.listening.iter().find(|listener| !present(listener)) {
            return Some(vec![Step::Leave(gone.id)]);
        }
        let new = self.enlisted.values().find(|new| !now.voting.contains(new))?;
        if !now.listening.contains(new) {
            return Some(vec![Step::Listen(*new)]);
        }
        let mut steps = vec![Step::Vote(new.id)];
        let old = now.voting.iter().find(|old| old.node == new.node);
        steps.extend(old.map(|old| Step::Leave(old.id)));
        Some(steps)
    }

    /// The lead goes to another voter, if this node has it; whether there is one.
    pub fn hand_on(&mut self, stage: &mut Stage) -> bool {
        let me = self.voter;
        let others: Vec<Voter> =
            self.looked_at().voters().voting.into_iter().filter(|other| *other != me).collect();
        if self.leads().is_none() || others.is_empty() {
            return false;
        }
        let heir = stage.random.pick(&others);
        stage.note(Fact::MetaHandedOver);
        self.node().transfer(heir.id);
        true
    }

    // --- what its node wants done ---

    /// Sends what is to be sent, and takes in what was applied. What the caller does: the write, and
    /// all that follows from the images.
    pub fn take_outputs(&mut self, outputs: StepOutputs, stage: &mut Stage) -> Vec<Told> {
        for (to, message) in outputs.messages {
            let body = Body::Quorum { message };
            stage.send(self.me.node, Node::Broker(broker_of(to)), body);
        }
        let installed = self.count(stage);
        if let Err(law) = self.controller.log.take(outputs.applied, outputs.answers, installed) {
            stage.fail(format!("{law} (at {:?})", self.me));
        }
        self.note_lead(stage);
        std::iter::from_fn(|| self.controller.log.told()).collect()
    }

    /// Counts what the node did since; whether it has taken over an image.
    fn count(&mut self, stage: &mut Stage) -> bool {
        let now = self.looked_at().stats();
        let before = std::mem::replace(&mut self.counted, now);
        for (fact, happened) in [
            (Fact::MetaElection, now.elections_won > before.elections_won),
            (Fact::MetaSnapshotMade, now.snapshots_made > before.snapshots_made),
            (Fact::MetaSnapshotInstalled, now.snapshots_installed > before.snapshots_installed),
            (Fact::MetaSuperseded, now.truncations > before.truncations),
            (Fact::MetaForStranger, now.messages_refused > before.messages_refused),
        ] {
            if happened {
                stage.note(fact);
            }
        }
        now.snapshots_installed > before.snapshots_installed
    }

    fn note_lead(&mut self, stage: &mut Stage) {
        let term = self.leads();
        if term == self.leads {
            return;
        }
        if self.is_in_the_midst() {
            stage.note(Fact::MetaLeaderLost);
        }
        stage.say(format_args!("{:?} leads the quorum in {term:?}", self.me));
        self.leads = term;
        self.enlisted.clear();
        self.liveness.lead(term, instant(stage.now()));
        if let Some(term) = term {
            self.controller.begin();
            if let Err(law) = stage.decided.lead(term, self.me) {
                stage.fail(law);
            }
        }
    }
}

/// Why the quorum has not come to agree.
pub fn disagree<'a>(
    members: impl Iterator<Item = Option<&'a Member>> + Clone,
    newest: &MetadataImage,
) -> Option<String> {
    let count = members.clone().count();
    let mut leaders = 0;
    for (broker, member) in members.enumerate() {
        let Some(member) = member else { return Some(format!("b{broker} is down")) };
        let node = member.looked_at();
        let voters = node.voters();
        if voters.voting.len() != count
            || !voters.leaving.is_empty()
            || !voters.listening.is_empty()
        {
            return Some(format!("to b{broker} the quorum is {voters:?}"));
        }
        if !member.votes() {
            return Some(format!("b{broker} does not vote"));
        }
        leaders += usize::from(member.leads().is_some());
        if node.image().offset() != newest.offset() {
            let (has, must) = (node.image().offset(), newest.offset());
            return Some(format!("b{broker} has metadata up to {has}, not {must}"));
        }
    }
    (leaders != 1).then(|| format!("{leaders} nodes lead the quorum"))
}

fn instant(now: Duration) -> Instant {
    let clock = ManualClock::at(Timestamp::from_millis(0));
    clock.advance(now);
    clock.monotonic()
}
