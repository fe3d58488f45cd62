use super::*;
use crate::{
    clock::{Clock, ClockOffset, ManualClock, WallAnchor},
    metadata::test_support::{after, apply, join, level_1, level_2, stand},
};

const TIMEOUT: Duration = Duration::from_secs(6);

/// Brokers 1 and 2, registered at offsets 3 and 4, fenced as they joined.
fn joined() -> MetadataImage {
    after(&[level_1(), level_2(), join(1, 1, None), join(2, 1, None)])
}

fn with(image: &MetadataImage, changes: &[SetPresence]) -> MetadataImage {
    changes.iter().fold(image.clone(), |image, change| {
        let applied = apply(&image, &crate::metadata::Command::SetPresence(*change));
        applied.outcome.unwrap();
        applied.image
    })
}

fn both_active() -> MetadataImage {
    after(&[
        level_1(),
        level_2(),
        join(1, 1, None),
        join(2, 1, None),
        stand(1, 3, Presence::Active),
        stand(2, 4, Presence::Active),
    ])
}

fn said(broker: u32, epoch: i64, applied: u64) -> Heartbeat {
    Heartbeat {
        broker: BrokerId(broker),
        epoch: BrokerEpoch::new(epoch).unwrap(),
        applied: MetadataOffset::new(applied).unwrap(),
        wants_to_stop: false,
        clock: None,
    }
}

fn summary(changes: &[SetPresence]) -> Vec<(u32, Presence)> {
    changes.iter().map(|change| (change.broker.0, change.presence)).collect()
}

/// A liveness of a leader, and its clock.
fn leading() -> (Liveness, ManualClock) {
    let clock = ManualClock::default();
    let mut liveness = Liveness::new(TIMEOUT);
    liveness.lead(Some(1), clock.monotonic());
    (liveness, clock)
}

#[test]
fn who_has_applied_its_registration_is_taken_in() {
    let (mut liveness, clock) = leading();
    let image = joined();
    // (said, becomes)
    let cases = [
        (said(1, 3, 2), None),
        (said(1, 2, 9), None),
        (Heartbeat { wants_to_stop: true, ..said(1, 3, 9) }, None),
        (said(1, 3, 3), Some(Presence::Active)),
    ];
    for (said, becomes) in cases {
        liveness.heard(said, 1, clock.monotonic());
        let expected: Vec<_> = becomes.into_iter().map(|presence| (1, presence)).collect();
        assert_eq!(summary(&liveness.decide(&image, clock.monotonic())), expected, "{said:?}");
    }
    let changes = liveness.decide(&image, clock.monotonic());
    let image = with(&image, &changes);
    assert!(liveness.decide(&image, clock.monotonic()).is_empty(), "once");
}

#[test]
fn who_is_silent_for_the_session_timeout_is_fenced() {
    let (mut liveness, clock) = leading();
    let image = both_active();
    liveness.heard(said(1, 3, 6), 1, clock.monotonic());
    liveness.heard(said(2, 4, 6), 2, clock.monotonic());
    clock.advance(TIMEOUT - Duration::from_millis(1));
    assert!(liveness.decide(&image, clock.monotonic()).is_empty());
    liveness.heard(said(2, 4, 6), 2, clock.monotonic());
    clock.advance(Duration::from_millis(1));
    let changes = liveness.decide(&image, clock.monotonic());
    assert_eq!(summary(&changes), [(1, Presence::Fenced)]);
    assert_eq!(changes[0].broker_epoch.get(), 3, "that run of it");
    let image = with(&image, &changes);
    liveness.heard(said(1, 3, 7), 1, clock.monotonic());
    let back = liveness.decide(&image, clock.monotonic());
    assert_eq!(summary(&back), [(1, Presence::Active)]);
}

