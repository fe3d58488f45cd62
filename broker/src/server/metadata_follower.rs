//! Carries the metadata log's changes to the partitions, in order.

use std::sync::Arc;

use crate::{
    controller::{Subscription, Update},
    metadata::{Delta, MetadataImage},
    partition::registry::Registry,
    shutdown::Running,
};

/// Applies whatever `subscription` says until the quorum ends. Partitions are opened and made on a
/// blocking thread; the next change waits for that.
pub(super) async fn follow(
    mut subscription: Subscription,
    registry: Arc<Registry>,
    _running: Running,
) {
    let mut image = Arc::clone(subscription.start());
    while let Some(update) = subscription.next().await {
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
