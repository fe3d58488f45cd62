//! The only place of this crate that reads a clock. Pure parts get `now` passed in.

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use tokio::time::Instant;

/// Monotonic time; stands still under tokio's paused clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the epoch, for records without a timestamp. 0 before 1970.
pub(crate) fn wall_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
