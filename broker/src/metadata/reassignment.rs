//! Changing which brokers have a partition: the new ones join as any follower does, the old ones go
//! once the new ones are in sync.

use riverrun_proto::ids::BrokerId;
use thiserror::Error;

use super::{
    Decision, Mutation, Partition, Rules,
    decision::Standings,
    partition::{REPLICATION_FACTOR_MAX, Reassignment},
};

/// Why replicas are not changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReassignmentRejection {
    /// None, too many, or one twice.
    #[error("{0:?} cannot be the replicas: name 1 to {REPLICATION_FACTOR_MAX} brokers, each once")]
    Malformed(Vec<BrokerId>),
    /// Nobody knows that broker.
    #[error("{0:?} is not registered")]
    UnknownBroker(BrokerId),
    /// Fewer than must be in sync.
    #[error("{replicas} replicas are fewer than min.insync.replicas, {min_isr}")]
    TooFew {
        /// Asked for.
        replicas: usize,
        /// The topic's.
        min_isr: u32,
    },
    /// Those who would be left hold too few copies of what is committed.
    #[error(
        "only {left} of the replicas that would be left are in sync, {needed} have to be; wait for \
         them to catch up"
    )]
    NotInSync {
        /// Members of the ISR that would be left.
        left: usize,
        /// How many it takes.
        needed: usize,
    },
    /// There is nothing to cancel.
    #[error("no reassignment is under way")]
    NoneUnderWay,
}

impl<S: Standings, R: Rules> Decision<'_, S, R> {
    /// Sets out for other replicas. Where one is under way already, it is replaced, and goes back to
    /// where that one came from when cancelled. Completes at once where all are in sync already.
    pub fn reassign(
        &self,
        partition: &Partition,
        to: &[BrokerId],
    ) -> Result<Partition, ReassignmentRejection> {
        let twice = (1..to.len()).any(|i| to[..i].contains(&to[i]));
        if to.is_empty() || to.len() > REPLICATION_FACTOR_MAX || twice {
            return Err(ReassignmentRejection::Malformed(to.to_vec()));
        }
        if let Some(unknown) = to.iter().find(|id| self.standings.standing(**id).is_none()) {
            return Err(ReassignmentRejection::UnknownBroker(*unknown));
        }
        if to.len() < partition.min_isr as usize {
            return Err(ReassignmentRejection::TooFew {
                replicas: to.len(),
                min_isr: partition.min_isr,
            });
        }
        let from = partition.reassignment.as_ref().map_or(&partition.replicas, |r| &r.from).clone();
        let mut replicas = to.to_vec();
        replicas.extend(from.iter().filter(|id| !to.contains(id)));
        let next = self.with_replicas(partition, replicas)?;
        let next = Partition { reassignment: Some(Reassignment { from, to: to.to_vec() }), ..next };
        Ok(self.complete_reassignment(next))
    }

    /// Back to the replicas from before.
    pub fn cancel_reassignment(
        &self,
        partition: &Partition,
    ) -> Result<Partition, ReassignmentRejection> {
        let Some(reassignment) = &partition.reassignment else {
            return Err(ReassignmentRejection::NoneUnderWay);
        };
        let next = self.with_replicas(partition, reassignment.from.clone())?;
        Ok(Partition { reassignment: None, ..next })
    }

    /// Other replicas, of which enough are in sync: who is let go takes a copy along.
    fn with_replicas(
        &self,
        partition: &Partition,
        replicas: Vec<BrokerId>,
    ) -> Result<Partition, ReassignmentRejection> {
        let lets_go = partition.replicas.iter().any(|id| !replicas.contains(id));
        let isr: Vec<_> =
            replicas.iter().filter(|id| partition.isr.contains(id)).copied().collect();
        let needed = partition.min_isr as usize;
        if lets_go && isr.len() < needed {
            return Err(ReassignmentRejection::NotInSync { left: isr.len(), needed });
        }
        Ok(self.settle(partition, replicas, isr))
    }

    /// The version, term and leader that follow from other replicas. A replica that is let go must
    /// not be taken for one that stays: letting go begins a new term.
    fn settle(
        &self,
        partition: &Partition,
        replicas: Vec<BrokerId>,
        isr: Vec<BrokerId>,
    ) -> Partition {
        let lets_go = partition.replicas.iter().any(|id| !replicas.contains(id));
        let keep = |ids: &[BrokerId]| -> Vec<_> {
            ids.iter().filter(|id| replicas.contains(id)).copied().collect()
        };
        let mut next = Partition {
            isr,
            elr: keep(&partition.elr),
            last_known_elr: keep(&partition.last_known_elr),
            replicas: replicas.clone(),
            partition_epoch: partition.partition_epoch.next(),
            ..partition.clone()
        };
        if lets_go {
            next = match next.leader {
                Some(leader) if !replicas.contains(&leader) => self.succeed(next),
                _ => self.next_epoch(next),
            };
        }
        next
    }

    /// Where all new replicas are in sync, the old ones are let go, in the same step as the change
    /// that made it so ([`Mutation::ReassignBeforeCaughtUp`]): another ISR, or an election, which may
    /// make an ISR of the one replica that is to be left, after which nothing would change any more.
    pub(super) fn complete_reassignment(&self, partition: Partition) -> Partition {
        let Some(Reassignment { to, .. }) = &partition.reassignment else { return partition };
        let mut in_sync = to.iter().map(|id| partition.isr.contains(id));
        let complete = if self.rules.breaks(Mutation::ReassignBeforeCaughtUp) {
            in_sync.any(|in_sync| in_sync)
        } else {
            in_sync.all(|in_sync| in_sync)
        };
        if !complete {
            return partition;
        }
        let to = to.clone();
        let isr = to.iter().filter(|id| partition.isr.contains(id)).copied().collect();
        let version = partition.partition_epoch;
        let next = self.settle(&partition, to, isr);
        Partition { reassignment: None, partition_epoch: version, ..next }
    }
}
