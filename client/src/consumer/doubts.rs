//! Leaders that the cluster has not heard lately, as they say themselves: others are asked who leads.
//!
//! A consumer at the end of such a leader's log would wait there for good, while another leads and has more.
//! What it was given stays good, and nobody may know of another: so it stays where it is, and asks again,
//! after pauses that grow and are never the same for two consumers. Asks nobody by itself, and is told the time.

use std::{collections::HashMap, time::Duration};

use riverrun_proto::ids::BrokerId;

use super::lane::Key;
use crate::{
    clock::Instant,
    retry::{self, RetryPolicy},
};

/// Bounds of the pauses: of what all consumers of a leader that is cut off do to the others.
const PAUSES: RetryPolicy =
    RetryPolicy { initial: Duration::from_millis(250), max: Duration::from_secs(5) };

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Doubts(HashMap<Key, Doubt>);

#[derive(Clone, Copy, Debug)]
struct Doubt {
    leader: BrokerId,
    asked: u32,
    /// When to ask.
    due: Instant,
}

// === impl Doubts ===

impl Doubts {
    /// What `leader` says of itself, with data of a partition.
    pub(super) fn told(&mut self, key: Key, leader: BrokerId, others_may_lead: bool, now: Instant) {
        if !others_may_lead {
            self.0.remove(&key);
            return;
        }
        // Many consumers hear of it at once, and do not all ask at once.
        let fresh = || Doubt { leader, asked: 0, due: now + PAUSES.backoff(0, retry::jitter()) };
        let doubt = self.0.entry(key).or_insert_with(fresh);
        if doubt.leader != leader {
            *doubt = fresh();
        }
    }

    /// A partition is read from `leader` now: a doubt about another is over.
    pub(super) fn reads_from(&mut self, key: Key, leader: BrokerId) {
        if self.0.get(&key).is_some_and(|doubt| doubt.leader != leader) {
            self.0.remove(&key);
        }
    }

    /// Whether it is time to ask who leads, and when it is the next time; notes that it is done.
    pub(super) fn asks(&mut self, key: Key, now: Instant) -> Option<(bool, Instant)> {
        let doubt = self.0.get_mut(&key)?;
        let is_due = now >= doubt.due;
        if is_due {
            doubt.asked = doubt.asked.saturating_add(1);
            doubt.due = now + PAUSES.backoff(doubt.asked, retry::jitter());
        }
        Some((is_due, doubt.due))
    }
}

#[cfg(test)]
mod tests {
    use riverrun_proto::ids::TopicId;

    use super::*;
    use crate::clock;

    #[test]
    fn who_is_in_doubt_is_asked_about_at_growing_pauses_until_it_is_over() {
        let (mut doubts, mut now) = (Doubts::default(), clock::now());
        let (key, leader) = ((TopicId::random(), 0), BrokerId(1));
        doubts.told(key, leader, false, now);
        assert_eq!(doubts.asks(key, now), None);
        doubts.told(key, leader, true, now);
        let mut bound = PAUSES.initial;
        for _ in 0..20 {
            let (_, due) = doubts.asks(key, now).unwrap();
            assert!(due <= now + bound);
            // What it says again changes nothing.
            doubts.told(key, leader, true, due);
            now = due;
            assert!(doubts.asks(key, now).unwrap().0);
            bound = (bound * 2).min(PAUSES.max);
        }
        doubts.reads_from(key, leader);
        assert!(doubts.asks(key, now).is_some());
        doubts.reads_from(key, BrokerId(2));
        assert_eq!(doubts.asks(key, now), None, "it is read from somebody else");
        doubts.told(key, leader, true, now);
        doubts.told(key, leader, false, now);
        assert_eq!(doubts.asks(key, now), None, "it is heard again");
    }
}
