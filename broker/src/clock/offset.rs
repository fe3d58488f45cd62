//! How far this machine's wall clock is from another's: pure.
//!
//! Whoever is asked says what time it is; the one who asked knows when that was no better than between
//! the moment it asked and the moment it heard. So an offset is known but for half a round trip, and
//! only what is beyond the bound whatever the truth within that is called beyond it.

use std::{fmt, time::Duration};

use riverrun_proto::timestamp::Timestamp;

/// Wall-clock time is told in whole milliseconds, here and there.
const RESOLUTION_MS: u64 = 1;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    ahead_ms: i64,
    uncertain_ms: u64,
}

// === impl ClockOffset ===

impl ClockOffset {
    /// Of a clock that shows `here` as it hears that another showed `there`, `round_trip` after it asked.
    pub fn measured(there: Timestamp, here: Timestamp, round_trip: Duration) -> Self {
        let half = millis(round_trip) / 2;
        let since = here.as_millis().saturating_sub(there.as_millis());
        Self {
            ahead_ms: since.saturating_sub_unsigned(half),
            uncertain_ms: half.saturating_add(RESOLUTION_MS),
        }
    }

    /// As it was told.
    pub const fn told(ahead_ms: i64, uncertain_ms: u64) -> Self {
        Self { ahead_ms, uncertain_ms }
    }

    /// What it is once the other clock was set ahead by so much.
    #[must_use]
    pub const fn after_other_was_set(self, ahead_ms: i64) -> Self {
        Self { ahead_ms: self.ahead_ms.saturating_sub(ahead_ms), ..self }
    }

    /// How far this clock is ahead of the other one; behind, where it is negative.
    pub const fn ahead_ms(self) -> i64 {
        self.ahead_ms
    }

    /// It may be so much more or less.
    pub const fn uncertain_ms(self) -> u64 {
        self.uncertain_ms
    }

    /// Further away than `bound`, for certain.
    pub fn is_beyond(self, bound: Duration) -> bool {
        self.ahead_ms.unsigned_abs().saturating_sub(self.uncertain_ms) > millis(bound)
    }

    /// No further away than `bound`, for certain.
    pub fn is_within(self, bound: Duration) -> bool {
        self.ahead_ms.unsigned_abs().saturating_add(self.uncertain_ms) <= millis(bound)
    }
}

/// "1.5 s ahead", "7200.0 s behind".
impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.ahead_ms.unsigned_abs();
        let side = if self.ahead_ms < 0 { "behind" } else { "ahead" };
        write!(f, "{}.{} s {side}", ms / 1000, ms % 1000 / 100)
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(there: i64, here: i64, round_trip_ms: u64) -> ClockOffset {
        let (there, here) = (Timestamp::from_millis(there), Timestamp::from_millis(here));
        ClockOffset::measured(there, here, Duration::from_millis(round_trip_ms))
    }

    #[test]
    fn the_offset_is_known_but_for_half_a_round_trip() {
        // (there, here, round trip, ahead, uncertain)
        let table = [
            (1_000, 1_000, 0, 0, 1),
            (1_000, 1_002, 4, 0, 3),
            (1_000, 8_000, 0, 7_000, 1),
            (8_000, 1_000, 0, -7_000, 1),
            (1_000, 3_000, 2_000, 1_000, 1_001),
            (8_000, 1_000, 100, -7_050, 51),
            (i64::MAX, i64::MIN, 0, i64::MIN, 1),
            (i64::MIN, i64::MAX, u64::MAX, 0, 1 << 63),
        ];
        for (there, here, round_trip, ahead, uncertain) in table {
            let expected = ClockOffset::told(ahead, uncertain);
            assert_eq!(measured(there, here, round_trip), expected, "{there} {here} {round_trip}");
        }
    }

    #[test]
    fn only_what_is_certain_is_beyond_the_bound_or_within_it() {
        let bound = Duration::from_secs(10);
        // (ahead, uncertain, beyond, within)
        let table = [
            (0, 1, false, true),
            (9_999, 1, false, true),
            (10_000, 1, false, false),
            (10_001, 1, false, false),
            (10_002, 1, true, false),
            (-10_002, 1, true, false),
            (-9_999, 1, false, true),
            (60_000, 50_000, false, false),
            (60_000, 49_999, true, false),
            (i64::MIN, 1, true, false),
            (0, u64::MAX, false, false),
        ];
        for (ahead, uncertain, beyond, within) in table {
            let offset = ClockOffset::told(ahead, uncertain);
            let found = (offset.is_beyond(bound), offset.is_within(bound));
            assert_eq!(found, (beyond, within), "{ahead} {uncertain}");
        }
    }

    #[test]
    fn people_read_seconds_and_a_side() {
        for (ahead, text) in [
            (7_200_000, "7200.0 s ahead"),
            (-1_550, "1.5 s behind"),
            (0, "0.0 s ahead"),
            (i64::MIN, "9223372036854775.8 s behind"),
        ] {
            assert_eq!(ClockOffset::told(ahead, 1).to_string(), text);
        }
    }
}
