//! The reading side: no lock for what is committed, the pool for what is not in memory.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use riverrun_proto::{epoch::LeaderEpoch, offset::Offset, timestamp::Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    error::{FetchError, OffsetsError},
    owner::Partition,
    pool::Lane,
    role::{Copies, Role},
};
use crate::{
    log::{Batches, ColdRead, Damage, Read, ReadError},
    replica::Replica,
    telemetry::{Bound, Bounds, Usage},
};

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
/// crowd out another's, nor fill the memory. It bounds the line of reads on the pool as well: a job
/// keeps its share until it has run, whether or not its reader still waits. A batch comes whole,
/// however much larger than what was asked for: each thread may hold one beyond the budget.
#[derive(Debug, Clone)]
pub struct ReadBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    permits: Arc<Semaphore>,
    total: u32,
    /// Told of reads that had to wait.
    bound: OnceLock<Bound>,
}

/// What every read counts for, however little it asks for, and a look-up, which reads a few index
/// pages and one batch at a time: so the budget bounds how many stand in line.
const SHARE_BYTES_MIN: usize = 64 * 1024;

impl ReadBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: u32) -> Self {
        let permits = Arc::new(Semaphore::new(bytes as usize));
        Self(Arc::new(Budget { permits, total: bytes, bound: OnceLock::new() }))
    }

    /// Bytes taken now.
    pub fn used(&self) -> usize {
        self.0.total as usize - self.0.permits.available_permits()
    }

    /// All of it.
    pub fn total(&self) -> u32 {
        self.0.total
    }

    /// Shows how much is taken, and counts reads that had to wait for their share.
    pub fn watch(&self, bounds: &Bounds) {
        let budget = self.clone();
        let bound = bounds.watch_pool("cold_reads", move || Usage {
            used: budget.used() as u64,
            limit: u64::from(budget.total()),
        });
        // Watched twice, the first counter goes on counting.
        let _ = self.0.bound.set(bound);
    }

    /// A share for a read of `bytes`; all there is for one that is larger. Cancel safe.
    async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let budget = &self.0;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, budget.total.max(1));
        if let Ok(permit) = Arc::clone(&budget.permits).try_acquire_many_owned(bytes) {
            return permit;
        }
        if let Some(bound) = budget.bound.get() {
            bound.hit();
        }
        let permits = Arc::clone(&budget.permits);
        permits.acquire_many_owned(bytes).await.expect("the semaphore is never closed")
    }
}

impl Partition {
    /// Reads committed batches, as the leader. What is in memory comes without waiting; else this waits
    /// for the read budget and the disk.
    ///
    /// Cancel safe: dropped, it changes nothing (a read under way on the pool runs to its end).
    pub async fn read(self: &Arc<Self>, fetch: Fetch) -> Result<Fetched, FetchError> {
        self.read_any(fetch, Copies::Leader).await
    }

    /// The same from any replica that may serve `copies`.
    ///
    /// A follower serves what it knows to be committed: up to the high watermark that its leader told
    /// it, which never lies beyond its own log's end. Its readers keep what they were given. It cuts its
    /// log above its high watermark only: what it was told to be committed is on all members of the ISR,
    /// and the next leader is one of them. An unclean election breaks that, for readers of a leader no
    /// less; then epochs tell them (KIP-320).
    ///
    /// What is *not* in its log says nothing of the partition: it may be behind. Where a leader says that
    /// an offset is out of range, or that a reader's past is not the log's, a follower sends the reader to
    /// the leader ([`FetchError::NotKnownHere`]), and nobody gives up a place because of it.
    pub async fn read_any(
        self: &Arc<Self>,
        fetch: Fetch,
        copies: Copies,
    ) -> Result<Fetched, FetchError> {
        match self.check_epoch(fetch.leader_epoch, copies)? {
            Role::InSync(epoch) => {
                let read = self.read_committed(fetch).await;
                self.as_follower(fetch.from, epoch, read)
            }
            _ => self.read_committed(fetch).await,
        }
    }

