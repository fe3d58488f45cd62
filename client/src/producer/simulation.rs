//! One partition's way through the producer without a runtime, a connection or a clock: what the
//! seeded simulator (`tests/simulation`) drives. No part of the API.
//!
//! The decisions are the producer's own: [`Accumulator`], [`Sender`], [`RetryPolicy`]. This file
//! puts them together as the worker does ([`super::pump`]), with time, chance and answers passed in.

use std::{collections::HashSet, collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use riverrun_proto::{
    ids::{BrokerId, ProducerId},
    reason::Reason,
    record::{BatchOptions, Compressor},
    timestamp::Timestamp,
};

use super::{
    accumulator::{Accumulator, Due},
    batch::Payload,
    budget::Budget,
    pool::BufferPool,
    pump::finish,
    sender::{Identity, Sender, timed_out},
};
use crate::{
    address::Address,
    clock::{self, Instant},
    config::Durability,
    connection::Appended,
    error::{Error, LeaderHint},
    record::Record,
    retry::RetryPolicy,
};

/// How a producer is set.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the broker is to recognise retries.
    pub idempotence: bool,
    /// Bytes after which a batch is full.
    pub batch_size: usize,
    /// How long a batch waits for company while another is in flight.
    pub linger: Duration,
    /// When a batch is given up.
    pub delivery_timeout: Duration,
    /// Batches in flight.
    pub max_in_flight: usize,
    /// What the producer's records may take.
    pub buffer_memory: usize,
}

/// A batch to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Names the answer.
    pub correlation_id: u64,
    /// The batch.
    pub batch: Bytes,
}

/// What a broker says instead of an offset.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The same may succeed later.
    pub retriable: bool,
    /// Nothing was written.
    pub definite: bool,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// Who leads, and since which epoch.
    pub leader: Option<(BrokerId, i32)>,
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Records in it: as many of the oldest that were sent.
    pub records: u32,
    /// Offset of the first.
    pub outcome: Result<Option<i64>, Failure>,
}

/// Why the records of a batch were not delivered.
#[derive(Clone, Debug)]
pub struct Failure {
    /// None of them is in the log, nor ever will be.
    pub definite: bool,
    /// In words.
    pub text: String,
}

/// The producer's state for one partition.
#[derive(Debug)]
pub struct PartitionProducer {
    accumulator: Accumulator,
    sender: Sender<Payload>,
    compressor: Compressor,
    pool: Arc<BufferPool>,
    budget: Arc<Budget>,
    retry: RetryPolicy,
    options: Options,
    /// What "no time has passed" is called; only distances to it are ever looked at.
    zero: Instant,
    next_correlation_id: u64,
    /// Of batches whose fate is known, in the order in which they were begun.
    answers: VecDeque<Answer>,
}

impl PartitionProducer {
    /// For partition `partition`.
    pub fn new(partition: u32, options: Options) -> Self {
        let pool = BufferPool::new();
        let batches = BatchOptions { size_budget: options.batch_size, ..BatchOptions::default() };
        Self {
            accumulator: Accumulator::new(partition, batches, options.linger, Arc::clone(&pool)),
            sender: Sender::new(options.idempotence),
            compressor: Compressor::new(),
            pool,
            budget: Budget::new(options.buffer_memory),
            retry: RetryPolicy::default(),
            options,
            zero: clock::now(),
            next_correlation_id: 1,
            answers: VecDeque::new(),
        }
    }

    /// Takes a record if there is memory for it; says whether.
    pub fn send(&mut self, now: Duration, record: &Record, timestamp_ms: i64) -> bool {
        let Ok(charge) = self.budget.try_take(record.size()) else { return false };
        let (at, timestamp) = (self.zero + now, Timestamp::from_millis(timestamp_ms));
        self.accumulator.append(record, timestamp, charge, || at).is_ok()
    }

