//! Exact action lists of a leader: what followers say, and who is in sync.

use riverrun_proto::epoch::{BrokerEpoch, PartitionEpoch};

use super::*;
use crate::replica::{
    BrokerStanding, Event, IsrProposal, Limits,
    frame::{Ack, Subscribe},
};

const ME: BrokerId = BrokerId(1);
const F: BrokerId = BrokerId(2);
const G: BrokerId = BrokerId(3);
const LIMITS: Limits = Limits { lag_time_max: Duration::from_secs(10), lag_bytes_max: 1000 };

const REFUSED_FOR_ISR: Action = Action::RefuseWaiting { isr: 1, min_isr: 2 };

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn epoch(epoch: i32) -> riverrun_proto::epoch::LeaderEpoch {
    riverrun_proto::epoch::LeaderEpoch::new(epoch).unwrap()
}

fn run(n: i64) -> BrokerEpoch {
    BrokerEpoch::new(n).unwrap()
}

fn session(number: u64) -> Session {
    Session { broker_epoch: run(20), number }
}

fn registered(le: i32, pe: i32, isr: &[BrokerId]) -> Event {
    Event::Registered(Registration {
        leader: Some(ME),
        leader_epoch: epoch(le),
        partition_epoch: PartitionEpoch::new(pe).unwrap(),
        replicas: vec![ME, F, G],
        isr: isr.to_vec(),
        min_isr: 2,
    })
}

fn position(follower: BrokerId, number: u64, end: i64, last: Option<i32>) -> Position {
    Position {
        follower,
        leader_epoch: epoch(5),
        session: session(number),
        log_end: at(end),
        last_epoch: last.map(epoch),
        flushed_end: at(end),
        log_start: at(0),
    }
}

fn step_at(replica: &mut Replica, seconds: u64, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    replica.step(Duration::from_secs(seconds), event, &mut actions);
    actions
}

fn step(replica: &mut Replica, event: Event) -> Vec<Action> {
    step_at(replica, 100, event)
}

/// Leads epoch 5 with ten records of epoch 3, and has told nobody yet.
fn leader(isr: &[BrokerId]) -> Replica {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(10), at(4))
        .running_as(run(10))
        .with_epochs([EpochStart { epoch: epoch(3), start: at(0) }].into_iter().collect())
        .with_limits(LIMITS);
    for broker in [ME, F, G] {
        let epoch = if broker == ME { run(10) } else { run(20) };
        step(&mut replica, Event::Broker(BrokerStanding { broker, epoch, may_join: true }));
    }
    assert_eq!(
        step(&mut replica, registered(5, 1, isr))[0],
        Action::StartEpoch { epoch: epoch(5), start: at(10) }
    );
    replica
}

fn subscribe(follower: BrokerId, number: u64, end: i64, last: Option<i32>) -> Event {
    Event::Subscribe(Subscribe(position(follower, number, end, last)))
}

fn ack(follower: BrokerId, number: u64, end: i64, last: i32) -> Event {
    Event::Ack(Ack(position(follower, number, end, Some(last))))
}

fn serve(follower: BrokerId, number: u64, from: i64) -> Action {
    Action::Serve { follower, session: session(number), from: at(from) }
}

fn appended(end: i64, bytes: u64) -> Event {
    Event::Appended { log_end: at(end), bytes }
}

fn proposes(pe: i32, isr: &[(BrokerId, Option<i64>)]) -> Action {
    Action::ProposeIsr(IsrProposal {
        leader: ME,
        broker_epoch: run(10),
        leader_epoch: epoch(5),
        partition_epoch: PartitionEpoch::new(pe).unwrap(),
        isr: isr.iter().map(|(id, epoch)| (*id, epoch.map(run))).collect(),
    })
}

#[test]
fn only_acknowledgements_of_all_members_commit() {
    let mut replica = leader(&[ME, F]);
    assert_eq!(step(&mut replica, appended(12, 10)), [], "nobody to wake yet");
    assert_eq!(
        step(&mut replica, subscribe(F, 1, 10, Some(3))),
        [
            serve(F, 1, 10),
            Action::AdvanceHighWatermark(at(10)),
            Action::Acknowledge(at(10)),
            Action::ShareProgress,
        ]
    );
    assert_eq!(step(&mut replica, appended(13, 10)), [Action::WakeSenders]);
    assert_eq!(
        step(&mut replica, ack(F, 1, 12, 5)),
        [Action::AdvanceHighWatermark(at(12)), Action::Acknowledge(at(12)), Action::ShareProgress]
    );
    assert_eq!(step(&mut replica, ack(F, 1, 11, 5)), [], "late, and known better");
    assert_eq!(replica.high_watermark(), at(12));
}

