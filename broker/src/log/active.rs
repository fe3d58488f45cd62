//! The active segment: where the next append goes, and what it needs before it can.

use std::sync::Arc;

use riverrun_proto::{offset::Offset, timestamp::Timestamp};

use super::{
    config::LogConfig,
    env::WindowGrant,
    segment::{IndexWriter, OpenSegment, Segment},
    window::{Pace, StepBounds},
};

/// Where the next append goes.
#[derive(Debug)]
pub(super) enum Active {
    /// Into a segment that is yet to be made.
    Vacant,
    /// Into the last segment, once it is open again.
    Closed,
    /// Here.
    Open(OpenActive),
}

/// The segment that is appended to.
#[derive(Debug)]
pub(super) struct OpenActive {
    pub(super) segment: Arc<Segment>,
    pub(super) open: Arc<OpenSegment>,
    pub(super) index: IndexWriter,
    pub(super) pace: Pace,
    pub(super) grant: WindowGrant,
    /// When this process first appended to it.
    pub(super) first_append: Option<Timestamp>,
    pub(super) last_append: Timestamp,
    /// A write failed: nothing more goes here.
    pub(super) is_broken: bool,
}

/// What the next append waits for, or soon would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// A new segment.
    Roll,
    /// The last segment opened again.
    Reopen,
    /// The window's end moved at least here.
    Window { needed: u64 },
    /// Nobody has appended for long.
    Release,
}

// === impl OpenActive ===

impl OpenActive {
    pub(super) fn new(
        segment: Arc<Segment>,
        open: Arc<OpenSegment>,
        grant: WindowGrant,
        now: Timestamp,
        config: &LogConfig,
    ) -> Self {
        let mut pace = Pace::new(config.window_min);
        pace.take(config.window_min, now);
        Self {
            segment,
            open,
            index: IndexWriter::new(config.index_interval_bytes),
            pace,
            grant,
            first_append: None,
            last_append: now,
            is_broken: false,
        }
    }

    /// Whether a frame of `bytes` with last offset `last` belongs into the next segment: because
    /// this one is full, old, broken, or out of relative offsets. A segment takes at least one
    /// frame, however large.
    pub(super) fn is_full_for(
        &self,
        bytes: u64,
        last: Offset,
        log_end: Offset,
        now: Timestamp,
        config: &LogConfig,
    ) -> bool {
        if self.is_broken {
            return true;
        }
        if log_end == self.segment.base() {
            return false;
        }
        self.open.file.published() + bytes > config.segment_bytes
            || last.distance_from(self.segment.base()) > u64::from(u32::MAX)
            || self
                .first_append
                .is_some_and(|first| now.duration_since(first) >= config.segment_age)
    }

    /// Where to move the window's end, so that it reaches `needed` and a step beyond; the step grows
    /// with the rate, as far as the budget goes.
    pub(super) fn next_window(&mut self, needed: u64, now: Timestamp, config: &LogConfig) -> u64 {
        let bounds = StepBounds { min: config.window_min, max: config.window_max };
        let wanted = self.pace.wanted(now, bounds);
        let step = if self.grant.resize(wanted - bounds.min) {
            wanted
        } else {
            self.pace.step().clamp(bounds.min, bounds.max)
        };
        self.pace.take(step, now);
        self.pace.target(self.open.file.published(), needed, config.segment_bytes)
    }

    /// Whether the next step should be asked for now, before it is needed.
    pub(super) fn is_window_due(&self, config: &LogConfig) -> bool {
        let file = &self.open.file;
        self.pace.is_due(file.published(), file.window(), config.segment_bytes)
    }

    /// Whether window and map should be given back.
    pub(super) fn is_idle(&self, now: Timestamp, config: &LogConfig) -> bool {
        self.open.file.window() > self.open.file.published()
            && now.duration_since(self.last_append) >= config.idle_after
    }
}
