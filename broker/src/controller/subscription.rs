//! Hands images and deltas to those who follow the metadata log.
//!
//! Publishing never waits: a subscriber that falls more than [`BACKLOG_MAX`] changes behind is told
//! so by being handed the newest image instead, and works out itself what to do
//! ([`Delta::between`]).

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::metadata::{Delta, MetadataImage, MetadataOffset};

/// Changes kept for slow subscribers. Images share nearly everything, so this costs little more
/// than the deltas; creating a thousand topics at once leaves nobody behind.
pub const BACKLOG_MAX: usize = 1024;

/// Changes of one entry of the log.
#[derive(Debug, Clone)]
pub struct Change {
    /// The entry.
    pub offset: MetadataOffset,
    /// What it changed, in order; nothing, if it was rejected.
    pub deltas: Vec<Delta>,
    /// The image after it.
    pub image: Arc<MetadataImage>,
}

/// What a subscriber is to do next.
#[derive(Debug, Clone)]
pub enum Update {
    /// Apply these.
    Change(Arc<Change>),
    /// It fell behind, and this is the image by now: apply [`Delta::between`] its own and this one.
    Resync(Arc<MetadataImage>),
}

/// The place where images and deltas come out.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
    changes: broadcast::Sender<Arc<Change>>,
}

#[derive(Debug)]
struct Shared {
    image: ArcSwap<MetadataImage>,
}

/// Follows the metadata log from [`Subscription::start`] on.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    changes: broadcast::Receiver<Arc<Change>>,
    start: Arc<MetadataImage>,
    /// What the subscriber has by now.
    at: MetadataOffset,
}

// === impl Publisher ===

impl Publisher {
    pub(super) fn new(image: MetadataImage) -> Self {
        let shared = Arc::new(Shared { image: ArcSwap::from_pointee(image) });
        Self { shared, changes: broadcast::Sender::new(BACKLOG_MAX) }
    }

    pub(super) fn image(&self) -> Arc<MetadataImage> {
        self.shared.image.load_full()
    }

    /// Publishes what became of the entry after the last one: first the image, then the deltas, so
    /// that nobody hears of a change he cannot see. An entry that changed nothing is published, too:
    /// whoever waits for a follower to reach an offset waits for any.
    pub(super) fn publish(&self, image: MetadataImage, deltas: Vec<Delta>) {
        let image = Arc::new(image);
        self.shared.image.store(Arc::clone(&image));
        let change = Change { offset: image.offset(), deltas, image };
        // No receiver is no error: nobody follows at the moment.
        let _ = self.changes.send(Arc::new(change));
    }

    pub(super) fn subscribe(&self) -> Subscription {
        // In this order: a change published in between is in the image, and skipped when it comes.
        let changes = self.changes.subscribe();
        let start = self.image();
        Subscription { shared: Arc::clone(&self.shared), changes, at: start.offset(), start }
    }
}

// === impl Subscription ===

impl Subscription {
    /// The image that the first update goes on from.
    pub fn start(&self) -> &Arc<MetadataImage> {
        &self.start
    }

    /// The next thing to do; `None` when the quorum has stopped and everything was handed out.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            match self.changes.recv().await {
                Ok(change) if change.offset <= self.at => {}
                Ok(change) => {
                    self.at = change.offset;
                    return Some(Update::Change(change));
                }
                Err(RecvError::Lagged(_)) => {
                    // The image has all that is still kept; in this order, as in `subscribe`.
                    self.changes = self.changes.resubscribe();
                    let image = self.shared.image.load_full();
                    self.at = image.offset();
                    return Some(Update::Resync(image));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::test_support::{after, apply, create, level_1, register};

    fn publisher() -> Publisher {
        Publisher::new(after(&[level_1(), register(1, 1)]))
    }

    fn publish(publisher: &Publisher, n: usize) {
        for _ in 0..n {
            let image = publisher.image();
            let n = image.offset().get();
            let mut id = [1; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            let crate::metadata::Command::CreateTopic(mut topic) =
                create(1, &format!("t{n}"), &[&[1]])
            else {
                unreachable!()
            };
            topic.id = riverrun_proto::ids::TopicId::from_bytes(&id).unwrap();
            let command = crate::metadata::Command::CreateTopic(topic);
            let applied = apply(&image, &command);
            publisher.publish(applied.image, applied.deltas);
        }
    }

    #[tokio::test]
    async fn every_change_comes_once_and_in_order() {
        let publisher = publisher();
        let mut early = publisher.subscribe();
        publish(&publisher, 3);
        let mut late = publisher.subscribe();
        publish(&publisher, 2);
        let last = publisher.image();
        for (subscription, expected) in [(&mut early, 5), (&mut late, 2)] {
            let mut offset = subscription.start().offset();
            for _ in 0..expected {
                let Some(Update::Change(change)) = subscription.next().await else { panic!() };
                assert_eq!(change.offset, offset.next());
                offset = change.offset;
            }
            assert_eq!(offset, last.offset());
        }
        drop(publisher);
        assert!(early.next().await.is_none());
    }

    #[tokio::test]
    async fn a_rejected_command_moves_the_image_and_changes_nothing() {
        let publisher = publisher();
        let mut subscription = publisher.subscribe();
        let applied = apply(&publisher.image(), &level_1());
        publisher.publish(applied.image, applied.deltas);
        assert_eq!(publisher.image().offset(), subscription.start().offset().next());
        let Some(Update::Change(change)) = subscription.next().await else { panic!() };
        assert_eq!(change.offset, publisher.image().offset());
        assert!(change.deltas.is_empty());
    }

    #[tokio::test]
    async fn who_falls_too_far_behind_is_handed_the_image() {
        let publisher = publisher();
        let mut subscription = publisher.subscribe();
        publish(&publisher, BACKLOG_MAX);
        assert!(matches!(subscription.next().await, Some(Update::Change(_))), "within the bound");
        publish(&publisher, 2);
        let Some(Update::Resync(image)) = subscription.next().await else { panic!() };
        assert_eq!(image.offset(), publisher.image().offset());
        publish(&publisher, 1);
        let Some(Update::Change(change)) = subscription.next().await else { panic!() };
        assert_eq!(change.offset, image.offset().next(), "what the image has is not told again");
    }
}
