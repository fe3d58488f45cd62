//! When to try again: exponential backoff with full jitter, bounded in time. Pure: the caller brings
//! the attempt, the error, the time spent and the random number.
//!
//! Full jitter (a uniform draw from zero to the exponential bound) spreads clients that failed
//! together; a broker that says when to come back (`retry_after`) wins over the draw.

use std::time::Duration;

use crate::error::Error;

/// Doubling stops here: beyond it any bound is above any sensible maximum.
const DOUBLINGS_MAX: u32 = 16;

/// Bound of the waits of whoever looks for a leader, as long as one may be elected any moment: an
/// election that nothing is in the way of takes about as long as two of them, and with full jitter a
/// client asks eight times a second, for what a broker has at hand.
const SEEKING_MAX: Duration = Duration::from_millis(250);
/// So many waits, with full jitter, outlast the session of a broker that keeps silent (six seconds).
const SEEKING_ATTEMPTS: u32 = 56;

/// Backoff bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// Bound of the first wait.
    pub(crate) initial: Duration,
    /// Bound of every wait.
    pub(crate) max: Duration,
}

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again after this long.
    RetryAfter(Duration),
    /// Hand the error to the caller.
    GiveUp,
}

// === impl RetryPolicy ===

impl RetryPolicy {
    /// `attempt` counts from 0; `jitter` is uniform in `0.0..1.0`; `left` is what remains of the
    /// caller's deadline.
    pub(crate) fn decide(
        &self,
        attempt: u32,
        error: &Error,
        left: Duration,
        jitter: f64,
    ) -> Verdict {
        if !error.is_retriable() || error.is_fatal() {
            return Verdict::GiveUp;
        }
        let wait = error.retry_after().unwrap_or_else(|| self.backoff(attempt, jitter));
        if wait >= left { Verdict::GiveUp } else { Verdict::RetryAfter(wait) }
    }

    /// The wait before attempt `attempt + 1`.
    pub(crate) fn backoff(&self, attempt: u32, jitter: f64) -> Duration {
        let factor = 1_u32 << attempt.min(DOUBLINGS_MAX);
        let bound = self.initial.saturating_mul(factor).min(self.max);
        bound.mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// The same for whoever asks who leads a partition whose leader is gone. Short for as long as an
    /// election may take: whoever sleeps through one makes the outage longer than it was.
    pub(crate) fn seeking(&self, attempt: u32, jitter: f64) -> Duration {
        match attempt.checked_sub(SEEKING_ATTEMPTS) {
            None => self.backoff(attempt, jitter).min(SEEKING_MAX.mul_f64(jitter)),
            Some(attempt) => self.backoff(attempt, jitter),
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { initial: Duration::from_millis(50), max: Duration::from_secs(1) }
    }
}

/// A uniform draw from `0.0..1.0` for the `jitter` argument.
pub(crate) fn jitter() -> f64 {
    rand::random::<f64>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_bound_doubles_up_to_the_maximum() {
        let policy = RetryPolicy::default();
        for (attempt, bound) in
            [(0, 50), (1, 100), (2, 200), (4, 800), (5, 1_000), (40, 1_000), (u32::MAX, 1_000)]
        {
            assert_eq!(policy.backoff(attempt, 1.0), ms(bound), "attempt {attempt}");
            assert_eq!(policy.backoff(attempt, 0.5), ms(bound) / 2, "attempt {attempt}");
        }
    }

    #[test]
    fn whoever_looks_for_a_leader_asks_often_as_long_as_an_election_may_take() {
        let policy = RetryPolicy::default();
        for (attempt, bound) in [(0, 50), (2, 200), (3, 250), (55, 250), (56, 50), (61, 1_000)] {
            assert_eq!(policy.seeking(attempt, 1.0), ms(bound), "attempt {attempt}");
            assert_eq!(policy.seeking(attempt, 0.5), ms(bound) / 2, "attempt {attempt}");
        }
        let rarely = RetryPolicy { initial: ms(10), max: ms(20) };
        assert_eq!(rarely.seeking(30, 1.0), ms(20), "a lower bound of the caller's holds");
        let half: Duration = (0..SEEKING_ATTEMPTS).map(|n| policy.seeking(n, 0.5)).sum();
        assert!(half > Duration::from_secs(6), "{half:?}");
    }

    #[test]
    fn the_brokers_wish_wins_and_the_deadline_wins_over_it() {
        let policy = RetryPolicy::default();
        let plain = Error::connection("refused");
        let asked = plain.clone().with_retry_after(Some(ms(3_000)));
        let refused = plain.clone().retriable(false);
        let closed = plain.clone().fatal();
        for (error, left, expected) in [
            (&plain, MINUTE, Verdict::RetryAfter(ms(50))),
            (&plain, ms(50), Verdict::GiveUp),
            (&asked, MINUTE, Verdict::RetryAfter(ms(3_000))),
            (&asked, ms(2_999), Verdict::GiveUp),
            (&refused, MINUTE, Verdict::GiveUp),
            (&closed, MINUTE, Verdict::GiveUp),
        ] {
            assert_eq!(policy.decide(0, error, left, 1.0), expected, "{error:?} {left:?}");
        }
    }

    proptest! {
        #[test]
        fn a_wait_is_never_above_its_bounds(
            attempt in 0_u32..100, jitter in 0.0..1.0_f64, left_ms in 0_u64..10_000,
        ) {
            let policy = RetryPolicy::default();
            match policy.decide(attempt, &Error::connection("x"), ms(left_ms), jitter) {
                Verdict::RetryAfter(wait) => {
                    prop_assert!(wait <= policy.max && wait < ms(left_ms));
                }
                Verdict::GiveUp => prop_assert!(policy.backoff(attempt, jitter) >= ms(left_ms)),
            }
        }
    }
}
