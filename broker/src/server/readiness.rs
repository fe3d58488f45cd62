//! Whether the broker takes requests.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::AbortHandle;

use super::{DataDirectory, presence::OwnPresence};
use crate::{
    clock::WallTrust, http::Readiness, metadata::Presence, partition::registry::Registry,
    shutdown::Shutdown,
};

/// How far the broker has come; asked by the HTTP port from the first moment on.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    shutdown: Shutdown,
    wall: WallTrust,
    serving: Arc<OnceLock<Serving>>,
}

#[derive(Debug)]
struct Serving {
    directory: Arc<DataDirectory>,
    registry: Arc<Registry>,
    grpc: AbortHandle,
    presence: OwnPresence,
    /// All replicas were in sync once since it started. What falls behind later is for people: whoever
    /// takes traffic from a broker that is slow for a while makes it worse.
    caught_up: AtomicBool,
}

impl Stage {
    /// Starting.
    pub(super) fn new(shutdown: Shutdown, wall: WallTrust) -> Self {
        Self { shutdown, wall, serving: Arc::default() }
    }

    /// It serves from now on.
    pub(super) fn serves(
        &self,
        directory: Arc<DataDirectory>,
        registry: Arc<Registry>,
        grpc: AbortHandle,
        presence: OwnPresence,
    ) {
        // A broker starts once.
        let _ = self.serving.set(Serving {
            directory,
            registry,
            grpc,
            presence,
            caught_up: AtomicBool::new(false),
        });
    }

    /// Ready while it serves: the directory is sound, the metadata is followed, nobody asked it to
    /// stop; after a start only once its replicas are in sync again, so that whoever restarts brokers one
    /// after the other waits for it before the next. A full disk is no reason: reads go on; nor is a wall
    /// clock that went wrong, which is for people (`riverrun cluster health`): where the leader of the
    /// quorum is wrong, all would be unready.
    pub(super) fn readiness(&self) -> Readiness {
        let not_ready = |why: &str| Readiness::NotReady(why.to_owned());
        if self.shutdown.is_draining() {
            return not_ready("the broker is stopping");
        }
        let Some(serving) = self.serving.get() else {
            let wrong_clock =
                self.wall.off().map(|off| format!("the broker is not taken in: {off}"));
            return not_ready(
                wrong_clock.as_deref().unwrap_or("the broker is starting: logs are being opened"),
            );
        };
        let Serving { directory, registry, grpc, presence, caught_up } = serving;
        if let Err(failed) = directory.failure().check() {
            return Readiness::NotReady(failed.to_string());
        }
        if let Some(why) = registry.applying_ended() {
            let why = format!("changes of topics are not carried out any more: {why}; restart it");
            return Readiness::NotReady(why);
        }
        match presence.now() {
            Some(Presence::Active) => {}
            Some(Presence::Leaving) => return not_ready("the broker is about to stop"),
            Some(Presence::Fenced) | None => {
                let wrong_clock = self.wall.off().map(|off| format!("the broker is fenced: {off}"));
                let silent = "the cluster does not hear this broker: it is fenced";
                return not_ready(wrong_clock.as_deref().unwrap_or(silent));
            }
        }
        if grpc.is_finished() {
            return not_ready("the gRPC service has ended; restart it");
        }
        if !caught_up.load(Ordering::Relaxed) {
            let behind = presence.replicas_behind();
            if behind > 0 {
                return Readiness::NotReady(format!(
                    "it serves, and {behind} of its replicas are not in sync again since it started: \
                     stop no other broker now"
                ));
            }
            caught_up.store(true, Ordering::Relaxed);
        }
        Readiness::Ready
    }
}
