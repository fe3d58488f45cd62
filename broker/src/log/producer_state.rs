//! Idempotent producers: which sequence each of them is at, so that a retry is recognised.
//!
//! Per producer id the state remembers its epoch and its last
//! [`PRODUCER_BATCHES_REMEMBERED`] batches. A batch is
//!
//! * a **duplicate** if exactly its sequences are remembered: it is answered with the offsets it
//!   got the first time;
//! * **next** if it begins one after the last (0 comes after `i32::MAX`);
//! * **out of order** otherwise: something before it is missing.
//!
//! A new epoch begins at sequence 0. Of a producer that is not known anything is taken: it may have
//! been forgotten after [`ProducerLimits::expiration`] without a batch (Kafka's rule, KIP-360).
//! Deleting records forgets nobody: a retry of a batch that has since been deleted is still a
//! duplicate.
//!
//! [`ProducerStates::check`] decides, [`ProducerStates::record`] follows the log: also on a replica,
//! which never refuses what its leader appended. The number of producers is bounded; over it,
//! whoever has been silent longest is forgotten first, but nobody who was heard of within
//! [`RETRY_HORIZON`]: then new producers are refused instead, as forgetting could duplicate.
//!
//! Cloning is cheap (one reference per producer), so that a snapshot can be written while appends
//! go on.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use riverrun_proto::{
    ids::ProducerId, limits::PRODUCER_BATCHES_REMEMBERED, offset::Offset, record::ProducerStamp,
    timestamp::Timestamp,
};

/// A producer that was heard of this recently may still retry and is never forgotten to make room:
/// more than twice the clients' default delivery timeout of two minutes.
pub const RETRY_HORIZON: Duration = Duration::from_secs(5 * 60);

/// How many producers are remembered, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerLimits {
    /// At most this many per partition.
    pub count_max: usize,
    /// Without a batch for this long, a producer is forgotten.
    pub expiration: Duration,
}

/// A batch as its producer numbered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// Producer, epoch, first sequence.
    pub stamp: ProducerStamp,
    /// Records in the batch − 1.
    pub last_offset_delta: i32,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The batch's latest timestamp.
    pub timestamp: Timestamp,
}

/// What a batch is to the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProducerCheck {
    /// The next one: append it.
    New,
    /// It is in the log already.
    Duplicate(RememberedBatch),
    /// Batches before it are missing; they may be on their way.
    OutOfOrder {
        /// The sequence that is due.
        expected: i32,
    },
    /// A newer incarnation of the producer has taken over.
    Fenced {
        /// Its epoch.
        current: i16,
    },
    /// No room for another producer; try again later.
    TooManyProducers {
        /// The bound.
        count_max: usize,
    },
}

/// A batch that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RememberedBatch {
    /// Sequence of its first record.
    pub base_sequence: i32,
    /// Records − 1.
    pub last_offset_delta: i32,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Its latest timestamp: the broker's, with log append time.
    pub timestamp: Timestamp,
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerState {
    pub(super) epoch: i16,
    /// When it was last heard of, by this broker's clock.
    pub(super) last_seen: Timestamp,
    /// Oldest first, at most [`PRODUCER_BATCHES_REMEMBERED`], never empty.
    pub(super) batches: VecDeque<RememberedBatch>,
}

/// All producers of one partition.
#[derive(Debug, Clone)]
pub struct ProducerStates {
    limits: ProducerLimits,
    producers: HashMap<ProducerId, Arc<ProducerState>>,
}

// === impl ProducerStates ===

impl ProducerStates {
    /// Nobody known.
    pub fn new(limits: ProducerLimits) -> Self {
        Self { limits, producers: HashMap::new() }
    }

    /// What the batch would be if it were appended now. Changes nothing.
    pub fn check(
        &self,
        stamp: ProducerStamp,
        last_offset_delta: i32,
        now: Timestamp,
    ) -> ProducerCheck {
        let Some(known) = self.known(stamp.id, now) else {
            return if self.has_room(now) {
                ProducerCheck::New
            } else {
                ProducerCheck::TooManyProducers { count_max: self.limits.count_max }
            };
        };
        if stamp.epoch < known.epoch {
            return ProducerCheck::Fenced { current: known.epoch };
        }
        if stamp.epoch > known.epoch {
            return if stamp.base_sequence == 0 {
                ProducerCheck::New
            } else {
                ProducerCheck::OutOfOrder { expected: 0 }
            };
        }
        let same = |batch: &&RememberedBatch| {
            batch.base_sequence == stamp.base_sequence
                && batch.last_offset_delta == last_offset_delta
        };
        if let Some(batch) = known.batches.iter().rev().find(same) {
            return ProducerCheck::Duplicate(*batch);
        }
        let expected = known.next_sequence();
        if stamp.base_sequence == expected {
            ProducerCheck::New
        } else {
            ProducerCheck::OutOfOrder { expected }
        }
    }