#[test]
fn a_new_leader_gives_everybody_a_full_session() {
    let (mut liveness, clock) = leading();
    let image = both_active();
    clock.advance(TIMEOUT * 3);
    liveness.lead(Some(2), clock.monotonic());
    assert!(liveness.decide(&image, clock.monotonic()).is_empty());
    clock.advance(TIMEOUT / 2);
    liveness.lead(Some(2), clock.monotonic());
    liveness.heard(said(1, 3, 6), 1, clock.monotonic());
    clock.advance(TIMEOUT / 2);
    let changes = liveness.decide(&image, clock.monotonic());
    assert_eq!(summary(&changes), [(2, Presence::Fenced)], "never heard of in this term");
    liveness.lead(None, clock.monotonic());
    clock.advance(TIMEOUT * 3);
    assert!(!liveness.leads() && liveness.decide(&image, clock.monotonic()).is_empty());
}

#[test]
fn a_closed_connection_that_is_not_made_again_fences_at_once() {
    let (mut liveness, clock) = leading();
    let image = both_active();
    let (old, new) = (liveness.dialled(), liveness.dialled());
    liveness.heard(said(1, 3, 6), old, clock.monotonic());
    liveness.heard(said(2, 4, 6), old, clock.monotonic());
    // Broker 2 has a new one before the old one ends.
    liveness.heard(said(2, 4, 6), new, clock.monotonic());
    for broker in [1, 2] {
        liveness.closed(BrokerId(broker), old, clock.monotonic());
    }
    clock.advance(REDIAL_GRACE - Duration::from_millis(1));
    assert!(liveness.decide(&image, clock.monotonic()).is_empty());
    clock.advance(Duration::from_millis(1));
    assert_eq!(summary(&liveness.decide(&image, clock.monotonic())), [(1, Presence::Fenced)]);
    // Dialled again, just in time or not.
    let third = liveness.dialled();
    liveness.heard(said(1, 3, 6), third, clock.monotonic());
    assert!(liveness.decide(&image, clock.monotonic()).is_empty());
}

#[test]
fn a_fenced_broker_whose_connection_closed_is_not_taken_in() {
    let (mut liveness, clock) = leading();
    let connection = liveness.dialled();
    liveness.heard(said(1, 3, 9), connection, clock.monotonic());
    liveness.closed(BrokerId(1), connection, clock.monotonic());
    assert!(liveness.decide(&joined(), clock.monotonic()).is_empty());
}

#[test]
fn an_earlier_run_neither_speaks_for_a_broker_nor_silences_it() {
    let (mut liveness, clock) = leading();
    let image = both_active();
    liveness.heard(said(1, 3, 6), 1, clock.monotonic());
    liveness.heard(Heartbeat { wants_to_stop: true, ..said(1, 1, 6) }, 2, clock.monotonic());
    liveness.closed(BrokerId(1), 2, clock.monotonic());
    clock.advance(REDIAL_GRACE);
    assert!(liveness.decide(&image, clock.monotonic()).is_empty());
}

#[test]
fn who_wants_to_stop_leaves_and_stops_when_the_others_know() {
    let (mut liveness, clock) = leading();
    let image = both_active();
    let now = clock.monotonic();
    liveness.heard(Heartbeat { wants_to_stop: true, ..said(1, 3, 6) }, 1, now);
    liveness.heard(said(2, 4, 6), 2, now);
    assert!(!liveness.may_stop(&image, BrokerId(1)));
    let changes = liveness.decide(&image, now);
    assert_eq!(summary(&changes), [(1, Presence::Leaving)]);
    let image = with(&image, &changes);
    assert!(liveness.decide(&image, now).is_empty());
    assert!(!liveness.may_stop(&image, BrokerId(1)), "broker 2 does not know yet");
    // Its heartbeats go on.
    liveness.heard(Heartbeat { wants_to_stop: true, ..said(1, 3, 7) }, 1, now);
    liveness.heard(said(2, 4, 7), 2, now);
    assert!(liveness.may_stop(&image, BrokerId(1)));
    assert!(!liveness.may_stop(&image, BrokerId(2)), "it does not want to");
    assert!(!liveness.may_stop(&image, BrokerId(9)), "nobody");
}

