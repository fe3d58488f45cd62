//! Records of one partition on their way into batches. Pure: `now` is passed in, nothing waits.
//!
//! One batch is open; callers encode their records into it. It is due
//!
//! - at once, while nothing of the partition is in flight (Nagle's rule: no latency at low load);
//! - else when it is full, or has lingered, or a flush wants it.
//!
//! So `linger` is an upper bound that only a busy partition ever reaches.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use riverrun_proto::{
    record::{AppendError, BatchBuilder, BatchOptions},
    timestamp::Timestamp,
};

use super::{budget::Charge, delivery::BatchAck, pool::BufferPool};
use crate::{clock::Instant, error::Error, record::Record};

/// The batches of one partition that are not handed to its leader yet.
#[derive(Debug)]
pub(crate) struct Accumulator {
    partition: u32,
    options: BatchOptions,
    linger: Duration,
    pool: Arc<BufferPool>,
    /// Full, in order.
    sealed: VecDeque<Batch>,
    /// Follows them.
    open: Option<Batch>,
    /// Batches taken and not answered; written by the worker.
    in_flight: usize,
    /// A flush wants what is open now, whatever else is.
    flush: bool,
    /// Why nothing is taken any more.
    closed: Option<Error>,
    /// The latest batch begun. In a partition batches are answered in order, so when it is, all
    /// are.
    latest: Option<Arc<BatchAck>>,
}

/// A batch in the making, with what it took of the budget.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) builder: BatchBuilder,
    pub(crate) ack: Arc<BatchAck>,
    pub(crate) charge: Charge,
    pub(crate) created: Instant,
}

/// Where a record went.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) ack: Arc<BatchAck>,
    pub(crate) index: u32,
    /// The worker has to look: a batch began or got full.
    pub(crate) wake: bool,
}

/// Why a record was not taken. The charge comes back with it.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The partition no longer takes records; its topic may have been made anew.
    Closed(Charge, Error),
    /// No batch has room for it.
    TooLarge { bytes: usize, max: usize },
}

/// When there is something to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Now,
    At(Instant),
    Never,
}

// === impl Accumulator ===

impl Accumulator {
    pub(crate) fn new(
        partition: u32,
        options: BatchOptions,
        linger: Duration,
        pool: Arc<BufferPool>,
    ) -> Self {
        Self {
            partition,
            options,
            linger,
            pool,
            sealed: VecDeque::new(),
            open: None,
            in_flight: 0,
            flush: false,
            closed: None,
            latest: None,
        }
    }

    /// Encodes a record into the open batch, or into a new one. `now` is asked only for a new one.
    pub(crate) fn append(
        &mut self,
        record: &Record,
        timestamp: Timestamp,
        charge: Charge,
        now: impl Fn() -> Instant,
    ) -> Result<Placed, Refused> {
        if let Some(error) = &self.closed {
            return Err(Refused::Closed(charge, error.clone()));
        }
        let mut wake = false;
        loop {
            let Some(batch) = &mut self.open else {
                self.open = Some(self.begin(record, timestamp, charge, now())?);
                let batch = self.open.as_ref().expect("just begun");
                return Ok(Placed { ack: Arc::clone(&batch.ack), index: 0, wake: true });
            };
            match encode(&mut batch.builder, record, timestamp) {
                Ok(index) => {
                    batch.charge.absorb(charge);
                    return Ok(Placed { ack: Arc::clone(&batch.ack), index, wake });
                }
                Err(AppendError::Full) => {
                    self.sealed.extend(self.open.take());
                    wake = true;
                }
                Err(AppendError::RecordTooLarge { bytes, max }) => {
                    return Err(Refused::TooLarge { bytes, max });
                }
            }
        }
    }

    fn begin(
        &mut self,
        record: &Record,
        timestamp: Timestamp,
        charge: Charge,
        now: Instant,
    ) -> Result<Batch, Refused> {
        let mut builder = BatchBuilder::with_buffer(self.options.clone(), self.pool.take());
        match encode(&mut builder, record, timestamp) {
            Ok(_) => {}
            Err(AppendError::RecordTooLarge { bytes, max }) => {
                return Err(Refused::TooLarge { bytes, max });
            }
            Err(AppendError::Full) => unreachable!("an empty batch takes any record it can"),
        }
        let ack = BatchAck::new(self.partition);
        self.latest = Some(Arc::clone(&ack));
        Ok(Batch { builder, ack, charge, created: now })
    }

    /// The next batch in order, if it is due. It counts as in flight until it is
    /// [answered](Accumulator::answered).
    pub(crate) fn take(&mut self, now: Instant) -> Option<Batch> {
        if self.due() == Due::Never || matches!(self.due(), Due::At(due) if due > now) {
            return None;
        }
        let batch = match self.sealed.pop_front() {
            Some(batch) => batch,
            None => {
                self.flush = false;
                self.open.take()?
            }
        };
        self.in_flight += 1;
        Some(batch)
    }

    /// When [`Accumulator::take`] has something.
    pub(crate) fn due(&self) -> Due {
        match &self.open {
            _ if !self.sealed.is_empty() => Due::Now,
            Some(_) if self.in_flight == 0 || self.flush => Due::Now,
            Some(batch) => Due::At(batch.created + self.linger),
            None => Due::Never,
        }
    }

    /// A batch that was taken is answered.
    pub(crate) fn answered(&mut self) {
        debug_assert!(self.in_flight > 0, "answered more often than taken");
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Makes all that is here due, and says whose answer covers it.
    pub(crate) fn flush(&mut self) -> Option<Arc<BatchAck>> {
        self.flush = self.open.is_some();
        self.latest.clone().filter(|ack| !ack.is_done())
    }

    /// Batches begun before `created`: they waited too long.
    pub(crate) fn expire(&mut self, created: Instant) -> Vec<Batch> {
        let old = self.sealed.iter().take_while(|batch| batch.created < created).count();
        let mut expired: Vec<Batch> = self.sealed.drain(..old).collect();
        if self.sealed.is_empty() && self.open.as_ref().is_some_and(|open| open.created < created) {
            expired.extend(self.open.take());
        }
        expired
    }

    /// Takes no more, and gives out what is here.
    pub(crate) fn close(&mut self, error: Error) -> Vec<Batch> {
        self.closed.get_or_insert(error);
        self.drain()
    }

    /// Gives out what is here, due or not; it does not count as in flight.
    pub(crate) fn drain(&mut self) -> Vec<Batch> {
        self.sealed.drain(..).chain(self.open.take()).collect()
    }

    /// Nothing is waiting to be taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_none()
    }

    /// Records waiting to be taken.
    pub(crate) fn record_count(&self) -> u64 {
        let batches = self.sealed.iter().chain(&self.open);
        batches.map(|batch| u64::from(batch.builder.record_count())).sum()
    }

    /// Largest batch from now on; the topic's limit may change.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.options.bytes_max = bytes_max;
    }
}

fn encode(
    builder: &mut BatchBuilder,
    record: &Record,
    timestamp: Timestamp,
) -> Result<u32, AppendError> {
    let headers = record.headers.iter().map(|header| (header.key(), header.value()));
    builder.append(timestamp, record.key.as_deref(), record.value.as_deref(), headers)
}

#[cfg(test)]
#[path = "accumulator_test.rs"]
mod tests;
