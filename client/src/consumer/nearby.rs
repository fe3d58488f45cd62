//! Which broker a partition is read from, for a consumer that named its rack (KIP-392). Pure.
//!
//! The leader chooses: it answers with a replica nearby instead of records, and that one is read from
//! until [`Nearby::route`] says that the choice is to be made anew. Whatever goes wrong there, the
//! leader is read from, with the request to send nobody away for a while, a longer one each time: a
//! replica that its leader takes for a good one and this consumer cannot reach must not have it go
//! back and forth.

use std::time::Duration;

use riverrun_proto::ids::BrokerId;

use crate::clock::Instant;

/// How long the leader is read from after a replica nearby failed for the first time.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// Doubling stops here: beyond it any wait is above the longest.
const DOUBLINGS_MAX: u32 = 10;

/// Whom one partition is read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nearby {
    place: Place,
    /// Replicas that failed since one of them gave records.
    failures: u32,
    /// How long a choice holds, and the longest wait after one that failed.
    max_age: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Until then without being sent away; `None`: it may send us at once.
    Leader {
        stays_until: Option<Instant>,
    },
    Replica {
        broker: BrokerId,
        until: Instant,
    },
}

/// Whom to ask now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// The leader, which may name a replica nearby.
    Leader,
    /// The leader, and from it.
    LeaderOnly,
    /// This one.
    Replica(BrokerId),
}

// === impl Nearby ===

impl Nearby {
    pub(super) fn new(max_age: Duration) -> Self {
        Self { place: Place::Leader { stays_until: None }, failures: 0, max_age }
    }

    /// Whom to ask, and until when that holds.
    pub(super) fn route(&self, now: Instant) -> (Route, Option<Instant>) {
        match self.place {
            Place::Leader { stays_until: Some(until) } if now < until => {
                (Route::LeaderOnly, Some(until))
            }
            Place::Replica { broker, until } if now < until => {
                (Route::Replica(broker), Some(until))
            }
            // An expired choice is made anew by whoever leads.
            Place::Leader { .. } | Place::Replica { .. } => (Route::Leader, None),
        }
    }

    /// The replica that is read from.
    pub(super) fn replica(&self, now: Instant) -> Option<BrokerId> {
        match self.route(now) {
            (Route::Replica(broker), _) => Some(broker),
            _ => None,
        }
    }

    /// The leader chose.
    pub(super) fn chosen(&mut self, broker: BrokerId, now: Instant) {
        self.place = Place::Replica { broker, until: now + self.max_age };
    }

    /// The replica gave records.
    pub(super) fn served(&mut self) {
        self.failures = 0;
    }

    /// It failed, in whatever way.
    pub(super) fn failed(&mut self, now: Instant) {
        let wait = RETRY_MIN.saturating_mul(1 << self.failures.min(DOUBLINGS_MAX));
        self.failures = self.failures.saturating_add(1);
        self.place = Place::Leader { stays_until: Some(now + wait.min(self.max_age)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const REPLICA: BrokerId = BrokerId(7);
    const MAX_AGE: Duration = Duration::from_secs(300);

    #[test]
    fn a_choice_holds_for_a_while_and_is_made_anew_by_the_leader() {
        let now = clock::now();
        let mut nearby = Nearby::new(MAX_AGE);
        assert_eq!(nearby.route(now), (Route::Leader, None));
        nearby.chosen(REPLICA, now);
        let until = now + MAX_AGE;
        for at in [now, until - Duration::from_millis(1)] {
            assert_eq!(nearby.route(at), (Route::Replica(REPLICA), Some(until)));
            assert_eq!(nearby.replica(at), Some(REPLICA));
        }
        assert_eq!(nearby.route(until), (Route::Leader, None));
        assert_eq!(nearby.replica(until), None);
    }

    #[test]
    fn whoever_failed_is_left_alone_for_longer_each_time_until_it_serves() {
        let mut now = clock::now();
        let mut nearby = Nearby::new(Duration::from_secs(30));
        for wait in [1, 2, 4, 8, 16, 30, 30] {
            nearby.chosen(REPLICA, now);
            nearby.failed(now);
            let until = now + Duration::from_secs(wait);
            assert_eq!(nearby.route(now), (Route::LeaderOnly, Some(until)), "{wait}");
            assert_eq!(nearby.route(until), (Route::Leader, None), "{wait}");
            now = until;
        }
        nearby.chosen(REPLICA, now);
        nearby.served();
        nearby.failed(now);
        assert_eq!(nearby.route(now), (Route::LeaderOnly, Some(now + RETRY_MIN)));
    }
}
