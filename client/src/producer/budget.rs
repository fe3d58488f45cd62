//! The producer's memory: a strict budget in bytes. Whoever wants to send first takes a
//! [`Charge`]; it travels with the record into its batch and is given back when the batch is
//! answered, however that ends. Callers wait in the order they came, so a large record is not
//! starved by small ones.

use std::{fmt, sync::Arc};

use tokio::sync::{Semaphore, TryAcquireError};

/// The bytes a producer may hold.
pub(crate) struct Budget {
    free: Semaphore,
    capacity: usize,
}

/// Bytes taken from a budget; dropping it gives them back.
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

/// Why there is no charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoCharge {
    /// Not without waiting.
    Full,
    /// The producer is closed.
    Closed,
}

// === impl Budget ===

impl Budget {
    /// Above it a semaphore cannot be asked for all of its permits at once.
    pub(crate) const CAPACITY_MAX: usize = u32::MAX as usize;

    /// `capacity` is at most [`Budget::CAPACITY_MAX`].
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        debug_assert!(capacity <= Self::CAPACITY_MAX, "checked by the builder");
        Arc::new(Self { free: Semaphore::new(capacity), capacity })
    }

    /// Waits for `bytes`, at most the capacity.
    ///
    /// Cancel safe: dropped before it is ready, nothing was taken, and the place in the queue is
    /// gone.
    pub(crate) async fn take(self: &Arc<Self>, bytes: usize) -> Result<Charge, NoCharge> {
        let permits = u32::try_from(bytes.min(self.capacity)).expect("capacity fits");
        let permit = self.free.acquire_many(permits).await.map_err(|_| NoCharge::Closed)?;
        permit.forget();
        Ok(Charge { budget: Arc::clone(self), bytes: permits as usize })
    }

    /// Takes `bytes` if they are free and nobody waits before.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: usize) -> Result<Charge, NoCharge> {
        let permits = u32::try_from(bytes.min(self.capacity)).expect("capacity fits");
        match self.free.try_acquire_many(permits) {
            Ok(permit) => {
                permit.forget();
                Ok(Charge { budget: Arc::clone(self), bytes: permits as usize })
            }
            Err(TryAcquireError::NoPermits) => Err(NoCharge::Full),
            Err(TryAcquireError::Closed) => Err(NoCharge::Closed),
        }
    }

    /// Refuses whoever comes, and whoever waits, from now on.
    pub(crate) fn close(&self) {
        self.free.close();
    }

    /// Bytes taken now.
    pub(crate) fn used(&self) -> usize {
        self.capacity - self.free.available_permits()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.used(), self.capacity)
    }
}

// === impl Charge ===

impl Charge {
    /// Bytes taken.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes over the bytes of `other`, of the same budget.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.budget, &other.budget), "charges of one producer");
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back what is above `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        if let Some(surplus) = self.bytes.checked_sub(bytes) {
            self.bytes = bytes;
            self.budget.free.add_permits(surplus);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.free.add_permits(self.bytes);
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_taken_comes_back_when_dropped() {
        let budget = Budget::new(100);
        let mut a = budget.try_take(60).unwrap();
        assert_eq!(budget.try_take(41).unwrap_err(), NoCharge::Full);
        let b = budget.try_take(40).unwrap();
        assert_eq!(budget.used(), 100);
        a.absorb(b);
        assert_eq!(a.bytes(), 100);
        a.shrink_to(30);
        assert_eq!(budget.used(), 30);
        a.shrink_to(50);
        assert_eq!(a.bytes(), 30);
        drop(a);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_waiter_that_goes_away_takes_nothing_and_lets_the_next_one_in() {
        let budget = Budget::new(100);
        let held = budget.try_take(90).unwrap();
        let mut large = Box::pin(budget.take(50));
        assert!(large.as_mut().now_or_never().is_none());
        // First come, first served: 10 are free, but the large one stands before.
        assert_eq!(budget.try_take(10).unwrap_err(), NoCharge::Full);
        drop(large);
        let small = budget.try_take(10).unwrap();
        drop((held, small));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn closing_refuses_those_who_wait() {
        let budget = Budget::new(10);
        let _held = budget.try_take(10).unwrap();
        let waiting = budget.take(1);
        budget.close();
        assert_eq!(waiting.now_or_never().unwrap().unwrap_err(), NoCharge::Closed);
        assert_eq!(budget.try_take(1).unwrap_err(), NoCharge::Closed);
    }

    proptest! {
        #[test]
        fn never_more_than_the_capacity_and_all_of_it_in_the_end(
            steps in prop::collection::vec((0_usize..120, any::<bool>()), 1..100),
        ) {
            let budget = Budget::new(100);
            let mut held: Vec<Charge> = Vec::new();
            for (bytes, give_back) in steps {
                if give_back && !held.is_empty() {
                    held.remove(bytes % held.len());
                } else {
                    held.extend(budget.try_take(bytes));
                }
                let sum: usize = held.iter().map(Charge::bytes).sum();
                prop_assert!(sum <= 100);
                prop_assert_eq!(sum, budget.used());
            }
            held.clear();
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
