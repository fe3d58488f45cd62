//! Carries the metadata log's changes to the partitions, in order.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::presence::OwnPresence;
use crate::{
    controller::{Subscription, Update},
    metadata::Delta,
    partition::registry::Registry,
    shutdown::Shutdown,
};

/// How often partitions that could not be opened or made are tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Applies whatever `subscription` says until the broker stops. Partitions are opened and made on a
/// blocking thread; the next change waits for that.
///
/// If it ends before the broker does (the metadata log failed, a change panicked), the registry is
/// told: nobody waits for a change that will not come, and the broker is not ready any more.
pub(super) async fn follow(
    subscription: Subscription,
    registry: Arc<Registry>,
    shutdown: Shutdown,
    presence: OwnPresence,
) {
    let _running = shutdown.register("metadata follower");
    let why = tokio::select! {
        () = shutdown.stopping() => "the broker is stopping".to_owned(),
        why = follow_on(subscription, &registry, &shutdown, &presence) => {
            tracing::error!(%why, "metadata changes are not carried out any more; this broker stops");
            why
        }
    };
    registry.end_applying(&why);
}

/// Returns why it ended.
async fn follow_on(
    mut subscription: Subscription,
    registry: &Arc<Registry>,
    shutdown: &Shutdown,
    presence: &OwnPresence,
) -> String {
    let mut image = Arc::clone(subscription.start());
    presence.applied(image.offset());
    let mut retry = interval(RETRY_INTERVAL);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let update = tokio::select! {
            update = subscription.next() => update,
            _ = retry.tick() => {
                if registry.has_retriable() {
                    let (registry, image) = (Arc::clone(registry), Arc::clone(&image));
                    if let Err(why) = blocking(move || registry.retry_failed(&image)).await {
                        return why;
                    }
                }
                continue;
            }
        };
        let Some(update) = update else {
            if shutdown.is_draining() {
                shutdown.stopping().await;
            }
            return "the metadata log has ended".to_owned();
        };
        let (deltas, next) = match update {
            Update::Change(change) => (change.deltas.clone(), Arc::clone(&change.image)),
            Update::Resync(newest) => (Delta::between(&image, &newest), newest),
        };
        image = Arc::clone(&next);
        let registry = Arc::clone(registry);
        let applied = blocking(move || {
            for delta in &deltas {
                registry.apply(delta);
            }
            registry.note_applied(next.offset());
        });
        if let Err(why) = applied.await {
            return why;
        }
        if let Some(run) = presence.replaced_by(&image) {
            return format!(
                "this broker was registered anew, in run {run}, by a process that started before it \
                 or has the same node id; this one is not heard any more"
            );
        }
        presence.applied(image.offset());
    }
}

async fn blocking(job: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let ran = tokio::task::spawn_blocking(job).await;
    ran.map_err(|panic| format!("a change was not carried out: {panic}"))
}
