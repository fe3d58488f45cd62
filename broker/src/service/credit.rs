//! Byte credit of a `FetchStream`: what the broker may push.
//!
//! A message is pushed while any credit is left, and its bytes are taken from it; the last one may
//! overdraw, by one batch at most, so that a batch larger than the credit does not stick. A reader
//! that stops reading therefore costs at most what it granted and one batch.

/// Credit of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credit {
    /// `None`: the client leaves flow control to HTTP/2.
    left: Option<i64>,
    max: i64,
}

// === impl Credit ===

impl Credit {
    /// What a client grants beyond `max` is not used.
    pub(super) fn new(initial: Option<u64>, max: u64) -> Self {
        let max = as_signed(max);
        Self { left: initial.map(|bytes| as_signed(bytes).min(max)), max }
    }

    /// Adds to what is left. A stream without credit gets none.
    pub(super) fn grant(&mut self, bytes: u64) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_add(as_signed(bytes)).min(self.max);
        }
    }

    /// `bytes` are being pushed.
    pub(super) fn spend(&mut self, bytes: usize) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(as_signed(bytes as u64));
        }
    }

    /// Anything may be pushed.
    pub(super) fn is_open(&self) -> bool {
        self.left.is_none_or(|left| left > 0)
    }

    /// The bytes to ask the log for next, at most `wanted`; at least one while open.
    pub(super) fn within(&self, wanted: usize) -> usize {
        match self.left {
            None => wanted,
            Some(left) => wanted.min(usize::try_from(left).unwrap_or(0)),
        }
    }
}

fn as_signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_batch_overdraws_and_must_be_made_up_for() {
        let mut credit = Credit::new(Some(10), 1_000);
        assert!(credit.is_open());
        assert_eq!(credit.within(64), 10);
        credit.spend(100);
        assert!(!credit.is_open());
        assert_eq!(credit.within(64), 0);
        credit.grant(90);
        assert!(!credit.is_open(), "nothing is left, nothing is owed");
        credit.grant(1);
        assert!(credit.is_open());
        assert_eq!(credit.within(64), 1);
    }

    #[test]
    fn credit_is_bounded_and_absent_credit_never_ends() {
        let mut credit = Credit::new(Some(u64::MAX), 50);
        credit.grant(u64::MAX);
        assert_eq!(credit.within(1_000), 50);
        let mut none = Credit::new(None, 50);
        none.grant(1);
        none.spend(usize::MAX);
        assert!(none.is_open());
        assert_eq!(none.within(64), 64);
        assert!(!Credit::new(Some(0), 50).is_open(), "zero credit is no credit, not unlimited");
    }

    proptest! {
        /// Whatever a client grants and the broker pushes, what was pushed stays within what was
        /// granted and one batch.
        #[test]
        fn pushes_stay_within_grants_and_one_batch(
            grants in prop::collection::vec(0u64..10_000, 1..50),
            batches in prop::collection::vec(1usize..5_000, 1..200),
        ) {
            let max = 20_000;
            let (mut credit, mut granted, mut pushed) = (Credit::new(Some(0), max), 0u64, 0u64);
            let mut batches = batches.into_iter();
            for grant in grants {
                credit.grant(grant);
                granted += grant;
                while credit.is_open() {
                    let Some(batch) = batches.next() else { return Ok(()) };
                    credit.spend(batch);
                    pushed += batch as u64;
                }
                prop_assert!(pushed <= granted + 5_000);
            }
        }
    }
}
