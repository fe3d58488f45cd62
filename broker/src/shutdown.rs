//! How a broker stops: first it drains, then it stops, and it can say who keeps it from ending.
//!
//! ```text
//! running ──begin_drain──► draining ──stop──► stopping ──last part drops its guard──► finished
//!          no new work,     what is in flight   everybody leaves
//!          readiness "no"   is finished         at the next await
//! ```
//!
//! Every long-running part holds a [`Running`] guard under its name. The one who stops the broker
//! waits on [`Shutdown::finished`] with a limit and learns the names of those still there, instead
//! of hanging without a word.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// How far a broker is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// Nothing new is taken; what is in flight is finished.
    Draining,
    /// Everybody leaves now.
    Stopping,
}

/// The handle all parts share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    phase: Arc<watch::Sender<Phase>>,
    parts: Arc<Parts>,
}

/// Held by a part while it runs; dropping it says that the part has ended.
#[derive(Debug)]
pub struct Running {
    id: u64,
    parts: Arc<Parts>,
}

/// Names of parts that had not ended in time, each with how many there were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("still running: {}", self.list())]
pub struct StillRunning(pub BTreeMap<&'static str, usize>);

#[derive(Debug)]
struct Parts {
    next_id: std::sync::atomic::AtomicU64,
    running: Mutex<BTreeMap<u64, &'static str>>,
    /// How many run; for those who wait for none.
    count: watch::Sender<usize>,
}

// === impl Shutdown ===

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// Running, no parts yet.
    pub fn new() -> Self {
        let parts =
            Parts { next_id: 0.into(), running: Mutex::default(), count: watch::Sender::new(0) };
        Self { phase: Arc::new(watch::Sender::new(Phase::Running)), parts: Arc::new(parts) }
    }

    /// Says that a part called `name` runs until the guard is dropped.
    pub fn register(&self, name: &'static str) -> Running {
        let id = self.parts.next_id.fetch_add(1, Ordering::Relaxed);
        self.parts.change(|running| _ = running.insert(id, name));
        Running { id, parts: Arc::clone(&self.parts) }
    }

    /// From running to draining. Without effect later on.
    pub fn begin_drain(&self) {
        self.enter(Phase::Draining);
    }

    /// To stopping, from any phase.
    pub fn stop(&self) {
        self.enter(Phase::Stopping);
    }

    /// Where the broker is.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether nothing new is to be taken any more.
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Waits until the broker drains (or stops). Cancel safe.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until the broker stops. Cancel safe.
    pub async fn stopping(&self) {
        self.reached(Phase::Stopping).await;
    }

    /// Waits until no part runs any more, at most `within`. Cancel safe.
    ///
    /// # Errors
    /// The names of those that still ran; they go on running.
    pub async fn finished(&self, within: Duration) -> Result<(), StillRunning> {
        let mut count = self.parts.count.subscribe();
        match tokio::time::timeout(within, count.wait_for(|running| *running == 0)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StillRunning(self.still_running())),
        }
    }

    /// Names of the parts that run now, each with how many.
    pub fn still_running(&self) -> BTreeMap<&'static str, usize> {
        let mut names = BTreeMap::new();
        for name in self.parts.running.lock().values() {
            *names.entry(*name).or_default() += 1;
        }
        names
    }

    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }

    async fn reached(&self, phase: Phase) {
        let mut watched = self.phase.subscribe();
        watched.wait_for(|now| *now >= phase).await.expect("the sender lives as long as self");
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        self.parts.change(|running| _ = running.remove(&self.id));
    }
}

// === impl Parts ===

impl Parts {
    /// Changes the set and publishes its size, in one step: sizes are published in order.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<u64, &'static str>)) {
        let mut running = self.running.lock();
        change(&mut running);
        self.count.send_replace(running.len());
    }
}

// === impl StillRunning ===

impl StillRunning {
    fn list(&self) -> impl fmt::Display {
        let names = self.0.iter().map(|(name, count)| match count {
            1 => (*name).to_owned(),
            count => format!("{name} ({count})"),
        });
        names.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough for a loaded machine; only reached when a test is about to fail.
    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn phases_only_move_forward() {
        let shutdown = Shutdown::new();
        assert_eq!(shutdown.phase(), Phase::Running);
        assert!(!shutdown.is_draining());
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                shutdown.draining().await;
                shutdown.stopping().await;
            }
        });
        shutdown.begin_drain();
        assert_eq!(shutdown.phase(), Phase::Draining);
        shutdown.stop();
        shutdown.begin_drain();
        assert_eq!(shutdown.phase(), Phase::Stopping);
        waiting.await.unwrap();
        shutdown.draining().await;
    }

    #[tokio::test]
    async fn whoever_still_runs_is_named() {
        let shutdown = Shutdown::new();
        let first = shutdown.register("gRPC connection");
        let second = shutdown.register("gRPC connection");
        let flusher = shutdown.register("flusher");
        let error = shutdown.finished(Duration::ZERO).await.unwrap_err();
        assert_eq!(error.to_string(), "still running: flusher, gRPC connection (2)");
        drop(flusher);
        drop(first);
        assert_eq!(shutdown.still_running(), BTreeMap::from([("gRPC connection", 1)]));
        let end = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.finished(LONG).await }
        });
        drop(second);
        assert_eq!(end.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn with_no_parts_it_is_finished_at_once() {
        assert_eq!(Shutdown::new().finished(Duration::ZERO).await, Ok(()));
    }
}
