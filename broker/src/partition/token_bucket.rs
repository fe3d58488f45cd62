//! A token bucket: so many bytes a second, and what a second was not used for may be used in the next.
//! Pure; it is told the time.
//!
//! What is taken may be more than there is: a batch that is larger than the bucket passes as any other
//! does, and what comes after it waits until that is paid for. So nothing is too large to pass, and
//! over any stretch of time no more passes than the rate allows for it, and a second more, and the one
//! that came last.

use std::{num::NonZeroU64, time::Duration};

use crate::clock::Instant;

/// What the bucket holds when it is full, in time at its rate.
pub(super) const DEPTH: Duration = Duration::from_secs(1);

const NANOS: u128 = 1_000_000_000;

/// See the module. Kept as the moment at which it will be full, so that nothing has to be added up
/// while time goes by, and a low rate loses nothing by being asked often.
#[derive(Debug, Clone)]
pub(super) struct TokenBucket {
    rate: NonZeroU64,
    full_at: Instant,
}

impl TokenBucket {
    /// A full one.
    pub(super) fn full(bytes_per_second: NonZeroU64, now: Instant) -> Self {
        Self { rate: bytes_per_second, full_at: now }
    }

    /// Bytes a second.
    pub(super) fn rate(&self) -> NonZeroU64 {
        self.rate
    }

    /// Whether there is anything in it.
    pub(super) fn admits(&self, now: Instant) -> bool {
        self.full_at.duration_since(now) < DEPTH
    }

    /// Takes out what has passed, be it more than there is.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) {
        self.full_at = self.full_at.max(now) + self.time_of(bytes);
    }

    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = (u128::from(bytes) * NANOS).div_ceil(u128::from(self.rate.get()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_start(Duration::from_millis(ms))
    }

    fn bucket(rate: u64) -> TokenBucket {
        TokenBucket::full(NonZeroU64::new(rate).unwrap(), at(0))
    }

    #[test]
    fn it_holds_a_second_and_one_too_many_is_paid_for_later() {
        let mut bucket = bucket(1000);
        bucket.take(999, at(0));
        assert!(bucket.admits(at(0)), "a byte is left");
        bucket.take(2000, at(0));
        assert!(!bucket.admits(at(0)) && !bucket.admits(at(1999)), "1999 bytes of debt");
        assert!(bucket.admits(at(2000)));
        bucket.take(1, at(1_000_000));
        assert!(bucket.admits(at(1_000_000)));
        bucket.take(999, at(1_000_000));
        assert!(!bucket.admits(at(1_000_000)), "idle for long, it holds a second and no more");
    }

    #[test]
    fn no_rate_and_no_batch_is_out_of_bounds() {
        let mut slowest = bucket(1);
        slowest.take(u64::MAX, at(0));
        slowest.take(u64::MAX, at(u64::MAX / 2));
        assert!(!slowest.admits(at(u64::MAX / 2)));
        let mut fastest = bucket(u64::MAX);
        for _ in 0..1000 {
            fastest.take(1 << 30, at(0));
        }
        assert!(fastest.admits(at(0)));
    }

    proptest! {
        /// Whoever takes what it can gets its rate, as long as it looks once a second, and never more.
        #[test]
        fn over_any_stretch_of_time_the_rate_is_kept(
            rate in 1..5_000_000_u64,
            steps in vec((0..1000_u64, vec(1..300_000_u64, 1..30)), 1..50),
        ) {
            let mut bucket = bucket(rate);
            let (mut now, mut passed) = (0, Vec::<(u64, u64)>::new());
            let mut hungry = true;
            for (wait, batches) in steps {
                now += wait;
                let mut batches = batches.into_iter();
                while bucket.admits(at(now)) {
                    let Some(bytes) = batches.next() else { break };
                    bucket.take(bytes, at(now));
                    passed.push((now, bytes));
                }
                // From where it had nothing to send it may have lost what it was due.
                hungry &= !bucket.admits(at(now));
                let total: u128 = passed.iter().map(|(_, bytes)| u128::from(*bytes)).sum();
                if hungry {
                    prop_assert!(total * 1000 + 1000 >= u128::from(rate) * u128::from(now));
                }
            }
            for (n, (from, _)) in passed.iter().enumerate() {
                let mut total = 0;
                for (until, bytes) in &passed[n..] {
                    // Before the last of them there was something left.
                    let due = u128::from(rate) * u128::from(until - from + 1000);
                    prop_assert!(total * 1000 <= due, "{total} in {} ms at {rate}", until - from);
                    total += u128::from(*bytes);
                }
            }
        }
    }
}
