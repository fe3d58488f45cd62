//! Why a read gave nothing, a log start was not moved, a partition not closed in order.

use std::sync::Arc;

use riverrun_proto::{epoch::LeaderEpoch, ids::BrokerId, offset::Offset};
use thiserror::Error;

use crate::log::{Damage, LogError};

/// Why a fetch gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FetchError {
    /// This broker does not lead the partition.
    #[error("this broker does not lead the partition")]
    NotLeader {
        /// Who does, if known.
        leader: Option<BrokerId>,
        /// The newest epoch this broker knows.
        epoch: Option<LeaderEpoch>,
    },
    /// The client's leader epoch is older than the partition's.
    #[error("leader epoch {given} is fenced, the partition is in {current}; refresh the metadata")]
    FencedLeaderEpoch {
        /// The client's.
        given: LeaderEpoch,
        /// The partition's.
        current: LeaderEpoch,
    },
    /// The client's leader epoch is newer than this broker has heard of.
    #[error("leader epoch {given} is not known here yet, the newest is {current}; try again")]
    UnknownLeaderEpoch {
        /// The client's.
        given: LeaderEpoch,
        /// The partition's, as far as this broker knows.
        current: LeaderEpoch,
    },
    /// A follower does not have what was asked for, or finds another past than the reader's. It may be
    /// behind: only the leader can say what that means (KIP-392).
    #[error(
        "this follower cannot say what is at offset {offset}: it has {log_start_offset} to \
         {log_end_offset} and may be behind; ask the leader"
    )]
    NotKnownHere {
        /// The one asked for.
        offset: Offset,
        /// Where its log starts.
        log_start_offset: Offset,
        /// Where it ends.
        log_end_offset: Offset,
        /// Whom it follows.
        leader: Option<BrokerId>,
        /// In which epoch.
        epoch: LeaderEpoch,
    },
    /// Below the log start offset or past the log end offset.
    #[error("offset {offset} is outside the log, which has {log_start_offset} to {log_end_offset}")]
    OutOfRange {
        /// The one asked for.
        offset: Offset,
        /// Where the log starts.
        log_start_offset: Offset,
        /// Where it ends.
        log_end_offset: Offset,
    },
    /// What is stored there is not what was written.
    #[error("the log is corrupt at offset {offset}: {what}")]
    Corrupt {
        /// Where.
        offset: Offset,
        /// The first offset past the damage.
        next_offset: Offset,
        /// What is wrong.
        what: String,
    },
    /// The partition's storage failed.
    #[error("the partition's storage failed: {why}")]
    StorageFailed {
        /// What happened.
        why: String,
    },
    /// The partition is closing: the broker stops or the topic was deleted.
    #[error("the partition is closing")]
    Closing,
}

/// Why an offset could not be told, or the log start not moved.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OffsetsError {
    /// As for a fetch.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A new leader does not know yet what the one before it had committed.
    #[error("the high watermark of this leader epoch is not known yet; try again")]
    NotAvailable,
    /// Another broker may lead by now, and know of more.
    #[error(
        "not heard by the metadata quorum for a while: another broker may lead by now, and have \
         more; refresh the metadata, or try again"
    )]
    LeaseEnded,
    /// The disk is full, and the new log start could not be written down. It is as soon as there is
    /// room, and what lies below removed, without anybody asking again.
    #[error(
        "the disk is full: the records are deleted once there is room for writing that down; \
         free space"
    )]
    StorageFull,
}

impl OffsetsError {
    /// Of a deletion: nothing was deleted, and nothing will be later.
    pub fn is_definite(&self) -> bool {
        !matches!(
            self,
            Self::StorageFull | Self::Fetch(FetchError::Closing | FetchError::StorageFailed { .. })
        )
    }
}

/// Why a partition was not closed in order. The next start reads its log anew.
#[derive(Debug, Error)]
pub enum CloseError {
    /// Its log could not be written down.
    #[error(transparent)]
    Log(#[from] LogError),
    /// It had broken down before.
    #[error("it had broken down: {0}")]
    Broken(Arc<str>),
    /// The log is damaged: what memory says is not what the files are.
    #[error("{0}")]
    Damaged(Damage),
}
