//! What the replicas of a partition say to each other.
//!
//! ```text
//!   follower                                  leader
//!      │  Subscribe (what I have)                │   checked like a fetch
//!      │ ───────────────────────────────────────►│
//!      │            Progress │ Diverging │ Refused   granted, or cut your log, or not like this
//!      │ ◄───────────────────────────────────────│
//!      │            Data, Data, …                │   pushed, as far as credit goes
//!      │ ◄───────────────────────────────────────│
//!      │  Ack (what I have now)                  │   checked like a fetch, again
//!      │ ───────────────────────────────────────►│
//!      │            Progress (high watermark)    │   at once
//!      │ ◄───────────────────────────────────────│
//! ```
//!
//! Only what a follower says it has ([`Position`]) moves the leader's view of it, never what was sent
//! to it. So frames may be lost, late, doubled or out of order: replication.md 1.13 has the argument,
//! and the search in `tests/proof` tries it.

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch},
    epoch_history::EpochStart,
    ids::BrokerId,
    offset::Offset,
};

/// One subscription: of one run of one follower, to the leader of one epoch, with no truncation in
/// between. Frames of any other are not for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// The follower's run.
    pub broker_epoch: BrokerEpoch,
    /// Counted by the follower.
    pub number: u64,
}

/// What a follower has: the body of a [`Subscribe`] and of an [`Ack`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Who.
    pub follower: BrokerId,
    /// The leader epoch it follows in.
    pub leader_epoch: LeaderEpoch,
    /// Its subscription.
    pub session: Session,
    /// Its log end.
    pub log_end: Offset,
    /// The epoch of the batch that ends there; `None`: its log is empty.
    pub last_epoch: Option<LeaderEpoch>,
    /// What of it is on its disk.
    pub flushed_end: Offset,
    /// Where its log begins.
    pub log_start: Offset,
}

/// Asks for what comes after `log_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subscribe(pub Position);

/// Says how far the follower is. Only the latest of a session matters: one that waits to be sent may
/// be replaced by the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ack(pub Position);

/// From the leader to a follower.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaderFrame {
    /// Batches.
    Data(DataHead),
    /// How far the log is committed; the first one grants the subscription.
    Progress(Progress),
    /// The logs part before the follower's end.
    Diverging(Diverging),
    /// Not like this.
    Refused(Refused),
}

/// What of a push the protocol looks at; the batches themselves are the log's business.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataHead {
    /// To which subscription, in which epoch, and how far the log is committed.
    pub progress: Progress,
    /// Offset of the first record.
    pub base: Offset,
    /// Epoch of the batch before it; `None`: there is none.
    pub previous_epoch: Option<LeaderEpoch>,
    /// The end of the last batch.
    pub end: Offset,
    /// The epochs of the batches, as runs: the first begins at `base`, epochs and starts grow.
    pub epochs: Vec<EpochStart>,
}

impl DataHead {
    /// The part below `at`, a boundary between two batches: for a log that took so much of it.
    #[must_use]
    pub fn until(&self, at: Offset) -> Self {
        let epochs = self.epochs.iter().filter(|run| run.start < at).copied().collect();
        Self { end: at, epochs, ..self.clone() }
    }

    /// The part from `at` on, a boundary between two batches: for a log that has the rest.
    #[must_use]
    pub fn since(&self, at: Offset) -> Self {
        if at <= self.base {
            return self.clone();
        }
        let before = self.epochs.iter().rfind(|run| run.start < at).map(|run| run.epoch);
        let first = self.epochs.iter().rfind(|run| run.start <= at);
        let first = first.map(|run| EpochStart { epoch: run.epoch, start: at });
        let later = self.epochs.iter().filter(|run| run.start > at).copied();
        Self {
            base: at,
            previous_epoch: before,
            epochs: first.into_iter().chain(later).collect(),
            ..self.clone()
        }
    }
}

/// How far the leader's log is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Progress {
    /// To which subscription.
    pub session: Session,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// First offset not committed.
    pub high_watermark: Offset,
    /// Where the leader's log begins.
    pub log_start: Offset,
}

/// The follower's log is not a prefix of the leader's. Names what it answers, because an answer that
/// comes late must not cut another log than the one it was given for (KAFKA-18991). Neither high
/// watermark nor log start: they mean nothing to a log that has yet to be cut (KAFKA-14704).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diverging {
    /// What the follower had said.
    pub asked: Position,
    /// The newest epoch not newer than the follower's last that the leader's log has; `None`: all it
    /// has is of newer ones.
    pub epoch: Option<LeaderEpoch>,
    /// Where that ends in the leader's log. Without one, where a log is to begin anew: the records
    /// that would tell where the two part are deleted, and no offset above is known to be the end of
    /// a batch of the follower's.
    pub end: Offset,
}

/// A subscription or acknowledgement was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refused {
    /// Of which subscription.
    pub session: Session,
    /// The epoch it named.
    pub leader_epoch: LeaderEpoch,
    /// Why.
    pub reason: Refusal,
}

/// Why a leader does not accept what a follower says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// An older epoch than this broker's: the follower's metadata is behind.
    FencedEpoch,
    /// A newer one, or not led here: this broker's metadata is behind.
    UnknownEpoch,
    /// The follower is not among the replicas, as far as this broker knows.
    NotReplica,
    /// Of an earlier run of the follower (KIP-903).
    StaleBrokerEpoch,
    /// An acknowledgement to a session that is none (any more).
    UnknownSession,
    /// What the follower asks for is not in the leader's log: it was deleted, or the follower's log
    /// is empty and begins past the leader's end.
    OutOfRange {
        /// Where a log is to begin anew: at the leader's log start, or where the batch begins that
        /// holds it.
        log_start: Offset,
    },
    /// The follower's last epoch is newer than any the leader knows: a broken log on either side.
    Inconsistent,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(base: i64, previous: Option<i32>, end: i64, runs: &[(i32, i64)]) -> DataHead {
        let at = |offset| Offset::new(offset).unwrap();
        let epoch = |epoch| LeaderEpoch::new(epoch).unwrap();
        let run = |&(e, start)| EpochStart { epoch: epoch(e), start: at(start) };
        DataHead {
            progress: Progress {
                session: Session { broker_epoch: BrokerEpoch::new(7).unwrap(), number: 1 },
                leader_epoch: epoch(9),
                high_watermark: at(3),
                log_start: at(0),
            },
            base: at(base),
            previous_epoch: previous.map(epoch),
            end: at(end),
            epochs: runs.iter().map(run).collect(),
        }
    }

    #[test]
    fn the_parts_of_a_frame_follow_one_another() {
        let whole = head(10, Some(1), 20, &[(2, 10), (4, 15)]);
        let cases = [
            (10, head(10, Some(1), 10, &[]), whole.clone()),
            (12, head(10, Some(1), 12, &[(2, 10)]), head(12, Some(2), 20, &[(2, 12), (4, 15)])),
            (15, head(10, Some(1), 15, &[(2, 10)]), head(15, Some(2), 20, &[(4, 15)])),
            (18, head(10, Some(1), 18, &[(2, 10), (4, 15)]), head(18, Some(4), 20, &[(4, 18)])),
        ];
        for (at, until, since) in cases {
            let at = Offset::new(at).unwrap();
            assert_eq!(whole.until(at), until, "until {at}");
            assert_eq!(whole.since(at), since, "since {at}");
        }
    }
}
