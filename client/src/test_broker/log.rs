//! A partition of the test cluster: batches, epochs, producers.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use riverrun_proto::{
    epoch::LeaderEpoch,
    limits::PRODUCER_BATCHES_REMEMBERED,
    offset::Offset,
    reason::Reason,
    record::{BatchBuilder, BatchOptions, ProducerStamp, RecordBatch},
    rpc::v1,
    timestamp::Timestamp,
};

use super::{error, values_of};

/// See the module.
#[derive(Default)]
pub(crate) struct PartitionLog {
    pub(crate) leader: Option<u32>,
    pub(crate) leader_epoch: i32,
    pub(crate) batches: Vec<Bytes>,
    pub(crate) log_start: i64,
    pub(crate) log_end: i64,
    /// Epoch and its first offset.
    epochs: Vec<(i32, i64)>,
    producers: HashMap<i64, ProducerState>,
    pub(crate) hold_acks: bool,
    /// A producer that is not known may begin with any sequence.
    pub(crate) takes_any_first_sequence: bool,
}

#[derive(Default)]
struct ProducerState {
    epoch: i16,
    next_sequence: i32,
    /// Base sequence and base offset.
    recent: VecDeque<(i32, i64)>,
}

// === impl PartitionLog ===

impl PartitionLog {
    pub(super) fn new(leader: u32) -> Self {
        Self { leader: Some(leader), epochs: vec![(0, 0)], ..Self::default() }
    }

    pub(crate) fn lead(&mut self, leader: u32) {
        self.leader = Some(leader);
        self.leader_epoch += 1;
        self.epochs.push((self.leader_epoch, self.log_end));
    }

    /// Forgets what it knew of producers, as after their expiry.
    pub(crate) fn forget_producers(&mut self) {
        self.producers.clear();
    }

    /// Cuts the log at `offset`, a batch boundary, under a new epoch.
    pub(crate) fn truncate(&mut self, offset: i64) {
        self.batches.retain(|batch| header(batch).base_offset < offset);
        self.log_end = offset;
        self.epochs.retain(|(_, start)| *start < offset);
        self.leader_epoch += 1;
        self.epochs.push((self.leader_epoch, offset));
    }

    /// Flips a bit in the batch that holds `offset`.
    pub(crate) fn corrupt(&mut self, offset: i64) {
        for batch in &mut self.batches {
            if header(batch).last_offset() >= offset {
                let mut bytes = batch.to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                *batch = bytes.into();
                return;
            }
        }
    }

    pub(crate) fn append_values(&mut self, values: &[&str]) {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for value in values {
            let at = Timestamp::from_millis(1_000 + self.log_end);
            builder.append(at, None, Some(value.as_bytes()), []).unwrap();
        }
        self.store(builder.finish());
    }

    pub(crate) fn store(&mut self, batch: Bytes) -> i64 {
        let base = self.log_end;
        let batch = RecordBatch::validate(batch).unwrap();
        let epoch = LeaderEpoch::new(self.leader_epoch).unwrap();
        let stamped = batch.stamp(Offset::new(base).unwrap(), epoch, None);
        self.log_end = stamped.next_offset().get();
        self.batches.push(stamped.to_bytes());
        base
    }

    /// The rules for a producer's batch: base offset, and whether it was there already.
    pub(super) fn append(&mut self, bytes: Bytes) -> Result<(i64, bool), v1::Error> {
        let batch = RecordBatch::validate(bytes.clone())
            .map_err(|_| error(Reason::CorruptMessage, false, true))?;
        let Some(ProducerStamp { id, epoch, base_sequence }) = batch.header().producer() else {
            return Ok((self.store(bytes), false));
        };
        let records = batch.header().record_count;
        let next_sequence = if self.takes_any_first_sequence { base_sequence } else { 0 };
        let fresh = || ProducerState { epoch, next_sequence, ..ProducerState::default() };
        let producer = self.producers.entry(id.get()).or_insert_with(fresh);
        if epoch < producer.epoch {
            return Err(error(Reason::InvalidProducerEpoch, false, true));
        }
        if epoch > producer.epoch {
            *producer = ProducerState { epoch, ..ProducerState::default() };
        }
        if let Some((_, at)) = producer.recent.iter().find(|(seq, _)| *seq == base_sequence) {
            return Ok((*at, true));
        }
        if base_sequence != producer.next_sequence {
            return Err(error(Reason::OutOfOrderSequence, false, true));
        }
        producer.next_sequence = ProducerStamp::sequence_after(base_sequence, records);
        producer.recent.push_back((base_sequence, self.log_end));
        if producer.recent.len() > PRODUCER_BATCHES_REMEMBERED {
            producer.recent.pop_front();
        }
        Ok((self.store(bytes), false))
    }

    /// The batch that holds `offset`, or the one after it.
    pub(super) fn read(&self, offset: i64) -> Option<&Bytes> {
        let at = self.batches.partition_point(|batch| header(batch).last_offset() < offset);
        self.batches.get(at)
    }

    /// Where the log parts from a reader that read `epoch` up to `offset`.
    pub(super) fn diverging(&self, epoch: i32, offset: i64) -> Option<i64> {
        let end = self
            .epochs
            .iter()
            .find(|(known, _)| *known > epoch)
            .map_or(self.log_end, |(_, start)| *start);
        (end < offset).then_some(end)
    }

    pub(super) fn first_since(&self, ms: i64) -> Option<(i64, i64)> {
        self.batches.iter().find_map(|batch| {
            let batch = RecordBatch::parse_stored(batch.clone()).unwrap();
            let records = batch.records(1 << 30).unwrap();
            let found = records.iter().map(Result::unwrap).find(|r| r.timestamp.as_millis() >= ms);
            found.map(|record| (record.offset.get(), record.timestamp.as_millis()))
        })
    }

    pub(crate) fn values(&self) -> Vec<String> {
        self.batches.iter().flat_map(values_of).collect()
    }
}

pub(super) fn header(batch: &Bytes) -> riverrun_proto::record::BatchHeader {
    riverrun_proto::record::BatchHeader::parse(batch).unwrap()
}
