//! What becomes of a partition when brokers come and go and its leader asks for another ISR. Pure:
//! a partition and how the brokers stand in, the partition's next registration out.
//!
//! # Whom a partition can trust
//! Every member of ISR and ELR has all that is committed (invariant S2 of the proof). That rests on
//! four rules, each of which has a [`Mutation`]:
//! * the leader counts a member from the moment it proposes it (see the replication protocol);
//! * a member is taken in as the very run that the leader heard from, and not while fenced (KIP-841,
//!   KIP-903);
//! * who leaves the ISR keeps its place as an eligible leader only while too few members are left
//!   to commit anything (KIP-966);
//! * who comes back without proof that its log is whole has lost its place.

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch},
    ids::BrokerId,
};
use thiserror::Error;

use super::{Mutation, Partition, Rules};

/// How brokers stand when a decision is taken.
pub trait Standings {
    /// How a broker stands; `None`: it was never registered.
    fn standing(&self, broker: BrokerId) -> Option<Standing>;
}

/// How a broker stands with the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Its present run.
    pub epoch: BrokerEpoch,
    /// Whether it is there.
    pub presence: Presence,
}

/// Whether a broker takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Presence {
    /// It does.
    #[default]
    Active,
    /// It is about to stop: it still serves, and is given nothing new to lead or join.
    Leaving,
    /// It was not heard from, or has not yet caught up with the metadata log.
    Fenced,
}

/// Why a broker is to be taken out of a partition's ISR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Not heard from. Its log is still what it was.
    Fenced,
    /// It asks for leave. Stays where nobody else could take over: it goes when it stops.
    Leaving,
    /// It was restarted, and can prove that its log lost nothing.
    RestartedWhole,
    /// It was restarted, and may have lost what its disk did not have.
    RestartedUnproven,
}

/// An ISR that a leader asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsrChange {
    /// Who asks, …
    pub leader: BrokerId,
    /// … in which run, …
    pub broker_epoch: BrokerEpoch,
    /// … in which term, …
    pub leader_epoch: LeaderEpoch,
    /// … seeing which version.
    pub partition_epoch: PartitionEpoch,
    /// The ISR, each member with the run of it that was heard from; `None`: a present member that
    /// was not.
    pub isr: Vec<(BrokerId, Option<BrokerEpoch>)>,
}

/// Why a leader does not get the ISR it asks for. Definite for this copy of the request, not for
/// another one that may be under way.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IsrRejection {
    /// Another broker leads, or the same in another run or term.
    #[error(
        "{asked:?} does not lead in epoch {given}; leader epoch {current} is led by {leader:?}"
    )]
    NotLeader {
        /// Who asked.
        asked: BrokerId,
        /// In which term.
        given: LeaderEpoch,
        /// Who leads.
        leader: Option<BrokerId>,
        /// In which term.
        current: LeaderEpoch,
    },
    /// The partition was changed in between.
    #[error("the partition is at version {current}, not {given}")]
    PartitionChanged {
        /// The request's.
        given: PartitionEpoch,
        /// The one in force.
        current: PartitionEpoch,
    },
    /// Not an ISR of this partition: without its leader, with strangers, or somebody twice.
    #[error("{0:?} is no ISR of this partition")]
    Malformed(Vec<BrokerId>),
    /// A member that must not be in an ISR now.
    #[error("{0:?} may not be in the ISR: it is fenced, leaving, or was restarted since")]
    Ineligible(BrokerId),
}

/// A decision in the making: how brokers stand, and by which rules.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a, S, R> {
    /// How brokers stand.
    pub standings: &'a S,
    /// [`Sound`](super::Sound) outside tests.
    pub rules: R,
}

