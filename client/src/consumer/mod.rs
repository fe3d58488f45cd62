//! The consumer: records of partitions the caller names, in order, from where the caller says.
//!
//! ```text
//! broker ─ batches within the byte credit ─► buffer, compressed ─► one batch, record by record ─► caller
//!           one stream per leader              background task      caller's thread
//! ```
//!
//! What it promises:
//!
//! - Records of a partition come in the order of their offsets, each once after each seek.
//! - What can be retried is retried inside, without end: a broker that is down shows as silence,
//!   not as an error. An error concerns one partition; after it the consumer may be polled again,
//!   and the partition is tried again after a short while, unless the error is fatal.
//! - A topic that was deleted and made anew is never read silently: that is an error.
//! - After a seek no record of the old place is handed out.
//! - Memory: see [`ConsumerBuilder::prefetch_bytes`].

mod arrivals;
mod batch;
mod builder;
mod control;
mod doubts;
mod fetcher;
mod lane;
mod nearby;
mod partition;
mod shared;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, StreamExt};
use riverrun_proto::record::Decompressor;

use self::{
    batch::OpenBatch,
    shared::{Cell, Debt, Item, Popped, Shared, What},
};
pub use self::{builder::ConsumerBuilder, control::ConsumerControl};
use crate::{
    client::Client,
    clock,
    error::{Error, ErrorKind, Result},
    record::ConsumerRecord,
    topic::{OffsetReset, Position, TopicPartition},
};

/// Reads records of assigned partitions: a [`Stream`] of them.
///
/// The stream ends only after [`ConsumerControl::close`]. Dropping the consumer ends its
/// background task.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use futures::TryStreamExt;
/// use riverrun_client::{Client, Position};
///
/// let broker = riverrun_broker::Embedded::start().await?;
/// let client = Client::builder().bootstrap_servers([broker.address()]).build().await?;
/// let mut consumer = client.consumer().assign_all("orders", Position::Earliest).build().await?;
/// while let Some(record) = consumer.try_next().await? {
///     println!("{}: {:?}", record.offset(), record.value());
/// }
/// # Ok(())
/// # }
/// ```
pub struct Consumer {
    control: ConsumerControl,
    decompressor: Decompressor,
    /// The batch being read.
    current: Option<Current>,
    /// An error met by `poll` after it had records to give.
    stashed: Option<Error>,
}

/// A record, or news.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerEvent {
    /// A record.
    Record(ConsumerRecord),
    /// Everything the partition holds was handed out; told again when there was more. Only with
    /// [`ConsumerBuilder::end_of_partition_events`].
    EndOfPartition {
        /// Which one.
        partition: TopicPartition,
        /// The offset the next record will have.
        offset: i64,
    },
}

/// [`Consumer::events`].
#[derive(Debug)]
pub struct ConsumerEvents<'a>(&'a mut Consumer);

struct Current {
    cell: Arc<Cell>,
    version: u64,
    batch: OpenBatch,
    debt: Debt,
}

/// What became of a look at the current batch.
enum Step {
    Record(ConsumerRecord),
    Failed(Error),
    Over,
}

// === impl Consumer ===

impl Consumer {
    fn new(shared: Arc<Shared>, client: Client) -> Self {
        Self {
            control: ConsumerControl::new(shared, client),
            decompressor: Decompressor::new(),
            current: None,
            stashed: None,
        }
    }

    /// Up to `max` records: waits for the first one for `timeout` at most, and takes what else is
    /// there. None at all is not an error.
    ///
    /// # Cancel safety
    /// Cancel safe: no record is lost.
    ///
    /// # Errors
    /// As the stream. Records that came before the error are given first, the error with the next
    /// call.
    pub async fn poll(&mut self, max: usize, timeout: Duration) -> Result<Vec<ConsumerRecord>> {
        let mut records = Vec::new();
        if max == 0 {
            return Ok(records);
        }
        match tokio::time::timeout(timeout, self.next()).await {
            Ok(Some(first)) => records.push(first?),
            Ok(None) => return Err(Error::closed("consumer")),
            Err(_) => return Ok(records),
        }
        while records.len() < max
            && let Some(Some(next)) = futures::FutureExt::now_or_never(self.next())
        {
            match next {
                Ok(record) => records.push(record),
                Err(error) => {
                    self.stashed = Some(error);
                    break;
                }
            }
        }
        Ok(records)
    }

