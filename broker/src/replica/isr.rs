//! Who joins the ISR and who leaves it. The leader proposes, the controller decides, by
//! compare-and-set on the partition epoch; at most one proposal is under way.

use std::time::Duration;

use riverrun_proto::{
    epoch::{LeaderEpoch, PartitionEpoch},
    ids::BrokerId,
};

use super::{
    Action, IsrProposal, Mutation, Registration, Replica, Role, Rules,
    leader::{Follower, Leadership},
};

/// A proposal that may have been accepted, or may yet be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    proposal: IsrProposal,
    /// Members of any proposal made for this partition epoch.
    counted: Vec<BrokerId>,
}

impl<R: Rules> Replica<R> {
    /// The committed ISR and all that has been proposed since: whoever is, or may be by now, a member
    /// and so could be elected. Growing counts at once ([`Mutation::CommittedIsrOnExpand`]),
    /// shrinking only when it is committed ([`Mutation::ProposedIsrOnShrink`]); KIP-497.
    pub(super) fn maximal_isr(
        &self,
        leadership: &Leadership,
        registration: &Registration,
    ) -> impl Iterator<Item = BrokerId> {
        let committed = &registration.isr;
        let counted = leadership.pending.as_ref().map_or(&[][..], |pending| &pending.counted);
        let proposed = leadership.pending.as_ref().map(|pending| &pending.proposal.isr);
        let shrinks = proposed.is_some_and(|proposed| proposed.len() < committed.len());
        let eager = shrinks && self.rules.breaks(Mutation::ProposedIsrOnShrink);
        let lazy = self.rules.breaks(Mutation::CommittedIsrOnExpand);
        let stays = |id: &BrokerId| {
            !eager
                || proposed.is_some_and(|proposed| proposed.iter().any(|(member, _)| member == id))
        };
        let members: Vec<_> = committed.iter().filter(|id| stays(id)).copied().collect();
        let more = counted.iter().filter(|id| !lazy && !committed.contains(id)).copied();
        members.into_iter().chain(more.collect::<Vec<_>>())
    }

    /// Whether some ISR that the controller may have in force, or accept yet, has this member.
    pub fn counts_as_member(&self, id: BrokerId) -> bool {
        self.leadership().is_some_and(|(leadership, registration)| {
            self.maximal_isr(leadership, registration).any(|member| member == id)
        })
    }

    /// Whether another broker could be made the leader without this one's doing: a member of the ISR,
    /// or one that may be a member by now. An election by hand of one that is not is aside.
    pub fn others_may_lead(&self) -> bool {
        self.leadership().is_some_and(|(leadership, registration)| {
            let counted = leadership.pending.as_ref().map_or(&[][..], |pending| &pending.counted);
            registration.isr.iter().chain(counted).any(|member| *member != self.me)
        })
    }

    /// The proposal that is to be sent until it is answered or the partition epoch has moved on.
    pub fn pending_proposal(&self) -> Option<&IsrProposal> {
        let (leadership, _) = self.leadership()?;
        Some(&leadership.pending.as_ref()?.proposal)
    }

    /// Proposes who should join, if nothing is under way.
    pub(super) fn change_isr(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some((leadership, registration)) = self.leadership() else { return };
        let is_free = leadership.pending.is_none() || self.rules.breaks(Mutation::ForgetPending);
        if leadership.followers.is_empty() || !is_free {
            return;
        }
        let joins = |id: &BrokerId| {
            let follower = leadership.follower(*id);
            !registration.isr.contains(id)
                && follower.is_some_and(|follower| self.may_join(now, leadership, follower))
        };
        if !registration.replicas.iter().any(joins) {
            return;
        }
        let member = |id: &&BrokerId| registration.isr.contains(id) || joins(id);
        let isr = registration.replicas.iter().filter(member).copied().collect();
        self.propose(isr, actions);
    }

    /// A follower joins when it has all that is committed, or may have been committed by an earlier
    /// leader (it reached the start of this epoch: [`Mutation::JoinBeforeEpochStart`]), is there, is
    /// not known to be refused by the controller (KIP-841, KIP-903), and is near the log's end: half
    /// as far behind as would evict it or hold producers up, so that it does not leave again at once
    /// (KAFKA-19996).
    fn may_join(&self, now: Duration, leadership: &Leadership, follower: &Follower) -> bool {
        let (Some(_), Some((log_end, flushed_end))) = (follower.session, follower.ends) else {
            return false;
        };
        let eligible = self.standing(follower.id).is_some_and(|standing| {
            standing.may_join && Some(standing.epoch) == follower.broker_epoch
        });
        let position = self.position_of(log_end, flushed_end);
        if !eligible || position < self.high_watermark || self.stays_out(now, follower) {
            return false;
        }
        if self.rules.breaks(Mutation::JoinBeforeEpochStart) {
            return true;
        }
        // One that has all there is has it now, however long ago it last had to say so: on an idle
        // partition nobody says anything. The simulator found a partition below its minimum for good:
        // a member was fenced while it stood still, with its subscription open, and nothing could be
        // written that it would have acknowledged.
        let near = position >= self.log.end
            || follower
                .caught_up_at
                .is_some_and(|at| now.saturating_sub(at) <= self.limits.lag_time_max / 2);
        position >= leadership.epoch_start
            && near
            && self.bytes_behind(leadership, follower) <= self.limits.lag_bytes_max / 2
    }

