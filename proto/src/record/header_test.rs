//! The header's bytes, field by field, and what its fields may not say.

use proptest::prelude::*;

use super::*;

type Change = fn(&mut BatchHeader);

/// Every field has bytes of its own, so that a swap of two shows.
const BYTES: [u8; HEADER_BYTES] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // base offset
    0x00, 0x00, 0x0b, 0x0c, // batch length
    0x0d, 0x0e, 0x0f, 0x10, // leader epoch
    0x02, // magic
    0x81, 0x12, 0x13, 0x14, // crc
    0x15, 0x2b, // attributes
    0x17, 0x18, 0x19, 0x1a, // last offset delta
    0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, // base timestamp
    0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, // max timestamp
    0x2b, 0x2c, 0x2d, 0x2e, 0x2f, 0x30, 0x31, 0x32, // producer id
    0x33, 0x34, // producer epoch
    0x35, 0x36, 0x37, 0x38, // base sequence
    0x39, 0x3a, 0x3b, 0x3c, // record count
];

fn header() -> BatchHeader {
    BatchHeader {
        base_offset: 0x0102_0304_0506_0708,
        batch_length: 0x0b0c,
        leader_epoch: 0x0d0e_0f10,
        crc: 0x8112_1314,
        attributes: Attributes(0x152b),
        last_offset_delta: 0x1718_191a,
        base_timestamp: Timestamp::from_millis(0x1b1c_1d1e_1f20_2122),
        max_timestamp: Timestamp::from_millis(0x2324_2526_2728_292a),
        producer_id: 0x2b2c_2d2e_2f30_3132,
        producer_epoch: 0x3334,
        base_sequence: 0x3536_3738,
        record_count: 0x393a_3b3c,
    }
}

/// One that [`BatchHeader::check_fields`] accepts: three records in 100 bytes.
fn sound() -> BatchHeader {
    BatchHeader {
        base_offset: 7,
        batch_length: 100 + 49,
        leader_epoch: -1,
        attributes: Attributes::default(),
        last_offset_delta: 2,
        record_count: 3,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        ..header()
    }
}

#[test]
fn fields_lie_where_kafka_has_them() {
    assert_eq!(BatchHeader::parse(&BYTES), Ok(header()));
    assert_eq!(header().encode(), BYTES);
    assert_eq!(header().total_bytes(), 0x0b0c + 12);
    assert_eq!(header().last_offset(), 0x0102_0304_0506_0708 + 0x1718_191a);
    assert_eq!(header().next_offset(), header().last_offset() + 1);
}

#[test]
fn short_wrong_magic_and_impossible_lengths_are_refused() {
    for n in 0..HEADER_BYTES {
        let error = BatchError::Truncated { expected: 61, actual: n };
        assert_eq!(BatchHeader::parse(&BYTES[..n]), Err(error), "{n} bytes");
    }
    for magic in [0, 1, 3, -1_i8] {
        let mut bytes = BYTES;
        bytes[16] = magic.cast_unsigned();
        assert_eq!(BatchHeader::parse(&bytes), Err(BatchError::WrongMagic { actual: magic }));
    }
    let most = (BATCH_BYTES_MAX - 12).cast_signed();
    for (length, is_sound) in [
        (i32::MIN, false),
        (-1, false),
        (0, false),
        (48, false),
        (49, true),
        (most, true),
        (most + 1, false),
        (i32::MAX, false),
    ] {
        let mut bytes = BYTES;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        match BatchHeader::parse(&bytes) {
            Ok(header) => assert!(is_sound && header.batch_length == length, "{length}"),
            Err(error) => {
                assert!(!is_sound, "{length}");
                assert_eq!(error, BatchError::Length { actual: length });
            }
        }
    }
}

#[test]
fn fields_that_cannot_be() {
    let too_small = |field, value, min| BatchError::FieldTooSmall { field, value, min };
    let cases: [(Change, BatchError); 13] = [
        (|h| h.base_offset = -1, too_small("base offset", -1, 0)),
        (|h| h.last_offset_delta = -1, too_small("last offset delta", -1, 0)),
        (|h| h.leader_epoch = -2, too_small("leader epoch", -2, -1)),
        (|h| h.producer_id = -2, too_small("producer id", -2, -1)),
        (|h| h.record_count = 0, too_small("record count", 0, 1)),
        (|h| h.record_count = i32::MIN, too_small("record count", i32::MIN.into(), 1)),
        (
            |h| h.base_offset = i64::MAX - 2,
            BatchError::OffsetOverflow { base_offset: i64::MAX - 2, last_offset_delta: 2 },
        ),
        (|h| h.record_count = 2, BatchError::RecordCount { record_count: 2, last_offset_delta: 2 }),
        (|h| h.record_count = 4, BatchError::RecordCount { record_count: 4, last_offset_delta: 2 }),
        (
            |h| (h.record_count, h.last_offset_delta) = (15, 14),
            BatchError::TooManyRecords { record_count: 15, body_bytes: 100 },
        ),
        (
            |h| {
                h.attributes = Attributes(4);
                (h.record_count, h.last_offset_delta) = (i32::MAX, i32::MAX - 1);
            },
            BatchError::TooManyRecords {
                record_count: i32::MAX,
                body_bytes: BATCH_DECOMPRESSED_BYTES_MAX,
            },
        ),
        (|h| h.attributes = Attributes(7), BatchError::UnknownCodec(UnknownCodec("7".to_owned()))),
        (
            |h| h.producer_id = 9,
            BatchError::ProducerStamp { producer_id: 9, producer_epoch: -1, base_sequence: -1 },
        ),
    ];
    assert_eq!(sound().check_fields(true), Ok(()));
    for (spoil, error) in cases {
        let mut header = sound();
        spoil(&mut header);
        assert_eq!(header.check_fields(true), Err(error), "{header:?}");
    }
}

