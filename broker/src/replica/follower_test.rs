//! Exact action lists of a follower.

use std::time::Duration;

use riverrun_proto::{
    epoch::{BrokerEpoch, PartitionEpoch},
    epoch_history::EpochStart,
};

use super::*;
use crate::replica::{Durability, Event, Registration};

const ME: BrokerId = BrokerId(2);
const L: BrokerId = BrokerId(1);

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn epoch(epoch: i32) -> LeaderEpoch {
    LeaderEpoch::new(epoch).unwrap()
}

fn run(n: i64) -> BrokerEpoch {
    BrokerEpoch::new(n).unwrap()
}

fn session(number: u64) -> Session {
    Session { broker_epoch: run(20), number }
}

fn follows(leader: Option<BrokerId>, le: i32, pe: i32) -> Event {
    Event::Registered(Registration {
        leader,
        leader_epoch: epoch(le),
        partition_epoch: PartitionEpoch::new(pe).unwrap(),
        replicas: vec![L, ME],
        isr: vec![L],
        min_isr: 1,
    })
}

fn position(le: i32, number: u64, end: i64, last: Option<i32>) -> Position {
    Position {
        follower: ME,
        leader_epoch: epoch(le),
        session: session(number),
        log_end: at(end),
        last_epoch: last.map(epoch),
        flushed_end: at(end.min(10)),
        log_start: at(0),
    }
}

fn asks(le: i32, number: u64, end: i64, last: Option<i32>) -> Action {
    Action::Subscribe(Subscribe(position(le, number, end, last)))
}

fn acks(le: i32, number: u64, end: i64, last: i32) -> Action {
    Action::Ack(Ack(position(le, number, end, Some(last))))
}

fn progress(number: u64, high_watermark: i64) -> Progress {
    Progress {
        session: session(number),
        leader_epoch: epoch(5),
        high_watermark: at(high_watermark),
        log_start: at(0),
    }
}

fn says(number: u64, high_watermark: i64) -> Event {
    Event::Leader(LeaderFrame::Progress(progress(number, high_watermark)))
}

fn data(base: i64, previous: i32, end: i64, runs: &[(i32, i64)], hw: i64) -> DataHead {
    let run = |(e, start): &(i32, i64)| EpochStart { epoch: epoch(*e), start: at(*start) };
    DataHead {
        progress: progress(1, hw),
        base: at(base),
        previous_epoch: Some(epoch(previous)),
        end: at(end),
        epochs: runs.iter().map(run).collect(),
    }
}

fn step(replica: &mut Replica, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    replica.step(Duration::ZERO, event, &mut actions);
    actions
}

/// Follows L in epoch 5, with ten records: six of epoch 1, four of epoch 3; high watermark 4.
fn follower() -> Replica {
    let epochs =
        [(1, 0), (3, 6)].map(|(e, start)| EpochStart { epoch: epoch(e), start: at(start) });
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(10), at(4))
        .running_as(run(20))
        .with_epochs(epochs.into_iter().collect());
    assert_eq!(step(&mut replica, follows(Some(L), 5, 1)), [asks(5, 1, 10, Some(3))]);
    replica
}

fn diverging(asked: Position, e: i32, end: i64) -> Event {
    Event::Leader(LeaderFrame::Diverging(Diverging { asked, epoch: Some(epoch(e)), end: at(end) }))
}

fn refused(number: u64, reason: Refusal) -> Event {
    let (session, leader_epoch) = (session(number), epoch(5));
    Event::Leader(LeaderFrame::Refused(Refused { session, leader_epoch, reason }))
}

#[test]
fn data_is_appended_then_acknowledged_and_the_high_watermark_follows() {
    let mut replica = follower();
    assert_eq!(step(&mut replica, says(1, 8)), [Action::AdvanceHighWatermark(at(8))]);
    let head = data(10, 3, 14, &[(3, 10), (5, 12)], 13);
    let frame = Event::Leader(LeaderFrame::Data(head.clone()));
    assert_eq!(step(&mut replica, frame), [Action::Append]);
    assert_eq!(replica.high_watermark(), at(8), "not before it is written");
    assert_eq!(
        step(&mut replica, Event::Replicated(head)),
        [Action::AdvanceHighWatermark(at(13)), acks(5, 1, 14, 5)]
    );
    assert_eq!(step(&mut replica, says(1, 99)), [Action::AdvanceHighWatermark(at(14))]);
    assert_eq!(step(&mut replica, says(1, 3)), [], "never back");
}

