//! One record: its size, its bytes, and the view of it that a reader gets.
//!
//! ```text
//! length │ attributes (0) │ timestamp delta │ offset delta │ key length, key │ value length, value │
//! header count │ { name length, name, value length, value }*
//! ```
//!
//! Lengths, deltas and the count are zig-zag varints; the timestamp delta has 64 bits, the others
//! 32. A key, a value and a header's value may be null (length −1), which differs from empty.
//! Readers ignore the attributes byte, as Kafka's do.

use super::{RecordFault, varint};
use crate::{offset::Offset, timestamp::Timestamp};

/// The attributes byte and the varints before the key: at most 1 + 5 + 10 + 5 + 5 bytes.
const HEAD_BYTES_MAX: usize = 26;
/// Each header takes at least an empty name's length and a null value's.
const HEADER_BYTES_MIN: usize = 2;

/// Exact bytes that a record takes in a batch, its length included. `timestamp_delta` is relative
/// to the first record of the batch, `offset_delta` is the number of records before it.
pub fn encoded_record_bytes<'h>(
    timestamp_delta: i64,
    offset_delta: u32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
) -> usize {
    let size = EntrySize::of(timestamp_delta, offset_delta, key, value, headers);
    size.total()
}

/// The most bytes that a record can take, wherever in whichever batch it ends up: what to reserve
/// for it before that is known.
pub fn encoded_record_bytes_max<'h>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
) -> usize {
    encoded_record_bytes(i64::MIN, i32::MAX.cast_unsigned(), key, value, headers)
}

/// A record of a batch: slices of the batch's decompressed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its offset: the batch's base offset + its delta.
    pub offset: Offset,
    /// The producer's time, or the batch's with log append time.
    pub timestamp: Timestamp,
    /// What places it in a partition; null: anywhere.
    pub key: Option<&'a [u8]>,
    /// What it says; null with a key: the key is deleted.
    pub value: Option<&'a [u8]>,
    pub(super) headers: RecordHeaders<'a>,
}

// === impl RecordView ===

impl<'a> RecordView<'a> {
    /// Its headers in the order they were written; names may repeat. An item is an error if the
    /// name is not UTF-8; the headers after it can still be read.
    pub fn headers(&self) -> RecordHeaders<'a> {
        self.headers
    }
}

/// Iterates over the headers of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeaders<'a> {
    rest: &'a [u8],
    next: u32,
    count: u32,
}

// === impl RecordHeaders ===

impl<'a> RecordHeaders<'a> {
    fn take_one(&mut self) -> Result<(&'a [u8], Option<&'a [u8]>), RecordFault> {
        let name = read_slice(&mut self.rest, "header name")?.ok_or(RecordFault::Length {
            field: "header name",
            length: -1,
            available: self.rest.len(),
        })?;
        Ok((name, read_slice(&mut self.rest, "header value")?))
    }
}

impl<'a> Iterator for RecordHeaders<'a> {
    type Item = Result<(&'a str, Option<&'a [u8]>), RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.count {
            return None;
        }
        let index = self.next;
        self.next += 1;
        Some(self.take_one().and_then(|(name, value)| match str::from_utf8(name) {
            Ok(name) => Ok((name, value)),
            Err(_) => Err(RecordFault::HeaderName { index }),
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.count - self.next) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for RecordHeaders<'_> {}

/// Size of a record about to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntrySize {
    /// Bytes after the length.
    body: usize,
    header_count: usize,
}

// === impl EntrySize ===

impl EntrySize {
    #[inline]
    pub(super) fn of<'h>(
        timestamp_delta: i64,
        offset_delta: u32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> Self {
        let mut body = 1
            + varint::encoded_bytes(timestamp_delta)
            + varint::encoded_bytes(offset_delta.into())
            + slice_bytes(key)
            + slice_bytes(value);
        let mut header_count = 0;
        for (name, value) in headers {
            body += slice_bytes(Some(name.as_bytes())) + slice_bytes(value);
            header_count += 1;
        }
        body += varint::encoded_bytes(as_number(header_count));
        Self { body, header_count }
    }

    /// The size of the same record as the first of a batch, where both deltas are 0.
    pub(super) fn as_first(self, timestamp_delta: i64, offset_delta: u32) -> Self {
        let deltas =
            varint::encoded_bytes(timestamp_delta) + varint::encoded_bytes(offset_delta.into());
        Self { body: self.body - deltas + 2, ..self }
    }

    /// Bytes with the length.
    #[inline]
    pub(super) fn total(self) -> usize {
        varint::encoded_bytes(as_number(self.body)) + self.body
    }
}

/// Appends a record of `size`, which has to be its own.
#[inline]
pub(super) fn write_record<'h>(
    out: &mut Vec<u8>,
    size: EntrySize,
    timestamp_delta: i64,
    offset_delta: u32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
) {
    // Small fields are gathered so that each record costs few copies into `out`.
    let mut head = [0; HEAD_BYTES_MAX + varint::I64_BYTES_MAX];
    let mut n = varint::write(&mut head, as_number(size.body));
    // The attributes byte stays 0.
    n += 1;
    n += varint::write(&mut head[n..], timestamp_delta);
    n += varint::write(&mut head[n..], offset_delta.into());
    n += varint::write(&mut head[n..], length_of(key));
    out.extend_from_slice(&head[..n]);
    out.extend_from_slice(key.unwrap_or_default());
    write_slice(out, value);
    write_number(out, as_number(size.header_count));
    for (name, value) in headers {
        write_slice(out, Some(name.as_bytes()));
        write_slice(out, value);
    }
}

/// A record as its bytes have it, before offset and timestamp are counted from the batch's.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: RecordHeaders<'a>,
}

