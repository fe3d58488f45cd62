//! The rules: what each command does to an image. See the laws in [`metadata`](super).

use std::{collections::BTreeSet, sync::Arc};

use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, PartitionIndex, ProducerId, TopicId, TopicPartition},
    limits::PARTITIONS_PER_TOPIC_MAX,
};

use super::{
    Applied, Broker, Command, Delta, FeatureLevel, MetadataImage, MetadataOffset, Partition,
    Presence, ProducerIdBlock, Rejection, Reply, Topic, TopicConfigs, TopicVersion,
    broker::{ENDPOINTS_MAX, NAME_CHARS_MAX},
    command::{
        AllocateProducerIds, AlterTopicConfigs, CreatePartitions, CreateTopic, DeleteTopic,
        PRODUCER_ID_BLOCK_MAX, RegisterBroker, SetFeatureLevel,
    },
    partition::REPLICATION_FACTOR_MAX,
    rejection::AssignmentProblem,
    topic::CONFIG_BYTES_MAX,
};

impl MetadataImage {
    /// Applies the command at `offset`, which must lie past [`MetadataImage::offset`] (offsets in
    /// between were entries of the quorum's own).
    pub fn apply(&self, offset: MetadataOffset, command: &Command) -> Applied {
        assert!(offset > self.offset, "entry {offset} was applied before, in {}", self.offset);
        let mut next = self.at(offset);
        let mut deltas = Vec::new();
        match next.change(command, &mut deltas) {
            Ok(reply) => Applied { image: next, outcome: Ok(reply), deltas },
            Err(rejection) => {
                Applied { image: self.at(offset), outcome: Err(rejection), deltas: Vec::new() }
            }
        }
    }

    fn change(&mut self, command: &Command, deltas: &mut Vec<Delta>) -> Result<Reply, Rejection> {
        if command.since() > self.feature_level {
            return Err(Rejection::FeatureLevelTooLow {
                needed: command.since(),
                current: self.feature_level,
            });
        }
        match command {
            Command::SetFeatureLevel(command) => self.set_feature_level(command, deltas),
            Command::RegisterBroker(command) => self.register_broker(command, deltas),
            Command::CreateTopic(command) => self.create_topic(command, deltas),
            Command::CreatePartitions(command) => self.create_partitions(command, deltas),
            Command::AlterTopicConfigs(command) => self.alter_topic_configs(command, deltas),
            Command::DeleteTopic(command) => self.delete_topic(command, deltas),
            Command::AllocateProducerIds(command) => self.allocate_producer_ids(command),
            Command::JoinBroker(command) => self.join_broker(command, deltas),
            Command::SetPresence(command) => self.set_presence(command, deltas),
            Command::AlterIsr(command) => self.alter_isr(command, deltas),
            Command::ElectLeader(command) => self.elect_leader(command, deltas),
            Command::Reassign(command) => self.reassign(command, deltas),
            Command::CancelReassignment(command) => self.cancel_reassignment(command, deltas),
            Command::SetDraining(command) => self.set_draining(command, deltas),
            Command::RemoveBroker(command) => self.remove_broker(command, deltas),
            Command::SetMoveThrottle(command) => Ok(self.set_move_throttle(*command, deltas)),
        }
    }

    fn set_feature_level(
        &mut self,
        command: &SetFeatureLevel,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let &SetFeatureLevel { expected, level } = command;
        let current = self.feature_level;
        if expected != current || level <= current {
            return Err(Rejection::FeatureLevelOrder { current, expected, level });
        }
        if let Some(broker) = self.brokers().find(|broker| !broker.features.contains(level)) {
            return Err(Rejection::FeatureLevelUnsupported {
                broker: broker.id,
                supported: broker.features,
                level,
            });
        }
        self.feature_level = level;
        deltas.push(Delta::FeatureLevelChanged(level));
        Ok(Reply::FeatureLevel(level))
    }

    fn register_broker(
        &mut self,
        command: &RegisterBroker,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let before = self.broker(command.broker).map(|known| known.epoch);
        let reply = self.enter_broker(command, Presence::Active, deltas)?;
        if self.broker(command.broker).map(|known| known.epoch) != before {
            if self.feature_level < FeatureLevel::V2 {
                self.begin_terms_of(command.broker, deltas);
            } else {
                self.return_unproven(command.broker, deltas);
            }
        }
        Ok(reply)
    }

