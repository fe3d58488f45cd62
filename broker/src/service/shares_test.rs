//! Who gets what of the budget, and who waits for whom.

use futures::FutureExt;
use riverrun_proto::ids::{PartitionIndex, TopicId};

use super::*;
use crate::clock::{Clock, ManualClock};

fn partition(n: u32) -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes(&[7; 16]).unwrap(), PartitionIndex::new(n).unwrap())
}

fn progress() -> Progress {
    Progress { high_watermark: Offset::ZERO, now: ManualClock::default().monotonic() }
}

/// Takes pieces of `bytes` until there are no more.
fn take_all(admission: &Admission, of: u32, bytes: usize) -> Vec<Admitted> {
    std::iter::from_fn(|| admission.try_take(partition(of), bytes, progress()).ok()).collect()
}

fn held(admission: &Admission, of: u32) -> usize {
    admission.state.lock().partitions.get(&partition(of)).map_or(0, |held| held.bytes)
}

#[test]
fn one_partition_gets_a_quarter_and_no_more() {
    let admission = Admission::new(4_000);
    let taken = take_all(&admission, 1, 10);
    assert_eq!((admission.used(), admission.share(), admission.largest()), (1_000, 1_000, 1_000));
    assert_eq!(admission.try_take(partition(1), 10, progress()).unwrap_err(), Short::Share);
    drop(taken);
    assert_eq!(admission.used(), 0);
    assert!(admission.state.lock().partitions.is_empty(), "who holds nothing is forgotten");
}

#[test]
fn each_that_hangs_leaves_three_quarters_of_what_it_found() {
    let admission = Admission::new(100_000);
    let mut hung = Vec::new();
    for of in 0..10 {
        let found = admission.total() - admission.used();
        hung.extend(take_all(&admission, of, 10));
        let left = admission.total() - admission.used();
        assert!(left < found && left >= found * 3 / 4, "{of}: {left} of {found}");
    }
    assert!(!take_all(&admission, 99, 10).is_empty(), "and the next gets on");
}

#[test]
fn one_larger_than_its_share_passes_when_nothing_else_of_its_partition_is_held() {
    let admission = Admission::new(1_000);
    let small = admission.try_take(partition(1), 1, progress()).unwrap();
    assert_eq!(admission.try_take(partition(1), 900, progress()).unwrap_err(), Short::Share);
    drop(small);
    let large = admission.try_take(partition(1), 5_000, progress()).unwrap();
    assert_eq!(admission.used(), 1_000, "more than all counts as all");
    assert_eq!(admission.try_take(partition(2), 1, progress()).unwrap_err(), Short::Budget);
    drop(large);
}

#[test]
fn who_is_over_its_share_is_passed_over() {
    let admission = Admission::new(4_000);
    let mut hung = take_all(&admission, 1, 100);
    let mut waiting = Box::pin(admission.clone().take(partition(1), 100));
    assert!((&mut waiting).now_or_never().is_none());
    let other = admission.try_take(partition(2), 300, progress());
    assert!(other.is_ok(), "it does not wait behind the one that hangs");
    let second = admission.clone().take(partition(2), 300).now_or_never();
    assert!(second.is_some(), "nor does it in the line");
    drop((other, second));
    hung.pop();
    assert!(waiting.now_or_never().is_some(), "and when it gets on it goes on");
}

#[test]
fn who_waits_for_free_bytes_is_not_overtaken() {
    let admission = Admission::new(1_000);
    let held = admission.try_take(partition(1), 500, progress()).unwrap();
    let mut large = Box::pin(admission.clone().take(partition(2), 800));
    assert!((&mut large).now_or_never().is_none());
    assert_eq!(admission.try_take(partition(3), 1, progress()).unwrap_err(), Short::Budget);
    drop(held);
    let large = large.now_or_never().expect("there is room now");
    let small = admission.try_take(partition(3), 1, progress());
    assert!(small.is_ok());
    drop((large, small));
    assert_eq!(admission.used(), 0);
}

#[test]
fn appends_of_one_partition_are_admitted_in_order_and_partitions_in_turns() {
    let admission = Admission::new(400);
    let all = admission.try_take(partition(9), 400, progress()).unwrap();
    let mut waiting: Vec<_> = [(1, 'a'), (1, 'b'), (2, 'c'), (2, 'd')]
        .into_iter()
        .map(|(of, name)| (name, Box::pin(admission.clone().take(partition(of), 300))))
        .collect();
    for (_, waiter) in &mut waiting {
        assert!(waiter.now_or_never().is_none());
    }
    drop(all);
    let mut order = String::new();
    while !waiting.is_empty() {
        let at = waiting.iter_mut().position(|(name, waiter)| match waiter.now_or_never() {
            // Given back at once, so that the next may go.
            Some(_) => {
                order.push(*name);
                true
            }
            None => false,
        });
        drop(waiting.remove(at.expect("one of them goes on")));
    }
    assert_eq!(order, "acbd");
}

#[test]
fn who_gives_up_leaves_nothing_behind_and_lets_the_next_pass() {
    let admission = Admission::new(1_000);
    let kept = admission.try_take(partition(1), 500, progress()).unwrap();
    let mut large = Box::pin(admission.clone().take(partition(2), 800));
    let mut small = Box::pin(admission.clone().take(partition(3), 100));
    assert!((&mut large).now_or_never().is_none());
    assert!((&mut small).now_or_never().is_none(), "behind the large one");
    drop(large);
    let small = small.now_or_never().expect("nobody stands before it");
    assert_eq!(held(&admission, 2), 0);
    // Granted, and gone before it looked.
    let mut late = Box::pin(admission.clone().take(partition(4), 900));
    assert!((&mut late).now_or_never().is_none());
    drop((kept, small));
    assert_eq!(admission.used(), 900);
    drop(late);
    assert_eq!(admission.used(), 0);
    assert!(admission.state.lock().partitions.is_empty() && admission.state.lock().line.is_empty());
}

#[test]
fn it_is_known_how_long_a_partition_that_holds_something_has_stood_still() {
    let (admission, clock) = (Admission::new(1_000), ManualClock::default());
    let at =
        |offset| Progress { high_watermark: Offset::new(offset).unwrap(), now: clock.monotonic() };
    assert_eq!(admission.still_for(partition(1), at(5)), None, "it holds nothing");
    let held = admission.try_take(partition(1), 10, at(5)).unwrap();
    clock.advance(Duration::from_secs(3));
    assert_eq!(admission.still_for(partition(1), at(5)), Some(Duration::from_secs(3)));
    clock.advance(Duration::from_secs(3));
    assert_eq!(admission.still_for(partition(1), at(6)), Some(Duration::ZERO), "it got on");
    clock.advance(Duration::from_secs(1));
    assert_eq!(admission.still_for(partition(1), at(6)), Some(Duration::from_secs(1)));
    drop(held);
    clock.advance(Duration::from_secs(60));
    let _held = admission.try_take(partition(1), 10, at(6)).unwrap();
    assert_eq!(
        admission.still_for(partition(1), at(6)),
        Some(Duration::ZERO),
        "an idle partition does not hang"
    );
}
