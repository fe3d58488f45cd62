//! The only reader of time. Everything else is handed a [`Clock`], or just `now`.
//!
//! Two kinds of time, never mixed: [`Timestamp`] is wall-clock time as records carry it, may jump,
//! and decides nothing but retention and stamps; [`Instant`] only moves forward and measures waits,
//! leases and timeouts. It goes on while the machine sleeps (CLOCK_BOOTTIME): a lease that ran out
//! during a suspend has run out.
//!
//! A wall clock may be wrong: what it is compared with is in `offset`, what follows of that in `trust`.

mod anchor;
mod offset;
mod trust;

use std::{
    fmt,
    ops::Add,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use riverrun_proto::timestamp::Timestamp;
use rustix::time::{ClockId, clock_gettime};

pub use anchor::WallAnchor;
pub use offset::ClockOffset;
pub use trust::{ClockNews, ClockOff, ClocksTold, WallTrust};

/// Goes on while the machine sleeps. Apple's CLOCK_MONOTONIC does that by itself.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "openbsd"))]
const MONOTONIC: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "openbsd")))]
const MONOTONIC: ClockId = ClockId::Monotonic;

/// What tells the time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Wall-clock time. May jump either way.
    fn now(&self) -> Timestamp;

    /// Time that only moves forward, for waits, leases and timeouts.
    fn monotonic(&self) -> Instant;
}

/// A point in time that only moves forward; comparable within one process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// A clock that stands still until it is moved: for tests and the simulator.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_ms: AtomicI64,
    /// Nanoseconds; 584 years fit.
    monotonic_ns: AtomicU64,
}

// === impl Instant ===

impl Instant {
    /// Time from the clock's start, which means nothing by itself: for those who are handed `now`
    /// and must not know clocks.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// The point so long after the clock's start ([`Instant::since_start`] of the same process).
    #[must_use]
    pub const fn from_start(since: Duration) -> Self {
        Self(since)
    }

    /// Time from `earlier` to this; zero if it is not earlier.
    #[must_use]
    pub const fn duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates: "never" may be written as a very long wait.
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl SystemClock ===

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => millis(since),
            Err(before) => -millis(before.duration()),
        })
    }

    fn monotonic(&self) -> Instant {
        let time = clock_gettime(MONOTONIC);
        let seconds = u64::try_from(time.tv_sec).expect("this clock starts at zero");
        let nanos = u32::try_from(time.tv_nsec).expect("below a second");
        Instant(Duration::new(seconds, nanos))
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// Stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self { wall_ms: AtomicI64::new(now.as_millis()), monotonic_ns: AtomicU64::new(0) }
    }

    /// Lets `d` pass on both clocks. Wall-clock time has milliseconds: smaller steps move only the
    /// other.
    pub fn advance(&self, d: Duration) {
        let ms = i64::try_from(d.as_millis()).expect("a step of sane length");
        let ns = u64::try_from(d.as_nanos()).expect("a step of sane length");
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
        self.monotonic_ns.fetch_add(ns, Ordering::SeqCst);
    }

    /// Sets the wall clock, as an operator or NTP would; the other does not notice.
    pub fn set_wall(&self, now: Timestamp) {
        self.wall_ms.store(now.as_millis(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.wall_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Instant {
        Instant(Duration::from_nanos(self.monotonic_ns.load(Ordering::SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_moves_forward_and_knows_the_century() {
        let first = SystemClock.monotonic();
        let second = SystemClock.monotonic();
        assert!(second >= first);
        let year_2026 = Timestamp::from_millis(1_767_225_600_000);
        assert!(SystemClock.now() > year_2026);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000));
        let start = clock.monotonic();
        clock.advance(Duration::from_millis(250));
        assert_eq!(clock.now(), Timestamp::from_millis(1_250));
        assert_eq!(clock.monotonic().duration_since(start), Duration::from_millis(250));
        clock.set_wall(Timestamp::from_millis(7));
        assert_eq!(clock.now(), Timestamp::from_millis(7));
        assert_eq!(clock.monotonic().duration_since(start), Duration::from_millis(250));
        assert_eq!(start.duration_since(clock.monotonic()), Duration::ZERO);
        assert!(start + Duration::MAX > clock.monotonic(), "saturates");
    }
}
