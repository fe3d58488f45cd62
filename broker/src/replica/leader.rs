//! What followers say, and what their leader makes of it.

use std::time::Duration;

use riverrun_proto::{
    epoch::BrokerEpoch, epoch_history::EpochStart, ids::BrokerId, offset::Offset,
};

use super::{
    Action, Durability, Mutation, Registration, Replica, Role, Rules,
    frame::{DataHead, Diverging, LeaderFrame, Position, Progress, Refusal, Refused, Session},
    high_watermark,
    holding::Holding,
    isr::Pending,
    lag::Lag,
    own_log::Comparison,
};

/// A leader's state, all of it void when its term ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Leadership {
    /// The log end when the term began.
    pub(super) epoch_start: Offset,
    /// All replicas but this one.
    pub(super) followers: Vec<Follower>,
    /// The ISR that has been proposed, until the partition epoch moves on.
    pub(super) pending: Option<Pending>,
    pub(super) lag: Lag,
    /// When ISR members were last looked at.
    pub(super) judged_at: Duration,
    pub(super) holding: Holding,
    /// The high watermark when durability was raised, until all that is below is as durable as the
    /// topic asks for now.
    pub(super) weakly_committed: Option<Offset>,
}

/// What the leader knows of a follower in this term.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Follower {
    pub(super) id: BrokerId,
    /// The latest run heard from.
    pub(super) broker_epoch: Option<BrokerEpoch>,
    /// What is being served.
    pub(super) session: Option<Session>,
    /// The newest session there has been: a late frame of an older one is not for us.
    newest_session: Option<Session>,
    /// What it said it has, and what of that is on its disk. Nothing that was merely sent counts.
    pub(super) ends: Option<(Offset, Offset)>,
    /// The latest time known at which it had all that the leader had.
    pub(super) caught_up_at: Option<Duration>,
    /// When it was last proposed to do without it because producers waited for it alone.
    pub(super) let_go_at: Option<Duration>,
}

enum Verdict {
    Accept,
    Diverging(Diverging),
    Refuse(Refusal),
}

impl Follower {
    /// Members of the ISR get a full [`lag_time_max`](super::Limits::lag_time_max) to be heard from.
    pub(super) fn new(id: BrokerId, caught_up_at: Option<Duration>) -> Self {
        Self {
            id,
            broker_epoch: None,
            session: None,
            newest_session: None,
            ends: None,
            caught_up_at,
            let_go_at: None,
        }
    }
}

impl Leadership {
    pub(super) fn follower(&self, id: BrokerId) -> Option<&Follower> {
        self.followers.iter().find(|follower| follower.id == id)
    }

    pub(super) fn follower_mut(&mut self, id: BrokerId) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|follower| follower.id == id)
    }
}

impl<R: Rules> Replica<R> {
    pub(super) fn leadership(&self) -> Option<(&Leadership, &Registration)> {
        match (&self.role, &self.registration) {
            (Role::Leader(leadership), Some(registration)) => Some((leadership, registration)),
            _ => None,
        }
    }

    /// A new term. Everything known of followers is void: also where this broker led before, also of
    /// members of the ISR. What they acknowledged in an earlier term they may have cut off since, on
    /// behalf of a leader in between that this one never heard of. Kafka keeps it; the search finds
    /// a committed record lost by that (mutation [`Mutation::KeepProgressOnReelection`],
    /// replication.md 3.4).
    pub(super) fn start_leading(
        &mut self,
        now: Duration,
        new: &Registration,
        actions: &mut Vec<Action>,
    ) {
        self.end_sessions(actions);
        let kept = match &self.role {
            Role::Leader(old) if self.rules.breaks(Mutation::KeepProgressOnReelection) => {
                old.followers.clone()
            }
            _ => Vec::new(),
        };
        let start = self.log.end;
        self.log.epochs.note(new.leader_epoch, start);
        let others = new.replicas.iter().filter(|id| **id != self.me);
        let followers = others.map(|id| {
            let in_isr = new.isr.contains(id);
            let mut follower = Follower::new(*id, in_isr.then_some(now));
            if let Some(old) = kept.iter().find(|old| old.id == *id && in_isr) {
                (follower.ends, follower.broker_epoch) = (old.ends, old.broker_epoch);
            }
            follower
        });
        self.role = Role::Leader(Leadership {
            epoch_start: start,
            followers: followers.collect(),
            pending: None,
            lag: Lag::new(now, start),
            judged_at: now,
            holding: Holding::default(),
            weakly_committed: (self.durability == Durability::Disk).then_some(self.high_watermark),
        });
        actions.push(Action::StartEpoch { epoch: new.leader_epoch, start });
    }

