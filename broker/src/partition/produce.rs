//! What a produce asks for, what becomes of it, and who is told.

use std::{fmt, sync::Arc};

use riverrun_proto::{
    epoch::LeaderEpoch, ids::BrokerId, offset::Offset, record::RecordBatch, timestamp::Timestamp,
};
use thiserror::Error;

use crate::{clock::Instant, replica::Durability};

/// When a produce is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Once every in-sync replica has it, as durably as the topic says.
    All,
    /// Once the leader has it in memory. A failover may lose it.
    Leader,
}

/// One validated batch on its way to a partition.
#[derive(Debug)]
pub struct Append {
    /// What to store.
    pub batch: RecordBatch,
    /// When to answer.
    pub acks: Acks,
    /// Leader epoch the client knows, if any: another than ours is refused.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Until when to wait for replicas or the disk.
    pub deadline: Instant,
    /// Who is told.
    pub ticket: Ticket,
}

/// Where a batch lies in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) base_offset: Offset,
    pub(super) last_offset: Offset,
    /// Set where the broker stamps time.
    pub(super) log_append_time: Option<Timestamp>,
    /// It lay there before.
    pub(super) duplicate: bool,
}

impl Stored {
    /// First offset behind it.
    pub(super) fn end(&self) -> Offset {
        self.last_offset.next()
    }
}

/// Where a batch is and what it survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// Set where the broker stamps time.
    pub log_append_time: Option<Timestamp>,
    /// The log's start when it was answered.
    pub log_start_offset: Offset,
    /// It had been stored before; the offsets are the first write's.
    pub duplicate: bool,
    /// The term it was answered in.
    pub leader_epoch: LeaderEpoch,
    /// What it survives now.
    pub durability: Durability,
    /// On how many replicas.
    pub replicas: u32,
}

/// Why a batch was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProduceError {
    /// This broker does not lead the partition.
    #[error("this broker does not lead the partition{}", hint(*.leader))]
    NotLeader {
        /// Who does, if known.
        leader: Option<BrokerId>,
        /// The newest epoch this broker knows.
        epoch: Option<LeaderEpoch>,
        /// The batch had been appended before leadership was lost: it may survive.
        appended: bool,
    },
    /// The client's leader epoch is older than the partition's.
    #[error("leader epoch {given} is fenced, the partition is in {current}; refresh the metadata")]
    FencedLeaderEpoch {
        /// The client's.
        given: LeaderEpoch,
        /// The partition's.
        current: LeaderEpoch,
    },
    /// The client's leader epoch is newer than this broker has heard of.
    #[error("leader epoch {given} is not known here yet, the newest is {current}; try again")]
    UnknownLeaderEpoch {
        /// The client's.
        given: LeaderEpoch,
        /// The partition's, as far as this broker knows.
        current: LeaderEpoch,
    },
    /// Another broker may lead by now, and acks=0 or 1 would not notice; nothing was written.
    #[error(
        "not heard by the metadata quorum for a while: another broker may lead by now; acks=all \
         goes on where this one still leads"
    )]
    LeaseEnded,
    /// Fewer in-sync replicas than the topic asks for; nothing was written.
    #[error(
        "{isr} of {min_isr} in-sync replicas: wait for a replica to catch up, or lower \
         min.insync.replicas"
    )]
    NotEnoughReplicas {
        /// Members of the ISR.
        isr: usize,
        /// What it takes.
        min_isr: usize,
    },
    /// The in-sync replicas became too few while the batch waited for them.
    #[error(
        "appended, but only {isr} of {min_isr} in-sync replicas are left; it may yet commit when a \
         replica catches up"
    )]
    NotEnoughReplicasAfterAppend {
        /// Members of the ISR.
        isr: usize,
        /// What it takes.
        min_isr: usize,
    },
    /// Larger than the topic allows.
    #[error("the batch has {bytes} bytes, max.message.bytes of the topic is {max}")]
    TooLarge {
        /// The batch's.
        bytes: usize,
        /// The topic's limit.
        max: usize,
    },
    /// A record's time is outside the topic's bounds.
    #[error(
        "timestamp {timestamp} lies more than {bound_ms} ms {side} the broker's time {now} \
         ({key}); check the producer's clock"
    )]
    InvalidTimestamp {
        /// The offending one.
        timestamp: Timestamp,
        /// The broker's time.
        now: Timestamp,
        /// The bound.
        bound_ms: u64,
        /// "before" or "after".
        side: &'static str,
        /// The configuration key that says so.
        key: &'static str,
    },
    /// The batch does not follow the producer's last one.
    #[error(
        "producer {producer_id} sent sequence {given}, the partition expects {expected}: an \
         earlier batch is missing"
    )]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// Its batch's first sequence.
        given: i32,
        /// The one due.
        expected: i32,
    },
    /// A newer epoch of the producer id has written.
    #[error("producer {producer_id} has moved on to epoch {current}, this batch is of {given}")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: i64,
        /// The batch's epoch.
        given: i16,
        /// The epoch in force.
        current: i16,
    },
    /// More idempotent producers than the partition remembers write to it.
    #[error(
        "the partition remembers {max} producers already (produce.producers.per.partition.max); \
         share producers, or try again once old ones have expired"
    )]
    TooManyProducers {
        /// The bound.
        max: usize,
    },
    /// The offset space or a segment cannot take it.
    #[error("the batch cannot be stored: {0}")]
    Unstorable(String),
    /// It did not become as durable as asked within the time allowed.
    #[error("{}", timed_out(*.appended))]
    TimedOut {
        /// It had been appended: it may yet commit.
        appended: bool,
    },
    /// The disk is full. Nothing was written; writes are taken again once there is room.
    #[error("the disk is full: free space or lower retention; reads go on")]
    StorageFull,
    /// The partition's storage failed.
    #[error("the partition's storage failed: {why}")]
    StorageFailed {
        /// What happened.
        why: String,
        /// The batch had been appended: it may be found after recovery.
        appended: bool,
    },
    /// More bytes wait for this partition's disk than it may hold.
    #[error("{parked_bytes} bytes wait for the partition's disk already; slow down")]
    Busy {
        /// What waits.
        parked_bytes: usize,
    },
    /// The partition is closing: the broker stops or the topic was deleted.
    #[error("the partition is closing")]
    Closing {
        /// The batch had been appended.
        appended: bool,
    },
}

