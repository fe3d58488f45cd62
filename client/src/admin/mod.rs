//! Calls that create, change and describe topics.
//!
//! Calls that only look are repeated over failures for [`Admin::timeout`]; calls that change
//! something are repeated only while nothing can have happened.

mod arrival;
mod cluster;
mod explain;
mod partitions;
mod places;
mod requests;

use std::{fmt, future::Future, sync::Arc, time::Duration};

pub use self::{
    arrival::Arrival,
    cluster::{
        BrokerPresence, BrokerState, ClusterDescription, MovePlan, PartitionCounts, PlannedMove,
        QuorumNode, QuorumRole,
    },
    explain::{Behind, Explanation, Hindrance, NoLeader, Outlook},
    partitions::{
        Election, FollowerState, LeaderState, MovingState, PartitionDescription, PartitionFilter,
        PartitionPage, PartitionReport, ReplicaState,
    },
    places::ListedOffset,
    requests::{AlterConfigs, CreateTopic},
};

use riverrun_proto::ids::TopicId;

use crate::{
    address::Address,
    client::Client,
    error::{Error, Result},
    metadata::Freshness,
    topic::{Cluster, Topic},
};

/// Kafka's `default.api.timeout.ms`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Creates, changes and describes topics. Cheap to clone.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use riverrun_client::Client;
///
/// let broker = riverrun_broker::Embedded::start().await?;
/// let client = Client::builder().bootstrap_servers([broker.address()]).build().await?;
/// let admin = client.admin();
/// admin.create_topic("orders").partitions(12).config("retention.ms", "7d").send().await?;
/// for topic in admin.list_topics().await? {
///     println!("{} has {} partitions", topic.name, topic.partitions.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Admin {
    client: Client,
    timeout: Duration,
}

/// A topic, its configuration, and where its partitions stand.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopicDescription {
    /// The topic.
    pub topic: Topic,
    /// Every key in force.
    pub configs: Vec<ConfigEntry>,
    /// Per partition what its leader says, or why it could not be asked.
    pub partitions: Vec<(u32, Result<PartitionOffsets>)>,
}

/// A configuration key in force.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigEntry {
    /// Kafka's name, such as `retention.ms`.
    pub key: String,
    /// Bytes and milliseconds as plain numbers.
    pub value: String,
    /// Set on the topic, not the broker's default.
    pub overridden: bool,
    /// What it does.
    pub documentation: String,
}

/// Where a partition stands, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionOffsets {
    /// The first offset that is there.
    pub log_start_offset: i64,
    /// The first offset that is not committed.
    pub high_watermark: i64,
    /// The first offset that is not written.
    pub log_end_offset: i64,
    /// The first offset that is not known to be on disk.
    pub flushed_end_offset: i64,
    /// Bytes in segment files.
    pub size_bytes: u64,
    /// Segment files.
    pub segments: u32,
}

/// A page of topics.
#[derive(Debug)]
#[non_exhaustive]
pub struct TopicPage {
    /// Ordered by name.
    pub topics: Vec<Topic>,
    /// Asks for the next page; empty: this was the last.
    pub next_page_token: String,
}