    /// What a follower may say of what it found.
    fn as_follower(
        &self,
        offset: Offset,
        epoch: LeaderEpoch,
        read: Result<Fetched, FetchError>,
    ) -> Result<Fetched, FetchError> {
        // Its log may be another since: cut, and gone on with for another leader.
        if self.published.role.get() != Role::InSync(epoch) {
            return Err(self.with_replica(|replica, _| not_leader(replica)));
        }
        match read {
            Ok(Fetched::Diverging { .. })
            | Err(FetchError::OutOfRange { .. } | FetchError::UnknownLeaderEpoch { .. }) => {
                Err(self.with_replica(|replica, log| FetchError::NotKnownHere {
                    offset,
                    log_start_offset: log.log_start_offset(),
                    log_end_offset: log.log_end_offset(),
                    leader: replica.registration().and_then(|r| r.leader),
                    epoch,
                }))
            }
            other => other,
        }
    }

    /// First offset still readable, without the lock.
    pub fn log_start_offset(&self) -> Offset {
        self.reader.log_start_offset()
    }

    /// Whether this follower would serve a read from there, now; `None`: from wherever its log begins.
    pub fn serves_in_sync(&self, from: Option<Offset>) -> bool {
        let has =
            |from: Offset| from >= self.reader.log_start_offset() && from <= self.high_watermark();
        matches!(self.published.role.get(), Role::InSync(_)) && from.is_none_or(has)
    }

    async fn read_committed(self: &Arc<Self>, fetch: Fetch) -> Result<Fetched, FetchError> {
        // In this order: the start never lies beyond a high watermark that is read later.
        let log_start_offset = self.reader.log_start_offset();
        let high_watermark = self.high_watermark();
        // What was deleted says nothing of divergence (KAFKA-14078).
        if let Some(epoch) = fetch.last_read_epoch
            && fetch.from >= log_start_offset
            && let Some(diverging) = self.divergence(fetch.from, epoch)?
        {
            return Ok(diverging);
        }
        let read = match self.reader.read(fetch.from, high_watermark, fetch.max_bytes) {
            Ok(Read::Batches(found)) => Ok(found),
            Ok(Read::Empty) => Ok(Batches { batches: Vec::new(), next_offset: fetch.from }),
            Ok(Read::Cold(cold)) => self.read_cold(cold).await?,
            Err(error) => Err(error),
        };
        let Batches { batches, next_offset } =
            read.map_err(|error| self.fetch_error(fetch.from, error))?;
        Ok(Fetched::Batches { batches, next_offset, high_watermark, log_start_offset })
    }

    /// Finds an offset by name or time, as the leader. Times may need the disk.
    ///
    /// Cancel safe.
    pub async fn offset_at(
        self: &Arc<Self>,
        spec: OffsetSpec,
        leader_epoch: Option<LeaderEpoch>,
    ) -> Result<Option<OffsetAt>, OffsetsError> {
        self.offset_at_any(spec, leader_epoch, Copies::Leader).await
    }

    /// The same from any replica that may serve `copies`. A follower's end is the high watermark it
    /// knows, which may be less than what was acknowledged before it was asked.
    pub async fn offset_at_any(
        self: &Arc<Self>,
        spec: OffsetSpec,
        leader_epoch: Option<LeaderEpoch>,
        copies: Copies,
    ) -> Result<Option<OffsetAt>, OffsetsError> {
        let (is_current, others_may_lead) = match self.check_epoch(leader_epoch, copies)? {
            // Its end is no promise, with or without a lease.
            Role::InSync(_) => (true, false),
            _ => self.with_replica(|replica, _| {
                (replica.high_watermark_is_current(), replica.others_may_lead())
            }),
        };
        if !is_current {
            return Err(OffsetsError::NotAvailable);
        }
        let upper = self.high_watermark();
        // After the end was read: what is told was the end at a time when nobody else led.
        if spec != OffsetSpec::Earliest && others_may_lead && !self.holds_lease() {
            return Err(OffsetsError::LeaseEnded);
        }
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
            .on_pool(SHARE_BYTES_MIN, move || lookup.run())
            .await?
            .map_err(|error| self.fetch_error(Offset::ZERO, error))?;
        Ok(found.map(|found| OffsetAt { offset: found.offset, timestamp: Some(found.timestamp) }))
    }

