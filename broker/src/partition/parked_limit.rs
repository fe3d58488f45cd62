//! How much may be parked in front of one partition's log.

use std::sync::{Arc, OnceLock};

use crate::telemetry::{Bound, Bounds, Usage};

/// Bytes of batches that one partition may park while its log is not ready (a roll, a slow disk):
/// one that stands still must not take all that producers may have on their way
/// (`produce.parked.percent`). A single larger batch is parked alone. Clones share the count of
/// those that were refused.
#[derive(Debug, Clone)]
pub struct ParkedLimit(Arc<Limit>);

#[derive(Debug)]
struct Limit {
    bytes: usize,
    /// Told of batches that found it taken.
    bound: OnceLock<Bound>,
}

impl ParkedLimit {
    /// A limit of `bytes` per partition.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Limit { bytes, bound: OnceLock::new() }))
    }

    /// The limit.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Shows how much the fullest partition has parked, which `used` is asked for at every scrape,
    /// and counts batches that were refused.
    pub fn watch(&self, bounds: &Bounds, used: impl Fn() -> u64 + Send + Sync + 'static) {
        let limit = self.bytes() as u64;
        let bound = bounds.watch("produce.parked.percent", move || Usage { used: used(), limit });
        // Watched twice, the first counter goes on counting.
        let _ = self.0.bound.set(bound);
    }

    pub(super) fn hit(&self) {
        if let Some(bound) = self.0.bound.get() {
            bound.hit();
        }
    }
}
