//! The rules of clusters: what brokers that come and go, and leaders that ask for another ISR, do to
//! an image. What becomes of each partition is [`Decision`]'s; here is whose turn it is.

use std::sync::Arc;

use riverrun_proto::{
    epoch::{BrokerEpoch, PartitionEpoch},
    ids::{BrokerId, TopicPartition},
};

use super::{
    Broker, Decision, Delta, Departure, FeatureLevel, MetadataImage, Partition, Presence,
    Rejection, Reply, Sound, Standing, Standings, Topic,
    command::{
        AlterIsr, CancelReassignment, Choice, ElectLeader, JoinBroker, Reassign, SetPresence,
    },
};

impl Standings for MetadataImage {
    fn standing(&self, broker: BrokerId) -> Option<Standing> {
        let broker = self.broker(broker)?;
        Some(Standing { epoch: broker.epoch, presence: broker.presence })
    }
}

impl MetadataImage {
    /// A broker's process says it runs, in a cluster: fenced, until it has caught up with this log.
    pub(super) fn join_broker(
        &mut self,
        command: &JoinBroker,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let id = command.registration.broker;
        let before = self.broker(id).map(|known| (known.epoch, known.incarnation));
        let reply = self.enter_broker(&command.registration, Presence::Fenced, deltas)?;
        if before.is_some_and(|(_, run)| run == command.registration.incarnation) {
            return Ok(reply);
        }
        // The proof is about the log as the run before this one left it, not about any earlier.
        let is_whole = before.is_some_and(|(epoch, _)| command.whole_since == Some(epoch));
        let how = if is_whole { Departure::RestartedWhole } else { Departure::RestartedUnproven };
        self.change_partitions_of(id, deltas, |decision, partition| {
            decision.depart(partition, id, how)
        });
        Ok(reply)
    }

    /// A broker registered by [`Command::RegisterBroker`](super::Command::RegisterBroker) in a log
    /// that has clusters: it takes part at once, and proves nothing.
    pub(super) fn return_unproven(&mut self, id: BrokerId, deltas: &mut Vec<Delta>) {
        self.change_partitions_of(id, deltas, |decision, partition| {
            let departed = decision.depart(partition, id, Departure::RestartedUnproven);
            let left = departed.as_ref().unwrap_or(partition);
            decision.arrive(left, id).or(departed)
        });
    }

    pub(super) fn set_presence(
        &mut self,
        command: &SetPresence,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let &SetPresence { broker: id, broker_epoch, presence } = command;
        let known = self.broker_in_run(id, broker_epoch)?;
        if known.presence == presence {
            return Ok(Reply::BrokerEpoch(broker_epoch));
        }
        let broker = Arc::new(Broker { presence, ..Broker::clone(&known) });
        self.put_broker(Arc::clone(&broker));
        deltas.push(Delta::BrokerRegistered(broker));
        self.change_partitions_of(id, deltas, |decision, partition| match presence {
            Presence::Active => decision.arrive(partition, id),
            Presence::Leaving => decision.depart(partition, id, Departure::Leaving),
            Presence::Fenced => decision.depart(partition, id, Departure::Fenced),
        });
        Ok(Reply::BrokerEpoch(broker_epoch))
    }

    pub(super) fn alter_isr(
        &mut self,
        command: &AlterIsr,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let partition = self.known_partition(command.partition)?;
        let next = self.decision().alter_isr(&partition, &command.change);
        Ok(self.put_partition(command.partition, next.map_err(Rejection::Isr)?, deltas))
    }

    pub(super) fn elect_leader(
        &mut self,
        command: &ElectLeader,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let partition = self.partition_at(command.partition, command.expected)?;
        let decision = self.decision();
        let next = match command.choice {
            Choice::Preferred => decision.elect_preferred(&partition),
            Choice::Member(leader) => decision.hand_over(&partition, leader),
            Choice::Unclean(leader) => decision.elect_unclean(&partition, leader),
        };
        let next = next.ok_or(Rejection::NoElection(command.partition))?;
        Ok(self.put_partition(command.partition, next, deltas))
    }