    pub(super) async fn read_cold(
        &self,
        cold: ColdRead,
    ) -> Result<Result<Batches, ReadError>, FetchError> {
        self.on_pool(cold.max_bytes(), move || cold.run()).await
    }

    /// Runs `job` on the pool once there is room for `bytes`. If its caller is gone by then it is
    /// not run.
    async fn on_pool<T: Send + 'static>(
        &self,
        bytes: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FetchError> {
        let share = self.env.read_budget.take(bytes.max(SHARE_BYTES_MIN)).await;
        let (answer, answered) = oneshot::channel();
        self.env.pool.run(Lane::Read, move || {
            if answer.is_closed() {
                return;
            }
            let result = job();
            drop(share);
            // The reader may be gone by now; then nobody wants to know.
            let _ = answer.send(result);
        });
        answered.await.map_err(|_| match self.is_closed() {
            true => FetchError::Closing,
            false => FetchError::StorageFailed { why: "the read was not finished".to_owned() },
        })
    }

    /// Whether this broker serves `copies` in the epoch that the client knows, and as what.
    pub(super) fn check_epoch(
        &self,
        given: Option<LeaderEpoch>,
        copies: Copies,
    ) -> Result<Role, FetchError> {
        if self.is_closed() {
            return Err(FetchError::Closing);
        }
        let role = self.published.role.get();
        let Some(current) = role.serves(copies) else {
            return Err(self.with_replica(|replica, _| not_leader(replica)));
        };
        match given {
            Some(given) if given < current => Err(FetchError::FencedLeaderEpoch { given, current }),
            Some(given) if given > current => {
                Err(FetchError::UnknownLeaderEpoch { given, current })
            }
            _ => Ok(role),
        }
    }

    /// replication.md 1.4 check 5, for a consumer.
    ///
    /// A leader's log knows the leader's own epoch from its first moment on. So one that is newer
    /// than all it knows was written by a later leader, and this broker has not heard that it was
    /// replaced: whoever asks is to find the other one, and is told as Kafka tells a consumer that
    /// names the epoch it knows (KIP-320). OFFSET_OUT_OF_RANGE, Kafka's answer to one that names
    /// none, would have it give up its place because of a leader that is out of date.
    fn divergence(
        &self,
        from: Offset,
        last_read: LeaderEpoch,
    ) -> Result<Option<Fetched>, FetchError> {
        self.with_replica(|replica, log| {
            if let Some((epoch, end)) = log.end_offset_for(last_read) {
                let parts = epoch < last_read || end < from;
                return Ok(parts.then_some(Fetched::Diverging { epoch, end }));
            }
            let current = replica.leads().or_else(|| replica.in_sync_in());
            let current = current.ok_or_else(|| not_leader(replica))?;
            Err(FetchError::UnknownLeaderEpoch { given: last_read, current })
        })
    }

    fn fetch_error(&self, from: Offset, error: ReadError) -> FetchError {
        match error {
            // Its files may be gone already.
            ReadError::Log(_) | ReadError::Corrupt(_) if self.is_closed() => FetchError::Closing,
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

fn not_leader(replica: &Replica) -> FetchError {
    FetchError::NotLeader {
        leader: replica.registration().and_then(|r| r.leader),
        epoch: replica.registration().map(|r| r.leader_epoch),
    }
}
