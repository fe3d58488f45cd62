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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RecordBatch, RecordView};

    const AT: Timestamp = Timestamp::from_millis(99);

    fn marker(kind: ControlKind) -> Bytes {
        control_batch(kind, ProducerId::new(7).expect("not negative"), 3, 11, AT)
    }

    #[test]
    fn markers_round_trip() {
        for kind in [ControlKind::Abort, ControlKind::Commit, ControlKind::Unknown(5)] {
            let batch = RecordBatch::validate(marker(kind)).unwrap();
            let header = batch.header();
            assert!(header.attributes.is_control() && header.attributes.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch), (7, 3));
            assert_eq!((header.base_sequence, header.producer()), (-1, None));
            assert_eq!((header.base_timestamp, header.max_timestamp), (AT, AT));
            let records = batch.records(0).unwrap();
            let views: Vec<_> = records.iter().collect::<Result<_, _>>().unwrap();
            assert_eq!(views.len(), 1);
            let record = ControlRecord { kind, coordinator_epoch: Some(11) };
            assert_eq!(ControlRecord::parse(&views[0]), Some(record));
        }
    }

    #[test]
    fn bytes_are_kafkas() {
        let body = marker(ControlKind::Commit).slice(HEADER_BYTES..);
        let due: &[u8] = &[32, 0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 11, 0];
        assert_eq!(body, due);
    }

    #[test]
    fn newer_versions_are_read_and_what_is_none_is_not() {
        let parse = |key: Option<&[u8]>, value: Option<&[u8]>| {
            let mut out = vec![];
            let size = entry::EntrySize::of(0, 0, key, value, []);
            entry::write_record(&mut out, size, 0, 0, key, value, []);
            let entry = entry::read_record(&mut &out[..]).unwrap();
            ControlRecord::parse(&RecordView {
                offset: crate::offset::Offset::ZERO,
                timestamp: AT,
                key: entry.key,
                value: entry.value,
                headers: entry.headers,
            })
        };
        let commit = |coordinator_epoch| {
            Some(ControlRecord { kind: ControlKind::Commit, coordinator_epoch })
        };
        assert_eq!(parse(Some(&[0, 9, 0, 1, 5]), Some(&[0, 9, 0, 0, 0, 2, 6])), commit(Some(2)));
        assert_eq!(parse(Some(&[0, 0, 0, 1]), None), commit(None));
        assert_eq!(parse(Some(&[0, 0, 0, 1]), Some(&[0, 0, 0])), commit(None));
        for key in [None, Some(&[][..]), Some(&[0, 0, 0]), Some(&[0xff, 0xff, 0, 1])] {
            assert_eq!(parse(key, None), None, "{key:?}");
        }
    }
}
