//! A fetched batch, and its records one by one.
//!
//! Batches wait as they came, compressed; one at a time is decompressed, when the reader gets to
//! it. So what is prefetched never takes more memory than it took on the wire.

use std::sync::Arc;

use bytes::Bytes;
use riverrun_proto::{
    limits::BATCH_DECOMPRESSED_BYTES_MAX,
    reason::Reason,
    record::{
        BatchHeader, Decompressor, RecordBatch, RecordCursor, RecordError, RecordFault, RecordView,
        Records,
    },
};

use crate::{
    error::Error,
    record::{ConsumerRecord, Header},
    topic::TopicPartition,
};

/// The records of one batch, decompressed.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    records: Records,
    cursor: RecordCursor,
    leader_epoch: i32,
    next_offset: i64,
    /// Markers of the cluster, not for readers.
    is_control: bool,
}

// === impl OpenBatch ===

impl OpenBatch {
    /// Checks length, CRC and header, and decompresses.
    ///
    /// # Errors
    /// `CORRUPT_RECORD`, with the offset after the batch: its header's if that is believable,
    /// `next_offset` otherwise.
    pub(crate) fn open(
        bytes: Bytes,
        decompressor: &mut Decompressor,
        partition: &TopicPartition,
        position: i64,
        next_offset: i64,
    ) -> Result<Self, Error> {
        let corrupt = |bytes: &[u8], why: &dyn std::fmt::Display| {
            let after = BatchHeader::parse(bytes).map_or(next_offset, |header| {
                let after = header.next_offset();
                if (position + 1..next_offset).contains(&after) { after } else { next_offset }
            });
            corrupt(partition, position, after, why)
        };
        let batch = RecordBatch::parse_stored(bytes.clone()).map_err(|e| corrupt(&bytes, &e))?;
        let records = batch
            .records_with(decompressor, BATCH_DECOMPRESSED_BYTES_MAX)
            .map_err(|e| corrupt(&bytes, &e))?;
        let header = batch.header();
        Ok(Self {
            leader_epoch: header.leader_epoch,
            next_offset: header.next_offset(),
            is_control: header.attributes.is_control(),
            records,
            cursor: RecordCursor::default(),
        })
    }

    /// The next record from `position` on.
    ///
    /// # Errors
    /// `CORRUPT_RECORD`, with the offset after the batch: the rest of it cannot be read.
    pub(crate) fn next(
        &mut self,
        partition: &TopicPartition,
        position: i64,
    ) -> Option<Result<ConsumerRecord, Error>> {
        if self.is_control {
            return None;
        }
        loop {
            let view = match self.records.next_at(&mut self.cursor)? {
                Ok(view) if view.offset.get() < position => continue,
                Ok(view) => view,
                Err(error) => return Some(Err(self.damaged(partition, position, &error))),
            };
            return Some(match self.record(partition, &view) {
                Ok(record) => Ok(record),
                Err(fault) => {
                    let next = view.offset.get() + 1;
                    Err(corrupt(partition, view.offset.get(), next, &fault))
                }
            });
        }
    }

    fn damaged(&self, partition: &TopicPartition, position: i64, error: &RecordError) -> Error {
        corrupt(partition, position, self.next_offset, error)
    }

    fn record(
        &self,
        partition: &TopicPartition,
        view: &RecordView<'_>,
    ) -> Result<ConsumerRecord, RecordFault> {
        let slice = |part: &[u8]| self.records.slice_ref(part);
        let mut headers = Vec::new();
        let views = view.headers();
        headers.reserve_exact(views.len());
        for header in views {
            let (name, value) = header?;
            headers.push(Header::from_views(slice(name.as_bytes()), value.map(slice)));
        }
        Ok(ConsumerRecord {
            topic: Arc::clone(&partition.topic),
            partition: partition.partition,
            offset: view.offset.get(),
            timestamp_ms: view.timestamp.as_millis(),
            leader_epoch: self.leader_epoch,
            key: view.key.map(slice),
            value: view.value.map(slice),
            headers,
        })
    }

    /// The first offset after the batch.
    pub(crate) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    pub(crate) fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }
}

/// Last offset and leader epoch by the header, unchecked; `None` if there is no header.
pub(crate) fn peek(batch: &[u8]) -> Option<(i64, i32)> {
    let header = BatchHeader::parse(batch).ok()?;
    Some((header.last_offset(), header.leader_epoch))
}

fn corrupt(
    partition: &TopicPartition,
    offset: i64,
    next_offset: i64,
    why: &dyn std::fmt::Display,
) -> Error {
    Error::from_reason(
        Reason::CorruptRecord,
        format!(
            "{partition} at offset {offset}: {why}; it is tried again, or seek to {next_offset} \
             to go on past it"
        ),
    )
    .with_next_offset(Some(next_offset))
}

#[cfg(test)]
mod tests {
    use riverrun_proto::{
        epoch::LeaderEpoch,
        offset::Offset,
        record::{BatchBuilder, BatchOptions, Codec},
        timestamp::Timestamp,
    };

    use super::*;
    use crate::ErrorKind;

    fn batch(base: i64, codec: Codec) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions { codec, ..BatchOptions::default() });
        for n in 0..5_u8 {
            let value = [n; 40];
            let headers = [("h", Some(&b"v"[..])), ("null", None)];
            let timestamp = Timestamp::from_millis(i64::from(n));
            builder.append(timestamp, Some(&[n]), Some(&value), headers).unwrap();
        }
        let batch = RecordBatch::validate(builder.finish()).unwrap();
        let epoch = LeaderEpoch::new(4).unwrap();
        batch.stamp(Offset::new(base).unwrap(), epoch, None).to_bytes()
    }

    fn open(bytes: Bytes, position: i64, next: i64) -> Result<OpenBatch, Error> {
        let mut decompressor = Decompressor::new();
        OpenBatch::open(bytes, &mut decompressor, &("t", 3).into(), position, next)
    }

    #[test]
    fn records_before_the_position_are_skipped() {
        for codec in Codec::ALL {
            let mut open = open(batch(10, codec), 12, 15).unwrap();
            let partition: TopicPartition = ("t", 3).into();
            let mut offsets = Vec::new();
            while let Some(record) = open.next(&partition, 12) {
                let record = record.unwrap();
                assert_eq!((record.topic(), record.partition()), ("t", 3));
                assert_eq!(record.leader_epoch(), 4);
                assert_eq!(record.key().unwrap()[0], record.value().unwrap()[39]);
                assert_eq!(record.header("h"), Some(&b"v"[..]));
                assert_eq!((record.header("null"), record.headers().len()), (None, 2));
                offsets.push((record.offset(), record.timestamp_ms()));
            }
            assert_eq!(offsets, [(12, 2), (13, 3), (14, 4)]);
            assert_eq!((open.next_offset(), open.leader_epoch()), (15, 4));
        }
    }

    #[test]
    fn any_flipped_bit_under_the_crc_is_corruption_with_a_way_on() {
        let good = batch(10, Codec::None);
        for byte in 17..good.len() {
            let mut bytes = good.to_vec();
            bytes[byte] ^= 4;
            let error = open(bytes.into(), 10, 20).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CorruptRecord);
            let next = error.next_offset().unwrap();
            assert!((11..=20).contains(&next), "byte {byte}: {next}");
        }
        let error = open(Bytes::from_static(b"short"), 10, 20).unwrap_err();
        assert_eq!(error.next_offset(), Some(20));
    }
}
