//! Tables for each kind of answer, and a property: against a broker that checks sequences, over a
//! wire that breaks, every batch ends up in the log once and in order.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{clock, config::Durability};

const POLICY: RetryPolicy =
    RetryPolicy { initial: Duration::from_millis(50), max: Duration::from_secs(1) };

fn identity(id: i64) -> Identity {
    Identity { id: ProducerId::new(id).unwrap(), epoch: 0 }
}

fn appended(base_offset: i64) -> Appended {
    Appended {
        base_offset: Some(base_offset),
        log_append_time_ms: None,
        duplicate: false,
        leader_epoch: 0,
        durability: Durability::Memory,
        replicas: 1,
    }
}

fn broker(reason: Reason, retriable: bool, definite: bool) -> Error {
    Error::from_broker(reason.name().into(), "said the broker".into(), retriable, definite)
}

/// Batches of one record, named by a number, stamped.
struct Fixture {
    sender: Sender<(u32, ProducerStamp)>,
    now: Instant,
    next_id: u64,
}

impl Fixture {
    fn new(batches: u32) -> Self {
        let mut sender = Sender::new(true);
        assert_eq!(sender.wants_identity(), Some(None));
        sender.identify(identity(1), |_, _| panic!("nothing to stamp"));
        let now = clock::now();
        sender.last_success = Some(now);
        let mut it = Self { sender, now, next_id: 1 };
        (0..batches).for_each(|n| it.push(n));
        it
    }

    fn push(&mut self, n: u32) {
        let stamp = self.sender.next_stamp(1).unwrap();
        self.sender.push((n, stamp), 100, 1, self.now);
    }

    /// Sends all that may be sent; gives names and sequences.
    fn send(&mut self) -> Vec<(u32, i32)> {
        let mut sent = Vec::new();
        while self.sender.next_bytes(usize::MAX, self.now).is_some() {
            let (n, stamp) = *self.sender.send_next(self.next_id).unwrap();
            self.next_id += 1;
            sent.push((n, stamp.base_sequence));
        }
        sent
    }

    fn answer(&mut self, correlation_id: u64, outcome: Result<Appended>) {
        self.sender.answered(correlation_id, outcome, self.now, &POLICY, 1.0);
    }

    fn done(&mut self) -> Vec<(u32, Result<Appended>)> {
        std::iter::from_fn(|| self.sender.pop_done())
            .map(|((n, _), outcome)| (n, outcome))
            .collect()
    }
}

#[test]
fn answers_come_out_in_order_even_if_they_came_in_another() {
    let mut it = Fixture::new(3);
    assert_eq!(it.send(), [(0, 0), (1, 1), (2, 2)]);
    it.answer(2, Ok(appended(1)));
    it.answer(3, Ok(appended(2)));
    assert!(it.done().is_empty());
    it.answer(1, Ok(appended(0)));
    let names: Vec<u32> = it.done().into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, [0, 1, 2]);
    assert!(it.sender.is_empty());
}

#[test]
fn after_a_refusal_all_are_answered_before_all_go_again_in_order() {
    let mut it = Fixture::new(3);
    it.send();
    it.answer(1, Err(broker(Reason::NotEnoughReplicas, true, true)));
    assert!(it.send().is_empty(), "two are on the wire");
    let order = || Err(broker(Reason::OutOfOrderSequence, false, true));
    it.answer(2, order());
    it.answer(3, order());
    assert!(it.send().is_empty(), "backoff");
    assert_eq!(it.sender.resume_at(), Some(it.now + POLICY.initial));
    it.now += POLICY.initial;
    assert_eq!(it.send(), [(0, 0), (1, 1), (2, 2)], "with their sequences");
    assert!(it.sender.wants_identity().is_none());
}

#[test]
fn news_of_a_leader_needs_no_backoff_and_retry_after_wins() {
    let mut it = Fixture::new(1);
    it.send();
    let refused_for = |leader_epoch| {
        let broker_2 = riverrun_proto::ids::BrokerId(2);
        let address = "b2".parse().unwrap();
        let hint = crate::error::LeaderHint { broker: broker_2, address, leader_epoch };
        Err(broker(Reason::NotLeaderOrFollower, true, true).with_leader(Some(hint)))
    };
    it.answer(1, refused_for(1));
    assert_eq!(it.send(), [(0, 0)]);
    // The one that was named names itself, or an older one: asked again at once it would be for ever.
    for (correlation_id, old_news) in [(2, 1), (3, 0)] {
        it.answer(correlation_id, refused_for(old_news));
        let resumes = it.sender.resume_at().expect("there is a pause");
        assert!(resumes > it.now, "{old_news}");
        it.now = resumes;
        assert_eq!(it.send(), [(0, 0)]);
    }
    it.answer(4, refused_for(2));
    assert_eq!(it.send(), [(0, 0)]);
    let throttled = broker(Reason::ThrottlingQuotaExceeded, true, true);
    it.answer(5, Err(throttled.with_retry_after(Some(Duration::from_secs(7)))));
    assert_eq!(it.sender.resume_at(), Some(it.now + Duration::from_secs(7)));
}

