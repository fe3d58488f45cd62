//! Following a leader: subscribing, cutting the log where the two part, appending.

use riverrun_proto::{epoch::LeaderEpoch, ids::BrokerId, offset::Offset};

use super::{
    Action, Mutation, Replica, Role, Rules,
    frame::{
        Ack, DataHead, Diverging, LeaderFrame, Position, Progress, Refusal, Refused, Session,
        Subscribe,
    },
};

/// A follower's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Following {
    pub(super) leader: BrokerId,
    session: Session,
    stage: Stage,
    /// What of the log was on disk when it last asked.
    asked_flushed: Offset,
    /// High watermark and log start as told on this session, while they lie past what the log has.
    ahead: Option<(Offset, Offset)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// Nothing has been heard on the session.
    Asking,
    /// The leader has granted it.
    Granted,
    /// To be asked for again, when some time has passed.
    Paused,
}

impl<R: Rules> Replica<R> {
    /// Follows a leader in a new epoch. The log is cut where that leader says its own goes another
    /// way, and never by the own high watermark, which may lag behind what is committed (KIP-101;
    /// [`Mutation::TruncateToHighWatermark`]).
    pub(super) fn start_following(&mut self, leader: BrokerId, actions: &mut Vec<Action>) {
        self.unsubscribe(actions);
        self.acknowledged = Offset::ZERO;
        if self.rules.breaks(Mutation::TruncateToHighWatermark) {
            self.truncate(self.high_watermark, actions);
        }
        let session = self.next_session();
        self.role = Role::Follower(Following {
            leader,
            session,
            stage: Stage::Asking,
            asked_flushed: Offset::ZERO,
            ahead: None,
        });
        self.subscribe(actions);
    }

    pub(super) fn unsubscribe(&mut self, actions: &mut Vec<Action>) {
        if let Role::Follower(following) = &self.role {
            actions.push(Action::Unsubscribe(following.session));
        }
    }

    /// What there is to be sent to the leader now: a subscription where none is granted, else an
    /// acknowledgement.
    pub fn position_for_leader(&self) -> Option<(BrokerId, Result<Ack, Subscribe>)> {
        let (Role::Follower(following), Some(registration)) = (&self.role, &self.registration)
        else {
            return None;
        };
        let position = Position {
            follower: self.me,
            leader_epoch: registration.leader_epoch,
            session: following.session,
            log_end: self.log.end,
            last_epoch: self.log.last_epoch(),
            flushed_end: self.log.flushed_end,
            log_start: self.log.start,
        };
        let says = match following.stage {
            Stage::Granted => Ok(Ack(position)),
            Stage::Asking | Stage::Paused => Err(Subscribe(position)),
        };
        Some((following.leader, says))
    }

    /// Whether a subscription is to be asked for again when some time has passed
    /// ([`Event::Tick`](super::Event::Tick)).
    pub fn is_paused(&self) -> bool {
        matches!(&self.role, Role::Follower(Following { stage: Stage::Paused, .. }))
    }

    /// The epoch in which this broker follows, while its copy is one to read from (KIP-392): a member
    /// of the ISR, and granted. Granted, its log is a prefix of its leader's, and it knows what that
    /// leader had committed when it granted, as far as the log goes. Not heard from, or out of the ISR,
    /// it would stand still, and its readers with it, however far the leader gets.
    pub fn in_sync_in(&self) -> Option<LeaderEpoch> {
        let (Role::Follower(following), Some(registration)) = (&self.role, &self.registration)
        else {
            return None;
        };
        let is_granted = following.stage == Stage::Granted;
        (is_granted && registration.isr.contains(&self.me)).then_some(registration.leader_epoch)
    }

    /// Sessions this run has had.
    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    fn subscribe(&mut self, actions: &mut Vec<Action>) {
        let flushed_end = self.log.flushed_end;
        if let Role::Follower(following) = &mut self.role {
            following.stage = Stage::Asking;
            following.asked_flushed = flushed_end;
        }
        if let Some((_, Err(subscribe))) = self.position_for_leader() {
            actions.push(Action::Subscribe(subscribe));
        }
    }

    pub(super) fn ack(&mut self, actions: &mut Vec<Action>) {
        if let Some((_, Ok(ack))) = self.position_for_leader() {
            actions.push(Action::Ack(ack));
        }
    }

    fn next_session(&mut self) -> Session {
        self.sessions += 1;
        Session { broker_epoch: self.broker_epoch, number: self.sessions }
    }

