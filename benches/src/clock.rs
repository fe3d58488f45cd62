//! The load generator's clock. Moments are nanoseconds since the process began to measure: they fit
//! into a record's payload and into atomics, and are comparable within one process only, which is
//! why producers and consumers of one run share it.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A point in time that only moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

// === impl Moment ===

impl Moment {
    /// Later than every other.
    pub const NEVER: Self = Self(u64::MAX);

    /// Now. Some 25 ns.
    pub fn now() -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        Self::after(start.elapsed())
    }

    /// So long after the process began to measure.
    pub fn after(since: Duration) -> Self {
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// From its number of nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the process began to measure.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to this; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// So much later. Saturates.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Milliseconds since 1970: the timestamp of records and of reports.
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Now, as RFC 3339 writes it, in UTC.
pub fn utc() -> String {
    jiff::Timestamp::from_millisecond(unix_ms()).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_add_up_and_saturate() {
        let first = Moment::now();
        assert!(Moment::now() >= first);
        let later = first.plus(Duration::from_millis(3));
        assert_eq!(later.since(first), Duration::from_millis(3));
        assert_eq!(first.since(later), Duration::ZERO);
        assert_eq!(Moment::after(Duration::MAX), Moment::NEVER);
        assert_eq!(Moment::NEVER.plus(Duration::from_secs(1)), Moment::NEVER);
    }
}
