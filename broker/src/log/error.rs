//! What can go wrong with a log. Each error says whether anything happened and whether trying again
//! can help.

use std::{
    io,
    path::{Path, PathBuf},
};

use riverrun_proto::{ids::TopicPartition, offset::Offset};

use super::envelope::FormatError;
use crate::io::failure::Failed;

/// Bytes that are not what was written, where all is supposed to be durable. Nothing repairs this
/// but a copy from another replica; nothing is cut because of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log is damaged at offset {offset}: {what}; whole batches follow from {next_offset} on"
)]
pub struct Damage {
    /// The first offset that cannot be read.
    pub offset: Offset,
    /// The first one after it that can, or the log end offset.
    pub next_offset: Offset,
    /// What was found there.
    pub what: String,
}

/// Why a log could not be made or opened, or why slow work on it failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A call to the disk failed. After an `EIO` from a sync the whole log directory has failed;
    /// after other errors trying again may help.
    #[error("{what} {} failed", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No room on the disk. What was begun was undone; it is tried again by itself.
    #[error("there is no room on the disk for {what} {}: delete records or enlarge it", path.display())]
    StorageFull {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
    },
    /// A file is newer than this broker, or broken. Trying again does not help.
    #[error("{} cannot be read: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A directory without `partition.meta`. That file is durable before any data, so either the
    /// partition was never used, or somebody removed the file.
    #[error(
        "{} has no partition.meta: it is not the directory of a partition{}", dir.display(),
        if *has_segments { ", although segments lie in it" } else { "" }
    )]
    NoMeta {
        /// The directory.
        dir: PathBuf,
        /// Whether there are segments: then it is not safe to make the partition anew in it.
        has_segments: bool,
    },
    /// The directory's name and its `partition.meta` disagree.
    #[error("{} holds partition {found}, not what its name says", dir.display())]
    WrongPartition {
        /// The directory.
        dir: PathBuf,
        /// What its file says.
        found: TopicPartition,
    },
    /// The log directory has failed; nothing was done.
    #[error(transparent)]
    Failed(#[from] Failed),
}

impl LogError {
    /// The error of a call to the disk.
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_full(&source) {
            Self::StorageFull { what, path }
        } else {
            Self::Io { what, path, source }
        }
    }

    /// Whether the disk is full.
    pub const fn is_storage_full(&self) -> bool {
        matches!(self, Self::StorageFull { .. })
    }

    /// Whether the file was not there.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Why nothing was appended. Nothing of the batch is in the log, whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Slow work is due first: park the batch, run what [`super::Log::take_work`] gives (unless it
    /// is running already), complete it, append again.
    #[error("the segment is not ready for an append yet")]
    NotReady,
    /// The disk is full. The log tries again by itself when it is next appended to, or ticked, a
    /// second later.
    #[error("there is no room on the disk: nothing was written; delete records or enlarge it")]
    StorageFull,
    /// The log directory has failed.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The log is damaged; appending behind the damage would leave a hole for good. Truncate it to
    /// the damaged offset, and so accept the loss or copy what is missing from another replica.
    #[error("nothing is appended to a damaged log: {0}")]
    Damaged(Damage),
    /// The batch is larger than a batch may be.
    #[error("a batch of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Bytes of the batch.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The batch was stamped for another place in the log.
    #[error("the batch was stamped with offset {found}, the log ends at {log_end}")]
    WrongOffset {
        /// The log end offset.
        log_end: Offset,
        /// In the batch.
        found: i64,
    },
    /// The batch was stamped by a leader older than the one that wrote last.
    #[error("the batch has leader epoch {found}, the log is at {latest} already")]
    StaleEpoch {
        /// In the log.
        latest: i32,
        /// In the batch.
        found: i32,
    },
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset lies before the log start offset or beyond the log end offset.
    #[error("the log begins at {start} and ends at {end}")]
    OutOfRange {
        /// Log start offset.
        start: Offset,
        /// Log end offset.
        end: Offset,
    },
    /// The bytes are not those that were written. Reading on from `next_offset` is possible.
    #[error(transparent)]
    Corrupt(#[from] Damage),
    /// The disk could not be read; trying again may help.
    #[error(transparent)]
    Log(#[from] LogError),
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
