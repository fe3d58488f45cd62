//! What a leader knows of its followers, for people: metrics, descriptions, explanations. Decides
//! nothing.

use std::time::Duration;

use riverrun_proto::{ids::BrokerId, offset::Offset};

use super::{Durability, IsrProposal, Limits, Replica, Rules};

/// What a leader knows of its term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderView {
    /// Which end of a log counts.
    pub durability: Durability,
    /// How long the oldest record that is not committed has been waiting, at least; `None`: all is
    /// committed.
    pub uncommitted_for: Option<Duration>,
    /// Whether appends wait for a member of the ISR.
    pub holds_appends: bool,
    /// The bounds it keeps.
    pub limits: Limits,
    /// The ISR that it has asked for and was not answered yet.
    pub proposed_isr: Option<Vec<BrokerId>>,
    /// All replicas but its own.
    pub followers: Vec<FollowerView>,
}

/// A follower, as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerView {
    /// Which broker.
    pub id: BrokerId,
    /// Whether it counts for what is committed.
    pub in_isr: bool,
    /// Whether its subscription is open.
    pub connected: bool,
    /// Where its log ended when it last said so; `None`: not heard from in this term.
    pub log_end: Option<Offset>,
    /// Up to where that was on its disk.
    pub flushed_end: Option<Offset>,
    /// Bytes of this term that it lacks, overestimated by a step of the leader's marks at most.
    pub bytes_behind: u64,
    /// Since when it has not had everything; `None`: it has, or never had in this term.
    pub behind_for: Option<Duration>,
}

impl<R: Rules> Replica<R> {
    /// All followers of a leader, as of `now`; nobody's, for whoever does not lead.
    pub fn followers(&self, now: Duration) -> Vec<FollowerView> {
        let Some((leadership, _)) = self.leadership() else { return Vec::new() };
        let view = |follower: &super::leader::Follower| {
            let position = follower.ends.map(|(end, flushed)| self.position_of(end, flushed));
            let has_all = position.is_some_and(|position| position >= self.log.end);
            let caught_up_at = follower.caught_up_at.filter(|_| !has_all);
            FollowerView {
                id: follower.id,
                in_isr: self.counts_as_member(follower.id),
                connected: follower.session.is_some(),
                log_end: follower.ends.map(|(end, _)| end),
                flushed_end: follower.ends.map(|(_, flushed)| flushed),
                bytes_behind: self.bytes_behind(leadership, follower),
                behind_for: caught_up_at.map(|at| now.saturating_sub(at)),
            }
        };
        leadership.followers.iter().map(view).collect()
    }

    /// The members that this proposal does without, as of `now`.
    pub fn leaving(&self, now: Duration, proposal: &IsrProposal) -> Vec<FollowerView> {
        let Some((_, registration)) = self.leadership() else { return Vec::new() };
        let leaves = |follower: &FollowerView| {
            registration.isr.contains(&follower.id)
                && proposal.isr.iter().all(|(member, _)| *member != follower.id)
        };
        self.followers(now).into_iter().filter(leaves).collect()
    }

    /// What the leader knows of its term, as of `now`; `None` for whoever does not lead.
    pub fn leader_view(&self, now: Duration) -> Option<LeaderView> {
        let (leadership, _) = self.leadership()?;
        let waits = self.high_watermark < self.log.end;
        let since = leadership.lag.passed(self.high_watermark).unwrap_or(now);
        Some(LeaderView {
            durability: self.durability,
            uncommitted_for: waits.then(|| now.saturating_sub(since)),
            holds_appends: self.holds_appends(),
            limits: self.limits,
            proposed_isr: self
                .pending_proposal()
                .map(|proposal| proposal.isr.iter().map(|(id, _)| *id).collect()),
            followers: self.followers(now),
        })
    }
}
