//! Which partitions this broker has a copy of, as the metadata log changes its mind.
//!
//! A copy is deleted by a record that says so, and never because something is missing: by the
//! deletion of its topic, or by a registration, newer than the one in force, whose replicas are
//! others.

use std::sync::Arc;

use riverrun_proto::ids::{TopicName, TopicPartition};

use super::{
    owner::Partition,
    registry::{Registry, in_parallel, registration},
};
use crate::{
    log,
    metadata::{Partition as Registered, Topic},
};

impl Registry {
    pub(super) fn know(&self, topic: &Arc<Topic>) {
        self.topics.write().insert(topic.id, Arc::clone(topic));
    }

    /// A partition is registered anew: it stays here, comes here, or goes.
    pub(super) fn reassign(&self, id: TopicPartition, state: &Registered) {
        let is_mine = state.replicas.contains(&self.env.me);
        let Some(topic) = self.topics.read().get(&id.topic).cloned() else { return };
        match (self.get(id), is_mine) {
            (Some(partition), true) => {
                if partition.is_newer(state.partition_epoch) {
                    partition.note_adding(state.adding().collect());
                }
                partition.register(registration(state));
            }
            (Some(partition), false) if partition.is_newer(state.partition_epoch) => {
                partition.register(registration(state));
                self.remove_copies(&topic.name, &[id]);
            }
            // One that could not be opened is tried again, whoever leads it.
            (None, true) if self.failure_of(id).is_none() => {
                for (partition, outcome) in self.start_all(&[(&*topic, id.partition, state)]) {
                    match outcome {
                        Ok(_) => {
                            tracing::info!(%partition, topic = %topic.name, "given to this broker");
                        }
                        Err(failed) => {
                            let why = &failed.why;
                            tracing::error!(%partition, topic = %topic.name, %why, "partition not started");
                        }
                    }
                }
            }
            (None, false) if self.failure_of(id).is_some() => {
                self.remove_copies(&topic.name, &[id]);
            }
            _ => {}
        }
    }

    /// The topic is gone, and its data goes.
    pub(super) fn delete(&self, topic: &Topic) {
        self.topics.write().remove(&topic.id);
        let all: Vec<_> =
            topic.partitions().map(|(index, _)| TopicPartition::new(topic.id, index)).collect();
        self.remove_copies(&topic.name, &all);
    }

    fn remove_copies(&self, topic: &TopicName, ids: &[TopicPartition]) {
        let mut gone: Vec<(TopicPartition, Option<Arc<Partition>>)> = Vec::new();
        for id in ids {
            let partition = self.partitions.write().remove(id);
            let had_failed = self.failed.write().remove(id).is_some();
            if let Some(partition) = &partition {
                // Whoever waits is told at once.
                partition.close();
            }
            if partition.is_some() || had_failed {
                gone.push((*id, partition));
            }
        }
        in_parallel(&gone, |(id, partition)| {
            if let Some(partition) = partition {
                partition.wait_idle();
            }
            let dir = self.env.dir.join(id.to_string());
            if let Err(error) = log::remove_partition(&self.env.log, &dir) {
                let cause = std::error::Error::source(&error);
                tracing::error!(partition = %id, %topic, %error, cause, dir = %dir.display(), "data of a deleted partition not removed; the next start tries again");
            }
        });
    }
}
