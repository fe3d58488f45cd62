use super::*;
use crate::metadata::{
    self,
    test_support::{
        after, apply, create, drain, first_of, join, level_1, level_2, level_3, reassign as moving,
        stand, topic_id,
    },
};

const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);
const THREE: BrokerId = BrokerId(3);
const FOUR: BrokerId = BrokerId(4);

fn is(image: &MetadataImage, command: &Command) -> MetadataImage {
    let applied = apply(image, command);
    assert!(applied.outcome.is_ok(), "{command:?}: {:?}", applied.outcome);
    applied.image
}

/// Brokers 1 to 4; a topic on 1, 2 and 3.
fn cluster() -> MetadataImage {
    let mut image = after(&[level_1(), level_2(), level_3()]);
    for id in 1..=4 {
        image = is(&image, &join(id, 1, None));
        image = stands(&image, id, Presence::Active);
    }
    is(&image, &create(1, "a", &[&[1, 2, 3]]))
}

fn stands(image: &MetadataImage, id: u32, presence: Presence) -> MetadataImage {
    let epoch = image.broker(BrokerId(id)).unwrap().epoch.get();
    is(image, &stand(id, epoch, presence))
}

/// A power loss: no run proves that its log is whole.
fn lost_power(image: &MetadataImage) -> MetadataImage {
    let back = (1..=3).fold(image.clone(), |image, id| is(&image, &join(id, 2, None)));
    (1..=3).fold(back, |image, id| stands(&image, id, Presence::Active))
}

fn elected(image: &MetadataImage, choice: Choice) -> metadata::Partition {
    let command = elect(image, first_of(1), choice, None).unwrap();
    is(image, &command).partition(first_of(1)).unwrap().clone()
}

fn refused(image: &MetadataImage, choice: Choice) -> PartitionError {
    elect(image, first_of(1), choice, None).unwrap_err()
}

#[test]
fn a_member_or_the_preferred_leader_takes_over() {
    let image = cluster();
    let two = is(&image, &elect(&image, first_of(1), Choice::Member(TWO), None).unwrap());
    assert_eq!(two.partition(first_of(1)).unwrap().leader, Some(TWO));
    assert_eq!(elected(&two, Choice::Preferred).leader, Some(ONE));
}

#[test]
fn who_may_not_lead_is_told_why() {
    let image = cluster();
    assert_eq!(refused(&image, Choice::Preferred), PartitionError::LeadsAlready(ONE));
    let replicas = vec![ONE, TWO, THREE];
    let stranger = PartitionError::NotReplica { broker: FOUR, replicas };
    assert_eq!(refused(&image, Choice::Member(FOUR)), stranger);
    assert_eq!(refused(&image, Choice::Unclean(TWO)), PartitionError::HasLeader(ONE));
    let fenced = stands(&image, 2, Presence::Fenced);
    let away = PartitionError::NotThere { broker: TWO, why: Away::Fenced };
    assert_eq!(refused(&fenced, Choice::Member(TWO)), away);
    let behind = stands(&fenced, 2, Presence::Active);
    let (isr, preferred) = (vec![ONE, THREE], false);
    let out = PartitionError::NotInSync { broker: TWO, isr, preferred };
    assert_eq!(refused(&behind, Choice::Member(TWO)), out);
    let drained = is(&image, &drain(2, true));
    let away = PartitionError::NotThere { broker: TWO, why: Away::Draining };
    assert_eq!(refused(&drained, Choice::Member(TWO)), away);
    let gone = is(&image, &metadata::test_support::delete(1));
    assert_eq!(refused(&gone, Choice::Preferred), PartitionError::Unknown(first_of(1)));
    let seen = PartitionEpoch::new(7);
    let stale = elect(&image, first_of(1), Choice::Preferred, seen).unwrap_err();
    assert!(matches!(stale, PartitionError::Changed { .. }), "{stale}");
}

#[test]
fn after_a_power_loss_of_all_it_takes_somebody_who_says_which_copy_counts() {
    let lost = lost_power(&cluster());
    let partition = lost.partition(first_of(1)).unwrap();
    assert_eq!((partition.leader, &partition.isr, &partition.elr), (None, &vec![], &vec![]));
    assert_eq!(partition.last_known_elr, [THREE], "with a minimum of one the last to be in sync");
    assert!(matches!(refused(&lost, Choice::Preferred), PartitionError::NotInSync { .. }));
    let led = elected(&lost, Choice::Unclean(THREE));
    assert_eq!((led.leader, &led.isr), (Some(THREE), &vec![THREE]));
    assert_eq!(led.unclean_epoch, Some(led.leader_epoch), "noted for good");
    let away = stands(&lost, 3, Presence::Fenced);
    assert!(matches!(refused(&away, Choice::Unclean(THREE)), PartitionError::NotThere { .. }));
}

#[test]
fn new_replicas_have_to_be_there_and_old_ones_need_not() {
    let image = stands(&cluster(), 3, Presence::Fenced);
    let to = |ids: &[u32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
    let asks = |image: &MetadataImage, ids: &[u32]| reassign(image, first_of(1), &to(ids), None);
    asks(&image, &[4, 1, 3]).unwrap();
    assert_eq!(asks(&image, &[1, 2, 3]), Err(PartitionError::Same(to(&[1, 2, 3]))));
    asks(&image, &[2, 1, 3]).unwrap();
    assert_eq!(asks(&image, &[1, 9]), Err(PartitionError::UnknownBroker(BrokerId(9))));
    for (away, why) in [
        (stands(&image, 4, Presence::Fenced), Away::Fenced),
        (stands(&image, 4, Presence::Leaving), Away::Leaving),
        (is(&image, &drain(4, true)), Away::Draining),
    ] {
        assert_eq!(asks(&away, &[1, 4]), Err(PartitionError::NotThere { broker: FOUR, why }));
    }
    assert_eq!(cancel_reassignment(&image, first_of(1)), Err(PartitionError::NoneUnderWay));
    let under_way = is(
        &image,
        &moving(1, image.partition(first_of(1)).unwrap().partition_epoch.get(), &[4, 1]),
    );
    let back = is(&under_way, &cancel_reassignment(&under_way, first_of(1)).unwrap());
    assert_eq!(back.partition(first_of(1)).unwrap().replicas, [ONE, TWO, THREE]);
    assert!(back.topic_by_id(topic_id(1)).is_some());
}

#[test]
fn while_replicas_change_preferred_is_the_one_that_was_asked_for() {
    let image = cluster();
    let under_way = is(&image, &moving(1, 0, &[4, 2]));
    let refused = refused(&under_way, Choice::Preferred);
    assert!(
        matches!(refused, PartitionError::NotInSync { broker: FOUR, preferred: true, .. }),
        "{refused}"
    );
}
