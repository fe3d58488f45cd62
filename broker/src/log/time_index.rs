//! Sparse index: timestamp → offset from where to look.
//!
//! An entry (T, offset) says: no record of the segment below that offset is later than T. T never
//! falls from entry to entry, although timestamps may. So the first record at or after t is found by
//! reading from the last entry with T < t, and lies within one index interval of it.

use riverrun_proto::{offset::Offset, timestamp::Timestamp};

use super::index::Numbers;

/// Where to look for a time within one segment. Readers need no lock.
#[derive(Debug)]
pub(super) struct TimeIndex {
    base: Offset,
    /// Pairs: timestamp, which never falls, and relative offset, which grows.
    numbers: Numbers,
}

// === impl TimeIndex ===

impl TimeIndex {
    /// Without entries, for the segment that begins at `base`.
    pub(super) fn new(base: Offset) -> Self {
        Self { base, numbers: Numbers::new() }
    }

    /// From the numbers of a file; `None` if they do not grow.
    pub(super) fn from_numbers(base: Offset, numbers: &[u64]) -> Option<Self> {
        let (pairs, rest) = numbers.as_chunks::<2>();
        let grows = |pair: &[[u64; 2]]| {
            pair[0][0].cast_signed() <= pair[1][0].cast_signed() && pair[0][1] < pair[1][1]
        };
        (rest.is_empty() && pairs.windows(2).all(grows)).then(|| {
            let index = Self::new(base);
            index.numbers.push(numbers);
            index
        })
    }

    /// Notes that nothing below `offset` is later than `latest`. Left out unless that follows what
    /// is known.
    pub(super) fn push(&self, latest: Timestamp, offset: Offset) {
        let relative = offset.distance_from(self.base);
        let last = (self.numbers.len() / 2).checked_sub(1).map(|pair| self.pair(pair));
        if last.is_none_or(|(time, known)| time <= latest && known < relative) {
            self.numbers.push(&[latest.as_millis().cast_unsigned(), relative]);
        }
    }

    /// An offset below which every record is earlier than `time`: look from there on.
    pub(super) fn look_from(&self, time: Timestamp) -> Offset {
        let pairs = self.numbers.len() / 2;
        let after = Numbers::partition_point(pairs, |pair| self.pair(pair).0 < time);
        let relative = after.checked_sub(1).map_or(0, |pair| self.pair(pair).1);
        self.base.checked_add(relative).unwrap_or(self.base)
    }

    pub(super) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    fn pair(&self, pair: usize) -> (Timestamp, u64) {
        let time = Timestamp::from_millis(self.numbers.get(2 * pair).cast_signed());
        (time, self.numbers.get(2 * pair + 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the order of timestamps: the answer is the interval of the first match.
        #[test]
        fn lookup_equals_linear_scan(
            times in proptest::collection::vec(-50..50i64, 1..200),
            every in 1..6usize,
            asked in -60..60i64,
        ) {
            let base = Offset::new(1000).unwrap();
            let index = TimeIndex::new(base);
            let at = |n: usize| base.checked_add(n as u64).unwrap();
            let mut latest = i64::MIN;
            for (n, &time) in times.iter().enumerate() {
                if n > 0 && n % every == 0 {
                    index.push(Timestamp::from_millis(latest), at(n));
                }
                latest = latest.max(time);
            }
            let from = index.look_from(Timestamp::from_millis(asked));
            let again = TimeIndex::from_numbers(base, &index.numbers().to_vec()).unwrap();
            prop_assert_eq!(again.look_from(Timestamp::from_millis(asked)), from);
            match times.iter().position(|&time| time >= asked) {
                Some(first) => {
                    prop_assert_eq!(from, at(first / every * every));
                }
                None => prop_assert!(from <= at(times.len())),
            }
        }
    }

    #[test]
    fn entries_that_do_not_grow_are_no_index() {
        for bad in [&[5, 1, 4, 2][..], &[5, 1, 6, 1], &[5, 1, 6]] {
            assert!(TimeIndex::from_numbers(Offset::ZERO, bad).is_none(), "{bad:?}");
        }
    }
}
