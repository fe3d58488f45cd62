//! Exact action lists: what each event makes a replica do.

use proptest::prelude::*;
use riverrun_proto::epoch::PartitionEpoch;

use super::{
    frame::{Position, Session, Subscribe},
    *,
};

const ME: BrokerId = BrokerId(1);
const OTHER: BrokerId = BrokerId(2);

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn epoch(epoch: i32) -> LeaderEpoch {
    LeaderEpoch::new(epoch).unwrap()
}

fn registered(leader: Option<BrokerId>, le: i32, pe: i32, isr: &[BrokerId], min: u32) -> Event {
    Event::Registered(Registration {
        leader,
        leader_epoch: epoch(le),
        partition_epoch: PartitionEpoch::new(pe).unwrap(),
        replicas: vec![ME, OTHER],
        isr: isr.to_vec(),
        min_isr: min,
    })
}

fn appended(log_end: Offset) -> Event {
    Event::Appended { log_end, bytes: 100 }
}

fn asks(le: i32, number: u64, end: i64) -> Action {
    Action::Subscribe(Subscribe(Position {
        follower: ME,
        leader_epoch: epoch(le),
        session: Session { broker_epoch: BrokerEpoch::ZERO, number },
        log_end: at(end),
        last_epoch: None,
        flushed_end: at(end),
        log_start: at(0),
    }))
}

fn step(replica: &mut Replica, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    replica.step(Duration::ZERO, event, &mut actions);
    actions
}

#[test]
fn memory_commits_at_the_append_and_disk_at_the_flush() {
    let commits = |end| vec![Action::AdvanceHighWatermark(at(end)), Action::Acknowledge(at(end))];
    for (durability, after_append, after_flush) in
        [(Durability::Memory, commits(15), vec![]), (Durability::Disk, vec![], commits(15))]
    {
        let mut replica = Replica::new(ME, durability, at(0), at(10), at(4));
        assert_eq!(replica.leads(), None);
        assert_eq!(
            step(&mut replica, registered(Some(ME), 3, 7, &[ME], 1)),
            [
                Action::StartEpoch { epoch: epoch(3), start: at(10) },
                Action::AdvanceHighWatermark(at(10)),
                Action::Acknowledge(at(10)),
            ],
            "what was recovered was flushed and is committed by an ISR of one"
        );
        assert_eq!(replica.leads(), Some(epoch(3)));
        assert_eq!(step(&mut replica, appended(at(15))), after_append);
        assert_eq!(step(&mut replica, Event::Flushed { flushed_end: at(15) }), after_flush);
    }
}

#[test]
fn a_member_not_heard_from_holds_the_high_watermark() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(10), at(4));
    assert_eq!(
        step(&mut replica, registered(Some(ME), 1, 1, &[ME, OTHER], 1)),
        [Action::StartEpoch { epoch: epoch(1), start: at(10) }, Action::Acknowledge(at(4))]
    );
    assert!(!replica.high_watermark_is_current());
    assert_eq!(step(&mut replica, appended(at(12))), []);
    assert_eq!(
        step(&mut replica, registered(Some(ME), 1, 2, &[ME], 1)),
        [Action::AdvanceHighWatermark(at(12)), Action::Acknowledge(at(12))],
        "KAFKA-13091: a shrink commits what waited, without further traffic"
    );
    assert!(replica.high_watermark_is_current());
}

#[test]
fn below_min_isr_nothing_commits_and_nothing_that_waits_is_admitted() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(10), at(4));
    let actions = step(&mut replica, registered(Some(ME), 1, 1, &[ME], 2));
    assert_eq!(
        actions[1],
        Action::RefuseWaiting { isr: 1, min_isr: 2 },
        "what waits is told at once, it may commit later"
    );
    assert_eq!(replica.admits_acks_all(), Admission::NotEnoughReplicas { isr: 1, min_isr: 2 });
    assert_eq!(step(&mut replica, appended(at(11))), []);
    assert_eq!(replica.high_watermark(), at(4));
}

#[test]
fn min_isr_above_the_replicas_asks_for_all_of_them() {
    let registration = Registration {
        leader: Some(ME),
        leader_epoch: epoch(0),
        partition_epoch: PartitionEpoch::ZERO,
        replicas: vec![ME],
        isr: vec![ME],
        min_isr: 3,
    };
    assert_eq!(registration.effective_min_isr(), 1);
}

