//! Before it is said that something does not exist: whether it came into being elsewhere just now.
//!
//! A broker's metadata may be a moment behind. Whoever was told by one broker that a topic was made
//! and asks the next must not hear that there is none. So a broker that does not know what a request
//! names first waits for a read barrier of the quorum, within [`PATIENCE`], and looks again.
//!
//! Whoever asks for what does not exist costs the quorum little, however often and however many ask:
//! one barrier is under way at a time, it begins after a pause of [`GATHER`] in which others join it,
//! and all who came before it began share it. What was deleted is known to be, and needs none. A
//! broker that is the whole quorum knows everything and never waits.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use riverrun_proto::ids::BrokerId;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::controller::MetaQuorum;

/// How long a request waits for the quorum before it is answered with what is known here.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a barrier waits for company: two hundred a second at most.
const GATHER: Duration = Duration::from_millis(5);

/// See the module.
pub(super) struct Freshness {
    me: BrokerId,
    quorum: Arc<dyn MetaQuorum>,
    /// Barriers that have begun.
    begun: AtomicU64,
    /// The last that ended, and whether it did so well. Held by whoever sees to the next.
    ended: Mutex<(u64, bool)>,
}

// === impl Freshness ===

impl Freshness {
    pub(super) fn new(me: BrokerId, quorum: Arc<dyn MetaQuorum>) -> Self {
        Self { me, quorum, begun: AtomicU64::new(0), ended: Mutex::new((0, true)) }
    }

    /// Waits until this broker knows all that was acknowledged anywhere before; `false`: nobody
    /// could say so in time. Cancel safe.
    pub(super) async fn catch_up(&self) -> bool {
        if self.quorum.voters().voting.iter().all(|voter| voter.node == self.me) {
            return true;
        }
        timeout(PATIENCE, self.share_barrier()).await.unwrap_or(false)
    }

    async fn share_barrier(&self) -> bool {
        let seen = self.begun.load(Ordering::SeqCst);
        let mut ended = self.ended.lock().await;
        let (last, well) = *ended;
        // It began after this was called.
        if last > seen {
            return well;
        }
        sleep(GATHER).await;
        let this = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let barrier = timeout(PATIENCE, self.quorum.read_barrier()).await;
        let well = barrier.is_ok_and(|passed| passed.is_ok());
        *ended = (this, well);
        well
    }
}

impl fmt::Debug for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Freshness").field("begun", &self.begun).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "freshness_test.rs"]
mod tests;
