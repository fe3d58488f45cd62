//! The replication protocol of one partition, as decisions only: event and state in, actions out.
//!
//! No I/O, no clock, no randomness, no lock, no task. The broker, the seeded simulator and the
//! exhaustive search (`tests/proof`) call this very code; whoever calls it feeds [`Event`]s in the
//! order in which they happened to the partition and carries out the [`Action`]s in the order given.
//!
//! ```text
//!                       Registered (leader = me)
//!        Idle ◄──────────────────────────────────────► Leader ──┐ Registered (newer leader epoch):
//!          ▲                                           ▲    ▲   │ everything known of followers
//!          │ Registered (leader = nobody)              │    └───┘ is void
//!          ▼                                           │
//!      Follower ◄──────────────────────────────────────┘
//!      │      ▲ Registered (leader = another): subscribe, cut the log where the leader says
//!      └──────┘
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`high_watermark`] | what is committed |
//! | `leader` | what followers say, and what the leader makes of it |
//! | `isr` | who joins and who leaves the ISR |
//! | `holding` | when producers wait for a member, and which member is not worth it |
//! | `lag` | how far behind a follower is, in time and bytes |
//! | `follower` | subscribing, truncating, appending |
//! | `view` | what a leader knows of its followers, for people |
//! | [`frame`] | what replicas say to each other |
//! | [`rules`] | how tests break a rule to see that it is missed |
//!
//! # What is committed
//! The high watermark is the least position over the *maximal ISR* (the committed ISR and whatever
//! change of it is under way), where a position is the log end (`durability=memory`) or the flushed
//! end (`durability=disk`). It moves only while the committed ISR has at least
//! `min.insync.replicas` members (KAFKA-15583), and never back. See [`high_watermark`].
//!
//! What is acknowledged to `acks=all` is committed *and* as durable as the topic asks for at that
//! moment. The two differ only after `durability` was raised: readers keep what they have seen,
//! retries wait for the disk.
//!
//! # Time
//! `now` is the time since any fixed point, by a clock that only moves forward and goes on while the
//! machine sleeps. Safety never rests on it: whom the clocks call slow is out of the ISR only once
//! the controller has agreed, and until then counts.

pub mod action;
pub mod event;
mod follower;
pub mod frame;
pub mod high_watermark;
mod holding;
mod isr;
mod lag;
mod leader;
mod own_log;
pub mod rules;
mod view;

use std::time::Duration;

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch},
    epoch_history::EpochHistory,
    ids::BrokerId,
    offset::Offset,
};

pub use action::{Action, IsrProposal};
pub use event::{BrokerStanding, Event, Limits, Registration};
use follower::Following;
use leader::Leadership;
use own_log::OwnLog;
pub use rules::{Mutation, Rules, Sound};
pub use view::{FollowerView, LeaderView};

/// What an acknowledgement survives: which end of a replica's log counts as its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// In the memory of the replicas: the log end.
    Memory,
    /// On the disks of the replicas: the flushed end.
    Disk,
}

/// One partition's copy on this broker, as the protocol sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replica<R: Rules = Sound> {
    rules: R,
    me: BrokerId,
    /// This run of the broker.
    broker_epoch: BrokerEpoch,
    durability: Durability,
    limits: Limits,
    /// Written by [`Event::Registered`] only; its partition epoch never goes back.
    registration: Option<Registration>,
    /// Of the brokers that were ever told of, at most one each, the newest.
    standings: Vec<BrokerStanding>,
    role: Role,
    /// Subscriptions of this run so far.
    sessions: u64,
    /// Own log, as last reported by the events.
    log: OwnLog,
    /// Never goes back while this process lives, but for a truncation below it, which takes an
    /// unclean election.
    high_watermark: Offset,
    /// Told last ([`Action::Acknowledge`]). Goes back where durability is raised.
    acknowledged: Offset,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Role {
    /// Neither: no leader, or no copy to be had here.
    Idle,
    Leader(Leadership),
    Follower(Following),
}

/// Whether a write with `acks=all` may be appended now, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Append.
    Open,
    /// This broker does not lead the partition.
    NotLeader,
    /// The committed ISR is smaller than `min.insync.replicas`; nothing may be written that waits
    /// for all.
    NotEnoughReplicas {
        /// Members of the committed ISR.
        isr: usize,
        /// What it takes.
        min_isr: usize,
    },
}

impl Replica {
    /// A replica whose log was recovered up to `log_end`, all of it on disk, with the high watermark
    /// it remembered (clamped to what the log holds: replication.md 1.2).
    pub fn new(
        me: BrokerId,
        durability: Durability,
        log_start: Offset,
        log_end: Offset,
        remembered_high_watermark: Offset,
    ) -> Self {
        let ends = (log_start, log_end, remembered_high_watermark);
        Self::with_rules(Sound, me, durability, ends)
    }
}

