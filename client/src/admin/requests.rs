//! Changes put together step by step: a topic to be created, a configuration to be altered.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Admin, ConfigEntry, about};
use crate::{address::Address, connection::NewTopic, error::Result, topic::Topic};

/// A topic to be created.
#[must_use = "call send()"]
pub struct CreateTopic {
    admin: Admin,
    topic: NewTopic,
}

/// Changes to a topic's configuration.
#[must_use = "call send()"]
pub struct AlterConfigs {
    admin: Admin,
    topic: Arc<str>,
    set: BTreeMap<String, String>,
    reset: Vec<String>,
    validate_only: bool,
}

// === impl CreateTopic ===

impl CreateTopic {
    pub(super) fn new(admin: Admin, name: String) -> Self {
        Self { admin, topic: NewTopic { name, ..NewTopic::default() } }
    }

    /// Partitions. Default: the broker's `num.partitions`.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.topic.partitions = Some(partitions);
        self
    }

    /// Copies of each partition. Default: the broker's `default.replication.factor`.
    pub fn replication_factor(mut self, factor: u32) -> Self {
        self.topic.replication_factor = Some(factor);
        self
    }

    /// A key of Kafka's, such as `retention.ms`; plain numbers or human units (`7d`, `64MiB`).
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.topic.configs.insert(key.into(), value.into());
        self
    }

    /// Check only; create nothing.
    pub fn validate_only(mut self) -> Self {
        self.topic.validate_only = true;
        self
    }

    /// Creates the topic.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// [`TopicExists`](crate::ErrorKind::TopicExists);
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), naming what is wrong.
    pub async fn send(self) -> Result<Topic> {
        let Self { admin, topic } = self;
        let (connections, wanted) = (admin.client.connections(), &topic);
        let call = |at: Address| async move { connections.create_topic(&at, wanted.clone()).await };
        let created = admin.change(call).await.map_err(|error| about(error, &topic.name))?;
        admin.client.metadata().forget(&topic.name);
        Ok(created)
    }
}

impl fmt::Debug for CreateTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateTopic").field("topic", &self.topic).finish_non_exhaustive()
    }
}

// === impl AlterConfigs ===

impl AlterConfigs {
    pub(super) fn new(admin: Admin, topic: Arc<str>) -> Self {
        Self { admin, topic, set: BTreeMap::new(), reset: Vec::new(), validate_only: false }
    }

    /// Sets a key; plain numbers or human units.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set.insert(key.into(), value.into());
        self
    }

    /// Takes a key back to the broker's default.
    pub fn reset(mut self, key: impl Into<String>) -> Self {
        self.reset.push(key.into());
        self
    }

    /// Check only; change nothing.
    pub fn validate_only(mut self) -> Self {
        self.validate_only = true;
        self
    }

    /// Makes the changes, all or none, and gives every key in force.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), naming the key;
    /// [`UnknownTopic`](crate::ErrorKind::UnknownTopic).
    pub async fn send(self) -> Result<Vec<ConfigEntry>> {
        let Self { admin, topic, set, reset, validate_only } = self;
        let connections = admin.client.connections();
        let call = |at: Address| {
            let (name, set, reset) = (topic.as_ref().into(), set.clone(), reset.clone());
            async move { connections.alter_topic_configs(&at, name, set, reset, validate_only).await }
        };
        let configs = admin.change(call).await.map_err(|error| about(error, &topic))?;
        admin.client.metadata().forget(&topic);
        Ok(configs)
    }
}

impl fmt::Debug for AlterConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, set, reset, .. } = self;
        f.debug_struct("AlterConfigs")
            .field("topic", topic)
            .field("set", set)
            .field("reset", reset)
            .finish_non_exhaustive()
    }
}