    /// Whoever left because producers waited for it alone is near the log's end when it does, and would
    /// be back at once, to make them wait again. It stays out for [`lag_time_max`](super::Limits), but
    /// for when it is needed: nothing is written without it then.
    fn stays_out(&self, now: Duration, follower: &Follower) -> bool {
        let lately =
            follower.let_go_at.is_some_and(|at| now.saturating_sub(at) <= self.limits.lag_time_max);
        lately && self.spares(0)
    }

    /// Whether the ISR has so many members more than it takes to write.
    fn spares(&self, members: usize) -> bool {
        let registration = self.registration.as_ref();
        registration.is_some_and(|r| r.isr.len() >= r.effective_min_isr() + members)
    }

    /// Proposes to do without the members that have been behind for too long. One that has all there
    /// is counts as caught up however long it has been silent: whether it lives is for the controller
    /// to know, by its heartbeats. If there is none, without the one that all others wait for
    /// ([`Holding::outstays`](super::holding::Holding::outstays)), where it takes fewer to write.
    ///
    /// A leader that has not looked for long was asleep itself, and its followers' clocks prove
    /// nothing: they begin anew.
    pub(super) fn judge_members(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let lag_max = self.limits.lag_time_max;
        let Role::Leader(leadership) = &mut self.role else { return };
        let slept = now.saturating_sub(leadership.judged_at) > lag_max / 2;
        leadership.judged_at = now;
        if slept {
            for follower in leadership.followers.iter_mut().filter(|f| f.caught_up_at.is_some()) {
                follower.caught_up_at = Some(now);
            }
            leadership.holding.forget();
            return;
        }
        let Some((leadership, registration)) = self.leadership() else { return };
        if leadership.pending.is_some() && !self.rules.breaks(Mutation::ForgetPending) {
            return;
        }
        let stays = |id: &&BrokerId| {
            let follower = leadership.follower(**id);
            follower.is_none_or(|follower| {
                let has_all = follower.ends.is_some_and(|(log_end, flushed_end)| {
                    self.position_of(log_end, flushed_end) >= self.log.end
                });
                has_all || follower.caught_up_at.is_some_and(|at| now.saturating_sub(at) <= lag_max)
            })
        };
        let mut isr: Vec<_> = registration.isr.iter().filter(stays).copied().collect();
        let mut let_go = None;
        if isr.len() == registration.isr.len() && self.spares(1) {
            let_go = leadership.holding.outstays();
            isr.retain(|id| Some(*id) != let_go);
        }
        if isr.len() == registration.isr.len() {
            return;
        }
        if let (Some(id), Role::Leader(leadership)) = (let_go, &mut self.role)
            && let Some(follower) = leadership.follower_mut(id)
        {
            follower.let_go_at = Some(now);
        }
        self.propose(isr, actions);
    }

    /// The controller refused a proposal because of a member, for instance one it has fenced. That
    /// is no proof that the ISR stays as it is: the proposal is sent until answered, and another copy
    /// may be accepted when the member has come back, under the same partition epoch. So all that was
    /// proposed counts on, and the present ISR itself is proposed: once that is accepted the
    /// partition epoch has moved on and no copy can be. The search finds a committed record lost
    /// otherwise ([`Mutation::ForgetRefused`]).
    pub(super) fn isr_refused(
        &mut self,
        leader_epoch: LeaderEpoch,
        partition_epoch: PartitionEpoch,
        actions: &mut Vec<Action>,
    ) {
        let forgets = self.rules.breaks(Mutation::ForgetRefused);
        let Role::Leader(leadership) = &mut self.role else { return };
        let Some(registration) = &self.registration else { return };
        let Some(pending) = &leadership.pending else { return };
        let is_ours = (registration.leader_epoch, registration.partition_epoch)
            == (leader_epoch, partition_epoch);
        let members = pending.proposal.isr.iter().map(|(member, _)| member);
        if !is_ours || members.eq(&registration.isr) {
            return;
        }
        if forgets {
            leadership.pending = None;
        } else {
            let present = registration.isr.clone();
            self.propose(present, actions);
        }
    }

    fn propose(&mut self, isr: Vec<BrokerId>, actions: &mut Vec<Action>) {
        let Some((leadership, registration)) = self.leadership() else { return };
        let member = |id: &BrokerId| {
            if *id == self.me {
                (*id, Some(self.broker_epoch))
            } else {
                (*id, leadership.follower(*id).and_then(|follower| follower.broker_epoch))
            }
        };
        let proposal = IsrProposal {
            leader: self.me,
            broker_epoch: self.broker_epoch,
            leader_epoch: registration.leader_epoch,
            partition_epoch: registration.partition_epoch,
            isr: isr.iter().map(member).collect(),
        };
        let forgets = self.rules.breaks(Mutation::ForgetPending);
        let Role::Leader(leadership) = &mut self.role else { return };
        if leadership.pending.as_ref().is_some_and(|pending| pending.proposal == proposal) {
            return;
        }
        let mut counted = match leadership.pending.take() {
            Some(pending) if !forgets => pending.counted,
            _ => Vec::new(),
        };
        for id in isr {
            if !counted.contains(&id) {
                counted.push(id);
            }
        }
        leadership.pending = Some(Pending { proposal: proposal.clone(), counted });
        actions.push(Action::ProposeIsr(proposal));
    }
}
