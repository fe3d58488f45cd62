//! Who wants to know that a high watermark moved: epoll for partitions.
//!
//! A reader of many partitions owns one [`ReadySet`] and registers a slot of it with each partition.
//! When a partition's high watermark moves, it marks the slot and wakes the reader, once, however
//! often it moves before the reader looks. Nobody waits on a thousand channels, and a partition
//! wakes nobody who was woken already.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering, fence},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The ready partitions of one reader. Bounded by its registrations: one that ends takes its slot
/// along.
#[derive(Debug, Default)]
pub struct ReadySet {
    ready: Mutex<Vec<Arc<Slot>>>,
    wake: Notify,
}

#[derive(Debug)]
struct Slot {
    token: u64,
    /// In `ready` already; cleared before the reader looks at the partition, so that no move after
    /// that look goes unnoticed. Both sides exchange it (AcqRel): whoever finds the slot marked and
    /// leaves it at that has published its move to the reader that clears the mark.
    marked: AtomicBool,
}

impl ReadySet {
    /// An empty set.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits until a slot is ready and moves the tokens of all that are into `tokens`.
    ///
    /// Cancel safe: dropped before it is ready, no token is lost.
    pub async fn ready(&self, tokens: &mut Vec<u64>) {
        loop {
            if self.take_ready(tokens) {
                return;
            }
            self.wake.notified().await;
        }
    }

    /// The tokens of all ready slots, without waiting; whether there were any.
    pub fn take_ready(&self, tokens: &mut Vec<u64>) -> bool {
        let mut ready = self.ready.lock();
        for slot in ready.drain(..) {
            slot.marked.swap(false, Ordering::AcqRel);
            tokens.push(slot.token);
        }
        !tokens.is_empty()
    }

    fn mark(&self, slot: &Arc<Slot>) {
        if !slot.marked.swap(true, Ordering::AcqRel) {
            self.ready.lock().push(Arc::clone(slot));
            self.wake.notify_one();
        }
    }

    fn forget(&self, slot: &Arc<Slot>) {
        self.ready.lock().retain(|ready| !Arc::ptr_eq(ready, slot));
    }
}

/// The readers of one partition.
#[derive(Default)]
pub(super) struct Watchers {
    all: Mutex<Vec<Watcher>>,
    /// Saves the lock where nobody watches.
    some: AtomicBool,
}

struct Watcher {
    set: Weak<ReadySet>,
    slot: Arc<Slot>,
}

/// Ends the watch when dropped.
pub struct Watch {
    slot: Arc<Slot>,
    set: Weak<ReadySet>,
    watchers: Weak<Watchers>,
}

impl Watchers {
    /// Marks `token` in `set` whenever the high watermark moves from now on: look at the partition
    /// after this.
    pub(super) fn register(self: &Arc<Self>, set: &Arc<ReadySet>, token: u64) -> Watch {
        let slot = Arc::new(Slot { token, marked: AtomicBool::new(false) });
        let mut all = self.all.lock();
        all.push(Watcher { set: Arc::downgrade(set), slot: Arc::clone(&slot) });
        self.some.store(true, Ordering::Relaxed);
        drop(all);
        // Pairs with the one in `wake`: either that one sees this watcher, or whoever registered it
        // sees the move when it looks at the partition next.
        fence(Ordering::SeqCst);
        Watch { slot, set: Arc::downgrade(set), watchers: Arc::downgrade(self) }
    }

    /// The high watermark moved, or the partition is led or closed now; published before this.
    pub(super) fn wake(&self) {
        fence(Ordering::SeqCst);
        if !self.some.load(Ordering::Relaxed) {
            return;
        }
        for watcher in self.all.lock().iter() {
            if let Some(set) = watcher.set.upgrade() {
                set.mark(&watcher.slot);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.lock().len()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(watchers) = self.watchers.upgrade() {
            let mut all = watchers.all.lock();
            all.retain(|w| !Arc::ptr_eq(&w.slot, &self.slot));
            watchers.some.store(!all.is_empty(), Ordering::Relaxed);
        }
        if let Some(set) = self.set.upgrade() {
            set.forget(&self.slot);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("token", &self.slot.token).finish_non_exhaustive()
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers").field("len", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_is_woken_once_per_look() {
        let set = ReadySet::new();
        let watchers = Arc::new(Watchers::default());
        let _first = watchers.register(&set, 1);
        let second = watchers.register(&set, 2);
        watchers.wake();
        watchers.wake();
        let mut tokens = Vec::new();
        set.ready(&mut tokens).await;
        assert_eq!(tokens, [1, 2]);
        tokens.clear();
        assert!(!set.take_ready(&mut tokens));

        watchers.wake();
        drop(second);
        set.ready(&mut tokens).await;
        assert_eq!(tokens, [1]);
        assert_eq!(watchers.len(), 1);
    }

    #[tokio::test]
    async fn a_move_before_the_wait_is_not_missed() {
        let set = ReadySet::new();
        let watchers = Arc::new(Watchers::default());
        let _watch = watchers.register(&set, 7);
        let mut tokens = Vec::new();
        watchers.wake();
        set.ready(&mut tokens).await;
        watchers.wake();
        tokens.clear();
        set.ready(&mut tokens).await;
        assert_eq!(tokens, [7]);
    }

    #[test]
    fn a_reader_that_comes_and_goes_without_looking_leaves_nothing_behind() {
        let set = ReadySet::new();
        let watchers = Arc::new(Watchers::default());
        for token in 0..100 {
            let _watch = watchers.register(&set, token);
            watchers.wake();
        }
        assert!(set.ready.lock().is_empty());
        assert_eq!(watchers.len(), 0);
    }

    #[test]
    fn a_dropped_reader_costs_nothing() {
        let watchers = Arc::new(Watchers::default());
        let watch = watchers.register(&ReadySet::new(), 1);
        watchers.wake();
        drop(watch);
        assert_eq!(watchers.len(), 0);
    }
}
