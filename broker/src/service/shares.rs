//! Admission of produced bytes: one budget for the broker, of which a partition gets a share.
//!
//! Bytes are held from admission to answer, so a partition whose disk or replicas hang keeps what it
//! has. With one common stock it would sooner or later have all of it, and everybody would wait for
//! that one disk. So a partition that holds something already gets more only while it then holds at
//! most a third of what is left free: a quarter of what it found. One that hangs leaves the others
//! three quarters, two leave nine sixteenths, eight a tenth. This is the dynamic threshold of Choudhury
//! and Hahne ("Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998).
//! A partition that holds nothing gets one batch whatever its size, so nothing is too large to pass.
//!
//! Who does not get its bytes at once waits: the appends of one partition in order, the partitions
//! in turns. Whoever is over its share is passed over and holds up nobody; who waits for free bytes
//! is not overtaken, so that a large batch is not starved by small ones.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use riverrun_proto::{ids::TopicPartition, offset::Offset};
use tokio::sync::oneshot;

use crate::clock::Instant;

/// A partition holds at most one such part of what it leaves free.
const PART_OF_FREE: usize = 3;

/// The budget. Cheap to clone.
#[derive(Clone)]
pub(super) struct Admission {
    total: usize,
    state: Arc<Mutex<State>>,
}

/// The right to hold some bytes on behalf of a partition; given back when dropped.
pub(super) struct Admitted {
    admission: Admission,
    of: TopicPartition,
    bytes: usize,
}

/// Why bytes are not to be had at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    /// The partition has its share.
    Share,
    /// The broker has no more, or others wait for it already.
    Budget,
}

/// Where a partition stands, as its owner sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) high_watermark: Offset,
    pub(super) now: Instant,
}

struct State {
    free: usize,
    /// Those that hold or wait.
    partitions: HashMap<TopicPartition, Held>,
    /// Those that wait, in turns; each once.
    line: VecDeque<TopicPartition>,
    /// The first of them within its share waits for free bytes: nobody may overtake it.
    budget_short: bool,
    next_id: u64,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    waiting: VecDeque<Waiter>,
    /// Since when the high watermark stands where it stands, while something is held.
    still: Option<Progress>,
}

struct Waiter {
    id: u64,
    bytes: usize,
    grant: oneshot::Sender<Admitted>,
}

/// Takes a waiter that gives up out of the line.
struct InLine<'a> {
    admission: &'a Admission,
    of: TopicPartition,
    id: u64,
}

/// Grants to hand out once the lock is let go of: one whose waiter is gone comes back at once.
type Grants = Vec<(oneshot::Sender<Admitted>, Admitted)>;

// === impl Admission ===

impl Admission {
    /// A budget of `total` bytes, at least one.
    pub(super) fn new(total: usize) -> Self {
        let total = total.max(1);
        let state = State {
            free: total,
            partitions: HashMap::new(),
            line: VecDeque::new(),
            budget_short: false,
            next_id: 0,
        };
        Self { total, state: Arc::new(Mutex::new(state)) }
    }

    /// The right to hold `bytes` for `of`, if they are to be had and nobody waits before. More than
    /// the whole budget counts as all of it.
    pub(super) fn try_take(
        &self,
        of: TopicPartition,
        bytes: usize,
        progress: Progress,
    ) -> Result<Admitted, Short> {
        let bytes = bytes.min(self.total);
        let mut state = self.state.lock();
        let State { free, partitions, budget_short, .. } = &mut *state;
        let held = partitions.entry(of).or_default();
        held.look(progress);
        if !is_within_share(held.bytes, bytes, *free) {
            return Err(Short::Share);
        }
        if *budget_short || bytes > *free || !held.waiting.is_empty() {
            state.forget_if_idle(of);
            return Err(Short::Budget);
        }
        held.bytes += bytes;
        *free -= bytes;
        Ok(Admitted { admission: self.clone(), of, bytes })
    }

    /// The right to hold `bytes` for `of`, when it is its turn.
    ///
    /// Cancel safe; dropped, it loses its place in the line.
    pub(super) async fn take(self, of: TopicPartition, bytes: usize) -> Admitted {
        let bytes = bytes.min(self.total);
        let (grant, granted) = oneshot::channel();
        let in_line = {
            let mut state = self.state.lock();
            let id = state.next_id;
            state.next_id += 1;
            let held = state.partitions.entry(of).or_default();
            held.waiting.push_back(Waiter { id, bytes, grant });
            if held.waiting.len() == 1 {
                state.line.push_back(of);
            }
            InLine { admission: &self, of, id }
        };
        self.grant();
        let admitted = granted.await.expect("a waiter is kept until it is granted");
        drop(in_line);
        admitted
    }

