//! What may be set for one log.

use std::time::Duration;

use super::{layout::SEGMENT_HEADER_BYTES, producer_state::ProducerLimits};
use crate::io::WriteMode;

/// Positions in an index have 32 bits; a segment may exceed its size by one batch.
pub const SEGMENT_BYTES_MAX: u64 = (1 << 32) - 2 * riverrun_proto::limits::BATCH_BYTES_MAX as u64;

/// Settings of one log; may be changed while it is open ([`super::Log::reconfigure`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment that would exceed this many bytes is sealed and the next one begun.
    pub segment_bytes: u64,
    /// A segment whose first append (by this process) was this long ago is sealed by the next one.
    pub segment_age: Duration,
    /// Bytes of batches per index entry.
    pub index_interval_bytes: u32,
    /// How bytes get into segment files: [`WriteMode::Map`] where that is the cheaper one.
    pub write_mode: WriteMode,
    /// The window of a segment that is appended to rarely, in bytes.
    pub window_min: u64,
    /// The window of a segment that is appended to all the time, in bytes.
    pub window_max: u64,
    /// Without an append for this long, window and map of the active segment are given back.
    pub idle_after: Duration,
    /// A checkpoint is due when this many bytes lie above the recovery point: how much is read
    /// after a kill.
    pub checkpoint_bytes: u64,
    /// Without a batch for this long, an idempotent producer is forgotten.
    pub producer_id_expiration: Duration,
    /// Idempotent producers remembered at most.
    pub producers_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 256 * 1024 * 1024,
            segment_age: Duration::from_secs(7 * 24 * 3600),
            index_interval_bytes: 4096,
            write_mode: WriteMode::Map,
            window_min: 64 * 1024,
            window_max: 16 * 1024 * 1024,
            idle_after: Duration::from_secs(10 * 60),
            checkpoint_bytes: 256 * 1024 * 1024,
            producer_id_expiration: Duration::from_secs(24 * 3600),
            producers_max: 10_000,
        }
    }
}

impl LogConfig {
    /// These, within what the format can do.
    #[must_use]
    pub(super) fn bounded(mut self) -> Self {
        let header = SEGMENT_HEADER_BYTES as u64;
        self.segment_bytes = self.segment_bytes.clamp(2 * header, SEGMENT_BYTES_MAX);
        self.window_min = self.window_min.max(header);
        self.window_max = self.window_max.max(self.window_min);
        self.producers_max = self.producers_max.clamp(1, 100_000);
        self
    }

    pub(super) const fn producer_limits(&self) -> ProducerLimits {
        ProducerLimits { count_max: self.producers_max, expiration: self.producer_id_expiration }
    }
}
