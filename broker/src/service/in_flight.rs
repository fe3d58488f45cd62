//! What a `ProduceStream` has been sent and not yet answered: the window, and the way back from a
//! ticket's tag to the client's correlation id.

use std::{fmt, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    clock::Instant,
    partition::{ProduceError, ProduceSink, Produced},
};

/// Unanswered batches of one stream. Bounded by the window, which its stream looks at before it
/// reads on.
#[derive(Debug)]
pub(super) struct InFlight<T> {
    slots: Vec<Option<Sent<T>>>,
    free: Vec<usize>,
    batches: usize,
    bytes: usize,
}

/// One unanswered batch.
#[derive(Debug)]
pub(super) struct Sent<T> {
    pub(super) correlation_id: u64,
    pub(super) bytes: usize,
    pub(super) arrived: Instant,
    pub(super) of: T,
}

/// Outcomes on their way into the stream's next message. Written by whichever thread completes a
/// batch. Bounded by the batches in flight: each is answered once.
#[derive(Default)]
pub(super) struct AckQueue {
    outcomes: Mutex<Vec<Outcome>>,
    wake: Notify,
}

pub(super) type Outcome = (u64, Result<Produced, ProduceError>);

// === impl InFlight ===

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), batches: 0, bytes: 0 }
    }
}

impl<T> InFlight<T> {
    /// Takes note of a batch; the tag leads back to it.
    pub(super) fn insert(&mut self, sent: Sent<T>) -> u64 {
        self.batches += 1;
        self.bytes += sent.bytes;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(sent);
                slot
            }
            None => {
                self.slots.push(Some(sent));
                self.slots.len() - 1
            }
        };
        slot as u64
    }

    /// The batch is answered; its tag may be used again.
    pub(super) fn remove(&mut self, tag: u64) -> Option<Sent<T>> {
        let slot = usize::try_from(tag).ok()?;
        let sent = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.batches -= 1;
        self.bytes -= sent.bytes;
        Some(sent)
    }

    pub(super) fn batches(&self) -> usize {
        self.batches
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches == 0
    }
}

impl<T> Sent<T> {
    /// How long it took.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.arrived)
    }
}

// === impl AckQueue ===

impl AckQueue {
    /// Moves up to `max` outcomes, oldest first, to the end of `into`.
    pub(super) fn take(&self, max: usize, into: &mut Vec<Outcome>) {
        let mut outcomes = self.outcomes.lock();
        let n = outcomes.len().min(max);
        into.extend(outcomes.drain(..n));
    }

    /// Waits until there may be an outcome. Cancel safe: a wake-up is not lost.
    pub(super) async fn ready(&self) {
        self.wake.notified().await;
    }
}

impl ProduceSink for AckQueue {
    fn complete(&self, tag: u64, outcome: Result<Produced, ProduceError>) {
        self.outcomes.lock().push((tag, outcome));
        self.wake.notify_one();
    }
}

impl fmt::Debug for AckQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AckQueue").field("outcomes", &self.outcomes.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;

    use super::*;
    use crate::clock::{Clock, ManualClock};

    fn sent(correlation_id: u64, bytes: usize) -> Sent<()> {
        Sent { correlation_id, bytes, arrived: ManualClock::default().monotonic(), of: () }
    }

    #[test]
    fn the_window_is_what_was_not_answered() {
        let mut in_flight = InFlight::default();
        let first = in_flight.insert(sent(7, 100));
        let second = in_flight.insert(sent(7, 50));
        assert_eq!((in_flight.batches(), in_flight.bytes()), (2, 150));
        assert_eq!(in_flight.remove(first).unwrap().bytes, 100);
        assert!(in_flight.remove(first).is_none(), "answered once");
        let third = in_flight.insert(sent(9, 1));
        assert_eq!(third, first, "slots are used again");
        assert_eq!(in_flight.remove(third).unwrap().correlation_id, 9);
        assert_eq!(in_flight.remove(second).unwrap().correlation_id, 7);
        assert!(in_flight.is_empty());
        assert_eq!(in_flight.bytes(), 0);
        assert!(in_flight.remove(99).is_none());
    }

    #[test]
    fn outcomes_come_in_order_and_wake_once_written() {
        let queue = Arc::new(AckQueue::default());
        for tag in 0..3 {
            queue.complete(tag, Err(ProduceError::StorageFull));
        }
        assert!(queue.ready().now_or_never().is_some(), "woken before it waited");
        let mut taken = Vec::new();
        queue.take(2, &mut taken);
        queue.take(2, &mut taken);
        assert_eq!(taken.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(queue.ready().now_or_never().is_none());
    }
}
