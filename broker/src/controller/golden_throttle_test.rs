//! `tests/fixtures/meta_v4`: a data directory of a cluster as the first version wrote it that could
//! throttle moves, opened forever: records of kind 16, before the snapshot and after it, and a
//! snapshot in its fourth format.

use std::num::NonZeroU64;

use riverrun_proto::ids::BrokerId;

use super::{
    LocalOptions, MetaQuorum,
    golden_history::{self, History},
    golden_test as golden,
};
use crate::metadata::{
    FeatureLevel, MetadataImage, Presence,
    test_support::{
        create, drain, first_of, level_1, level_2, level_3, level_4, reassign, throttle,
    },
};

const FIXTURE: &str = "meta_v4";

/// What was written, and how much of it came before the snapshot; and the image of that moment.
fn history() -> (History, usize, MetadataImage) {
    let mut all = History::formatted();
    for level in [level_1(), level_2(), level_3(), level_4()] {
        all.is(level);
    }
    for (broker, incarnation) in [(BrokerId(1), 1), (BrokerId(2), 2), (BrokerId(3), 3)] {
        all.is(golden_history::join(broker, incarnation, None, FeatureLevel::V4));
        all.stands(broker, Presence::Active);
    }
    all.is(create(1, "orders", &[&[1, 2]]));
    all.is(throttle(7));
    all.is(throttle(50 << 20));
    all.is(drain(2, true));
    all.is(reassign(1, 0, &[1, 3]));
    let (before, then) = (all.commands.len(), all.image.clone());
    all.is(throttle(0));
    all.is(throttle(u64::MAX));
    (all, before, then)
}

#[tokio::test]
async fn the_directory_of_the_first_version_that_throttled_moves_opens() {
    let data = tempfile::tempdir().unwrap();
    golden::copy(&golden::fixture(FIXTURE), data.path());
    let quorum = golden::open(data.path(), LocalOptions::default()).unwrap();
    let image = quorum.image();
    assert_eq!(*image, history().0.image, "what the same commands come to now");

    // In words, so that a change of rules cannot go unseen on both sides.
    assert_eq!(image.feature_level(), FeatureLevel::V4);
    assert_eq!(image.move_throttle(), NonZeroU64::new(u64::MAX));
    let moved = image.partition(first_of(1)).unwrap();
    assert_eq!(moved.adding().collect::<Vec<_>>(), [BrokerId(3)]);
    quorum.shutdown().await;
    assert_eq!(golden::open(data.path(), LocalOptions::default()).unwrap().image(), image);
}

#[test]
fn the_snapshot_is_in_the_fourth_format() {
    let (_, _, then) = history();
    assert_eq!(then.move_throttle(), NonZeroU64::new(50 << 20));
    golden_history::snapshot_is(FIXTURE, &then, 4);
}

/// Wrote the fixture; run by hand, once per format version, into a directory that is not there yet.
#[tokio::test]
#[ignore = "writes a fixture"]
async fn write_the_fixture() {
    let (all, before, _) = history();
    golden::write(FIXTURE, &all.commands[1..before], &all.commands[before..]).await;
}