/// Flushed between the question and its answer: what could not be acknowledged then is now.
#[test]
fn what_was_flushed_while_it_asked_is_acknowledged_once_it_is_granted() {
    let mut replica = follower();
    step(&mut replica, says(1, 4));
    step(&mut replica, Event::DurabilityChanged(Durability::Disk));
    let head = data(10, 3, 12, &[(3, 10)], 4);
    step(&mut replica, Event::Leader(LeaderFrame::Data(head.clone())));
    step(&mut replica, Event::Replicated(head));
    step(&mut replica, Event::LeaderLost { session: session(1) });
    assert_eq!(step(&mut replica, Event::Tick), [asks(5, 2, 12, Some(3))]);
    assert_eq!(step(&mut replica, Event::Flushed { flushed_end: at(12) }), []);
    let mut flushed = position(5, 2, 12, Some(3));
    flushed.flushed_end = at(12);
    assert_eq!(step(&mut replica, says(2, 4)), [Action::Ack(Ack(flushed))]);
    assert_eq!(step(&mut replica, says(2, 4)), [], "once");
}

/// Seed 555 of the simulator over the quorum: on an idle partition the leader would hear of those
/// flushes never, take the follower for one that lags, and leave too few in sync to write anything.
#[test]
fn what_was_flushed_when_that_did_not_count_is_acknowledged_when_it_does() {
    let mut replica = follower();
    step(&mut replica, says(1, 4));
    let head = data(10, 3, 12, &[(3, 10)], 4);
    step(&mut replica, Event::Leader(LeaderFrame::Data(head.clone())));
    step(&mut replica, Event::Replicated(head));
    assert_eq!(step(&mut replica, Event::Flushed { flushed_end: at(12) }), [], "in memory");
    let mut flushed = position(5, 1, 12, Some(3));
    flushed.flushed_end = at(12);
    let raise = Event::DurabilityChanged(Durability::Disk);
    assert_eq!(step(&mut replica, raise.clone()), [Action::Ack(Ack(flushed))]);
    assert_eq!(step(&mut replica, raise), [], "it is what it was");
    assert_eq!(step(&mut replica, Event::DurabilityChanged(Durability::Memory)), []);
}

/// All it had was deleted; its new leader was elected before it heard of that (found by the
/// simulator: the follower refused every frame).
#[test]
fn a_log_of_which_all_was_deleted_takes_what_comes_after() {
    let mut replica =
        Replica::new(ME, Durability::Memory, at(10), at(10), at(10)).running_as(run(20));
    let mut empty = position(5, 1, 10, None);
    empty.log_start = at(10);
    assert_eq!(step(&mut replica, follows(Some(L), 5, 1)), [Action::Subscribe(Subscribe(empty))]);
    let head = data(10, 3, 14, &[(3, 10), (5, 12)], 13);
    assert_eq!(step(&mut replica, Event::Leader(LeaderFrame::Data(head))), [Action::Append]);
}

/// What is committed may be told before the batches that it is about are in the log: they may have
/// waited for it. A leader that has nothing new to say does not say it again.
#[test]
fn what_was_told_too_early_counts_when_the_log_has_gone_on() {
    let mut replica = follower();
    step(&mut replica, says(1, 8));
    let (first, second) = (data(10, 3, 12, &[(3, 10)], 8), data(12, 3, 14, &[(3, 12)], 9));
    assert_eq!(
        step(&mut replica, Event::Leader(LeaderFrame::Data(first.clone()))),
        [Action::Append]
    );
    assert_eq!(step(&mut replica, says(1, 13)), [Action::AdvanceHighWatermark(at(10))]);
    assert_eq!(
        step(&mut replica, Event::Replicated(first)),
        [Action::AdvanceHighWatermark(at(12)), acks(5, 1, 12, 3)]
    );
    assert_eq!(
        step(&mut replica, Event::Replicated(second)),
        [Action::AdvanceHighWatermark(at(13)), acks(5, 1, 14, 3)]
    );
}

