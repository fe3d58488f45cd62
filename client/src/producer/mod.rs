//! The producer: records in, the place of each record out.
//!
//! ```text
//! send ─ permit from the budget ─ open batch of the partition ─┐ caller's thread
//!                                                              │ woken once per batch
//! answers in order ◄─ in flight, per partition ◄─ turns ◄──────┘ background task
//!                        │                          one stream per leader
//! ```
//!
//! What it promises:
//!
//! - [`send`](Producer::send) waits for memory and for nothing else. Dropped before it is ready,
//!   the record is not enqueued; once it is ready, the record is sent whatever becomes of the
//!   [`Delivery`].
//! - Records of a partition are written in the order in which their `send`s finished, each once,
//!   over any number of lost connections and changes of leader, as long as idempotence is on and
//!   an attempt of unknown outcome can be repeated within `delivery_timeout`. Where that fails, the
//!   error of the record says so ([`is_definite`](crate::Error::is_definite)), and nothing else
//!   stops.
//! - Memory is bounded by `buffer_memory`, strictly, in bytes. When a broker does not keep up,
//!   `send` waits; when one partition does not, others on the same stream keep their rate, though
//!   a caller who insists on it fills the shared buffer with its records.

mod accumulator;
mod batch;
mod budget;
mod builder;
mod delivery;
mod lane;
mod partitioner;
mod pool;
mod pump;
mod routes;
mod sender;
mod shared;
#[doc(hidden)]
pub mod simulation;
mod sink;
mod worker;

use std::{fmt, sync::Arc, time::Duration};

use self::{
    budget::{Charge, NoCharge},
    builder::ProducerConfig,
    shared::{Phase, Shared, too_large},
    worker::Worker,
};
pub use self::{
    builder::ProducerBuilder,
    delivery::{Delivery, RecordMetadata},
    partitioner::{ChoosePartition, Partitioner},
    sink::RecordSink,
};
use crate::{
    client::Client,
    error::{Error, ErrorKind, Result},
    record::Record,
};

/// Writes records. Cheap to clone; clones share the buffer, the streams and the order.
///
/// When the last clone is dropped, what it holds is still sent, in the background and for
/// `delivery_timeout` at most, and a warning says how many records that were. A runtime that ends
/// before loses them: [`close`](Producer::close) waits.
#[derive(Clone)]
pub struct Producer(Arc<Handle>);

/// Closes the producer when the last clone is dropped.
struct Handle {
    shared: Arc<Shared>,
}

/// Bytes taken of a producer's buffer for a record to come. Dropping it gives them back.
#[must_use = "send a record with it"]
pub struct Permit {
    shared: Arc<Shared>,
    charge: Charge,
}

/// The producer is closed; here is the record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The producer is closed.
    #[error("the producer is closed; build a new one")]
    Closed(Record),
}

/// Why a record was not taken; here it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError {
    /// The buffer is full: wait for a delivery, or use [`Producer::send`].
    #[error("the producer's buffer is full; wait for a delivery, or raise buffer_memory")]
    Full(Record),
    /// The producer is closed.
    #[error("the producer is closed; build a new one")]
    Closed(Record),
}

// === impl Producer ===

