//! `tests/fixtures/meta_v3`: a data directory of a cluster as the first version wrote it that could
//! drain and remove brokers, opened forever: records of kinds 14 and 15, before the snapshot and after
//! it, and a snapshot in its third format.

use std::fs;

use riverrun_proto::ids::BrokerId;

use super::{LocalOptions, MetaQuorum, golden_test as golden};
use crate::metadata::{
    Command, FeatureLevel, FeatureRange, MetadataImage, MetadataOffset, Presence, snapshot,
    test_support::{
        self as support, create, drain, first_of, level_1, level_2, level_3, remove, stand,
    },
};

const FIXTURE: &str = "meta_v3";
const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);

/// As the first binary that knew draining described itself.
fn join(broker: u32, incarnation: u8) -> Command {
    let Command::JoinBroker(mut join) = support::join(broker, incarnation, None) else {
        unreachable!()
    };
    join.registration.features = FeatureRange { min: FeatureLevel::V1, max: FeatureLevel::V3 };
    Command::JoinBroker(join)
}

/// What was written, and how much of it came before the snapshot; and the image of either moment.
fn history() -> (Vec<Command>, usize, [MetadataImage; 2]) {
    // Formatting has written the first level.
    let mut image = MetadataImage::default().at(MetadataOffset::new(1).unwrap());
    let mut commands = Vec::new();
    let mut is = |image: &mut MetadataImage, command: Command| {
        let applied = image.apply(image.offset().next(), &command);
        assert!(applied.outcome.is_ok(), "{command:?}: {:?}", applied.outcome);
        *image = applied.image;
        commands.push(command);
        commands.len()
    };
    let run = |image: &MetadataImage, id: u32| image.broker(BrokerId(id)).unwrap().epoch.get();
    for level in [level_1(), level_2(), level_3()] {
        is(&mut image, level);
    }
    for id in [1, 2, 3, 4] {
        is(&mut image, join(id, u8::try_from(id).unwrap()));
        let active = stand(id, run(&image, id), Presence::Active);
        is(&mut image, active);
    }
    is(&mut image, create(1, "orders", &[&[1, 2]]));
    is(&mut image, drain(2, true));
    is(&mut image, drain(1, true));
    let fenced = stand(3, run(&image, 3), Presence::Fenced);
    is(&mut image, fenced);
    let gone = remove(3, run(&image, 3));
    let before = is(&mut image, gone);
    let then = image.clone();
    is(&mut image, drain(1, false));
    let fenced = stand(4, run(&image, 4), Presence::Fenced);
    is(&mut image, fenced);
    is(&mut image, drain(4, true));
    let gone = remove(4, run(&image, 4));
    is(&mut image, gone);
    is(&mut image, join(4, 9));
    (commands, before, [then, image])
}

#[tokio::test]
async fn the_directory_of_the_first_version_that_drained_brokers_opens() {
    let data = tempfile::tempdir().unwrap();
    golden::copy(&golden::fixture(FIXTURE), data.path());
    let quorum = golden::open(data.path(), LocalOptions::default()).unwrap();
    let image = quorum.image();
    let (_, _, [_, expected]) = history();
    assert_eq!(*image, expected, "what the same commands come to now");

    // In words, so that a change of rules cannot go unseen on both sides.
    assert_eq!(image.feature_level(), FeatureLevel::V3);
    let known: Vec<_> = image.brokers().map(|b| (b.id.0, b.draining, b.presence)).collect();
    let (active, fenced) = (Presence::Active, Presence::Fenced);
    assert_eq!(known, [(1, false, active), (2, true, active), (4, false, fenced)]);
    assert_eq!(image.partition(first_of(1)).unwrap().replicas, [ONE, TWO]);
    quorum.shutdown().await;
    assert_eq!(golden::open(data.path(), LocalOptions::default()).unwrap().image(), image);
}

#[test]
fn the_snapshot_is_in_the_third_format() {
    let (_, _, [then, _]) = history();
    let name = format!("meta-{:020}.snapshot", then.offset().get());
    let stored = fs::read(golden::fixture(FIXTURE).join("meta").join(name)).unwrap();
    // It stands behind a frame's head: found by its magic and version.
    let begins = stored.windows(12).position(|at| at == b"RRIMAGE\0\x03\0\0\0");
    let encoded = snapshot::encode(&then);
    assert_eq!(stored[begins.expect("an image of version 3")..][..encoded.len()], encoded[..]);
}

/// Wrote the fixture; run by hand, once per format version, into a directory that is not there yet.
#[tokio::test]
#[ignore = "writes a fixture"]
async fn write_the_fixture() {
    let (commands, before, _) = history();
    golden::write(FIXTURE, &commands[1..before], &commands[before..]).await;
}
