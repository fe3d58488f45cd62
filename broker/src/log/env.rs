//! What the logs of one data directory share: the disk, its failure, a source of salts, budgets,
//! counters.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{counters::LogCounters, frame::Salt, open_segments::OpenSegments};
use crate::io::{Disk, Failure};

/// Bounds over all logs of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBudgets {
    /// Bytes of windows beyond the least each active segment has: what fast partitions may take to
    /// be populated further ahead.
    pub window_bytes: u64,
    /// Sealed segments that are kept open (a map and a file handle each).
    pub open_segments: usize,
    /// Bytes of the indexes of those.
    pub index_bytes: usize,
}

impl Default for LogBudgets {
    fn default() -> Self {
        Self { window_bytes: 512 * 1024 * 1024, open_segments: 1024, index_bytes: 64 * 1024 * 1024 }
    }
}

/// What the logs of one directory share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogEnv {
    /// Where the files are.
    pub disk: Arc<dyn Disk>,
    /// Whether the directory has failed.
    pub failure: Failure,
    /// Where salts come from.
    pub salts: SaltSource,
    /// What all did.
    pub counters: Arc<LogCounters>,
    pub(super) open_segments: Arc<OpenSegments>,
    pub(super) windows: Arc<WindowBudget>,
}

impl LogEnv {
    /// For one data directory.
    pub fn new(
        disk: Arc<dyn Disk>,
        failure: Failure,
        salts: SaltSource,
        budgets: LogBudgets,
    ) -> Self {
        Self {
            disk,
            failure,
            salts,
            counters: Arc::default(),
            open_segments: Arc::new(OpenSegments::new(budgets.open_segments, budgets.index_bytes)),
            windows: Arc::new(WindowBudget::new(budgets.window_bytes)),
        }
    }

    /// Bytes taken of [`LogBudgets::window_bytes`].
    pub fn window_bytes_taken(&self) -> u64 {
        self.windows.taken.load(Ordering::Relaxed)
    }

    /// Sealed segments open now.
    pub fn open_segments(&self) -> usize {
        self.open_segments.len()
    }
}

/// Where the salts of new segments come from.
#[derive(Clone)]
pub struct SaltSource(Arc<dyn Fn() -> u64 + Send + Sync>);

impl SaltSource {
    /// The operating system's randomness: for real logs.
    pub fn random() -> Self {
        Self(Arc::new(rand::random::<u64>))
    }

    /// The same sequence for the same seed: for tests, which have to be repeatable.
    pub fn seeded(seed: u64) -> Self {
        let next = AtomicU64::new(seed);
        // SplitMix64: a counter, well mixed.
        Self(Arc::new(move || {
            let mut z = next.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    pub(super) fn draw(&self) -> Salt {
        Salt::new((self.0)())
    }
}

impl fmt::Debug for SaltSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltSource")
    }
}

/// Bytes that windows may take beyond their least, over all logs.
#[derive(Debug)]
pub(super) struct WindowBudget {
    limit: u64,
    taken: AtomicU64,
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct WindowGrant {
    budget: Arc<WindowBudget>,
    bytes: u64,
}

impl WindowBudget {
    fn new(limit: u64) -> Self {
        Self { limit, taken: AtomicU64::new(0) }
    }

    /// Nothing yet, to be resized.
    pub(super) fn grant(self: &Arc<Self>) -> WindowGrant {
        WindowGrant { budget: self.clone(), bytes: 0 }
    }
}

impl WindowGrant {
    /// Changes the grant to `bytes`; what there is not is not granted and nothing changes.
    pub(super) fn resize(&mut self, bytes: u64) -> bool {
        let taken = &self.budget.taken;
        if bytes <= self.bytes {
            taken.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        } else {
            let more = bytes - self.bytes;
            let fits = |now: u64| Some(now + more).filter(|sum| *sum <= self.budget.limit);
            if taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
                return false;
            }
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for WindowGrant {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_never_exceeded_and_all_comes_back() {
        let budget = Arc::new(WindowBudget::new(100));
        let (mut a, mut b) = (budget.grant(), budget.grant());
        assert!(a.resize(70));
        assert!(!b.resize(31), "over the bound");
        assert!(b.resize(30));
        assert!(a.resize(10) && b.resize(90));
        assert!(!a.resize(11));
        drop(a);
        drop(b);
        assert_eq!(budget.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn seeded_salts_repeat_and_differ_from_one_another() {
        let draw = |seed| {
            let source = SaltSource::seeded(seed);
            [source.draw(), source.draw(), source.draw()]
        };
        assert_eq!(draw(1), draw(1));
        let all = [draw(1), draw(2)].concat();
        for (at, salt) in all.iter().enumerate() {
            assert!(!all[..at].contains(salt));
        }
    }
}
