//! Everything that can happen to a replica.

use std::time::Duration;

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch},
    ids::BrokerId,
    offset::Offset,
};

use super::{
    Durability,
    frame::{Ack, DataHead, LeaderFrame, Session, Subscribe},
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    // === From the metadata log ===
    /// The metadata log says how the partition is registered now.
    Registered(Registration),
    /// The metadata log says how a broker stands now. Needed of those that have a copy.
    Broker(BrokerStanding),

    // === From the own log ===
    /// The own log grew to `log_end` by what this broker, as leader, appended.
    Appended {
        /// The first offset not yet written.
        log_end: Offset,
        /// Bytes of what was appended.
        bytes: u64,
    },
    /// The batches of a frame that was answered with [`Action::Append`](super::Action::Append) are
    /// in the log.
    Replicated(DataHead),
    /// The own disk has everything below `flushed_end`.
    Flushed {
        /// The first offset not known to be on disk.
        flushed_end: Offset,
    },
    /// Records below were deleted: by retention, or because somebody asked.
    LogStartAdvanced {
        /// The first offset that is kept.
        log_start: Offset,
    },

    // === From the configuration ===
    /// The topic's durability was changed. What was committed stays committed.
    DurabilityChanged(Durability),
    /// The broker's bounds were changed.
    LimitsChanged(Limits),

    // === From followers, to a leader ===
    /// A follower asks for records.
    Subscribe(Subscribe),
    /// A follower says what it has.
    Ack(Ack),
    /// The connection of a follower's subscription is gone.
    FollowerLost {
        /// Whose.
        follower: BrokerId,
        /// Which.
        session: Session,
    },
    /// What a follower is to be sent next lies inside a batch that begins further down: where records
    /// are deleted up to the middle of a batch.
    InsideBatch {
        /// Whose.
        follower: BrokerId,
        /// Which.
        session: Session,
        /// The first offset of the batch.
        begins: Offset,
    },
    /// The controller will not have a proposed ISR because of a member that may not be in it. Other
    /// refusals say that this broker's metadata is behind; the metadata log is the answer to those.
    IsrRefused {
        /// The epoch it was proposed in.
        leader_epoch: LeaderEpoch,
        /// The version it was to replace.
        partition_epoch: PartitionEpoch,
    },

    // === From the leader, to a follower ===
    /// The leader says something.
    Leader(LeaderFrame),
    /// The connection of the own subscription is gone, or could not be made.
    LeaderLost {
        /// Which.
        session: Session,
    },

    /// Time has passed. Due about every tenth of [`Limits::lag_time_max`], and never late by more
    /// than that.
    Tick,
}

/// How the metadata log registers a partition; one version of it per partition epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registration {
    /// Who leads; `None`: nobody can at the moment.
    pub leader: Option<BrokerId>,
    /// The term.
    pub leader_epoch: LeaderEpoch,
    /// The version.
    pub partition_epoch: PartitionEpoch,
    /// Brokers that should have a copy, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Brokers whose copy is complete.
    pub isr: Vec<BrokerId>,
    /// `min.insync.replicas`, versioned with the rest so that no two brokers disagree about it.
    pub min_isr: u32,
}

impl Registration {
    /// A topic cannot ask for more copies than it has replicas.
    pub fn effective_min_isr(&self) -> usize {
        usize::try_from(self.min_isr).unwrap_or(usize::MAX).clamp(1, self.replicas.len().max(1))
    }
}

/// How a broker stands with the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BrokerStanding {
    /// Which broker.
    pub broker: BrokerId,
    /// Its present run.
    pub epoch: BrokerEpoch,
    /// Neither fenced nor shutting down: it may join an ISR. The controller has the last word; this
    /// only saves proposals that it would refuse (KIP-841).
    pub may_join: bool,
}

/// Bounds a leader keeps.
///
/// # A follower that keeps up is never evicted for load
/// Appends are held, whatever their acks, while a member of the ISR with an open subscription is more
/// than `lag_bytes_max` behind. So whatever was appended at any time is at most that budget (and one
/// batch) ahead of it, and a member that takes `lag_bytes_max` bytes within `lag_time_max` reaches it in
/// that time. One that is slower, or not there, holds producers up for no longer than
/// `lag_time_max`: then it is out.
///
/// # One that slows all others down is let go
/// A member that takes its share in time can still cost producers most of their throughput. It is let
/// go once appends were held for it *alone* for at least half of each of three quarters of
/// `lag_time_max`, one after the other, if the ISR has more members than `min.insync.replicas`. Alone:
/// everybody else had all there is, and there is another follower, so that producers would have been
/// twice as fast with it only. Where two are slow nobody is let go, for little would be gained; where
/// the load is what all disks can take, neither; and a leader is never left as the only one. For
/// `lag_time_max` whoever was let go does not come back unless it is needed. So `min.insync.replicas`
/// costs no throughput, and nobody leaves twice in `lag_time_max` for the sake of that.
///
/// # What cannot be told apart
/// How far behind a follower can be is bounded by what producers have on their way, too: they wait for it.
/// One that is slower, and reaches within `lag_time_max` what few producers have on their way, is late
/// with each record by less than that, and stays. To the leader it looks like load that is no
/// greater; more producers tell the difference, and it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// `replica.lag.time.max.ms`: a member of the ISR that has not reached, for this long, where the
    /// leader's log ended then, is to leave it.
    pub lag_time_max: Duration,
    /// `replica.lag.bytes.max`: how far a member of the ISR may be behind before producers wait.
    pub lag_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { lag_time_max: Duration::from_secs(10), lag_bytes_max: 64 * 1024 * 1024 }
    }
}
