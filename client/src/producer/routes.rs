//! The worker's part about topics: where their records go, and what happens when a topic moves,
//! grows, vanishes or is made anew.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::FutureExt;
use riverrun_proto::reason::Reason;

use super::{
    sender::Sender,
    shared::{PartitionKey, PartitionQueue, TopicSlot},
    worker::{Lookup, PartitionState, TaskDone, Worker},
};
use crate::{
    clock,
    error::{Error, ErrorKind, Result},
    metadata::Freshness,
    retry,
    topic::Topic,
};

impl Worker {
    /// Looks a topic up for the records that wait for it.
    pub(super) fn resolve(&mut self, slot: Arc<TopicSlot>) {
        let lookup = self.lookups.entry(Arc::clone(&slot.name)).or_default();
        if lookup.under_way {
            return;
        }
        lookup.under_way = true;
        let client = self.client.clone();
        let within = self.shared.config.delivery_timeout;
        let freshness = match slot.routed() {
            // A record names a partition that is not among the known ones.
            Some(_) => Freshness::After(self.client.metadata().mark()),
            None => Freshness::Cached,
        };
        self.tasks.push(
            async move {
                let lookup = || client.metadata().topic(&slot.name, freshness, true);
                let topic = client.with_retries(within, true, lookup).await;
                TaskDone::Resolved(slot, topic)
            }
            .boxed(),
        );
    }

    /// Fetches a topic's metadata anew: something showed that it is stale.
    pub(super) fn refresh(&mut self, name: &Arc<str>) {
        let lookup = self.lookups.entry(Arc::clone(name)).or_default();
        if lookup.under_way {
            return;
        }
        lookup.under_way = true;
        let wait = lookup.wait;
        let (client, name) = (self.client.clone(), Arc::clone(name));
        let noticed = client.metadata().mark();
        self.tasks.push(
            async move {
                tokio::time::sleep(wait).await;
                let freshness = Freshness::Doubted(noticed);
                let topic = client.metadata().topic(&name, freshness, false).await;
                TaskDone::Refreshed(name, topic)
            }
            .boxed(),
        );
    }

    pub(super) fn on_refreshed(&mut self, name: &Arc<str>, topic: Result<Arc<Topic>>) {
        let parked = self.shared.slots().into_iter().find(|slot| slot.name == *name);
        let failures = self.lookups.remove(name).map_or(0, |lookup| lookup.failures);
        let (retry, jitter) = (self.shared.config.retry, retry::jitter());
        match topic {
            Ok(topic) => {
                self.apply(&topic, None);
                // Where a leader cannot be reached, it may be that another is being elected.
                let now = clock::now();
                let seeks =
                    |broker| self.lanes.get(&broker).is_some_and(|lane| lane.is_failing(now));
                let waits = |state: &PartitionState| {
                    state.queue.topic == *name
                        && state.wanted_leader.is_none_or(seeks)
                        && !state.is_empty()
                };
                if self.partitions.values().any(waits) {
                    self.refresh_again(name, failures, retry.seeking(failures, jitter));
                }
            }
            Err(error) if error.kind() == ErrorKind::UnknownTopic && !error.is_retriable() => {
                self.drop_topic(name, None, &error);
            }
            Err(error) => {
                tracing::debug!(topic = %name, %error, "no metadata");
                let waits =
                    |state: &PartitionState| state.queue.topic == *name && !state.is_empty();
                if self.partitions.values().any(waits) {
                    self.refresh_again(name, failures, retry.backoff(failures, jitter));
                }
            }
        }
        // Records may have come for it while this lookup kept theirs from starting.
        if let Some(slot) = parked.filter(|slot| slot.parked_count() > 0) {
            self.resolve(slot);
        }
    }

    fn refresh_again(&mut self, name: &Arc<str>, failures: u32, wait: Duration) {
        let failures = failures.saturating_add(1);
        self.lookups.insert(Arc::clone(name), Lookup { under_way: false, failures, wait });
        self.refresh(name);
    }

    /// What metadata says of a topic: routes its records and moves its partitions.
    pub(super) fn apply(&mut self, topic: &Arc<Topic>, asked_by: Option<&Arc<TopicSlot>>) {
        let stale = self
            .partitions
            .values()
            .any(|state| state.queue.key.topic != topic.id && state.queue.topic == topic.name);
        if stale {
            let error = Error::from_reason(
                Reason::UnknownTopicId,
                format!("topic {:?} was deleted and made anew", topic.name),
            );
            self.drop_topic(&topic.name, Some(topic), &error);
        }
        let mut queues = Vec::with_capacity(topic.partitions.len());
        let mut abandoned = Vec::new();
        for partition in &topic.partitions {
            let key = PartitionKey { topic: topic.id, partition: partition.index };
            let config = &self.shared.config;
            let state = self.partitions.entry(key).or_insert_with(|| PartitionState {
                queue: PartitionQueue::new(topic, partition.index, &self.shared),
                sender: Sender::new(config.idempotence),
                leader: None,
                wanted_leader: None,
                leader_epoch: -1,
                has_turn: false,
                armed: None,
                watched: None,
            });
            let bytes_max = config.bytes_max(topic.max_message_bytes);
            state.queue.accumulator.lock().set_bytes_max(bytes_max);
            queues.push(Arc::clone(&state.queue));
            if partition.leader_epoch >= state.leader_epoch {
                let is_newer = partition.leader_epoch > state.leader_epoch;
                state.leader_epoch = partition.leader_epoch;
                state.wanted_leader = partition.leader;
                // Whoever led before may be unable to answer for good. What is on the wire there counts
                // as lost: if it was committed, the new leader has it, and recognises it.
                if is_newer && partition.leader.is_some() && partition.leader != state.leader {
                    state.sender.lost(&HashSet::new(), clock::now());
                    abandoned.push(key);
                }
            }
            self.relocate(key);
        }
        for key in abandoned {
            self.hand_out(key);
            self.give_turn(key);
        }
        let slot = asked_by
            .cloned()
            .or_else(|| self.shared.slots().into_iter().find(|slot| slot.name == topic.name));
        if let Some(slot) = slot {
            self.shared.route(&slot, queues);
        }
    }

    /// A topic is gone, or is another one now: fails what was meant for the old one.
    fn drop_topic(&mut self, name: &Arc<str>, instead: Option<&Topic>, error: &Error) {
        self.client.metadata().forget(name);
        for slot in self.shared.slots().iter().filter(|slot| slot.name == *name) {
            slot.unroute();
            if instead.is_none() {
                self.shared.refuse(slot, error);
            }
        }
        let old: Vec<PartitionKey> = self
            .partitions
            .values()
            .filter(|state| state.queue.topic == *name)
            .map(|state| state.queue.key)
            .filter(|key| instead.is_none_or(|topic| topic.id != key.topic))
            .collect();
        for key in old {
            if let Some(mut state) = self.partitions.remove(&key) {
                state.fail(&self.shared, error);
            }
        }
    }
}
