//! One record's bytes: written as Kafka writes them, and what is refused.

use super::*;

fn written(delta: i64, offset: u32, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let headers = [("n", Some(&b"v"[..])), ("", None), ("é", Some(&b""[..]))];
    let size = EntrySize::of(delta, offset, key, value, headers);
    let mut out = vec![];
    write_record(&mut out, size, delta, offset, key, value, headers);
    assert_eq!(out.len(), size.total());
    assert_eq!(out.len(), encoded_record_bytes(delta, offset, key, value, headers));
    assert!(out.len() <= encoded_record_bytes_max(key, value, headers));
    out
}

#[test]
fn bytes_are_kafkas() {
    let bytes = written(-1, 1, Some(b"k"), None);
    let due: &[u8] = &[
        0x22, // 17 bytes follow
        0x00, // attributes
        0x01, // timestamp delta −1
        0x02, // offset delta 1
        0x02, b'k', // key
        0x01, // null value
        0x06, // three headers
        0x02, b'n', 0x02, b'v', //
        0x00, 0x01, //
        0x04, 0xc3, 0xa9, 0x00,
    ];
    assert_eq!(bytes, due);
    let mut rest = &bytes[..];
    let entry = read_record(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!((entry.timestamp_delta, entry.offset_delta), (-1, 1));
    assert_eq!((entry.key, entry.value), (Some(&b"k"[..]), None));
    assert_eq!(entry.headers.len(), 3);
    let headers: Vec<_> = entry.headers.collect::<Result<_, _>>().unwrap();
    assert_eq!(headers, [("n", Some(&b"v"[..])), ("", None), ("é", Some(&b""[..]))]);
}

#[test]
fn sizes_are_exact_at_the_edges() {
    for delta in [0, -1, 63, 64, i64::MAX, i64::MIN] {
        for offset in [0, 63, 64, i32::MAX.cast_unsigned()] {
            for value in [0, 1, 63, 64, 8_191, 8_192] {
                let value = vec![7; value];
                let bytes = written(delta, offset, Some(b""), Some(&value));
                let entry = read_record(&mut &bytes[..]).unwrap();
                assert_eq!(entry.timestamp_delta, delta);
                assert_eq!(entry.offset_delta.cast_unsigned(), offset);
                assert_eq!((entry.key, entry.value), (Some(&b""[..]), Some(&value[..])));
            }
        }
    }
    let most = encoded_record_bytes_max(None, None, []);
    assert_eq!(most, encoded_record_bytes(i64::MIN, i32::MAX.cast_unsigned(), None, None, []));
    let first = EntrySize::of(i64::MIN, 1 << 30, Some(b"k"), None, []).as_first(i64::MIN, 1 << 30);
    assert_eq!(first, EntrySize::of(0, 0, Some(b"k"), None, []));
}

#[test]
fn broken_records() {
    use RecordFault::{BytesAfterFields, HeaderCount, Length, Number};
    use varint::VarintError::{TooLong, Truncated};
    let cases: [(&[u8], RecordFault); 17] = [
        (&[0x80], Number { field: "record length", error: Truncated }),
        (&[0xff; 6], Number { field: "record length", error: TooLong }),
        (&[0x01], Length { field: "record", length: -1, available: 0 }),
        (&[0x06, 0, 0], Length { field: "record", length: 3, available: 2 }),
        (&[0x00], Number { field: "attributes", error: Truncated }),
        (&[0x02, 0], Number { field: "timestamp delta", error: Truncated }),
        (&[0x04, 0, 0], Number { field: "offset delta", error: Truncated }),
        (&[0x06, 0, 0, 0], Number { field: "key", error: Truncated }),
        (&[0x08, 0, 0, 0, 0x03], Length { field: "key", length: -2, available: 0 }),
        (&[0x08, 0, 0, 0, 0x02], Length { field: "key", length: 1, available: 0 }),
        (&[0x0a, 0, 0, 0, 1, 0x02], Length { field: "value", length: 1, available: 0 }),
        (&[0x0c, 0, 0, 0, 1, 1, 0x01], HeaderCount { count: -1, available: 0 }),
        (&[0x0e, 0, 0, 0, 1, 1, 0x02, 0], HeaderCount { count: 1, available: 1 }),
        (&[0x0e, 0, 0, 0, 1, 1, 0x00, 9], BytesAfterFields { bytes: 1 }),
        (
            &[0x10, 0, 0, 0, 1, 1, 0x02, 0x01, 0x01],
            Length { field: "header name", length: -1, available: 1 },
        ),
        (
            &[0x10, 0, 0, 0, 1, 1, 0x02, 0x00, 0x02],
            Length { field: "header value", length: 1, available: 0 },
        ),
        (&[0x12, 0, 0, 0, 1, 1, 0x02, 0, 1, 9], BytesAfterFields { bytes: 1 }),
    ];
    for (bytes, fault) in cases {
        assert_eq!(read_record(&mut &*bytes).unwrap_err(), fault, "{bytes:02x?}");
    }
}

#[test]
fn a_length_never_reaches_into_the_next_record() {
    // The value claims the two bytes that belong to the record behind.
    let bytes = [0x0c, 0, 0, 0, 1, 0x04, 0x00, b'x', b'y'];
    let fault = RecordFault::Length { field: "value", length: 2, available: 1 };
    assert_eq!(read_record(&mut &bytes[..]).unwrap_err(), fault);
}

#[test]
fn a_header_name_that_is_not_text_spoils_that_header_only() {
    let bytes = [0x16, 0, 0, 0, 1, 1, 0x04, 0x02, 0xff, 0x01, 0x00, 0x01];
    let entry = read_record(&mut &bytes[..]).unwrap();
    let headers: Vec<_> = entry.headers.collect();
    assert_eq!(headers, [Err(RecordFault::HeaderName { index: 0 }), Ok(("", None))]);
}