/// In another session the log may have been cut: what was told before is not believed.
#[test]
fn what_was_told_on_another_session_counts_no_more() {
    let mut replica = follower();
    step(&mut replica, says(1, 13));
    step(&mut replica, Event::LeaderLost { session: session(1) });
    let asked = step(&mut replica, Event::Tick);
    assert_eq!(asked, [asks(5, 2, 10, Some(3))]);
    assert_eq!(step(&mut replica, says(2, 10)), []);
    let mut head = data(10, 3, 14, &[(3, 10)], 11);
    head.progress.session = session(2);
    step(&mut replica, Event::Leader(LeaderFrame::Data(head.clone())));
    let did = step(&mut replica, Event::Replicated(head));
    assert_eq!(did, [Action::AdvanceHighWatermark(at(11)), acks(5, 2, 14, 3)]);
}

#[test]
fn with_durability_disk_the_flush_is_acknowledged_too() {
    let mut replica = follower();
    step(&mut replica, says(1, 4));
    step(&mut replica, Event::DurabilityChanged(Durability::Disk));
    let head = data(10, 3, 12, &[(3, 10)], 4);
    step(&mut replica, Event::Leader(LeaderFrame::Data(head.clone())));
    assert_eq!(step(&mut replica, Event::Replicated(head)), [acks(5, 1, 12, 3)]);
    let mut flushed = position(5, 1, 12, Some(3));
    flushed.flushed_end = at(12);
    assert_eq!(
        step(&mut replica, Event::Flushed { flushed_end: at(12) }),
        [Action::Ack(Ack(flushed))]
    );
}

#[test]
fn what_does_not_fit_ends_the_session_and_what_is_known_is_dropped() {
    let table = [
        ("a gap", data(11, 3, 12, &[(3, 11)], 0)),
        ("after another batch", data(10, 1, 12, &[(3, 10)], 0)),
        ("an epoch that goes back", data(10, 3, 12, &[(2, 10)], 0)),
        ("an epoch past the leader's", data(10, 3, 12, &[(6, 10)], 0)),
        ("epochs in disorder", data(10, 3, 12, &[(5, 10), (4, 11)], 0)),
        ("no epochs", data(10, 3, 12, &[], 0)),
    ];
    for (what, head) in table {
        let mut replica = follower();
        step(&mut replica, says(1, 4));
        let frame = Event::Leader(LeaderFrame::Data(head));
        assert_eq!(step(&mut replica, frame), [Action::Unsubscribe(session(1))], "{what}");
        assert_eq!(step(&mut replica, says(1, 9)), [], "{what}: of a session that is over");
        assert_eq!(step(&mut replica, Event::Tick), [asks(5, 2, 10, Some(3))], "{what}");
    }
    let mut replica = follower();
    let known = Event::Leader(LeaderFrame::Data(data(8, 3, 10, &[(3, 8)], 0)));
    assert_eq!(step(&mut replica, known), []);
}

#[test]
fn the_log_is_cut_where_both_histories_still_agree() {
    // The leader's answer; where to cut; what is last then.
    let table = [((3, 8), 8, Some(3)), ((1, 9), 6, Some(1)), ((2, 5), 5, Some(1))];
    for ((e, end), to, last) in table {
        let mut replica = follower();
        let asked = position(5, 1, 10, Some(3));
        let mut next = position(5, 2, to, last);
        next.flushed_end = at(to);
        assert_eq!(
            step(&mut replica, diverging(asked, e, end)),
            [Action::Truncate { to: at(to) }, Action::Subscribe(Subscribe(next))],
            "{e} {end}"
        );
        assert_eq!(replica.high_watermark(), at(4.min(to)));
        assert_eq!(step(&mut replica, diverging(asked, 0, 0)), [], "an answer to what was");
    }
}

