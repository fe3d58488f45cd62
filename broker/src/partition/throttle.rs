//! The throttle of moves: how fast replicas that are being added may be sent history, and may take it.
//!
//! One value for the cluster, from its metadata, that each broker keeps by itself in either direction:
//! for what it sends to replicas that are being added, all of them together, and for what it takes as
//! one. It holds back nobody else: what members of the ISR and replicas that come back are sent is not
//! counted, and passes.
//!
//! A partition whose turn it is, and for which nothing is left, is put aside: out of its connection's
//! line, so that the others on it go on, until somebody looks again ([`MoveThrottle::let_in`], with
//! housekeeping, a few times a second). They come back in the order in which they were put aside, so
//! that all moves go on, a little each.
//!
//! What a sender has no bytes left for stays in its log. What a receiver has no bytes left for it does
//! not acknowledge, until its leader's window is full: so it may take a window per partition beyond its
//! rate at first, and never more than its rate after that.

use std::{collections::VecDeque, fmt, num::NonZeroU64, sync::Arc};

use parking_lot::Mutex;

use super::{
    line::{Line, Place},
    token_bucket::TokenBucket,
};
use crate::{clock::Instant, telemetry::ReplicationMetrics};

/// See the module. Clones are of the same throttle; at first there is none.
#[derive(Debug, Clone, Default)]
pub struct MoveThrottle(Arc<Shared>);

/// Which way records of a move go, as this broker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// To a replica elsewhere that is being added.
    Sending,
    /// To a replica here that is being added.
    Receiving,
}

#[derive(Debug, Default)]
struct Shared {
    sending: Mutex<Gate>,
    receiving: Mutex<Gate>,
    metrics: ReplicationMetrics,
}

/// One direction.
#[derive(Default)]
struct Gate {
    /// `None`: everything passes.
    bucket: Option<TokenBucket>,
    /// Whose turn comes when something is left again. At most one entry per connection and partition
    /// ([`Place::step_aside`]).
    aside: VecDeque<(Arc<Line>, Arc<Place>)>,
}

// === impl MoveThrottle ===

impl MoveThrottle {
    /// None yet; what passes, and waits, is counted there.
    pub fn new(metrics: ReplicationMetrics) -> Self {
        Self(Arc::new(Shared { metrics, ..Shared::default() }))
    }

    /// Another rate from now on, or none. Whoever waits looks again at once.
    pub fn set(&self, bytes_per_second: Option<NonZeroU64>, now: Instant) {
        for gate in [&self.0.sending, &self.0.receiving] {
            let mut gate = gate.lock();
            if gate.rate() != bytes_per_second {
                // What was owed at the other rate is forgotten: to pay for a second's worth at a low
                // one could take longer than the move at the new one.
                gate.bucket = bytes_per_second.map(|rate| TokenBucket::full(rate, now));
                let aside = std::mem::take(&mut gate.aside);
                drop(gate);
                line_up(aside);
            }
        }
    }

    /// The rate in force.
    pub fn rate(&self) -> Option<NonZeroU64> {
        self.0.sending.lock().rate()
    }

    /// Those that were put aside line up again, where something is left to pass. To be called a few
    /// times a second, and at least once: what is left for longer than a second is lost.
    pub fn let_in(&self, now: Instant) {
        for gate in [&self.0.sending, &self.0.receiving] {
            let mut gate = gate.lock();
            if gate.admits(now) {
                let aside = std::mem::take(&mut gate.aside);
                drop(gate);
                line_up(aside);
            }
        }
    }

    /// Whether a partition may go on whose turn it is on a connection. If not, it is put aside, and
    /// stands in line again when it may be asked again.
    pub(super) fn admits(
        &self,
        direction: Direction,
        now: Instant,
        (line, place): (&Arc<Line>, &Arc<Place>),
    ) -> bool {
        let mut gate = self.gate(direction).lock();
        if gate.admits(now) {
            return true;
        }
        if place.step_aside() {
            gate.aside.push_back((Arc::clone(line), Arc::clone(place)));
            self.0.metrics.move_waited(direction == Direction::Sending);
        }
        false
    }

    /// So many bytes have passed.
    pub(super) fn take(&self, direction: Direction, bytes: usize, now: Instant) {
        self.0.metrics.moved(direction == Direction::Sending, bytes as u64);
        if let Some(bucket) = &mut self.gate(direction).lock().bucket {
            bucket.take(bytes as u64, now);
        }
    }

    fn gate(&self, direction: Direction) -> &Mutex<Gate> {
        match direction {
            Direction::Sending => &self.0.sending,
            Direction::Receiving => &self.0.receiving,
        }
    }
}

impl Gate {
    fn rate(&self) -> Option<NonZeroU64> {
        self.bucket.as_ref().map(TokenBucket::rate)
    }

    fn admits(&self, now: Instant) -> bool {
        self.bucket.as_ref().is_none_or(|bucket| bucket.admits(now))
    }
}

fn line_up(aside: VecDeque<(Arc<Line>, Arc<Place>)>) {
    for (line, place) in aside {
        place.step_back();
        line.enter(&place);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("bucket", &self.bucket)
            .field("aside", &self.aside.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::partition::test_support::{Harness, Setup};

    fn at(ms: u64) -> Instant {
        Instant::from_start(Duration::from_millis(ms))
    }

    const RATE: Option<NonZeroU64> = NonZeroU64::new(1000);

    #[test]
    fn who_is_put_aside_comes_back_in_order_when_something_is_left() {
        let partitions = [(); 3].map(|()| Harness::new(Setup::default()));
        let places = partitions.each_ref().map(|harness| Place::of(&harness.partition));
        let (line, throttle) = (Line::new(), MoveThrottle::default());
        let asks = |n: usize, ms| throttle.admits(Direction::Sending, at(ms), (&line, &places[n]));
        assert!(asks(0, 0), "as long as there is none, everybody passes");
        throttle.set(RATE, at(0));
        assert_eq!(throttle.rate(), RATE);
        assert!(asks(0, 0));
        throttle.take(Direction::Sending, 1500, at(0));
        assert!(!asks(1, 0) && !asks(0, 0) && !asks(1, 0), "twice aside is once");
        assert!(
            throttle.admits(Direction::Receiving, at(0), (&line, &places[2])),
            "the other direction has bytes of its own"
        );
        throttle.let_in(at(499));
        assert!(line.try_next().is_none(), "nobody is asked in vain");
        throttle.let_in(at(501));
        for n in [1, 0] {
            assert_eq!(line.try_next().unwrap().id(), partitions[n].partition.id());
            assert!(asks(n, 501));
        }
        assert!(line.try_next().is_none());
    }

    #[test]
    fn another_rate_holds_at_once_and_forgets_what_was_owed() {
        let harness = Harness::new(Setup::default());
        let (line, place) = (Line::new(), Place::of(&harness.partition));
        let throttle = MoveThrottle::default();
        let asks = || throttle.admits(Direction::Receiving, at(0), (&line, &place));
        throttle.set(RATE, at(0));
        throttle.take(Direction::Receiving, 1 << 30, at(0));
        assert!(!asks());
        throttle.set(RATE, at(0));
        assert!(line.try_next().is_none(), "told the same again, it is as it was");
        throttle.set(NonZeroU64::new(1001), at(0));
        assert!(line.try_next().is_some() && asks());
        throttle.take(Direction::Receiving, 1 << 30, at(0));
        assert!(!asks());
        throttle.set(None, at(0));
        assert!(line.try_next().is_some() && asks());
        assert_eq!(throttle.rate(), None);
    }
}
