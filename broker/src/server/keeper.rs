//! The thread that does what nobody asks for: deadlines, retention, flushing, idle maps, disk space.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{StartError, io_error, space::SpaceGuard};
use crate::{
    clock::{Clock, Instant},
    config::Config,
    io::real::RealDisk,
    partition::{
        Lease,
        housekeeping::{EXPIRY_INTERVAL, Housekeeping},
        registry::Registry,
    },
    shutdown::{Phase, Shutdown},
};

/// How often room on the disk is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// How often sealed segments that nobody reads lose their maps.
const MAPS_INTERVAL: Duration = Duration::from_secs(300);

/// What it looks after.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) registry: Arc<Registry>,
    pub(super) space: SpaceGuard,
    pub(super) disk: RealDisk,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) lease: Lease,
}

impl Keeper {
    /// Starts it; it ends when the broker stops, at once if it is unparked.
    pub(super) fn start(
        mut self,
        config: &Config,
        shutdown: &Shutdown,
    ) -> Result<thread::Thread, StartError> {
        let mut housekeeping = Housekeeping::new(
            Arc::clone(&self.registry),
            (Arc::clone(&self.clock), self.lease.clone()),
            config.log.flush_dirty_bytes_max.get(),
            config.log.retention_check_interval_ms,
        );
        let running = shutdown.register("housekeeping");
        let shutdown = shutdown.clone();
        let thread = thread::Builder::new()
            .name("housekeeping".to_owned())
            .spawn(move || {
                let _running = running;
                let now = self.clock.monotonic();
                let (mut space_at, mut maps_at) = (now, now + MAPS_INTERVAL);
                while shutdown.phase() < Phase::Stopping {
                    // Deadlines and retention of all partitions hang on this thread.
                    let round = AssertUnwindSafe(|| {
                        housekeeping.tick();
                        self.look_after_disk(&mut space_at, &mut maps_at);
                    });
                    if catch_unwind(round).is_err() {
                        tracing::error!("housekeeping panicked and goes on; please report this");
                    }
                    thread::park_timeout(EXPIRY_INTERVAL);
                }
            })
            .map_err(io_error("starting the housekeeping thread"))?;
        Ok(thread.thread().clone())
    }

    fn look_after_disk(&mut self, space_at: &mut Instant, maps_at: &mut Instant) {
        let now = self.clock.monotonic();
        if now >= *space_at {
            *space_at = now + SPACE_INTERVAL;
            self.space.tick();
        }
        if now >= *maps_at {
            *maps_at = now + MAPS_INTERVAL;
            self.disk.drop_idle_maps();
        }
    }
}
