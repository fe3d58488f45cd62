//! What records carry: noise that does not compress, or as much of it as was asked for, the same in
//! every run. There is enough of it that neither side reads it from the processor's cache all the
//! time, as it would be with one payload repeated.

use bytes::{Bytes, BytesMut};
use rand::{RngCore as _, SeedableRng as _, rngs::SmallRng};
use riverrun_proto::{
    record::{AppendError, BatchBuilder, BatchOptions},
    timestamp::Timestamp,
};

use crate::{
    clock::{self, Moment},
    error::{BenchError, Result},
    workload::{STAMP_BYTES, Workload},
};

/// Bytes of different payloads: more than the caches of a core.
const POOL_BYTES: usize = 16 << 20;

/// Different payloads at least, however large they are.
const POOL_PAYLOADS_MIN: usize = 4;

/// Payloads, one after the other, again and again.
#[derive(Clone, Debug)]
pub struct Payloads {
    pool: Bytes,
    payload_bytes: usize,
    at: usize,
    stamped: BytesMut,
}

/// The moment a record was intended, and its number, at the front of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When it was to be sent.
    pub intended: Moment,
    /// Its number among those of its producer.
    pub number: u64,
}

/// Batches encoded before the measurement, all with the same number of records.
#[derive(Clone, Debug)]
pub struct Batches {
    batches: Vec<Bytes>,
    at: usize,
    bytes_max: usize,
    /// Records of each.
    pub records: u64,
    /// Bytes of the payloads of each.
    pub payload_bytes: u64,
}

// === impl Payloads ===

impl Payloads {
    /// As the workload wants them.
    pub fn new(workload: &Workload) -> Self {
        let payload_bytes = workload.payload_bytes;
        let payloads = (POOL_BYTES / payload_bytes).max(POOL_PAYLOADS_MIN);
        let noise_bytes = (payload_bytes as f64 * workload.entropy).round() as usize;
        let mut rng = SmallRng::seed_from_u64(0x5EED);
        let mut pool = vec![0; payloads * payload_bytes];
        for payload in pool.chunks_exact_mut(payload_bytes) {
            rng.fill_bytes(&mut payload[..noise_bytes.min(payload_bytes)]);
        }
        Self { pool: pool.into(), payload_bytes, at: 0, stamped: BytesMut::new() }
    }

    /// The next one; copies nothing.
    pub fn plain(&mut self) -> Bytes {
        let from = self.at;
        self.at += self.payload_bytes;
        if self.at >= self.pool.len() {
            self.at = 0;
        }
        self.pool.slice(from..from + self.payload_bytes)
    }

    /// The next one with a stamp at its front; copied.
    pub fn stamped(&mut self, stamp: Stamp) -> Bytes {
        let rest = self.plain();
        self.stamped.reserve(self.payload_bytes);
        self.stamped.extend_from_slice(&stamp.intended.as_nanos().to_be_bytes());
        self.stamped.extend_from_slice(&stamp.number.to_be_bytes());
        self.stamped.extend_from_slice(&rest[STAMP_BYTES..]);
        self.stamped.split().freeze()
    }
}

// === impl Stamp ===

impl Stamp {
    /// `None`: too short to carry one.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (intended, rest) = payload.split_first_chunk()?;
        let number = rest.first_chunk()?;
        Some(Self {
            intended: Moment::from_nanos(u64::from_be_bytes(*intended)),
            number: u64::from_be_bytes(*number),
        })
    }
}

// === impl Batches ===

impl Batches {
    /// Encodes enough different ones.
    ///
    /// # Errors
    /// A record does not fit the largest batch of a topic.
    pub fn encode(workload: &Workload) -> Result<Self> {
        let mut payloads = Payloads::new(workload);
        let count =
            (POOL_BYTES / workload.batch_bytes.max(workload.payload_bytes)).max(POOL_PAYLOADS_MIN);
        let now = Timestamp::from_millis(clock::unix_ms());
        let mut records = u32::MAX;
        let mut batches = Vec::with_capacity(count);
        for _ in 0..count {
            let mut builder = BatchBuilder::new(BatchOptions {
                codec: workload.codec.into(),
                size_budget: workload.batch_bytes,
                ..BatchOptions::default()
            });
            while builder.record_count() < records {
                match builder.append(now, None, Some(&payloads.plain()), []) {
                    Ok(_) => {}
                    Err(AppendError::Full) => break,
                    Err(error @ AppendError::RecordTooLarge { .. }) => {
                        return Err(BenchError::Usage(format!(
                            "payload of {} bytes: {error}",
                            workload.payload_bytes
                        )));
                    }
                }
            }
            records = builder.record_count();
            batches.push(builder.finish());
        }
        let records = u64::from(records);
        let payload_bytes = records * workload.payload_bytes as u64;
        let bytes_max = batches.iter().map(Bytes::len).max().unwrap_or(0);
        Ok(Self { batches, at: 0, bytes_max, records, payload_bytes })
    }

