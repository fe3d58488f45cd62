//! The segments of a log, in order of their offsets: an immutable list that is replaced as a whole,
//! so that readers take a look at it without a lock.

use std::sync::Arc;

use riverrun_proto::offset::Offset;

use super::segment::Segment;

/// Sorted by base offset; all but the last are sealed, and the last one is, too, where the next
/// append begins a new one.
#[derive(Debug, Clone, Default)]
pub(super) struct SegmentList {
    segments: Vec<Arc<Segment>>,
}

// === impl SegmentList ===

impl SegmentList {
    /// From segments in order.
    pub(super) fn new(segments: Vec<Arc<Segment>>) -> Self {
        debug_assert!(segments.windows(2).all(|pair| pair[0].base() < pair[1].base()));
        Self { segments }
    }

    /// This and one more at the end.
    #[must_use]
    pub(super) fn with(&self, segment: Arc<Segment>) -> Self {
        Self::new(self.segments.iter().cloned().chain([segment]).collect())
    }

    /// The part of it that begins below `offset`.
    #[must_use]
    pub(super) fn below(&self, offset: Offset) -> Self {
        let keep = self.segments.partition_point(|segment| segment.base() < offset);
        Self::new(self.segments[..keep].to_vec())
    }

    /// Without the first `count`.
    #[must_use]
    pub(super) fn without_first(&self, count: usize) -> Self {
        Self::new(self.segments[count..].to_vec())
    }

    /// The segment in which `offset` lies or would lie, and its place.
    pub(super) fn find(&self, offset: Offset) -> Option<(usize, &Arc<Segment>)> {
        let after = self.segments.partition_point(|segment| segment.base() <= offset);
        let at = after.checked_sub(1)?;
        Some((at, &self.segments[at]))
    }

    /// All segments, oldest first.
    pub(super) fn as_slice(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Where the segment at this place ends: where the next begins. `None` for the last.
    pub(super) fn next_base(&self, at: usize) -> Option<Offset> {
        self.segments.get(at + 1).map(|next| next.base())
    }

    /// The newest one.
    pub(super) fn last(&self) -> Option<&Arc<Segment>> {
        self.segments.last()
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Bytes of all files that belong to the log.
    pub(super) fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size_bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use riverrun_proto::timestamp::Timestamp;

    use super::{
        super::{frame::Salt, index::IndexHead, segment::SegmentEnd},
        *,
    };

    fn at(n: i64) -> Offset {
        Offset::new(n).unwrap()
    }

    fn list(bounds: &[i64]) -> SegmentList {
        let sealed = |pair: &[i64]| {
            let head = IndexHead {
                base: at(pair[0]),
                salt: Salt::new(0),
                end_offset: at(pair[1]),
                end_position: 5000,
                max_timestamp: Timestamp::NONE,
                max_timestamp_at: at(pair[0]),
            };
            let end = SegmentEnd { offset: at(pair[1]), position: 5000 };
            Arc::new(Segment::sealed(end, &head))
        };
        SegmentList::new(bounds.windows(2).map(sealed).collect())
    }

    #[test]
    fn an_offset_lies_in_the_last_segment_that_begins_at_or_before_it() {
        let list = list(&[10, 20, 30, 40]);
        let find = |n| list.find(at(n)).map(|(place, segment)| (place, segment.base().get()));
        assert_eq!(find(9), None);
        assert_eq!(find(10), Some((0, 10)));
        assert_eq!(find(29), Some((1, 20)));
        assert_eq!(find(1000), Some((2, 30)));
        assert_eq!(list.next_base(0), Some(at(20)));
        assert_eq!(list.next_base(2), None);
        assert_eq!(list.size_bytes(), 15_000);
    }

    #[test]
    fn the_part_below_a_cut() {
        let list = list(&[10, 20, 30, 40]);
        assert_eq!(list.below(at(20)).len(), 1, "a segment that begins at the cut is above it");
        assert_eq!(list.below(at(21)).len(), 2);
        assert_eq!(list.below(at(10)).len(), 0);
        assert_eq!(list.without_first(2).as_slice()[0].base(), at(30));
    }
}