impl<S: Standings, R: Rules> Decision<'_, S, R> {
    fn presence(&self, broker: BrokerId) -> Presence {
        self.standings.standing(broker).map_or(Presence::Fenced, |standing| standing.presence)
    }

    /// Judges a proposed ISR by compare-and-set: against what is in force now, whatever the proposer
    /// saw. Accepts the present ISR too: that makes a new version, after which no proposal made for
    /// the old one can be accepted.
    pub fn alter_isr(
        &self,
        partition: &Partition,
        change: &IsrChange,
    ) -> Result<Partition, IsrRejection> {
        let run = self.standings.standing(change.leader).map(|standing| standing.epoch);
        if partition.leader != Some(change.leader)
            || partition.leader_epoch != change.leader_epoch
            || run != Some(change.broker_epoch)
        {
            return Err(IsrRejection::NotLeader {
                asked: change.leader,
                given: change.leader_epoch,
                leader: partition.leader,
                current: partition.leader_epoch,
            });
        }
        let (given, current) = (change.partition_epoch, partition.partition_epoch);
        if given != current && !self.rules.breaks(Mutation::NoCompareAndSet) {
            return Err(IsrRejection::PartitionChanged { given, current });
        }
        let named: Vec<_> = change.isr.iter().map(|(member, _)| *member).collect();
        let twice = (1..named.len()).any(|i| named[..i].contains(&named[i]));
        let strange = named.iter().any(|member| !partition.replicas.contains(member));
        if twice || strange || !named.contains(&change.leader) {
            return Err(IsrRejection::Malformed(named));
        }
        if let Some((member, _)) =
            change.isr.iter().find(|member| !self.is_eligible(partition, member))
        {
            return Err(IsrRejection::Ineligible(*member));
        }
        let isr = partition.replicas.iter().filter(|id| named.contains(id)).copied().collect();
        let next = self.with_isr(partition, isr, None);
        Ok(self.complete_reassignment(next))
    }

    /// Whoever is taken in is there, and is the run that the leader heard from: an earlier run's log
    /// may have been longer (KIP-903). A present member that leaves still counts.
    fn is_eligible(
        &self,
        partition: &Partition,
        (member, heard): &(BrokerId, Option<BrokerEpoch>),
    ) -> bool {
        let Some(standing) = self.standings.standing(*member) else { return false };
        let is_present = partition.isr.contains(member);
        let is_there = match standing.presence {
            Presence::Active => true,
            Presence::Leaving => is_present,
            Presence::Fenced => self.rules.breaks(Mutation::FencedMayJoin),
        };
        let same_run = match heard {
            None => is_present,
            Some(heard) => {
                *heard == standing.epoch || self.rules.breaks(Mutation::NoBrokerEpochCheck)
            }
        };
        is_there && same_run
    }

    /// Another ISR, and the ELR that follows from it (KIP-966): while the ISR suffices there is none,
    /// below that whoever was in either keeps its place, for nothing can be committed without it
    /// ([`Mutation::ElrAnyTime`]); but not who has lost data ([`Mutation::UncleanStaysInElr`]).
    fn with_isr(
        &self,
        partition: &Partition,
        isr: Vec<BrokerId>,
        lost: Option<BrokerId>,
    ) -> Partition {
        let mut next = Partition {
            isr,
            partition_epoch: partition.partition_epoch.next(),
            ..partition.clone()
        };
        if next.isr_suffices() && !self.rules.breaks(Mutation::ElrAnyTime) {
            next.elr.clear();
            next.last_known_elr.clear();
            return next;
        }
        let complete = |id: &BrokerId| partition.isr.contains(id) || partition.elr.contains(id);
        let stays = |id: &BrokerId| {
            complete(id)
                && !next.isr.contains(id)
                && (lost != Some(*id) || self.rules.breaks(Mutation::UncleanStaysInElr))
        };
        let elr = partition.replicas.iter().filter(|id| stays(id)).copied().collect();
        let was_known = |id: &BrokerId| {
            partition.last_known_elr.contains(id) || lost == Some(*id) && complete(id)
        };
        let known = partition.replicas.iter().filter(|id| was_known(id) && !next.isr.contains(id));
        next.last_known_elr = known.copied().collect();
        next.elr = elr;
        next
    }

    /// Takes a broker out of ISR and leadership, and elects if that leaves no leader; `None`: nothing
    /// changes. `self.standings` has the broker as it stands afterwards.
    pub fn depart(
        &self,
        partition: &Partition,
        broker: BrokerId,
        how: Departure,
    ) -> Option<Partition> {
        let leads = partition.leader == Some(broker);
        if leads && self.rules.breaks(Mutation::LeaderResumesEpoch) && how.is_restart() {
            return None;
        }
        let unproven = how == Departure::RestartedUnproven;
        if unproven && !leads && self.rules.breaks(Mutation::UncleanStaysInIsr) {
            return None;
        }
        let isr: Vec<_> = partition.isr.iter().filter(|id| **id != broker).copied().collect();
        let is_last = isr.is_empty() && partition.isr.contains(&broker);
        if how == Departure::Leaving && is_last {
            return None;
        }
        let mut next = self.with_isr(partition, isr, unproven.then_some(broker));
        if leads {
            next = self.succeed(next);
        } else if next.leader.is_none() {
            next = self.elect(next);
        }
        let next = self.complete_reassignment(next);
        let is_same =
            Partition { partition_epoch: partition.partition_epoch, ..next.clone() } == *partition;
        (!is_same).then_some(next)
    }

    /// A broker is there: a partition without a leader may have one again; `None`: nothing changes.
    pub fn arrive(&self, partition: &Partition, broker: BrokerId) -> Option<Partition> {
        if partition.leader.is_some() || !partition.replicas.contains(&broker) {
            return None;
        }
        let next =
            Partition { partition_epoch: partition.partition_epoch.next(), ..partition.clone() };
        let elected = self.elect(next);
        elected.leader.is_some().then(|| self.complete_reassignment(elected))
    }

    /// The leader is gone: somebody else leads, or nobody. Either way its term has ended.
    pub(super) fn succeed(&self, partition: Partition) -> Partition {
        let elected = self.elect(Partition { leader: None, ..partition });
        if elected.leader.is_none() { self.next_epoch(elected) } else { elected }
    }

    pub(super) fn next_epoch(&self, partition: Partition) -> Partition {
        if self.rules.breaks(Mutation::ElectInSameEpoch) {
            return partition;
        }
        Partition { leader_epoch: partition.leader_epoch.next(), ..partition }
    }

    /// Elects the first replica that is there and known to have all that is committed: of the ISR,
    /// or, where that is empty, of the ELR, which then becomes the ISR. A leaving member of the ISR
    /// goes on where there is no other. Nobody else without an order to ([`Self::elect_unclean`]).
    ///
    /// Takes the version as it is: whoever calls has moved it on.
    fn elect(&self, partition: Partition) -> Partition {
        let with = |presence: Presence, among: &[BrokerId]| {
            let is_there = |id: &&BrokerId| among.contains(id) && self.presence(**id) == presence;
            partition.replicas.iter().find(is_there).copied()
        };
        let in_isr = with(Presence::Active, &partition.isr)
            .or_else(|| with(Presence::Leaving, &partition.isr));
        if let Some(leader) = in_isr {
            return self.lead_by(partition, leader);
        }
        if !partition.isr.is_empty() {
            return partition;
        }
        let Some(leader) = with(Presence::Active, &partition.elr) else {
            return self.elect_last_known(partition);
        };
        let mut next = self.lead_by(partition, leader);
        next.isr = vec![leader];
        next.elr.retain(|id| *id != leader);
        next.last_known_elr.retain(|id| *id != leader);
        if next.isr_suffices() && !self.rules.breaks(Mutation::ElrAnyTime) {
            next.elr.clear();
            next.last_known_elr.clear();
        }
        next
    }

    /// Where the only replica there ever was has come back, it leads, whatever it lost: nobody knows
    /// better, and nothing is gained by waiting for an order.
    fn elect_last_known(&self, partition: Partition) -> Partition {
        let &[only] = &partition.replicas[..] else { return partition };
        if partition.elr.is_empty() && self.presence(only) == Presence::Active {
            self.lead_uncleanly(partition, only)
        } else {
            partition
        }
    }

    fn lead_by(&self, partition: Partition, leader: BrokerId) -> Partition {
        Partition { leader: Some(leader), ..self.next_epoch(partition) }
    }

    fn lead_uncleanly(&self, partition: Partition, leader: BrokerId) -> Partition {
        let next = self.lead_by(partition, leader);
        let elr = match next.elr.clone() {
            elr if self.rules.breaks(Mutation::ElrSurvivesUncleanElection) => elr,
            _ => Vec::new(),
        };
        Partition {
            isr: vec![leader],
            elr: elr.into_iter().filter(|id| *id != leader).collect(),
            last_known_elr: Vec::new(),
            unclean_epoch: Some(next.leader_epoch),
            ..next
        }
    }

    /// The preferred leader takes over where it can; `None`: nothing changes.
    pub fn elect_preferred(&self, partition: &Partition) -> Option<Partition> {
        self.hand_over(partition, *partition.replicas.first()?)
    }

    /// A member of the ISR that is there takes over from whoever leads; `None`: it leads already, or
    /// is not such a member.
    pub fn hand_over(&self, partition: &Partition, leader: BrokerId) -> Option<Partition> {
        let can = partition.isr.contains(&leader)
            && self.presence(leader) == Presence::Active
            && partition.leader != Some(leader);
        let next =
            Partition { partition_epoch: partition.partition_epoch.next(), ..partition.clone() };
        can.then(|| self.lead_by(next, leader))
    }

    /// Elects a replica that may lack committed records, because somebody said so; `None`: not
    /// needed, for there is a leader, or not possible. Whoever was eligible no longer is: from now on
    /// the elected one's log is the truth ([`Mutation::ElrSurvivesUncleanElection`]).
    pub fn elect_unclean(&self, partition: &Partition, leader: BrokerId) -> Option<Partition> {
        let can = partition.leader.is_none()
            && partition.replicas.contains(&leader)
            && self.presence(leader) == Presence::Active;
        let next =
            Partition { partition_epoch: partition.partition_epoch.next(), ..partition.clone() };
        can.then(|| self.complete_reassignment(self.lead_uncleanly(next, leader)))
    }
}

impl Departure {
    fn is_restart(self) -> bool {
        matches!(self, Self::RestartedWhole | Self::RestartedUnproven)
    }
}