    /// The same term with another ISR or other replicas. Whatever was proposed is either this very
    /// change or can never be accepted, for the partition epoch has moved on.
    pub(super) fn keep_leading(
        &mut self,
        now: Duration,
        old: Option<&Registration>,
        new: &Registration,
        actions: &mut Vec<Action>,
    ) {
        let me = self.me;
        let Role::Leader(leadership) = &mut self.role else { return };
        leadership.pending = None;
        leadership.followers.retain(|follower| {
            let stays = new.replicas.contains(&follower.id);
            if let (false, Some(session)) = (stays, follower.session) {
                actions.push(Action::EndSession { follower: follower.id, session });
            }
            stays
        });
        for &id in new.replicas.iter().filter(|id| **id != me) {
            let joined = new.isr.contains(&id)
                && old.is_none_or(|registration| !registration.isr.contains(&id));
            match leadership.follower_mut(id) {
                Some(follower) if joined => follower.caught_up_at = Some(now),
                Some(_) => {}
                None => leadership.followers.push(Follower::new(id, joined.then_some(now))),
            }
        }
    }

    /// The term is over. If nothing was written in it, its epoch is forgotten: the next leader may
    /// well go on with batches of an older one, and those must not be taken for this one's. The
    /// search found two logs that part unnoticed otherwise ([`Mutation::KeepUnwrittenEpoch`]).
    pub(super) fn stop_leading(&mut self, new: &Registration, actions: &mut Vec<Action>) {
        self.end_sessions(actions);
        actions.push(Action::Resign { epoch: new.leader_epoch, leader: new.leader });
        self.role = Role::Idle;
        if !self.rules.breaks(Mutation::KeepUnwrittenEpoch) {
            self.log.forget_unwritten_epochs();
        }
    }

    /// No follower is served any more.
    pub(super) fn end_sessions(&mut self, actions: &mut Vec<Action>) {
        let Role::Leader(leadership) = &mut self.role else { return };
        for follower in &mut leadership.followers {
            if let Some(session) = follower.session.take() {
                actions.push(Action::EndSession { follower: follower.id, session });
            }
        }
    }

    pub(super) fn serves_any(&self) -> bool {
        let Role::Leader(leadership) = &self.role else { return false };
        leadership.followers.iter().any(|follower| follower.session.is_some())
    }

    /// A follower that had everything a moment ago is behind from now on, not since it last spoke:
    /// else the first record after an idle hour would evict everybody.
    pub(super) fn appended(
        &mut self,
        now: Duration,
        log_end: Offset,
        bytes: u64,
        actions: &mut Vec<Action>,
    ) {
        debug_assert!(log_end >= self.log.end, "an append moves the log end forward");
        let before = std::mem::replace(&mut self.log.end, log_end);
        let durability = self.durability;
        let Role::Leader(leadership) = &mut self.role else { return };
        for follower in &mut leadership.followers {
            let had_all = follower.ends.is_some_and(|(end, flushed_end)| match durability {
                Durability::Memory => end >= before,
                Durability::Disk => flushed_end >= before,
            });
            if had_all {
                follower.caught_up_at = Some(now);
            }
        }
        leadership.lag.grew(now, log_end, bytes, &self.limits);
        if self.serves_any() {
            actions.push(Action::WakeSenders);
        }
    }

    /// A follower asks for what comes after its log: granted where its log is a prefix of this one.
    pub(super) fn subscribed(
        &mut self,
        now: Duration,
        position: Position,
        actions: &mut Vec<Action>,
    ) {
        if self.accepts(now, position, true, actions) {
            // A subscription may come twice, the second time late. What was acknowledged on the session
            // since must not be pushed again: the follower has it and says nothing, and a sender that
            // waits for that waits for good (found by the simulator over the quorum, seed 1326).
            let from = self.log_end_of(position.follower).unwrap_or(position.log_end);
            let (follower, session) = (position.follower, position.session);
            actions.push(Action::Serve { follower, session, from });
        }
    }

    /// A log start may lie inside a batch, and batches are pushed whole: a follower that begins anew
    /// has to begin where that batch does, or it never could take it (KAFKA-6975). The leader learns
    /// where that is when it reads there.
    pub(super) fn inside_batch(
        &mut self,
        follower: BrokerId,
        session: Session,
        begins: Offset,
        actions: &mut Vec<Action>,
    ) {
        let Some(leader_epoch) = self.leads() else { return };
        let is_served = self.progress(follower).is_some_and(|served| served.session == session);
        if !is_served || begins > self.log.start {
            return;
        }
        self.log.first = begins;
        let reason = Refusal::OutOfRange { log_start: begins };
        let frame = LeaderFrame::Refused(Refused { session, leader_epoch, reason });
        actions.push(Action::Reply { follower, frame });
        self.follower_lost(follower, session);
    }

