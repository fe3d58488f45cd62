//! What goes into a node and what comes out of it.

use raft::eraftpb::Message;

use super::{membership::ChangeError, mutation::Planted, writes::Write};
use crate::{
    controller::{error::QuorumError, frame::Membership, quorum::Judged},
    io::failure::Failed,
    metadata::{Delta, MetadataImage, MetadataOffset, RecordError},
};

/// How a node behaves. Times are in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeOptions {
    /// Without a sign of the leader for so long, and up to twice that, a voter stands for election.
    pub(super) election_ticks: u32,
    /// The leader shows itself so often.
    pub(super) heartbeat_ticks: u32,
    /// A snapshot is made after so many entries, or so many bytes of log.
    pub(super) snapshot_entries: u64,
    pub(super) snapshot_bytes: u64,
    /// So many applied entries are kept in memory for voters that are a little behind.
    pub(super) keep_entries: u64,
    /// Makes this run's choices: election timeouts, and names of reads that no other run used.
    pub(super) seed: u64,
    pub(super) planted: Planted,
}

/// Names a request in its answer; whoever asks chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(pub(super) u64);

/// An answer to a request.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Proposed(Result<Judged, QuorumError>),
    Read(Result<MetadataOffset, QuorumError>),
    Changed(Result<Membership, ChangeError>),
}

/// The image after an entry, or after a leader's snapshot.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    pub(super) image: MetadataImage,
    pub(super) deltas: Vec<Delta>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    pub(super) messages: Vec<Message>,
    pub(super) write: Option<Write>,
    pub(super) applied: Vec<Applied>,
    pub(super) answers: Vec<(Ticket, Answer)>,
}

/// Why a node does no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stop {
    #[error(transparent)]
    Storage(#[from] Failed),
    #[error("metadata entry {offset} cannot be applied: {source}")]
    Record { offset: u64, source: RecordError },
    #[error("a change of the quorum, entry {offset}, cannot be applied: {why}")]
    Change { offset: u64, why: String },
    #[error(
        "this voter has acknowledged entry {acknowledged} and has entries up to {last} only: its disk \
         has lost some. Take it out of the quorum and let it join again with an empty directory"
    )]
    LostEntries { acknowledged: u64, last: u64 },
}

/// What a node has done since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeStats {
    /// Elections this node has won.
    pub elections_won: u64,
    /// Snapshots of its own, written.
    pub snapshots_made: u64,
    /// A leader's snapshots, taken over.
    pub snapshots_installed: u64,
    /// Snapshots of a leader that could not be read, and were refused.
    pub snapshots_refused: u64,
    /// Times another leader's entries took the place of some.
    pub truncations: u64,
    /// Messages for another voter, or none that Raft takes.
    pub messages_refused: u64,
    /// Entries applied.
    pub entries: u64,
    /// Of these, commands that were rejected.
    pub rejected: u64,
    /// Changes of voters that came into force.
    pub changes: u64,
    /// Proposals refused because the disk is full.
    pub disk_full: u64,
    /// Bytes of entries in memory at the moment.
    pub log_bytes: u64,
    /// Bytes that wait for the disk at the moment.
    pub unwritten_bytes: u64,
}

// === impl Stop ===

impl Stop {
    /// What whoever comes later is told: nothing was written.
    pub(super) fn refusal(&self) -> QuorumError {
        match self {
            Self::Storage(failed) => QuorumError::StorageFailed(failed.clone()),
            _ => QuorumError::NotLeader { leader: None },
        }
    }
}