    /// What may be sent now: to be asked until there is nothing.
    pub fn next(&mut self, now: Duration) -> Option<Outgoing> {
        let now = self.zero + now;
        if !self.sender.has_waiting() {
            if !self.sender.has_room(self.options.max_in_flight, now) {
                return None;
            }
            let batch = self.accumulator.take(now)?;
            finish(&mut self.sender, batch, &mut self.compressor, &self.pool);
        }
        self.sender.next_bytes(usize::MAX, now)?;
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let batch = self.sender.send_next(correlation_id)?.bytes.clone();
        Some(Outgoing { correlation_id, batch })
    }

    /// When to look again though nothing happened.
    pub fn wake_at(&self) -> Option<Duration> {
        let due = match self.accumulator.due() {
            Due::At(at) => Some(at),
            Due::Now | Due::Never => None,
        };
        let at = due.into_iter().chain(self.sender.resume_at()).min()?;
        Some(at.duration_since(self.zero))
    }

    /// The broker answered a batch.
    pub fn answered(
        &mut self,
        now: Duration,
        correlation_id: u64,
        outcome: Result<(Option<i64>, bool), Refusal>,
        jitter: f64,
    ) {
        let outcome = match outcome {
            Ok((base_offset, duplicate)) => Ok(Appended {
                base_offset,
                log_append_time_ms: None,
                duplicate,
                leader_epoch: 0,
                durability: Durability::Unknown,
                replicas: 0,
            }),
            Err(refusal) => Err(refusal.into()),
        };
        self.sender.answered(correlation_id, outcome, self.zero + now, &self.retry, jitter);
    }

    /// The connection broke; `untaken` never left.
    pub fn lost(&mut self, now: Duration, untaken: &HashSet<u64>) {
        self.sender.lost(untaken, self.zero + now);
    }

    /// The identity that is needed before anything is sent: another than this one.
    pub fn wants_identity(&self) -> Option<Option<(ProducerId, i16)>> {
        self.sender.wants_identity().map(|lost| lost.map(|lost| (lost.id, lost.epoch)))
    }

    /// Goes on under this identity.
    pub fn identify(&mut self, id: ProducerId, epoch: i16) {
        self.sender.identify(Identity { id, epoch }, Payload::restamp);
    }

    /// Gives up what is too old.
    pub fn expire(&mut self, now: Duration) {
        let after = self.options.delivery_timeout;
        let Some(created) = now.checked_sub(after) else { return };
        let waiting = self.accumulator.expire(self.zero + created);
        self.sender.expire(self.zero + created, after, self.zero + now);
        // What is taken is older than what is not, and answered first.
        self.collect();
        for batch in waiting {
            let records = batch.builder.record_count();
            let outcome = Err(timed_out(after, true).into());
            self.answers.push_back(Answer { records, outcome });
        }
    }

    /// What became of the oldest batch, once that is known.
    pub fn answer(&mut self) -> Option<Answer> {
        self.collect();
        self.answers.pop_front()
    }

    fn collect(&mut self) {
        while let Some((payload, outcome)) = self.sender.pop_done() {
            self.accumulator.answered();
            let outcome = outcome.map(|appended| appended.base_offset).map_err(Failure::from);
            self.answers.push_back(Answer { records: payload.records, outcome });
        }
    }

    /// Batches on the wire.
    pub fn on_the_wire(&self) -> usize {
        self.sender.sent_count()
    }

    /// Nothing is waiting for an answer.
    pub fn is_empty(&self) -> bool {
        self.sender.is_empty() && self.accumulator.is_empty() && self.answers.is_empty()
    }
}

impl From<Refusal> for Error {
    /// As a broker's answer is decoded ([`crate::connection`]).
    fn from(refusal: Refusal) -> Self {
        let Refusal { reason, retriable, definite, retry_after, leader } = refusal;
        let leader = leader.and_then(|(broker, leader_epoch)| {
            let address = Address::new("simulated", 1).ok()?;
            Some(LeaderHint { broker, address, leader_epoch })
        });
        let retriable = retriable || leader.is_some();
        Self::from_broker(reason.name().into(), String::new(), retriable, definite)
            .with_retry_after(retry_after)
            .with_leader(leader)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { definite: error.is_definite(), text: error.to_string() }
    }
}
