//! Plain records into batches: which partition each goes to, which batch, and which place in it.
//! Pure, so that the way back (one result per record, in order) is tested without a broker.

use bytes::Bytes;
use riverrun_proto::{
    ids::PartitionIndex,
    murmur2::partition_of,
    reason::Reason,
    record::{AppendError, BatchBuilder, BatchOptions, Codec, Compressor},
    rpc::v1,
    timestamp::Timestamp,
};

use super::status::Failure;

/// Where records go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spread {
    /// All to one partition.
    To(PartitionIndex),
    /// Those with a key by its hash, as Kafka does, the others together to `keyless`.
    ByKey { partitions: u32, keyless: PartitionIndex },
}

/// What becomes of the records of one request.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Batches of one partition stand in the order they must be appended in.
    pub(super) batches: Vec<PlannedBatch>,
    /// One per record, in the request's order.
    pub(super) places: Vec<Result<Place, Failure>>,
}

/// A batch to append.
#[derive(Debug)]
pub(super) struct PlannedBatch {
    pub(super) partition: PartitionIndex,
    /// How many batches of the same partition come before it.
    pub(super) round: usize,
    pub(super) bytes: Bytes,
}

/// Where a record is within a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) batch: usize,
    /// Records before it in the batch.
    pub(super) index: u32,
    pub(super) timestamp: Timestamp,
}

/// A partition's batch that still takes records.
struct Open {
    partition: PartitionIndex,
    builder: BatchBuilder,
    batch: usize,
    rounds: usize,
}

impl Spread {
    fn partition(self, key: Option<&[u8]>) -> PartitionIndex {
        match (self, key) {
            (Self::To(partition), _) => partition,
            (Self::ByKey { keyless, .. }, None) => keyless,
            (Self::ByKey { partitions, .. }, Some(key)) => {
                PartitionIndex::new(partition_of(key, partitions))
                    .expect("below the number of partitions")
            }
        }
    }
}

/// Encodes `records` into batches of at most `batch_bytes_max`. A record that is too large alone
/// gets its error; the others go on without it. `now` is the time of records that have none.
pub(super) fn plan(
    records: &[v1::Record],
    spread: Spread,
    codec: Codec,
    batch_bytes_max: usize,
    now: Timestamp,
) -> Plan {
    let options = BatchOptions {
        codec,
        size_budget: batch_bytes_max,
        bytes_max: batch_bytes_max,
        ..BatchOptions::default()
    };
    let mut plan = Plan::default();
    let mut open: Vec<Open> = Vec::new();
    let mut compressor = Compressor::new();
    for record in records {
        let timestamp = record.timestamp_ms.map_or(now, Timestamp::from_millis);
        let partition = spread.partition(record.key.as_deref());
        let at = open.iter().position(|o| o.partition == partition).unwrap_or_else(|| {
            let batch = plan.reserve(partition, 0);
            let builder = BatchBuilder::new(options.clone());
            open.push(Open { partition, builder, batch, rounds: 0 });
            open.len() - 1
        });
        let slot = &mut open[at];
        let mut appended = append(&mut slot.builder, timestamp, record);
        if appended == Err(AppendError::Full) {
            slot.rounds += 1;
            let next = plan.reserve(partition, slot.rounds);
            let full = std::mem::replace(&mut slot.builder, BatchBuilder::new(options.clone()));
            plan.batches[slot.batch].bytes = full.finish_with(&mut compressor).0;
            slot.batch = next;
            appended = append(&mut slot.builder, timestamp, record);
        }
        plan.places.push(match appended {
            Ok(index) => Ok(Place { batch: slot.batch, index, timestamp }),
            Err(error) => Err(too_large(error, batch_bytes_max)),
        });
    }
    for slot in open {
        if !slot.builder.is_empty() {
            plan.batches[slot.batch].bytes = slot.builder.finish_with(&mut compressor).0;
        }
    }
    plan
}

// === impl Plan ===

impl Plan {
    /// How many batches the fullest partition gets.
    pub(super) fn rounds(&self) -> usize {
        self.batches.iter().map(|batch| batch.round + 1).max().unwrap_or(0)
    }

    fn reserve(&mut self, partition: PartitionIndex, round: usize) -> usize {
        self.batches.push(PlannedBatch { partition, round, bytes: Bytes::new() });
        self.batches.len() - 1
    }
}

fn append(
    builder: &mut BatchBuilder,
    timestamp: Timestamp,
    record: &v1::Record,
) -> Result<u32, AppendError> {
    let headers = record.headers.iter().map(|h| (h.key.as_str(), h.value.as_deref()));
    builder.append(timestamp, record.key.as_deref(), record.value.as_deref(), headers)
}

fn too_large(error: AppendError, max: usize) -> Failure {
    let failure = Failure::new(
        Reason::MessageTooLarge,
        format!("{error}: raise max.message.bytes of the topic, or send less"),
    );
    failure.with("max_message_bytes", max)
}

#[cfg(test)]
#[path = "record_batches_test.rs"]
mod tests;
