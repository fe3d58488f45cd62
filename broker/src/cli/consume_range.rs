//! Which offsets of a partition `consume` prints: what was typed, applied to where the partition
//! begins and ends.

use super::offset_spec::{OffsetSpec, Place};

/// Where a partition begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edges {
    /// Log start offset.
    pub(crate) start: i64,
    /// High watermark.
    pub(crate) end: i64,
}

/// The offsets of the times that were typed; the end where nothing is that late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) from: Option<i64>,
    pub(crate) to: Option<i64>,
}

/// What of a partition is still to be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// Where reading begins: an offset that the partition has, or its end.
    pub(crate) read_from: i64,
    /// Records below are read and not printed: they are not there yet but were not asked for.
    print_from: i64,
    /// The first that is not printed; `None`: there is no such.
    to: Option<i64>,
    /// Where the partition ended when this was made: what is below is there to be read.
    known_end: i64,
    /// The first that was not read.
    next: i64,
}

// === impl Range ===

impl Range {
    /// What `spec` means for a partition with these edges. `exit_at_end`: no further than its end.
    pub(crate) fn new(spec: &OffsetSpec, edges: Edges, times: Times, exit_at_end: bool) -> Self {
        let print_from = edges.offset(spec.from, times.from);
        let to = spec.to.map(|place| edges.offset(place, times.to));
        let to = if exit_at_end { Some(to.map_or(edges.end, |to| to.min(edges.end))) } else { to };
        let read_from = print_from.clamp(edges.start, edges.end.max(edges.start));
        Self { read_from, print_from, to, known_end: edges.end, next: read_from }
    }

    /// A record was read; whether it is one of those asked for.
    pub(crate) fn take(&mut self, offset: i64) -> bool {
        self.next = offset.saturating_add(1);
        offset >= self.print_from && self.to.is_none_or(|to| offset < to)
    }

    /// Everything below was read or is no record.
    pub(crate) fn advance_to(&mut self, position: i64) {
        self.next = self.next.max(position);
    }

    /// Whether something is left to read that was there when this was made.
    pub(crate) fn is_owed(&self) -> bool {
        self.next < self.to.map_or(self.known_end, |to| to.min(self.known_end))
    }

    /// Whether nothing of it is left to read.
    pub(crate) fn is_done(&self) -> bool {
        self.to.is_some_and(|to| self.next >= to || self.print_from >= to)
    }
}

// === impl Edges ===

impl Edges {
    fn offset(self, place: Place, at_time: Option<i64>) -> i64 {
        let far = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        match place {
            Place::Start => self.start,
            Place::End => self.end,
            Place::At(offset) => offset,
            Place::AfterStart(n) => self.start.saturating_add(far(n)),
            Place::BeforeEnd(n) => self.end.saturating_sub(far(n)).max(self.start),
            Place::Time(_) => at_time.unwrap_or(self.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets 10 to 19 are there; the first of the last hour is 15.
    const EDGES: Edges = Edges { start: 10, end: 20 };
    const TIMES: Times = Times { from: Some(15), to: Some(18) };

    /// What is printed of a partition that grows to offset 24 while it is read, and whether the
    /// command would go on waiting after that.
    fn printed(spec: &str, exit_at_end: bool) -> (Vec<i64>, bool) {
        let mut range = Range::new(&spec.parse().unwrap(), EDGES, TIMES, exit_at_end);
        let mut offsets = Vec::new();
        for offset in range.read_from..25 {
            if range.is_done() {
                return (offsets, false);
            }
            if range.take(offset) {
                offsets.push(offset);
            }
        }
        (offsets, !range.is_done())
    }

    #[test]
    fn every_kind_of_place_with_and_without_an_end() {
        let all = |from: i64, to: i64| (from..to).collect::<Vec<_>>();
        for (spec, exit_at_end, expected, goes_on) in [
            ("start", false, all(10, 25), true),
            ("start", true, all(10, 20), false),
            ("end", false, all(20, 25), true),
            ("end", true, vec![], false),
            ("12", true, all(12, 20), false),
            ("3", true, all(10, 20), false),
            ("22", false, all(22, 25), true),
            ("22", true, vec![], false),
            ("+3", true, all(13, 20), false),
            ("-3", true, all(17, 20), false),
            ("-300", true, all(10, 20), false),
            ("@-1h", true, all(15, 20), false),
            ("@-1h:@-1m", false, all(15, 18), false),
            ("12:14", false, all(12, 14), false),
            ("12:22", false, all(12, 22), false),
            ("12:22", true, all(12, 20), false),
            (":end", false, all(10, 20), false),
            ("-5:-3", false, all(15, 17), false),
            ("14:14", false, vec![], false),
            ("3:5", false, vec![], false),
            ("22:23", false, all(22, 23), false),
        ] {
            assert_eq!(printed(spec, exit_at_end), (expected, goes_on), "{spec} {exit_at_end}");
        }
    }

    #[test]
    fn what_was_there_is_owed_and_what_may_come_is_not() {
        let new = |spec: &str| Range::new(&spec.parse().unwrap(), EDGES, TIMES, false);
        for (spec, owed) in
            [("start", true), ("19", true), ("end", false), ("25:30", false), ("15:30", true)]
        {
            assert_eq!(new(spec).is_owed(), owed, "{spec}");
        }
        let mut range = new("start");
        assert!(range.take(19) && !range.is_owed());
        // The last offsets may be no records.
        let mut range = new(":end");
        range.advance_to(20);
        assert!(range.is_done() && !range.is_owed());
    }

    #[test]
    fn an_empty_partition_ends_at_once_or_waits() {
        let empty = Edges { start: 0, end: 0 };
        let spec = "start".parse().unwrap();
        assert!(Range::new(&spec, empty, Times::default(), true).is_done());
        assert!(!Range::new(&spec, empty, Times::default(), false).is_done());
    }
}
