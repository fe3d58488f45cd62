//! Carries the metadata log's changes to the partitions, in order.

use std::sync::Arc;

use crate::{
    controller::{Subscription, Update},
    metadata::{Delta, MetadataImage},
    partition::registry::Registry,
    shutdown::Shutdown,
};

/// Applies whatever `subscription` says until the broker stops. Partitions are opened and made on a
/// blocking thread; the next change waits for that.
pub(super) async fn follow(
    mut subscription: Subscription,
    registry: Arc<Registry>,
    shutdown: Shutdown,
) {
    let _running = shutdown.register("metadata follower");
    let mut image = Arc::clone(subscription.start());
    loop {
        let update = tokio::select! {
            () = shutdown.stopping() => return,
            update = subscription.next() => update,
        };
        let Some(update) = update else { return };
        let (deltas, next) = match update {
            Update::Change(change) => (change.deltas.clone(), Arc::clone(&change.image)),
            Update::Resync(newest) => (Delta::between(&image, &newest), newest),
        };
        image = next;
        if let Err(panic) = carry_out(Arc::clone(&registry), deltas, Arc::clone(&image)).await {
            tracing::error!(%panic, "a metadata change was not carried out; restart this broker");
            return;
        }
    }
}

async fn carry_out(
    registry: Arc<Registry>,
    deltas: Vec<Delta>,
    image: Arc<MetadataImage>,
) -> Result<(), tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || {
        for delta in &deltas {
            registry.apply(delta);
        }
        registry.note_applied(image.offset());
    })
    .await
}
