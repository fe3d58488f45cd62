//! What brokers that come and go do to partitions, as commands: who leads and who is in sync after
//! each.

use super::*;
use crate::metadata::{
    Command,
    command::Choice,
    decision::IsrRejection,
    reassignment::ReassignmentRejection,
    test_support::{self, *},
};

/// Leader, leader epoch, ISR, ELR of the first partition of topic 1.
type Seen = (Option<u32>, i32, Vec<u32>, Vec<u32>);

fn seen(image: &MetadataImage) -> Seen {
    let partition = state(image);
    let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect();
    (
        partition.leader.map(|id| id.0),
        partition.leader_epoch.get(),
        numbers(&partition.isr),
        numbers(&partition.elr),
    )
}

fn state(image: &MetadataImage) -> &Partition {
    image.partition(first_of(1)).unwrap()
}

/// Brokers 1, 2, 3 with epochs 2, 3, 4; topic 1 on all of them, two of which must be in sync.
fn cluster() -> MetadataImage {
    let Command::CreateTopic(mut topic) = create(1, "t", &[&[1, 2, 3]]) else { unreachable!() };
    topic.min_isr = 2;
    let brokers = [level_1(), register(1, 1), register(2, 2), register(3, 3), level_2()];
    after(&[&brokers[..], &[Command::CreateTopic(topic)]].concat())
}

fn then(image: &MetadataImage, command: &Command) -> MetadataImage {
    let applied = test_support::apply(image, command);
    assert!(applied.outcome.is_ok(), "{command:?}: {:?}", applied.outcome);
    applied.image
}

fn refused(image: &MetadataImage, command: &Command) -> Rejection {
    test_support::apply(image, command).outcome.unwrap_err()
}

#[test]
fn clusters_take_feature_level_2() {
    let image = after(&[level_1(), register(1, 1)]);
    assert!(matches!(
        refused(&image, &stand(1, 2, Presence::Fenced)),
        Rejection::FeatureLevelTooLow { .. }
    ));
}

#[test]
fn a_new_partition_begins_without_those_who_are_fenced() {
    // (fenced, leader, leader epoch, ISR, ELR) of a partition on 1, 2, 3, two of which must be in sync.
    let cases: [(&[(u32, i64)], Seen); 4] = [
        (&[], (Some(1), 0, vec![1, 2, 3], vec![])),
        (&[(1, 2)], (Some(2), 1, vec![2, 3], vec![])),
        (&[(1, 2), (2, 3)], (Some(3), 1, vec![3], vec![2])),
        (&[(1, 2), (2, 3), (3, 4)], (None, 1, vec![], vec![2, 3])),
    ];
    for (fenced, expected) in cases {
        let mut image =
            after(&[level_1(), register(1, 1), register(2, 2), register(3, 3), level_2()]);
        for (broker, epoch) in fenced {
            image = then(&image, &stand(*broker, *epoch, Presence::Fenced));
        }
        let Command::CreateTopic(mut topic) = create(1, "t", &[&[1, 2, 3]]) else { unreachable!() };
        topic.min_isr = 2;
        let image = then(&image, &Command::CreateTopic(topic));
        assert_eq!(seen(&image), expected, "{fenced:?}");
        assert_eq!(image.violation(), None);
        // And partitions that come later alike.
        let grown = then(&image, &grow(1, 0, &[&[1, 2, 3]]));
        let second = grown.topic_by_id(topic_id(1)).unwrap().partitions().nth(1).unwrap().1;
        assert_eq!(second.leader, state(&image).leader);
        assert_eq!((&second.isr, &second.elr), (&state(&image).isr, &state(&image).elr));
    }
}

#[test]
fn fencing_hands_leadership_on_until_nobody_may_have_it() {
    let image = then(&cluster(), &stand(1, 2, Presence::Fenced));
    assert_eq!(seen(&image), (Some(2), 1, vec![2, 3], vec![]));
    let image = then(&image, &stand(2, 3, Presence::Fenced));
    assert_eq!(
        seen(&image),
        (Some(3), 2, vec![3], vec![2]),
        "nothing commits, so 2 misses nothing"
    );
    let image = then(&image, &stand(3, 4, Presence::Fenced));
    assert_eq!(seen(&image), (None, 3, vec![], vec![2, 3]));
    let image = then(&image, &stand(1, 2, Presence::Active));
    assert_eq!(seen(&image), (None, 3, vec![], vec![2, 3]), "1 left while records could commit");
    let image = then(&image, &stand(2, 3, Presence::Active));
    assert_eq!(seen(&image), (Some(2), 4, vec![2], vec![3]));
    assert!(matches!(
        refused(&image, &stand(2, 9, Presence::Fenced)),
        Rejection::StaleBrokerEpoch { .. }
    ));
}

