//! What the golden directories of clusters share: a history of commands, each of which is accepted,
//! and brokers that come as binaries of long ago did.

use std::fs;

use riverrun_proto::ids::BrokerId;

use super::golden_test as golden;
use crate::metadata::{
    Command, FeatureLevel, FeatureRange, MetadataImage, MetadataOffset, Presence, snapshot,
    test_support::{self as support, stand},
};

/// Commands, each of which is accepted by the image that those before it made.
pub(super) struct History {
    pub(super) image: MetadataImage,
    pub(super) commands: Vec<Command>,
}

impl History {
    /// Of a directory that was formatted, which has written the first level.
    pub(super) fn formatted() -> Self {
        let image = MetadataImage::default().at(MetadataOffset::new(1).unwrap());
        Self { image, commands: Vec::new() }
    }

    pub(super) fn is(&mut self, command: Command) {
        let applied = self.image.apply(self.image.offset().next(), &command);
        assert!(applied.outcome.is_ok(), "{command:?}: {:?}", applied.outcome);
        self.image = applied.image;
        self.commands.push(command);
    }

    pub(super) fn epoch(&self, broker: BrokerId) -> i64 {
        self.image.broker(broker).unwrap().epoch.get()
    }

    pub(super) fn stands(&mut self, broker: BrokerId, presence: Presence) {
        self.is(stand(broker.0, self.epoch(broker), presence));
    }
}

/// As a binary that knew levels up to `latest` described itself.
pub(super) fn join(
    broker: BrokerId,
    incarnation: u8,
    whole_since: Option<i64>,
    latest: FeatureLevel,
) -> Command {
    let Command::JoinBroker(mut join) = support::join(broker.0, incarnation, whole_since) else {
        unreachable!()
    };
    join.registration.features = FeatureRange { min: FeatureLevel::V1, max: latest };
    Command::JoinBroker(join)
}

/// The snapshot in the fixture is what `image` is encoded to now, in that version of the format.
pub(super) fn snapshot_is(fixture: &str, image: &MetadataImage, version: u8) {
    let name = format!("meta-{:020}.snapshot", image.offset().get());
    let stored = fs::read(golden::fixture(fixture).join("meta").join(name)).unwrap();
    // It stands behind a frame's head: found by its magic and version.
    let head = [b"RRIMAGE\0".as_slice(), &u32::from(version).to_le_bytes()].concat();
    let begins = stored.windows(head.len()).position(|at| at == head);
    let begins = begins.unwrap_or_else(|| panic!("no image of version {version}"));
    let encoded = snapshot::encode(image);
    assert_eq!(stored[begins..][..encoded.len()], encoded[..]);
}
