//! Slow work on a log, as a value: the partition's lock is held while work is *made* and while its
//! result is *taken in*, never while it runs.
//!
//! ```text
//!   lock │ let work = log.take_work()        │            │ log.complete(done) │
//!        │ or start_flush, start_truncate …  │            │  → Completed       │
//!   pool                                     │ work.run() │
//! ```
//! Every work that was made has to be run and completed (dropping one leaves the log waiting for
//! it). Any order of completion is fine. At most one of each kind is under way: one that gets the
//! active segment ready, one checkpoint, one flush; a truncation makes everything that was begun
//! before it void.
//!
//! Two locks of the disk's side order the few works that would meet on files; both are taken by
//! work that runs, never under the partition's lock.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use riverrun_proto::offset::Offset;

use super::{
    checkpoint::Checkpoint, checkpointing, deletion, error::LogError, flush, readying,
    shared::Shared, truncation,
};

/// Something slow to be done for a log: run it on the I/O pool, give the result to
/// [`super::Log::complete`].
#[derive(Debug)]
#[must_use = "the log waits for it"]
pub struct LogWork {
    pub(super) shared: Arc<Shared>,
    pub(super) side: Arc<DiskSide>,
    pub(super) generation: u64,
    pub(super) kind: Kind,
}

/// What became of a work.
#[derive(Debug)]
#[must_use = "the log waits for it"]
pub struct LogWorkDone {
    pub(super) generation: u64,
    pub(super) outcome: Outcome,
}

/// What changed by a completed work. Several may have, or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Completed {
    /// The flushed end moved here.
    pub flushed_end: Option<Offset>,
    /// The active segment can be appended to again: retry parked batches.
    pub appendable: bool,
    /// The recovery point moved here.
    pub recovery_point: Option<Offset>,
    /// The log start offset that is durable now: what lies below it never comes back.
    pub log_start: Option<Offset>,
    /// A truncation is done: the log ends here, at a batch boundary at or below what was asked for.
    pub truncated_to: Option<Offset>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Ready(readying::Ready),
    Flush(flush::Flush),
    Checkpoint(Box<checkpointing::Checkpointing>),
    Truncate(Box<truncation::Truncate>),
    Reset(truncation::Reset),
    Delete(Box<deletion::Delete>),
    Nothing,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Ready(Result<readying::Readied, LogError>),
    Flush(Result<flush::Flushed, LogError>),
    Checkpoint(Result<checkpointing::Checkpointed, LogError>),
    Truncate(Result<Box<truncation::Truncated>, LogError>),
    Reset(Result<Offset, LogError>),
    /// One that failed comes back, to be tried again.
    Delete(Result<deletion::Deleted, (LogError, Box<deletion::Delete>)>),
    /// Made void by a truncation before it ran.
    Void(Voided),
}

/// What a void work was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voided {
    Ready,
    Checkpoint,
    Other,
}

/// What works on the same files share.
#[derive(Debug)]
pub(super) struct DiskSide {
    /// Grows with every truncation: work of an earlier generation is void.
    generation: AtomicU64,
    /// Grows when the log is emptied: deletions of an earlier one could hit new files.
    resets: AtomicU64,
    /// The checkpoint as it stands on the disk. Held while any of the small files is written.
    pub(super) checkpoint: Mutex<Checkpoint>,
    /// Held while segment files appear, or disappear from the end.
    pub(super) tail: Mutex<()>,
}

// === impl LogWork ===

impl LogWork {
    /// Does it. Blocks: on the disk, and on other works of the same log.
    pub fn run(self) -> LogWorkDone {
        let Self { shared, side, generation, kind } = self;
        let context = Context { shared: &shared, side: &side, generation };
        let outcome = match kind {
            Kind::Ready(ready) => ready.run(&context),
            Kind::Flush(flush) => Outcome::Flush(flush.run(&context)),
            Kind::Checkpoint(checkpointing) => checkpointing.run(&context),
            Kind::Truncate(truncate) => truncate.run(&context),
            Kind::Reset(reset) => reset.run(&context),
            Kind::Delete(delete) => Outcome::Delete(delete.run(&context)),
            Kind::Nothing => Outcome::Void(Voided::Other),
        };
        LogWorkDone { generation, outcome }
    }

    /// Whether it is a group commit, for metrics.
    pub const fn is_flush(&self) -> bool {
        matches!(self.kind, Kind::Flush(_))
    }

    /// Whether it moves the log start offset.
    pub const fn is_delete(&self) -> bool {
        matches!(self.kind, Kind::Delete(_))
    }

    /// Whether it cuts the log, or empties it: until one went well nothing is appended.
    pub const fn is_cut(&self) -> bool {
        matches!(self.kind, Kind::Truncate(_) | Kind::Reset(_))
    }

    /// Whether appends may be waiting for it.
    pub const fn is_for_appends(&self) -> bool {
        matches!(self.kind, Kind::Ready(_))
    }

    /// What it is, for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Ready(ready) => ready.name(),
            Kind::Flush(_) => "flush",
            Kind::Checkpoint(_) => "checkpoint",
            Kind::Truncate(_) => "truncate",
            Kind::Reset(_) => "reset",
            Kind::Delete(_) => "delete",
            Kind::Nothing => "nothing",
        }
    }
}

impl LogWorkDone {
    /// What went wrong, if something did. For the last work of a log, which has nobody to take its
    /// result in; otherwise [`super::Log::complete`] says it.
    pub const fn error(&self) -> Option<&LogError> {
        match &self.outcome {
            Outcome::Ready(Err(error))
            | Outcome::Flush(Err(error))
            | Outcome::Checkpoint(Err(error))
            | Outcome::Truncate(Err(error))
            | Outcome::Reset(Err(error))
            | Outcome::Delete(Err((error, _))) => Some(error),
            _ => None,
        }
    }
}

/// What a work runs with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) shared: &'a Shared,
    pub(super) side: &'a DiskSide,
    pub(super) generation: u64,
}

impl Context<'_> {
    /// Whether a truncation made this work void. To be asked with a lock of [`DiskSide`] held.
    pub(super) fn is_void(&self) -> bool {
        self.side.generation() != self.generation
    }
}

// === impl DiskSide ===

impl DiskSide {
    pub(super) fn new(checkpoint: Checkpoint) -> Self {
        Self {
            generation: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            checkpoint: Mutex::new(checkpoint),
            tail: Mutex::new(()),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(super) fn resets(&self) -> u64 {
        self.resets.load(Ordering::Acquire)
    }

    pub(super) fn note_reset(&self) {
        self.resets.fetch_add(1, Ordering::AcqRel);
    }
}