#[test]
fn with_durability_disk_only_what_is_flushed_everywhere_is_committed() {
    let mut replica = leader(&[ME, F]);
    step(&mut replica, Event::DurabilityChanged(Durability::Disk));
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    step(&mut replica, appended(12, 10));
    step(&mut replica, Event::Flushed { flushed_end: at(12) });
    let mut unflushed = position(F, 1, 12, Some(5));
    unflushed.flushed_end = at(11);
    assert_eq!(
        step(&mut replica, Event::Ack(Ack(unflushed))),
        [Action::AdvanceHighWatermark(at(11)), Action::Acknowledge(at(11)), Action::ShareProgress]
    );
}

#[test]
fn what_a_follower_says_is_checked_like_a_fetch() {
    let reason = |replica: &mut Replica, event| match &step(replica, event)[..] {
        [Action::Reply { frame: LeaderFrame::Refused(refused), .. }] => refused.reason,
        other => panic!("{other:?}"),
    };
    let with = |change: fn(&mut Position)| {
        let mut position = position(F, 1, 10, Some(3));
        change(&mut position);
        Event::Subscribe(Subscribe(position))
    };
    let mut replica = leader(&[ME, F]);
    let table: [(Event, Refusal); 6] = [
        (with(|p| p.leader_epoch = epoch(4)), Refusal::FencedEpoch),
        (with(|p| p.leader_epoch = epoch(6)), Refusal::UnknownEpoch),
        (with(|p| p.follower = BrokerId(9)), Refusal::NotReplica),
        (with(|p| p.session.broker_epoch = run(19)), Refusal::StaleBrokerEpoch),
        (with(|p| p.last_epoch = Some(epoch(6))), Refusal::Inconsistent),
        (ack(F, 1, 10, 3), Refusal::UnknownSession),
    ];
    for (event, expected) in table {
        assert_eq!(reason(&mut replica, event), expected);
    }
    assert_eq!(replica.log_end_of(F), None, "nothing refused counts");
    step(&mut replica, subscribe(F, 2, 10, Some(3)));
    assert_eq!(reason(&mut replica, subscribe(F, 1, 9, Some(3))), Refusal::UnknownSession);
    step(&mut replica, Event::LogStartAdvanced { log_start: at(8) });
    let below = Refusal::OutOfRange { log_start: at(8) };
    assert_eq!(reason(&mut replica, subscribe(G, 1, 7, Some(9))), below, "before divergence");
    assert_eq!(
        reason(&mut replica, subscribe(G, 1, 11, None)),
        Refusal::OutOfRange { log_start: at(8) }
    );
}

/// Seed 1326 of the simulator over the quorum: the follower has what was pushed again, drops it and
/// says nothing, and the sender waited for that.
#[test]
fn a_subscription_that_comes_again_late_is_served_from_what_was_acknowledged_since() {
    let mut replica = leader(&[ME, F]);
    assert_eq!(step(&mut replica, subscribe(G, 1, 4, Some(3))), [serve(G, 1, 4)]);
    step(&mut replica, ack(G, 1, 8, 3));
    assert_eq!(step(&mut replica, subscribe(G, 1, 4, Some(3))), [serve(G, 1, 8)]);
    assert_eq!(
        step(&mut replica, subscribe(G, 2, 4, Some(3))),
        [serve(G, 2, 4)],
        "another session"
    );
}

#[test]
fn who_begins_anew_begins_where_the_batch_does_that_is_deleted_in_part() {
    let mut replica = leader(&[ME, F]);
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    step(&mut replica, Event::LogStartAdvanced { log_start: at(8) });
    // Empty at the log start, which lies inside a batch, as its sender finds.
    assert_eq!(step(&mut replica, subscribe(G, 1, 8, None)), [serve(G, 1, 8)]);
    let refused = |number, begins| {
        let reason = Refusal::OutOfRange { log_start: at(begins) };
        let (session, leader_epoch) = (session(number), epoch(5));
        let frame = LeaderFrame::Refused(Refused { session, leader_epoch, reason });
        Action::Reply { follower: G, frame }
    };
    let inside =
        |number| Event::InsideBatch { follower: G, session: session(number), begins: at(6) };
    assert_eq!(step(&mut replica, inside(9)), [], "of another session");
    assert_eq!(step(&mut replica, inside(1)), [refused(1, 6)]);
    assert_eq!(replica.progress(G), None, "the session is over");
    assert_eq!(step(&mut replica, subscribe(G, 2, 5, None)), [refused(2, 6)], "known by now");
    assert_eq!(step(&mut replica, subscribe(G, 3, 6, None)), [serve(G, 3, 6)]);
    let head = replica.data_head(G, at(6), at(10)).unwrap();
    assert_eq!((head.previous_epoch, head.progress.log_start), (None, at(8)));
    assert_eq!(head.epochs, [EpochStart { epoch: epoch(3), start: at(6) }]);
    assert_eq!(replica.data_head(G, at(5), at(10)), None, "that is deleted");
    step(&mut replica, Event::LogStartAdvanced { log_start: at(9) });
    assert_eq!(step(&mut replica, subscribe(G, 4, 6, None)), [refused(4, 9)], "not known again");
}