    /// Enters a broker's new run; a retry of the same run changes nothing.
    pub(super) fn enter_broker(
        &mut self,
        command: &RegisterBroker,
        presence: Presence,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        if let Some(problem) = registration_problem(command) {
            return Err(Rejection::Registration { broker: command.broker, problem });
        }
        if !command.features.contains(self.feature_level) {
            return Err(Rejection::FeatureLevelUnsupported {
                broker: command.broker,
                supported: command.features,
                level: self.feature_level,
            });
        }
        let epoch = i64::try_from(self.offset.get())
            .ok()
            .and_then(BrokerEpoch::new)
            .expect("a metadata offset fits an i64");
        let broker = Broker {
            id: command.broker,
            epoch,
            incarnation: command.incarnation,
            directory: command.directory,
            endpoints: command.endpoints.clone(),
            rack: command.rack.clone(),
            features: command.features,
            presence,
            draining: self.broker(command.broker).is_some_and(|known| known.draining),
        };
        if let Some(known) = self.broker(command.broker) {
            if known.incarnation == command.incarnation {
                let retried = Broker { epoch: known.epoch, presence: known.presence, ..broker };
                return if **known == retried {
                    Ok(Reply::BrokerEpoch(known.epoch))
                } else {
                    Err(Rejection::RegistrationChanged(command.broker))
                };
            }
            // Its replicas are in sync as far as the cluster knows, and not on that disk.
            if known.directory != command.directory {
                return Err(Rejection::DirectoryChanged(command.broker));
            }
        }
        let broker = Arc::new(broker);
        self.put_broker(Arc::clone(&broker));
        deltas.push(Delta::BrokerRegistered(broker));
        Ok(Reply::BrokerEpoch(epoch))
    }

    /// A leader never writes in an epoch in which an earlier run of it may have written.
    fn begin_terms_of(&mut self, leader: BrokerId, deltas: &mut Vec<Delta>) {
        let topics: Vec<_> = self.topics().cloned().collect();
        for topic in topics {
            let mut next = None;
            for (index, partition) in topic.partitions() {
                if partition.leader == Some(leader) {
                    let next = next.get_or_insert_with(|| Topic::clone(&topic));
                    self.set_partition(next, index, partition.next_term(), deltas);
                }
            }
            if let Some(next) = next {
                self.put_topic(&Arc::new(next));
            }
        }
    }

    fn create_topic(
        &mut self,
        command: &CreateTopic,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        if let Some(topic) = self.topic(&command.name) {
            return Err(Rejection::TopicExists { name: topic.name.clone(), id: topic.id });
        }
        if self.topic_by_id(command.id).is_some() || self.deleted_at(command.id).is_some() {
            return Err(Rejection::TopicIdUsed(command.id));
        }
        check_config_size(&command.configs)?;
        let replication_factor = command.assignment.first().map_or(0, Vec::len);
        self.check_assignment(&command.assignment, 0, replication_factor)?;
        check_min_isr(command.min_isr, replication_factor)?;
        let topic = Arc::new(Topic::new(
            command.id,
            command.name.clone(),
            TopicVersion::default(),
            command.configs.clone(),
            command.assignment.iter().map(|replicas| self.new_partition(replicas, command.min_isr)),
        ));
        self.put_topic(&topic);
        deltas.push(Delta::TopicCreated(Arc::clone(&topic)));
        Ok(Reply::Topic(topic))
    }

    fn create_partitions(
        &mut self,
        command: &CreatePartitions,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let topic = self.topic_at(command.topic, command.expected)?;
        let count = topic.partition_count();
        self.check_assignment(&command.assignment, count as usize, topic.replication_factor())?;
        let first = PartitionIndex::new(count)
            .ok_or_else(|| Rejection::PartitionCount(count as usize + command.assignment.len()))?;
        let mut next = topic.next_version();
        for replicas in &command.assignment {
            next.push_partition(self.new_partition(replicas, topic.min_isr()));
        }
        let topic = Arc::new(next);
        self.put_topic(&topic);
        deltas.push(Delta::PartitionsCreated { topic: Arc::clone(&topic), first });
        Ok(Reply::Topic(topic))
    }

    fn alter_topic_configs(
        &mut self,
        command: &AlterTopicConfigs,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let topic = self.topic_at(command.topic, command.expected)?;
        if let Some(key) = command.set.keys().find(|key| command.reset.contains(*key)) {
            return Err(Rejection::ConfigSetAndReset(key.clone()));
        }
        check_min_isr(command.min_isr, topic.replication_factor())?;
        let mut configs = TopicConfigs::clone(&topic.configs);
        configs.retain(|key, _| !command.reset.contains(key));
        configs.extend(command.set.clone());
        check_config_size(&configs)?;
        if configs == *topic.configs && command.min_isr == topic.min_isr() {
            return Ok(Reply::Topic(topic));
        }
        let mut next = topic.next_version();
        next.configs = Arc::new(configs);
        let mut changed = Vec::new();
        if command.min_isr != topic.min_isr() {
            for (index, partition) in topic.partitions() {
                let partition = partition.with_min_isr(command.min_isr);
                self.set_partition(&mut next, index, partition, &mut changed);
            }
        }
        let topic = Arc::new(next);
        self.put_topic(&topic);
        deltas.push(Delta::TopicConfigChanged(Arc::clone(&topic)));
        deltas.append(&mut changed);
        Ok(Reply::Topic(topic))
    }

    fn delete_topic(
        &mut self,
        command: &DeleteTopic,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let topic = self.known_topic(command.topic)?;
        self.remove_topic(&topic, self.offset);
        deltas.push(Delta::TopicDeleted(topic));
        Ok(Reply::TopicDeleted)
    }

