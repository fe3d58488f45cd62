//! Sparse index: offset → position of the batch that begins there, one entry per
//! `index.interval.bytes` of a segment.

use riverrun_proto::offset::Offset;

use super::index::Numbers;

/// Where batches of one segment begin. Readers need no lock.
#[derive(Debug)]
pub(super) struct OffsetIndex {
    base: Offset,
    /// Relative offset in the upper half, position in the lower one; both grow.
    numbers: Numbers,
}

// === impl OffsetIndex ===

impl OffsetIndex {
    /// Without entries, for the segment that begins at `base`.
    pub(super) fn new(base: Offset) -> Self {
        Self { base, numbers: Numbers::new() }
    }

    /// From the numbers of a file; `None` if they do not grow.
    pub(super) fn from_numbers(base: Offset, numbers: &[u64]) -> Option<Self> {
        let grows = |pair: &[u64]| pair[0] >> 32 < pair[1] >> 32 && low(pair[0]) < low(pair[1]);
        numbers.windows(2).all(grows).then(|| {
            let index = Self::new(base);
            index.numbers.push(numbers);
            index
        })
    }

    /// Notes that a batch begins at this offset and position, both beyond all that are known. What
    /// does not fit 32 bits is left out: the entry before it serves.
    pub(super) fn push(&self, offset: Offset, position: u64) {
        let relative = u32::try_from(offset.distance_from(self.base));
        if let (Ok(relative), Ok(position)) = (relative, u32::try_from(position)) {
            self.numbers.push(&[u64::from(relative) << 32 | u64::from(position)]);
        }
    }

    /// The last known batch that begins at or before `offset`; `None`: before all entries, begin at
    /// the segment's start.
    pub(super) fn floor(&self, offset: Offset) -> Option<(Offset, u64)> {
        let relative = offset.distance_from(self.base);
        let len = self.numbers.len();
        let after = Numbers::partition_point(len, |at| self.numbers.get(at) >> 32 <= relative);
        after.checked_sub(1).and_then(|at| self.entry(at))
    }

    /// Known batches beyond `position`, in order.
    pub(super) fn beyond(&self, position: u64) -> impl Iterator<Item = (Offset, u64)> + '_ {
        let len = self.numbers.len();
        let first = Numbers::partition_point(len, |at| low(self.numbers.get(at)) <= position);
        (first..len).filter_map(|at| self.entry(at))
    }

    pub(super) const fn base(&self) -> Offset {
        self.base
    }

    pub(super) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    fn entry(&self, at: usize) -> Option<(Offset, u64)> {
        let number = self.numbers.get(at);
        Some((self.base.checked_add(number >> 32)?, low(number)))
    }
}

fn low(number: u64) -> u64 {
    number & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Looking up equals scanning all entries.
        #[test]
        fn lookup_equals_linear_scan(
            base in 0..1_000_000i64,
            steps in proptest::collection::vec((1..50u64, 1..9000u64), 0..300),
            asked in 0..16_000u64,
        ) {
            let base = Offset::new(base).unwrap();
            let index = OffsetIndex::new(base);
            let (mut offset, mut position) = (base, 4096);
            let mut entries = Vec::new();
            for (records, bytes) in steps {
                offset = offset.checked_add(records).unwrap();
                position += bytes;
                index.push(offset, position);
                entries.push((offset, position));
            }
            let asked = base.checked_add(asked).unwrap();
            let want = entries.iter().copied().rfind(|&(offset, _)| offset <= asked);
            prop_assert_eq!(index.floor(asked), want);

            let from = want.map_or(0, |(_, position)| position);
            let beyond: Vec<_> = index.beyond(from).collect();
            let want: Vec<_> = entries.iter().copied().filter(|&(_, p)| p > from).collect();
            prop_assert_eq!(beyond, want);

            let again = OffsetIndex::from_numbers(base, &index.numbers().to_vec()).unwrap();
            prop_assert_eq!(again.floor(asked), index.floor(asked));
        }
    }

    #[test]
    fn entries_that_do_not_grow_are_no_index() {
        let base = Offset::ZERO;
        for bad in [[1 << 32 | 5, 1 << 32 | 6], [1 << 32 | 5, 2 << 32 | 5], [2 << 32 | 5, 0]] {
            assert!(OffsetIndex::from_numbers(base, &bad).is_none(), "{bad:?}");
        }
    }
}
