//! What can happen next: the cluster as a model for the search.

use std::panic::{AssertUnwindSafe, catch_unwind};

use stateright::{Model, Property};

use crate::{
    cluster::{Cluster, Message, N, Setup, id},
    metadata::{self, Departure, Presence},
    replica::{self, Durability},
};

/// How much may happen. All that is not bounded here is not bounded.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub writes: u8,
    /// Records of the metadata log about the partition.
    pub versions: usize,
    /// Messages under way at once, beside proposals and answers.
    pub messages: usize,
    pub restarts: u8,
    /// What the controller does by itself: fencing, elections.
    pub orders: u8,
    /// Times that a leader waits too long for its followers.
    pub lapses: u8,
    /// Subscriptions of one run of a broker.
    pub sessions: u64,
    /// A restart that lost nothing may say so.
    pub proofs: bool,
    /// Leaders may be elected that lack records.
    pub unclean: bool,
    /// Replicas may be changed, and a broker may ask for leave.
    pub reassignments: bool,
    /// A proposal may arrive, and arrive once more later.
    pub copies: bool,
}

/// One transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Write(usize),
    Flush(usize),
    /// A follower says what it has, and is heard at once.
    Say(usize),
    /// The same, heard later.
    SayLater(usize),
    /// The leader pushes the record after what the follower has said it has.
    Push(usize, usize),
    /// Any record after that, to arrive later.
    PushLater(usize, usize, usize),
    Share(usize, usize),
    Deliver(usize),
    DeliverCopy(usize),
    Drop(usize),
    Apply(usize, usize),
    Lapse(usize),
    Crash(usize, usize),
    Register(usize, bool),
    Fence(usize),
    Leave(usize),
    Unfence(usize),
    Elect(usize),
    ElectUncleanly(usize),
    Reassign(&'static [usize]),
    Cancel,
}

const TARGETS: [&[usize]; 5] = [&[0], &[1, 2], &[2, 0], &[2, 1], &[1, 2, 0]];

/// The cluster, by some rules and within some bounds.
#[derive(Debug, Clone, Copy)]
pub struct Search<R, C> {
    pub setup: Setup<R, C>,
    pub bounds: Bounds,
}

impl<R: replica::Rules, C: metadata::Rules> Search<R, C> {
    /// All that can happen in a state.
    pub fn steps(&self, cluster: &Cluster<R>, steps: &mut Vec<Step>) {
        for i in 0..N {
            self.node_steps(cluster, i, steps);
            self.controller_steps(cluster, i, steps);
        }
        if self.bounds.reassignments && self.may_order(cluster) {
            steps.extend(TARGETS.map(Step::Reassign));
            if cluster.partition().reassignment.is_some() {
                steps.push(Step::Cancel);
            }
        }
        for (k, message) in cluster.network.iter().enumerate() {
            steps.push(Step::Deliver(k));
            if self.bounds.copies && matches!(message, Message::Propose(_)) {
                steps.push(Step::DeliverCopy(k));
            }
            steps.push(Step::Drop(k));
        }
    }

    fn may_order(&self, cluster: &Cluster<R>) -> bool {
        cluster.orders < self.bounds.orders && cluster.versions.len() < self.bounds.versions
    }

    fn node_steps(&self, cluster: &Cluster<R>, i: usize, steps: &mut Vec<Step>) {
        let node = cluster.node(i);
        if !node.up {
            if cluster.versions.len() < self.bounds.versions + 2 {
                steps.push(Step::Register(i, false));
                if self.bounds.proofs && !node.lossy {
                    steps.push(Step::Register(i, true));
                }
            }
            return;
        }
        let room = cluster.network.len() < self.bounds.messages;
        if node.replica.leads().is_some() {
            if cluster.next_value <= self.bounds.writes {
                steps.push(Step::Write(i));
            }
            for f in (0..N).filter(|f| *f != i) {
                let Some(from) = node.replica.log_end_of(id(f)) else { continue };
                let from = crate::cluster::index(from);
                if from < node.log.len() {
                    steps.push(Step::Push(i, f));
                    if room {
                        let bases = from..node.log.len();
                        steps.extend(bases.map(|base| Step::PushLater(i, f, base)));
                    }
                } else {
                    steps.push(Step::Share(i, f));
                }
            }
            if cluster.lapses < self.bounds.lapses {
                steps.push(Step::Lapse(i));
            }
        } else if node.replica.position_for_leader().is_some() {
            steps.push(Step::Say(i));
            if room {
                steps.push(Step::SayLater(i));
            }
        }
        let (_, end, flushed_end) = node.replica.log_ends();
        if self.setup.durability == Durability::Disk && flushed_end < end {
            steps.push(Step::Flush(i));
        }
        steps.extend((node.seen + 1..cluster.versions.len()).map(|v| Step::Apply(i, v)));
        if cluster.restarts < self.bounds.restarts {
            let kept = crate::cluster::index(flushed_end)..=node.log.len();
            steps.extend(kept.map(|keep| Step::Crash(i, keep)));
        }
    }

