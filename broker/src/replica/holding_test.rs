//! Who makes producers wait, who is let go for it, and who comes back: a partition with a leader and two
//! followers, played in steps of 10 ms, on which producers write as fast as they may.

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch},
    offset::Offset,
};

use super::*;
use crate::replica::{
    BrokerStanding, Durability, Event,
    frame::{Ack, Position, Session, Subscribe},
};

const ME: BrokerId = BrokerId(1);
const F: BrokerId = BrokerId(2);
const G: BrokerId = BrokerId(3);
const LIMITS: Limits = Limits { lag_time_max: Duration::from_secs(10), lag_bytes_max: 10_000 };
const STEP: Duration = Duration::from_millis(10);
/// Records of one byte in a step, and so what a follower takes that is as fast as producers are.
const PACE: u64 = 400;

/// What somebody takes in a step, at that time of the play.
type Takes = fn(Duration) -> u64;

struct Play {
    replica: Replica,
    now: Duration,
    end: u64,
    flushed: u64,
    /// What the leader's own disk takes.
    flushes: Takes,
    /// Of F and G.
    ends: [u64; 2],
    partition_epoch: i32,
    /// When the ISR became what.
    changes: Vec<(Duration, Vec<BrokerId>)>,
    /// Steps in which producers waited.
    waited: u32,
}

fn at(offset: u64) -> Offset {
    Offset::new(offset.cast_signed()).unwrap()
}

impl Play {
    fn new(durability: Durability, min_isr: u32) -> Self {
        let replica = Replica::new(ME, durability, at(0), at(0), at(0)).with_limits(LIMITS);
        let mut play = Self {
            replica,
            now: Duration::ZERO,
            end: 0,
            flushed: 0,
            flushes: full,
            ends: [0; 2],
            partition_epoch: 0,
            changes: Vec::new(),
            waited: 0,
        };
        for broker in [ME, F, G] {
            let epoch = BrokerEpoch::ZERO;
            play.step(Event::Broker(BrokerStanding { broker, epoch, may_join: true }));
        }
        play.registers(&[ME, F, G], min_isr);
        for follower in [F, G] {
            let position = play.position(follower);
            play.step(Event::Subscribe(Subscribe(position)));
        }
        play.changes.clear();
        play
    }

    /// Takes every proposal at its word.
    fn step(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.replica.step(self.now, event, &mut actions);
        for action in actions {
            if let Action::ProposeIsr(proposal) = action {
                let isr: Vec<_> = proposal.isr.iter().map(|(id, _)| *id).collect();
                let min_isr = self.replica.registration().unwrap().min_isr;
                self.registers(&isr, min_isr);
            }
        }
    }

    fn registers(&mut self, isr: &[BrokerId], min_isr: u32) {
        self.partition_epoch += 1;
        self.changes.push((self.now, isr.to_vec()));
        self.step(Event::Registered(Registration {
            leader: Some(ME),
            leader_epoch: LeaderEpoch::new(1).unwrap(),
            partition_epoch: PartitionEpoch::new(self.partition_epoch).unwrap(),
            replicas: vec![ME, F, G],
            isr: isr.to_vec(),
            min_isr,
        }));
    }

    /// It is fenced, and the others go on.
    fn leaves_for_good(&mut self, broker: BrokerId, isr: &[BrokerId]) {
        let min_isr = self.replica.registration().unwrap().min_isr;
        let epoch = BrokerEpoch::ZERO;
        self.step(Event::Broker(BrokerStanding { broker, epoch, may_join: false }));
        self.registers(isr, min_isr);
    }

    fn position(&self, follower: BrokerId) -> Position {
        let end = at(self.ends[usize::from(follower == G)]);
        Position {
            follower,
            leader_epoch: LeaderEpoch::new(1).unwrap(),
            session: Session { broker_epoch: BrokerEpoch::ZERO, number: 1 },
            log_end: end,
            last_epoch: (end > at(0)).then(|| LeaderEpoch::new(1).unwrap()),
            flushed_end: end,
            log_start: at(0),
        }
    }