#[test]
fn a_broker_alone_is_neither_fenced_nor_kept_from_stopping() {
    let (mut liveness, clock) = leading();
    let alone = after(&[level_1(), crate::metadata::test_support::register(1, 1)]);
    clock.advance(TIMEOUT * 2);
    assert!(liveness.decide(&alone, clock.monotonic()).is_empty());
    liveness.heard(Heartbeat { wants_to_stop: true, ..said(1, 2, 2) }, 1, clock.monotonic());
    assert!(liveness.may_stop(&alone, BrokerId(1)));
    // The last one of a cluster has nobody to wait for.
    let image = with(
        &both_active(),
        &[SetPresence {
            broker: BrokerId(2),
            broker_epoch: BrokerEpoch::new(4).unwrap(),
            presence: Presence::Fenced,
        }],
    );
    liveness.heard(Heartbeat { wants_to_stop: true, ..said(1, 3, 7) }, 1, clock.monotonic());
    let changes = liveness.decide(&image, clock.monotonic());
    assert_eq!(summary(&changes), [(1, Presence::Leaving)]);
    let image = with(&image, &changes);
    liveness.decide(&image, clock.monotonic());
    assert!(liveness.may_stop(&image, BrokerId(1)));
}

#[test]
fn who_did_not_dial_a_new_leader_is_looked_for_and_fenced_if_nobody_is_there() {
    let (mut liveness, clock) = leading();
    let image = both_active();
    let missing = |liveness: &Liveness, clock: &ManualClock| {
        let missing = liveness.missing(&image, clock.monotonic());
        missing.into_iter().map(|(broker, _)| broker.0).collect::<Vec<_>>()
    };
    assert!(missing(&liveness, &clock).is_empty(), "whoever lives has yet to dial");
    clock.advance(REDIAL_GRACE);
    assert_eq!(missing(&liveness, &clock), [1, 2]);
    liveness.heard(said(1, 3, 6), 1, clock.monotonic());
    assert_eq!(missing(&liveness, &clock), [2]);
    assert!(liveness.decide(&image, clock.monotonic()).is_empty(), "missing is not gone");

    let epoch = BrokerEpoch::new(4).unwrap();
    liveness.found_gone(BrokerId(2), epoch, 7);
    assert!(liveness.decide(&image, clock.monotonic()).is_empty(), "seen by a term long ago");
    liveness.found_gone(BrokerId(2), BrokerEpoch::new(3).unwrap(), 1);
    assert!(liveness.decide(&image, clock.monotonic()).is_empty(), "an earlier run is gone");
    liveness.found_gone(BrokerId(2), epoch, 1);
    assert!(missing(&liveness, &clock).is_empty(), "it is not looked for again");
    let changes = liveness.decide(&image, clock.monotonic());
    assert_eq!(summary(&changes), [(2, Presence::Fenced)]);

    // It was there after all: what it says counts.
    liveness.heard(said(2, 4, 6), 2, clock.monotonic());
    assert!(liveness.decide(&image, clock.monotonic()).is_empty());
    liveness.lead(Some(2), clock.monotonic());
    assert!(
        liveness.decide(&image, clock.monotonic()).is_empty(),
        "a new term knows nothing of it"
    );
}

const GRANTED: Duration = Duration::from_millis(4500);