impl<R: Rules> Replica<R> {
    /// As [`Replica::new`], by other rules: for tests. `ends`: log start, log end, high watermark.
    pub fn with_rules(
        rules: R,
        me: BrokerId,
        durability: Durability,
        (log_start, log_end, remembered_high_watermark): (Offset, Offset, Offset),
    ) -> Self {
        Self {
            rules,
            me,
            broker_epoch: BrokerEpoch::ZERO,
            durability,
            limits: Limits::default(),
            registration: None,
            standings: Vec::new(),
            role: Role::Idle,
            sessions: 0,
            log: OwnLog {
                first: log_start,
                start: log_start,
                end: log_end,
                flushed_end: log_end,
                epochs: EpochHistory::default(),
            },
            high_watermark: remembered_high_watermark.clamp(log_start, log_end),
            acknowledged: Offset::ZERO,
        }
    }

    /// The run of the broker that this replica belongs to. Before the first event.
    #[must_use]
    pub fn running_as(self, broker_epoch: BrokerEpoch) -> Self {
        Self { broker_epoch, ..self }
    }

    /// Who wrote what of the recovered log. Before the first event.
    #[must_use]
    pub fn with_epochs(mut self, epochs: EpochHistory) -> Self {
        self.log.epochs = epochs;
        self.log.forget_unwritten_epochs();
        self
    }

    /// The bounds to keep. Before the first event.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Takes one event; appends what has to be done to `actions`, in order.
    pub fn step(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        let before = (self.high_watermark, self.log.start);
        match event {
            Event::Registered(registration) => self.registered(now, registration, actions),
            Event::Broker(standing) => self.note_standing(standing),
            Event::Appended { log_end, bytes } => self.appended(now, log_end, bytes, actions),
            Event::Replicated(head) => self.replicated(&head, actions),
            Event::Flushed { flushed_end } => self.flushed(flushed_end, actions),
            Event::LogStartAdvanced { log_start } => self.advance_log_start(log_start),
            Event::DurabilityChanged(durability) => self.change_durability(durability, actions),
            Event::LimitsChanged(limits) => self.limits = limits,
            Event::Subscribe(subscribe) => self.subscribed(now, subscribe.0, actions),
            Event::Ack(ack) => self.acked(now, ack.0, actions),
            Event::FollowerLost { follower, session } => self.follower_lost(follower, session),
            Event::InsideBatch { follower, session, begins } => {
                self.inside_batch(follower, session, begins, actions);
            }
            Event::IsrRefused { leader_epoch, partition_epoch } => {
                self.isr_refused(leader_epoch, partition_epoch, actions);
            }
            Event::Leader(frame) => self.leader_says(frame, actions),
            Event::LeaderLost { session } => self.leader_lost(session),
            Event::Tick => self.tick(now, actions),
        }
        self.advance_high_watermark(actions);
        self.acknowledge(actions);
        self.hold_or_resume(now, actions);
        self.change_isr(now, actions);
        if before != (self.high_watermark, self.log.start) && self.serves_any() {
            actions.push(Action::ShareProgress);
        }
        self.check_invariants();
    }

    /// Adopts a registration unless it is not newer than the one in force. Any newer partition epoch
    /// replaces ISR and `min.insync.replicas`; a newer leader epoch also starts a new term, even for
    /// the same leader (KAFKA-10527: an epoch is never led twice).
    fn registered(&mut self, now: Duration, new: Registration, actions: &mut Vec<Action>) {
        if let Some(old) = &self.registration {
            if new.partition_epoch <= old.partition_epoch {
                return;
            }
            // Every change of leader is a change of the partition: one sequence orders both.
            assert!(
                new.leader_epoch >= old.leader_epoch,
                "leader epoch went back: {old:?}, {new:?}"
            );
        }
        let old = self.registration.replace(new.clone());
        let led = match self.role {
            Role::Leader(_) => old.as_ref().map(|old| old.leader_epoch),
            _ => None,
        };
        if new.leader == Some(self.me) {
            self.unsubscribe(actions);
            if led == Some(new.leader_epoch) {
                self.keep_leading(now, old.as_ref(), &new, actions);
            } else {
                self.start_leading(now, &new, actions);
            }
            let (isr, min_isr) = (new.isr.len(), new.effective_min_isr());
            if isr < min_isr {
                actions.push(Action::RefuseWaiting { isr, min_isr });
            }
            return;
        }
        if led.is_some() {
            self.stop_leading(&new, actions);
        }
        match new.leader {
            Some(leader) if new.replicas.contains(&self.me) => {
                let follows = matches!(self.role, Role::Follower(_));
                if !follows || old.is_none_or(|old| old.leader_epoch != new.leader_epoch) {
                    self.start_following(leader, actions);
                }
            }
            _ => {
                self.unsubscribe(actions);
                self.role = Role::Idle;
            }
        }
    }

