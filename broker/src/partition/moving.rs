//! A partition on its way to other brokers: which of its replicas the throttle of moves is about, and
//! how fast it grows meanwhile.
//!
//! A replica is *arriving* as long as the reassignment that adds it is under way and it is not in sync.
//! For its leader that ends as soon as it may be a member of the ISR, which is before the replica hears
//! of it: from then on producers wait for it, and nothing holds it back. The replica itself does not
//! know that moment; but it holds nothing back, either, once it has all that was committed when its
//! leader last said so, and a replica that producers wait for always has.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use riverrun_proto::{ids::BrokerId, offset::Offset};

use super::{order::State, owner::Partition, throttle::Direction};
use crate::{clock::Instant, replica::frame::Progress};

/// Shorter than this, what was written says little of how fast it grows.
const SAMPLE_MIN: Duration = Duration::from_millis(500);

/// What a partition knows of a reassignment that is under way.
#[derive(Debug, Default)]
pub(super) struct Moving {
    /// Replicas that it adds.
    adding: Vec<BrokerId>,
    growth: Growth,
    /// How far the leader's log was committed when it last said so in this session.
    committed: Offset,
}

/// How replicas come along that are being added, as their leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovingView {
    /// Those that are not in sync yet.
    pub arriving: Vec<BrokerId>,
    /// The throttle of moves.
    pub throttle: Option<NonZeroU64>,
    /// Bytes that were written lately, per second.
    pub growth_bytes_per_second: u64,
}

/// How fast a log grows: over some seconds, the last ones most.
#[derive(Debug, Default)]
struct Growth {
    bytes: u64,
    since: Option<Instant>,
    rate: Option<u64>,
}

impl Partition {
    /// The metadata log says which replicas are being added. To be told before
    /// [`Partition::register`] has replicas be served.
    pub(super) fn note_adding(self: &Arc<Self>, adding: Vec<BrokerId>) {
        self.with_state(|state| {
            if adding.is_empty() {
                state.moving.growth = Growth::default();
            }
            state.moving.adding = adding;
        });
    }

    /// Where this broker leads and replicas are being added: how they come along.
    pub(super) fn moving_of(&self, state: &State) -> Option<MovingView> {
        let moving = &state.moving;
        if moving.adding.is_empty() || state.replica.leads().is_none() {
            return None;
        }
        let arriving = moving.adding.iter().copied().filter(|id| state.sends_move_to(*id));
        Some(MovingView {
            arriving: arriving.collect(),
            throttle: self.env.replication.throttle.rate(),
            growth_bytes_per_second: moving.growth.rate.unwrap_or(0),
        })
    }
}

impl State {
    /// Whether what this leader pushes to `follower` is for the throttle.
    pub(super) fn sends_move_to(&self, follower: BrokerId) -> bool {
        self.moving.adding.contains(&follower) && !self.replica.counts_as_member(follower)
    }

    /// Whether what comes here is for the throttle.
    fn is_arriving(&self) -> bool {
        let me = self.replica.me();
        self.moving.adding.contains(&me)
            && self.replica.registration().is_some_and(|known| !known.isr.contains(&me))
    }

    /// Whether what this follower has need not be acknowledged at once: it is history, and nobody can
    /// be waiting for it.
    pub(super) fn takes_history(&self) -> bool {
        self.is_arriving() && self.log.log_end_offset() < self.moving.committed
    }

    /// The leader pushed so many bytes.
    pub(super) fn note_pushed_here(&self, partition: &Partition, bytes: usize) {
        if self.is_arriving() {
            let now = partition.env.clock.monotonic();
            partition.env.replication.throttle.take(Direction::Receiving, bytes, now);
        }
    }

    /// The leader said how far it is committed.
    pub(super) fn note_committed(&mut self, progress: &Progress) {
        if self.session() == Some(progress.session) {
            self.moving.committed = progress.high_watermark;
        }
    }

    /// Nothing is known of the leader's log in a session that begins.
    pub(super) fn forget_committed(&mut self) {
        self.moving.committed = Offset::ZERO;
    }

    /// A leader appended.
    pub(super) fn note_grown(&mut self, bytes: u64) {
        if !self.moving.adding.is_empty() {
            self.moving.growth.bytes += bytes;
        }
    }

    /// Some time has passed.
    pub(super) fn measure_growth(&mut self, now: Instant) {
        if !self.moving.adding.is_empty() {
            self.moving.growth.measure(now);
        }
    }
}

impl Growth {
    fn measure(&mut self, now: Instant) {
        let Some(since) = self.since else {
            self.since = Some(now);
            self.bytes = 0;
            return;
        };
        let took = now.duration_since(since);
        if took < SAMPLE_MIN {
            return;
        }
        let nanos = u128::from(self.bytes) * 1_000_000_000 / took.as_nanos();
        let sample = u64::try_from(nanos).unwrap_or(u64::MAX);
        let rate = self.rate.map_or(sample, |rate| rate - rate / 4 + sample / 4);
        (self.bytes, self.since, self.rate) = (0, Some(now), Some(rate));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_follows_what_is_written_and_forgets() {
        let at = |ms| Instant::from_start(Duration::from_millis(ms));
        let mut growth = Growth { bytes: 700, ..Growth::default() };
        growth.measure(at(1000));
        assert_eq!(growth.rate, None, "nobody knows since when");
        growth.bytes += 500;
        growth.measure(at(1100));
        assert_eq!(growth.rate, None, "too short to tell");
        growth.bytes += 500;
        growth.measure(at(1500));
        assert_eq!(growth.rate, Some(2000));
        growth.bytes += 4000;
        growth.measure(at(2500));
        assert_eq!(growth.rate, Some(2500));
        for second in 3..60 {
            growth.measure(at(second * 1000 + 500));
        }
        assert!(growth.rate.unwrap() < 4, "{growth:?}");
    }
}
