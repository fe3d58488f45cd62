//! `tests/fixtures/meta_v3`: a data directory of a cluster as the first version wrote it that could
//! drain and remove brokers, opened forever: records of kinds 14 and 15, before the snapshot and after
//! it, and a snapshot in its third format.

use riverrun_proto::ids::BrokerId;

use super::{
    LocalOptions, MetaQuorum,
    golden_history::{self, History},
    golden_test as golden,
};
use crate::metadata::{
    Command, FeatureLevel, MetadataImage, Presence,
    test_support::{create, drain, first_of, level_1, level_2, level_3, remove},
};

const FIXTURE: &str = "meta_v3";
const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);
const THREE: BrokerId = BrokerId(3);
const FOUR: BrokerId = BrokerId(4);

/// As the first binary that knew draining described itself.
fn join(broker: BrokerId, incarnation: u8) -> Command {
    golden_history::join(broker, incarnation, None, FeatureLevel::V3)
}

/// What was written, and how much of it came before the snapshot; and the image of that moment.
fn history() -> (History, usize, MetadataImage) {
    let mut all = History::formatted();
    for level in [level_1(), level_2(), level_3()] {
        all.is(level);
    }
    for (broker, incarnation) in [(ONE, 1), (TWO, 2), (THREE, 3), (FOUR, 4)] {
        all.is(join(broker, incarnation));
        all.stands(broker, Presence::Active);
    }
    all.is(create(1, "orders", &[&[1, 2]]));
    all.is(drain(2, true));
    all.is(drain(1, true));
    all.stands(THREE, Presence::Fenced);
    all.is(remove(3, all.epoch(THREE)));
    let (before, then) = (all.commands.len(), all.image.clone());
    all.is(drain(1, false));
    all.stands(FOUR, Presence::Fenced);
    all.is(drain(4, true));
    all.is(remove(4, all.epoch(FOUR)));
    all.is(join(FOUR, 9));
    (all, before, then)
}

#[tokio::test]
async fn the_directory_of_the_first_version_that_drained_brokers_opens() {
    let data = tempfile::tempdir().unwrap();
    golden::copy(&golden::fixture(FIXTURE), data.path());
    let quorum = golden::open(data.path(), LocalOptions::default()).unwrap();
    let image = quorum.image();
    assert_eq!(*image, history().0.image, "what the same commands come to now");

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
    let (_, _, then) = history();
    golden_history::snapshot_is(FIXTURE, &then, 3);
}

/// Wrote the fixture; run by hand, once per format version, into a directory that is not there yet.
#[tokio::test]
#[ignore = "writes a fixture"]
async fn write_the_fixture() {
    let (all, before, _) = history();
    golden::write(FIXTURE, &all.commands[1..before], &all.commands[before..]).await;
}
