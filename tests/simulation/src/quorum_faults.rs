//! What goes wrong with the metadata quorum in particular, and what must not: a quorum stands the
//! loss of a minority of its disks, and no more.

use riverrun_broker::replica::Rules;

use crate::{member::Member, message::Node, setup::Metadata, stage::Stage, world::World};

impl<R: Rules> World<R> {
    /// Any broker; where there is a quorum, often the one that leads it, for there it hurts.
    pub fn whom_to_strike(&mut self) -> usize {
        if self.stage.setup.metadata == Metadata::Quorum
            && self.stage.random.permille(300)
            && let Some(leader) = self.quorum_leader()
        {
            return leader;
        }
        self.stage.random.index(self.stage.setup.brokers)
    }

    /// Where the controller is.
    pub fn controller_node(&self) -> Node {
        match (&self.controller, self.quorum_leader()) {
            (None, Some(leader)) => Node::Broker(leader),
            _ => Node::Controller,
        }
    }

    /// The broker whose node leads the quorum; of several, in the newest term.
    pub fn quorum_leader(&self) -> Option<usize> {
        let terms = self.members().enumerate().filter_map(|(broker, member)| {
            let term = member?.leads()?;
            Some((term, broker))
        });
        terms.max().map(|(_, broker)| broker)
    }

    /// The nodes of the quorum, where they run.
    pub fn members(&self) -> impl Iterator<Item = Option<&Member>> + Clone {
        self.brokers.iter().map(|broker| broker.process.as_ref()?.member.as_ref())
    }

    /// The lead goes to another node.
    pub fn hand_on_quorum(&mut self) {
        self.at_quorum_leader(|member, stage| _ = member.hand_on(stage));
    }

    /// Something at the node that leads.
    pub fn at_quorum_leader(&mut self, give: impl FnOnce(&mut Member, &mut Stage)) {
        let Some(leader) = self.quorum_leader() else { return };
        self.brokers[leader].with_process(&mut self.stage, |process, machine, stage| {
            process.in_quorum(machine, stage, give);
        });
    }

    /// Whether a broker's disk may be lost: what was acknowledged on it is elsewhere, and so is what
    /// it promised to the quorum. That is whole: all nodes run, agree who votes, and none of the
    /// others is about to lose its disk.
    pub fn may_lose_disk(&self, broker: usize) -> bool {
        if !self.may_lose(broker) {
            return false;
        }
        if self.stage.setup.metadata == Metadata::Ideal {
            return true;
        }
        let count = self.brokers.len();
        let whole = self.members().all(|member| {
            let Some(member) = member else { return false };
            let voters = member.looked_at().voters();
            let is_plain = voters.leaving.is_empty() && voters.listening.is_empty();
            member.votes()
                && is_plain
                && voters.voting.len() == count
                && member.looked_at().is_settled()
        });
        let others = self.brokers.iter().filter(|other| other.number != broker);
        whole && others.into_iter().all(|other| !other.machine.is_doomed)
    }
}