#[test]
fn registrations_apply_in_order_of_partition_epoch_only() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(0), at(0));
    step(&mut replica, registered(Some(ME), 5, 5, &[ME], 1));
    assert_eq!(step(&mut replica, registered(Some(OTHER), 6, 5, &[OTHER], 1)), []);
    assert_eq!(step(&mut replica, registered(Some(OTHER), 6, 4, &[OTHER], 1)), []);
    assert_eq!(replica.leads(), Some(epoch(5)));
    assert_eq!(
        step(&mut replica, registered(Some(OTHER), 6, 6, &[OTHER], 1)),
        [Action::Resign { epoch: epoch(6), leader: Some(OTHER) }, asks(6, 1, 0)]
    );
    assert_eq!(replica.admits_acks_all(), Admission::NotLeader);
    assert_eq!(step(&mut replica, appended(at(3))), []);
}

#[test]
fn the_same_leader_in_a_newer_epoch_starts_a_new_term() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(0), at(0));
    step(&mut replica, registered(Some(ME), 1, 1, &[ME], 1));
    step(&mut replica, appended(at(8)));
    assert_eq!(
        step(&mut replica, registered(Some(ME), 2, 2, &[ME], 1)),
        [Action::StartEpoch { epoch: epoch(2), start: at(8) }]
    );
}

#[test]
fn the_remembered_high_watermark_is_clamped_to_the_log() {
    for (remembered, expected) in [(2, 5), (7, 7), (99, 10)] {
        let replica = Replica::new(ME, Durability::Disk, at(5), at(10), at(remembered));
        assert_eq!(replica.high_watermark(), at(expected));
    }
}

#[test]
fn raising_durability_moves_no_high_watermark_back_and_acknowledges_nothing_before_its_flush() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(0), at(0));
    step(&mut replica, registered(Some(ME), 1, 1, &[ME], 1));
    step(&mut replica, appended(at(8)));
    assert_eq!(step(&mut replica, Event::DurabilityChanged(Durability::Disk)), []);
    assert_eq!(replica.high_watermark(), at(8), "readers have seen it");
    assert_eq!(replica.acknowledged_end(), at(0), "a retry waits for the disk");
    assert_eq!(step(&mut replica, appended(at(9))), []);
    assert_eq!(
        step(&mut replica, Event::Flushed { flushed_end: at(8) }),
        [Action::Acknowledge(at(8))],
        "committed before, acknowledged by the stronger rule now"
    );
    assert_eq!(
        step(&mut replica, Event::DurabilityChanged(Durability::Memory)),
        [Action::AdvanceHighWatermark(at(9)), Action::Acknowledge(at(9))],
        "the weaker rule commits at once what waited for the disk"
    );
}

#[test]
fn what_this_broker_does_not_lead_it_neither_commits_nor_acknowledges() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(10), at(4));
    assert_eq!(
        step(&mut replica, registered(Some(OTHER), 1, 1, &[OTHER, ME], 1)),
        [asks(1, 1, 10)]
    );
    assert_eq!(step(&mut replica, appended(at(12))), []);
    assert_eq!(step(&mut replica, Event::Flushed { flushed_end: at(12) }), []);
    assert_eq!(replica.high_watermark(), at(4));
}

#[test]
#[should_panic(expected = "leader epoch went back")]
fn a_leader_epoch_that_goes_back_is_no_news_but_a_broken_log() {
    let mut replica = Replica::new(ME, Durability::Memory, at(0), at(0), at(0));
    step(&mut replica, registered(Some(ME), 5, 5, &[ME], 1));
    step(&mut replica, registered(Some(OTHER), 4, 6, &[OTHER], 1));
}

/// One thing that happens, in terms that are always legal.
#[derive(Debug, Clone)]
enum Happens {
    Append(i64),
    /// The flushed end comes this far behind the log end.
    Flush(i64),
    Durability(bool),
    /// Leader is me; the term is a new one; members besides me; min ISR.
    Register(bool, bool, bool, u32),
    /// Old news: a partition epoch that was applied already.
    Stale,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (1i64..5).prop_map(Happens::Append),
        4 => (0i64..8).prop_map(Happens::Flush),
        1 => any::<bool>().prop_map(Happens::Durability),
        2 => (prop::bool::weighted(0.8), any::<bool>(), prop::bool::weighted(0.3), 1u32..3)
            .prop_map(|(me, term, other, min)| Happens::Register(me, term, other, min)),
        1 => Just(Happens::Stale),
    ]
}

