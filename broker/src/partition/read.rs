//! The reading side: no lock for what is committed, the pool for what is not in memory.

use std::sync::Arc;

use bytes::Bytes;
use riverrun_proto::{epoch::LeaderEpoch, offset::Offset, timestamp::Timestamp};
use tokio::sync::{Semaphore, oneshot};

use super::{
    error::{FetchError, OffsetsError},
    owner::Partition,
    pool::Lane,
};
use crate::log::{Batches, ColdRead, Damage, Read, ReadError};

/// What a reader asks of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// The first offset wanted.
    pub from: Offset,
    /// Stop before this many bytes; one batch comes whole even if it is larger.
    pub max_bytes: usize,
    /// Leader epoch the client knows, if any: another than ours is refused.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Epoch of the last batch read before `from`, to detect truncation (KIP-320).
    pub last_read_epoch: Option<LeaderEpoch>,
}

/// What a fetch gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// Batches, one per element, as stored. The first may begin before the offset asked for. Empty:
    /// nothing is committed there yet.
    Batches {
        /// The batches.
        batches: Vec<Bytes>,
        /// Where to read on.
        next_offset: Offset,
        /// First offset not committed when this was read.
        high_watermark: Offset,
        /// First offset still readable when this was read.
        log_start_offset: Offset,
    },
    /// What the client read before is not what the log has: of epochs up to `epoch` it has only
    /// what lies below `end`.
    Diverging {
        /// The newest epoch both have in common.
        epoch: LeaderEpoch,
        /// Where it ends here.
        end: Offset,
    },
}

/// A named or timed place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Log start offset.
    Earliest,
    /// High watermark.
    Latest,
    /// The first record at or after this time.
    Timestamp(Timestamp),
    /// The record with the greatest timestamp (KIP-734).
    MaxTimestamp,
}

/// An offset, with the record's time where it was looked up by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAt {
    /// The offset.
    pub offset: Offset,
    /// Time of the record there.
    pub timestamp: Option<Timestamp>,
}

/// Bytes that reads from the disk may hold at once, broker-wide: one reader's history must not
/// crowd out another's, nor fill the memory.
#[derive(Debug, Clone)]
pub struct ReadBudget {
    permits: Arc<Semaphore>,
    total: u32,
}

impl ReadBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: u32) -> Self {
        Self { permits: Arc::new(Semaphore::new(bytes as usize)), total: bytes }
    }

    /// Bytes taken now, for metrics.
    pub fn used(&self) -> usize {
        self.total as usize - self.permits.available_permits()
    }

    /// All of it.
    pub fn total(&self) -> u32 {
        self.total
    }
}

impl Partition {
    /// Reads committed batches. What is in memory comes without waiting; else this waits for the
    /// read budget and the disk.
    ///
    /// Cancel safe: dropped, it changes nothing (a read under way on the pool runs to its end).
    pub async fn read(self: &Arc<Self>, fetch: Fetch) -> Result<Fetched, FetchError> {
        self.check_epoch(fetch.leader_epoch)?;
        if let Some(epoch) = fetch.last_read_epoch
            && let Some(diverging) = self.divergence(fetch.from, epoch)
        {
            return Ok(diverging);
        }
        let high_watermark = self.high_watermark();
        let read = match self.reader.read(fetch.from, high_watermark, fetch.max_bytes) {
            Ok(Read::Batches(found)) => Ok(found),
            Ok(Read::Empty) => Ok(Batches { batches: Vec::new(), next_offset: fetch.from }),
            Ok(Read::Cold(cold)) => self.read_cold(cold).await?,
            Err(error) => Err(error),
        };
        let Batches { batches, next_offset } =
            read.map_err(|error| self.fetch_error(fetch.from, error))?;
        Ok(Fetched::Batches {
            batches,
            next_offset,
            high_watermark,
            log_start_offset: self.reader.log_start_offset(),
        })
    }

