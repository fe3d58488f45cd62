//! One read of one partition, and how it looks on the wire: shared by `Fetch`, `FetchStream` and
//! `Tail`.

use std::sync::Arc;

use riverrun_proto::{epoch::LeaderEpoch, offset::Offset, rpc::v1};

use super::{
    convert::{Format, Start},
    decode::Decoder,
    read_from,
    resolve::Catalog,
    status::Failure,
};
use crate::partition::{Copies, Fetch, Fetched, Partition};

/// What to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadSpec {
    pub(super) start: Start,
    pub(super) leader_epoch: Option<LeaderEpoch>,
    /// Only the first read of a place has one: after it the reader's past is the log's.
    pub(super) last_read_epoch: Option<LeaderEpoch>,
    pub(super) max_bytes: usize,
    pub(super) format: Format,
    /// Who may be asked.
    pub(super) copies: Copies,
}

/// What a read gave.
#[derive(Debug)]
pub(super) struct ReadData {
    payload: Payload,
    /// Bytes of the payload.
    pub(super) bytes: usize,
    /// Where the read began, once that was known.
    pub(super) from: Offset,
    pub(super) next_offset: Offset,
    pub(super) high_watermark: Offset,
    log_start_offset: Offset,
    /// There may be more elsewhere.
    pub(super) others_may_lead: bool,
}

/// Why a read gave nothing, and what then.
#[derive(Debug)]
pub(super) enum ReadStop {
    /// The reader's past is not the log's.
    Diverging {
        epoch: LeaderEpoch,
        end: Offset,
    },
    Failed(Box<Failure>),
}

#[derive(Debug)]
enum Payload {
    Batches(v1::EncodedBatches),
    Records(v1::ConsumedRecords),
}

/// Reads `partition` once. Whatever waits (disk, decompression) waits in here.
///
/// Cancel safe.
pub(super) async fn read(
    catalog: &Catalog,
    decoder: &Decoder,
    partition: &Arc<Partition>,
    spec: ReadSpec,
) -> Result<ReadData, ReadStop> {
    let refined = |failure: Failure| ReadStop::from(catalog.refine(failure, partition.id().topic));
    let (epoch, copies) = (spec.leader_epoch, spec.copies);
    let from = read_from::resolve(partition, spec.start, epoch, copies).await.map_err(refined)?;
    let fetch = Fetch {
        from,
        max_bytes: spec.max_bytes,
        leader_epoch: spec.leader_epoch,
        last_read_epoch: spec.last_read_epoch,
    };
    let fetched = partition.read_any(fetch, copies).await.map_err(|error| refined(error.into()))?;
    let (batches, next_offset, high_watermark, log_start_offset) = match fetched {
        Fetched::Diverging { epoch, end } => return Err(ReadStop::Diverging { epoch, end }),
        Fetched::Batches { batches, next_offset, high_watermark, log_start_offset } => {
            (batches, next_offset, high_watermark, log_start_offset)
        }
    };
    let (payload, bytes, next_offset) = match spec.format {
        Format::Encoded => {
            let bytes = batches.iter().map(|batch| batch.len()).sum();
            let format = v1::BatchFormat::KafkaV2.into();
            (Payload::Batches(v1::EncodedBatches { batches, format }), bytes, next_offset)
        }
        Format::Records => {
            let decoded = decoder.decode(batches, from, next_offset, spec.max_bytes).await;
            let decoded = decoded.map_err(ReadStop::from)?;
            let records = v1::ConsumedRecords { records: decoded.records };
            (Payload::Records(records), decoded.bytes, decoded.next_offset)
        }
    };
    // Of no interest to whoever has more to read here.
    let others_may_lead = next_offset >= high_watermark && partition.may_be_superseded();
    Ok(ReadData {
        payload,
        bytes,
        from,
        next_offset,
        high_watermark,
        log_start_offset,
        others_may_lead,
    })
}

// === impl ReadData ===

impl ReadData {
    /// There is no more to be read now.
    pub(super) fn is_exhausted(&self) -> bool {
        self.next_offset >= self.high_watermark
    }

    /// The reader has everything committed, as far as that is known here. One that comes from a replica
    /// that knew more is not told so before this one knows as much.
    pub(super) fn is_caught_up(&self) -> bool {
        self.next_offset == self.high_watermark
    }

    /// Nothing was read and the place did not move.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0 && self.next_offset == self.from
    }

    pub(super) fn into_wire(self, partition: v1::TopicPartition) -> v1::PartitionData {
        let caught_up = self.is_caught_up();
        let high_watermark = Some(self.high_watermark.get());
        v1::PartitionData {
            partition: Some(partition),
            next_offset: Some(self.next_offset.get()),
            high_watermark,
            // Without transactions, everything committed is stable.
            last_stable_offset: high_watermark,
            log_start_offset: Some(self.log_start_offset.get()),
            caught_up,
            credit_bytes: self.bytes as u64,
            outcome: Some(match self.payload {
                Payload::Batches(batches) => v1::partition_data::Outcome::Batches(batches),
                Payload::Records(records) => v1::partition_data::Outcome::Records(records),
            }),
            preferred_read_replica: None,
            others_may_lead: self.others_may_lead,
        }
    }
}

// === impl ReadStop ===

impl ReadStop {
    pub(super) fn into_wire(
        self,
        partition: v1::TopicPartition,
        catalog: &Catalog,
    ) -> v1::PartitionData {
        let (outcome, next_offset) = match self {
            Self::Diverging { epoch, end } => {
                let diverging = v1::Diverging { leader_epoch: epoch.get(), end_offset: end.get() };
                (v1::partition_data::Outcome::Diverging(diverging), None)
            }
            Self::Failed(failure) => {
                let error = catalog.wire_error(&failure);
                (v1::partition_data::Outcome::Error(error), failure.next_offset())
            }
        };
        v1::PartitionData {
            partition: Some(partition),
            next_offset: next_offset.map(Offset::get),
            outcome: Some(outcome),
            ..v1::PartitionData::default()
        }
    }
}

impl From<Failure> for ReadStop {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}
