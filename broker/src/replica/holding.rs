//! Producers wait for the member of the ISR that is furthest behind, so that load evicts nobody; and a
//! member that alone makes them wait, for most of a long time, while another follower is fast, leaves: see
//! [`Limits`](super::Limits).

use std::time::Duration;

use riverrun_proto::ids::BrokerId;

use super::{
    Action, Limits, Registration, Replica, Role, Rules,
    leader::{Follower, Leadership},
};

/// Whether appends wait, and for whom alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Holding {
    /// Appends wait.
    holds: bool,
    laggard: Option<Laggard>,
}

/// A member that appends have waited for when all others had all there is, for half of every period since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Laggard {
    id: BrokerId,
    /// Periods for half of which or more appends waited for it alone, one after the other.
    periods: u32,
    /// When the present one began.
    began: Duration,
    /// How long of that appends have waited for it alone, up to when somebody last looked.
    waited: Duration,
    /// When that was, if they waited then.
    waits_since: Option<Duration>,
}

// === impl Holding ===

impl Holding {
    /// Time that went by unseen is nobody's doing.
    pub(super) fn forget(&mut self) {
        self.laggard = None;
    }

    /// The member that the others do not wait for any longer: producers would be twice as fast without
    /// it, and that in each of three quarters of `replica.lag.time.max.ms`.
    ///
    /// Not sooner, so that a member that stood still for half of that time has a quarter to catch up; not
    /// later, so that it is out when all of it has gone by.
    pub(super) fn outstays(&self) -> Option<BrokerId> {
        self.laggard.filter(|laggard| laggard.periods >= 3).map(|laggard| laggard.id)
    }
}

// === impl Laggard ===

impl Laggard {
    fn new(id: BrokerId, now: Duration) -> Self {
        Self { id, periods: 0, began: now, waited: Duration::ZERO, waits_since: None }
    }

    /// Looks again, and whether appends wait for it alone from now on; `None`: they did not for half of the
    /// period that ends. In the first, which began with a wait, it is gone as soon as that is so: a
    /// short wait that went before stands in nobody's way.
    fn goes_on(self, now: Duration, waits: bool, limits: &Limits) -> Option<Self> {
        let more = self.waits_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let (waited, waits_since) = (self.waited + more, waits.then_some(now));
        let lasts = now.saturating_sub(self.began);
        let ends = lasts >= limits.lag_time_max / 4;
        if waited < lasts / 2 && (ends || self.periods == 0) {
            return None;
        }
        Some(match ends {
            false => Self { waited, waits_since, ..self },
            true => Self {
                periods: self.periods.saturating_add(1),
                waits_since,
                ..Self::new(self.id, now)
            },
        })
    }
}

// === impl Replica ===

impl<R: Rules> Replica<R> {
    /// Producers wait for a member of the ISR that is there and lacks more than the budget, until it lacks
    /// no more than half of it.
    pub(super) fn hold_or_resume(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some((leadership, registration)) = self.leadership() else { return };
        if leadership.followers.is_empty() {
            return;
        }
        let held = leadership.holding.holds;
        let lag_max = self.limits.lag_bytes_max;
        let limit = if held { lag_max / 2 } else { lag_max };
        let holds = leadership.followers.iter().any(|follower| {
            follower.session.is_some()
                && registration.isr.contains(&follower.id)
                && self.bytes_behind(leadership, follower) > limit
        });
        let alone = if holds { self.alone_behind(leadership, registration) } else { None };
        let known =
            leadership.holding.laggard.filter(|laggard| registration.isr.contains(&laggard.id));
        let laggard = known.or_else(|| alone.map(|id| Laggard::new(id, now)));
        let laggard = laggard
            .and_then(|laggard| laggard.goes_on(now, alone == Some(laggard.id), &self.limits));
        if let Role::Leader(leadership) = &mut self.role {
            leadership.holding = Holding { holds, laggard };
        }
        match (held, holds) {
            (false, true) => actions.push(Action::HoldAppends),
            (true, false) => actions.push(Action::ResumeAppends),
            _ => {}
        }
    }

    /// The only one that lacks anything, if there is another follower, which does not: that a leader is
    /// faster than all its followers says nothing of them. While appends wait the log stands still, so
    /// that whoever is fast has all there is for most of that time. This broker counts too: if its own
    /// disk is slow, nobody else is to go.
    fn alone_behind(
        &self,
        leadership: &Leadership,
        registration: &Registration,
    ) -> Option<BrokerId> {
        let lacks = |id: &&BrokerId| {
            self.position_of_member(leadership, **id).is_none_or(|position| position < self.log.end)
        };
        let mut behind = registration.isr.iter().filter(lacks);
        let alone = *behind.next()?;
        let has_another = registration.isr.iter().any(|id| ![self.me, alone].contains(id));
        (behind.next().is_none() && alone != self.me && has_another).then_some(alone)
    }

    /// Bytes of this term that it lacks, overestimated by a step of the marks at most.
    pub(super) fn bytes_behind(&self, leadership: &Leadership, follower: &Follower) -> u64 {
        let position = follower.ends.map_or(self.log.start, |(log_end, flushed_end)| {
            self.position_of(log_end, flushed_end)
        });
        leadership.lag.bytes_past(position, self.log.end)
    }

    /// Whether appends have to wait for a member of the ISR.
    pub fn holds_appends(&self) -> bool {
        matches!(&self.role, Role::Leader(leadership) if leadership.holding.holds)
    }
}

#[cfg(test)]
#[path = "holding_test.rs"]
mod tests;