#[test]
fn a_final_refusal_fails_its_batch_and_the_rest_goes_on_under_a_new_id() {
    let mut it = Fixture::new(3);
    it.send();
    it.answer(1, Err(broker(Reason::MessageTooLarge, false, true)));
    let done = it.done();
    assert_eq!(done.len(), 1);
    assert!(done[0].1.as_ref().is_err_and(Error::is_definite));
    // The broker misses sequence 0.
    it.answer(2, Err(broker(Reason::OutOfOrderSequence, false, true)));
    assert_eq!(it.sender.wants_identity(), None, "one is on the wire");
    it.answer(3, Err(broker(Reason::OutOfOrderSequence, false, true)));
    assert_eq!(it.sender.wants_identity(), Some(Some(identity(1))));
    it.sender.identify(identity(2), |payload, stamp| payload.1 = stamp);
    assert_eq!(it.send(), [(1, 0)], "one at a time, until the broker knows the new id");
    it.answer(4, Ok(appended(0)));
    assert_eq!(it.send(), [(2, 1)]);
    it.push(3);
    assert_eq!(it.send(), [(3, 2)]);
}

#[test]
fn under_a_new_id_a_batch_of_unknown_outcome_fails_and_says_so() {
    for reason in [Reason::OutOfOrderSequence, Reason::InvalidProducerEpoch, Reason::ProducerFenced]
    {
        let mut it = Fixture::new(1);
        it.send();
        it.sender.lost(&HashSet::new(), it.now);
        it.push(1);
        assert_eq!(it.send(), [(0, 0), (1, 1)]);
        it.answer(2, Err(broker(reason, false, true)));
        it.answer(3, Err(broker(reason, false, true)));
        assert_eq!(it.sender.wants_identity(), Some(Some(identity(1))), "{reason}");
        it.sender.identify(identity(2), |payload, stamp| payload.1 = stamp);
        let done = it.done();
        let error = done[0].1.as_ref().unwrap_err();
        assert!(!error.is_definite() && error.kind() == ErrorKind::ProducerState, "{error}");
        assert_eq!(it.send(), [(1, 0)], "{reason}: this one was refused for certain");
    }
}

#[test]
fn a_broker_that_may_not_know_the_producer_gets_one_batch_at_a_time() {
    let mut it = Fixture::new(0);
    it.now += ESTABLISHED_FOR;
    assert!(it.sender.has_room(32, it.now));
    it.push(0);
    assert_eq!(it.send(), [(0, 0)]);
    assert!(!it.sender.has_room(32, it.now));
    it.answer(1, Ok(appended(0)));
    it.done();
    it.push(1);
    it.push(2);
    assert_eq!(it.send(), [(1, 1), (2, 2)]);
}

#[test]
fn the_window_counts_what_the_broker_has_to_remember() {
    let mut it = Fixture::new(3);
    assert!(it.sender.has_room(4, it.now));
    assert!(!it.sender.has_room(3, it.now));
    it.send();
    it.answer(2, Ok(appended(1)));
    it.answer(3, Ok(appended(2)));
    // The oldest may be sent again, and must then be found among the last three.
    assert!(!it.sender.has_room(3, it.now));
    it.answer(1, Ok(appended(0)));
    it.done();
    assert!(it.sender.has_room(3, it.now));
}

#[test]
fn bytes_on_the_wire_are_bounded_but_one_batch_always_goes() {
    let mut it = Fixture::new(3);
    let now = it.now;
    assert_eq!(it.sender.next_bytes(10, now), Some(100));
    it.sender.send_next(1);
    assert_eq!(it.sender.next_bytes(199, now), None);
    assert_eq!(it.sender.next_bytes(200, now), Some(100));
    it.sender.lost(&HashSet::new(), now);
    assert_eq!(it.sender.sent_count(), 0);
    assert_eq!(it.sender.next_bytes(10, now), Some(100), "none is on the wire any more");
}

#[test]
fn expiry_is_definite_unless_an_attempt_went_unanswered() {
    let mut it = Fixture::new(2);
    it.sender.send_next(1);
    let later = it.now + Duration::from_secs(1);
    it.sender.expire(later, Duration::from_secs(1), later);
    let done = it.done();
    assert!(!done[0].1.as_ref().unwrap_err().is_definite());
    assert!(done[1].1.as_ref().unwrap_err().is_definite());
    it.answer(1, Ok(appended(0)));
    assert!(it.done().is_empty(), "too late to matter");
}

#[test]
fn what_never_left_is_known_not_to_be_written() {
    let mut it = Fixture::new(2);
    it.send();
    it.sender.lost(&HashSet::from([2]), it.now);
    let later = it.now + Duration::from_secs(1);
    it.sender.expire(later, Duration::from_secs(1), later);
    let definite: Vec<bool> =
        it.done().into_iter().map(|(_, outcome)| outcome.unwrap_err().is_definite()).collect();
    assert_eq!(definite, [false, true]);
}

