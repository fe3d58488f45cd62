//! How a machine's wall clock stands against its clock that only moves forward: pure.
//!
//! As long as nobody sets the wall clock that stays the same, so whoever compared with it once knows what
//! a comparison now would show, and a clock that was set is seen by that alone, before anybody asks.

use riverrun_proto::timestamp::Timestamp;

use super::Instant;

/// Wall-clock time less time since the other clock's start. Means something only to the machine it is of,
/// in one run of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WallAnchor(i64);

// === impl WallAnchor ===

impl WallAnchor {
    /// Of a machine whose clocks show this at the same moment.
    pub fn of(wall: Timestamp, monotonic: Instant) -> Self {
        let since = i64::try_from(monotonic.since_start().as_millis()).unwrap_or(i64::MAX);
        Self(wall.as_millis().saturating_sub(since))
    }

    /// As it was told.
    pub const fn told(ms: i64) -> Self {
        Self(ms)
    }

    /// For whoever is told.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// How far ahead the wall clock was set since `earlier`, in milliseconds; back, where it is negative.
    pub const fn set_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock as _, ManualClock};

    #[test]
    fn it_moves_by_what_the_clock_is_set_and_not_by_time() {
        let clock = ManualClock::at(Timestamp::from_millis(5_000));
        let anchor = || WallAnchor::of(clock.now(), clock.monotonic());
        let first = anchor();
        clock.advance(Duration::from_secs(3600));
        assert_eq!(anchor(), first);
        for ahead in [7_200_000, -7_200_000] {
            let before = anchor();
            clock.set_wall(Timestamp::from_millis(clock.now().as_millis() + ahead));
            assert_eq!(anchor().set_since(before), ahead);
        }
        assert_eq!(WallAnchor::told(first.ms()), first);
        assert_eq!(WallAnchor::told(i64::MAX).set_since(WallAnchor::told(-1)), i64::MAX);
    }
}
