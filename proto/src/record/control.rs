//! Control batches: what the cluster itself writes into a partition. So far these are the markers
//! that end a transaction (KIP-98); their offsets count, their records are not shown to consumers.
//!
//! ```text
//! key    version: i16 = 0 │ type: i16 (0 abort, 1 commit)
//! value  version: i16 = 0 │ coordinator epoch: i32
//! ```
//!
//! Newer versions only append fields, so readers take any version and ignore what they do not
//! know. Types this version does not know are [`ControlKind::Unknown`]: consumers skip them.

use bytes::Bytes;

use super::{Attributes, BatchHeader, HEADER_BYTES, RecordView, entry, header::CRC_COVERS_FROM};
use crate::{ids::ProducerId, timestamp::Timestamp};

const ABORT: i16 = 0;
const COMMIT: i16 = 1;
const VERSION: i16 = 0;

/// What a control record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlKind {
    /// The producer's open transaction is void.
    Abort,
    /// The producer's open transaction counts.
    Commit,
    /// Something newer.
    Unknown(i16),
}

/// A control record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlRecord {
    /// What it says.
    pub kind: ControlKind,
    /// Of the transaction coordinator that wrote it; `None` where the value has none.
    pub coordinator_epoch: Option<i32>,
}

// === impl ControlRecord ===

impl ControlRecord {
    /// Reads a record of a batch whose attributes say control. `None` if its key is none of a
    /// control record.
    pub fn parse(record: &RecordView<'_>) -> Option<Self> {
        let (version, key) = record.key?.split_first_chunk()?;
        let kind = match i16::from_be_bytes(*key.first_chunk()?) {
            _ if i16::from_be_bytes(*version) < 0 => return None,
            ABORT => ControlKind::Abort,
            COMMIT => ControlKind::Commit,
            other => ControlKind::Unknown(other),
        };
        let coordinator_epoch = record
            .value
            .and_then(|value| value.get(2..)?.first_chunk())
            .map(|epoch| i32::from_be_bytes(*epoch));
        Some(Self { kind, coordinator_epoch })
    }
}

/// A batch of one record that ends the transaction of a producer. It has no sequence.
pub fn control_batch(
    kind: ControlKind,
    producer_id: ProducerId,
    producer_epoch: i16,
    coordinator_epoch: i32,
    timestamp: Timestamp,
) -> Bytes {
    let kind = match kind {
        ControlKind::Abort => ABORT,
        ControlKind::Commit => COMMIT,
        ControlKind::Unknown(kind) => kind,
    };
    let [v0, v1] = VERSION.to_be_bytes();
    let [k0, k1] = kind.to_be_bytes();
    let [e0, e1, e2, e3] = coordinator_epoch.to_be_bytes();
    let (key, value) = ([v0, v1, k0, k1], [v0, v1, e0, e1, e2, e3]);
    let (key, value) = (Some(&key[..]), Some(&value[..]));
    let size = entry::EntrySize::of(0, 0, key, value, []);
    let mut out = vec![0; HEADER_BYTES];
    entry::write_record(&mut out, size, 0, 0, key, value, []);
    let mut header = BatchHeader {
        base_offset: 0,
        batch_length: i32::try_from(out.len() - 12).expect("less than 100 bytes"),
        leader_epoch: -1,
        crc: 0,
        attributes: Attributes::default().with_transactional(true).with_control(true),
        last_offset_delta: 0,
        base_timestamp: timestamp,
        max_timestamp: timestamp,
        producer_id: producer_id.get(),
        producer_epoch,
        base_sequence: -1,
        record_count: 1,
    };
    header.crc = crc32c::crc32c_append(
        crc32c::crc32c(&header.encode()[CRC_COVERS_FROM..]),
        &out[HEADER_BYTES..],
    );
    out[..HEADER_BYTES].copy_from_slice(&header.encode());
    out.into()
}
