//! Everything a replica can want done.

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch},
    ids::BrokerId,
    offset::Offset,
};

use super::frame::{Ack, LeaderFrame, Session, Subscribe};

/// A side effect, to be carried out in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    // === To the own log ===
    /// Note the new leader epoch in the log's history, even before its first record: idle followers
    /// must be able to ask for it (KAFKA-15608).
    StartEpoch {
        /// The epoch that starts.
        epoch: LeaderEpoch,
        /// The log end at its start.
        start: Offset,
    },
    /// The frame just given fits on: append its batches, then say so by
    /// [`Event::Replicated`](super::Event::Replicated). A log that is not ready keeps the frame and
    /// gives it again; one that cannot, loses the session.
    Append,
    /// Remove what follows `to`; nothing is appended, acknowledged or read past it from now on.
    Truncate {
        /// The log end from now on.
        to: Offset,
    },
    /// Remove everything: the leader no longer has what would come next. The log goes on, empty,
    /// at `at`.
    Restart {
        /// Log start and log end from now on.
        at: Offset,
    },
    /// Remove records below: the leader did.
    AdvanceLogStart(Offset),

    // === To those who produce and read here ===
    /// Another broker leads: answer every waiting produce with NOT_LEADER; whether its batch
    /// survives is for the new leader to say. The log forgets this term's epoch if nothing was
    /// written in it.
    Resign {
        /// The epoch that ended this broker's term.
        epoch: LeaderEpoch,
        /// Who leads now.
        leader: Option<BrokerId>,
    },
    /// Everything below is committed: show it to readers.
    AdvanceHighWatermark(Offset),
    /// Everything below is committed, and as durable as the topic asks for now: complete the writes
    /// that waited for it. Usually as far as the high watermark, and behind it where the topic's
    /// durability was raised: what had been committed by a weaker rule is not acknowledged by the
    /// stronger one before it holds.
    Acknowledge(Offset),
    /// The committed ISR fell below `min.insync.replicas`: answer every waiting produce with
    /// NOT_ENOUGH_REPLICAS_AFTER_APPEND. What it appended stays and may commit later.
    RefuseWaiting {
        /// Members of the committed ISR.
        isr: usize,
        /// What it takes.
        min_isr: usize,
    },
    /// A member of the ISR is too far behind: let appends wait, whatever their acks
    /// ([`Limits`](super::Limits)).
    HoldAppends,
    /// Appends may go on.
    ResumeAppends,

    // === To followers ===
    /// Push what comes after `from`, beginning with a [`Progress`](super::frame::Progress) frame,
    /// and go on as the log grows. Replaces what was pushed to that follower before.
    Serve {
        /// To whom.
        follower: BrokerId,
        /// On which subscription.
        session: Session,
        /// From where.
        from: Offset,
    },
    /// Answer a follower.
    Reply {
        /// Whom.
        follower: BrokerId,
        /// What: [`Diverging`](super::frame::Diverging) or [`Refused`](super::frame::Refused).
        frame: LeaderFrame,
    },
    /// Stop pushing to that subscription.
    EndSession {
        /// Whose.
        follower: BrokerId,
        /// Which.
        session: Session,
    },
    /// The log grew: wake those who push.
    WakeSenders,
    /// High watermark or log start moved: tell all subscriptions, now if idle, else with the next
    /// batches.
    ShareProgress,

    // === To the leader ===
    /// Ask for records.
    Subscribe(Subscribe),
    /// Say what this replica has.
    Ack(Ack),
    /// What was subscribed to is of no more use.
    Unsubscribe(Session),

    // === To the controller ===
    /// Ask for another ISR. To be sent again, unchanged, until answered or until the partition epoch
    /// has moved on.
    ProposeIsr(IsrProposal),
}

/// A change of the ISR, as compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IsrProposal {
    /// Who proposes: the leader …
    pub leader: BrokerId,
    /// … in this run, …
    pub broker_epoch: BrokerEpoch,
    /// … in this term.
    pub leader_epoch: LeaderEpoch,
    /// The version it is to replace.
    pub partition_epoch: PartitionEpoch,
    /// The new ISR. With each member the run of it that has been heard from in this term; `None`
    /// only for a present member that has not been (KIP-903).
    pub isr: Vec<(BrokerId, Option<BrokerEpoch>)>,
}
