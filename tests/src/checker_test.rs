//! Every planted anomaly is found and nothing else is; what a log may show is not blamed.

use proptest::prelude::*;

use super::*;
use crate::history::{EndOffset, Poll, Sent};

fn value(producer: u32, number: u64) -> Value {
    Value { producer, number }
}

/// Two producers, one partition, six records, one reader that read all, ends asked in between.
fn sound() -> History {
    let order = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)];
    let mut history = History::default();
    for (offset, (producer, number)) in (0..).zip(order) {
        // Each is sent when the one before has been answered.
        let called = offset as u64 * 10;
        let (answered, outcome) = (called + 5, Outcome::Acked(offset));
        let value = value(producer, number);
        history.sent.push(Sent { value, partition: 0, called, answered, outcome });
        let end = offset + 1;
        let (called, answered) = (called + 6, called + 7);
        history.ends.push(EndOffset { partition: 0, called, answered, end });
    }
    let records: Vec<_> = (0..).zip(order).map(|(o, (p, n))| (o, value(p, n))).collect();
    for (i, records) in records.chunks(2).enumerate() {
        let moved_to = (i == 0).then_some(0);
        history.polls.push(Poll { reader: 7, partition: 0, moved_to, records: records.to_vec() });
    }
    history.read_out.insert(0, 6);
    history
}

/// The anomalies of the sound history after `plant`.
fn found(plant: impl FnOnce(&mut History)) -> Vec<Anomaly> {
    let mut history = sound();
    plant(&mut history);
    check(&history)
}

#[test]
fn a_sound_history_is_sound() {
    assert_eq!(check(&sound()), []);
    assert_eq!(check(&History::default()), []);
}

#[test]
fn a_lost_write_is_found() {
    let lost = found(|h| {
        h.polls[1].records.remove(0);
    });
    let value = value(0, 1);
    assert!(lost.contains(&Anomaly::Lost { value, partition: 0, offset: 2 }), "{lost:?}");
    // The reader that was not given it skipped it, too; nothing else is wrong.
    let skipped = Anomaly::Skipped { reader: 7, partition: 0, had: 1, given: 3, skipped: 2 };
    assert!(lost.contains(&skipped) && lost.len() == 2, "{lost:?}");
}

#[test]
fn a_log_that_ends_too_early_is_found() {
    let cut = found(|h| {
        h.polls.pop();
        h.read_out.insert(0, 4);
    });
    let unseen = |producer, number, offset| Anomaly::Unseen {
        value: value(producer, number),
        partition: 0,
        offset,
        end: 4,
    };
    assert_eq!(cut, [unseen(0, 2, 4), unseen(1, 2, 5)]);
    // Nobody read to the end: nobody knows.
    let unread = found(|h| {
        h.polls.pop();
        h.read_out.clear();
    });
    assert_eq!(unread, []);
}

#[test]
fn a_duplicate_is_found() {
    let twice = found(|h| h.polls[2].records.push((6, value(1, 2))));
    assert_eq!(twice, [Anomaly::Duplicate { value: value(1, 2), places: vec![(0, 5), (0, 6)] }]);
    let elsewhere = found(|h| {
        let records = vec![(0, value(1, 2))];
        h.polls.push(Poll { reader: 8, partition: 1, moved_to: Some(0), records });
    });
    assert!(matches!(elsewhere[..], [Anomaly::Duplicate { .. }]), "{elsewhere:?}");
}

#[test]
fn two_records_at_one_offset_are_found() {
    let conflict = found(|h| {
        let records = vec![(3, value(9, 0))];
        h.polls.push(Poll { reader: 8, partition: 0, moved_to: Some(3), records });
    });
    let values = vec![value(1, 1), value(9, 0)];
    assert_eq!(conflict, [Anomaly::Conflict { partition: 0, offset: 3, values }]);
}

#[test]
fn what_was_refused_may_not_be_read_and_what_is_unknown_may() {
    let with = |outcome| found(|h| h.sent[5].outcome = outcome);
    assert_eq!(with(Outcome::Refused), [Anomaly::RefusedRead { value: value(1, 2) }]);
    assert_eq!(with(Outcome::Unknown), []);
    let never_seen = found(|h| {
        let (value, outcome) = (value(0, 3), Outcome::Unknown);
        h.sent.push(Sent { value, partition: 0, called: 90, answered: 99, outcome });
    });
    assert_eq!(never_seen, []);
}

#[test]
fn a_producer_out_of_order_is_found() {
    let swapped = found(|h| {
        // Both in flight at once, so that only the producer's own order is broken.
        h.sent[5].called = 35;
        h.sent[3].answered = 65;
        for (at, number) in [(3, 2), (5, 1)] {
            h.sent[at].value.number = number;
            let poll = &mut h.polls[at / 2];
            poll.records[1].1.number = number;
        }
    });
    let (first, second) = (value(1, 2), value(1, 1));
    assert_eq!(swapped, [Anomaly::Reordered { partition: 0, first, second }]);
}

