//! Which sealed segments are open, over all logs of a directory: a bounded set, so that the number
//! of maps and file handles does not grow with the history. The clock algorithm chooses who goes: a
//! segment that was read since the hand last passed gets another round.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::segment::Segment;

/// The set. Taken under a lock only when a segment is opened or sealed, never on a warm read.
#[derive(Debug)]
pub(super) struct OpenSegments {
    count_max: usize,
    index_bytes_max: usize,
    clock: Mutex<Clock>,
}

#[derive(Debug, Default)]
struct Clock {
    /// Next to be looked at in front.
    ring: VecDeque<(Weak<Segment>, usize)>,
    index_bytes: usize,
}

impl OpenSegments {
    pub(super) fn new(count_max: usize, index_bytes_max: usize) -> Self {
        Self { count_max: count_max.max(1), index_bytes_max, clock: Mutex::default() }
    }

    /// Takes in a sealed segment that was just opened, and closes others if there are too many now.
    pub(super) fn admit(&self, segment: &Arc<Segment>, index_bytes: usize) {
        let mut clock = self.clock.lock();
        clock.ring.push_back((Arc::downgrade(segment), index_bytes));
        clock.index_bytes += index_bytes;
        // Each is passed over at most once; the newcomer, last in the ring, is never closed here.
        let mut rounds = 2 * clock.ring.len();
        while clock.ring.len() > 1 && rounds > 0 && self.is_over(&clock) {
            rounds -= 1;
            let Some((weak, bytes)) = clock.ring.pop_front() else { break };
            match weak.upgrade() {
                Some(other) if other.take_used() => clock.ring.push_back((weak, bytes)),
                other => {
                    if let Some(other) = other.filter(|other| !Arc::ptr_eq(other, segment)) {
                        other.close();
                    }
                    clock.index_bytes -= bytes;
                }
            }
        }
    }

    /// How many are open; some of them may have been deleted since.
    pub(super) fn len(&self) -> usize {
        self.clock.lock().ring.len()
    }

    fn is_over(&self, clock: &Clock) -> bool {
        clock.ring.len() > self.count_max || clock.index_bytes > self.index_bytes_max
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use riverrun_proto::offset::Offset;

    use super::{
        super::{frame::Salt, segment::OpenSegment},
        *,
    };
    use crate::io::{Disk, WriteMode, sim::SimDisk};

    fn segment(disk: &SimDisk, base: i64) -> Arc<Segment> {
        let path = format!("/{base}");
        let file = disk.create_segment(Path::new(&path), 0, WriteMode::Write).unwrap();
        let base = Offset::new(base).unwrap();
        let open = OpenSegment::new(file, base, Salt::new(1), 0);
        Arc::new(Segment::active(base, Arc::new(open)))
    }

    fn is_open(segment: &Segment) -> bool {
        let open = segment.get_open().is_some();
        segment.take_used();
        open
    }

    #[test]
    fn the_bound_holds_and_what_is_read_stays() {
        let disk = SimDisk::new(1);
        let open = OpenSegments::new(3, 1_000_000);
        let all: Vec<_> = (0..6).map(|base| segment(&disk, base)).collect();
        for one in &all[..3] {
            open.admit(one, 10);
            one.take_used();
        }
        all[0].get_open();
        for one in &all[3..5] {
            open.admit(one, 10);
            assert!(open.len() <= 3);
        }
        let state: Vec<_> = all[..5].iter().map(|one| is_open(one)).collect();
        assert_eq!(state, [true, false, false, true, true]);
    }

    #[test]
    fn bytes_of_indexes_count_too_and_the_newest_is_never_closed() {
        let disk = SimDisk::new(1);
        let open = OpenSegments::new(100, 50);
        let (small, large) = (segment(&disk, 0), segment(&disk, 1));
        open.admit(&small, 10);
        open.admit(&large, 60);
        assert!(!is_open(&small) && is_open(&large));
        drop(small);
        assert_eq!(open.len(), 1);
    }
}