// === impl Admin ===

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, timeout: DEFAULT_TIMEOUT }
    }

    /// Longest time a call takes, attempts included. Default 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A topic to be created; see [`CreateTopic`].
    pub fn create_topic(&self, name: impl Into<String>) -> CreateTopic {
        CreateTopic::new(self.clone(), name.into())
    }

    /// Deletes a topic and its data.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// [`UnknownTopic`](crate::ErrorKind::UnknownTopic) if there is none.
    pub async fn delete_topic(&self, name: impl AsRef<str>) -> Result<()> {
        self.delete(name.as_ref(), None).await
    }

    /// Deletes the topic that has this id; one that was made anew under its name meanwhile stays.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// [`UnknownTopic`](crate::ErrorKind::UnknownTopic) if there is none.
    pub async fn delete_topic_by_id(&self, name: impl AsRef<str>, id: TopicId) -> Result<()> {
        self.delete(name.as_ref(), Some(id)).await
    }

    async fn delete(&self, name: &str, id: Option<TopicId>) -> Result<()> {
        let connections = self.client.connections();
        let call = |at: Address| async move {
            connections.delete_topic(&at, name.into(), id, false).await
        };
        self.change(call).await.map_err(|error| about(error, name))?;
        self.client.metadata().forget(name);
        Ok(())
    }

    /// A topic with its configuration and the state of its partitions. Cancel safe.
    ///
    /// # Errors
    /// [`UnknownTopic`](crate::ErrorKind::UnknownTopic) if there is none.
    pub async fn describe_topic(&self, name: impl AsRef<str>) -> Result<TopicDescription> {
        let name = name.as_ref();
        let connections = self.client.connections();
        let call = |at: Address| async move { connections.describe_topic(&at, name.into()).await };
        self.look(call).await.map_err(|error| about(error, name))
    }

    /// All topics, by name. Cancel safe.
    ///
    /// # Errors
    /// If no broker answers in time.
    pub async fn list_topics(&self) -> Result<Vec<Topic>> {
        let mut topics = Vec::new();
        let mut token = String::new();
        loop {
            let page = self.list_topics_page(0, token).await?;
            topics.extend(page.topics);
            if page.next_page_token.is_empty() {
                return Ok(topics);
            }
            token = page.next_page_token;
        }
    }

    /// A page of at most `page_size` topics (0: the broker's default), from where `page_token`
    /// says (empty: the beginning). Cancel safe.
    ///
    /// # Errors
    /// If no broker answers in time, or the token is none of its.
    pub async fn list_topics_page(
        &self,
        page_size: u32,
        page_token: impl Into<String>,
    ) -> Result<TopicPage> {
        let (token, connections) = (&page_token.into(), self.client.connections());
        let call = |at: Address| async move {
            connections.topics_page(&at, page_size, token.clone()).await
        };
        let listed = self.look(call).await?;
        self.client.metadata().learn_brokers(&listed.brokers);
        // A topic deleted while the page was put together is no error of the page.
        let topics = listed.topics.into_iter().filter_map(|(_, topic)| topic.ok()).collect();
        Ok(TopicPage { topics, next_page_token: listed.next_page_token })
    }

    /// Grows a topic to `partitions` in all. Keys move: murmur2 of a key is taken modulo the count.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if it has as many or more.
    pub async fn create_partitions(
        &self,
        topic: impl AsRef<str>,
        partitions: u32,
    ) -> Result<Topic> {
        let grown = self.grow(topic.as_ref(), partitions, false).await?;
        self.client.metadata().forget(topic.as_ref());
        Ok(grown)
    }

    /// Whether [`create_partitions`](Admin::create_partitions) would do it; changes nothing.
    ///
    /// # Errors
    /// Those of [`create_partitions`](Admin::create_partitions).
    pub async fn check_create_partitions(
        &self,
        topic: impl AsRef<str>,
        partitions: u32,
    ) -> Result<()> {
        self.grow(topic.as_ref(), partitions, true).await.map(|_| ())
    }

    async fn grow(&self, name: &str, partitions: u32, validate_only: bool) -> Result<Topic> {
        let connections = self.client.connections();
        let call = |at: Address| async move {
            connections.create_partitions(&at, name.into(), partitions, validate_only).await
        };
        self.change(call).await.map_err(|error| about(error, name))
    }

    /// Changes to a topic's configuration; see [`AlterConfigs`].
    pub fn alter_configs(&self, topic: impl Into<Arc<str>>) -> AlterConfigs {
        AlterConfigs::new(self.clone(), topic.into())
    }

    /// The cluster and its brokers. Cancel safe.
    ///
    /// # Errors
    /// If no broker answers in time.
    pub async fn cluster(&self) -> Result<Cluster> {
        let connections = self.client.connections();
        let call = |at: Address| async move { connections.cluster(&at).await };
        let cluster = self.look(call).await?;
        self.client.metadata().learn_brokers(&cluster.brokers);
        Ok(cluster)
    }

    /// One topic, its partitions and leaders, asked for anew. Cancel safe.
    ///
    /// # Errors
    /// [`UnknownTopic`](crate::ErrorKind::UnknownTopic) if there is none.
    pub async fn topic(&self, name: impl Into<Arc<str>>) -> Result<Topic> {
        let name = name.into();
        let noticed = self.client.metadata().mark();
        let ask = || self.client.metadata().topic(&name, Freshness::After(noticed), false);
        let topic = self.client.with_retries(self.timeout, true, ask).await;
        topic.map(Arc::unwrap_or_clone).map_err(|error| about(error, &name))
    }

    /// A call that changes nothing.
    async fn look<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl Fn(Address) -> F,
    ) -> Result<T> {
        let metadata = self.client.metadata();
        self.client.with_retries(self.timeout, true, || metadata.at_any_broker(&call)).await
    }

    /// A call that changes something. A broker that is not the one to ask says who is.
    async fn change<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl Fn(Address) -> F,
    ) -> Result<T> {
        let mut retrying = self.client.retrying(self.timeout, false);
        let mut hinted: Option<Address> = None;
        loop {
            let answer = match hinted.take() {
                Some(address) => call(address).await,
                None => self.client.metadata().at_any_definite(&call).await,
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    hinted = error.leader().map(|hint| hint.address.clone());
                    retrying.after(error).await?;
                }
            }
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("client", &self.client).finish_non_exhaustive()
    }
}

fn about(error: Error, topic: &str) -> Error {
    error.context(format_args!("topic {topic:?}"))
}

#[cfg(test)]
mod admin_test;