    pub(super) fn reassign(
        &mut self,
        command: &Reassign,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let partition = self.partition_at(command.partition, command.expected)?;
        let next = self.decision().reassign(&partition, &command.to);
        Ok(self.put_partition(command.partition, next.map_err(Rejection::Reassignment)?, deltas))
    }

    pub(super) fn cancel_reassignment(
        &mut self,
        command: &CancelReassignment,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let partition = self.partition_at(command.partition, command.expected)?;
        let next = self.decision().cancel_reassignment(&partition);
        Ok(self.put_partition(command.partition, next.map_err(Rejection::Reassignment)?, deltas))
    }

    /// A partition as it begins: led by its first replica that is there. Whoever was fenced between
    /// the proposal and now is out of the ISR, as if it had been fenced a moment later.
    pub(super) fn new_partition(&self, replicas: &[BrokerId], min_isr: u32) -> Partition {
        let whole = Partition::new(replicas.to_vec(), min_isr);
        if self.feature_level() < FeatureLevel::V2 {
            return whole;
        }
        let fenced = |id: &&BrokerId| {
            self.standing(**id).is_none_or(|standing| standing.presence == Presence::Fenced)
        };
        replicas.iter().filter(fenced).fold(whole, |partition, id| {
            self.decision().depart(&partition, *id, Departure::Fenced).unwrap_or(partition)
        })
    }

    fn decision(&self) -> Decision<'_, Self, Sound> {
        Decision { standings: self, rules: Sound }
    }

    /// Asks what becomes of every partition that a broker has, and enters what has changed.
    fn change_partitions_of(
        &mut self,
        broker: BrokerId,
        deltas: &mut Vec<Delta>,
        change: impl Fn(Decision<'_, Self, Sound>, &Partition) -> Option<Partition>,
    ) {
        let topics: Vec<_> = self.topics().cloned().collect();
        for topic in topics {
            let mut next = None;
            for (index, partition) in topic.partitions() {
                if partition.replicas.contains(&broker)
                    && let Some(changed) = change(self.decision(), partition)
                {
                    let next = next.get_or_insert_with(|| Topic::clone(&topic));
                    self.set_partition(next, index, changed, deltas);
                }
            }
            if let Some(next) = next {
                self.put_topic(&Arc::new(next));
            }
        }
    }

    fn put_partition(
        &mut self,
        id: TopicPartition,
        state: Partition,
        deltas: &mut Vec<Delta>,
    ) -> Reply {
        if let Some(topic) = self.topic_by_id(id.topic).cloned() {
            let mut next = Topic::clone(&topic);
            self.set_partition(&mut next, id.partition, state.clone(), deltas);
            self.put_topic(&Arc::new(next));
        }
        Reply::Partition(state)
    }

    fn known_partition(&self, id: TopicPartition) -> Result<Partition, Rejection> {
        self.partition(id).cloned().ok_or(Rejection::UnknownPartition(id))
    }

    fn partition_at(
        &self,
        id: TopicPartition,
        expected: PartitionEpoch,
    ) -> Result<Partition, Rejection> {
        let partition = self.known_partition(id)?;
        let current = partition.partition_epoch;
        if current == expected {
            Ok(partition)
        } else {
            Err(Rejection::PartitionChanged { partition: id, expected, current })
        }
    }

    pub(super) fn broker_in_run(
        &self,
        broker: BrokerId,
        given: BrokerEpoch,
    ) -> Result<Arc<Broker>, Rejection> {
        let known = self.broker(broker).ok_or(Rejection::UnknownBroker(broker))?;
        if known.epoch == given {
            Ok(Arc::clone(known))
        } else {
            Err(Rejection::StaleBrokerEpoch { broker, given, current: known.epoch })
        }
    }
}

#[cfg(test)]
#[path = "apply_cluster_test.rs"]
mod tests;