#[test]
fn a_log_that_parts_is_told_where_and_does_not_count() {
    let mut replica = leader(&[ME, F]);
    let asked = position(F, 1, 12, Some(4));
    let diverging = LeaderFrame::Diverging(Diverging { asked, epoch: Some(epoch(3)), end: at(10) });
    assert_eq!(
        step(&mut replica, Event::Subscribe(Subscribe(asked))),
        [Action::Reply { follower: F, frame: diverging }]
    );
    assert_eq!(replica.log_end_of(F), None, "KAFKA-13141");
}

#[test]
fn a_log_whose_epochs_are_all_deleted_here_begins_anew() {
    let mut replica = leader(&[ME, F]);
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    step(&mut replica, appended(14, 1));
    step(&mut replica, ack(F, 1, 14, 5));
    step(&mut replica, Event::LogStartAdvanced { log_start: at(12) });
    for (end, parts) in [(12, false), (13, true), (20, true)] {
        let asked = position(G, 1, end, Some(3));
        let diverging = LeaderFrame::Diverging(Diverging { asked, epoch: None, end: at(12) });
        let expected = match parts {
            true => Action::Reply { follower: G, frame: diverging },
            false => serve(G, 1, end),
        };
        let said = step(&mut replica, Event::Subscribe(Subscribe(asked)));
        assert!(said.contains(&expected), "{end}: {said:?}");
    }
}

#[test]
fn who_has_caught_up_joins_and_counts_at_once() {
    let mut replica = leader(&[ME, F]);
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    assert_eq!(step(&mut replica, subscribe(G, 1, 4, Some(3))), [serve(G, 1, 4)], "far behind");
    assert_eq!(
        step(&mut replica, ack(G, 1, 10, 3)),
        [proposes(1, &[(ME, Some(10)), (F, Some(20)), (G, Some(20))])]
    );
    assert!(replica.counts_as_member(G));
    step(&mut replica, appended(11, 1));
    assert_eq!(step(&mut replica, ack(F, 1, 11, 5)), [], "waits for the member to be");
    assert_eq!(
        step(&mut replica, registered(5, 2, &[ME, F])),
        [Action::AdvanceHighWatermark(at(11)), Action::Acknowledge(at(11)), Action::ShareProgress],
        "another version came first: the proposal is dead, and the member not there (KAFKA-13091)"
    );
}

#[test]
fn who_is_fenced_or_was_restarted_is_not_proposed() {
    for (epoch, may_join) in [(20, false), (21, true)] {
        let mut replica = leader(&[ME, F]);
        let standing = BrokerStanding { broker: G, epoch: run(epoch), may_join };
        step(&mut replica, subscribe(G, 1, 9, Some(3)));
        step(&mut replica, Event::Broker(standing));
        let actions = step(&mut replica, ack(G, 1, 10, 3));
        assert!(!actions.iter().any(|a| matches!(a, Action::ProposeIsr(_))), "{actions:?}");
    }
}

/// Fenced while it stood still, its subscription open: on an idle partition it will say nothing more,
/// for it has all there is.
#[test]
fn who_has_all_there_is_joins_however_long_ago_it_said_so() {
    let mut replica = leader(&[ME, F]);
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    let stands = |may_join| Event::Broker(BrokerStanding { broker: F, epoch: run(20), may_join });
    step(&mut replica, stands(false));
    assert_eq!(step(&mut replica, registered(5, 2, &[ME])).last(), Some(&REFUSED_FOR_ISR));
    assert_eq!(
        step_at(&mut replica, 5000, stands(true)),
        [proposes(2, &[(ME, Some(10)), (F, Some(20))])]
    );
}

#[test]
fn a_refused_proposal_counts_until_no_copy_of_it_can_be_accepted() {
    let mut replica = leader(&[ME, F]);
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    step(&mut replica, subscribe(G, 1, 10, Some(3)));
    let refused = |pe| Event::IsrRefused {
        leader_epoch: epoch(5),
        partition_epoch: PartitionEpoch::new(pe).unwrap(),
    };
    assert_eq!(step(&mut replica, refused(0)), [], "of an older version");
    assert_eq!(
        step(&mut replica, refused(1)),
        [proposes(1, &[(ME, Some(10)), (F, Some(20))])],
        "the present ISR: a new version of it makes an end of all copies"
    );
    assert!(replica.counts_as_member(G));
    assert_eq!(step(&mut replica, refused(1)), [], "once is enough");
    let actions = step(&mut replica, registered(5, 2, &[ME, F]));
    assert_eq!(
        actions,
        [proposes(2, &[(ME, Some(10)), (F, Some(20)), (G, Some(20))])],
        "as far as this broker knows, it may join: tried anew"
    );
}