    /// Goes on until `until`.
    fn play(mut self, until: u64, producers: Takes, [f, g]: [Takes; 2]) -> Self {
        while self.now < Duration::from_secs(until) {
            self.now += STEP;
            if self.replica.holds_appends() {
                self.waited += 1;
            } else {
                let bytes = producers(self.now);
                self.end += bytes;
                if bytes > 0 {
                    self.step(Event::Appended { log_end: at(self.end), bytes });
                }
            }
            self.flushed = self.end.min(self.flushed + (self.flushes)(self.now));
            self.step(Event::Flushed { flushed_end: at(self.flushed) });
            for (index, takes) in [f, g].into_iter().enumerate() {
                let taken = takes(self.now).min(self.end - self.ends[index]);
                self.ends[index] += taken;
                if taken > 0 {
                    let position = self.position([F, G][index]);
                    self.step(Event::Ack(Ack(position)));
                }
            }
            if self.now.subsec_millis() == 0 {
                self.step(Event::Tick);
            }
        }
        self
    }

    /// In which second the ISR became what.
    fn changes(&self) -> Vec<(u64, &[BrokerId])> {
        self.changes.iter().map(|(at, isr)| (at.as_secs(), &isr[..])).collect()
    }

    fn waited(&self) -> Duration {
        STEP * self.waited
    }
}

fn full(_: Duration) -> u64 {
    PACE
}

fn quarter(_: Duration) -> u64 {
    PACE / 4
}

#[test]
fn one_that_slows_all_others_down_is_let_go_once_and_nobody_waits_any_more() {
    for durability in [Durability::Memory, Durability::Disk] {
        for min_isr in [1, 2] {
            let play = Play::new(durability, min_isr).play(60, full, [quarter, full]);
            assert_eq!(play.changes(), [(8, &[ME, G][..])], "{durability:?} {min_isr}");
            assert!(play.waited() < LIMITS.lag_time_max * 3 / 4, "{:?}", play.waited());
        }
    }
}

#[test]
fn nobody_is_let_go_where_little_is_gained_or_it_is_needed() {
    let (needed, spared) = (3, 2);
    let third = |_| PACE / 3;
    let most = |_| PACE * 3 / 5;
    let table: [(&str, u32, [Takes; 2]); 6] = [
        ("all are as fast as producers are", spared, [full, full]),
        ("it costs producers less than half", spared, [most, full]),
        ("both are slow", spared, [quarter, quarter]),
        ("the other is little faster", spared, [quarter, third]),
        ("both are slow, and neither is needed", 1, [quarter, third]),
        ("it is needed", needed, [quarter, full]),
    ];
    for (what, min_isr, followers) in table {
        let play = Play::new(Durability::Memory, min_isr).play(60, full, followers);
        assert_eq!(play.changes(), [], "{what}");
    }
    let mut two = Play::new(Durability::Memory, 1);
    two.leaves_for_good(G, &[ME, F]);
    two.changes.clear();
    let absent = |_| 0;
    let two = two.play(60, full, [quarter, absent]);
    assert_eq!(two.changes(), [], "no other follower shows that it is slow");
    let most_of_all = |_| PACE * 3 / 4;
    let play = Play::new(Durability::Memory, 1).play(60, full, [quarter, most_of_all]);
    assert_eq!(play.changes(), [(8, &[ME, G][..])], "the other costs producers little, and stays");
}

#[test]
fn a_leader_whose_own_disk_is_slow_lets_nobody_go() {
    let mut play = Play::new(Durability::Disk, 2);
    play.flushes = quarter;
    assert_eq!(play.play(60, full, [quarter, full]).changes(), []);
    let mut play = Play::new(Durability::Memory, 2);
    play.flushes = quarter;
    let play = play.play(60, full, [quarter, full]);
    assert_eq!(play.changes(), [(8, &[ME, G][..])], "nobody waits for it here");
}

