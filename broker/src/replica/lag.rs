//! Where the leader's log ended when: how far behind, in time and bytes, a position is.
//!
//! Marks are set by time and by bytes, a bounded number of them. What lies between two is judged by
//! the older one, so lag is overestimated, by no more than [`STEPS`] says.

use std::{collections::VecDeque, time::Duration};

use riverrun_proto::offset::Offset;

use super::Limits;

/// A mark is set when this part of either limit has gone by since the last.
const STEPS: u32 = 64;
/// Enough to look back as far as either limit goes, though the other sets marks too.
const MARKS_MAX: usize = 4 * STEPS as usize;

/// The log's growth in the present term.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Lag {
    /// Bytes appended in this term.
    bytes: u64,
    /// Oldest first; never empty.
    marks: VecDeque<Mark>,
}

/// At `at`, the log ended at `end`, with `bytes` of this term below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Mark {
    at: Duration,
    end: Offset,
    bytes: u64,
}

impl Lag {
    pub(super) fn new(now: Duration, end: Offset) -> Self {
        Self { bytes: 0, marks: VecDeque::from([Mark { at: now, end, bytes: 0 }]) }
    }

    /// The log now ends at `end`, `bytes` further on.
    pub(super) fn grew(&mut self, now: Duration, end: Offset, bytes: u64, limits: &Limits) {
        self.bytes += bytes;
        let last = self.marks.back().expect("never empty");
        if now.saturating_sub(last.at) < limits.lag_time_max / STEPS
            && self.bytes - last.bytes < (limits.lag_bytes_max / u64::from(STEPS)).max(1)
        {
            return;
        }
        if self.marks.len() == MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark { at: now, end, bytes: self.bytes });
    }

    /// The latest time known at which the log ended no further than `position`.
    pub(super) fn reached(&self, position: Offset) -> Option<Duration> {
        self.mark_before(position).map(|mark| mark.at)
    }

    /// The earliest time known at which the log ended past `position`; `None`: it does not, or not
    /// for as long as it takes to set a mark.
    pub(super) fn passed(&self, position: Offset) -> Option<Duration> {
        let after = self.marks.partition_point(|mark| mark.end <= position);
        self.marks.get(after).map(|mark| mark.at)
    }

    /// Bytes of this term past `position`, in a log that ends at `end`.
    pub(super) fn bytes_past(&self, position: Offset, end: Offset) -> u64 {
        if position >= end {
            return 0;
        }
        self.bytes - self.mark_before(position).map_or(0, |mark| mark.bytes)
    }

    fn mark_before(&self, position: Offset) -> Option<&Mark> {
        let after = self.marks.partition_point(|mark| mark.end <= position);
        after.checked_sub(1).map(|at| &self.marks[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    const LIMITS: Limits = Limits { lag_time_max: Duration::from_millis(6400), lag_bytes_max: 640 };

    #[test]
    fn time_is_that_of_the_last_mark_reached() {
        let ms = Duration::from_millis;
        let mut lag = Lag::new(ms(1000), at(10));
        lag.grew(ms(1050), at(20), 1, &LIMITS);
        lag.grew(ms(1100), at(30), 1, &LIMITS);
        lag.grew(ms(1300), at(40), 1, &LIMITS);
        let table =
            [(9, None), (10, Some(1000)), (29, Some(1000)), (30, Some(1100)), (99, Some(1300))];
        for (position, want) in table {
            assert_eq!(lag.reached(at(position)), want.map(ms), "{position}");
        }
        let table = [(9, Some(1000)), (10, Some(1100)), (29, Some(1100)), (30, Some(1300))];
        for (position, want) in table {
            assert_eq!(lag.passed(at(position)), want.map(ms), "{position}");
        }
        assert_eq!(lag.passed(at(40)), None, "it does not go past its end");
    }

    #[test]
    fn bytes_are_overestimated_by_one_step_at_most() {
        let mut lag = Lag::new(Duration::ZERO, at(0));
        for end in 1..=500 {
            lag.grew(Duration::ZERO, at(end), 3, &LIMITS);
        }
        for position in 300..500 {
            let true_lag = u64::try_from(500 - position).unwrap() * 3;
            let told = lag.bytes_past(at(position), at(500));
            assert!(told >= true_lag && told < true_lag + 12, "{position}: {told} {true_lag}");
        }
        assert_eq!(lag.bytes_past(at(500), at(500)), 0);
    }

    #[test]
    fn marks_are_bounded_and_what_they_forgot_counts_as_far_behind() {
        let mut lag = Lag::new(Duration::ZERO, at(0));
        for end in 1..=1_000_000 {
            lag.grew(Duration::from_micros(end), at(end.cast_signed()), 10, &LIMITS);
        }
        assert_eq!(lag.marks.len(), MARKS_MAX);
        assert_eq!(lag.reached(at(5)), None);
        assert!(lag.bytes_past(at(5), at(1_000_000)) > LIMITS.lag_bytes_max);
        assert!(lag.bytes_past(at(999_950), at(1_000_000)) <= LIMITS.lag_bytes_max);
    }
}