/// Ticks once a second, from after `from` up to `to`, and returns what the last one did.
fn tick(replica: &mut Replica, from: u64, to: u64) -> Vec<Action> {
    for second in from + 1..to {
        assert_eq!(step_at(replica, second, Event::Tick), [], "at {second}");
    }
    step_at(replica, to, Event::Tick)
}

#[test]
fn who_is_behind_for_too_long_leaves_and_who_is_idle_does_not() {
    let mut replica = leader(&[ME, F, G]);
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    step(&mut replica, subscribe(G, 1, 10, Some(3)));
    assert_eq!(tick(&mut replica, 100, 150), [], "idle, and has everything");
    step_at(&mut replica, 150, appended(11, 1));
    step_at(&mut replica, 155, ack(F, 1, 11, 5));
    assert_eq!(tick(&mut replica, 150, 160), [], "not yet");
    assert_eq!(tick(&mut replica, 160, 161), [proposes(1, &[(ME, Some(10)), (F, Some(20))])]);
    assert_eq!(replica.high_watermark(), at(10), "counts until the change is committed");
    assert_eq!(tick(&mut replica, 161, 170), [], "one change at a time");
    let committed = step_at(&mut replica, 170, registered(5, 2, &[ME, F]));
    assert!(committed.contains(&Action::AdvanceHighWatermark(at(11))), "{committed:?}");
}

#[test]
fn a_member_never_heard_from_leaves_and_its_run_is_not_claimed_to_be_known() {
    let mut replica = leader(&[ME, F, G]);
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    assert_eq!(tick(&mut replica, 100, 111), [proposes(1, &[(ME, Some(10)), (F, Some(20))])]);
    let mut replica = leader(&[ME, F, G]);
    step(&mut replica, subscribe(F, 1, 3, Some(3)));
    step_at(&mut replica, 105, subscribe(G, 1, 10, Some(3)));
    assert_eq!(tick(&mut replica, 100, 111), [proposes(1, &[(ME, Some(10)), (G, Some(20))])]);
}

#[test]
fn a_leader_that_slept_judges_nobody_by_it() {
    let mut replica = leader(&[ME, F, G]);
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    assert_eq!(step_at(&mut replica, 700, Event::Tick), []);
    assert_eq!(tick(&mut replica, 700, 710), []);
    assert_eq!(tick(&mut replica, 710, 711), [proposes(1, &[(ME, Some(10)), (F, Some(20))])]);
}

#[test]
fn producers_wait_for_a_member_that_is_there_and_not_for_one_that_is_not() {
    let mut replica = leader(&[ME, F, G]);
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    assert_eq!(step(&mut replica, appended(20, 1000)), [Action::WakeSenders], "at the limit");
    assert_eq!(step(&mut replica, appended(21, 100)), [Action::WakeSenders, Action::HoldAppends]);
    assert!(replica.holds_appends());
    assert_eq!(step(&mut replica, ack(F, 1, 20, 5)), [Action::ResumeAppends]);
    step(&mut replica, appended(41, 2000));
    assert!(replica.holds_appends());
    let lost = Event::FollowerLost { follower: F, session: session(1) };
    assert_eq!(step(&mut replica, lost), [Action::ResumeAppends]);
}

#[test]
fn a_new_term_forgets_what_followers_said() {
    let mut replica = leader(&[ME, F]);
    step(&mut replica, subscribe(F, 1, 10, Some(3)));
    step(&mut replica, appended(11, 1));
    assert_eq!(
        step(&mut replica, registered(6, 2, &[ME, F])),
        [
            Action::EndSession { follower: F, session: session(1) },
            Action::StartEpoch { epoch: epoch(6), start: at(11) },
        ]
    );
    assert_eq!(replica.log_end_of(F), None);
}

#[test]
fn the_head_of_a_push_names_what_comes_before_and_who_wrote_it() {
    let mut replica = leader(&[ME, F]);
    step(&mut replica, subscribe(F, 1, 8, Some(3)));
    step(&mut replica, appended(12, 1));
    let head = replica.data_head(F, at(8), at(12)).unwrap();
    assert_eq!((head.base, head.end, head.previous_epoch), (at(8), at(12), Some(epoch(3))));
    let runs: Vec<_> = head.epochs.iter().map(|run| (run.epoch.get(), run.start.get())).collect();
    assert_eq!(runs, [(3, 8), (5, 10)]);
    assert_eq!(replica.data_head(F, at(8), at(13)), None, "not written yet");
    assert_eq!(replica.data_head(G, at(8), at(12)), None, "not subscribed");
}
