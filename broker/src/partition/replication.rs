//! What a partition has to do with other brokers: whom it reaches, and what is said.
//!
//! ```text
//!   follower's partition ──► Line ──► connection ──► hear_follower ── leader's partition
//!     next_for_leader                                                   │
//!   hear_leader ◄──────────────────── connection ◄── Line ◄─────────────┘
//!                                                     next_for_follower
//! ```
//! A partition knows no sockets: it stands in the [`Line`] of a connection, and whoever runs the
//! connection asks it what it has to say, and tells it what was heard. Connections may lose, delay
//! and double what is said; the protocol stands that ([`crate::replica::frame`]).
//!
//! # Bounds
//! * A leader pushes at most [`ReplicationLimits::window_bytes`] beyond what the follower
//!   acknowledged, per subscription; a follower drops a subscription whose leader does not keep to
//!   that. So a follower holds no more than that for a log that is not ready.
//! * Lines are as long as there are partitions on the connection.
//! * What is pushed to replicas that are being added keeps to the cluster's throttle, if it has one
//!   ([`MoveThrottle`]).
//! * Producers wait, within their own budget, while a member of the ISR is further behind than
//!   [`crate::replica::Limits::lag_bytes_max`].

use std::{fmt, sync::Arc};

use bytes::Bytes;
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::{BrokerId, TopicPartition},
};

use super::{lease::Lease, line::Line, throttle::MoveThrottle};
use crate::{
    replica::{
        IsrProposal, Limits, Registration,
        frame::{Ack, Diverging, Progress, Refused, Session, Subscribe},
    },
    telemetry::ReplicationMetrics,
};

/// What a subscription's batches are to those who wait for them. Each kind has a connection of its
/// own, so that reading history from the disk never stands in front of what producers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// To a member of the ISR: what it has not acknowledged is not committed.
    InSync,
    /// To one that has yet to catch up.
    CatchUp,
}

impl Traffic {
    /// Both.
    pub const ALL: [Self; 2] = [Self::InSync, Self::CatchUp];
}

/// The other brokers, as a partition sees them. Called under the partition's lock: whatever it is, it
/// is enqueued, and nothing waits.
pub trait Peers: fmt::Debug + Send + Sync {
    /// The line of the connection to `leader`, which is made, or made anew, if need be. `None` where
    /// there never will be one.
    fn uplink(&self, leader: BrokerId, traffic: Traffic) -> Option<Arc<Line>>;

    /// Asks the controller for another ISR. Asked again, unchanged, every second until the partition
    /// epoch has moved on; may be dropped. If the controller will not have it because of a member,
    /// [`Partition::isr_refused`](super::Partition::isr_refused) is the answer.
    fn propose_isr(&self, partition: TopicPartition, proposal: &IsrProposal);
}

/// Nobody: of a broker that has no peers. Its partitions have one replica, and ask nobody anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Peers for Alone {
    fn uplink(&self, _: BrokerId, _: Traffic) -> Option<Arc<Line>> {
        None
    }

    fn propose_isr(&self, _: TopicPartition, _: &IsrProposal) {}
}

/// What partitions need to have replicas elsewhere. Clones share the peers.
#[derive(Debug, Clone)]
pub struct Replication {
    /// Other brokers.
    pub peers: Arc<dyn Peers>,
    /// Bounds of what goes to them and comes from them.
    pub limits: ReplicationLimits,
    /// How long, and by how much, a member of the ISR may be behind.
    pub lag: Limits,
    /// What is counted of ISRs and leaders.
    pub metrics: ReplicationMetrics,
    /// Until when this broker may act on what it leads by itself.
    pub lease: Lease,
    /// How fast replicas that are being added are filled.
    pub throttle: MoveThrottle,
}

impl Replication {
    /// Of a broker that has no peers.
    pub fn alone() -> Self {
        Self::with(Arc::new(Alone))
    }

    /// With these peers, and bounds that suit most.
    pub fn with(peers: Arc<dyn Peers>) -> Self {
        let metrics = ReplicationMetrics::default();
        Self {
            peers,
            limits: ReplicationLimits::default(),
            lag: Limits::default(),
            throttle: MoveThrottle::new(metrics.clone()),
            metrics,
            lease: Lease::unlimited(),
        }
    }
}

impl Replication {
    /// Counts what a registration changes for `me`.
    pub(super) fn count(&self, me: BrokerId, old: Option<&Registration>, new: &Registration) {
        let led = old.is_some_and(|old| old.leader == Some(me));
        let leads = new.leader == Some(me);
        if led != leads {
            self.metrics.leadership_changed();
        }
        let Some(old) = old.filter(|_| leads) else { return };
        if old.isr.iter().any(|member| !new.isr.contains(member)) {
            self.metrics.shrank();
        }
        if new.isr.iter().any(|member| !old.isr.contains(member)) {
            self.metrics.expanded();
        }
    }
}

/// Bounds of what goes between brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicationLimits {
    /// How far a leader pushes ahead of what a follower has acknowledged, per partition.
    pub window_bytes: usize,
    /// Bytes of one push, about; one batch comes whole even if it is larger.
    pub push_bytes: usize,
}

impl Default for ReplicationLimits {
    /// Eight times what a 10 ms link takes at 100 MB/s; one or two writes of a socket.
    fn default() -> Self {
        Self { window_bytes: 8 << 20, push_bytes: 128 << 10 }
    }
}

/// A subscription may have so many pushes under way, however small they are: what a leader
/// remembers of each is bounded with it.
pub(super) const PUSHES_IN_FLIGHT_MAX: usize = 4096;

/// From a follower to its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToLeader {
    /// Asks for what it does not have.
    Subscribe(Subscribe),
    /// Says what it has.
    Ack(Ack),
    /// Listens no more.
    Unsubscribe(Session),
}

/// From a leader to a follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToFollower {
    /// Batches.
    Push(Push),
    /// How far the log is committed.
    Progress(Progress),
    /// The follower's log is no prefix of the leader's.
    Diverging(Diverging),
    /// Not like this.
    Refused(Refused),
    /// The leader pushes no more on this subscription.
    Ended(Session),
}

/// Batches for a follower, and how far the leader's log is committed. Everything else about them is
/// in the batches, and is taken from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// On which subscription, in which epoch.
    pub progress: Progress,
    /// The epoch of the batch before the first one; `None`: there is none.
    pub previous_epoch: Option<LeaderEpoch>,
    /// One batch each, as stored.
    pub batches: Vec<Bytes>,
}

impl ToFollower {
    /// Bytes of batches in it.
    pub fn batch_bytes(&self) -> usize {
        match self {
            Self::Push(push) => push.batches.iter().map(Bytes::len).sum(),
            _ => 0,
        }
    }
}
