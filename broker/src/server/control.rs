//! The control runtime: threads that serve nodes, never clients.
//!
//! What the cluster lives on (messages of the quorum, heartbeats) must go on while the threads that
//! serve clients are busy or stand still. So it has threads of its own.

use std::{fmt, net::SocketAddr};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
};

use super::{StartError, io_error};

/// Threads: one that is busy with a large message does not hold up the others' heartbeats.
const THREADS: usize = 2;

/// See the module. Dropped, what runs on it ends at its next wait.
pub(super) struct ControlRuntime(Option<Runtime>);

// === impl ControlRuntime ===

impl ControlRuntime {
    pub(super) fn start() -> Result<Self, StartError> {
        let mut threads = Builder::new_multi_thread();
        let threads = threads.worker_threads(THREADS).thread_name("control").enable_all();
        Ok(Self(Some(threads.build().map_err(io_error("starting the control threads"))?)))
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

impl Drop for ControlRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waiting for it would block whoever drops it.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for ControlRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlRuntime").finish_non_exhaustive()
    }
}