    fn note_standing(&mut self, new: BrokerStanding) {
        match self.standings.iter_mut().find(|standing| standing.broker == new.broker) {
            Some(standing) if standing.epoch <= new.epoch => *standing = new,
            Some(_) => {}
            None => self.standings.push(new),
        }
    }

    fn standing(&self, broker: BrokerId) -> Option<&BrokerStanding> {
        self.standings.iter().find(|standing| standing.broker == broker)
    }

    fn flushed(&mut self, flushed_end: Offset, actions: &mut Vec<Action>) {
        debug_assert!(flushed_end <= self.log.end, "only what was written is flushed");
        let flushed_end = flushed_end.min(self.log.end);
        if flushed_end > self.log.flushed_end {
            self.log.flushed_end = flushed_end;
            if self.durability == Durability::Disk {
                self.ack(actions);
            }
        }
    }

    fn advance_log_start(&mut self, log_start: Offset) {
        debug_assert!(log_start <= self.high_watermark, "only what is committed is deleted");
        if log_start > self.log.start {
            self.log.advance_start(log_start);
        }
    }

    /// A follower whose flushes did not count until now says how far they are: where nothing is written
    /// and all is flushed, nothing else would, and the leader would take it for one that lags (found by
    /// the simulator).
    fn change_durability(&mut self, durability: Durability, actions: &mut Vec<Action>) {
        let before = std::mem::replace(&mut self.durability, durability);
        if before == durability {
            return;
        }
        let raised = durability == Durability::Disk;
        match &mut self.role {
            Role::Leader(leadership) => {
                leadership.weakly_committed = raised.then_some(self.high_watermark);
            }
            Role::Follower(_) if raised => self.ack(actions),
            _ => {}
        }
    }

    fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        match &self.role {
            Role::Leader(_) => self.judge_members(now, actions),
            Role::Follower(_) => self.resubscribe(actions),
            Role::Idle => {}
        }
    }

    /// Which broker this is.
    pub fn me(&self) -> BrokerId {
        self.me
    }

    /// Whether a write that waits for all in-sync replicas may be appended.
    pub fn admits_acks_all(&self) -> Admission {
        let (Role::Leader(_), Some(registration)) = (&self.role, &self.registration) else {
            return Admission::NotLeader;
        };
        let (isr, min_isr) = (registration.isr.len(), registration.effective_min_isr());
        if isr < min_isr { Admission::NotEnoughReplicas { isr, min_isr } } else { Admission::Open }
    }

    /// Whether this broker leads, and in which epoch.
    pub fn leads(&self) -> Option<LeaderEpoch> {
        match (&self.role, &self.registration) {
            (Role::Leader(_), Some(registration)) => Some(registration.leader_epoch),
            _ => None,
        }
    }

    /// The registration in force.
    pub fn registration(&self) -> Option<&Registration> {
        self.registration.as_ref()
    }

    /// First offset not yet committed.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Whether the high watermark is at least what an earlier leader may have shown to readers.
    /// Until then it must not be told to anyone who asks for the latest offset (KIP-207).
    pub fn high_watermark_is_current(&self) -> bool {
        match &self.role {
            Role::Leader(leadership) => self.high_watermark >= leadership.epoch_start,
            _ => false,
        }
    }

    /// What acknowledgements of this partition survive.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Where the own log begins and ends, and what of it is on disk.
    pub fn log_ends(&self) -> (Offset, Offset, Offset) {
        (self.log.start, self.log.end, self.log.flushed_end)
    }

    /// Who wrote what of the own log.
    pub fn epochs(&self) -> &EpochHistory {
        &self.log.epochs
    }

    fn position(&self) -> Offset {
        self.position_of(self.log.end, self.log.flushed_end)
    }

    fn position_of(&self, log_end: Offset, flushed_end: Offset) -> Offset {
        match self.durability {
            Durability::Memory => log_end,
            Durability::Disk if self.rules.breaks(Mutation::CommitUnflushed) => log_end,
            Durability::Disk => flushed_end,
        }
    }

    /// The order law of offsets (S6). Cheap, so it stays on in release builds.
    fn check_invariants(&self) {
        let OwnLog { start, end, flushed_end, .. } = self.log;
        assert!(flushed_end <= end, "flushed end past log end: {self:?}");
        assert!(self.high_watermark <= end, "high watermark past log end: {self:?}");
        assert!(start <= self.high_watermark, "log start past high watermark: {self:?}");
        assert!(self.acknowledged <= self.high_watermark, "acknowledged, not committed: {self:?}");
    }
}

#[cfg(test)]
#[path = "replica_test.rs"]
mod tests;
