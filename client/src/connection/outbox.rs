//! The sending half of a bidirectional stream, pulled by the transport: a message is put together
//! only when HTTP/2 can take it, so whatever piled up meanwhile travels in one piece, and nothing
//! queues behind the flow control window but what the caller itself put here.
//!
//! The bound is the caller's: a producer puts no more than the advertised window in it, a consumer
//! one change per partition.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::Stream;
use parking_lot::Mutex;

/// What waits to be sent.
pub(super) trait Pull: Send + 'static {
    /// What travels.
    type Message: Send + 'static;

    /// The next message, if anything waits.
    fn pull(&mut self) -> Option<Self::Message>;
}

/// The caller's end. Dropping it ends the stream after what is in it.
pub(super) struct Outbox<P>(Arc<Mutex<Shared<P>>>);

/// The transport's end.
pub(super) struct Pulled<P>(Arc<Mutex<Shared<P>>>);

struct Shared<P> {
    waiting: P,
    waker: Option<Waker>,
    closed: bool,
}

// === impl Outbox ===

impl<P: Pull> Outbox<P> {
    pub(super) fn new(waiting: P) -> (Self, Pulled<P>) {
        let shared = Arc::new(Mutex::new(Shared { waiting, waker: None, closed: false }));
        (Self(Arc::clone(&shared)), Pulled(shared))
    }

    /// Changes what waits, and tells the transport.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut P) -> R) -> R {
        let (result, waker) = {
            let mut shared = self.0.lock();
            (change(&mut shared.waiting), shared.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }
}

impl<P> Drop for Outbox<P> {
    fn drop(&mut self) {
        let waker = {
            let mut shared = self.0.lock();
            shared.closed = true;
            shared.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<P> fmt::Debug for Outbox<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

// === impl Pulled ===

impl<P: Pull> Stream for Pulled<P> {
    type Item = P::Message;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<P::Message>> {
        let mut shared = self.0.lock();
        if let Some(message) = shared.waiting.pull() {
            return Poll::Ready(Some(message));
        }
        if shared.closed {
            return Poll::Ready(None);
        }
        shared.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    /// Packs towards three.
    struct Threes(Vec<u32>);

    impl Pull for Threes {
        type Message = Vec<u32>;

        fn pull(&mut self) -> Option<Vec<u32>> {
            let n = self.0.len().min(3);
            (n > 0).then(|| self.0.drain(..n).collect())
        }
    }

    #[tokio::test]
    async fn packs_what_piled_up_wakes_once_and_ends_after_the_rest() {
        let (outbox, mut pulled) = Outbox::new(Threes(vec![]));
        assert!(pulled.next().now_or_never().is_none());
        let reader = tokio::spawn(async move { pulled.collect::<Vec<_>>().await });
        outbox.with(|threes| threes.0.extend([1, 2, 3, 4]));
        drop(outbox);
        assert_eq!(reader.await.unwrap(), [vec![1, 2, 3], vec![4]]);
    }
}
