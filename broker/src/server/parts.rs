//! What has to be stopped, and in which order: by a stop, a failed start, or a drop.

use std::{sync::Arc, thread, time::Duration};

use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Handle},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{DataDirectory, presence::OwnPresence, runtimes::Threads};
use crate::{controller::raft::RaftQuorum, partition::registry::Registry, shutdown::Shutdown};

/// Time that parts have to end once they were told to, past the drain.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Name of the part that opens the partitions.
pub(super) const OPENING: &str = "opening of the partitions";

/// What runs of a broker; all of it, or as much as a start has come to.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) shutdown: Shutdown,
    pub(super) directory: Option<Arc<DataDirectory>>,
    pub(super) quorum: Option<Arc<RaftQuorum>>,
    pub(super) control: Option<Threads>,
    pub(super) replication: Option<Threads>,
    pub(super) presence: Option<OwnPresence>,
    pub(super) registry: Option<Arc<Registry>>,
    /// Sleeps between its rounds.
    pub(super) keeper: Option<thread::Thread>,
    /// Ends by itself once it has drained.
    pub(super) serving: Option<JoinHandle<()>>,
    /// Removed with everything in it at the very end.
    dir: Option<TempDir>,
    stopped: bool,
}

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Everything was written down: the next start is a quick one.
    pub clean: bool,
    /// What still ran when its time was over, if anything.
    pub cut_off: Option<String>,
}

impl Parts {
    pub(super) fn new(dir: Option<TempDir>) -> Self {
        Self {
            shutdown: Shutdown::new(),
            directory: None,
            quorum: None,
            control: None,
            replication: None,
            presence: None,
            registry: None,
            keeper: None,
            serving: None,
            dir,
            stopped: false,
        }
    }

    /// Stops what there is. Calls and streams have until `drain` to end.
    pub(super) async fn stop(&mut self, drain: Duration) -> Stopped {
        // Others lead before calls are refused here. Not where it has to be quick, or was not serving.
        if let Some(presence) = self.presence.take()
            && self.serving.is_some()
            && !drain.is_zero()
        {
            presence.leave().await;
        }
        self.shutdown.begin_drain();
        let mut cut_off = None;
        // Calls and streams end by themselves; the other parts end when they are told to.
        if let Some(serving) = &mut self.serving {
            match timeout(drain, serving).await {
                // Nobody may ask it again.
                Ok(_) => self.serving = None,
                Err(_) => cut_off = Some("calls or streams".to_owned()),
            }
        }
        self.shutdown.stop();
        if let Some(keeper) = &self.keeper {
            keeper.unpark();
        }
        if let Err(still) = self.shutdown.finished(STOP_GRACE).await {
            cut_off = Some(still.to_string());
        }
        // From here on a drop has nothing left to do: what follows runs to its end by itself.
        let rest = Rest {
            // Else the lock is let go of when the opening ends, and with it its handle.
            may_unlock: !self.shutdown.still_running().contains_key(OPENING),
            directory: self.directory.take(),
            quorum: self.quorum.take(),
            control: self.control.take(),
            replication: self.replication.take(),
            registry: self.registry.take(),
            dir: self.dir.take(),
        };
        self.stopped = true;
        let clean = spawn_blocking(|| rest.finish()).await.unwrap_or(false);
        Stopped { clean, cut_off }
    }
}

/// In the background, and with the calls under way cut off.
impl Drop for Parts {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        if let Some(serving) = &self.serving {
            serving.abort();
        }
        self.shutdown.begin_drain();
        self.shutdown.stop();
        let mut rest = Self {
            shutdown: self.shutdown.clone(),
            directory: self.directory.take(),
            quorum: self.quorum.take(),
            control: self.control.take(),
            replication: self.replication.take(),
            presence: self.presence.take(),
            registry: self.registry.take(),
            keeper: self.keeper.take(),
            serving: self.serving.take(),
            dir: self.dir.take(),
            // Whatever becomes of the thread, this is the last try.
            stopped: true,
        };
        // On a thread of its own: the runtime that this was started in may be about to end.
        let stopping = thread::Builder::new().name("stopping".to_owned()).spawn(move || {
            match Builder::new_current_thread().enable_time().build() {
                Ok(runtime) => {
                    runtime.block_on(rest.stop(Duration::ZERO));
                }
                Err(error) => {
                    tracing::warn!(%error, "not stopped in order; the next start scans");
                }
            }
        });
        if let Err(error) = stopping {
            tracing::warn!(%error, "not stopped in order; the next start scans");
        }
    }
}

/// What is left when nobody uses it any more.
struct Rest {
    may_unlock: bool,
    directory: Option<Arc<DataDirectory>>,
    quorum: Option<Arc<RaftQuorum>>,
    control: Option<Threads>,
    replication: Option<Threads>,
    registry: Option<Arc<Registry>>,
    dir: Option<TempDir>,
}

impl Rest {
    /// Returns whether everything was written down. Blocks; on a thread of a runtime.
    fn finish(self) -> bool {
        let Self { may_unlock, directory, quorum, control, replication, registry, dir } = self;
        let Some(directory) = directory else { return false };
        directory.release_reserve();
        drop(replication);
        let closed = registry.as_ref().is_some_and(|registry| registry.close());
        if let Some(quorum) = quorum {
            Handle::current().block_on(quorum.shutdown());
        }
        drop(control);
        let marked = closed
            && directory
                .mark_clean()
                .inspect_err(|error| tracing::error!(%error, "no clean-shutdown marker"))
                .is_ok();
        if let Some(registry) = registry {
            registry.end_threads();
        }
        if may_unlock {
            directory.unlock();
        }
        drop(dir);
        marked
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, pin::pin};

    use futures::{FutureExt, poll};

    use super::*;
    use crate::clock::{Clock, SystemClock};

    fn wait_until_gone(dir: &Path) {
        let until = SystemClock.monotonic() + Duration::from_secs(20);
        while dir.exists() {
            assert!(SystemClock.monotonic() < until, "{} is still there", dir.display());
            thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_stop_that_is_given_up_is_done_in_the_background() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let mut parts = Parts::new(Some(dir));
        // Has ended already; nobody asks a task twice what became of it.
        let serving = tokio::spawn(async {});
        while !serving.is_finished() {
            tokio::task::yield_now().await;
        }
        parts.serving = Some(serving);
        let running = parts.shutdown.register("one that takes its time");
        {
            let mut stopping = pin!(parts.stop(Duration::from_secs(60)));
            assert!(poll!(stopping.as_mut()).is_pending(), "it waits for the one that runs");
            assert!(stopping.as_mut().now_or_never().is_none());
        }
        assert!(parts.serving.is_none());
        drop(parts);
        drop(running);
        wait_until_gone(&path);
    }

    #[test]
    fn what_is_dropped_outside_of_any_runtime_stops_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let parts = Parts::new(Some(dir));
        let shutdown = parts.shutdown.clone();
        drop(parts);
        wait_until_gone(&path);
        assert_eq!(shutdown.phase(), crate::shutdown::Phase::Stopping);
    }
}
