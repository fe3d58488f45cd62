//! `tests/fixtures/meta_v2`: a data directory of a cluster, as the first version that knew clusters
//! wrote it, opened forever: records of kinds 8 to 13, before the snapshot and after it, and a snapshot
//! in its second format.

use riverrun_proto::ids::BrokerId;

use super::{
    LocalOptions, MetaQuorum,
    golden_history::{self, History},
    golden_test as golden,
};
use crate::metadata::{
    Command, FeatureLevel, Partition, Presence,
    command::Choice,
    test_support::{alter_isr, cancel, create, elect, first_of, level_1, level_2, reassign},
};

const FIXTURE: &str = "meta_v2";
const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);
const THREE: BrokerId = BrokerId(3);
const ORDERS: u8 = 1;
const PAYMENTS: u8 = 2;

impl History {
    fn partition(&self, topic: u8) -> &Partition {
        self.image.partition(first_of(topic)).unwrap()
    }

    /// Version and term.
    fn epochs(&self, topic: u8) -> (i32, i32) {
        let partition = self.partition(topic);
        (partition.leader_epoch.get(), partition.partition_epoch.get())
    }

    /// The leader has these in its ISR now.
    fn in_sync(&mut self, topic: u8, isr: &[BrokerId]) {
        let leader = self.partition(topic).leader.unwrap();
        let isr: Vec<_> = isr.iter().map(|id| (id.0, Some(self.epoch(*id)))).collect();
        self.is(alter_isr(topic, (leader.0, self.epoch(leader)), self.epochs(topic), &isr));
    }
}

/// As the first binary that knew clusters described itself.
fn join(broker: BrokerId, incarnation: u8, whole_since: Option<i64>) -> Command {
    golden_history::join(broker, incarnation, whole_since, FeatureLevel::V2)
}

fn topic(n: u8, text: &str, replicas: &[u32], min_isr: u32) -> Command {
    let Command::CreateTopic(mut topic) = create(n, text, &[replicas]) else { unreachable!() };
    topic.min_isr = min_isr;
    Command::CreateTopic(topic)
}

/// What was written; and how much of it came before the snapshot.
fn history() -> (History, usize) {
    let mut all = History::formatted();
    all.is(level_1());
    all.is(level_2());
    for (broker, incarnation) in [(ONE, 1), (TWO, 2), (THREE, 3)] {
        all.is(join(broker, incarnation, None));
        all.stands(broker, Presence::Active);
    }
    all.is(topic(ORDERS, "orders", &[1, 2, 3], 2));
    all.is(topic(PAYMENTS, "payments", &[1, 2], 1));
    all.in_sync(ORDERS, &[ONE, TWO]);
    all.is(elect(ORDERS, all.epochs(ORDERS).1, Choice::Member(TWO)));
    all.stands(ONE, Presence::Fenced);
    all.is(reassign(PAYMENTS, all.epochs(PAYMENTS).1, &[3, 2]));
    let before = all.commands.len();
    all.stands(ONE, Presence::Active);
    all.in_sync(ORDERS, &[ONE, TWO]);
    all.is(elect(ORDERS, all.epochs(ORDERS).1, Choice::Preferred));
    all.is(cancel(PAYMENTS, all.epochs(PAYMENTS).1));
    all.is(join(THREE, 4, Some(all.epoch(THREE))));
    all.stands(THREE, Presence::Active);
    all.is(join(TWO, 5, None));
    all.stands(TWO, Presence::Active);
    all.is(elect(PAYMENTS, all.epochs(PAYMENTS).1, Choice::Unclean(TWO)));
    all.is(reassign(ORDERS, all.epochs(ORDERS).1, &[1, 3]));
    all.stands(TWO, Presence::Leaving);
    (all, before)
}

#[tokio::test]
async fn the_directory_of_the_first_cluster_opens() {
    let data = tempfile::tempdir().unwrap();
    golden::copy(&golden::fixture(FIXTURE), data.path());
    let quorum = golden::open(data.path(), LocalOptions::default()).unwrap();
    let image = quorum.image();
    assert_eq!(*image, history().0.image, "what the same commands come to now");

    // In words, so that a change of rules cannot go unseen on both sides.
    assert_eq!((image.offset().get(), image.feature_level()), (26, FeatureLevel::V2));
    let stands = |id| image.broker(id).unwrap().presence;
    assert_eq!(
        [ONE, TWO, THREE].map(stands),
        [Presence::Active, Presence::Leaving, Presence::Active]
    );
    let orders = image.partition(first_of(ORDERS)).unwrap();
    assert_eq!((orders.leader, &orders.isr, &orders.elr), (Some(ONE), &vec![ONE], &vec![]));
    let under_way = orders.reassignment.as_ref().unwrap();
    assert_eq!((&under_way.from, &under_way.to), (&vec![ONE, TWO, THREE], &vec![ONE, THREE]));
    let payments = image.partition(first_of(PAYMENTS)).unwrap();
    assert_eq!((&payments.replicas, &payments.reassignment), (&vec![ONE, TWO], &None));
    assert!(payments.unclean_epoch.is_some());
    quorum.shutdown().await;
    assert_eq!(golden::open(data.path(), LocalOptions::default()).unwrap().image(), image);
}

#[test]
fn the_snapshot_is_in_the_second_format_and_holds_what_only_that_can() {
    let (all, before) = history();
    let mut then = History::formatted();
    all.commands[..before].iter().for_each(|command| then.is(command.clone()));
    let eligible = then.partition(ORDERS);
    assert_eq!((&eligible.isr, &eligible.elr), (&vec![TWO], &vec![ONE]));
    assert!(then.partition(PAYMENTS).reassignment.is_some());
    assert_eq!(then.image.broker(ONE).unwrap().presence, Presence::Fenced);
    golden_history::snapshot_is(FIXTURE, &then.image, 2);
}

/// Wrote the fixture; run by hand, once per format version, into a directory that is not there yet.
#[tokio::test]
#[ignore = "writes a fixture"]
async fn write_the_fixture() {
    let (all, before) = history();
    golden::write(FIXTURE, &all.commands[1..before], &all.commands[before..]).await;
}
