//! What a batch from a client must be, beyond what its partition judges: exactly one batch, sound,
//! and nothing only the cluster may write. No record is decoded and no byte copied.

use bytes::Bytes;
use riverrun_proto::{
    reason::Reason,
    record::{RecordBatch, TimestampType},
};

use super::status::Failure;

/// Checks the one batch in `bytes`.
pub(super) fn check(bytes: Bytes) -> Result<RecordBatch, Failure> {
    let batch = RecordBatch::validate(bytes)?;
    let attributes = batch.header().attributes;
    if attributes.is_control() {
        let message = "control batches are written by the cluster, not by clients";
        return Err(Failure::new(Reason::InvalidRecord, message));
    }
    if attributes.is_transactional() {
        let message = "transactions do not exist in this version: send the batch without the \
                       transactional bit";
        return Err(Failure::new(Reason::InvalidRecord, message));
    }
    if attributes.timestamp_type() == TimestampType::LogAppendTime {
        let message = "a producer's batch has the producer's times; whether the broker stamps its \
                       own is for the topic to say (message.timestamp.type)";
        return Err(Failure::new(Reason::InvalidTimestamp, message));
    }
    Ok(batch)
}

#[cfg(test)]
#[path = "batch_test.rs"]
mod tests;
