//! Who has something to say on one connection between brokers: a line of partitions, each in it at
//! most once, however often something happens to it meanwhile.
//!
//! What a partition has to say is not in the line. Whoever's turn it is is asked for it then
//! ([`Partition::next_for_leader`], [`Partition::next_for_follower`]) and says what holds at that
//! moment: the newest acknowledgement, the batches behind a cursor. So a slow connection makes
//! nothing pile up; the line is as long as there are partitions on it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::owner::Partition;

/// The line of one connection, in one direction. One connection, one line: a connection made anew is
/// another line, so that nobody takes the end of the old one for the end of the new one.
#[derive(Default)]
pub struct Line {
    waiting: Mutex<VecDeque<Arc<Place>>>,
    more: Notify,
}

/// A partition's place in a line, made once and used again.
pub(super) struct Place {
    partition: Weak<Partition>,
    /// It stands in line. Cleared before the partition is asked, so that nothing that happens after
    /// that goes unsaid; both happen with the partition's lock between them.
    stands: AtomicBool,
    /// It was put aside ([`super::throttle`]), and comes back by itself.
    aside: AtomicBool,
}

impl Line {
    /// An empty line.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits for the next partition that has something to say, and takes it out of the line: it
    /// lines up again by itself as long as it has more. Partitions take turns.
    ///
    /// Cancel safe.
    pub async fn next(&self) -> Arc<Partition> {
        loop {
            if let Some(partition) = self.try_next() {
                return partition;
            }
            self.more.notified().await;
        }
    }

    /// Waits until somebody stands in line, and leaves the line as it is. For one who waits at a time.
    ///
    /// Cancel safe.
    pub async fn wait(&self) {
        while self.waiting.lock().is_empty() {
            self.more.notified().await;
        }
    }

    /// The next partition in line, if there is one.
    pub fn try_next(&self) -> Option<Arc<Partition>> {
        loop {
            let place = self.waiting.lock().pop_front()?;
            place.stands.store(false, Ordering::Release);
            // A partition that was deleted meanwhile has nothing to say.
            if let Some(partition) = place.partition.upgrade() {
                return Some(partition);
            }
        }
    }

    pub(super) fn enter(&self, place: &Arc<Place>) {
        if !place.stands.swap(true, Ordering::AcqRel) {
            self.waiting.lock().push_back(Arc::clone(place));
            self.more.notify_one();
        }
    }
}

impl Place {
    pub(super) fn of(partition: &Arc<Partition>) -> Arc<Self> {
        let (stands, aside) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { partition: Arc::downgrade(partition), stands, aside })
    }

    /// `false`: it has been aside already.
    pub(super) fn step_aside(&self) -> bool {
        !self.aside.swap(true, Ordering::AcqRel)
    }

    pub(super) fn step_back(&self) {
        self.aside.store(false, Ordering::Release);
    }

    pub(super) fn is_aside(&self) -> bool {
        self.aside.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("waiting", &self.waiting.lock().len()).finish()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("stands", &self.stands).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::test_support::{Harness, Setup, block_on};

    #[test]
    fn a_partition_stands_in_line_once_and_a_deleted_one_is_passed_over() {
        let (first, second) = (Harness::new(Setup::default()), Harness::new(Setup::default()));
        let line = Line::new();
        let places = [&first, &second].map(|harness| Place::of(&harness.partition));
        for place in places.iter().chain(&places) {
            line.enter(place);
        }
        assert_eq!(block_on(line.next()).id(), first.partition.id());
        // Behind the other one: they take turns.
        line.enter(&places[0]);
        assert_eq!(block_on(line.next()).id(), second.partition.id());
        assert_eq!(line.try_next().unwrap().id(), first.partition.id());
        assert!(line.try_next().is_none());

        line.enter(&places[1]);
        drop(second);
        assert!(line.try_next().is_none());
    }
}