#[test]
fn a_lease_takes_to_be_active_and_to_know_what_was_taken_away() {
    let (mut liveness, clock) = leading();
    let (image, now) = (both_active(), clock.monotonic());
    let applied = image.offset().get();
    assert_eq!(liveness.lease(&image, BrokerId(1)), Duration::ZERO, "not heard");
    liveness.heard(said(1, 3, applied), 1, now);
    assert_eq!(liveness.lease(&image, BrokerId(1)), Duration::ZERO, "an earlier leader's word?");
    assert_eq!(liveness.term_to_catch_up(), Some(1));
    liveness.caught_up(7);
    assert_eq!(liveness.lease(&image, BrokerId(1)), Duration::ZERO, "another term");
    liveness.caught_up(1);
    assert_eq!(liveness.lease(&image, BrokerId(1)), GRANTED);
    assert_eq!(liveness.term_to_catch_up(), None);

    // (said, granted)
    let cases = [
        (said(2, 4, applied - 1), Duration::ZERO),
        (Heartbeat { wants_to_stop: true, ..said(2, 4, applied) }, Duration::ZERO),
        (said(2, 4, applied), GRANTED),
    ];
    for (said, granted) in cases {
        liveness.heard(said, 2, now);
        assert_eq!(liveness.lease(&image, BrokerId(2)), granted, "{said:?}");
    }
    assert_eq!(liveness.lease(&joined(), BrokerId(2)), Duration::ZERO, "fenced");
    liveness.heard(said(2, 9, applied), 3, now);
    assert_eq!(liveness.lease(&image, BrokerId(2)), Duration::ZERO, "of a run nobody knows");

    liveness.lead(Some(2), now);
    liveness.heard(said(1, 3, applied), 1, now);
    assert_eq!(liveness.lease(&image, BrokerId(1)), Duration::ZERO, "each term anew");
    liveness.lead(None, now);
    assert_eq!(liveness.lease(&image, BrokerId(1)), Duration::ZERO);
}

/// What was decided cannot be taken back by being heard again.
#[test]
fn who_is_about_to_be_fenced_is_granted_nothing() {
    let (mut liveness, clock) = leading();
    liveness.caught_up(1);
    let image = both_active();
    let applied = image.offset().get();
    liveness.heard(said(1, 3, applied), 1, clock.monotonic());
    liveness.heard(said(2, 4, applied), 1, clock.monotonic());
    assert_eq!(liveness.lease(&image, BrokerId(1)), GRANTED);
    liveness.closed(BrokerId(1), 1, clock.monotonic());
    clock.advance(REDIAL_GRACE);
    let changes = liveness.decide(&image, clock.monotonic());
    assert_eq!(summary(&changes), [(1, Presence::Fenced)]);
    liveness.heard(said(1, 3, applied), 2, clock.monotonic());
    assert_eq!(liveness.lease(&image, BrokerId(1)), Duration::ZERO);

    let fenced = with(&image, &changes);
    let back = liveness.decide(&fenced, clock.monotonic());
    assert_eq!(summary(&back), [(1, Presence::Active)]);
    let active = with(&fenced, &back);
    liveness.decide(&active, clock.monotonic());
    assert_eq!(liveness.lease(&active, BrokerId(1)), Duration::ZERO, "it knows of neither");
    liveness.heard(said(1, 3, active.offset().get()), 2, clock.monotonic());
    assert_eq!(liveness.lease(&active, BrokerId(1)), GRANTED);

    // And one whose fencing came to nothing is not kept waiting for ever.
    liveness.closed(BrokerId(2), 1, clock.monotonic());
    clock.advance(REDIAL_GRACE);
    assert_eq!(summary(&liveness.decide(&active, clock.monotonic())), [(2, Presence::Fenced)]);
    for _ in 0..2 {
        liveness.heard(said(2, 4, active.offset().get()), 3, clock.monotonic());
        assert_eq!(liveness.lease(&active, BrokerId(2)), Duration::ZERO);
        clock.advance(TIMEOUT / 2);
        liveness.heard(said(1, 3, applied), 2, clock.monotonic());
        liveness.heard(said(2, 4, active.offset().get()), 3, clock.monotonic());
        assert!(liveness.decide(&active, clock.monotonic()).is_empty());
    }
    assert_eq!(liveness.lease(&active, BrokerId(2)), GRANTED);
}

#[test]
fn a_broker_alone_has_its_lease() {
    let (mut liveness, _) = leading();
    let alone = after(&[level_1(), crate::metadata::test_support::register(1, 1)]);
    assert_eq!(liveness.lease(&alone, BrokerId(1)), TIMEOUT);
}

/// With the leader's clock as it stood at first.
fn compared(ahead_ms: i64) -> Compared {
    Compared { offset: ClockOffset::told(ahead_ms, 1), leader: WallAnchor::default() }
}

