//! The harness's clock. Nothing asserts on it; figures that are printed come from it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Now, on a clock that only goes forward.
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the epoch: timestamps of records.
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
