//! Keeps a full disk usable: appends are refused before the last bytes are gone, and the reserve is
//! given back to what makes room again.
//!
//! ```text
//!              free < a quarter of the reserve, or a log met a full disk
//!   reserved ───────────────────────────────────────────────────────────► full: appends refused,
//!       ▲                                                                 reserve given back
//!       └──────────────────────────────────────────────────────────────────┘
//!              free ≥ reserve + a quarter: reserve set aside again
//! ```
//! Without a reserve (`log.reserve.bytes = 0`, or no room for it at the start) each log deals with
//! a full disk by itself: it refuses what it has no room for and tries again.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::data_directory::DataDirectory;
use crate::{log::LogCounters, partition::WriteGate};

/// Looks after the room on the data directory's disk. Owned by one thread, which calls
/// [`SpaceGuard::tick`] every second or so.
#[derive(Debug)]
pub(super) struct SpaceGuard {
    directory: Arc<DataDirectory>,
    full: Arc<Full>,
}

/// Whether appends are refused for want of room, by the gate or, until the guard looks, by a log.
#[derive(Debug)]
pub(super) struct Full {
    gate: WriteGate,
    counters: Arc<LogCounters>,
    /// Of the counter, when the guard looked last.
    seen: AtomicU64,
}

impl Full {
    /// Whether they are now.
    pub(super) fn now(&self) -> bool {
        let was_met = self.counters.storage_full.get() != self.seen.load(Ordering::Acquire);
        was_met || self.gate.is_closed()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Stay,
    /// Refuse appends, give the reserve back.
    Close,
    /// Set it aside again, take appends.
    Open,
}

impl SpaceGuard {
    pub(super) fn new(
        directory: Arc<DataDirectory>,
        gate: WriteGate,
        counters: Arc<LogCounters>,
    ) -> Self {
        let seen = AtomicU64::new(counters.storage_full.get());
        Self { directory, full: Arc::new(Full { gate, counters, seen }) }
    }

    /// What it finds, for metrics.
    pub(super) fn full(&self) -> Arc<Full> {
        Arc::clone(&self.full)
    }

    /// Does what is due now. Blocks shortly.
    pub(super) fn tick(&mut self) {
        let met = self.full.counters.storage_full.get();
        let was_met = met != self.full.seen.load(Ordering::Relaxed);
        self.look(was_met);
        // Only now: in between, whoever asks finds one or the other.
        self.full.seen.store(met, Ordering::Release);
    }

    fn look(&self, was_met: bool) {
        let reserve = self.directory.reserve_bytes();
        if reserve == 0 {
            return;
        }
        let Ok(space) = self.directory.disk().space(self.directory.root()) else { return };
        match step(self.directory.has_reserve(), space.free, was_met, reserve) {
            Step::Stay => {}
            Step::Close => {
                self.full.gate.set_closed(true);
                self.directory.release_reserve();
                tracing::warn!(
                    free = space.free,
                    "the disk is full: appends are refused until there is room; delete records or topics, or enlarge it"
                );
            }
            Step::Open => match self.directory.reserve() {
                Ok(()) => {
                    if self.full.gate.is_closed() {
                        tracing::info!(
                            free = space.free,
                            "there is room on the disk again: appends are taken"
                        );
                    }
                    self.full.gate.set_closed(false);
                }
                Err(error) => tracing::warn!(%error, "no room for the reserve file yet"),
            },
        }
    }
}

fn step(has_reserve: bool, free: u64, was_met: bool, reserve: u64) -> Step {
    let margin = reserve / 4;
    match has_reserve {
        true if free < margin || (was_met && free < reserve) => Step::Close,
        false if free >= reserve.saturating_add(margin) => Step::Open,
        _ => Step::Stay,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::io::real::{MapPolicy, RealDisk};

    #[test]
    fn the_rule() {
        let cases = [
            ((true, 100, false), Step::Stay),
            ((true, 25, false), Step::Stay),
            ((true, 24, false), Step::Close),
            ((true, 99, true), Step::Close),
            // A quota, or the file's size: not the disk's free room.
            ((true, 100, true), Step::Stay),
            ((false, 124, false), Step::Stay),
            ((false, 125, false), Step::Open),
            ((false, 0, true), Step::Stay),
        ];
        for ((has_reserve, free, met), expected) in cases {
            assert_eq!(step(has_reserve, free, met, 100), expected, "{has_reserve} {free} {met}");
        }
    }

    #[test]
    fn after_it_closed_it_cannot_close_again_and_opening_leaves_it_open() {
        for free in 0..1000 {
            for met in [false, true] {
                if step(false, free, met, 100) == Step::Open {
                    assert_eq!(
                        step(true, free - 100, false, 100),
                        Step::Stay,
                        "no flapping: {free}"
                    );
                }
            }
        }
    }

    fn guard(root: &Path, reserve: u64) -> SpaceGuard {
        let disk = Arc::new(RealDisk::new(MapPolicy::Never));
        let directory = DataDirectory::open(root, disk, reserve).unwrap();
        SpaceGuard::new(Arc::new(directory), WriteGate::default(), Arc::default())
    }

    #[test]
    fn with_room_the_reserve_is_kept_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = guard(dir.path(), 4096);
        guard.tick();
        assert!(guard.directory.has_reserve() && !guard.full.gate.is_closed());
        guard.directory.release_reserve();
        guard.full.gate.set_closed(true);
        assert!(guard.full().now());
        guard.tick();
        assert!(!guard.full().now());
        assert!(guard.directory.has_reserve() && !guard.full.gate.is_closed());
    }

    #[test]
    fn without_room_for_a_reserve_nothing_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        // More than any disk has.
        let mut guard = guard(dir.path(), u64::MAX / 2);
        assert!(!guard.directory.has_reserve(), "no room for it keeps nobody from serving");
        guard.tick();
        assert!(!guard.full.gate.is_closed(), "without a reserve every log looks after itself");
    }
}