    fn controller_steps(&self, cluster: &Cluster<R>, i: usize, steps: &mut Vec<Step>) {
        let presence = cluster.brokers.0[i].presence;
        let partition = cluster.partition();
        if self.may_order(cluster) {
            if presence != Presence::Fenced {
                steps.push(Step::Fence(i));
            }
            if presence == Presence::Active && self.bounds.reassignments {
                steps.push(Step::Leave(i));
            }
            if partition.isr.contains(&id(i)) && partition.leader != Some(id(i)) {
                steps.push(Step::Elect(i));
            }
            if self.bounds.unclean && partition.leader.is_none() && cluster.node(i).up {
                steps.push(Step::ElectUncleanly(i));
            }
        }
        if presence != Presence::Active && cluster.node(i).up {
            steps.push(Step::Unfence(i));
        }
    }

    /// The state after a step; `None`: nothing happened, or it lies outside the bounds.
    pub fn after(&self, before: &Cluster<R>, step: Step) -> Option<Cluster<R>> {
        let mut cluster = before.clone();
        let done = catch_unwind(AssertUnwindSafe(|| self.take(&mut cluster, step)));
        match done {
            Ok(true) => (cluster != *before).then_some(cluster),
            Ok(false) => None,
            Err(_) => {
                let fault = Some("the broker's own check failed");
                Some(Cluster { fault, ..before.clone() })
            }
        }
    }

    fn take(&self, cluster: &mut Cluster<R>, step: Step) -> bool {
        let setup = &self.setup;
        let room = cluster.network.len() <= self.bounds.messages;
        match step {
            Step::Write(i) => cluster.write(i),
            Step::Flush(i) => cluster.flush(i),
            Step::Say(i) => {
                let Some(message) = cluster.says(i) else { return false };
                cluster.deliver(setup, message, room);
            }
            Step::SayLater(i) => {
                let Some(message) = cluster.says(i) else { return false };
                cluster.network.insert(message);
            }
            Step::Push(leader, follower) => {
                let from = cluster.node(leader).replica.log_end_of(id(follower));
                let from = from.map(crate::cluster::index);
                let message = from.and_then(|base| cluster.pushes(leader, follower, base));
                let Some(message) = message else { return false };
                cluster.deliver(setup, message, room);
            }
            Step::PushLater(leader, follower, base) => {
                let Some(message) = cluster.pushes(leader, follower, base) else { return false };
                cluster.network.insert(message);
            }
            Step::Share(leader, follower) => cluster.share(leader, follower),
            Step::Deliver(k) => {
                let Some(message) = cluster.network.iter().nth(k).cloned() else { return false };
                cluster.network.remove(&message);
                cluster.deliver(setup, message, room);
            }
            Step::DeliverCopy(k) => {
                let Some(message) = cluster.network.iter().nth(k).cloned() else { return false };
                cluster.deliver(setup, message, room);
            }
            Step::Drop(k) => {
                let Some(message) = cluster.network.iter().nth(k).cloned() else { return false };
                cluster.network.remove(&message);
            }
            Step::Apply(i, version) => cluster.apply(i, version),
            Step::Lapse(i) => cluster.lapse(i),
            Step::Crash(i, keep) => cluster.crash(i, keep),
            Step::Register(i, whole) => cluster.register(setup, i, whole),
            Step::Fence(i) => cluster.fence(setup, i, Departure::Fenced),
            Step::Leave(i) => cluster.fence(setup, i, Departure::Leaving),
            Step::Unfence(i) => cluster.unfence(setup, i),
            Step::Elect(i) => return cluster.elect(setup, i),
            Step::ElectUncleanly(i) => return cluster.elect_uncleanly(setup, i),
            Step::Reassign(to) => return cluster.reassign(setup, to),
            Step::Cancel => return cluster.cancel(setup),
        }
        true
    }

    /// Whether a state lies within the bounds.
    pub fn within(&self, cluster: &Cluster<R>) -> bool {
        cluster.versions.len() <= self.bounds.versions + 2
            && cluster.nodes.iter().all(|node| node.replica.sessions() <= self.bounds.sessions)
    }
}

impl<R, C> Model for Search<R, C>
where
    R: replica::Rules + Send + Sync + 'static,
    C: metadata::Rules + Send + Sync + 'static,
{
    type State = Cluster<R>;
    type Action = Step;

    fn init_states(&self) -> Vec<Cluster<R>> {
        vec![Cluster::new(&self.setup)]
    }

    fn actions(&self, cluster: &Cluster<R>, steps: &mut Vec<Step>) {
        self.steps(cluster, steps);
    }

    fn next_state(&self, cluster: &Cluster<R>, step: Step) -> Option<Cluster<R>> {
        self.after(cluster, step)
    }

    fn within_boundary(&self, cluster: &Cluster<R>) -> bool {
        self.within(cluster)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("safe", |_, cluster: &Cluster<R>| cluster.violation().is_none()),
            Property::sometimes("a commit after an election", |_, cluster: &Cluster<R>| {
                cluster.committed.last().is_some_and(|record| record.epoch.get() > 0)
            }),
            Property::sometimes("an eligible leader outside the ISR", |_, cluster: &Cluster<R>| {
                !cluster.partition().elr.is_empty()
            }),
            Property::sometimes("logs part", |_, cluster: &Cluster<R>| {
                let diverging = |message: &Message| {
                    let Message::Frame { frame, .. } = message else { return false };
                    matches!(frame, replica::frame::LeaderFrame::Diverging(_))
                };
                cluster.network.iter().any(diverging)
            }),
        ]
    }
}
