//! The demo's producer: an ordinary one, with everything default, until a line comes that is too
//! long for it; from then on one with room for the longest line there can be.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use riverrun_client::{Client, Delivery, Producer, Record};
use riverrun_proto::limits::BATCH_BYTES_MAX;

use super::TOPIC;
use crate::cli::error::{Failure, Result};

/// Longest line: what a batch may be, less its header, a record's header, and what a codec may add
/// to bytes that it cannot compress.
pub(super) const LINE_BYTES_MAX: usize = BATCH_BYTES_MAX as usize - 512 * 1024;

/// Longest line for the first producer: its largest request by default, less the rest of a record.
const USUAL_LINE_BYTES: usize = 1024 * 1024 - 1024;

/// Buffer of the second producer: two of the longest lines, so that one is sent while the next
/// comes.
const LARGE_BUFFER_BYTES: usize = 2 * BATCH_BYTES_MAX as usize;

/// Longest wait for all acknowledgements at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(120);

/// Carries the line's number and when it was sent.
pub(super) const STAMP_HEADER: &str = "n";

/// What a record carries beside its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Of the line, from 0.
    pub(super) number: u64,
    /// Since the start of the process.
    pub(super) sent_us: u64,
}

/// The producer.
#[derive(Debug)]
pub(super) struct Uplink {
    client: Client,
    producer: Producer,
    line_bytes_max: usize,
    /// Stamps are cut from it.
    stamps: BytesMut,
}

// === impl Uplink ===

impl Uplink {
    /// With everything default.
    pub(super) async fn new(client: Client) -> Result<Self> {
        let producer = client.producer().build().await?;
        Ok(Self { client, producer, line_bytes_max: USUAL_LINE_BYTES, stamps: BytesMut::new() })
    }

    /// Sends a line; waits for room in the producer's buffer.
    pub(super) async fn send(&mut self, key: Bytes, line: Bytes, stamp: Stamp) -> Result<Delivery> {
        if line.len() > self.line_bytes_max {
            self.enlarge().await?;
        }
        let stamp = stamp.encode(&mut self.stamps);
        let record = Record::to(TOPIC).key(key).value(line).header(STAMP_HEADER, stamp);
        Ok(self.producer.send(record).await?)
    }

    /// Waits until everything is acknowledged or has failed.
    pub(super) async fn close(self) -> Result<()> {
        Ok(self.producer.close(CLOSE_TIMEOUT).await?)
    }

    /// The old producer is drained first: order per key holds across both.
    async fn enlarge(&mut self) -> Result<()> {
        if self.line_bytes_max == LINE_BYTES_MAX {
            return Err(Failure::failed(format!("a line is longer than {LINE_BYTES_MAX} bytes")));
        }
        self.producer.flush().await?;
        self.producer = self
            .client
            .producer()
            .buffer_memory(LARGE_BUFFER_BYTES)
            .max_request_size(BATCH_BYTES_MAX as usize)
            .build()
            .await?;
        self.line_bytes_max = LINE_BYTES_MAX;
        Ok(())
    }
}

// === impl Stamp ===

impl Stamp {
    const BYTES: usize = 16;

    fn encode(self, buffer: &mut BytesMut) -> Bytes {
        buffer.reserve(Self::BYTES);
        buffer.extend_from_slice(&self.number.to_be_bytes());
        buffer.extend_from_slice(&self.sent_us.to_be_bytes());
        buffer.split().freeze()
    }

    /// `None`: not one of ours.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (number, sent_us) = bytes.split_first_chunk()?;
        Some(Self {
            number: u64::from_be_bytes(*number),
            sent_us: u64::from_be_bytes(sent_us.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_round_trip_and_anything_else_is_none() {
        let stamp = Stamp { number: u64::MAX - 1, sent_us: 77 };
        let encoded = stamp.encode(&mut BytesMut::new());
        assert_eq!(Stamp::decode(&encoded), Some(stamp));
        assert_eq!(Stamp::decode(b""), None);
        assert_eq!(Stamp::decode(&encoded[1..]), None);
        assert_eq!(Stamp::decode(&[0; 17]), None);
    }

    #[test]
    fn the_longest_line_fits_a_batch() {
        let (key, line) = (Bytes::from_static(b"key-0000"), Bytes::from(vec![0; LINE_BYTES_MAX]));
        let record = Record::to(TOPIC).key(key).value(line).header(STAMP_HEADER, vec![0; 16]);
        assert!(record.size() + 64 < BATCH_BYTES_MAX as usize);
    }
}
