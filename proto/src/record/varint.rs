//! Zig-zag varints, as Kafka's `ByteUtils` and protobuf's `sint32` and `sint64` write them.
//!
//! A signed number is folded so that small magnitudes are small (0, −1, 1, −2 … become 0, 1, 2, 3
//! …), then written seven bits a byte, lowest first, the top bit set on all but the last byte.
//!
//! Reading is bounded: 32 bits take at most five bytes, 64 bits at most ten, and bits that do not
//! fit are an error, never cut off. Padding within that bound (`80 00` for 0) is accepted: Kafka
//! accepts it, and encoders that leave room for a length and fill it in later write it.

use thiserror::Error;

/// Most bytes of a 64 bit number.
pub(super) const I64_BYTES_MAX: usize = 10;
const I32_BYTES_MAX: usize = 5;

/// Why bytes are not a varint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VarintError {
    /// The bytes end before the number does.
    #[error("the bytes end within a number")]
    Truncated,
    /// More bits than the field has.
    #[error("a number has more bits than its field")]
    TooLong,
}

/// Takes a 32 bit number off the front of `input`; on an error `input` stays as it was.
#[inline]
pub(super) fn read_i32(input: &mut &[u8]) -> Result<i32, VarintError> {
    let folded = match **input {
        [a, ..] if a < 0x80 => {
            *input = &input[1..];
            u32::from(a)
        }
        [a, b, ..] if b < 0x80 => {
            *input = &input[2..];
            u32::from(a & 0x7f) | u32::from(b) << 7
        }
        #[expect(clippy::cast_possible_truncation, reason = "the last byte allowed four bits")]
        _ => read_folded(input, I32_BYTES_MAX, 0x0f)? as u32,
    };
    Ok((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed())
}

/// Takes a 64 bit number off the front of `input`; on an error `input` stays as it was.
#[inline]
pub(super) fn read_i64(input: &mut &[u8]) -> Result<i64, VarintError> {
    let folded = match **input {
        [a, ..] if a < 0x80 => {
            *input = &input[1..];
            u64::from(a)
        }
        [a, b, ..] if b < 0x80 => {
            *input = &input[2..];
            u64::from(a & 0x7f) | u64::from(b) << 7
        }
        _ => read_folded(input, I64_BYTES_MAX, 0x01)?,
    };
    Ok((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed())
}

/// Writes `value` to the front of `out`, which has room for [`I64_BYTES_MAX`] bytes, and returns
/// how many it took. A 32 bit number has the same bytes as the same number in 64 bits.
#[inline]
pub(super) fn write(out: &mut [u8], value: i64) -> usize {
    let mut folded = fold(value);
    let mut at = 0;
    while folded >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the low seven bits")]
        let low = folded as u8 | 0x80;
        out[at] = low;
        folded >>= 7;
        at += 1;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
    let last = folded as u8;
    out[at] = last;
    at + 1
}

/// Bytes that [`write()`] takes for `value`.
#[inline]
pub(super) fn encoded_bytes(value: i64) -> usize {
    let bits = u64::BITS - (fold(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

fn fold(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// `last_byte_max` is what the last of `bytes_max` bytes may hold: the bits that are left, and no
/// continuation.
fn read_folded(input: &mut &[u8], bytes_max: usize, last_byte_max: u8) -> Result<u64, VarintError> {
    let mut folded = 0;
    for (i, &byte) in input.iter().take(bytes_max).enumerate() {
        if i + 1 == bytes_max && byte > last_byte_max {
            return Err(VarintError::TooLong);
        }
        folded |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *input = &input[i + 1..];
            return Ok(folded);
        }
    }
    Err(VarintError::Truncated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut out = [0; I64_BYTES_MAX];
        let n = write(&mut out, value);
        out[..n].to_vec()
    }

    /// From the table of protobuf's encoding guide and Kafka's `ByteUtilsTest`.
    #[test]
    fn known_encodings() {
        let cases: [(i64, &[u8]); 18] = [
            (0, &[0x00]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (-65, &[0x81, 0x01]),
            (8191, &[0xfe, 0x7f]),
            (-8192, &[0xff, 0x7f]),
            (8192, &[0x80, 0x80, 0x01]),
            (-8193, &[0x81, 0x80, 0x01]),
            (1_048_575, &[0xfe, 0xff, 0x7f]),
            (1_048_576, &[0x80, 0x80, 0x80, 0x01]),
            (i32::MAX.into(), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN.into(), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            (1 << 34, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x01]),
            (i64::MAX, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ];
        for (value, bytes) in cases {
            assert_eq!(encoded(value), bytes, "{value}");
            assert_eq!(read_i64(&mut &bytes[..]), Ok(value), "{value}");
            if let Ok(short) = i32::try_from(value) {
                assert_eq!(read_i32(&mut &bytes[..]), Ok(short), "{value}");
            } else {
                assert_eq!(read_i32(&mut &bytes[..]), Err(VarintError::TooLong), "{value}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_an_error_and_takes_nothing() {
        use VarintError::{TooLong, Truncated};
        type Case = (&'static [u8], Result<i32, VarintError>, Result<i64, VarintError>);
        let cases: [Case; 9] = [
            (&[], Err(Truncated), Err(Truncated)),
            (&[0x80], Err(Truncated), Err(Truncated)),
            (&[0x80; 4], Err(Truncated), Err(Truncated)),
            (&[0x80; 9], Err(TooLong), Err(Truncated)),
            (&[0x80; 11], Err(TooLong), Err(TooLong)),
            // 33 bits, 65 bits.
            (&[0xff, 0xff, 0xff, 0xff, 0x10], Err(TooLong), Ok(-((0x1_0fff_ffff_i64 + 1) / 2))),
            (
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
                Err(TooLong),
                Err(TooLong),
            ),
            // Padded zeros: within the bound, and past it.
            (&[0x80, 0x80, 0x80, 0x80, 0x00], Ok(0), Ok(0)),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], Err(TooLong), Ok(0)),
        ];
        for (bytes, short, long) in cases {
            for (name, is, due) in [
                ("i32", take(bytes, |i| read_i32(i).map(i64::from)), short.map(i64::from)),
                ("i64", take(bytes, read_i64), long),
            ] {
                assert_eq!(is.0, due, "{name} {bytes:02x?}");
                let left = if due.is_ok() { 0 } else { bytes.len() };
                assert_eq!(is.1, left, "{name} {bytes:02x?}");
            }
        }
    }

    fn take(
        mut bytes: &[u8],
        read: impl Fn(&mut &[u8]) -> Result<i64, VarintError>,
    ) -> (Result<i64, VarintError>, usize) {
        let result = read(&mut bytes);
        (result, bytes.len())
    }

    proptest! {
        #[test]
        fn round_trip(value: i64, shift in 0_u32..64, tail: [u8; 3]) {
            let value = value >> shift;
            let mut bytes = encoded(value);
            prop_assert_eq!(bytes.len(), encoded_bytes(value));
            bytes.extend_from_slice(&tail);
            let mut rest = &bytes[..];
            prop_assert_eq!(read_i64(&mut rest), Ok(value));
            prop_assert_eq!(rest, &tail);
            let mut rest = &bytes[..];
            match i32::try_from(value) {
                Ok(short) => {
                    prop_assert_eq!(read_i32(&mut rest), Ok(short));
                    prop_assert_eq!(rest, &tail);
                }
                Err(_) => prop_assert_eq!(read_i32(&mut rest), Err(VarintError::TooLong)),
            }
        }
    }
}
