//! What partitions do without being asked: expire waits, apply retention, bound what is not on disk, tell
//! readers when the lease ends, go on with moves that were held back.

use std::{sync::Arc, time::Duration};

use super::{lease::Lease, registry::Registry};
use crate::clock::{Clock, Instant};

/// How often produces past their deadline are answered: how late such an answer may come. And how often
/// moves that are throttled go on.
pub const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);

/// How often bytes above recovery points are counted and logs are ticked. At 1 GB/s a directory overshoots its limit by a quarter.
const FLUSHER_INTERVAL: Duration = Duration::from_secs(1);

/// The flusher starts at this fraction of the limit, so that syncs are done before it is reached.
const FLUSHER_STARTS_AT: u64 = 4;

/// Decides what is due. Owned by one thread, which calls [`Housekeeping::tick`] every
/// [`EXPIRY_INTERVAL`].
#[derive(Debug)]
pub struct Housekeeping {
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    lease: Lease,
    /// It held when it was looked at last.
    leased: bool,
    /// Bytes of the directory that may be above recovery points.
    dirty_bytes_max: u64,
    retention_interval: Duration,
    next_flusher: Instant,
    next_retention: Instant,
}

impl Housekeeping {
    /// For the partitions of `registry`.
    pub fn new(
        registry: Arc<Registry>,
        (clock, lease): (Arc<dyn Clock>, Lease),
        dirty_bytes_max: u64,
        retention_interval: Duration,
    ) -> Self {
        let now = clock.monotonic();
        Self {
            registry,
            clock,
            lease,
            leased: false,
            dirty_bytes_max,
            retention_interval,
            next_flusher: now,
            next_retention: now,
        }
    }

    /// Does what is due now. Blocks for no disk: what needs one goes to the pool.
    pub fn tick(&mut self) {
        let now = self.clock.monotonic();
        let partitions = self.registry.all();
        for partition in partitions.iter().filter(|partition| partition.has_waiters()) {
            partition.expire(now);
        }
        let leased = self.lease.holds(now);
        if std::mem::replace(&mut self.leased, leased) != leased {
            for partition in partitions.iter().filter(|partition| partition.leads().is_some()) {
                partition.tell_of_lease();
            }
        }
        // A leader that was not ready (its metadata is behind, a connection broke) is so soon.
        for partition in partitions.iter().filter(|partition| partition.waits_to_subscribe()) {
            partition.subscribe_again();
        }
        self.registry.let_moves_in();
        if now >= self.next_retention {
            self.next_retention = now + self.retention_interval;
            for partition in &partitions {
                partition.apply_retention();
            }
        }
        if now >= self.next_flusher {
            self.next_flusher = now + FLUSHER_INTERVAL;
            let dirty: Vec<_> =
                partitions.iter().map(|partition| partition.dirty_bytes()).collect();
            for partition in &partitions {
                partition.tick();
            }
            for index in to_checkpoint(&dirty, self.dirty_bytes_max / FLUSHER_STARTS_AT) {
                partitions[index].request_checkpoint();
            }
        }
    }
}

/// Which partitions to checkpoint so that the others together have at most `limit` dirty bytes: the
/// dirtiest first, since a sync costs about the same for few bytes as for many.
fn to_checkpoint(dirty: &[u64], limit: u64) -> Vec<usize> {
    let mut total: u64 = dirty.iter().sum();
    if total <= limit {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..dirty.len()).filter(|i| dirty[*i] > 0).collect();
    order.sort_unstable_by_key(|i| std::cmp::Reverse(dirty[*i]));
    let mut chosen = Vec::new();
    for index in order {
        if total <= limit {
            break;
        }
        total -= dirty[index];
        chosen.push(index);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dirtiest_are_flushed_until_the_rest_fits() {
        let cases: [(&[u64], u64, &[usize]); 6] = [
            (&[], 0, &[]),
            (&[5, 5], 10, &[]),
            (&[5, 6], 10, &[1]),
            (&[1, 9, 3], 3, &[1, 2]),
            (&[1, 9, 3], 0, &[1, 2, 0]),
            (&[0, 7, 0], 0, &[1]),
        ];
        for (dirty, limit, expected) in cases {
            assert_eq!(to_checkpoint(dirty, limit), expected, "{dirty:?} {limit}");
        }
    }
}