#[test]
fn without_idempotence_nothing_is_numbered_and_refusals_are_retried() {
    let mut sender: Sender<u32> = Sender::new(false);
    let now = clock::now();
    assert!(sender.wants_identity().is_none() && sender.has_room(1, now));
    assert_eq!(sender.next_stamp(5), None);
    sender.push(7, 10, 1, now);
    assert_eq!(sender.send_next(1), Some(&7));
    sender.answered(1, Err(broker(Reason::OutOfOrderSequence, false, true)), now, &POLICY, 0.0);
    assert!(sender.pop_done().unwrap().1.is_err(), "means nothing here: final");
}

/// The broker's side of the law: sequences of a producer id follow each other, and the last 32
/// batches are recognised. A producer that is not known may begin with any sequence.
#[derive(Default)]
struct Log {
    batches: Vec<u32>,
    producers: HashMap<i64, (i32, Vec<(i32, usize)>)>,
}

impl Log {
    fn append(&mut self, (n, stamp): (u32, ProducerStamp)) -> Result<Appended> {
        let unknown = || (stamp.base_sequence, Vec::new());
        let (expected, known) = self.producers.entry(stamp.id.get()).or_insert_with(unknown);
        let remembered = known.iter().rev().take(32);
        if let Some((_, at)) = remembered.clone().find(|(seq, _)| *seq == stamp.base_sequence) {
            return Ok(Appended { duplicate: true, ..appended(i64::try_from(*at).unwrap()) });
        }
        if stamp.base_sequence != *expected {
            return Err(broker(Reason::OutOfOrderSequence, false, true));
        }
        *expected += 1;
        known.push((stamp.base_sequence, self.batches.len()));
        self.batches.push(n);
        Ok(appended(i64::try_from(self.batches.len() - 1).unwrap()))
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Take and send what is possible.
    Send,
    /// The broker handles the next batch on the wire.
    Append,
    /// It refuses it instead, retriably.
    Refuse,
    /// It writes it, and says that it is not sure.
    Unsure,
    /// The client gets the next answer.
    Answer,
    /// The connection breaks: batches not handled and answers not read are gone.
    Cut,
    /// Time passes.
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Send),
        12 => Just(Step::Append),
        2 => Just(Step::Refuse),
        1 => Just(Step::Unsure),
        12 => Just(Step::Answer),
        1 => Just(Step::Cut),
        2 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn once_and_in_order_whatever_the_wire_does(
        steps in prop::collection::vec(step(), 0..400),
        in_flight_max in 1_usize..=32,
        total in 1_u32..100,
    ) {
        let mut it = Fixture::new(0);
        it.sender.last_success = None;
        let mut log = Log::default();
        let (mut to_broker, mut to_client) = (VecDeque::new(), VecDeque::new());
        let (mut taken, mut done) = (0, Vec::new());
        // However it went so far: a calm end, in which everything must finish.
        let calm = [Step::Wait, Step::Send, Step::Append, Step::Answer].repeat(total as usize * 64);
        for step in steps.into_iter().chain([Step::Cut]).chain(calm) {
            match step {
                Step::Send => {
                    while taken < total && it.sender.has_room(in_flight_max, it.now) {
                        it.push(taken);
                        taken += 1;
                    }
                    while it.sender.next_bytes(usize::MAX, it.now).is_some() {
                        let payload = *it.sender.send_next(it.next_id).unwrap();
                        to_broker.push_back((it.next_id, payload));
                        it.next_id += 1;
                    }
                    prop_assert!(it.sender.sent_count() <= in_flight_max);
                }
                Step::Append | Step::Refuse | Step::Unsure => {
                    if let Some((id, payload)) = to_broker.pop_front() {
                        to_client.push_back((id, match step {
                            Step::Refuse => Err(broker(Reason::NotEnoughReplicas, true, true)),
                            Step::Unsure => log.append(payload).and_then(|_| {
                                Err(broker(Reason::RequestTimedOut, true, false))
                            }),
                            _ => log.append(payload),
                        }));
                    }
                }
                Step::Answer => {
                    if let Some((id, outcome)) = to_client.pop_front() {
                        it.answer(id, outcome);
                    }
                }
                Step::Cut => {
                    to_broker.clear();
                    to_client.clear();
                    it.sender.lost(&HashSet::new(), it.now);
                }
                Step::Wait => it.now += POLICY.max,
            }
            done.extend(it.done());
        }
        prop_assert_eq!(it.sender.wants_identity(), None, "no gap, no new identity");
        prop_assert_eq!(&log.batches, &(0..total).collect::<Vec<_>>());
        for (n, (name, outcome)) in done.iter().enumerate() {
            prop_assert_eq!(*name as usize, n);
            let offset = outcome.as_ref().map(|a| a.base_offset).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(offset, Some(i64::try_from(n).unwrap()));
        }
        prop_assert_eq!(done.len(), total as usize);
    }
}