#[test]
fn an_ack_that_the_next_send_overtakes_is_found() {
    let overtaken = found(|h| {
        // The last two change places in the log, of different producers.
        h.sent[4].outcome = Outcome::Acked(5);
        h.sent[5].outcome = Outcome::Acked(4);
        h.polls[2].records = vec![(4, value(1, 2)), (5, value(0, 2))];
        h.ends.clear();
    });
    let (acked, sent_later) = (value(0, 2), value(1, 2));
    assert_eq!(overtaken, [Anomaly::RealTime { partition: 0, acked, sent_later }]);
    let at_once = found(|h| {
        h.sent[4].outcome = Outcome::Acked(5);
        h.sent[5].outcome = Outcome::Acked(4);
        h.sent[5].called = h.sent[4].called + 1;
        h.polls[2].records = vec![(4, value(1, 2)), (5, value(0, 2))];
        h.ends.clear();
    });
    assert_eq!(at_once, [], "in flight at once, any order is fine");
}

#[test]
fn a_reader_that_goes_back_or_skips_is_found() {
    let back = found(|h| h.polls[1].records.insert(1, (1, value(1, 0))));
    assert!(
        back.contains(&Anomaly::NonMonotonic { reader: 7, partition: 0, had: 2, given: 1 }),
        "{back:?}"
    );
    let again = found(|h| h.polls[1].records.insert(1, (2, value(0, 1))));
    assert_eq!(again, [Anomaly::NonMonotonic { reader: 7, partition: 0, had: 2, given: 2 }]);
    let skipping = |moved_to| {
        found(|h| {
            for (moved_to, at) in [(Some(0), 0), (moved_to, 4)] {
                let records = vec![h.polls[at / 2].records[0]];
                h.polls.push(Poll { reader: 8, partition: 0, moved_to, records });
            }
        })
    };
    let skipped = Anomaly::Skipped { reader: 8, partition: 0, had: 0, given: 4, skipped: 1 };
    assert_eq!(skipping(None), [skipped]);
    assert_eq!(skipping(Some(4)), [], "it was moved there");
    let late = Anomaly::Skipped { reader: 8, partition: 0, had: 2, given: 4, skipped: 3 };
    assert_eq!(skipping(Some(3)), [late], "it was moved elsewhere");
}

#[test]
fn a_stale_end_is_found() {
    let stale = found(|h| h.ends[3].end = 3);
    assert_eq!(stale, [Anomaly::StaleEnd { partition: 0, end: 3, at_least: 4 }]);
    let backwards = found(|h| {
        h.sent.retain(|s| s.called < 30);
        h.polls.truncate(1);
        h.read_out.clear();
        h.ends.truncate(3);
        h.ends.push(EndOffset { partition: 0, called: 28, answered: 29, end: 9 });
        h.ends.push(EndOffset { partition: 0, called: 40, answered: 41, end: 8 });
    });
    assert_eq!(backwards, [Anomaly::StaleEnd { partition: 0, end: 8, at_least: 9 }]);
    let at_once = found(|h| h.ends[3].called = 33);
    assert_eq!(at_once, []);
    let not_committed_yet = found(|h| {
        h.acks_of_the_leader = true;
        h.ends[5].end = 5;
    });
    assert_eq!(not_committed_yet, []);
}

/// A log of several partitions and producers that did nothing wrong, with whatever a fault may
/// leave: unknown outcomes that were written or not, refused records, readers that sought.
fn sound_history(script: &[(u32, u32, u8)]) -> History {
    let (mut history, mut moment) = (History::default(), 0);
    let mut logs: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
    let mut numbers: HashMap<u32, u64> = HashMap::new();
    for (producer, partition, fate) in script {
        let number = numbers.entry(*producer).or_default();
        let value = value(*producer, *number);
        *number += 1;
        let log = logs.entry(*partition).or_default();
        let outcome = match fate {
            0 => Outcome::Refused,
            1 => Outcome::Unknown,
            2 => {
                log.push(value);
                Outcome::Unknown
            }
            _ => {
                log.push(value);
                Outcome::Acked(log.len() as i64 - 1)
            }
        };
        let (partition, called) = (*partition, moment);
        let answered = called + 1;
        moment += 2;
        history.sent.push(Sent { value, partition, called, answered, outcome });
        let end = log.len() as i64;
        history.ends.push(EndOffset { partition, called: moment, answered: moment + 1, end });
        moment += 2;
    }
    for (partition, log) in logs {
        let all: Vec<_> = (0..).zip(log).collect();
        history.read_out.insert(partition, all.len() as i64);
        for (reader, from) in [(0, 0), (1, all.len() / 2)] {
            let moved_to = Some(from as i64);
            let records = all[from..].to_vec();
            history.polls.push(Poll { reader, partition, moved_to, records });
        }
    }
    history
}

proptest! {
    #[test]
    fn no_sound_history_is_blamed_and_no_lost_record_missed(
        script in proptest::collection::vec((0..4u32, 0..3u32, 0..10u8), 1..60),
        pick in any::<proptest::sample::Index>(),
    ) {
        let mut history = sound_history(&script);
        prop_assert_eq!(check(&history), vec![]);
        let acked: Vec<Value> = history.sent.iter()
            .filter(|s| matches!(s.outcome, Outcome::Acked(_)))
            .map(|s| s.value)
            .collect();
        if !acked.is_empty() {
            let gone = acked[pick.index(acked.len())];
            for poll in &mut history.polls {
                poll.records.retain(|(_, value)| *value != gone);
            }
            let found = check(&history).into_iter().any(|anomaly| match anomaly {
                Anomaly::Lost { value, .. } | Anomaly::Unseen { value, .. } => value == gone,
                _ => false,
            });
            prop_assert!(found);
        }
    }
}
