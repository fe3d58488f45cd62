//! Liveness: when nothing goes wrong any more, everything comes right, and soon.

use crate::{
    cluster::{Cluster, Message, N, Setup, at, id},
    metadata::{self, Presence},
    replica::{self, Durability, Event},
};

/// Rounds in which everybody says and does what there is to say and do.
const ROUNDS: usize = 40;

impl<R: replica::Rules> Cluster<R> {
    /// Lets everybody come back and work without faults. What must be true in the end (L1): there is
    /// a leader, all replicas are in sync and equal, all that was written is committed, no
    /// reassignment is left over. Returns what is not.
    pub fn settle<C: metadata::Rules>(&mut self, setup: &Setup<R, C>) -> Option<&'static str> {
        self.network.clear();
        for i in 0..N {
            if !self.node(i).up {
                self.register(setup, i, !self.node(i).lossy);
            }
            if self.brokers.0[i].presence != Presence::Active {
                self.unfence(setup, i);
            }
        }
        for _ in 0..ROUNDS {
            self.round(setup);
            if self.violation().is_some() {
                return self.violation();
            }
            self.unsettled()?;
        }
        self.unsettled()
    }

    fn round<C: metadata::Rules>(&mut self, setup: &Setup<R, C>) {
        if self.partition().leader.is_none() {
            // More were lost than the topic was promised to survive: somebody has to say so.
            let replica = self.partition().replicas[0].0 as usize;
            self.elect_uncleanly(setup, replica);
        }
        for i in 0..N {
            self.apply(i, self.versions.len() - 1);
            self.tick(i);
            if setup.durability == Durability::Disk {
                self.flush(i);
            }
        }
        let Some(leader) = self.partition().leader.map(|id| id.0 as usize) else { return };
        for i in (0..N).filter(|i| *i != leader) {
            if let Some(message) = self.says(i) {
                self.deliver(setup, message, true);
            }
            let end = self.node(leader).replica.log_end_of(id(i));
            if let Some(end) = end
                && end < at(self.node(leader).log.len())
                && let Some(message) = self.pushes(leader, i, crate::cluster::index(end))
            {
                self.deliver(setup, message, true);
            }
            self.share(leader, i);
        }
        // Whatever is under way arrives; what was lost is sent again.
        if let Some(proposal) = self.node(leader).replica.pending_proposal() {
            self.network.insert(Message::Propose(proposal.clone()));
        }
        for message in std::mem::take(&mut self.network) {
            self.deliver(setup, message, true);
        }
    }

    fn tick(&mut self, i: usize) {
        self.now += std::time::Duration::from_millis(10);
        self.feed(i, Event::Tick);
    }

    fn unsettled(&self) -> Option<&'static str> {
        let partition = self.partition();
        let Some(leader) = partition.leader else { return Some("L1: no leader") };
        if partition.reassignment.is_some() {
            return Some("L1: a reassignment is not complete");
        }
        if partition.isr.len() < partition.replicas.len() {
            return Some("L1: a replica does not get into the ISR");
        }
        let node = self.node(leader.0 as usize);
        if node.replica.leads() != Some(partition.leader_epoch) {
            return Some("L1: the leader does not lead");
        }
        for replica in &partition.replicas {
            let other = self.node(replica.0 as usize);
            if other.log != node.log {
                return Some("L1: a log is not the leader's");
            }
            if other.replica.high_watermark() != at(node.log.len()) {
                return Some("L1: what was written is not committed, or a replica was not told");
            }
        }
        None
    }
}
