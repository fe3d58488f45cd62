//! What the logs of a directory have done: plain counters that the metrics read.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters since the start, shared by the logs of one directory. They only grow.
        #[derive(Debug, Default)]
        pub struct LogCounters {
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        impl LogCounters {
            /// All of them: name, meaning, value.
            pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+), self.$name.get()),)+]
            }
        }
    };
}

counters! {
    /// Batches appended.
    batches_appended,
    /// Bytes of batches appended.
    bytes_appended,
    /// Appends that had to wait for a roll or a window.
    appends_not_ready,
    /// Segments begun.
    rolls,
    /// Windows extended.
    extends,
    /// Group commits that succeeded.
    flushes,
    /// Checkpoints written.
    checkpoints,
    /// Work that found the disk full.
    storage_full,
    /// Work that failed for another reason.
    work_failed,
    /// Reads answered from memory.
    reads_warm,
    /// Reads that went to the disk.
    reads_cold,
    /// Reads that met damage.
    reads_corrupt,
    /// Bytes of batches read.
    bytes_read,
    /// Indexes made again because their file was missing or broken.
    indexes_rebuilt,
    /// Segments deleted.
    segments_deleted,
    /// Truncations.
    truncations,
    /// Producers forgotten after their expiration.
    producers_expired,
}

/// One number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// What it stands at.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_names() {
        let counters = LogCounters::default();
        counters.rolls.add(2);
        assert!(counters.all().iter().any(|(name, _, n)| *name == "rolls" && *n == 2));
    }
}