/// Takes one record off the front of `input`. All of its lengths are checked, those of the headers
/// too; the headers' names may still not be text.
#[inline]
pub(super) fn read_record<'a>(input: &mut &'a [u8]) -> Result<Entry<'a>, RecordFault> {
    let length = read_number(input, "record length")?;
    let Some((mut body, rest)) = split(input, length) else {
        return Err(length_fault("record", length, input));
    };
    *input = rest;
    let Some((_attributes, fields)) = body.split_first() else {
        let error = varint::VarintError::Truncated;
        return Err(RecordFault::Number { field: "attributes", error });
    };
    body = fields;
    let timestamp_delta = varint::read_i64(&mut body)
        .map_err(|error| RecordFault::Number { field: "timestamp delta", error })?;
    let offset_delta = read_number(&mut body, "offset delta")?;
    let key = read_slice(&mut body, "key")?;
    let value = read_slice(&mut body, "value")?;
    let headers = read_headers(body)?;
    Ok(Entry { timestamp_delta, offset_delta, key, value, headers })
}

/// Reads the rest of a record, which is its headers.
#[inline]
fn read_headers(mut body: &[u8]) -> Result<RecordHeaders<'_>, RecordFault> {
    let count = read_number(&mut body, "header count")?;
    let available = body.len();
    let fault = RecordFault::HeaderCount { count, available };
    let count = u32::try_from(count).map_err(|_| fault.clone())?;
    if count as usize > available / HEADER_BYTES_MIN {
        return Err(fault);
    }
    let headers = RecordHeaders { rest: body, next: 0, count };
    let mut walk = headers;
    for _ in 0..count {
        walk.take_one()?;
    }
    match walk.rest.len() {
        0 => Ok(headers),
        bytes => Err(RecordFault::BytesAfterFields { bytes }),
    }
}

#[inline]
fn read_number(input: &mut &[u8], field: &'static str) -> Result<i32, RecordFault> {
    varint::read_i32(input).map_err(|error| RecordFault::Number { field, error })
}

/// Takes a length and that many bytes; null if the length is −1.
#[inline]
fn read_slice<'a>(
    input: &mut &'a [u8],
    field: &'static str,
) -> Result<Option<&'a [u8]>, RecordFault> {
    let length = read_number(input, field)?;
    match split(input, length) {
        Some((slice, rest)) => {
            *input = rest;
            Ok(Some(slice))
        }
        None if length == -1 => Ok(None),
        None => Err(length_fault(field, length, input)),
    }
}

#[inline]
fn split(input: &[u8], length: i32) -> Option<(&[u8], &[u8])> {
    input.split_at_checked(usize::try_from(length).ok()?)
}

#[cold]
fn length_fault(field: &'static str, length: i32, input: &[u8]) -> RecordFault {
    RecordFault::Length { field, length, available: input.len() }
}

fn slice_bytes(slice: Option<&[u8]>) -> usize {
    varint::encoded_bytes(length_of(slice)) + slice.map_or(0, <[u8]>::len)
}

#[inline]
fn write_slice(out: &mut Vec<u8>, slice: Option<&[u8]>) {
    write_number(out, length_of(slice));
    out.extend_from_slice(slice.unwrap_or_default());
}

#[inline]
fn write_number(out: &mut Vec<u8>, number: i64) {
    let mut bytes = [0; varint::I64_BYTES_MAX];
    let n = varint::write(&mut bytes, number);
    out.extend_from_slice(&bytes[..n]);
}

/// −1 for null.
fn length_of(slice: Option<&[u8]>) -> i64 {
    slice.map_or(-1, |slice| as_number(slice.len()))
}

/// What lies in memory is shorter than `i64::MAX` bytes.
fn as_number(length: usize) -> i64 {
    (length as u64).cast_signed()
}

#[cfg(test)]
#[path = "entry_test.rs"]
mod tests;
