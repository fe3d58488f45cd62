//! A wall clock that a test sets while the broker runs. Only the binary under test knows it; the one that
//! ships goes by the machine's clock alone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use riverrun_broker::clock::{Clock, Instant, SystemClock};
use riverrun_proto::timestamp::Timestamp;

/// Names the file that says how far the clock of a broker under test is ahead.
pub const VARIABLE: &str = "UNDER_TEST_CLOCK_SKEW_FILE";

/// The machine's clock, so many milliseconds ahead as a file says; behind, where that is negative.
#[derive(Debug, Clone)]
pub struct SkewedClock {
    file: PathBuf,
}

// === impl SkewedClock ===

impl SkewedClock {
    /// As this file says; right, where there is none.
    pub fn from_file(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
    }

    /// Where it is said.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Sets it, for whoever goes by it.
    pub fn set(&self, ahead_ms: i64) {
        // Whoever reads finds the old number or the new one.
        let next = self.file.with_extension("next");
        fs::write(&next, ahead_ms.to_string()).expect("there is room");
        fs::rename(&next, &self.file).expect("it can be replaced");
    }

    fn ahead_ms(&self) -> i64 {
        fs::read_to_string(&self.file).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(SystemClock.now().as_millis() + self.ahead_ms())
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic()
    }
}