    /// Asks again where nothing was granted. A session that was granted once is never asked for
    /// again: frames of it may still be under way.
    pub(super) fn resubscribe(&mut self, actions: &mut Vec<Action>) {
        match &self.role {
            Role::Follower(Following { stage: Stage::Granted, .. }) => {}
            Role::Follower(_) => self.subscribe(actions),
            _ => {}
        }
    }

    fn pause(&mut self) {
        let session = match &self.role {
            Role::Follower(Following { stage: Stage::Granted, .. }) => Some(self.next_session()),
            _ => None,
        };
        if let Role::Follower(following) = &mut self.role {
            following.stage = Stage::Paused;
            following.session = session.unwrap_or(following.session);
            following.ahead = None;
        }
    }

    pub(super) fn leader_lost(&mut self, session: Session) {
        if matches!(&self.role, Role::Follower(following) if following.session == session) {
            self.pause();
        }
    }

    /// Frames count on the session they are of, in the epoch they are of, or not at all
    /// ([`Mutation::NoEpochFence`]).
    pub(super) fn leader_says(&mut self, frame: LeaderFrame, actions: &mut Vec<Action>) {
        match frame {
            LeaderFrame::Data(head) => {
                if self.is_ours(head.progress.session, head.progress.leader_epoch) {
                    self.data(&head, actions);
                }
            }
            LeaderFrame::Progress(progress) => {
                if self.is_ours(progress.session, progress.leader_epoch) {
                    self.granted(actions);
                    self.adopt(progress, actions);
                }
            }
            LeaderFrame::Diverging(diverging) => self.diverging(diverging, actions),
            LeaderFrame::Refused(refused) => {
                if self.is_ours(refused.session, refused.leader_epoch) {
                    self.refused(refused, actions);
                }
            }
        }
    }

    fn is_ours(&self, session: Session, leader_epoch: LeaderEpoch) -> bool {
        let (Role::Follower(following), Some(registration)) = (&self.role, &self.registration)
        else {
            return false;
        };
        if self.rules.breaks(Mutation::NoEpochFence) {
            return session.broker_epoch == following.session.broker_epoch;
        }
        session == following.session && leader_epoch == registration.leader_epoch
    }

    /// What was flushed since it asked could not be acknowledged before: nobody else would say it on
    /// an idle partition, and the leader would wait for it for good (found by the simulator).
    fn granted(&mut self, actions: &mut Vec<Action>) {
        let flushed_end = self.log.flushed_end;
        if let Role::Follower(following) = &mut self.role
            && following.stage == Stage::Asking
        {
            following.stage = Stage::Granted;
            if flushed_end > following.asked_flushed {
                self.ack(actions);
            }
        }
    }

    /// Appends batches that come right after the own log: after its end, and after a batch of the
    /// same epoch as its last. Epochs must not go back, nor past the leader's own (KAFKA-18723).
    /// What the log has already is dropped; anything else ends the session.
    fn data(&mut self, head: &DataHead, actions: &mut Vec<Action>) {
        if head.end <= self.log.end {
            return;
        }
        if self.fits(head) {
            self.granted(actions);
            actions.push(Action::Append);
            return;
        }
        if let Role::Follower(following) = &mut self.role {
            actions.push(Action::Unsubscribe(following.session));
            // Frames of it may be under way: it is not asked for again.
            following.stage = Stage::Granted;
        }
        self.pause();
    }

    fn fits(&self, head: &DataHead) -> bool {
        let last = self.log.last_epoch();
        // What was deleted had been committed: a log that is empty because of that agrees with any
        // leader's, also with one that has not heard of the deletion and still has what comes before.
        let is_empty = self.log.start == self.log.end;
        let follows = is_empty
            || head.previous_epoch == last
            || self.rules.breaks(Mutation::NoDivergenceCheck);
        let starts = head.epochs.first().is_some_and(|run| run.start == head.base);
        let grows = head
            .epochs
            .windows(2)
            .all(|pair| pair[0].start < pair[1].start && pair[0].epoch < pair[1].epoch);
        let first = head.epochs.first().map(|run| run.epoch);
        let ends = head
            .epochs
            .last()
            .is_some_and(|run| run.start < head.end && run.epoch <= head.progress.leader_epoch);
        head.base == self.log.end && follows && starts && grows && first >= last && ends
    }

