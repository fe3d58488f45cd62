//! When an open loop sends: at even intervals decided beforehand, whatever the answers do. A record
//! that could not be sent in time keeps its intended moment, and its latency counts from there:
//! otherwise a stall would be seen once and not by every record it delayed (coordinated omission).

use std::time::Duration;

use crate::clock::Moment;

/// The intended moments of one of several senders that share a rate: they take turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    start: Moment,
    interval_ns: f64,
    index: u64,
    senders: u64,
}

// === impl Schedule ===

impl Schedule {
    /// That of sender `index` of `senders`, which together send `per_second`, from `start` on.
    pub fn new(start: Moment, per_second: f64, index: usize, senders: usize) -> Self {
        debug_assert!(per_second > 0.0 && index < senders);
        Self { start, interval_ns: 1e9 / per_second, index: index as u64, senders: senders as u64 }
    }

    /// When this sender's `n`th is to be sent, from 0.
    pub fn intended(&self, n: u64) -> Moment {
        let turn = n.saturating_mul(self.senders).saturating_add(self.index);
        self.start.plus(Duration::from_nanos((turn as f64 * self.interval_ns) as u64))
    }

    /// How many of this sender's should have been sent by `now`.
    pub fn due(&self, now: Moment) -> u64 {
        if now < self.intended(0) {
            return 0;
        }
        let turns = now.since(self.start).as_nanos() as f64 / self.interval_ns;
        // The float may be off by one either way; the moments decide.
        let mut due = ((turns - self.index as f64) / self.senders as f64) as u64;
        while self.intended(due) <= now {
            due += 1;
        }
        while due > 0 && self.intended(due - 1) > now {
            due -= 1;
        }
        due
    }

    /// Between two of this sender's.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos((self.interval_ns * self.senders as f64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Moment {
        Moment::from_nanos(us * 1000)
    }

    #[test]
    fn moments_are_even_and_do_not_drift() {
        let schedule = Schedule::new(at(500), 1000.0, 0, 1);
        for (n, us) in [(0, 500), (1, 1_500), (2, 2_500), (1_000_000, 1_000_000_500)] {
            assert_eq!(schedule.intended(n), at(us), "{n}");
        }
        assert_eq!(schedule.interval(), Duration::from_millis(1));
        // A third of a microsecond cannot be added up; it is multiplied.
        let third = Schedule::new(at(0), 3_000_000.0, 0, 1);
        assert_eq!(third.intended(3_000_000), at(1_000_000));
    }

    #[test]
    fn senders_take_turns() {
        let schedules: Vec<_> = (0..3).map(|i| Schedule::new(at(0), 1000.0, i, 3)).collect();
        let first: Vec<_> = schedules.iter().map(|s| s.intended(0)).collect();
        assert_eq!(first, [at(0), at(1_000), at(2_000)]);
        assert_eq!(schedules[1].intended(1), at(4_000));
    }

    #[test]
    fn due_counts_exactly_those_whose_moment_has_come() {
        let schedule = Schedule::new(at(10), 1000.0, 1, 2);
        for (us, due) in [(0, 0), (10, 0), (1_009, 0), (1_010, 1), (3_009, 1), (3_010, 2)] {
            assert_eq!(schedule.due(at(us)), due, "{us}");
        }
        // The same at every edge, for an interval that is no whole number of nanoseconds.
        let odd = Schedule::new(at(3), 700_001.0, 2, 7);
        for n in (0..2_000).chain(10_000_000..10_000_100) {
            let moment = odd.intended(n);
            assert_eq!(odd.due(moment), n + 1, "{n}");
            assert_eq!(odd.due(Moment::from_nanos(moment.as_nanos() - 1)), n, "{n}");
        }
    }
}
