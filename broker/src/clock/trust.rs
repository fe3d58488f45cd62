//! Whether this broker's wall clock is right, as far as it can tell, and what it knows of others'.
//!
//! Records are kept for so long, by the wall clock. One that is wrong would delete what is not old, for
//! good. So it is compared with that of the node that leads the metadata quorum, with every heartbeat,
//! and as long as the two are further apart than the bound, nothing is deleted here for its age; neither
//! before they were compared at all, nor where the wall clock jumped since, as the clock that only moves
//! forward tells. Nothing else waits for it: leases, sessions and timeouts know no wall clock.
//!
//! Which of two clocks is wrong nobody knows. Where the leader of the quorum finds that no more than half
//! of the clocks it compares agree with its own, it says so with every answer (`disputed`), and then
//! nobody deletes anything for its age; nor before more than half of those who take part agree with it
//! (`confirmed`): a clock that is off agrees with itself, and whoever has it may come to lead the quorum.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use riverrun_proto::{ids::BrokerId, timestamp::Timestamp};
use thiserror::Error;

use super::{ClockOffset, Instant, WallAnchor};

/// See the module. Clones share it.
#[derive(Debug, Clone)]
pub struct WallTrust {
    /// `None`: there is nobody to compare with.
    bound: Option<Duration>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    compared: Option<Compared>,
    off: bool,
    /// As the leader of the quorum said last.
    told: ClocksTold,
}

#[derive(Debug, Clone, Copy)]
struct Compared {
    offset: ClockOffset,
    leader: BrokerId,
    anchor: WallAnchor,
}

/// What the leader of the quorum says of clocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClocksTold {
    /// Brokers whose clocks are further from the leader's than the bound.
    pub off: Vec<(BrokerId, ClockOffset)>,
    /// No more than half of the clocks that are compared agree with the leader's.
    pub disputed: bool,
    /// More than half of the brokers that take part have compared theirs, and agree.
    pub confirmed: bool,
}

/// A broker's wall clock is too far from that of the node that leads the metadata quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the wall clock of this broker is {offset} of that of broker {leader}, which leads the metadata \
     quorum; {bound:?} are allowed (broker.clock.offset.max.ms). Set the clock of the one that is wrong, \
     best by NTP on all machines"
)]
pub struct ClockOff {
    /// How far.
    pub offset: ClockOffset,
    /// From whose.
    pub leader: BrokerId,
    /// How far it may be.
    pub bound: Duration,
}

/// What a comparison changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockNews {
    /// This clock is off, since now.
    Off(ClockOff),
    /// It is within the bound again.
    Well(ClockOffset),
    /// The clock of the leader of the quorum is disputed, since now, or no longer.
    Disputed(bool),
}

// === impl WallTrust ===

impl WallTrust {
    /// To be compared; no further than `bound` from the leader's.
    pub fn within(bound: Duration) -> Self {
        Self { bound: Some(bound), state: Arc::default() }
    }

    /// Of a broker that has nobody to compare with: believed.
    pub fn unquestioned() -> Self {
        Self { bound: None, state: Arc::default() }
    }

    /// The clock was compared with `leader`'s, while this one showed `wall` and `monotonic`. What that
    /// changes is for the log.
    pub fn compare(
        &self,
        leader: BrokerId,
        offset: ClockOffset,
        (wall, monotonic): (Timestamp, Instant),
        told: ClocksTold,
    ) -> Vec<ClockNews> {
        let Some(bound) = self.bound else { return Vec::new() };
        let mut state = self.state.lock();
        let was_off = state.off;
        // In between it stays as it was: a slow answer is no news.
        state.off = offset.is_beyond(bound) || was_off && !offset.is_within(bound);
        let mut news = Vec::new();
        match (was_off, state.off) {
            (false, true) => news.push(ClockNews::Off(ClockOff { offset, leader, bound })),
            (true, false) => news.push(ClockNews::Well(offset)),
            _ => {}
        }
        if state.told.disputed != told.disputed {
            news.push(ClockNews::Disputed(told.disputed));
        }
        state.compared = Some(Compared { offset, leader, anchor: WallAnchor::of(wall, monotonic) });
        state.told = told;
        news
    }

    /// Whether a comparison is beyond the bound.
    pub fn is_beyond(&self, offset: ClockOffset) -> bool {
        self.bound.is_some_and(|bound| offset.is_beyond(bound))
    }

    /// Whether what the wall clock shows now may cost anybody a record.
    pub fn vouches(&self, wall: Timestamp, monotonic: Instant) -> bool {
        let Some(bound) = self.bound else { return true };
        let state = self.state.lock();
        let bound = i64::try_from(bound.as_millis()).unwrap_or(i64::MAX);
        let stands = |compared: Compared| {
            let set = WallAnchor::of(wall, monotonic).set_since(compared.anchor);
            set.saturating_abs() <= bound
        };
        let is_agreed = state.told.confirmed && !state.told.disputed;
        !state.off && is_agreed && state.compared.is_some_and(stands)
    }

    /// Why this clock is not believed, if it is too far from the leader's.
    pub fn off(&self) -> Option<ClockOff> {
        let state = self.state.lock();
        let Compared { offset, leader, .. } = state.compared.filter(|_| state.off)?;
        Some(ClockOff { offset, leader, bound: self.bound? })
    }