#[test]
fn who_stands_still_for_half_of_the_time_stays() {
    let pauses = |now: Duration| if (10..15).contains(&now.as_secs()) { 0 } else { 2 * PACE };
    let play = Play::new(Durability::Memory, 2).play(60, full, [pauses, full]);
    assert_eq!(play.changes(), []);
    assert!(play.waited() > Duration::from_secs(4), "producers waited: {:?}", play.waited());
}

/// Producers that have always more to write fill the budget again and again, so that nobody is ever near
/// the log's end. One that stood still is no slower than before when it is back.
#[test]
fn who_stood_still_is_not_let_go_for_it_later() {
    let producers = |_| 6 * PACE;
    let pauses = |now: Duration| if (10..15).contains(&now.as_secs()) { 0 } else { PACE };
    let faster = |_| 4 * PACE / 3;
    let play = Play::new(Durability::Memory, 2).play(60, producers, [pauses, faster]);
    assert_eq!(play.changes(), []);
    let slow = |_| PACE / 2;
    let play = Play::new(Durability::Memory, 2).play(60, producers, [slow, faster]);
    assert_eq!(play.changes(), [(8, &[ME, G][..])], "this one is slower, and goes on being so");
}

#[test]
fn a_short_wait_for_another_before_delays_nothing() {
    let slows = |now: Duration| if now.as_secs() < 10 { PACE } else { PACE / 4 };
    let stumbles = |now: Duration| if now.as_secs() == 9 { 0 } else { 2 * PACE };
    let play = Play::new(Durability::Memory, 2).play(60, full, [slows, stumbles]);
    assert!(play.waited() > Duration::from_secs(6), "also for the other: {:?}", play.waited());
    assert_eq!(play.changes(), [(19, &[ME, G][..])], "nine seconds after it slowed down");
}

#[test]
fn who_was_let_go_is_back_when_it_keeps_up_but_not_at_once() {
    // Producers do next to nothing for a second, just when it is let go at less than half of the budget
    // behind; then go on; and have little to write in the end.
    let producers = |now: Duration| match now.as_millis() {
        8_000..9_000 | 40_000.. => 1,
        _ => PACE,
    };
    let play = Play::new(Durability::Memory, 2).play(200, producers, [quarter, full]);
    let changes = play.changes();
    assert_eq!(changes[0], (8, &[ME, G][..]));
    assert_eq!(changes[1].1, [ME, F, G]);
    assert!(changes[1].0 > 40, "when it has caught up: {changes:?}");
    assert_eq!(changes.len(), 2, "{changes:?}");
    // With so little to do it catches up at once, and still stays out for a while.
    let lull = |now: Duration| if now.as_secs() < 8 { PACE } else { 1 };
    let play = Play::new(Durability::Memory, 2).play(60, lull, [quarter, full]);
    assert_eq!(play.changes(), [(8, &[ME, G][..]), (18, &[ME, F, G])]);
}

#[test]
fn who_was_let_go_is_back_at_once_when_it_is_needed() {
    let lull = |now: Duration| if now.as_secs() < 8 { PACE } else { 1 };
    let mut play = Play::new(Durability::Memory, 2).play(9, lull, [quarter, full]);
    assert_eq!(play.changes(), [(8, &[ME, G][..])]);
    play.leaves_for_good(G, &[ME]);
    let play = play.play(60, lull, [quarter, |_| 0]);
    assert_eq!(play.changes()[1..], [(9, &[ME][..]), (9, &[ME, F])]);
}

#[test]
fn a_leader_that_slept_counts_nobody_s_time() {
    let mut play = Play::new(Durability::Memory, 2).play(6, full, [quarter, full]);
    play.now += Duration::from_secs(300);
    // It notices at its next look, and begins to count then.
    let play = play.play(307 + 7, full, [quarter, full]);
    assert_eq!(play.changes(), []);
    let play = play.play(307 + 10, full, [quarter, full]);
    assert_eq!(play.changes(), [(307 + 8, &[ME, G][..])]);
}