    /// Takes note of what was appended. The leader's high watermark counts as far as the log goes.
    pub(super) fn replicated(&mut self, head: &DataHead, actions: &mut Vec<Action>) {
        assert_eq!(head.base, self.log.end, "appended somewhere else: {head:?}");
        self.log.append(&head.epochs, head.end);
        self.adopt(head.progress, actions);
        self.ack(actions);
    }

    /// As far as the log goes; the rest when it has gone on. For what was told may overtake the
    /// batches that it is about, where those wait for the log, and a leader that has nothing new does
    /// not say it twice: the simulator found followers that stayed behind for as long as nothing was
    /// written. It holds for this session, in which the log is and stays a prefix of the leader's.
    fn adopt(&mut self, progress: Progress, actions: &mut Vec<Action>) {
        let Progress { high_watermark: told, log_start, .. } = progress;
        let Role::Follower(following) = &mut self.role else { return };
        let (ahead, ahead_start) = following.ahead.unwrap_or((told, log_start));
        let (told, log_start) = (told.max(ahead), log_start.max(ahead_start));
        following.ahead = (told > self.log.end).then_some((told, log_start));
        let high_watermark = told.min(self.log.end);
        if high_watermark > self.high_watermark {
            self.high_watermark = high_watermark;
            actions.push(Action::AdvanceHighWatermark(high_watermark));
        }
        let log_start = log_start.min(self.high_watermark);
        if log_start > self.log.start {
            self.log.advance_start(log_start);
            actions.push(Action::AdvanceLogStart(log_start));
        }
    }

    /// Cuts the log to where it and the leader's still agree, as far as both histories can tell, and
    /// asks anew: one round for each epoch in which they differ (KIP-279). An answer counts for the
    /// very log it was given for: same session, same end, same last epoch (KAFKA-18991;
    /// [`Mutation::DivergingByOffset`]).
    fn diverging(&mut self, diverging: Diverging, actions: &mut Vec<Action>) {
        let Diverging { asked, epoch, end } = diverging;
        let by_offset = self.rules.breaks(Mutation::DivergingByOffset);
        let in_epoch = self.registration.as_ref().is_some_and(|registration| {
            registration.leader_epoch == asked.leader_epoch
                && asked.session.broker_epoch == self.broker_epoch
        });
        let is_ours = self.is_ours(asked.session, asked.leader_epoch)
            || by_offset && in_epoch && matches!(self.role, Role::Follower(_));
        let is_same = asked.log_end == self.log.end
            && (asked.last_epoch == self.log.last_epoch() || by_offset);
        if !is_ours || !is_same {
            return;
        }
        let own_end = epoch
            .and_then(|epoch| self.log.epochs.end_offset_for(epoch, self.log.end))
            .map(|(_, end)| end);
        let to = own_end.map_or(end, |own_end| own_end.min(end));
        if to >= self.log.end {
            // Neither history knows better: only a broken peer gets us here.
            return self.pause();
        }
        // The own start may lie inside a batch: nothing can be cut there, and nothing would be left.
        if epoch.is_none() || to <= self.log.start {
            self.restart(to, actions);
        } else {
            self.truncate(to, actions);
        }
        self.ask_anew(actions);
    }

    fn refused(&mut self, refused: Refused, actions: &mut Vec<Action>) {
        match refused.reason {
            Refusal::OutOfRange { log_start }
                if log_start > self.log.end
                    || self.log.start == self.log.end && log_start != self.log.end =>
            {
                self.restart(log_start, actions);
                self.ask_anew(actions);
            }
            _ => self.pause(),
        }
    }

    fn ask_anew(&mut self, actions: &mut Vec<Action>) {
        let session = self.next_session();
        if let Role::Follower(following) = &mut self.role {
            following.session = session;
            following.ahead = None;
        }
        self.subscribe(actions);
    }

    fn truncate(&mut self, to: Offset, actions: &mut Vec<Action>) {
        if to < self.log.end {
            self.log.truncate(to);
            self.high_watermark = self.high_watermark.min(to);
            actions.push(Action::Truncate { to });
        }
    }

    /// The leader no longer has what would come next, or never had what this log begins with
    /// (KAFKA-9491: end, start and high watermark move together).
    fn restart(&mut self, at: Offset, actions: &mut Vec<Action>) {
        self.log.restart(at);
        self.high_watermark = at;
        actions.push(Action::Restart { at });
    }
}

#[cfg(test)]
#[path = "follower_test.rs"]
mod tests;