fn hint(leader: Option<BrokerId>) -> String {
    leader.map_or_else(|| "; nobody does now".to_owned(), |id| format!("; broker {id} does"))
}

fn timed_out(appended: bool) -> &'static str {
    if appended {
        "appended, but not acknowledged by replicas and disk in time; it may yet commit"
    } else {
        "not written: the partition's disk was not ready in time"
    }
}

impl ProduceError {
    /// Nothing was written, and nothing will appear later.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::TimedOut { appended }
            | Self::NotLeader { appended, .. }
            | Self::StorageFailed { appended, .. }
            | Self::Closing { appended } => !appended,
            Self::NotEnoughReplicasAfterAppend { .. } => false,
            Self::FencedLeaderEpoch { .. }
            | Self::UnknownLeaderEpoch { .. }
            | Self::LeaseEnded
            | Self::NotEnoughReplicas { .. }
            | Self::TooLarge { .. }
            | Self::InvalidTimestamp { .. }
            | Self::OutOfOrderSequence { .. }
            | Self::InvalidProducerEpoch { .. }
            | Self::TooManyProducers { .. }
            | Self::Unstorable(_)
            | Self::StorageFull
            | Self::Busy { .. } => true,
        }
    }
}

/// Where outcomes go: one per stream, or one per unary call.
pub trait ProduceSink: Send + Sync + fmt::Debug {
    /// Called once per ticket, from any thread, never under the partition's lock. Must not block.
    fn complete(&self, tag: u64, outcome: Result<Produced, ProduceError>);
}

/// The promise to answer one batch. Whatever it holds on behalf of the batch (admission bytes) is
/// let go of when it is answered. A dropped ticket answers "closing", as if it had been appended.
pub struct Ticket {
    sink: Option<Arc<dyn ProduceSink>>,
    tag: u64,
    _held: Box<dyn Send>,
}

impl Ticket {
    /// A ticket with `tag` chosen by the sink; `held` is dropped when it is answered.
    pub fn new(sink: Arc<dyn ProduceSink>, tag: u64, held: impl Send + 'static) -> Self {
        Self { sink: Some(sink), tag, _held: Box::new(held) }
    }

    /// Answers.
    pub fn complete(mut self, outcome: Result<Produced, ProduceError>) {
        if let Some(sink) = self.sink.take() {
            sink.complete(self.tag, outcome);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.complete(self.tag, Err(ProduceError::Closing { appended: true }));
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("tag", &self.tag).finish_non_exhaustive()
    }
}
