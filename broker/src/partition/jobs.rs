//! Log work on the pool, and its way back into the partition.
//!
//! Whatever becomes of a work the partition hears of it, once: done, panicked, or dropped by a pool
//! that has closed. A work that is lost leaves the log waiting for it; so the partition takes no
//! writes from then on, and says why, rather than stand still without a word.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    order::{Effects, State},
    owner::Partition,
    pool::{Lane, panic_text},
    produce::ProduceError,
};
use crate::{
    log::{LogError, LogWork, LogWorkDone},
    replica::Event,
};

/// A work, and which cut of the log it is, if it is one.
pub(super) struct Piece {
    pub(super) work: LogWork,
    pub(super) cut: Option<u64>,
}

/// What a work is, once it has been consumed by running.
#[derive(Debug, Clone, Copy)]
struct About {
    name: &'static str,
    is_flush: bool,
    is_delete: bool,
    is_for_appends: bool,
    /// Which cut of the log it is, if it is one.
    cut: Option<u64>,
}

impl About {
    const fn of(Piece { work, cut }: &Piece) -> Self {
        Self {
            cut: *cut,
            name: work.name(),
            is_flush: work.is_flush(),
            is_delete: work.is_delete(),
            is_for_appends: work.is_for_appends(),
        }
    }
}

/// A work in line; tells its partition if it is dropped without having run.
struct Job {
    partition: Arc<Partition>,
    piece: Option<Piece>,
}

impl Job {
    fn run(mut self) {
        let Some(piece) = self.piece.take() else { return };
        let about = About::of(&piece);
        let partition = &self.partition;
        let clock = &partition.env.clock;
        // Its log is broken from then on, which is said; the files are read anew by the next start.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let began = clock.monotonic();
            let done = piece.work.run();
            (done, clock.monotonic().duration_since(began))
        }));
        match ran {
            Ok((done, took)) => {
                if about.is_flush {
                    partition.env.metrics.observe_fsync(took);
                }
                partition.work_done(about, done);
            }
            Err(panic) => partition.work_lost(about, panic_text(panic.as_ref())),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(piece) = self.piece.take() {
            self.partition.work_lost(About::of(&piece), "the I/O threads have ended");
        }
    }
}

impl Partition {
    pub(super) fn hand_to_pool(self: &Arc<Self>, piece: Piece) {
        let job = Job { partition: Arc::clone(self), piece: Some(piece) };
        self.env.pool.run(Lane::Work, move || job.run());
    }

    fn work_done(self: &Arc<Self>, about: About, done: LogWorkDone) {
        let error = self.change(|state, effects| {
            state.works -= 1;
            let now = self.env.clock.now();
            let error = state.take_in(self, about, done, effects);
            // Also after a failure: the log now says why it is not ready.
            state.drain_parked(self, now, effects);
            state.drain_pushes(self, effects);
            error
        });
        if let Some(error) = error {
            let (work, cause) = (about.name, std::error::Error::source(&error));
            tracing::error!(partition = %self.id(), topic = %self.topic(), work, %error, cause, "log work failed");
        }
    }

    fn work_lost(self: &Arc<Self>, about: About, why: &str) {
        self.change(|state, effects| {
            state.works -= 1;
            state.break_down(&format!("{} was lost: {why}", about.name), effects);
        });
        let work = about.name;
        tracing::error!(partition = %self.id(), topic = %self.topic(), work, %why, "log work was lost; the partition takes no writes until the broker is restarted");
    }
}

impl State {
    fn take_in(
        &mut self,
        partition: &Arc<Partition>,
        about: About,
        done: LogWorkDone,
        effects: &mut Effects,
    ) -> Option<LogError> {
        match self.log.complete(done) {
            Ok(completed) => {
                if let Some(flushed_end) = completed.flushed_end {
                    self.step(partition, Event::Flushed { flushed_end }, effects);
                }
                if let Some(number) = about.cut {
                    self.cut_ran(number, Some(&completed), effects);
                }
                // What a deletion wrote down that began before the log was begun anew is of the log
                // that is gone.
                if let Some(log_start) = completed.log_start
                    && log_start <= self.log.log_start_offset()
                {
                    self.step(partition, Event::LogStartAdvanced { log_start }, effects);
                    self.deletions.note_durable(log_start, effects);
                }
                if about.is_delete {
                    self.deleted(None, effects);
                }
                None
            }
            Err(error) => {
                if let Some(number) = about.cut {
                    self.cut_ran(number, None, effects);
                }
                if about.is_delete {
                    self.deleted(Some(&error), effects);
                }
                if !error.is_storage_full() {
                    self.stalled = true;
                    if about.is_for_appends {
                        let why = error.to_string();
                        let failed = ProduceError::StorageFailed { why, appended: false };
                        self.answer_parked(&failed, effects);
                    }
                }
                Some(error)
            }
        }
    }
}
