//! Calls about the nodes of the cluster.

use riverrun_proto::ids::BrokerId;

use super::Admin;
use crate::{address::Address, error::Result};

/// The cluster, its metadata quorum and its brokers, as one broker knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterDescription {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The broker that answered.
    pub answered_by: BrokerId,
    /// The node that leads the metadata quorum; `None`: nobody that this broker knows of.
    pub leader: Option<BrokerId>,
    /// Its term.
    pub leader_term: u64,
    /// How far the metadata of the broker that answered goes.
    pub metadata_offset: u64,
    /// Which rules the metadata log follows.
    pub feature_level: u32,
    /// The nodes of the metadata quorum.
    pub nodes: Vec<QuorumNode>,
    /// All registered brokers.
    pub brokers: Vec<BrokerState>,
    /// How many partitions stand how.
    pub partitions: PartitionCounts,
    /// No more than half of the brokers' wall clocks agree with that of the node that leads the quorum:
    /// nothing is deleted for its age anywhere.
    pub clock_disputed: bool,
    /// What a broker sends to replicas that are being added, and takes for those that are being added
    /// to it, in bytes a second; `None`: as much as there is.
    pub move_throttle: Option<u64>,
}

/// How many partitions stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionCounts {
    /// All of them.
    pub total: u32,
    /// Nobody leads them.
    pub offline: u32,
    /// Led, with fewer members in the ISR than `min.insync.replicas`.
    pub under_min_isr: u32,
    /// Some replica is not in sync.
    pub under_replicated: u32,
    /// Their replicas are being changed.
    pub reassigning: u32,
    /// Led by another than their preferred leader.
    pub not_preferred: u32,
}

/// Replicas to move, and how much that is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MovePlan {
    /// The first of them.
    pub moves: Vec<PlannedMove>,
    /// How many there are in all.
    pub total: u32,
    /// Replicas that should go and cannot: no broker could have them.
    pub stuck: u32,
}

/// A partition and the replicas it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedMove {
    /// Name of the topic.
    pub topic: String,
    /// Index of the partition.
    pub partition: u32,
    /// The version the plan is about, for [`Admin::reassign_partition`].
    pub partition_epoch: i32,
    /// What it has.
    pub from: Vec<BrokerId>,
    /// What it is to have.
    pub to: Vec<BrokerId>,
}

/// A node of the metadata quorum, on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuorumNode {
    /// Its id.
    pub id: BrokerId,
    /// Of its data directory, 32 hexadecimal digits: a disk that was wiped is another node.
    pub directory_id: String,
    /// What it does.
    pub role: QuorumRole,
}

/// What a node does in the metadata quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuorumRole {
    /// Votes.
    Voter,
    /// Is sent the metadata log, and does not vote.
    Listener,
    /// Votes until the change of voters that is under way is made.
    Leaving,
}

/// A broker as the cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerState {
    /// Its id.
    pub id: BrokerId,
    /// Where clients reach it.
    pub address: String,
    /// Where other nodes reach it; empty: it said nothing of that.
    pub internal_address: String,
    /// Its rack or zone.
    pub rack: Option<String>,
    /// Whether it takes part.
    pub presence: BrokerPresence,
    /// Of this run of its process.
    pub epoch: i64,
    /// Partitions with a replica on it.
    pub replicas: u32,
    /// Of these, partitions that it leads.
    pub leads: u32,
    /// Is given nothing new, and hands over what it leads.
    pub draining: bool,
    /// Only where its wall clock is too far from that of the node that leads the quorum: by so many
    /// milliseconds it is ahead; behind, where that is negative. It deletes nothing for its age; one that
    /// is fenced is not taken in.
    pub clock_ahead_ms: Option<i64>,
}

/// Whether a broker takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerPresence {
    /// It does.
    Active,
    /// It is about to stop.
    Leaving,
    /// It was not heard from, or has not caught up yet.
    Fenced,
}

impl Admin {
    /// The nodes of the cluster, its metadata quorum and its brokers. Cancel safe.
    ///
    /// # Errors
    /// If no broker answers in time.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription> {
        let connections = self.client.connections();
        let call = |at: Address| async move { connections.describe_cluster(&at).await };
        self.look(call).await
    }

    /// Lets a node that has the metadata log vote on it, once it has caught up; gives all nodes of
    /// the quorum as they are then. A node that votes stays as it is.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out. Asking again is safe.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if there is no such node.
    pub async fn add_voter(&self, node: BrokerId) -> Result<Vec<QuorumNode>> {
        let connections = self.client.connections();
        let call = |at: Address| async move { connections.add_voter(&at, node).await };
        self.change(call).await
    }

    /// Takes a node out of the vote; gives all nodes of the quorum as they are then. As long as its
    /// process runs it goes on as a listener. `directory_id` says which, where the node is there
    /// with several data directories.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if there is no such node.
    pub async fn remove_voter(
        &self,
        node: BrokerId,
        directory_id: Option<&str>,
    ) -> Result<Vec<QuorumNode>> {
        let connections = self.client.connections();
        let directory = &directory_id.unwrap_or_default().to_owned();
        let call = |at: Address| async move {
            connections.remove_voter(&at, node, directory.clone()).await
        };
        self.change(call).await
    }

    /// Keeps a broker from being given anything new, and lets others lead what it leads; `false`
    /// takes that back. Gives the broker as it is then. Safe to repeat.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// If there is no such broker, or none that could take over.
    pub async fn drain_broker(&self, broker: BrokerId, draining: bool) -> Result<BrokerState> {
        let connections = self.client.connections();
        let call =
            |at: Address| async move { connections.drain_broker(&at, broker, draining).await };
        self.change(call).await
    }

    /// Forgets a broker that is gone and has no replicas.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// If it is there, has replicas, or votes on the metadata.
    pub async fn remove_broker(&self, broker: BrokerId) -> Result<()> {
        let connections = self.client.connections();
        let call = |at: Address| async move { connections.remove_broker(&at, broker).await };
        self.change(call).await
    }

    /// Limits what a broker sends to replicas that are being added, and what it takes for those that are
    /// being added to it, to so many bytes a second, all of them together; `None` lifts that. It holds
    /// at once, also for moves that are under way, on every broker, and until it is changed. Replicas
    /// that are in sync or catch up after a restart are never held back. Gives what holds then.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out. Asking again is safe.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for 0: moves would stand still for good.
    pub async fn throttle_moves(&self, bytes_per_second: Option<u64>) -> Result<Option<u64>> {
        let connections = self.client.connections();
        let call =
            |at: Address| async move { connections.throttle_moves(&at, bytes_per_second).await };
        self.change(call).await
    }

    /// The fewest moves that leave nothing on brokers that are drained and spread what there is over
    /// the others and their racks; with `off`, only those that leave nothing on that broker. At most
    /// `max` of them (0: as many as the broker tells at once). Cancel safe.
    ///
    /// # Errors
    /// If there is no such broker, or no broker answers in time.
    pub async fn plan_moves(&self, off: Option<BrokerId>, max: u32) -> Result<MovePlan> {
        let connections = self.client.connections();
        let call = |at: Address| async move { connections.plan_moves(&at, off, max).await };
        self.look(call).await
    }
}
