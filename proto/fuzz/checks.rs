//! What must hold for any bytes at all. Run by the fuzz target and, on noise and on damaged
//! batches, by the tests of riverrun-proto.

use bytes::Bytes;
use riverrun_proto::{
    epoch::LeaderEpoch,
    offset::Offset,
    record::{
        BatchHeader, Codec, ControlRecord, Decompressor, HEADER_BYTES, RecordBatch, RecordCursor,
    },
    timestamp::Timestamp,
};

/// Decompressed bytes allowed: enough for any path of the decoders, little enough to be fast.
const LIMIT: usize = 1 << 20;

/// Bytes as they come off the network.
pub(crate) fn batch(bytes: &[u8]) {
    if let Ok(header) = BatchHeader::parse(bytes) {
        assert_eq!(header.encode()[..], bytes[..HEADER_BYTES], "a header is its bytes");
        let _ = (header.last_offset(), header.next_offset(), header.last_sequence());
    }
    let incoming = RecordBatch::validate(Bytes::copy_from_slice(bytes));
    let stored = RecordBatch::parse_stored(Bytes::copy_from_slice(bytes));
    if let Ok(batch) = &incoming {
        assert_eq!(stored.as_ref(), Ok(batch), "what may enter a log may be in one");
        let offsets = batch.next_offset().distance_from(batch.base_offset());
        assert_eq!(u64::try_from(batch.header().record_count), Ok(offsets), "dense");
    }
    if let Ok(batch) = &stored {
        stamped(batch);
        records(batch);
    }
}

/// Bytes behind a checksum that is made to fit: the records a lying producer can send.
pub(crate) fn body(codec: u8, record_count: u8, records: &[u8]) {
    let codec = Codec::ALL[usize::from(codec) % Codec::ALL.len()];
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(records);
    let length = u32::try_from(bytes.len() - 12).expect("noise is short");
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    bytes[22] = codec.id();
    bytes[26] = record_count.saturating_sub(1);
    bytes[43..57].fill(0xff);
    bytes[60] = record_count;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    batch(&bytes);
}

fn stamped(batch: &RecordBatch) {
    let offset = Offset::new(1 << 40).expect("not negative");
    for time in [None, Some(Timestamp::from_millis(1))] {
        let stamped = batch.stamp(offset, LeaderEpoch::ZERO, time);
        let again = RecordBatch::parse_stored(stamped.to_bytes()).expect("a stamp breaks nothing");
        assert_eq!(again.as_stamped(), stamped);
    }
}

fn records(batch: &RecordBatch) {
    let Ok(records) = batch.records_with(&mut Decompressor::new(), LIMIT) else { return };
    assert!(batch.codec() == Codec::None || records.bytes().len() <= LIMIT);
    let mut cursor = RecordCursor::default();
    let (mut sound, mut next) = (0, batch.base_offset());
    for item in &records {
        assert_eq!(records.next_at(&mut cursor).as_ref(), Some(&item));
        let Ok(view) = item else { return };
        assert!(view.offset >= next && view.offset <= batch.last_offset(), "offsets rise");
        next = view.offset.next();
        for slice in [view.key, view.value].into_iter().flatten() {
            assert_eq!(records.slice_ref(slice), slice);
        }
        let headers = view.headers();
        assert_eq!(headers.len(), headers.count());
        let _ = ControlRecord::parse(&view);
        sound += 1;
    }
    assert_eq!(sound, batch.header().record_count, "no early end");
}