#[test]
fn a_log_of_which_nothing_would_be_left_begins_anew() {
    // Nothing is known of where the two part; the own start, which may lie inside a batch.
    let start =
        Event::Leader(LeaderFrame::Progress(Progress { log_start: at(3), ..progress(1, 4) }));
    for (to, e, end) in [(7, None, 7), (3, Some(0), 7), (2, Some(1), 2)] {
        let mut replica = follower();
        step(&mut replica, start.clone());
        let mut asked = position(5, 1, 10, Some(3));
        asked.log_start = at(3);
        let mut next = position(5, 2, to, None);
        (next.log_start, next.flushed_end) = (at(to), at(to));
        let diverging = Diverging { asked, epoch: e.map(epoch), end: at(end) };
        assert_eq!(
            step(&mut replica, Event::Leader(LeaderFrame::Diverging(diverging))),
            [Action::Restart { at: at(to) }, Action::Subscribe(Subscribe(next))],
            "{e:?} {end}"
        );
    }
}

#[test]
fn an_answer_for_another_log_cuts_nothing() {
    let others: [fn(&mut Position); 5] = [
        |p| p.log_end = at(9),
        |p| p.last_epoch = Some(epoch(2)),
        |p| p.leader_epoch = epoch(4),
        |p| p.session.number = 7,
        |p| p.session.broker_epoch = run(19),
    ];
    for change in others {
        let mut asked = position(5, 1, 10, Some(3));
        change(&mut asked);
        assert_eq!(step(&mut follower(), diverging(asked, 1, 0)), [], "{asked:?}");
    }
}

#[test]
fn a_log_the_leader_has_nothing_after_begins_anew() {
    let mut replica = follower();
    let mut next = position(5, 2, 30, None);
    (next.log_start, next.flushed_end) = (at(30), at(30));
    assert_eq!(
        step(&mut replica, refused(1, Refusal::OutOfRange { log_start: at(30) })),
        [Action::Restart { at: at(30) }, Action::Subscribe(Subscribe(next))]
    );
    assert_eq!(replica.high_watermark(), at(30), "KAFKA-9491");
    let mut replica = follower();
    let within = refused(1, Refusal::OutOfRange { log_start: at(5) });
    assert_eq!(step(&mut replica, within), [], "nothing is thrown away for that");
    assert_eq!(step(&mut replica, Event::Tick), [asks(5, 1, 10, Some(3))]);
}

#[test]
fn refused_or_cut_off_it_asks_again_after_a_while_on_a_session_nobody_knows() {
    let mut replica = follower();
    assert_eq!(step(&mut replica, refused(1, Refusal::UnknownEpoch)), []);
    assert_eq!(step(&mut replica, Event::Tick), [asks(5, 1, 10, Some(3))], "never was granted");
    step(&mut replica, says(1, 4));
    assert_eq!(step(&mut replica, Event::Tick), [], "all is well");
    assert_eq!(step(&mut replica, Event::LeaderLost { session: session(1) }), []);
    assert_eq!(step(&mut replica, Event::Tick), [asks(5, 2, 10, Some(3))]);
}

#[test]
fn a_new_leader_is_asked_at_once_and_the_log_left_as_it_is() {
    let mut replica = follower();
    assert_eq!(step(&mut replica, follows(Some(L), 5, 2)), [], "the same term");
    assert_eq!(
        step(&mut replica, follows(Some(L), 6, 3)),
        [Action::Unsubscribe(session(1)), asks(6, 2, 10, Some(3))],
        "KIP-101: what lies above the high watermark may be committed all the same"
    );
    assert_eq!(
        step(&mut replica, follows(None, 7, 4)),
        [Action::Unsubscribe(session(2))],
        "nobody to ask"
    );
}

#[test]
fn who_led_and_wrote_nothing_forgets_its_epoch() {
    let mut replica = follower();
    step(&mut replica, follows(Some(ME), 6, 2));
    assert_eq!(replica.epochs().latest(), Some(epoch(6)));
    let actions = step(&mut replica, follows(Some(L), 7, 3));
    assert_eq!(actions[0], Action::Resign { epoch: epoch(7), leader: Some(L) });
    assert_eq!(replica.epochs().latest(), Some(epoch(3)));
}

#[test]
fn the_log_start_follows_the_leader_as_far_as_is_committed() {
    let mut replica = follower();
    let progress = Progress { log_start: at(7), ..progress(1, 6) };
    assert_eq!(
        step(&mut replica, Event::Leader(LeaderFrame::Progress(progress))),
        [Action::AdvanceHighWatermark(at(6)), Action::AdvanceLogStart(at(6))]
    );
}
