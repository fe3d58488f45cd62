//! What idempotent producers rely on.

use super::*;

const LIMITS: ProducerLimits =
    ProducerLimits { count_max: 4, expiration: Duration::from_secs(24 * 3600) };

fn stamp(id: i64, epoch: i16, base_sequence: i32) -> ProducerStamp {
    ProducerStamp { id: ProducerId::new(id).unwrap(), epoch, base_sequence }
}

fn secs(n: u64) -> Timestamp {
    Timestamp::from_millis(0).saturating_add(Duration::from_secs(n))
}

fn put(states: &mut ProducerStates, stamp: ProducerStamp, delta: i32, at: i64, now: Timestamp) {
    let batch = ProducerBatch {
        stamp,
        last_offset_delta: delta,
        base_offset: Offset::new(at).unwrap(),
        timestamp: Timestamp::from_millis(at),
    };
    states.record(batch, now);
}

#[test]
fn next_duplicate_and_out_of_order() {
    let mut states = ProducerStates::new(LIMITS);
    assert_eq!(states.check(stamp(1, 0, 77), 9, secs(0)), ProducerCheck::New, "not known");
    put(&mut states, stamp(1, 0, 0), 9, 100, secs(0));
    put(&mut states, stamp(1, 0, 10), 4, 200, secs(0));
    assert_eq!(states.check(stamp(1, 0, 15), 0, secs(1)), ProducerCheck::New);
    let ProducerCheck::Duplicate(batch) = states.check(stamp(1, 0, 0), 9, secs(1)) else {
        panic!("the first batch is remembered")
    };
    assert_eq!((batch.base_offset.get(), batch.last_offset().get()), (100, 109));
    for (sequence, delta, why) in [
        (16, 0, "a gap"),
        (0, 8, "begins like a known batch and ends elsewhere"),
        (12, 2, "within a known batch"),
        (14, 5, "overlaps the end of a known batch"),
    ] {
        let check = states.check(stamp(1, 0, sequence), delta, secs(1));
        assert_eq!(check, ProducerCheck::OutOfOrder { expected: 15 }, "{why}");
    }
}

#[test]
fn sequences_go_on_at_zero_after_the_greatest() {
    let mut states = ProducerStates::new(LIMITS);
    put(&mut states, stamp(1, 0, i32::MAX - 1), 1, 0, secs(0));
    assert_eq!(states.check(stamp(1, 0, 0), 0, secs(0)), ProducerCheck::New);
    put(&mut states, stamp(1, 0, 0), 0, 2, secs(0));
    // A batch may also straddle the end.
    let mut states = ProducerStates::new(LIMITS);
    put(&mut states, stamp(1, 0, i32::MAX), 2, 0, secs(0));
    assert_eq!(states.check(stamp(1, 0, 2), 0, secs(0)), ProducerCheck::New);
    assert!(matches!(states.check(stamp(1, 0, i32::MAX), 2, secs(0)), ProducerCheck::Duplicate(_)));
}

#[test]
fn epochs_fence_and_begin_at_zero() {
    let mut states = ProducerStates::new(LIMITS);
    put(&mut states, stamp(1, 3, 0), 0, 0, secs(0));
    assert_eq!(states.check(stamp(1, 2, 1), 0, secs(0)), ProducerCheck::Fenced { current: 3 });
    assert_eq!(states.check(stamp(1, 4, 1), 0, secs(0)), ProducerCheck::OutOfOrder { expected: 0 });
    assert_eq!(states.check(stamp(1, 4, 0), 0, secs(0)), ProducerCheck::New);
    put(&mut states, stamp(1, 4, 0), 0, 1, secs(0));
    assert_eq!(states.get(ProducerId::new(1).unwrap()).unwrap().batches().len(), 1);
}

#[test]
fn exactly_the_last_32_batches_are_remembered() {
    let mut states = ProducerStates::new(LIMITS);
    for n in 0..40 {
        put(&mut states, stamp(1, 0, n), 0, n.into(), secs(0));
    }
    assert_eq!(
        states.check(stamp(1, 0, 7), 0, secs(0)),
        ProducerCheck::OutOfOrder { expected: 40 }
    );
    assert!(matches!(states.check(stamp(1, 0, 8), 0, secs(0)), ProducerCheck::Duplicate(_)));
}

#[test]
fn silent_producers_expire() {
    let mut states = ProducerStates::new(LIMITS);
    put(&mut states, stamp(1, 0, 0), 0, 0, secs(0));
    let later = secs(24 * 3600);
    assert_eq!(states.check(stamp(1, 0, 50), 0, later), ProducerCheck::New, "as if not known");
    assert_eq!(states.expire(later), 1);
    assert!(states.is_empty());
}

#[test]
fn at_the_bound_the_longest_silent_goes_but_nobody_who_may_still_retry() {
    let mut states = ProducerStates::new(LIMITS);
    for id in 0..4 {
        put(&mut states, stamp(id, 0, 0), 0, id, secs(id as u64));
    }
    let soon = secs(60);
    assert_eq!(
        states.check(stamp(9, 0, 0), 0, soon),
        ProducerCheck::TooManyProducers { count_max: 4 }
    );
    assert!(
        matches!(states.check(stamp(0, 0, 0), 0, soon), ProducerCheck::Duplicate(_)),
        "who is known is served"
    );
    let later = secs(301);
    assert_eq!(states.check(stamp(9, 0, 0), 0, later), ProducerCheck::New);
    put(&mut states, stamp(9, 0, 0), 0, 10, later);
    assert_eq!(states.len(), 4);
    assert!(states.get(ProducerId::new(0).unwrap()).is_none(), "silent for longest");
    assert!(states.get(ProducerId::new(1).unwrap()).is_some());
}

#[test]
fn a_clone_does_not_follow() {
    let mut states = ProducerStates::new(LIMITS);
    put(&mut states, stamp(1, 0, 0), 0, 0, secs(0));
    let snapshot = states.clone();
    put(&mut states, stamp(1, 0, 1), 0, 1, secs(0));
    assert_eq!(snapshot.get(ProducerId::new(1).unwrap()).unwrap().batches().len(), 1);
}
