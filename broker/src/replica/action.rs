//! Everything a replica can want done.

use riverrun_proto::{epoch::LeaderEpoch, ids::BrokerId, offset::Offset};

/// A side effect, to be carried out in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Note the new leader epoch in the log's history, even before its first record: idle followers
    /// must be able to ask for it (KAFKA-15608).
    StartEpoch {
        /// The epoch that starts.
        epoch: LeaderEpoch,
        /// The log end at its start.
        start: Offset,
    },
    /// Another broker leads: answer every waiting produce with NOT_LEADER; whether its batch
    /// survives is for the new leader to say.
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
}
