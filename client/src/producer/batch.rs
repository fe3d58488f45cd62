//! A finished batch on its way, and the rewriting of its producer fields.

use std::sync::Arc;

use bytes::Bytes;
use riverrun_proto::record::{BatchHeader, HEADER_BYTES, ProducerStamp};

use super::{budget::Charge, delivery::BatchAck};

/// Where the CRC lies, and from where on it covers the batch.
const CRC_AT: usize = 17;
const CRC_COVERS_FROM: usize = 21;

/// A batch between accumulator and answer.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) bytes: Bytes,
    pub(crate) records: u32,
    pub(crate) ack: Arc<BatchAck>,
    /// Given back when this is dropped.
    pub(crate) charge: Charge,
}

// === impl Payload ===

impl Payload {
    /// Puts another producer id and sequence into the batch; copies it if the transport still
    /// holds it.
    pub(crate) fn restamp(&mut self, stamp: ProducerStamp) {
        let mut bytes = Vec::from(std::mem::take(&mut self.bytes));
        let mut header = BatchHeader::parse(&bytes).expect("made by our builder");
        header.producer_id = stamp.id.get();
        header.producer_epoch = stamp.epoch;
        header.base_sequence = stamp.base_sequence;
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        let crc = crc32c::crc32c(&bytes[CRC_COVERS_FROM..]);
        bytes[CRC_AT..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
        self.bytes = bytes.into();
    }
}

#[cfg(test)]
mod tests {
    use riverrun_proto::{
        ids::ProducerId,
        record::{BatchBuilder, BatchOptions, Codec, RecordBatch},
        timestamp::Timestamp,
    };

    use super::*;
    use crate::producer::budget::Budget;

    #[test]
    fn a_restamped_batch_is_valid_and_has_the_same_records() {
        let mut builder =
            BatchBuilder::new(BatchOptions { codec: Codec::Lz4, ..BatchOptions::default() });
        for _ in 0..50 {
            builder.append(Timestamp::from_millis(5), None, Some(b"the same again"), []).unwrap();
        }
        let before = builder.finish();
        let mut payload = Payload {
            bytes: before.clone(),
            records: 50,
            ack: BatchAck::new(0),
            charge: Budget::new(1).try_take(0).unwrap(),
        };
        let stamp =
            ProducerStamp { id: ProducerId::new(9).unwrap(), epoch: 3, base_sequence: 1_000 };
        payload.restamp(stamp);
        let after = RecordBatch::validate(payload.bytes).unwrap();
        assert_eq!(after.header().producer(), Some(stamp));
        assert_eq!(after.bytes()[HEADER_BYTES..], before[HEADER_BYTES..]);
        assert_eq!(RecordBatch::validate(before).unwrap().header().producer(), None);
    }
}