#[test]
fn a_restart_ends_leadership_and_only_proof_keeps_the_place() {
    let image = then(&cluster(), &stand(1, 2, Presence::Fenced));
    let image = then(&image, &stand(2, 3, Presence::Fenced));
    assert_eq!(seen(&image), (Some(3), 2, vec![3], vec![2]));
    for (proof, elr) in [(Some(3), vec![2]), (None, vec![]), (Some(2), vec![])] {
        let joined = then(&image, &join(2, 9, proof));
        assert_eq!(seen(&joined), (Some(3), 2, vec![3], elr), "{proof:?}");
        assert_eq!(joined.broker(BrokerId(2)).unwrap().presence, Presence::Fenced);
    }
    let joined = then(&cluster(), &join(1, 9, Some(2)));
    assert_eq!(seen(&joined), (Some(2), 1, vec![2, 3], vec![]), "its term is over in any case");
    let again = test_support::apply(&joined, &join(1, 9, Some(2)));
    assert_eq!((again.outcome.is_ok(), again.deltas.len()), (true, 0), "a retry changes nothing");
}

#[test]
fn only_an_order_elects_who_may_lack_records_and_it_is_remembered() {
    let mut image = cluster();
    for (broker, epoch) in [(1, 2), (2, 3), (3, 4)] {
        image = then(&image, &stand(broker, epoch, Presence::Fenced));
    }
    image = then(&image, &stand(1, 2, Presence::Active));
    assert_eq!(seen(&image), (None, 3, vec![], vec![2, 3]));
    let version = state(&image).partition_epoch.get();
    let asks = |choice| elect(1, version, choice);
    assert_eq!(refused(&image, &asks(Choice::Preferred)), Rejection::NoElection(first_of(1)));
    assert!(matches!(
        refused(&image, &elect(1, version - 1, Choice::Unclean(BrokerId(1)))),
        Rejection::PartitionChanged { .. }
    ));
    let image = then(&image, &asks(Choice::Unclean(BrokerId(1))));
    assert_eq!(seen(&image), (Some(1), 4, vec![1], vec![]), "2 and 3 are eligible no more");
    assert_eq!(state(&image).unclean_epoch.unwrap().get(), 4);
    let version = state(&image).partition_epoch.get();
    assert_eq!(
        refused(&image, &elect(1, version, Choice::Unclean(BrokerId(1)))),
        Rejection::NoElection(first_of(1)),
        "there is a leader"
    );
}

#[test]
fn the_only_replica_leads_again_whatever_it_lost_and_that_is_remembered() {
    let image = after(&[level_1(), register(1, 1), level_2(), create(1, "t", &[&[1]])]);
    let image = then(&image, &join(1, 2, None));
    assert_eq!(seen(&image), (None, 1, vec![], vec![]));
    let epoch = image.broker(BrokerId(1)).unwrap().epoch.get();
    let image = then(&image, &stand(1, epoch, Presence::Active));
    assert_eq!(seen(&image), (Some(1), 2, vec![1], vec![]));
    assert_eq!(state(&image).unclean_epoch.unwrap().get(), 2);
    let proven = then(&image, &join(1, 3, Some(epoch)));
    let epoch = proven.broker(BrokerId(1)).unwrap().epoch.get();
    let proven = then(&proven, &stand(1, epoch, Presence::Active));
    assert_eq!(state(&proven).unclean_epoch.unwrap().get(), 2, "not again: it proved to be whole");
}

#[test]
fn an_isr_is_changed_by_compare_and_set() {
    let image = cluster();
    let all = [(1, Some(2)), (2, Some(3)), (3, Some(4))];
    let ask = |leader, epochs, isr: &[(u32, Option<i64>)]| alter_isr(1, leader, epochs, isr);
    let image = then(&image, &ask((1, 2), (0, 0), &all[..2]));
    assert_eq!(seen(&image), (Some(1), 0, vec![1, 2], vec![]));
    let rejections = [
        ("stale version", ask((1, 2), (0, 0), &all)),
        ("not the leader", ask((2, 3), (0, 1), &all)),
        ("an earlier run", ask((1, 1), (0, 1), &all)),
        ("another term", ask((1, 2), (1, 1), &all)),
        ("without the leader", ask((1, 2), (0, 1), &all[1..])),
        ("twice", ask((1, 2), (0, 1), &[all[0], all[0]])),
        ("a stranger", ask((1, 2), (0, 1), &[all[0], (7, Some(1))])),
        ("another run of the member", ask((1, 2), (0, 1), &[all[0], (3, Some(3))])),
        ("a new member never heard from", ask((1, 2), (0, 1), &[all[0], (3, None)])),
    ];
    for (what, command) in rejections {
        let refused = refused(&image, &command);
        assert!(matches!(refused, Rejection::Isr(_)) && refused.is_retriable(), "{what}");
    }
    let present = then(&image, &ask((1, 2), (0, 1), &[all[0], (2, None)]));
    assert_eq!(state(&present).partition_epoch.get(), 2, "the same again is a new version");
    let fenced = then(&image, &stand(3, 4, Presence::Fenced));
    assert_eq!(
        refused(&fenced, &ask((1, 2), (0, 1), &all)),
        Rejection::Isr(IsrRejection::Ineligible(BrokerId(3)))
    );
    let leaving = then(&image, &stand(3, 4, Presence::Leaving));
    assert_eq!(
        refused(&leaving, &ask((1, 2), (0, 1), &all)),
        Rejection::Isr(IsrRejection::Ineligible(BrokerId(3)))
    );
}

