//! Bytes that are on their way through the broker: a budget, and the right to a part of it.
//!
//! Whoever is about to hold client data takes a permit for its bytes first and holds it as long as
//! the data: a produced batch until it is answered, a response until it has been encoded. When a
//! budget is used up its callers wait, in order. That is how overload turns into backpressure: a
//! stream which waits here is not read, its HTTP/2 window fills, and its client's `send().await`
//! waits as well.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes shared by all who hold a clone. Fair: first come, first served, however large.
#[derive(Debug, Clone)]
pub(super) struct ByteBudget {
    permits: Arc<Semaphore>,
    total: usize,
}

/// The right to hold some bytes; given back when dropped.
#[derive(Debug)]
pub(super) struct BytePermit {
    _permit: OwnedSemaphorePermit,
}

// === impl ByteBudget ===

impl ByteBudget {
    /// A budget of `total` bytes, at least one and at most what a semaphore counts.
    pub(super) fn new(total: usize) -> Self {
        let total = total.clamp(1, Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(total)), total }
    }

    /// The right to `bytes`, if they are free and nobody waits. More than the whole budget counts
    /// as all of it, so that nothing is too large to pass, alone.
    pub(super) fn try_take(&self, bytes: usize) -> Option<BytePermit> {
        let permit = Arc::clone(&self.permits).try_acquire_many_owned(self.clamp(bytes)).ok()?;
        Some(BytePermit { _permit: permit })
    }

    /// As [`ByteBudget::try_take`], but waits its turn.
    ///
    /// Cancel safe; dropped, it loses its place in the line.
    pub(super) async fn take(self, bytes: usize) -> BytePermit {
        let bytes = self.clamp(bytes);
        let permit = self.permits.acquire_many_owned(bytes).await;
        BytePermit { _permit: permit.expect("a budget is never closed") }
    }

    /// Bytes taken now.
    pub(super) fn used(&self) -> usize {
        self.total - self.permits.available_permits().min(self.total)
    }

    /// All of it.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    fn clamp(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.total)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_the_total_holds() {
        let budget = ByteBudget::new(100);
        let first = budget.try_take(60).unwrap();
        assert!(budget.try_take(41).is_none());
        let second = budget.try_take(40).unwrap();
        assert_eq!((budget.used(), budget.total()), (100, 100));
        drop(first);
        assert_eq!(budget.used(), 40);
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn one_larger_than_all_waits_for_all_and_then_passes() {
        let budget = ByteBudget::new(100);
        let small = budget.try_take(1).unwrap();
        let mut large = Box::pin(budget.clone().take(1_000));
        assert!((&mut large).now_or_never().is_none());
        assert!(budget.try_take(1).is_none(), "nobody overtakes the one that waits");
        drop(small);
        let large = large.now_or_never().expect("everything is free");
        assert_eq!(budget.used(), 100);
        drop(large);
        assert!(budget.try_take(100).is_some());
    }

    #[test]
    fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let budget = ByteBudget::new(10);
        let held = budget.try_take(10).unwrap();
        let mut waiting = Box::pin(budget.clone().take(5));
        assert!((&mut waiting).now_or_never().is_none());
        drop(waiting);
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}