    /// How far it was from the leader's when last compared.
    pub fn offset(&self) -> Option<ClockOffset> {
        self.state.lock().compared.map(|compared| compared.offset)
    }

    /// What the leader of the quorum said last of everybody's.
    pub fn told(&self) -> ClocksTold {
        self.state.lock().told.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    const BOUND: Duration = Duration::from_secs(10);
    const LEADER: BrokerId = BrokerId(1);

    fn offset(ahead_ms: i64) -> ClockOffset {
        ClockOffset::told(ahead_ms, 1)
    }

    fn confirmed() -> ClocksTold {
        ClocksTold { confirmed: true, ..ClocksTold::default() }
    }

    fn compare(trust: &WallTrust, clock: &ManualClock, ahead_ms: i64) -> Vec<ClockNews> {
        let shown = (clock.now(), clock.monotonic());
        trust.compare(LEADER, offset(ahead_ms), shown, confirmed())
    }

    fn vouches(trust: &WallTrust, clock: &ManualClock) -> bool {
        trust.vouches(clock.now(), clock.monotonic())
    }

    #[test]
    fn a_clock_is_not_believed_before_it_was_compared_and_while_it_is_off() {
        let (trust, clock) = (WallTrust::within(BOUND), ManualClock::default());
        assert!(!vouches(&trust, &clock));
        let off = ClockOff { offset: offset(60_000), leader: LEADER, bound: BOUND };
        let back = ClockOff { offset: offset(-60_000), ..off };
        // (ahead, news, vouches)
        let table = [
            (3, vec![], true),
            (9_000, vec![], true),
            (10_000, vec![], true),
            (60_000, vec![ClockNews::Off(off)], false),
            (60_000, vec![], false),
            (10_000, vec![], false),
            (9_999, vec![ClockNews::Well(offset(9_999))], true),
            (-60_000, vec![ClockNews::Off(back)], false),
            (0, vec![ClockNews::Well(offset(0))], true),
        ];
        for (ahead, news, believed) in table {
            assert_eq!(compare(&trust, &clock, ahead), news, "{ahead}");
            assert_eq!(vouches(&trust, &clock), believed, "{ahead}");
            assert_eq!(trust.off().is_some(), !believed, "{ahead}");
            assert_eq!(trust.offset(), Some(offset(ahead)));
        }
    }

    #[test]
    fn a_clock_that_was_set_since_it_was_compared_is_not_believed() {
        let (trust, clock) = (WallTrust::within(BOUND), ManualClock::default());
        compare(&trust, &clock, 0);
        clock.advance(Duration::from_secs(24 * 3600));
        assert!(vouches(&trust, &clock), "time passes on both");
        let now = clock.now();
        for (set, believed) in [(10_000, true), (10_001, false), (-10_000, true), (-10_001, false)]
        {
            clock.set_wall(Timestamp::from_millis(now.as_millis() + set));
            assert_eq!(vouches(&trust, &clock), believed, "{set}");
        }
        compare(&trust, &clock, 5);
        assert!(vouches(&trust, &clock), "it was wrong before, as the leader has it");
    }

    #[test]
    fn nobody_is_believed_while_the_leaders_clock_is_disputed() {
        let (trust, clock) = (WallTrust::within(BOUND), ManualClock::default());
        let off = vec![(BrokerId(2), offset(99_000))];
        let told = ClocksTold { off, disputed: true, confirmed: true };
        let shown = (clock.now(), clock.monotonic());
        let news = trust.compare(LEADER, offset(0), shown, told.clone());
        assert_eq!(news, [ClockNews::Disputed(true)]);
        assert!(!vouches(&trust, &clock) && trust.off().is_none());
        assert_eq!(trust.told(), told);
        assert_eq!(compare(&trust, &clock, 0), [ClockNews::Disputed(false)]);
        assert!(vouches(&trust, &clock));
    }

    #[test]
    fn who_begins_to_lead_is_not_believed_because_it_agrees_with_itself() {
        let (trust, clock) = (WallTrust::within(BOUND), ManualClock::default());
        compare(&trust, &clock, 60_000);
        let shown = (clock.now(), clock.monotonic());
        trust.compare(BrokerId(2), offset(0), shown, ClocksTold::default());
        assert!(trust.off().is_none() && !vouches(&trust, &clock));
        trust.compare(BrokerId(2), offset(0), shown, confirmed());
        assert!(vouches(&trust, &clock));
    }

    #[test]
    fn who_has_nobody_to_compare_with_is_believed() {
        let (trust, clock) = (WallTrust::unquestioned(), ManualClock::default());
        assert!(compare(&trust, &clock, 99_000_000).is_empty());
        clock.set_wall(Timestamp::from_millis(i64::MAX));
        assert!(vouches(&trust, &clock) && !trust.is_beyond(offset(i64::MAX)));
    }

    #[test]
    fn the_error_says_who_is_off_by_how_much_and_what_to_do() {
        let off = ClockOff { offset: offset(-7_200_000), leader: LEADER, bound: BOUND };
        let text = off.to_string();
        for said in ["7200.0 s behind", "broker 1", "10s", "broker.clock.offset.max.ms", "NTP"] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}