    /// Records and news, as a stream. Cancel safe.
    pub fn events(&mut self) -> ConsumerEvents<'_> {
        ConsumerEvents(self)
    }

    /// A handle for seek, pause and the like while the stream is borrowed.
    pub fn control(&self) -> ConsumerControl {
        self.control.clone()
    }

    /// See [`ConsumerControl::seek`].
    ///
    /// # Errors
    /// As there.
    pub fn seek(&self, partition: impl Into<TopicPartition>, position: Position) -> Result<()> {
        self.control.seek(partition, position)
    }

    /// See [`ConsumerControl::pause`].
    ///
    /// # Errors
    /// As there.
    pub fn pause<P: Into<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<()> {
        self.control.pause(partitions)
    }

    /// See [`ConsumerControl::resume`].
    ///
    /// # Errors
    /// As there.
    pub fn resume<P: Into<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<()> {
        self.control.resume(partitions)
    }

    /// See [`ConsumerControl::position`].
    ///
    /// # Errors
    /// As there.
    pub fn position(&self, partition: impl Into<TopicPartition>) -> Result<Option<i64>> {
        self.control.position(partition)
    }

    /// See [`ConsumerControl::lag`].
    ///
    /// # Errors
    /// As there.
    pub fn lag(&self, partition: impl Into<TopicPartition>) -> Result<Option<u64>> {
        self.control.lag(partition)
    }

    /// See [`ConsumerControl::is_caught_up`].
    pub fn is_caught_up(&self) -> bool {
        self.control.is_caught_up()
    }

    fn shared(&self) -> &Arc<Shared> {
        self.control.shared()
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<ConsumerEvent>>> {
        if let Some(error) = self.stashed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if let Some(current) = &mut self.current {
                match current.step() {
                    Step::Record(record) => {
                        return Poll::Ready(Some(Ok(ConsumerEvent::Record(record))));
                    }
                    Step::Over => self.close_current(),
                    Step::Failed(error) => {
                        let cell = Arc::clone(&current.cell);
                        self.close_current();
                        return Poll::Ready(Some(Err(self.failed(&cell, error))));
                    }
                }
                continue;
            }
            // A reader whose buffer never runs dry must let other tasks run now and then.
            let turn = ready!(tokio::task::coop::poll_proceed(cx));
            let item = match self.shared().pop(cx.waker()) {
                Popped::Item(item) => item,
                Popped::Empty => return Poll::Pending,
                Popped::Closed => return Poll::Ready(None),
            };
            turn.made_progress();
            if let Some(event) = self.on_item(item) {
                return Poll::Ready(Some(event));
            }
        }
    }

    fn on_item(&mut self, item: Item) -> Option<Result<ConsumerEvent>> {
        let Item { cell, version, what, debt } = item;
        match what {
            What::Batch { bytes, next_offset } => {
                let position = cell.live.lock().position().unwrap_or_default();
                let decompressor = &mut self.decompressor;
                match OpenBatch::open(bytes, decompressor, &cell.key, position, next_offset) {
                    Ok(batch) => self.current = Some(Current { cell, version, batch, debt }),
                    Err(error) => {
                        self.shared().give_back(debt);
                        return Some(Err(self.failed(&cell, error)));
                    }
                }
                None
            }
            What::Failed(error) => self.on_partition_error(&cell, error).map(Err),
            What::Truncated(error) => Some(Err(error)),
            What::End(offset) => {
                cell.live.lock().tell_end(offset).then(|| {
                    Ok(ConsumerEvent::EndOfPartition { partition: cell.key.clone(), offset })
                })
            }
        }
    }

    /// `None`: the reset policy has dealt with it.
    fn on_partition_error(&mut self, cell: &Arc<Cell>, error: Error) -> Option<Error> {
        let reset = match self.shared().config.reset {
            _ if error.kind() != ErrorKind::OffsetOutOfRange => None,
            OffsetReset::Earliest => Some(Position::Earliest),
            OffsetReset::Latest => Some(Position::Latest),
            OffsetReset::None => None,
        };
        match reset {
            Some(position) => {
                tracing::warn!(partition = %cell.key, %error, ?position, "position reset");
                self.shared().change(cell, |live| live.seek(position));
                None
            }
            None => Some(self.failed(cell, error)),
        }
    }

    /// The partition is tried again after a while; the caller gets the error.
    fn failed(&self, cell: &Arc<Cell>, error: Error) -> Error {
        let now = clock::now();
        let policy = self.shared().config.retry;
        self.shared().change(cell, |live| {
            let wait = partition::backoff(&policy, live.failures, &error);
            live.failed(now + wait);
        });
        error
    }

    fn close_current(&mut self) {
        if let Some(current) = self.current.take() {
            self.shared().give_back(current.debt);
        }
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumerRecord>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.poll_event(cx)) {
                Some(Ok(ConsumerEvent::Record(record))) => return Poll::Ready(Some(Ok(record))),
                Some(Ok(ConsumerEvent::EndOfPartition { .. })) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for ConsumerEvents<'_> {
    type Item = Result<ConsumerEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_event(cx)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared().close();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("shared", self.shared()).finish_non_exhaustive()
    }
}

// === impl Current ===

impl Current {
    /// The partition's lock makes "is it still wanted" and "it is handed out" one step: a seek
    /// comes before or after, never between.
    fn step(&mut self) -> Step {
        let mut live = self.cell.live.lock();
        if live.version != self.version {
            return Step::Over;
        }
        let position = live.position().unwrap_or_default();
        match self.batch.next(&self.cell.key, position) {
            Some(Ok(record)) => {
                live.advance(record.offset() + 1, self.batch.leader_epoch());
                Step::Record(record)
            }
            Some(Err(error)) => Step::Failed(error),
            None => {
                live.advance(self.batch.next_offset(), self.batch.leader_epoch());
                Step::Over
            }
        }
    }
}

/// An offset to read from is not negative.
fn verify_position(position: Position) -> Result<()> {
    match position {
        Position::Offset(offset) if offset < 0 => {
            Err(Error::invalid(format!("offset {offset}: the first one is 0")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod consumer_test;
#[cfg(test)]
mod faults_test;
#[cfg(test)]
mod nearby_test;
