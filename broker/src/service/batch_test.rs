//! What a client's batch may not be.

use riverrun_proto::{
    ids::ProducerId,
    record::{BatchBuilder, BatchHeader, BatchOptions, HEADER_BYTES, ProducerStamp},
    timestamp::Timestamp,
};

use super::*;

fn batch(options: BatchOptions) -> Vec<u8> {
    let mut builder = BatchBuilder::new(options);
    builder.append(Timestamp::from_millis(1), Some(b"k"), Some(b"v"), []).unwrap();
    builder.finish().to_vec()
}

/// The batch with a changed header and a CRC that holds.
fn with_header(mut bytes: Vec<u8>, change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = BatchHeader::parse(&bytes).unwrap();
    change(&mut header);
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[test]
fn a_sound_batch_is_taken_without_a_copy() {
    let bytes = Bytes::from(batch(BatchOptions::default()));
    let at = bytes.as_ptr();
    assert_eq!(check(bytes).unwrap().bytes().as_ptr(), at);
    let stamp = ProducerStamp { id: ProducerId::new(7).unwrap(), epoch: 0, base_sequence: 0 };
    let idempotent = BatchOptions { producer: Some(stamp), ..BatchOptions::default() };
    assert!(check(batch(idempotent).into()).is_ok());
}

#[test]
fn what_only_the_cluster_writes_is_refused() {
    let plain = || batch(BatchOptions::default());
    let cases = [
        (
            "control",
            with_header(plain(), |h| h.attributes = h.attributes.with_control(true)),
            Reason::InvalidRecord,
        ),
        (
            "transactional",
            batch(BatchOptions { transactional: true, ..BatchOptions::default() }).into(),
            Reason::InvalidRecord,
        ),
        (
            "log append time",
            with_header(plain(), |h| {
                h.attributes = h.attributes.with_timestamp_type(TimestampType::LogAppendTime);
            }),
            Reason::InvalidTimestamp,
        ),
        ("no records", with_header(plain(), |h| h.record_count = 0), Reason::InvalidRecord),
        ("a count that lies", with_header(plain(), |h| h.record_count = 2), Reason::InvalidRecord),
        (
            "an unknown codec",
            with_header(plain(), |h| {
                h.attributes =
                    riverrun_proto::record::Attributes::from_bits(h.attributes.bits() | 7);
            }),
            Reason::UnsupportedCompressionType,
        ),
    ];
    for (name, bytes, reason) in cases {
        assert_eq!(check(bytes).expect_err(name).reason(), reason, "{name}");
    }
}