    fn allocate_producer_ids(&mut self, command: &AllocateProducerIds) -> Result<Reply, Rejection> {
        let &AllocateProducerIds { broker, broker_epoch, count } = command;
        self.broker_in_run(broker, broker_epoch)?;
        if count == 0 || count > PRODUCER_ID_BLOCK_MAX {
            return Err(Rejection::ProducerIdCount(count));
        }
        let first =
            ProducerId::new(self.next_producer_id).ok_or(Rejection::ProducerIdsExhausted)?;
        self.next_producer_id = self
            .next_producer_id
            .checked_add(i64::from(count))
            .ok_or(Rejection::ProducerIdsExhausted)?;
        Ok(Reply::ProducerIds(ProducerIdBlock { first, count }))
    }

    fn known_topic(&self, id: TopicId) -> Result<Arc<Topic>, Rejection> {
        self.topic_by_id(id).cloned().ok_or(Rejection::UnknownTopic(id))
    }

    fn topic_at(&self, id: TopicId, expected: TopicVersion) -> Result<Arc<Topic>, Rejection> {
        let topic = self.known_topic(id)?;
        if topic.version == expected {
            Ok(topic)
        } else {
            Err(Rejection::TopicChanged { topic: id, expected, current: topic.version })
        }
    }

    /// Judges the replicas of partitions `existing..`, each of which needs `replication_factor`.
    fn check_assignment(
        &self,
        assignment: &[Vec<BrokerId>],
        existing: usize,
        replication_factor: usize,
    ) -> Result<(), Rejection> {
        let count = existing.saturating_add(assignment.len());
        if assignment.is_empty() || count > PARTITIONS_PER_TOPIC_MAX as usize {
            return Err(Rejection::PartitionCount(count));
        }
        for (partition, replicas) in (existing..).zip(assignment) {
            if let Some(problem) = self.assignment_problem(replicas, replication_factor) {
                let partition = u32::try_from(partition)
                    .ok()
                    .and_then(PartitionIndex::new)
                    .expect("the count was checked above");
                return Err(Rejection::Assignment { partition, problem });
            }
        }
        Ok(())
    }

    fn assignment_problem(
        &self,
        replicas: &[BrokerId],
        replication_factor: usize,
    ) -> Option<AssignmentProblem> {
        if replicas.is_empty() {
            return Some(AssignmentProblem::Empty);
        }
        if replicas.len() > REPLICATION_FACTOR_MAX {
            return Some(AssignmentProblem::TooMany(replicas.len()));
        }
        if replicas.len() != replication_factor {
            return Some(AssignmentProblem::Uneven(replicas.len(), replication_factor));
        }
        let mut seen = BTreeSet::new();
        for &broker in replicas {
            if !seen.insert(broker) {
                return Some(AssignmentProblem::Twice(broker));
            }
            if self.broker(broker).is_none() {
                return Some(AssignmentProblem::UnknownBroker(broker));
            }
        }
        None
    }

    pub(super) fn set_partition(
        &self,
        topic: &mut Topic,
        index: PartitionIndex,
        state: Partition,
        deltas: &mut Vec<Delta>,
    ) {
        debug_assert_eq!(state.violation_in(self), None);
        let partition = TopicPartition::new(topic.id, index);
        topic.set_partition(index, state.clone());
        deltas.push(Delta::PartitionChanged { partition, state });
    }
}

fn check_min_isr(min_isr: u32, replication_factor: usize) -> Result<(), Rejection> {
    if min_isr >= 1 && min_isr as usize <= replication_factor {
        Ok(())
    } else {
        Err(Rejection::MinIsr { min_isr, replication_factor })
    }
}

fn check_config_size(configs: &TopicConfigs) -> Result<(), Rejection> {
    let bytes = configs.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= CONFIG_BYTES_MAX { Ok(()) } else { Err(Rejection::ConfigTooLarge(bytes)) }
}

fn registration_problem(command: &RegisterBroker) -> Option<&'static str> {
    let too_long = |text: &str| text.is_empty() || text.len() > NAME_CHARS_MAX;
    if command.endpoints.len() > ENDPOINTS_MAX {
        return Some("it has more than 16 endpoints");
    }
    let listeners: BTreeSet<_> = command.endpoints.iter().map(|e| &e.listener).collect();
    if listeners.len() != command.endpoints.len() {
        return Some("two endpoints belong to one listener");
    }
    if command.endpoints.iter().any(|e| too_long(&e.listener) || too_long(&e.host)) {
        return Some("a listener or host is empty or has more than 255 characters");
    }
    if command.endpoints.iter().any(|e| e.port == 0) {
        return Some("an endpoint has port 0");
    }
    if command.rack.as_deref().is_some_and(too_long) {
        return Some("its rack is empty or has more than 255 characters");
    }
    if command.features.min > command.features.max {
        return Some("its feature range is empty");
    }
    None
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
