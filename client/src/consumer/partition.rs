//! Where one assigned partition stands. Pure: everything that moves it is a method here.
//!
//! ```text
//!   handed out        buffered               still to come
//!  ───────────────┬──────────────────────┬────────────────────► offsets
//!                 ^ position             ^ fetch offset        high watermark: as last heard
//! ```
//!
//! Two counters tell stale things apart. `version` grows when what is buffered or on its way is no
//! longer wanted (seek, pause, truncation): data of an older version is dropped wherever it is met.
//! `attempt` grows when the broker has to be told again where to read, while what is buffered
//! stays good (another leader, a retry).

use std::time::Duration;

use riverrun_proto::ids::TopicId;

use crate::{clock::Instant, error::Error, topic::Position};

/// State of an assigned partition.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) version: u64,
    pub(crate) attempt: u64,
    /// Known once metadata is; never another afterwards.
    pub(crate) topic: Option<TopicId>,
    place: Place,
    /// Next offset to ask the broker for.
    pub(crate) fetch_offset: i64,
    /// Leader epoch of the last batch fetched, and of the last record handed out.
    pub(crate) fetched_epoch: Option<i32>,
    read_epoch: Option<i32>,
    pub(crate) paused: bool,
    pub(crate) high_watermark: Option<i64>,
    pub(crate) log_start_offset: Option<i64>,
    /// The broker said that nothing lies between fetch offset and high watermark.
    caught_up: bool,
    /// The reader was told of this end.
    end_told: Option<i64>,
    /// Nothing is asked for before this.
    pub(crate) resume_at: Option<Instant>,
    /// Failures since data came.
    pub(crate) failures: u32,
    /// The broker answered an error that waits, in order, in the buffer.
    pub(crate) halted: bool,
    /// No longer assigned.
    pub(crate) removed: bool,
}

/// Where the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// To be turned into an offset; asked for.
    Unresolved {
        position: Position,
        asked: bool,
    },
    At(i64),
}

// === impl Live ===

impl Live {
    pub(crate) fn new(position: Position) -> Self {
        let mut live = Self {
            version: 0,
            attempt: 0,
            topic: None,
            place: Place::At(0),
            fetch_offset: 0,
            fetched_epoch: None,
            read_epoch: None,
            paused: false,
            high_watermark: None,
            log_start_offset: None,
            caught_up: false,
            end_told: None,
            resume_at: None,
            failures: 0,
            halted: false,
            removed: false,
        };
        live.seek(position);
        live
    }

    /// Goes on reading from there; what is buffered is not wanted any more.
    pub(crate) fn seek(&mut self, position: Position) {
        self.place = match position {
            Position::Offset(offset) => Place::At(offset),
            position => Place::Unresolved { position, asked: false },
        };
        self.fetched_epoch = None;
        self.read_epoch = None;
        self.end_told = None;
        self.resume_at = None;
        self.failures = 0;
        self.start_over();
    }

    /// A place that was asked for is this offset.
    pub(crate) fn resolved(&mut self, offset: i64) {
        self.place = Place::At(offset);
        self.start_over();
    }

    /// The place to ask for, once.
    pub(crate) fn ask_place(&mut self) -> Option<Position> {
        match &mut self.place {
            Place::Unresolved { position, asked } => {
                (!std::mem::replace(asked, true)).then_some(*position)
            }
            Place::At(_) => None,
        }
    }

    /// The place could not be asked for; try again after a while.
    pub(crate) fn ask_again(&mut self) {
        if let Place::Unresolved { asked, .. } = &mut self.place {
            *asked = false;
        }
    }

    pub(crate) fn pause(&mut self) {
        if !self.paused {
            self.paused = true;
            self.start_over();
        }
    }

    pub(crate) fn resume(&mut self) {
        self.paused = false;
    }

    /// Forgets what was fetched and not handed out.
    fn start_over(&mut self) {
        self.version += 1;
        self.halted = false;
        self.caught_up = false;
        self.fetched_epoch = self.read_epoch;
        if let Place::At(offset) = self.place {
            self.fetch_offset = offset;
        }
    }

    /// A batch came and is buffered.
    pub(crate) fn fetched(&mut self, next_offset: i64, epoch: Option<i32>) {
        self.fetch_offset = self.fetch_offset.max(next_offset);
        self.fetched_epoch = epoch.or(self.fetched_epoch);
        self.failures = 0;
    }

    /// News that came with data.
    pub(crate) fn heard(
        &mut self,
        high_watermark: Option<i64>,
        log_start_offset: Option<i64>,
        caught_up: bool,
    ) {
        self.high_watermark = high_watermark.or(self.high_watermark);
        self.log_start_offset = log_start_offset.or(self.log_start_offset);
        self.caught_up = caught_up;
    }

    /// The record at `offset` is handed out, or skipped.
    pub(crate) fn advance(&mut self, next_offset: i64, epoch: i32) {
        if let Place::At(offset) = &mut self.place
            && *offset < next_offset
        {
            *offset = next_offset;
            self.read_epoch = Some(epoch);
        }
    }

    /// The log ends at `end_offset` for the epoch that was read. Gives the error for the reader if
    /// it has read beyond; if not, the log it has seen still stands.
    pub(crate) fn diverged(&mut self, leader_epoch: i32, end_offset: i64) -> Option<i64> {
        let read = self.position().filter(|position| *position > end_offset);
        if read.is_some() {
            self.place = Place::At(end_offset);
            self.read_epoch = Some(leader_epoch);
        }
        self.end_told = None;
        self.start_over();
        read
    }