impl Producer {
    fn start(client: Client, config: ProducerConfig) -> Result<Self> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| Error::invalid("a producer is built inside a tokio runtime"))?;
        let shared = Shared::new(config);
        runtime.spawn(Worker::new(Arc::clone(&shared), client).run());
        Ok(Self(Arc::new(Handle { shared })))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Hands a record over as soon as there is memory for it, and nothing but memory is waited
    /// for: an unknown topic, a record above a limit, a broker that is down show in the
    /// [`Delivery`]. Callers are served in the order they came.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the record is not enqueued. To keep the record in that case,
    /// use [`reserve`](Producer::reserve).
    ///
    /// # Errors
    /// [`SendError::Closed`], with the record.
    pub async fn send(&self, record: Record) -> Result<Delivery, SendError> {
        let shared = self.shared();
        let bytes = record.size();
        if let Some(refused) = refuse_size(shared, bytes) {
            return Ok(refused);
        }
        let Ok(charge) = shared.budget.take(bytes).await else {
            return Err(SendError::Closed(record));
        };
        shared.enqueue(record, charge).map_err(SendError::Closed)
    }

    /// Hands a record over if there is memory for it now and nobody waits for it.
    ///
    /// # Errors
    /// The record comes back, with the reason.
    pub fn try_send(&self, record: Record) -> Result<Delivery, TrySendError> {
        let shared = self.shared();
        let bytes = record.size();
        if let Some(refused) = refuse_size(shared, bytes) {
            return Ok(refused);
        }
        match shared.budget.try_take(bytes) {
            Ok(charge) => shared.enqueue(record, charge).map_err(TrySendError::Closed),
            Err(NoCharge::Full) => Err(TrySendError::Full(record)),
            Err(NoCharge::Closed) => Err(TrySendError::Closed(record)),
        }
    }

    /// Waits for memory for a record of up to `bytes` ([`Record::size`]), at most `buffer_memory`.
    /// For `select!`: the record stays with the caller until there is a permit.
    ///
    /// # Cancel safety
    /// Cancel safe; the place in the queue is lost.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub async fn reserve(&self, bytes: usize) -> Result<Permit> {
        let shared = self.shared();
        match shared.budget.take(bytes).await {
            Ok(charge) => Ok(Permit { shared: Arc::clone(shared), charge }),
            Err(_) => Err(Error::closed("producer")),
        }
    }

    /// A [`Sink`](futures::Sink) of records: ready when there is memory. Deliveries are detached;
    /// failures show when it is flushed or closed.
    pub fn sink(&self) -> RecordSink {
        RecordSink::new(self.clone())
    }

    /// Sends everything now, without lingering, and waits until every record whose `send` finished
    /// before this call is answered.
    ///
    /// # Cancel safety
    /// Cancel safe: the records go on.
    ///
    /// # Errors
    /// The first failure of any record of this producer (and its clones) since the last `flush`,
    /// also of those whose `Delivery` reported it. `Ok` means that all of them are written.
    pub async fn flush(&self) -> Result<()> {
        flush(self.shared()).await;
        self.shared().take_failure()
    }

    /// Takes no more records, sends what there is, and waits until it is answered, for `deadline`
    /// at most; what is not answered then fails. Clones are closed with it; closing again waits
    /// for the same end.
    ///
    /// # Cancel safety
    /// Cancel safe: the producer stays closed and the records go on.
    ///
    /// # Errors
    /// The first failure of any record since the last `flush`, those given up at the deadline
    /// included.
    pub async fn close(&self, deadline: Duration) -> Result<()> {
        let shared = self.shared();
        shared.advance(Phase::Closing);
        if tokio::time::timeout(deadline, shared.finished.cancelled()).await.is_err() {
            let failed_before = shared.failed_records();
            shared.advance(Phase::Aborting);
            shared.finished.cancelled().await;
            let given_up = shared.failed_records() - failed_before;
            if given_up > 0 {
                // Some of them may have been on the wire.
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("{given_up} records were not acknowledged within {deadline:?}"),
                )
                .definite(false)
                .fatal());
            }
        }
        shared.take_failure()
    }

    /// Bytes of `buffer_memory` in use.
    pub fn buffered_bytes(&self) -> usize {
        self.shared().budget.used()
    }

    /// Records that failed so far.
    pub fn failed_records(&self) -> u64 {
        self.shared().failed_records()
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("shared", self.shared()).finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.drop_last();
    }
}

// === impl Permit ===

impl Permit {
    /// Sends a record. What the permit has above the record's size is given back; if it has less,
    /// the rest is taken where it is free.
    ///
    /// # Errors
    /// The record comes back: [`TrySendError::Full`] if it is larger than the permit and there is
    /// no more memory now, or the producer is closed. The permit is given back.
    pub fn send(self, record: Record) -> Result<Delivery, TrySendError> {
        let Self { shared, mut charge } = self;
        let bytes = record.size();
        if let Some(refused) = refuse_size(&shared, bytes) {
            return Ok(refused);
        }
        if let Some(missing) = bytes.checked_sub(charge.bytes()).filter(|missing| *missing > 0) {
            match shared.budget.try_take(missing) {
                Ok(more) => charge.absorb(more),
                Err(NoCharge::Full) => return Err(TrySendError::Full(record)),
                Err(NoCharge::Closed) => return Err(TrySendError::Closed(record)),
            }
        }
        charge.shrink_to(bytes);
        shared.enqueue(record, charge).map_err(TrySendError::Closed)
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        self.charge.bytes()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({} bytes)", self.bytes())
    }
}

// === impl SendError ===

impl SendError {
    /// The record, to be sent elsewhere.
    pub fn into_record(self) -> Record {
        match self {
            Self::Closed(record) => record,
        }
    }
}

impl TrySendError {
    /// The record, to be sent later or elsewhere.
    pub fn into_record(self) -> Record {
        match self {
            Self::Full(record) | Self::Closed(record) => record,
        }
    }
}

impl From<SendError> for Error {
    fn from(_: SendError) -> Self {
        Self::closed("producer")
    }
}

impl From<TrySendError> for Error {
    fn from(error: TrySendError) -> Self {
        match error {
            TrySendError::Full(_) => {
                Self::new(ErrorKind::Throttled, error.to_string()).retriable(true)
            }
            TrySendError::Closed(_) => Self::closed("producer"),
        }
    }
}

/// A record that no batch takes fails at once, without waiting for memory it will not use.
fn refuse_size(shared: &Shared, bytes: usize) -> Option<Delivery> {
    let max = shared.config.max_request_size;
    (bytes > max).then(|| {
        let error = too_large(bytes, max);
        shared.count_failed(&error, 1);
        Delivery::failed(error)
    })
}

/// Waits for everything that is here now.
async fn flush(shared: &Arc<Shared>) {
    let slots = shared.slots();
    let parked: Vec<_> = slots.iter().filter_map(|slot| slot.waiting()).collect();
    for group in parked {
        group.done().await;
    }
    let mut acks = Vec::new();
    for slot in slots {
        let Some(route) = slot.routed() else { continue };
        for queue in &route.queues {
            let latest = queue.accumulator.lock().flush();
            if let Some(ack) = latest {
                shared.mark_queue(queue);
                acks.push(ack);
            }
        }
    }
    // In a partition answers come in order: its last one covers all.
    for ack in acks {
        ack.done().await;
    }
}

#[cfg(test)]
mod faults_test;
#[cfg(test)]
mod producer_test;