#[test]
fn who_leaves_hands_over_unless_there_is_nobody() {
    let image = then(&cluster(), &stand(1, 2, Presence::Leaving));
    assert_eq!(seen(&image), (Some(2), 1, vec![2, 3], vec![]));
    let image = then(&image, &stand(3, 4, Presence::Fenced));
    assert_eq!(seen(&image), (Some(2), 1, vec![2], vec![3]));
    let image = then(&image, &stand(2, 3, Presence::Leaving));
    assert_eq!(seen(&image), (Some(2), 1, vec![2], vec![3]), "goes on until it stops");
    let image = then(&image, &stand(2, 3, Presence::Fenced));
    assert_eq!(seen(&image), (None, 2, vec![], vec![2, 3]));
}

#[test]
fn leadership_goes_back_to_the_preferred_leader() {
    let image = then(&cluster(), &elect(1, 0, Choice::Member(BrokerId(3))));
    assert_eq!(seen(&image), (Some(3), 1, vec![1, 2, 3], vec![]));
    let image = then(&image, &elect(1, 1, Choice::Preferred));
    assert_eq!(seen(&image), (Some(1), 2, vec![1, 2, 3], vec![]));
    assert_eq!(
        refused(&image, &elect(1, 2, Choice::Preferred)),
        Rejection::NoElection(first_of(1)),
        "it leads already"
    );
}

fn replicas(image: &MetadataImage) -> Vec<u32> {
    state(image).replicas.iter().map(|id| id.0).collect()
}

#[test]
fn old_replicas_go_when_the_new_ones_are_in_sync_and_not_before() {
    let image = then(&cluster(), &register(4, 4));
    let epoch = image.broker(BrokerId(4)).unwrap().epoch.get();
    let image = then(&image, &reassign(1, 0, &[4, 2]));
    assert_eq!(replicas(&image), [4, 2, 1, 3]);
    assert_eq!(seen(&image), (Some(1), 0, vec![2, 1, 3], vec![]));
    let all = [(1, Some(2)), (2, Some(3)), (3, Some(4)), (4, Some(epoch))];
    let moved = then(&image, &alter_isr(1, (1, 2), (0, 1), &all));
    assert_eq!((replicas(&moved), &state(&moved).reassignment), (vec![4, 2], &None));
    assert_eq!(seen(&moved), (Some(4), 1, vec![4, 2], vec![]), "the leader is gone: another term");

    let cancelled = then(&image, &cancel(1, 1));
    assert_eq!(replicas(&cancelled), [1, 2, 3]);
    assert_eq!(
        refused(&cancelled, &cancel(1, 2)),
        Rejection::Reassignment(ReassignmentRejection::NoneUnderWay)
    );
}

#[test]
fn an_election_may_be_what_a_reassignment_waits_for() {
    let image = after(&[level_1(), register(1, 1), level_2(), create(1, "t", &[&[1]])]);
    let alone = then(&image, &stand(1, 2, Presence::Fenced));
    assert_eq!(seen(&alone), (None, 1, vec![], vec![1]));
    let version = state(&alone).partition_epoch.get();
    let waits = then(&alone, &reassign(1, version, &[1]));
    assert!(state(&waits).reassignment.is_some(), "nobody is in sync");
    let image = then(&waits, &stand(1, 2, Presence::Active));
    assert_eq!((seen(&image).0, &state(&image).reassignment), (Some(1), &None));
}

#[test]
fn nobody_is_let_go_who_is_needed() {
    let image = cluster();
    let all = [(1, Some(2)), (2, Some(3)), (3, Some(4))];
    let image = then(&image, &alter_isr(1, (1, 2), (0, 0), &all[..2]));
    let waits = then(&image, &reassign(1, 1, &[2, 3]));
    assert_eq!(replicas(&waits), [2, 3, 1], "3 is not in sync yet");
    let table = [
        (vec![], "ReassignmentRejection::Malformed"),
        (vec![2, 2], "Malformed"),
        (vec![2, 9], "UnknownBroker"),
        (vec![2], "TooFew"),
    ];
    for (to, what) in table {
        let rejection = refused(&image, &reassign(1, 1, &to));
        let Rejection::Reassignment(why) = &rejection else { panic!("{rejection:?}") };
        assert!(what.ends_with(format!("{why:?}").split(['(', ' ']).next().unwrap()), "{why:?}");
    }
}