    /// Something failed that may be better after `wait`; what is buffered stays.
    pub(crate) fn retry_at(&mut self, at: Instant) {
        self.attempt += 1;
        self.failures = self.failures.saturating_add(1);
        self.resume_at = Some(at);
    }

    /// Another broker is to be asked, or the same one otherwise; what is buffered stays.
    pub(crate) fn asks_anew(&mut self) {
        self.attempt += 1;
    }

    /// The reader got an error for this partition: what was fetched behind it is dropped, and it is
    /// asked for again after a while.
    pub(crate) fn failed(&mut self, at: Instant) {
        self.start_over();
        self.retry_at(at);
    }

    /// Whether the reader has to be told of this end now.
    pub(crate) fn tell_end(&mut self, offset: i64) -> bool {
        let is_end = self.caught_up && self.position() == Some(offset);
        is_end && self.end_told.replace(offset) != Some(offset)
    }

    /// Next offset the reader gets; `None`: not resolved yet.
    pub(crate) fn position(&self) -> Option<i64> {
        match self.place {
            Place::At(offset) => Some(offset),
            Place::Unresolved { .. } => None,
        }
    }

    /// Whether and from where the broker should send.
    pub(crate) fn wants_data(&self, now: Instant) -> bool {
        !self.paused
            && !self.halted
            && !self.removed
            && self.position().is_some()
            && self.resume_at.is_none_or(|at| at <= now)
    }

    /// The reader has everything up to the high watermark as last heard.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up && self.position() == Some(self.fetch_offset)
    }

    /// Records between position and high watermark, as last heard.
    pub(crate) fn lag(&self) -> Option<u64> {
        let (position, end) = (self.position()?, self.high_watermark?);
        Some(u64::try_from(end.saturating_sub(position)).unwrap_or(0))
    }
}

/// What the reader is told when the log was cut below what it had read.
pub(crate) fn truncated(partition: &impl std::fmt::Display, read: i64, end_offset: i64) -> Error {
    Error::new(
        crate::ErrorKind::LogTruncated,
        format!(
            "{partition} was truncated: it had been read up to offset {read}, and what it holds \
             from offset {end_offset} on is something else; reading goes on there"
        ),
    )
    .with_next_offset(Some(end_offset))
}

/// Wait before a partition is asked again.
pub(crate) fn backoff(
    policy: &crate::retry::RetryPolicy,
    failures: u32,
    error: &Error,
) -> Duration {
    error.retry_after().unwrap_or_else(|| policy.backoff(failures, crate::retry::jitter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn at(offset: i64) -> Live {
        Live::new(Position::Offset(offset))
    }

    #[test]
    fn a_place_is_asked_for_once_and_reading_begins_when_it_is_known() {
        let now = clock::now();
        let mut live = Live::new(Position::Latest);
        assert_eq!((live.position(), live.wants_data(now)), (None, false));
        assert_eq!(live.ask_place(), Some(Position::Latest));
        assert_eq!(live.ask_place(), None);
        live.ask_again();
        assert_eq!(live.ask_place(), Some(Position::Latest));
        live.resolved(42);
        assert_eq!((live.position(), live.fetch_offset), (Some(42), 42));
        assert!(live.wants_data(now));
        assert_eq!(at(7).ask_place(), None);
    }

    #[test]
    fn seek_and_pause_forget_what_is_buffered_and_retries_do_not() {
        let now = clock::now();
        let mut live = at(0);
        live.fetched(10, Some(1));
        live.advance(4, 1);
        let version = live.version;
        live.retry_at(now + Duration::from_secs(1));
        assert_eq!((live.version, live.fetch_offset), (version, 10));
        assert!(!live.wants_data(now));
        assert!(live.wants_data(now + Duration::from_secs(1)));
        live.pause();
        assert!(live.version > version && !live.wants_data(now + Duration::from_secs(1)));
        assert_eq!((live.position(), live.fetch_offset), (Some(4), 4));
        live.resume();
        live.seek(Position::Offset(99));
        assert_eq!((live.position(), live.fetch_offset, live.fetched_epoch), (Some(99), 99, None));
        assert!(live.wants_data(now));
    }

    #[test]
    fn truncation_concerns_only_what_was_handed_out() {
        let mut live = at(0);
        live.fetched(10, Some(3));
        live.advance(4, 2);
        // Fetched beyond the cut, but not read: no harm done.
        assert_eq!(live.diverged(3, 6), None);
        assert_eq!((live.position(), live.fetch_offset, live.fetched_epoch), (Some(4), 4, Some(2)));
        live.fetched(10, Some(3));
        live.advance(10, 3);
        assert_eq!(live.diverged(2, 6), Some(10));
        assert_eq!((live.position(), live.fetch_offset, live.fetched_epoch), (Some(6), 6, Some(2)));
    }

    #[test]
    fn an_end_is_told_once_and_again_after_more() {
        let mut live = at(0);
        live.heard(Some(5), Some(0), false);
        live.fetched(3, Some(0));
        live.advance(3, 0);
        assert!(!live.tell_end(3));
        live.fetched(5, Some(0));
        live.heard(Some(5), None, true);
        assert_eq!((live.is_caught_up(), live.lag()), (false, Some(2)));
        live.advance(5, 0);
        assert_eq!((live.is_caught_up(), live.lag()), (true, Some(0)));
        assert!(live.tell_end(5));
        assert!(!live.tell_end(5));
        live.fetched(6, Some(0));
        live.heard(Some(6), None, true);
        live.advance(6, 0);
        assert!(live.tell_end(6));
    }
}
