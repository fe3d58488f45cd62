//! How far ahead of the writer the active segment is made ready ([`super::writing`]): little for a
//! partition that is written to now and then, much for one that is written to all the time.
//! Pure.
//!
//! The step doubles when the last one lasted less than [`BUSY`], and halves when it lasted more
//! than [`QUIET`]. Half a step before the window's end the next one is asked for, so that it is
//! there before it is needed.

use std::time::Duration;

use riverrun_proto::timestamp::Timestamp;

/// A step that is used up sooner than this doubles.
const BUSY: Duration = Duration::from_secs(1);

/// A step that lasts longer than this halves.
const QUIET: Duration = Duration::from_secs(30);

/// Windows end at multiples of this.
const ALIGN: u64 = 4096;

/// The bounds of a step, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepBounds {
    pub min: u64,
    pub max: u64,
}

/// The pace of one active segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    step: u64,
    stepped_at: Option<Timestamp>,
}

impl Pace {
    pub(super) const fn new(min: u64) -> Self {
        Self { step: min, stepped_at: None }
    }

    pub(super) const fn step(&self) -> u64 {
        self.step
    }

    /// The step that would be right now. [`Self::take`] it if the budget allows.
    pub(super) fn wanted(&self, now: Timestamp, bounds: StepBounds) -> u64 {
        let wanted = match self.stepped_at.map(|then| now.duration_since(then)) {
            Some(lasted) if lasted < BUSY => self.step.saturating_mul(2),
            Some(lasted) if lasted > QUIET => self.step / 2,
            _ => self.step,
        };
        wanted.clamp(bounds.min, bounds.max)
    }

    /// A step is made now, of this size from now on.
    pub(super) fn take(&mut self, step: u64, now: Timestamp) {
        self.step = step;
        self.stepped_at = Some(now);
    }

    /// Where the window should end that has to reach at least to `needed`, in a segment of
    /// `segment_bytes` that is written up to `position`.
    pub(super) fn target(&self, position: u64, needed: u64, segment_bytes: u64) -> u64 {
        let ahead = (position + self.step).min(segment_bytes);
        ahead.max(needed).next_multiple_of(ALIGN)
    }

    /// Whether it is time to ask for the next step.
    pub(super) const fn is_due(&self, position: u64, window: u64, segment_bytes: u64) -> bool {
        window < segment_bytes && window - position < self.step / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: StepBounds = StepBounds { min: 64 << 10, max: 16 << 20 };

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn steps_grow_with_the_rate_and_shrink_without() {
        let mut pace = Pace::new(BOUNDS.min);
        assert_eq!(pace.wanted(at(0), BOUNDS), BOUNDS.min, "the first one");
        for n in 1..20 {
            pace.take(pace.wanted(at(n), BOUNDS), at(n));
        }
        assert_eq!(pace.step(), BOUNDS.max);
        assert_eq!(pace.wanted(at(10_000), BOUNDS), BOUNDS.max, "neither busy nor quiet");
        assert_eq!(pace.wanted(at(60_000), BOUNDS), BOUNDS.max / 2);
    }

    #[test]
    fn the_window_ends_with_the_segment_unless_a_batch_needs_more() {
        let pace = Pace::new(1 << 20);
        let segment = 2 << 20;
        assert_eq!(pace.target(4096, 5000, segment), (1 << 20) + 4096);
        assert_eq!(pace.target(segment - 100, segment - 50, segment), segment);
        assert_eq!(pace.target(4096, segment + 1, segment), segment + 4096);
    }

    #[test]
    fn the_next_step_is_asked_for_ahead() {
        let pace = Pace::new(1 << 20);
        let segment = 4 << 20;
        assert!(!pace.is_due(0, 1 << 20, segment));
        assert!(pace.is_due((1 << 19) + 1, 1 << 20, segment));
        assert!(!pace.is_due(segment - 1, segment, segment), "a full segment is rolled instead");
    }
}