#[test]
fn fields_that_can_be() {
    let cases: [(&str, bool, Change); 6] = [
        ("the last offset there is", true, |h| h.base_offset = i64::MAX - 3),
        ("as many records as fit", true, |h| (h.record_count, h.last_offset_delta) = (14, 13)),
        ("a gap, as compaction leaves", false, |h| h.record_count = 1),
        ("no record left", false, |h| h.record_count = 0),
        ("unused attribute bits", true, |h| h.attributes = Attributes(!0b11_1111)),
        ("a marker: an id and no sequence", true, |h| {
            h.producer_id = 9;
            h.attributes = Attributes::default().with_control(true);
        }),
    ];
    for (name, dense, change) in cases {
        let mut header = sound();
        change(&mut header);
        assert_eq!(header.check_fields(dense), Ok(()), "{name}");
    }
}

#[test]
fn attributes_keep_their_bits_apart() {
    let all = Attributes(-1);
    assert!(all.compression().is_err());
    for codec in Codec::ALL {
        for base in [Attributes::default(), all] {
            let attributes = base.with_compression(codec);
            assert_eq!(attributes.compression(), Ok(codec));
            assert_eq!(attributes.bits() & !0b111, base.bits() & !0b111);
        }
    }
    let none = Attributes::default();
    assert_eq!(none.with_timestamp_type(TimestampType::LogAppendTime).bits(), 0b00_1000);
    assert_eq!(none.with_transactional(true).bits(), 0b01_0000);
    assert_eq!(none.with_control(true).bits(), 0b10_0000);
    assert_eq!(all.with_timestamp_type(TimestampType::CreateTime).bits(), !0b00_1000);
    assert_eq!(all.with_transactional(false).bits(), !0b01_0000);
    assert_eq!(all.with_control(false).bits(), !0b10_0000);
    assert!(all.is_control() && all.is_transactional());
    assert_eq!(all.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(none.timestamp_type(), TimestampType::CreateTime);
}

#[test]
fn producer_and_sequences() {
    let stamp =
        |base_sequence| ProducerStamp { id: ProducerId::new(5).unwrap(), epoch: 1, base_sequence };
    let mut header = BatchHeader { producer_id: 5, producer_epoch: 1, base_sequence: 0, ..sound() };
    assert_eq!(header.producer(), Some(stamp(0)));
    assert_eq!(header.last_sequence(), Some(2));
    for (base_sequence, last) in
        [(i32::MAX - 2, i32::MAX), (i32::MAX - 1, 0), (i32::MAX, 1), (0, 2)]
    {
        header.base_sequence = base_sequence;
        assert_eq!(header.last_sequence(), Some(last), "{base_sequence}");
    }
    assert_eq!(ProducerStamp::sequence_after(i32::MAX, i32::MAX), i32::MAX - 1);
    for none in [
        BatchHeader { producer_id: -1, ..header },
        BatchHeader { producer_epoch: -1, ..header },
        BatchHeader { base_sequence: -1, ..header },
    ] {
        assert_eq!((none.producer(), none.last_sequence()), (None, None));
    }
}

proptest! {
    /// Whatever parses encodes to the same bytes, and no number in it can make the rest panic.
    #[test]
    fn any_bytes(mut bytes: [[u8; 31]; 2], sane_length: bool) {
        let bytes = bytes.as_flattened_mut();
        bytes[16] = 2;
        if sane_length {
            bytes[8..10].fill(0);
        }
        if let Ok(header) = BatchHeader::parse(bytes) {
            prop_assert_eq!(&header.encode()[..], &bytes[..HEADER_BYTES]);
            let _ = (header.last_offset(), header.next_offset(), header.total_bytes());
            let _ = (header.producer(), header.last_sequence());
            for dense in [false, true] {
                if header.check_fields(dense).is_ok() {
                    prop_assert!(header.base_offset >= 0 && header.next_offset() > header.base_offset);
                }
            }
        }
    }
}
