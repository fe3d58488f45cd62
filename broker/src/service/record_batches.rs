//! Plain records into batches: which partition each goes to, then which batch of it, and which place
//! in that. Pure, so that the way back (one result per record, in order) is tested without a broker.

use std::collections::BTreeMap;

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

/// The records of one request that go to one partition.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) records: Vec<v1::Record>,
    /// Which of the request's records they are.
    pub(super) at: Vec<usize>,
}

/// What becomes of the records of one group.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In the order they must be appended in; none is empty.
    pub(super) batches: Vec<Bytes>,
    /// One per record, in the group's order.
    pub(super) places: Vec<Result<Place, Failure>>,
}

/// Where a record is within a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) batch: usize,
    /// Records before it in the batch.
    pub(super) index: u32,
    pub(super) timestamp: Timestamp,
}

impl Spread {
    /// Sorts records by where they go; those of one partition stay in order.
    pub(super) fn groups(self, records: Vec<v1::Record>) -> BTreeMap<PartitionIndex, Group> {
        let mut groups = BTreeMap::<_, Group>::new();
        for (at, record) in records.into_iter().enumerate() {
            let group = groups.entry(self.partition(record.key.as_deref())).or_default();
            group.records.push(record);
            group.at.push(at);
        }
        groups
    }

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

/// Encodes the records of one partition into batches of at most `batch_bytes_max`. A record that is
/// too large alone gets its error; the others go on without it. `now` is the time of records that
/// have none.
pub(super) fn plan(
    records: &[v1::Record],
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
    let mut builder = BatchBuilder::new(options.clone());
    let mut compressor = Compressor::new();
    for record in records {
        let timestamp = record.timestamp_ms.map_or(now, Timestamp::from_millis);
        let mut appended = append(&mut builder, timestamp, record);
        if appended == Err(AppendError::Full) {
            let full = std::mem::replace(&mut builder, BatchBuilder::new(options.clone()));
            plan.batches.push(full.finish_with(&mut compressor).0);
            appended = append(&mut builder, timestamp, record);
        }
        let batch = plan.batches.len();
        plan.places.push(match appended {
            Ok(index) => Ok(Place { batch, index, timestamp }),
            Err(error) => Err(too_large(error, batch_bytes_max)),
        });
    }
    if !builder.is_empty() {
        plan.batches.push(builder.finish_with(&mut compressor).0);
    }
    plan
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
