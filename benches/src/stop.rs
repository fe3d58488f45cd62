//! Tells everything that makes load to end: cheap to ask on every record, and can be waited for.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;

/// Told once, seen by all clones.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    flag: AtomicBool,
    token: CancellationToken,
}

/// Records that are still to be sent or read, of all senders or readers together.
#[derive(Debug)]
pub struct Quota(Option<AtomicU64>);

// === impl Stop ===

impl Stop {
    /// Not told yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells all.
    pub fn tell(&self) {
        self.0.flag.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Whether it was told.
    pub fn is_told(&self) -> bool {
        self.0.flag.load(Ordering::Acquire)
    }

    /// Waits until it is told. Cancel safe.
    pub async fn told(&self) {
        self.0.token.cancelled().await;
    }
}

// === impl Quota ===

impl Quota {
    /// So many, or any number.
    pub fn new(records: Option<u64>) -> Self {
        Self(records.map(AtomicU64::new))
    }

    /// Takes up to `wanted`; how many there were. 0: all are taken.
    pub fn take(&self, wanted: u64) -> u64 {
        let Some(left) = &self.0 else { return wanted };
        let before = left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(wanted))
            })
            .unwrap_or_default();
        before.min(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_taken_once() {
        let quota = Quota::new(Some(10));
        assert_eq!([quota.take(4), quota.take(4), quota.take(4), quota.take(4)], [4, 4, 2, 0]);
        assert_eq!(Quota::new(None).take(7), 7);
    }

    #[tokio::test]
    async fn all_clones_hear_it() {
        let stop = Stop::new();
        let waiting = tokio::spawn({
            let stop = stop.clone();
            async move { stop.told().await }
        });
        assert!(!stop.is_told());
        stop.tell();
        waiting.await.unwrap();
        assert!(stop.is_told());
    }
}
