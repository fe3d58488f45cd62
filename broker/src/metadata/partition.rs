//! A partition as the cluster has it registered: who has a copy, who leads, who is in sync.

use riverrun_proto::{
    epoch::{LeaderEpoch, PartitionEpoch},
    ids::BrokerId,
};

/// Replicas of one partition. Nobody needs more, and it keeps the assignment of
/// [`PARTITIONS_PER_TOPIC_MAX`](riverrun_proto::limits::PARTITIONS_PER_TOPIC_MAX) partitions in one
/// record: 10 000 × 15 × 5 bytes (the longest broker id) < [`super::record::RECORD_BYTES_MAX`].
pub const REPLICATION_FACTOR_MAX: usize = 15;

/// A partition's registration: who has it, who leads it, who is in sync.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Partition {
    /// Brokers that are to have a copy; the first is the preferred leader.
    pub replicas: Vec<BrokerId>,
    /// In-sync replicas: they have all that is committed.
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966): out of the ISR, yet known to have all that is committed,
    /// because nothing can have been committed since they left.
    pub elr: Vec<BrokerId>,
    /// Those that were in ISR or ELR and lost data: where neither has anybody left, one of them is
    /// the best there is (KIP-966).
    pub last_known_elr: Vec<BrokerId>,
    /// `None`: no replica may lead now.
    pub leader: Option<BrokerId>,
    /// See [`LeaderEpoch`].
    pub leader_epoch: LeaderEpoch,
    /// See [`PartitionEpoch`].
    pub partition_epoch: PartitionEpoch,
    /// `min.insync.replicas` as resolved when it was set; part of what the partition epoch
    /// versions, so that leader and controller never judge an ISR by different minima.
    pub min_isr: u32,
    /// A change of replicas that is under way.
    pub reassignment: Option<Reassignment>,
    /// The last leader epoch that began with a leader which may have lacked committed records: what
    /// was acknowledged before may be gone. For whoever asks what happened to their data.
    pub unclean_epoch: Option<LeaderEpoch>,
}

/// A change of replicas under way: [`Partition::replicas`] are those of both sides until the new ones
/// are in sync.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reassignment {
    /// The replicas before; what it goes back to where it is cancelled.
    pub from: Vec<BrokerId>,
    /// The replicas to be.
    pub to: Vec<BrokerId>,
}

impl Partition {
    /// A new partition: everybody assigned is in sync, for there is nothing to have; the first
    /// leads.
    pub fn new(replicas: Vec<BrokerId>, min_isr: u32) -> Self {
        Self {
            isr: replicas.clone(),
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            leader: replicas.first().copied(),
            leader_epoch: LeaderEpoch::ZERO,
            partition_epoch: PartitionEpoch::ZERO,
            min_isr,
            replicas,
            reassignment: None,
            unclean_epoch: None,
        }
    }

    /// Brokers that are to have a copy once what is under way is done; the first is preferred.
    pub fn assigned(&self) -> &[BrokerId] {
        self.reassignment.as_ref().map_or(&self.replicas, |reassignment| &reassignment.to)
    }

    /// Whether `broker` has a replica that is to be in sync, with a leader that it can follow, and is not.
    /// One that comes or goes with a reassignment is not to be: moves may take hours.
    pub fn is_to_catch_up(&self, broker: BrokerId) -> bool {
        let stays = self.assigned().contains(&broker) && self.adding().all(|new| new != broker);
        stays && self.leader.is_some() && !self.isr.contains(&broker)
    }

    /// Replicas that are coming, for a reassignment that is under way.
    pub fn adding(&self) -> impl Iterator<Item = BrokerId> {
        let under_way = self.reassignment.iter();
        under_way.flat_map(|r| r.to.iter().filter(|id| !r.from.contains(id)).copied())
    }

    /// Whether a replica is not in sync, other than those that are only just coming.
    pub fn is_under_replicated(&self) -> bool {
        self.replicas
            .iter()
            .any(|id| !self.isr.contains(id) && !self.adding().any(|new| new == *id))
    }

    /// The same leader (or lack of one) in a new leadership term.
    pub(super) fn next_term(&self) -> Self {
        Self {
            leader_epoch: self.leader_epoch.next(),
            partition_epoch: self.partition_epoch.next(),
            ..self.clone()
        }
    }

    /// With another `min.insync.replicas`. Raising it never adds to the ELR after the fact;
    /// lowering it clears the ELR where the ISR now suffices (KIP-966).
    pub(super) fn with_min_isr(&self, min_isr: u32) -> Self {
        let mut next =
            Self { min_isr, partition_epoch: self.partition_epoch.next(), ..self.clone() };
        if next.isr_suffices() {
            next.elr.clear();
            next.last_known_elr.clear();
        }
        next
    }

    /// In-sync replicas without which nothing commits: `min.insync.replicas`, or all replicas where
    /// there are fewer.
    pub fn effective_min_isr(&self) -> usize {
        (self.min_isr as usize).min(self.replicas.len())
    }

    /// Whether anything can be committed.
    pub fn isr_suffices(&self) -> bool {
        self.isr.len() >= self.effective_min_isr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_catch_up_is_neither_in_sync_nor_on_the_move_and_has_somebody_to_follow() {
        let [one, two, three, four] = [1, 2, 3, 4].map(BrokerId);
        let mut partition = Partition::new(vec![one, two, three], 2);
        let behind = |partition: &Partition| {
            [one, two, three, four].map(|broker| partition.is_to_catch_up(broker))
        };
        assert_eq!(behind(&partition), [false; 4]);
        partition.isr = vec![one];
        assert_eq!(behind(&partition), [false, true, true, false]);
        partition.replicas.push(four);
        let (from, to) = (vec![one, two, three], vec![one, two, four]);
        partition.reassignment = Some(Reassignment { from, to });
        assert_eq!(behind(&partition), [false, true, false, false]);
        partition.leader = None;
        assert_eq!(behind(&partition), [false; 4]);
    }
}
