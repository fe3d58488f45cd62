//! A consumer of one topic without any ceremony: from here, that many, to the end.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::Stream;

use crate::{
    client::Client,
    consumer::{Consumer, ConsumerBuilder, ConsumerControl},
    error::{Error, Result},
    metadata::Freshness,
    record::ConsumerRecord,
    topic::{Position, TopicPartition},
};

/// Options of a [`Reader`].
#[must_use = "call build()"]
pub struct ReaderBuilder {
    client: Client,
    consumer: ConsumerBuilder,
    topic: Arc<str>,
    partitions: Vec<u32>,
    from: Position,
    limit: Option<u64>,
    stop_at_end: bool,
}

/// Reads one topic: a [`Stream`] of records that ends where it was told to.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use futures::TryStreamExt;
/// use riverrun_client::{Client, Position};
///
/// let broker = riverrun_broker::Embedded::start().await?;
/// let client = Client::builder().bootstrap_servers([broker.address()]).build().await?;
/// let last_ten = client
///     .reader("orders")
///     .partition(0)
///     .from(Position::FromEnd(10))
///     .stop_at_end()
///     .build()
///     .await?;
/// for record in last_ten.try_collect::<Vec<_>>().await? {
///     println!("{}: {:?}", record.offset(), record.value());
/// }
/// # Ok(())
/// # }
/// ```
pub struct Reader {
    consumer: Consumer,
    left: Option<u64>,
    /// Where each partition ends for this reader, until it is there.
    ends: Option<HashMap<TopicPartition, i64>>,
    done: bool,
}

// === impl ReaderBuilder ===

impl ReaderBuilder {
    pub(crate) fn new(client: Client, topic: Arc<str>) -> Self {
        Self {
            consumer: client.consumer(),
            client,
            topic,
            partitions: Vec::new(),
            from: Position::Earliest,
            limit: None,
            stop_at_end: false,
        }
    }

    /// Reads this partition; may be called more than once. Without it: all there are.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partitions.push(partition);
        self
    }

    /// Where each partition begins. Default [`Position::Earliest`].
    pub fn from(mut self, position: Position) -> Self {
        self.from = position;
        self
    }

    /// Ends after so many records.
    pub fn limit(mut self, records: u64) -> Self {
        self.limit = Some(records);
        self
    }

    /// Ends when everything that was committed when the reader was built has been read. Without
    /// it, the reader follows the topic for ever.
    pub fn stop_at_end(mut self) -> Self {
        self.stop_at_end = true;
        self
    }

    /// Changes options of the consumer beneath: prefetch, reset, isolation and the like.
    pub fn consumer(mut self, change: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder) -> Self {
        self.consumer = change(self.consumer);
        self
    }

    /// Looks the topic up and starts reading.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`UnknownTopic`](crate::ErrorKind::UnknownTopic) if the topic or a partition does not
    /// exist; as [`ConsumerBuilder::build`] otherwise.
    pub async fn build(self) -> Result<Reader> {
        let within = self.client.config().request_timeout;
        let ask = || self.client.metadata().topic(&self.topic, Freshness::Cached, false);
        let topic = self.client.with_retries(within, true, ask).await;
        let topic = topic.map_err(|error| error.context(format_args!("topic {:?}", self.topic)))?;
        let known = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        let mut partitions = self.partitions;
        if partitions.is_empty() {
            partitions = (0..known).collect();
        }
        partitions.sort_unstable();
        partitions.dedup();
        if let Some(missing) = partitions.iter().find(|partition| **partition >= known) {
            return Err(Error::from_reason(
                riverrun_proto::reason::Reason::UnknownTopicOrPartition,
                format!("topic {:?} has partitions 0 to {}, not {missing}", self.topic, known - 1),
            ));
        }
        let keys: Vec<TopicPartition> = partitions
            .iter()
            .map(|partition| TopicPartition::new(Arc::clone(&self.topic), *partition))
            .collect();
        let mut ends = None;
        if self.stop_at_end {
            let asked = keys.iter().map(|key| (key, Position::Latest));
            let listed = self.client.admin().list_offsets(asked).await?;
            let mut known = HashMap::new();
            for (key, end) in keys.iter().zip(listed) {
                known.insert(key.clone(), end?.offset);
            }
            ends = Some(known);
        }
        let from = self.from;
        let assigned = keys.into_iter().map(|key| (key.topic, key.partition, from));
        let consumer = self.consumer.assign(assigned).build().await?;
        Ok(Reader { consumer, left: self.limit, ends, done: false })
    }
}

impl fmt::Debug for ReaderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partitions, from, limit, stop_at_end, .. } = self;
        f.debug_struct("ReaderBuilder")
            .field("topic", topic)
            .field("partitions", partitions)
            .field("from", from)
            .field("limit", limit)
            .field("stop_at_end", stop_at_end)
            .finish_non_exhaustive()
    }
}

// === impl Reader ===

impl Reader {
    /// A handle for seek, pause and questions.
    pub fn control(&self) -> ConsumerControl {
        self.consumer.control()
    }

    /// Whether every partition is where this reader ends.
    fn is_at_end(&mut self) -> bool {
        let Some(ends) = &mut self.ends else { return false };
        let control = self.consumer.control();
        ends.retain(|partition, end| {
            // Nothing below the end is left: done with it, and no more of it is wanted.
            let at = control.position(partition).ok().flatten();
            let is_there = at.is_some_and(|position| position >= *end);
            if is_there {
                let _ = control.unassign(partition);
            }
            !is_there
        });
        ends.is_empty()
    }
}

impl Stream for Reader {
    type Item = Result<ConsumerRecord>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.done || self.left == Some(0) {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.consumer).poll_next(cx) {
                Poll::Ready(Some(Ok(record))) => {
                    if let Some(ends) = &self.ends {
                        let end = ends.get(&record.topic_partition());
                        if end.is_none_or(|end| record.offset() >= *end) {
                            self.done = self.is_at_end();
                            continue;
                        }
                    }
                    if let Some(left) = &mut self.left {
                        *left -= 1;
                    }
                    return Poll::Ready(Some(Ok(record)));
                }
                Poll::Pending if self.is_at_end() => self.done = true,
                other => return other,
            }
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "reader_test.rs"]
mod tests;