    /// Finds an offset by name or time. Times may need the disk.
    ///
    /// Cancel safe.
    pub async fn offset_at(
        self: &Arc<Self>,
        spec: OffsetSpec,
        leader_epoch: Option<LeaderEpoch>,
    ) -> Result<Option<OffsetAt>, OffsetsError> {
        self.check_epoch(leader_epoch)?;
        if !self.with_replica(|replica, _| replica.high_watermark_is_current()) {
            return Err(OffsetsError::NotAvailable);
        }
        let upper = self.high_watermark();
        let by_time = match spec {
            OffsetSpec::Earliest => {
                return Ok(Some(OffsetAt {
                    offset: self.reader.log_start_offset(),
                    timestamp: None,
                }));
            }
            OffsetSpec::Latest => return Ok(Some(OffsetAt { offset: upper, timestamp: None })),
            OffsetSpec::Timestamp(at) => Some(at),
            OffsetSpec::MaxTimestamp => None,
        };
        let lookup = match by_time {
            Some(at) => self.reader.offset_for_timestamp(at, upper),
            None => self.reader.max_timestamp(upper),
        };
        let found = self
            .on_pool(move || lookup.run())
            .await?
            .map_err(|error| self.fetch_error(Offset::ZERO, error))?;
        Ok(found.map(|found| OffsetAt { offset: found.offset, timestamp: Some(found.timestamp) }))
    }

    /// Deletes what lies below `before` (`None`: below the high watermark). Returns the log start
    /// offset that holds now; readers below it are told so at once, files go in the background.
    pub fn delete_records(
        self: &Arc<Self>,
        before: Option<Offset>,
        leader_epoch: Option<LeaderEpoch>,
    ) -> Result<Offset, FetchError> {
        self.check_epoch(leader_epoch)?;
        self.delete_before(before).ok_or_else(|| FetchError::OutOfRange {
            offset: before.unwrap_or_default(),
            log_start_offset: self.reader.log_start_offset(),
            log_end_offset: self.high_watermark(),
        })
    }

    /// Waits until what lies below `start` would not come back after a kill. On a disk that is full
    /// that may take until there is room.
    ///
    /// Cancel safe.
    pub async fn deletion_durable(&self, start: Offset) {
        let mut durable = self.published.durable_log_start.subscribe();
        durable.wait_for(|at| *at >= start).await.expect("the sender lives as long as self");
    }

    async fn read_cold(&self, cold: ColdRead) -> Result<Result<Batches, ReadError>, FetchError> {
        let budget = &self.env.read_budget;
        let bytes = u32::try_from(cold.max_bytes()).unwrap_or(u32::MAX).clamp(1, budget.total);
        let _permit = Arc::clone(&budget.permits).acquire_many_owned(bytes).await;
        self.on_pool(move || cold.run()).await
    }

    async fn on_pool<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FetchError> {
        let (answer, answered) = oneshot::channel();
        self.env.pool.run(Lane::Read, move || {
            // The reader may be gone; then nobody wants to know.
            let _ = answer.send(job());
        });
        answered.await.map_err(|_| FetchError::Closing)
    }

    fn check_epoch(&self, given: Option<LeaderEpoch>) -> Result<(), FetchError> {
        if self.is_closed() {
            return Err(FetchError::Closing);
        }
        let Some(current) = self.leads() else {
            return Err(self.with_replica(|replica, _| FetchError::NotLeader {
                leader: replica.registration().and_then(|r| r.leader),
                epoch: replica.registration().map(|r| r.leader_epoch),
            }));
        };
        match given {
            Some(given) if given < current => Err(FetchError::FencedLeaderEpoch { given, current }),
            Some(given) if given > current => {
                Err(FetchError::UnknownLeaderEpoch { given, current })
            }
            _ => Ok(()),
        }
    }

    /// replication.md 1.4 check 5, for a consumer.
    fn divergence(&self, from: Offset, last_read: LeaderEpoch) -> Option<Fetched> {
        self.with_replica(|_, log| {
            let (epoch, end) = log.end_offset_for(last_read)?;
            (epoch < last_read || end < from).then_some(Fetched::Diverging { epoch, end })
        })
    }

    fn fetch_error(&self, from: Offset, error: ReadError) -> FetchError {
        match error {
            ReadError::OutOfRange { start, end } => FetchError::OutOfRange {
                offset: from,
                log_start_offset: start,
                log_end_offset: end,
            },
            ReadError::Corrupt(Damage { offset, next_offset, what }) => {
                tracing::error!(partition = %self.id(), topic = %self.topic(), %offset, %what, "corrupt record batch");
                FetchError::Corrupt { offset, next_offset, what }
            }
            ReadError::Log(error) => FetchError::StorageFailed { why: error.to_string() },
        }
    }
}