    /// One with a single record: what a ping is.
    ///
    /// # Errors
    /// As [`Batches::encode`].
    pub fn single(workload: &Workload) -> Result<Self> {
        Self::encode(&Workload { batch_bytes: 1, ..workload.clone() })
    }

    /// The next one; copies nothing.
    pub fn take(&mut self) -> Bytes {
        let batch = self.batches[self.at].clone();
        self.at = (self.at + 1) % self.batches.len();
        batch
    }

    /// The one that [`Batches::take`] gives.
    pub fn peek(&self) -> &Bytes {
        &self.batches[self.at]
    }

    /// Bytes of the largest.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// All of them.
    pub fn all(&self) -> &[Bytes] {
        &self.batches
    }
}

#[cfg(test)]
mod tests {
    use riverrun_proto::record::RecordBatch;

    use super::*;
    use crate::workload::Codec as BenchCodec;

    fn workload(payload_bytes: usize, entropy: f64) -> Workload {
        Workload { payload_bytes, entropy, ..Workload::default() }
    }

    #[test]
    fn payloads_differ_come_round_and_have_their_size() {
        let workload = workload(1 << 20, 1.0);
        let mut payloads = Payloads::new(&workload);
        let first: Vec<_> = (0..16).map(|_| payloads.plain()).collect();
        assert!(first.iter().all(|payload| payload.len() == 1 << 20));
        assert_ne!(first[0], first[1]);
        assert_eq!(payloads.plain(), first[0]);
    }

    #[test]
    fn entropy_is_what_does_not_compress() {
        let compressed = |entropy| {
            let workload = Workload {
                codec: BenchCodec::Zstd,
                batch_bytes: 128 << 10,
                ..workload(64 << 10, entropy)
            };
            let batches = Batches::single(&workload).unwrap();
            batches.peek().len() as f64 / batches.payload_bytes as f64
        };
        for (entropy, least, most) in [(1.0, 1.0, 1.01), (0.5, 0.49, 0.52), (0.0, 0.0, 0.01)] {
            let share = compressed(entropy);
            assert!((least..=most).contains(&share), "{entropy}: {share}");
        }
    }

    #[test]
    fn stamps_round_trip_and_leave_the_rest_alone() {
        let mut payloads = Payloads::new(&workload(100, 1.0));
        let plain = payloads.clone().plain();
        let stamp = Stamp { intended: Moment::from_nanos(77), number: u64::MAX - 1 };
        let stamped = payloads.stamped(stamp);
        assert_eq!(Stamp::read(&stamped), Some(stamp));
        assert_eq!(stamped[STAMP_BYTES..], plain[STAMP_BYTES..]);
        assert_eq!(Stamp::read(&stamped[..15]), None);
    }

    #[test]
    fn batches_are_full_equal_and_valid() {
        for (payload, batch, codec) in
            [(1024, 65_536, BenchCodec::None), (100, 4_096, BenchCodec::Lz4)]
        {
            let workload = Workload {
                payload_bytes: payload,
                batch_bytes: batch,
                codec,
                ..Workload::default()
            };
            let mut batches = Batches::encode(&workload).unwrap();
            assert!(batches.all().iter().all(|bytes| bytes.len() <= batch));
            let valid = RecordBatch::validate(batches.take()).unwrap();
            let records = valid.header().record_count.unsigned_abs();
            assert_eq!(u64::from(records), batches.records);
            assert_eq!(batches.payload_bytes, batches.records * payload as u64);
            assert!(batches.payload_bytes as usize > batch * 3 / 4, "full");
        }
        assert_eq!(Batches::single(&Workload::default()).unwrap().records, 1);
        assert!(Batches::encode(&workload(2 << 20, 1.0)).is_err());
    }
}
