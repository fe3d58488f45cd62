//! Until when this broker may act on what it leads without asking anybody (DESIGN D17).
//!
//! A leader that was replaced and has not heard of it can lose nothing that waits for all in-sync
//! replicas: they refuse it by its epoch. What nobody else is asked about is another matter: a
//! record that the leader alone acknowledges, and where a partition ends. Both are refused once the
//! lease has run out, before anybody else can lead.
//!
//! The leader of the metadata quorum grants it with its answers to heartbeats, counted from when the
//! heartbeat was *sent*, and for less than it takes until a broker that is not heard is fenced
//! ([`crate::controller::Liveness::lease`]). It is about the broker; whether a partition needs it is
//! for the partition to say ([`crate::replica::Replica::others_may_lead`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::clock::Instant;

/// See the module. Clones are of the same lease.
#[derive(Debug, Clone)]
pub struct Lease(Arc<AtomicU64>);

// === impl Lease ===

impl Lease {
    /// One that does not run out: of a broker that nobody can take anything from.
    pub fn unlimited() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// One that is still to be granted.
    pub fn not_granted() -> Self {
        Self(Arc::default())
    }

    /// Granted until then, if that is longer than it was.
    pub fn extend(&self, until: Instant) {
        self.0.fetch_max(nanos(until), Ordering::Relaxed);
    }

    /// At an end then, if that is earlier than it was.
    pub fn end(&self, at: Instant) {
        self.0.fetch_min(nanos(at), Ordering::Relaxed);
    }

    /// Whether it holds.
    pub fn holds(&self, now: Instant) -> bool {
        nanos(now) < self.0.load(Ordering::Relaxed)
    }
}

/// Fits for five hundred years.
fn nanos(at: Instant) -> u64 {
    let since: Duration = at.since_start();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn it_holds_until_its_end() {
        let clock = ManualClock::default();
        let after = |ms| clock.monotonic() + Duration::from_millis(ms);
        let lease = Lease::not_granted();
        assert!(!lease.holds(after(0)));
        lease.extend(after(100));
        lease.extend(after(50));
        assert!(lease.holds(after(99)), "an answer that comes late takes nothing away");
        assert!(!lease.holds(after(100)));
        lease.end(after(30));
        lease.end(after(60));
        assert!(lease.holds(after(29)) && !lease.holds(after(30)));
        assert!(Lease::unlimited().holds(after(u64::MAX / 2_000_000)));
    }
}