    /// Follows a batch that was appended, whatever [`Self::check`] thinks of it: on a replica the
    /// leader decided. `now` is when; while replaying, when the replay happens.
    pub fn record(&mut self, batch: ProducerBatch, now: Timestamp) {
        let ProducerBatch { stamp, last_offset_delta, base_offset, timestamp } = batch;
        let remembered = RememberedBatch {
            base_sequence: stamp.base_sequence,
            last_offset_delta,
            base_offset,
            timestamp,
        };
        if let Some(known) = self.producers.get_mut(&stamp.id) {
            let known = Arc::make_mut(known);
            if known.epoch != stamp.epoch {
                known.batches.clear();
                known.epoch = stamp.epoch;
            }
            if known.batches.len() == PRODUCER_BATCHES_REMEMBERED {
                known.batches.pop_front();
            }
            known.batches.push_back(remembered);
            known.last_seen = known.last_seen.max(now);
            return;
        }
        if self.producers.len() >= self.limits.count_max {
            self.make_room(now);
        }
        let state =
            ProducerState { epoch: stamp.epoch, last_seen: now, batches: [remembered].into() };
        self.producers.insert(stamp.id, Arc::new(state));
    }

    /// Forgets who has been silent for too long; returns how many.
    pub fn expire(&mut self, now: Timestamp) -> usize {
        let before = self.producers.len();
        let expiration = self.limits.expiration;
        self.producers.retain(|_, known| now.duration_since(known.last_seen) < expiration);
        before - self.producers.len()
    }

    /// Follows a change of configuration. A lower bound takes effect as producers come.
    pub fn set_limits(&mut self, limits: ProducerLimits) {
        self.limits = limits;
    }

    /// Producers known.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The producer, if known.
    pub fn get(&self, id: ProducerId) -> Option<&ProducerState> {
        self.producers.get(&id).map(Arc::as_ref)
    }

    /// Everybody, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &ProducerState)> {
        self.producers.iter().map(|(id, known)| (*id, known.as_ref()))
    }

    /// Takes over somebody from a snapshot.
    pub(super) fn restore(&mut self, id: ProducerId, state: ProducerState) {
        self.producers.insert(id, Arc::new(state));
    }

    fn known(&self, id: ProducerId, now: Timestamp) -> Option<&ProducerState> {
        let known = self.producers.get(&id)?;
        (now.duration_since(known.last_seen) < self.limits.expiration).then_some(known)
    }

    fn has_room(&self, now: Timestamp) -> bool {
        self.producers.len() < self.limits.count_max
            || self.producers.values().any(|known| is_evictable(known, now))
    }

    /// Forgets the expired, and if that is not enough the sixteenth that was silent longest. May
    /// forget nobody: then the bound is exceeded by what a leader with another view let in.
    fn make_room(&mut self, now: Timestamp) {
        if self.expire(now) > 0 {
            return;
        }
        let mut silent: Vec<(Timestamp, ProducerId)> = self
            .producers
            .iter()
            .filter(|(_, known)| is_evictable(known, now))
            .map(|(id, known)| (known.last_seen, *id))
            .collect();
        // In bulk, so that the cost of looking at everybody is spread over many newcomers.
        silent.sort_unstable();
        for (_, id) in silent.iter().take(self.limits.count_max / 16 + 1) {
            self.producers.remove(id);
        }
    }
}

// === impl ProducerState ===

impl ProducerState {
    /// Which incarnation of the producer wrote last.
    pub const fn epoch(&self) -> i16 {
        self.epoch
    }

    /// The batches remembered, oldest first.
    pub fn batches(&self) -> impl ExactSizeIterator<Item = &RememberedBatch> {
        self.batches.iter()
    }

    /// The sequence that is due.
    fn next_sequence(&self) -> i32 {
        self.batches.back().map_or(0, |last| {
            let last_sequence =
                ProducerStamp::sequence_after(last.base_sequence, last.last_offset_delta);
            ProducerStamp::sequence_after(last_sequence, 1)
        })
    }
}

// === impl RememberedBatch ===

impl RememberedBatch {
    /// Offset of its last record.
    pub fn last_offset(&self) -> Offset {
        let delta = u64::try_from(self.last_offset_delta).unwrap_or(0);
        self.base_offset.checked_add(delta).unwrap_or(Offset::MAX)
    }
}

fn is_evictable(known: &ProducerState, now: Timestamp) -> bool {
    now.duration_since(known.last_seen) >= RETRY_HORIZON
}

#[cfg(test)]
#[path = "producer_state_test.rs"]
mod tests;