/// What the laws are checked against; knows nothing of how they are kept.
struct Watcher {
    replica: Replica,
    terms: (i32, i32),
    durability: Durability,
    ends: (i64, i64),
    /// `acks=all` writes that were admitted and not answered: the end each waits for.
    waiting: Vec<i64>,
    epochs_started: Vec<i32>,
}

impl Watcher {
    fn event(&mut self, what: &Happens) -> Event {
        match *what {
            Happens::Append(records) => {
                self.ends.0 += records;
                if self.replica.admits_acks_all() == Admission::Open {
                    self.waiting.push(self.ends.0);
                }
                appended(at(self.ends.0))
            }
            Happens::Flush(behind) => {
                let end = (self.ends.0 - behind).max(self.ends.1);
                self.ends.1 = end;
                Event::Flushed { flushed_end: at(end) }
            }
            Happens::Durability(disk) => {
                self.durability = if disk { Durability::Disk } else { Durability::Memory };
                Event::DurabilityChanged(self.durability)
            }
            Happens::Register(me, term, other, min) => {
                let leads = self.replica.leads().is_some();
                self.terms.0 += i32::from(term || me != leads);
                self.terms.1 += 1;
                let leader = if me { ME } else { OTHER };
                let mut isr = vec![leader];
                if other {
                    isr.push(if me { OTHER } else { ME });
                }
                registered(Some(leader), self.terms.0, self.terms.1, &isr, min)
            }
            Happens::Stale => registered(Some(OTHER), self.terms.0, self.terms.1, &[OTHER], 1),
        }
    }

    fn happen(&mut self, what: &Happens) {
        let (before, led) = (self.replica.high_watermark(), self.replica.leads());
        let event = self.event(what);
        let actions = step(&mut self.replica, event);
        let position = match self.durability {
            Durability::Memory => self.ends.0,
            Durability::Disk => self.ends.1,
        };
        for action in &actions {
            match *action {
                Action::StartEpoch { epoch, start } => {
                    assert!(self.epochs_started.last().is_none_or(|last| *last < epoch.get()));
                    assert_eq!(start.get(), self.ends.0);
                    self.epochs_started.push(epoch.get());
                }
                Action::Resign { .. } => {
                    assert!(led.is_some() && self.replica.leads().is_none());
                    self.waiting.clear();
                }
                Action::RefuseWaiting { isr, min_isr } => {
                    assert!(isr < min_isr);
                    self.waiting.clear();
                }
                Action::AdvanceHighWatermark(end) => {
                    assert!(end > before, "it only grows, and only when it does");
                    assert!(end.get() <= position);
                    let registration = self.replica.registration().unwrap();
                    assert_eq!(registration.isr, [ME], "nobody else was heard from");
                    assert!(registration.isr.len() >= registration.effective_min_isr());
                }
                Action::Subscribe(_) => assert_eq!(self.replica.leads(), None),
                Action::Unsubscribe(_) => assert_eq!(led, None),
                Action::Acknowledge(end) => {
                    assert!(end <= self.replica.high_watermark() && end.get() <= position);
                    self.waiting.retain(|required| *required > end.get());
                }
                ref other => panic!("nobody else is there: {other:?}"),
            }
        }
        assert!(self.replica.high_watermark() >= before);
        assert_eq!(led.is_some() && self.replica.leads().is_none(), {
            let resigned = |a: &Action| matches!(a, Action::Resign { .. });
            actions.iter().any(resigned)
        });
        for required in &self.waiting {
            assert!(
                *required > self.replica.acknowledged_end().get(),
                "{required} is done and nobody said so"
            );
        }
    }
}

proptest! {
    /// Whatever happens in whatever order: nothing commits that may not, and no write waits for
    /// something that has happened.
    #[test]
    fn the_laws_hold_after_every_step(all in prop::collection::vec(happens(), 0..60)) {
        let mut watcher = Watcher {
            replica: Replica::new(ME, Durability::Disk, at(0), at(0), at(0)),
            terms: (0, 0),
            durability: Durability::Disk,
            ends: (0, 0),
            waiting: Vec::new(),
            epochs_started: Vec::new(),
        };
        for what in &all {
            watcher.happen(what);
        }
        watcher.happen(&Happens::Register(true, false, false, 1));
        watcher.happen(&Happens::Flush(0));
        prop_assert!(watcher.waiting.is_empty(), "{:?} wait for ever", watcher.waiting);
        prop_assert_eq!(watcher.replica.high_watermark().get(), watcher.ends.0);
    }
}
