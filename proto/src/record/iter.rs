//! Reading the records of a batch: slices of its decompressed bytes, nothing allocated per record.
//!
//! An item is a record or an error. The end is the end only after as many records as the header
//! counts and no byte more; anything else is an error item before it. After an error there is
//! nothing more: where one record is broken, the next one's place is a guess.

use bytes::Bytes;

use super::{
    BatchHeader, RecordError, RecordFault, RecordView, TimestampType,
    entry::{self, Entry},
};
use crate::{offset::Offset, timestamp::Timestamp};

/// The decompressed records of one batch.
#[derive(Debug, Clone)]
pub struct Records {
    header: BatchHeader,
    bytes: Bytes,
}

/// A place between two records of a batch, for those who cannot hold an iterator: it borrows
/// nothing. Starts before the first record; means nothing to another batch's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordCursor {
    position: usize,
    /// Records before this place.
    index: u32,
    /// The least offset delta that the next record may have.
    offset_delta_min: i64,
    done: bool,
}

/// Iterates over the records of a batch.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    records: &'a Records,
    cursor: RecordCursor,
}

// === impl Records ===

impl Records {
    /// `header` was checked, so that its offsets are on the number line.
    pub(super) const fn new(header: BatchHeader, bytes: Bytes) -> Self {
        Self { header, bytes }
    }

    /// All records, in order of their offsets.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter { records: self, cursor: RecordCursor::default() }
    }

    /// The record at `cursor`, which moves past it; `None` at the end.
    #[inline]
    pub fn next_at(
        &self,
        cursor: &mut RecordCursor,
    ) -> Option<Result<RecordView<'_>, RecordError>> {
        if cursor.done {
            return None;
        }
        let mut rest = self.bytes.get(cursor.position..).unwrap_or_default();
        if cursor.index == self.header.record_count.cast_unsigned() {
            cursor.done = true;
            return match rest.len() {
                0 => None,
                bytes => Some(Err(self.error(
                    cursor,
                    RecordFault::BytesAfterRecords {
                        bytes,
                        record_count: self.header.record_count,
                    },
                ))),
            };
        }
        match self.read(&mut rest, cursor.offset_delta_min) {
            Ok((delta, view)) => {
                cursor.position = self.bytes.len() - rest.len();
                cursor.index += 1;
                cursor.offset_delta_min = i64::from(delta) + 1;
                Some(Ok(view))
            }
            Err(fault) => {
                cursor.done = true;
                Some(Err(self.error(cursor, fault)))
            }
        }
    }

    /// The decompressed records, one after the other. Keys and values of the views are slices of
    /// these.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// A key, value or header value of one of these records, as bytes that live on by themselves:
    /// no copy, but they keep all of [`Records::bytes`] in memory.
    ///
    /// # Panics
    /// If `part` is not a slice of these records.
    pub fn slice_ref(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }

    /// The batch's header.
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    #[inline]
    fn read<'a>(
        &self,
        rest: &mut &'a [u8],
        delta_min: i64,
    ) -> Result<(i32, RecordView<'a>), RecordFault> {
        if rest.is_empty() {
            return Err(RecordFault::Missing { record_count: self.header.record_count });
        }
        let Entry { timestamp_delta, offset_delta, key, value, headers } =
            entry::read_record(rest)?;
        let delta_max = self.header.last_offset_delta;
        let offset = Offset::new(self.header.base_offset.saturating_add(offset_delta.into()))
            .filter(|_| i64::from(offset_delta) >= delta_min && offset_delta <= delta_max)
            .ok_or(RecordFault::OffsetDelta {
                actual: offset_delta,
                min: delta_min,
                max: delta_max,
            })?;
        let timestamp = match self.header.attributes.timestamp_type() {
            // Deltas were made by wrapping subtraction, so that any two times can share a batch.
            TimestampType::CreateTime => Timestamp::from_millis(
                self.header.base_timestamp.as_millis().wrapping_add(timestamp_delta),
            ),
            TimestampType::LogAppendTime => self.header.max_timestamp,
        };
        Ok((offset_delta, RecordView { offset, timestamp, key, value, headers }))
    }

    #[cold]
    fn error(&self, cursor: &RecordCursor, fault: RecordFault) -> RecordError {
        RecordError {
            base_offset: Offset::new(self.header.base_offset).unwrap_or(Offset::ZERO),
            index: cursor.index,
            position: cursor.position,
            fault,
        }
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = Result<RecordView<'a>, RecordError>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> RecordIter<'a> {
        self.iter()
    }
}

// === impl RecordIter ===

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.records.next_at(&mut self.cursor)
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}

#[cfg(test)]
#[path = "iter_test.rs"]
mod tests;