    /// How long the high watermark of `of` has stood still although it holds something, as far as
    /// anybody looked; `None` while it holds nothing.
    pub(super) fn still_for(&self, of: TopicPartition, progress: Progress) -> Option<Duration> {
        let mut state = self.state.lock();
        let held = state.partitions.get_mut(&of).filter(|held| held.bytes > 0)?;
        Some(held.look(progress))
    }

    /// Bytes taken now.
    pub(super) fn used(&self) -> usize {
        self.total - self.state.lock().free
    }

    /// All of it.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// What one partition may hold while no other holds anything.
    pub(super) fn share(&self) -> usize {
        self.total / (PART_OF_FREE + 1)
    }

    /// What the partition holds that holds most.
    pub(super) fn largest(&self) -> usize {
        self.state.lock().partitions.values().map(|held| held.bytes).max().unwrap_or(0)
    }

    /// Gives out what can be had now.
    fn grant(&self) {
        let grants = self.state.lock().grants(self);
        for (grant, admitted) in grants {
            // Comes back as an error if its waiter has just gone, and with it the bytes.
            let _ = grant.send(admitted);
        }
    }
}

/// Whether a partition that holds `held` may take `bytes` of what is `free`.
fn is_within_share(held: usize, bytes: usize, free: usize) -> bool {
    held == 0 || held + bytes <= free.saturating_sub(bytes) / PART_OF_FREE
}

// === impl State ===

impl State {
    /// Takes out of the line whoever can have its bytes. Looks at each partition that waits: there
    /// are at most as many as calls that wait.
    fn grants(&mut self, admission: &Admission) -> Grants {
        let mut grants = Grants::new();
        self.budget_short = false;
        let mut at = 0;
        while let Some(&of) = self.line.get(at) {
            let held = self.partitions.get_mut(&of).expect("who waits is known");
            let bytes = held.waiting.front().map_or(0, |waiter| waiter.bytes);
            if !is_within_share(held.bytes, bytes, self.free) {
                at += 1;
                continue;
            }
            if bytes > self.free {
                self.budget_short = true;
                break;
            }
            let waiter = held.waiting.pop_front().expect("who stands in line waits");
            held.bytes += bytes;
            self.free -= bytes;
            self.line.remove(at);
            if !held.waiting.is_empty() {
                self.line.push_back(of);
            }
            grants.push((waiter.grant, Admitted { admission: admission.clone(), of, bytes }));
        }
        grants
    }

    fn leave_line(&mut self, of: TopicPartition, id: u64) {
        let Some(held) = self.partitions.get_mut(&of) else { return };
        held.waiting.retain(|waiter| waiter.id != id);
        if held.waiting.is_empty() {
            self.line.retain(|waiting| *waiting != of);
        }
        self.forget_if_idle(of);
    }

    fn forget_if_idle(&mut self, of: TopicPartition) {
        if self.partitions.get(&of).is_some_and(|h| h.bytes == 0 && h.waiting.is_empty()) {
            self.partitions.remove(&of);
        }
    }
}

// === impl Held ===

impl Held {
    /// Takes note of where the high watermark stands.
    fn look(&mut self, progress: Progress) -> Duration {
        match self.still {
            Some(still) if self.bytes > 0 && still.high_watermark == progress.high_watermark => {
                progress.now.duration_since(still.now)
            }
            _ => {
                self.still = Some(progress);
                Duration::ZERO
            }
        }
    }
}

// === impl Admitted, InLine ===

impl Drop for Admitted {
    fn drop(&mut self) {
        {
            let mut state = self.admission.state.lock();
            state.free += self.bytes;
            if let Some(held) = state.partitions.get_mut(&self.of) {
                held.bytes -= self.bytes;
            }
            state.forget_if_idle(self.of);
            if state.line.is_empty() {
                return;
            }
        }
        self.admission.grant();
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.admission.state.lock();
            let known = state.partitions.get(&self.of);
            if !known.is_some_and(|held| held.waiting.iter().any(|w| w.id == self.id)) {
                return;
            }
            state.leave_line(self.of, self.id);
        }
        // It may have stood before others.
        self.admission.grant();
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("used", &self.used())
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted")
            .field("of", &self.of)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "shares_test.rs"]
mod tests;