    /// A follower says what it has: checked in the same way as when it subscribed, because nothing
    /// else moves the high watermark.
    pub(super) fn acked(&mut self, now: Duration, position: Position, actions: &mut Vec<Action>) {
        self.accepts(now, position, false, actions);
    }

    fn accepts(
        &mut self,
        now: Duration,
        position: Position,
        opens: bool,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Position { follower, session, leader_epoch, .. } = position;
        let verdict = self.judge(&position, opens);
        match verdict {
            Verdict::Accept => self.note_position(now, position, opens),
            Verdict::Diverging(diverging) => {
                if self.rules.breaks(Mutation::CountDiverging) {
                    self.note_position(now, position, opens);
                }
                let frame = LeaderFrame::Diverging(diverging);
                actions.push(Action::Reply { follower, frame });
                return false;
            }
            Verdict::Refuse(reason) => {
                let frame = LeaderFrame::Refused(Refused { session, leader_epoch, reason });
                actions.push(Action::Reply { follower, frame });
                return false;
            }
        }
        true
    }

    /// The checks of a fetch, in the order of replication.md 1.4 (KAFKA-14078, KAFKA-12996): epoch
    /// (KIP-320; mutation [`Mutation::NoEpochFence`]), replica, run of the broker (KIP-903), log
    /// start, divergence (KIP-279; mutation [`Mutation::NoDivergenceCheck`]).
    fn judge(&self, position: &Position, opens: bool) -> Verdict {
        let known = self.registration.as_ref().map(|registration| registration.leader_epoch);
        let Some((leadership, registration)) = self.leadership() else {
            let is_old = known.is_some_and(|known| position.leader_epoch < known);
            let reason = if is_old { Refusal::FencedEpoch } else { Refusal::UnknownEpoch };
            return Verdict::Refuse(reason);
        };
        let fences = !self.rules.breaks(Mutation::NoEpochFence);
        if fences && position.leader_epoch != registration.leader_epoch {
            return Verdict::Refuse(if position.leader_epoch < registration.leader_epoch {
                Refusal::FencedEpoch
            } else {
                Refusal::UnknownEpoch
            });
        }
        let Some(follower) = leadership.follower(position.follower) else {
            return Verdict::Refuse(Refusal::NotReplica);
        };
        let run = Some(position.session.broker_epoch);
        let registered = self.standing(position.follower).map(|standing| standing.epoch);
        if run < follower.broker_epoch || run < registered {
            return Verdict::Refuse(Refusal::StaleBrokerEpoch);
        }
        let session = Some(position.session);
        let stale =
            if opens { session < follower.newest_session } else { session != follower.session };
        if fences && stale {
            return Verdict::Refuse(Refusal::UnknownSession);
        }
        if self.rules.breaks(Mutation::NoDivergenceCheck) {
            return Verdict::Accept;
        }
        match self.log.compare(position.log_end, position.last_epoch) {
            Comparison::Prefix => Verdict::Accept,
            Comparison::Diverging { epoch, end } => {
                Verdict::Diverging(Diverging { asked: *position, epoch, end })
            }
            Comparison::OutOfRange => {
                Verdict::Refuse(Refusal::OutOfRange { log_start: self.log.first })
            }
            Comparison::Inconsistent => Verdict::Refuse(Refusal::Inconsistent),
        }
    }

    /// Within a session a log only grows, so the furthest it said counts; a new session begins anew.
    fn note_position(&mut self, now: Duration, position: Position, opens: bool) {
        let log_end = position.log_end.min(self.log.end);
        let flushed_end = position.flushed_end.min(log_end);
        let own_end = self.log.end;
        let furthest =
            |(end, flushed): (Offset, Offset)| (end.max(log_end), flushed.max(flushed_end));
        let Role::Leader(leadership) = &mut self.role else { return };
        let Some(follower) = leadership.follower_mut(position.follower) else { return };
        let session = Some(position.session);
        let ends = match follower.ends {
            Some(known) if follower.newest_session == session => furthest(known),
            _ => (log_end, flushed_end),
        };
        follower.ends = Some(ends);
        follower.broker_epoch = Some(position.session.broker_epoch);
        follower.newest_session = session;
        if opens {
            follower.session = session;
        }
        let reached = match self.durability {
            Durability::Memory => ends.0,
            Durability::Disk => ends.1,
        };
        let caught_up_at =
            if reached >= own_end { Some(now) } else { leadership.lag.reached(reached) };
        if let Some(follower) = leadership.follower_mut(position.follower) {
            follower.caught_up_at = follower.caught_up_at.max(caught_up_at);
        }
    }

