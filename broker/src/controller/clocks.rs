//! Whose wall clock is off, as the leader of the metadata quorum hears it. Pure.
//!
//! Brokers compare their clocks with the leader's, its own broker's among them, and say with every
//! heartbeat what came out ([`Heartbeat::clock`](super::Heartbeat::clock)). A clock further away than
//! `broker.clock.offset.max.ms` keeps a broker that comes from being taken in; one that is in stays in,
//! whatever its clock does: it may be the leader's that jumped, and nobody is to be fenced for that.
//!
//! | of the clocks that are compared | whoever comes with another one | deletes for age |
//! |---|---|---|
//! | more than half agree with the leader's | is kept out | who agrees |
//! | just half | is kept out | nobody |
//! | fewer | is taken in: the leader's is the odd one | nobody |
//!
//! A comparison is as old as the heartbeat before, and the leader's clock may have been set since: then it
//! would agree with itself, and the others seem to. So it is brought up to date with what the leader knows
//! of its own clock ([`Compared::as_of`]).
//!
//! Nobody deletes for age either before more than half of those who take part have compared, and agree.

use std::time::Duration;

use riverrun_proto::ids::BrokerId;

use crate::clock::{ClockOffset, ClocksTold, WallAnchor};

/// What a broker found as it compared its wall clock with the leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// How far its own was from the leader's.
    pub offset: ClockOffset,
    /// How the leader's stood as it told the time.
    pub leader: WallAnchor,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clocks {
    off: Vec<(BrokerId, ClockOffset)>,
    compared: usize,
}

// === impl Compared ===

impl Compared {
    /// What the comparison would show, with the leader's clock as it stands `now`.
    pub(super) const fn as_of(self, now: WallAnchor) -> ClockOffset {
        self.offset.after_other_was_set(now.set_since(self.leader))
    }
}

// === impl Clocks ===

impl Clocks {
    /// Of all brokers that are heard and have compared, by `bound`.
    pub(super) fn judge(
        compared: impl IntoIterator<Item = (BrokerId, ClockOffset)>,
        bound: Duration,
    ) -> Self {
        let mut clocks = Self { off: Vec::new(), compared: 0 };
        for (broker, offset) in compared {
            clocks.compared += 1;
            if offset.is_beyond(bound) {
                clocks.off.push((broker, offset));
            }
        }
        clocks
    }

    /// Whether `broker`, which is heard, may come in as far as its clock goes.
    pub(super) fn admit(&self, broker: BrokerId) -> bool {
        let agrees = self.off.iter().all(|(off, _)| *off != broker);
        agrees || self.off.len() * 2 > self.compared
    }

    /// What everybody is told, where so many brokers take part.
    pub(super) fn told(self, taking_part: usize) -> ClocksTold {
        let agree = self.compared - self.off.len();
        let confirmed = agree * 2 > taking_part;
        let disputed = !self.off.is_empty() && self.off.len() * 2 >= self.compared;
        ClocksTold { off: self.off, disputed, confirmed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_kept_out_and_when_nobody_is_believed() {
        const FAR: i64 = 60_000;
        // (what, offsets of brokers 1, 2, …; who is off; who may come in; disputed)
        type Case = (&'static str, &'static [i64], &'static [u32], &'static [u32], bool);
        let table: [Case; 7] = [
            ("nobody is heard", &[], &[], &[], false),
            ("alone", &[0], &[], &[1], false),
            ("all agree", &[0, 9_000, -9_000], &[], &[1, 2, 3], false),
            ("one of three", &[0, 3, FAR], &[3], &[1, 2], false),
            ("one of two: who knows", &[0, FAR], &[2], &[1], true),
            ("two of three: the leader's", &[0, -FAR, -FAR], &[2, 3], &[1, 2, 3], true),
            ("two of four", &[0, 0, FAR, -FAR], &[3, 4], &[1, 2], true),
        ];
        for (what, offsets, off, admitted, disputed) in table {
            let brokers = (1..).map(BrokerId);
            let compared = offsets.iter().map(|ahead| ClockOffset::told(*ahead, 1));
            let clocks = Clocks::judge(brokers.zip(compared), Duration::from_secs(10));
            let may_come: Vec<u32> = (1..)
                .take(offsets.len())
                .filter(|broker| clocks.admit(BrokerId(*broker)))
                .collect();
            assert_eq!(may_come, admitted, "{what}");
            assert!(!clocks.clone().told(1000).confirmed, "{what}: too few of so many");
            let told = clocks.told(offsets.len());
            let agree = offsets.len() - off.len();
            assert_eq!(told.confirmed, agree * 2 > offsets.len(), "{what}");
            let found: Vec<u32> = told.off.iter().map(|(broker, _)| broker.0).collect();
            assert_eq!((found.as_slice(), told.disputed), (off, disputed), "{what}");
        }
    }
}
