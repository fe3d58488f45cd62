//! Connections between brokers for tests, in memory: what is said arrives in order, until they are
//! cut. A test carries it by hand, or lets tasks do it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
};

use parking_lot::{Mutex, RwLock};
use riverrun_proto::ids::{BrokerId, TopicPartition};
use tokio::{runtime::Handle, sync::watch};

use super::{
    registry::Registry,
    replication::{Peers, ToFollower, Traffic},
    test_support::block_on,
    *,
};

/// All connections, and what has been proposed to the controller.
#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(super) board: RwLock<HashMap<BrokerId, Arc<Registry>>>,
    pub(crate) connections: Mutex<Vec<Arc<Connection>>>,
    pub(crate) proposals: Mutex<Vec<(TopicPartition, IsrProposal)>>,
    /// Nothing that they say or are told gets through, nor is lost.
    pub(crate) silent: Mutex<HashSet<BrokerId>>,
    /// What their leaders propose is not heard.
    pub(crate) undecided: Mutex<HashSet<TopicPartition>>,
    /// Carries what is said, if somebody is to.
    pub(super) tasks: Option<Handle>,
}

/// A connection that a follower opened.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) follower: BrokerId,
    pub(crate) leader: BrokerId,
    pub(crate) traffic: Traffic,
    pub(crate) up: Arc<Line>,
    pub(crate) down: Arc<Line>,
    is_cut: watch::Sender<bool>,
}

#[derive(Debug)]
pub(super) struct PeersOf {
    pub(super) me: BrokerId,
    pub(super) net: Weak<Net>,
}

impl Peers for PeersOf {
    fn uplink(&self, leader: BrokerId, traffic: Traffic) -> Option<Arc<Line>> {
        let net = self.net.upgrade()?;
        let mut connections = net.connections.lock();
        let known = connections.iter().find(|connection| {
            let ends = (connection.follower, connection.leader, connection.traffic);
            ends == (self.me, leader, traffic)
        });
        let connection = known.cloned().unwrap_or_else(|| {
            let made = Arc::new(Connection {
                follower: self.me,
                leader,
                traffic,
                up: Line::new(),
                down: Line::new(),
                is_cut: watch::Sender::new(false),
            });
            connections.push(Arc::clone(&made));
            if let Some(tasks) = &net.tasks {
                tasks.spawn(carry_up(Arc::clone(&net), Arc::clone(&made)));
                tasks.spawn(carry_down(Arc::clone(&net), Arc::clone(&made)));
            }
            made
        });
        Some(Arc::clone(&connection.up))
    }

    fn propose_isr(&self, partition: TopicPartition, proposal: &IsrProposal) {
        if let Some(net) = self.net.upgrade() {
            let mut proposals = net.proposals.lock();
            if !proposals.iter().any(|(_, known)| known == proposal) {
                proposals.push((partition, proposal.clone()));
            }
        }
    }
}

impl Net {
    pub(crate) fn partition(&self, at: BrokerId, id: TopicPartition) -> Option<Arc<Partition>> {
        self.board.read().get(&at)?.get(id)
    }

    /// The connection is gone, at both ends, with all that was under way.
    pub(crate) fn cut(&self, connection: &Arc<Connection>) {
        self.connections.lock().retain(|known| !Arc::ptr_eq(known, connection));
        if self.tasks.is_some() {
            // The tasks tell the partitions, when they say nothing more themselves.
            connection.is_cut.send_replace(true);
        } else {
            self.lost(connection.leader, |partition| partition.downlink_lost(&connection.down));
            self.lost(connection.follower, |partition| partition.uplink_lost(&connection.up));
        }
    }

    fn lost(&self, at: BrokerId, tell: impl Fn(&Arc<Partition>)) {
        let all = self.board.read().get(&at).map(|registry| registry.all());
        all.into_iter().flatten().for_each(|partition| tell(&partition));
    }

    fn deliver_up(&self, connection: &Connection, partition: &Arc<Partition>) {
        let Some(said) = partition.next_for_leader(&connection.up) else { return };
        if let Some(leader) = self.partition(connection.leader, partition.id()) {
            leader.hear_follower(&connection.down, connection.follower, said, usize::MAX);
        }
    }

    fn deliver_down(&self, connection: &Connection, id: TopicPartition, said: ToFollower) {
        if let Some(follower) = self.partition(connection.follower, id) {
            follower.hear_leader(said);
        }
    }

    /// Everything that anybody has to say, as of now.
    pub(super) fn pump(&self) {
        let connections = self.connections.lock().clone();
        let silent = self.silent.lock().clone();
        for connection in connections {
            if silent.contains(&connection.follower) || silent.contains(&connection.leader) {
                continue;
            }
            while let Some(partition) = connection.up.try_next() {
                self.deliver_up(&connection, &partition);
            }
            while let Some(partition) = connection.down.try_next() {
                let next = partition.next_for_follower(&connection.down, connection.follower);
                if let Some(said) = block_on(next) {
                    self.deliver_down(&connection, partition.id(), said);
                }
            }
        }
    }
}

async fn carry_up(net: Arc<Net>, connection: Arc<Connection>) {
    let mut cut = connection.is_cut.subscribe();
    loop {
        tokio::select! {
            partition = connection.up.next() => net.deliver_up(&connection, &partition),
            _ = cut.wait_for(|cut| *cut) => break,
        }
        tokio::task::yield_now().await;
    }
    net.lost(connection.leader, |partition| partition.downlink_lost(&connection.down));
}

async fn carry_down(net: Arc<Net>, connection: Arc<Connection>) {
    let mut cut = connection.is_cut.subscribe();
    loop {
        let carry = async {
            let partition = connection.down.next().await;
            let said = partition.next_for_follower(&connection.down, connection.follower).await;
            (partition.id(), said)
        };
        tokio::select! {
            (id, said) = carry => {
                if let Some(said) = said {
                    net.deliver_down(&connection, id, said);
                }
            }
            _ = cut.wait_for(|cut| *cut) => break,
        }
        tokio::task::yield_now().await;
    }
    net.lost(connection.follower, |partition| partition.uplink_lost(&connection.up));
}