    pub(super) fn follower_lost(&mut self, id: BrokerId, session: Session) {
        let Role::Leader(leadership) = &mut self.role else { return };
        if let Some(follower) = leadership.follower_mut(id)
            && follower.session == Some(session)
        {
            follower.session = None;
        }
    }

    /// The rule of what is committed, over the maximal ISR: see [`high_watermark::candidate`].
    pub(super) fn advance_high_watermark(&mut self, actions: &mut Vec<Action>) {
        let Some(committed) = self.committable() else { return };
        if let Role::Leader(leadership) = &mut self.role
            && leadership.weakly_committed.is_some_and(|weakly| weakly <= committed)
        {
            leadership.weakly_committed = None;
        }
        if committed > self.high_watermark {
            self.high_watermark = committed;
            actions.push(Action::AdvanceHighWatermark(committed));
        }
    }

    fn committable(&self) -> Option<Offset> {
        let (leadership, registration) = self.leadership()?;
        let min_isr = match registration.effective_min_isr() {
            _ if self.rules.breaks(Mutation::CommitBelowMinIsr) => 0,
            min_isr => min_isr,
        };
        let positions = self
            .maximal_isr(leadership, registration)
            .filter(|id| {
                let heard = self.position_of_member(leadership, *id).is_some();
                heard || !self.rules.breaks(Mutation::SkipUnheard)
            })
            .map(|id| self.position_of_member(leadership, id));
        high_watermark::candidate(positions, registration.isr.len(), min_isr)
    }

    pub(super) fn position_of_member(
        &self,
        leadership: &Leadership,
        id: BrokerId,
    ) -> Option<Offset> {
        if id == self.me {
            return Some(self.position());
        }
        let (log_end, flushed_end) = leadership.follower(id)?.ends?;
        Some(self.position_of(log_end, flushed_end))
    }

    pub(super) fn acknowledge(&mut self, actions: &mut Vec<Action>) {
        let Role::Leader(_) = self.role else { return };
        let end = self.acknowledged_end();
        if end > self.acknowledged {
            actions.push(Action::Acknowledge(end));
        }
        self.acknowledged = end;
    }

    /// What lies below is committed and as durable as the topic asks for now.
    pub fn acknowledged_end(&self) -> Offset {
        match &self.role {
            Role::Leader(Leadership { weakly_committed: Some(_), .. }) => {
                self.high_watermark.min(self.committable().unwrap_or(Offset::ZERO))
            }
            _ => self.high_watermark,
        }
    }

    /// Where the log of a follower ended when it last said so in this term.
    pub fn log_end_of(&self, follower: BrokerId) -> Option<Offset> {
        let (leadership, _) = self.leadership()?;
        leadership.follower(follower)?.ends.map(|(log_end, _)| log_end)
    }

    /// What to tell a subscription of how far the log is committed.
    pub fn progress(&self, follower: BrokerId) -> Option<Progress> {
        let (leadership, registration) = self.leadership()?;
        Some(Progress {
            session: leadership.follower(follower)?.session?,
            leader_epoch: registration.leader_epoch,
            high_watermark: self.high_watermark,
            log_start: self.log.start,
        })
    }

    /// The head for batches `base..end` of the own log, to be pushed to a subscription.
    pub fn data_head(&self, follower: BrokerId, base: Offset, end: Offset) -> Option<DataHead> {
        let progress = self.progress(follower)?;
        if base < self.log.first || base >= end || end > self.log.end {
            return None;
        }
        // What lies below the log start is of the same batch, and so of the same epoch.
        let kept = base.max(self.log.start);
        let first = EpochStart { epoch: self.log.epochs.epoch_of(kept)?, start: base };
        let further = self.log.epochs.entries().iter();
        let further = further.filter(|run| run.start > kept && run.start < end).copied();
        Some(DataHead {
            progress,
            base,
            previous_epoch: self.log.epoch_before(base),
            end,
            epochs: std::iter::once(first).chain(further).collect(),
        })
    }
}

#[cfg(test)]
#[path = "leader_test.rs"]
mod tests;
