use super::*;
use crate::metadata::{
    Command, Presence,
    test_support::{
        after, apply, create, drain, elect, first_of, join, level_1, level_2, level_3, reassign,
        stand,
    },
};

const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);

/// Brokers 1, 2 and 3, and `topics` of one partition with these replicas.
fn cluster(topics: u8, replicas: &[u32]) -> MetadataImage {
    let mut image = after(&[level_1(), level_2(), level_3()]);
    for id in [1, 2, 3] {
        image = is(&image, &join(id, 1, None));
        image = stands(&image, id, Presence::Active);
    }
    (0..topics).fold(image, |image, n| is(&image, &create(n, &format!("t{n}"), &[replicas])))
}

fn is(image: &MetadataImage, command: &Command) -> MetadataImage {
    let applied = apply(image, command);
    assert!(applied.outcome.is_ok(), "{command:?}: {:?}", applied.outcome);
    applied.image
}

fn stands(image: &MetadataImage, id: u32, presence: Presence) -> MetadataImage {
    let epoch = image.broker(BrokerId(id)).unwrap().epoch.get();
    is(image, &stand(id, epoch, presence))
}

fn version(image: &MetadataImage, n: u8) -> i32 {
    image.partition(first_of(n)).unwrap().partition_epoch.get()
}

fn led_by_two(image: &MetadataImage, topics: impl IntoIterator<Item = u8>) -> MetadataImage {
    topics.into_iter().fold(image.clone(), |image, n| {
        is(&image, &elect(n, version(&image, n), Choice::Member(TWO)))
    })
}

/// All that is proposed is accepted.
fn done(image: &MetadataImage, elections: Vec<ElectLeader>) -> MetadataImage {
    elections.into_iter().fold(image.clone(), |image, e| is(&image, &Command::ElectLeader(e)))
}

fn leaders(image: &MetadataImage, topics: u8) -> Vec<u32> {
    (0..topics).map(|n| image.partition(first_of(n)).unwrap().leader.unwrap().0).collect()
}

#[test]
fn leaders_go_back_where_more_than_the_given_part_is_elsewhere() {
    let image = led_by_two(&cluster(10, &[1, 2, 3]), [0]);
    assert_eq!(back_to_preferred(&image, 10), vec![], "a tenth is not more than a tenth");
    let two = led_by_two(&image, [7]);
    let elections = back_to_preferred(&two, 10);
    let named: Vec<_> = elections.iter().map(|e| e.partition).collect();
    assert_eq!(named.len(), 2);
    assert!(named.contains(&first_of(0)) && named.contains(&first_of(7)));
    assert_eq!(leaders(&done(&two, elections), 10), [1; 10]);
    assert_eq!(back_to_preferred(&image, 0).len(), 1);
    assert_eq!(back_to_preferred(&cluster(10, &[1, 2, 3]), 0), vec![], "all is as it should be");
}

#[test]
fn nothing_moves_to_who_is_not_in_sync_not_there_or_drained() {
    let image = led_by_two(&cluster(2, &[1, 2, 3]), [0, 1]);
    assert_eq!(back_to_preferred(&image, 10).len(), 2);
    let fenced = stands(&image, 1, Presence::Fenced);
    assert_eq!(back_to_preferred(&fenced, 10), vec![]);
    let back = stands(&fenced, 1, Presence::Active);
    assert_eq!(back_to_preferred(&back, 10), vec![], "it has to catch up first");
    let leaving = stands(&image, 1, Presence::Leaving);
    assert_eq!(back_to_preferred(&leaving, 10), vec![]);
    assert_eq!(back_to_preferred(&is(&image, &drain(1, true)), 10), vec![]);
    let moving = is(&image, &reassign(0, version(&image, 0), &[1, 3]));
    let elections = back_to_preferred(&moving, 10);
    assert_eq!(elections.iter().map(|e| e.partition).collect::<Vec<_>>(), [first_of(1)]);
}

#[test]
fn what_a_drained_broker_leads_goes_to_the_first_that_may_have_it() {
    let image = cluster(2, &[1, 2, 3]);
    assert_eq!(away_from_drained(&image), vec![]);
    let drained = is(&image, &drain(1, true));
    assert_eq!(leaders(&done(&drained, away_from_drained(&drained)), 2), [2, 2]);
    let without_two = stands(&drained, 2, Presence::Fenced);
    assert_eq!(leaders(&done(&without_two, away_from_drained(&without_two)), 2), [3, 3]);
    let alone = stands(&without_two, 3, Presence::Fenced);
    assert_eq!(away_from_drained(&alone), vec![], "somebody has to lead");
    let both = is(&drained, &drain(2, true));
    assert_eq!(leaders(&done(&both, away_from_drained(&both)), 2), [3, 3]);
    assert_eq!(image.partition(first_of(0)).unwrap().leader, Some(ONE));
}