/// Broker 1 is in, broker 2 comes; each says so with such a clock.
fn coming(clocks: [Option<i64>; 2]) -> (Liveness, MetadataImage, Vec<(u32, Presence)>) {
    let clock = ManualClock::default();
    let mut liveness = Liveness::new(TIMEOUT).with_clocks_within(Duration::from_secs(10));
    liveness.lead(Some(1), clock.monotonic());
    let image = after(&[
        level_1(),
        level_2(),
        join(1, 1, None),
        join(2, 1, None),
        stand(1, 3, Presence::Active),
    ]);
    for (said, ahead_ms) in [said(1, 3, 9), said(2, 4, 9)].into_iter().zip(clocks) {
        let said = Heartbeat { clock: ahead_ms.map(compared), ..said };
        liveness.heard(said, said.broker.0.into(), clock.monotonic());
    }
    let changes = summary(&liveness.decide(&image, clock.monotonic()));
    (liveness, image, changes)
}

#[test]
fn who_comes_with_a_clock_that_is_off_is_not_taken_in_and_nobody_is_fenced_for_one() {
    const FAR: i64 = 60_000;
    let taken_in = vec![(2, Presence::Active)];
    // (what, clocks, changes, disputed)
    for (what, clocks, expected, disputed) in [
        ("both are right", [Some(0), Some(-3)], taken_in.clone(), false),
        ("it has not compared yet", [Some(0), None], vec![], false),
        ("it is off", [Some(0), Some(FAR)], vec![], true),
        ("who is in stays in", [Some(FAR), Some(0)], taken_in.clone(), true),
        ("all others are off: the leader is", [Some(FAR), Some(FAR)], taken_in, true),
    ] {
        let (liveness, image, changes) = coming(clocks);
        assert_eq!(changes, expected, "{what}");
        let told = liveness.clocks(&image, Instant::from_start(Duration::ZERO));
        assert_eq!(told.disputed, disputed, "{what}");
        assert_eq!(told.confirmed, clocks.contains(&Some(0)), "{what}: by more than half of one");
    }
}

/// Before anybody has compared anew: what it was told a moment ago is not what it would be told now, and
/// its own broker, which agrees with it whatever it shows, is asking.
#[test]
fn a_leader_whose_clock_is_set_knows_at_once_that_nobody_agrees() {
    const FAR: i64 = 60_000;
    let (mut liveness, image, _) = coming([Some(0), Some(-3)]);
    let now = Instant::from_start(Duration::ZERO);
    assert!(liveness.clocks(&image, now).confirmed);
    for set in [FAR, -FAR] {
        liveness.own_clock(WallAnchor::told(set));
        let told = liveness.clocks(&image, now);
        assert!(told.disputed && !told.confirmed, "{told:?}");
        assert_eq!(told.off[1], (BrokerId(2), ClockOffset::told(-3 - set, 1)));
        // Its own broker is the first to compare again.
        let leader = WallAnchor::told(set);
        let again = Compared { offset: ClockOffset::told(0, 1), leader };
        liveness.heard(Heartbeat { clock: Some(again), ..said(1, 3, 9) }, 1, now);
        let told = liveness.clocks(&image, now);
        assert!(told.disputed, "{told:?}");
        assert_eq!(told.off.len(), 1);
        liveness.heard(Heartbeat { clock: Some(compared(0)), ..said(1, 3, 9) }, 1, now);
    }
    liveness.own_clock(WallAnchor::default());
    assert!(liveness.clocks(&image, now).confirmed, "it was set right");
}

#[test]
fn clocks_of_those_who_are_gone_do_not_count() {
    let (mut liveness, image, _) = coming([Some(0), Some(60_000)]);
    let now = Instant::from_start(Duration::ZERO);
    assert_eq!(liveness.clocks(&image, now).off.len(), 1);
    liveness.closed(BrokerId(2), 2, now);
    assert_eq!(liveness.clocks(&image, now).off.len(), 1, "it may dial again");
    let told = liveness.clocks(&image, now + REDIAL_GRACE);
    assert!(told.off.is_empty() && !told.disputed);
    assert!(liveness.clocks(&image, now + TIMEOUT).off.is_empty());
}
