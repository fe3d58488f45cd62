//! The replication protocol of one partition, as decisions only: event and state in, actions out.
//!
//! No I/O, no clock, no randomness, no lock, no task. The broker, the seeded simulator and the
//! exhaustive model call this very code; whoever calls it feeds [`Event`]s in the order in which
//! they happened to the partition and carries out the [`Action`]s in the order given.
//!
//! ```text
//!              Registered (leader = me)
//!  Unassigned ───────────────────────────► Leader ──┐ Registered (newer leader epoch):
//!      ▲                                    │   ▲   │ everything known of followers is void
//!      └────────────────────────────────────┘   └───┘
//!              Registered (leader = another)
//! ```
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
//! # As far as one broker goes
//! The rules here are those of a partition whose ISR is the leader alone. A member of the ISR that
//! this leader has not heard from holds the high watermark where it is: with more replicas the rules
//! stay safe, and become live when followers' acknowledgements are events too.

pub mod action;
pub mod event;
pub mod high_watermark;

use riverrun_proto::{epoch::LeaderEpoch, ids::BrokerId, offset::Offset};

pub use action::Action;
pub use event::{Event, Registration};

/// What an acknowledgement survives: which end of a replica's log counts as its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In the memory of the replicas: the log end.
    Memory,
    /// On the disks of the replicas: the flushed end.
    Disk,
}

/// One partition's copy on this broker, as the protocol sees it.
#[derive(Debug, Clone)]
pub struct Replica {
    me: BrokerId,
    durability: Durability,
    /// Written by [`Event::Registered`] only; its partition epoch never goes back.
    registration: Option<Registration>,
    role: Role,
    /// Own log, as last reported by the events; `flushed_end ≤ log_end`.
    log_end: Offset,
    flushed_end: Offset,
    /// Never goes back while this process lives.
    high_watermark: Offset,
    /// Told last ([`Action::Acknowledge`]). Goes back where durability is raised.
    acknowledged: Offset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Not led by this broker.
    Unassigned,
    /// Leads in the registration's leader epoch, whose first own record lies at `epoch_start`.
    Leader { epoch_start: Offset },
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
        Self {
            me,
            durability,
            registration: None,
            role: Role::Unassigned,
            log_end,
            flushed_end: log_end,
            high_watermark: remembered_high_watermark.clamp(log_start, log_end),
            acknowledged: Offset::ZERO,
        }
    }

    /// Takes one event; appends what has to be done to `actions`, in order.
    pub fn step(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Registered(registration) => self.registered(registration, actions),
            Event::Appended { log_end } => {
                debug_assert!(log_end >= self.log_end, "an append moves the log end forward");
                self.log_end = log_end;
            }
            Event::Flushed { flushed_end } => {
                debug_assert!(flushed_end <= self.log_end, "only what was written is flushed");
                self.flushed_end = self.flushed_end.max(flushed_end.min(self.log_end));
            }
            Event::DurabilityChanged(durability) => self.durability = durability,
        }
        self.advance_high_watermark(actions);
        self.acknowledge(actions);
        self.check_invariants();
    }

    /// Adopts a registration unless it is not newer than the one in force. Any newer partition epoch
    /// replaces ISR and `min.insync.replicas`; a newer leader epoch also starts a new term, even for
    /// the same leader (KAFKA-10527: an epoch is never led twice).
    fn registered(&mut self, new: Registration, actions: &mut Vec<Action>) {
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
        let led = self.leads();
        if new.leader == Some(self.me) {
            if led != Some(new.leader_epoch) {
                self.role = Role::Leader { epoch_start: self.log_end };
                actions.push(Action::StartEpoch { epoch: new.leader_epoch, start: self.log_end });
            }
            let (isr, min_isr) = (new.isr.len(), new.effective_min_isr());
            if isr < min_isr {
                actions.push(Action::RefuseWaiting { isr, min_isr });
            }
        } else if led.is_some() {
            self.role = Role::Unassigned;
            actions.push(Action::Resign { epoch: new.leader_epoch, leader: new.leader });
        }
        self.registration = Some(new);
    }

    fn advance_high_watermark(&mut self, actions: &mut Vec<Action>) {
        let (Role::Leader { .. }, Some(registration)) = (self.role, &self.registration) else {
            return;
        };
        let own = self.position();
        let me = self.me;
        let positions = registration.isr.iter().map(|member| (*member == me).then_some(own));
        if let Some(committed) =
            high_watermark::candidate(positions, registration.effective_min_isr())
            && committed > self.high_watermark
        {
            self.high_watermark = committed;
            actions.push(Action::AdvanceHighWatermark(committed));
        }
    }

    fn acknowledge(&mut self, actions: &mut Vec<Action>) {
        let Role::Leader { .. } = self.role else { return };
        let end = self.acknowledged_end();
        if end > self.acknowledged {
            actions.push(Action::Acknowledge(end));
        }
        self.acknowledged = end;
    }

    /// What lies below is committed and as durable as the topic asks for now.
    pub fn acknowledged_end(&self) -> Offset {
        self.high_watermark.min(self.position())
    }

    /// Whether a write that waits for all in-sync replicas may be appended.
    pub fn admits_acks_all(&self) -> Admission {
        let (Role::Leader { .. }, Some(registration)) = (self.role, &self.registration) else {
            return Admission::NotLeader;
        };
        let (isr, min_isr) = (registration.isr.len(), registration.effective_min_isr());
        if isr < min_isr { Admission::NotEnoughReplicas { isr, min_isr } } else { Admission::Open }
    }

    /// Whether this broker leads, and in which epoch.
    pub fn leads(&self) -> Option<LeaderEpoch> {
        match (self.role, &self.registration) {
            (Role::Leader { .. }, Some(registration)) => Some(registration.leader_epoch),
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
        match self.role {
            Role::Leader { epoch_start } => self.high_watermark >= epoch_start,
            Role::Unassigned => false,
        }
    }

    /// What acknowledgements of this partition survive.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    fn position(&self) -> Offset {
        match self.durability {
            Durability::Memory => self.log_end,
            Durability::Disk => self.flushed_end,
        }
    }

    /// The order law of offsets (S6). Cheap, so it stays on in release builds.
    fn check_invariants(&self) {
        assert!(self.flushed_end <= self.log_end, "flushed end past log end: {self:?}");
        assert!(self.high_watermark <= self.log_end, "high watermark past log end: {self:?}");
        assert!(self.acknowledged <= self.high_watermark, "acknowledged, not committed: {self:?}");
    }
}

#[cfg(test)]
#[path = "replica_test.rs"]
mod tests;
