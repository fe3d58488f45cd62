//! Threads of their own for what must not wait for clients, nor for one another.
//!
//! | threads | serve |
//! |---|---|
//! | `control` | what the cluster lives on: messages of the quorum, heartbeats |
//! | `replication` | batches between replicas |
//!
//! What serves clients runs on the runtime that the broker was started on. Busy or at a stand, none
//! of the three keeps another from going on.

use std::{fmt, net::SocketAddr, thread};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
};

use super::{StartError, io_error};

/// One that is busy with a large message does not hold up the others' heartbeats.
const CONTROL_THREADS: usize = 2;
/// Past this many, a few followers' streams keep no more of them busy.
const REPLICATION_THREADS_MAX: usize = 8;

/// Threads under a name. Dropped, what runs on them ends at its next wait.
pub(super) struct Threads(Option<Runtime>);

// === impl Threads ===

impl Threads {
    pub(super) fn control() -> Result<Self, StartError> {
        Self::start("control", CONTROL_THREADS)
    }

    /// One for each processor, and two at least: one that copies a large push holds up no other.
    pub(super) fn replication() -> Result<Self, StartError> {
        let processors = thread::available_parallelism().map_or(2, usize::from);
        Self::start("replication", processors.clamp(2, REPLICATION_THREADS_MAX))
    }

    fn start(name: &'static str, count: usize) -> Result<Self, StartError> {
        let mut threads = Builder::new_multi_thread();
        let threads = threads.worker_threads(count).thread_name(name).enable_all();
        Ok(Self(Some(threads.build().map_err(io_error("starting threads of the cluster"))?)))
    }

    pub(super) fn handle(&self) -> Handle {
        self.0.as_ref().expect("taken only by drop").handle().clone()
    }

    /// Binds a port that is served from here.
    pub(super) async fn listen(
        &self,
        address: SocketAddr,
        key: &'static str,
    ) -> Result<TcpListener, StartError> {
        let binding = self.handle().spawn(async move { super::listen(address, key).await });
        binding.await.unwrap_or_else(|panic| Err(super::panicked(panic)))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waiting for it would block whoever drops it.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}
