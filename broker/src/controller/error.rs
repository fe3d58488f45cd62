//! What can go wrong with the metadata log: while it is opened, and when it is asked for something.

use std::{
    io,
    path::{Path, PathBuf},
};

use riverrun_proto::ids::{BrokerId, ClusterId};
use thiserror::Error;

use crate::{
    io::failure::Failed,
    metadata::{MetadataOffset, RecordError, Rejection, SnapshotError},
};

/// Why a command was not, or not certainly, carried out; or why a read has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuorumError {
    /// It was judged, and changed nothing.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It cannot be stored.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another node leads, or none does at the moment.
    #[error("this node does not lead the metadata quorum{}", leader_hint(*leader))]
    NotLeader {
        /// Who may lead, as far as known here.
        leader: Option<BrokerId>,
    },
    /// The disk is full. Nothing was written; it works again when there is room.
    #[error("the disk that holds the metadata log is full; free some space and try again")]
    StorageFull,
    /// The log directory failed before. Nothing was written.
    #[error(transparent)]
    StorageFailed(#[from] Failed),
    /// The node failed, or stopped, while it was at work: the command may be in the log or not.
    #[error("it is not known whether the change was made ({0}); read the state, then try again")]
    OutcomeUnknown(String),
    /// This node stops. Nothing was written.
    #[error("this broker is shutting down")]
    ShuttingDown,
}

impl QuorumError {
    /// Whether the same request may succeed later, or on the node that leads.
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Rejected(rejection) => rejection.is_retriable(),
            Self::NotLeader { .. }
            | Self::StorageFull
            | Self::OutcomeUnknown(_)
            | Self::ShuttingDown => true,
            Self::Record(_) | Self::StorageFailed(_) => false,
        }
    }

    /// Whether it is certain that nothing changed.
    pub const fn is_definite(&self) -> bool {
        !matches!(self, Self::OutcomeUnknown(_))
    }
}

fn leader_hint(leader: Option<BrokerId>) -> String {
    let nobody = || "; nobody does now: a majority of its voters must be up".into();
    leader.map_or_else(nobody, |leader| format!("; {leader:?} does"))
}

/// Why a data directory's metadata cannot be used. Nothing was changed, save that leftovers of an
/// earlier run may be gone. No retry helps without somebody's doing.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The log directory failed in an earlier run.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The disk would not.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not the bytes that were written.
    #[error(
        "{} is damaged at byte {position}: {problem}. It says which topics there are, and is not \
         guessed at: restore the data directory from a copy", path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        position: u64,
        /// What is wrong.
        problem: String,
    },
    /// Written by a newer binary.
    #[error(
        "{} has {what}, which this version of Riverrun does not know: start the version that wrote \
         it or a later one", path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// What is in it.
        what: String,
    },
    /// An entry that this binary cannot apply.
    #[error("metadata entry {offset} cannot be applied")]
    Record {
        /// Which one.
        offset: MetadataOffset,
        /// Why not.
        source: RecordError,
    },
    /// A snapshot that this binary cannot use.
    #[error("{} cannot be used", path.display())]
    Snapshot {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: SnapshotError,
    },
    /// A file that must be there is not.
    #[error(
        "{} is missing. Without it this broker does not know its topics; restore the data directory \
         from a copy", path.display()
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// The directory belongs to another cluster.
    #[error("{} belongs to cluster {found}, this broker to cluster {expected}", path.display())]
    OtherCluster {
        /// Which file says so.
        path: PathBuf,
        /// What it says.
        found: ClusterId,
        /// What should be there.
        expected: ClusterId,
    },
    /// The directory belongs to another broker.
    #[error(
        "{} belongs to {found:?}, this is {expected:?}: give each broker a data directory of its own",
        path.display()
    )]
    OtherNode {
        /// Which file says so.
        path: PathBuf,
        /// What it says.
        found: BrokerId,
        /// What should be there.
        expected: BrokerId,
    },
    /// `meta.properties` is not what we write.
    #[error("{}: {problem}", path.display())]
    Properties {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A directory with data, and nothing that says whose.
    #[error(
        "{} has no meta.properties, but holds {found}: it is not formatted over somebody's data. \
         Restore meta.properties, or give the broker another data directory", dir.display()
    )]
    Unidentified {
        /// The data directory.
        dir: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// The log belongs to a quorum of several nodes.
    #[error("{} has {voters} voters; this version runs a quorum of one only", path.display())]
    NotAlone {
        /// The directory of the log.
        path: PathBuf,
        /// How many.
        voters: usize,
    },
}

impl OpenError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    pub(super) fn damaged(path: &Path, position: usize, problem: impl Into<String>) -> Self {
        let position = position as u64;
        Self::Damaged { path: path.to_owned(), position, problem: problem.into() }
    }
}
