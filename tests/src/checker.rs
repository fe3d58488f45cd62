//! Which histories no log may show: the rules of Jepsen's `kafka` workload.
//!
//! The broker tells offsets, so the order of a partition's versions is known and nothing has to be
//! searched: every rule is a pass over sorted events, O(n log n).
//!
//! | rule | anomaly |
//! |---|---|
//! | an acknowledged record that lies below something that was read has been read | [`Anomaly::Lost`] |
//! | an acknowledged record is in a partition that was read out | [`Anomaly::Unseen`] |
//! | a record is at one place | [`Anomaly::Duplicate`] |
//! | an offset holds one record | [`Anomaly::Conflict`] |
//! | what was definitely refused is never read | [`Anomaly::RefusedRead`] |
//! | the records of one producer stand in the order it sent them | [`Anomaly::Reordered`] |
//! | what was acknowledged before another was sent stands before it | [`Anomaly::RealTime`] |
//! | a reader's offsets only grow | [`Anomaly::NonMonotonic`] |
//! | a reader leaves nothing out | [`Anomaly::Skipped`] |
//! | an end offset lies past all that was acknowledged, and never goes back | [`Anomaly::StaleEnd`] |
//!
//! A record whose outcome is unknown may be there or not, but once at most.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::history::{History, Moment, Outcome, Value};

/// How many anomalies a failing test prints.
const PRINTED: usize = 20;

/// Something that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anomaly {
    /// Acknowledged at `offset`, and records past it were read, but never this one.
    Lost {
        /// Which record.
        value: Value,
        /// Where.
        partition: u32,
        /// Acknowledged there.
        offset: i64,
    },
    /// Acknowledged at `offset`, but the partition, read out, ends before it.
    Unseen {
        /// Which record.
        value: Value,
        /// Where.
        partition: u32,
        /// Acknowledged there.
        offset: i64,
        /// Where the partition ends.
        end: i64,
    },
    /// At more than one place.
    Duplicate {
        /// Which record.
        value: Value,
        /// Partitions and offsets.
        places: Vec<(u32, i64)>,
    },
    /// Two records at one offset, as acknowledged or as read.
    Conflict {
        /// Where.
        partition: u32,
        /// There.
        offset: i64,
        /// Which records.
        values: Vec<Value>,
    },
    /// Definitely refused, and read.
    RefusedRead {
        /// Which record.
        value: Value,
    },
    /// Sent later by the same producer, stands earlier.
    Reordered {
        /// Where.
        partition: u32,
        /// Stands first.
        first: Value,
        /// Stands behind it, though sent before it.
        second: Value,
    },
    /// Sent only after the other had been acknowledged, stands before it.
    RealTime {
        /// Where.
        partition: u32,
        /// Had been acknowledged.
        acked: Value,
        /// Was sent then, and stands before it.
        sent_later: Value,
    },
    /// A reader went back, or stood still.
    NonMonotonic {
        /// Which one.
        reader: u32,
        /// Where.
        partition: u32,
        /// It had this one.
        had: i64,
        /// And was given this one.
        given: i64,
    },
    /// A reader was not given a record that is there.
    Skipped {
        /// Which one.
        reader: u32,
        /// Where.
        partition: u32,
        /// It had this one.
        had: i64,
        /// And was given this one.
        given: i64,
        /// Which is between them.
        skipped: i64,
    },
    /// An end offset below what had been acknowledged, or told to somebody, before it was asked.
    StaleEnd {
        /// Where.
        partition: u32,
        /// The answer.
        end: i64,
        /// The least it could be.
        at_least: i64,
    },
}

/// Checks a history of idempotent producers, each of which sends to a partition in order.
pub fn check(history: &History) -> Vec<Anomaly> {
    let log = Log::of(history);
    let mut anomalies = Vec::new();
    log.conflicts(&mut anomalies);
    log.duplicates(&mut anomalies);
    missing(history, &log, &mut anomalies);
    order_of_producers(&log, &mut anomalies);
    order_in_real_time(history, &mut anomalies);
    readers(history, &log, &mut anomalies);
    end_offsets(history, &mut anomalies);
    anomalies
}

/// # Panics
/// If [`check`] finds anything; with the first of it.
pub fn assert_sound(history: &History) {
    assert_none(&check(history));
}

/// # Panics
/// If there is any; with the first of them.
pub fn assert_none(found: &[Anomaly]) {
    let shown: Vec<String> = found.iter().take(PRINTED).map(|a| format!("{a:?}")).collect();
    assert!(found.is_empty(), "{} anomalies, among them:\n{}", found.len(), shown.join("\n"));
}

/// What is where, by all that was acknowledged and read.
#[derive(Debug, Default)]
struct Log {
    /// Partition, offset → who claims to be there.
    places: BTreeMap<(u32, i64), BTreeSet<Value>>,
    /// Where each record was seen.
    seen: BTreeMap<Value, BTreeSet<(u32, i64)>>,
    read: HashSet<Value>,
    /// The highest offset read of each partition.
    highest_read: HashMap<u32, i64>,
}

impl Log {
    fn of(history: &History) -> Self {
        let mut log = Self::default();
        for sent in &history.sent {
            if let Outcome::Acked(offset) = sent.outcome {
                log.put(sent.partition, offset, sent.value);
            }
        }
        for poll in &history.polls {
            for (offset, value) in &poll.records {
                log.put(poll.partition, *offset, *value);
                log.read.insert(*value);
                let highest = log.highest_read.entry(poll.partition).or_insert(*offset);
                *highest = (*highest).max(*offset);
            }
        }
        log
    }

    fn put(&mut self, partition: u32, offset: i64, value: Value) {
        self.places.entry((partition, offset)).or_default().insert(value);
        self.seen.entry(value).or_default().insert((partition, offset));
    }

    fn conflicts(&self, anomalies: &mut Vec<Anomaly>) {
        for ((partition, offset), values) in &self.places {
            if values.len() > 1 {
                let values = values.iter().copied().collect();
                anomalies.push(Anomaly::Conflict {
                    partition: *partition,
                    offset: *offset,
                    values,
                });
            }
        }
    }

    fn duplicates(&self, anomalies: &mut Vec<Anomaly>) {
        for (value, places) in &self.seen {
            if places.len() > 1 {
                let places = places.iter().copied().collect();
                anomalies.push(Anomaly::Duplicate { value: *value, places });
            }
        }
    }

    /// Something that is known to be in a partition strictly between two offsets.
    fn between(&self, partition: u32, after: i64, before: i64) -> Option<i64> {
        let range = (partition, after.saturating_add(1))..(partition, before);
        if range.start >= range.end {
            return None;
        }
        self.places.range(range).next().map(|((_, offset), _)| *offset)
    }
}

/// What was acknowledged is there, what was refused is not.
fn missing(history: &History, log: &Log, anomalies: &mut Vec<Anomaly>) {
    for sent in &history.sent {
        let (value, partition) = (sent.value, sent.partition);
        let read = log.read.contains(&value);
        match sent.outcome {
            Outcome::Acked(offset) if !read => {
                let past = log.highest_read.get(&partition).is_some_and(|high| *high > offset);
                if past {
                    anomalies.push(Anomaly::Lost { value, partition, offset });
                } else if let Some(end) = history.read_out.get(&partition) {
                    anomalies.push(Anomaly::Unseen { value, partition, offset, end: *end });
                }
            }
            Outcome::Refused if read => anomalies.push(Anomaly::RefusedRead { value }),
            _ => {}
        }
    }
}

/// Each producer's records stand in the order of their numbers.
fn order_of_producers(log: &Log, anomalies: &mut Vec<Anomaly>) {
    let mut last: HashMap<(u32, u32), Value> = HashMap::new();
    for ((partition, _), values) in &log.places {
        for value in values {
            let before = last.insert((*partition, value.producer), *value);
            if let Some(first) = before
                && first.number > value.number
            {
                let second = *value;
                anomalies.push(Anomaly::Reordered { partition: *partition, first, second });
            }
        }
    }
}

/// What was acknowledged before another was sent stands before it.
fn order_in_real_time(history: &History, anomalies: &mut Vec<Anomaly>) {
    // At a call, take the highest acknowledged so far; at its answer, compare.
    let mut events: Vec<(Moment, usize)> = Vec::new();
    for (i, sent) in history.sent.iter().enumerate() {
        if matches!(sent.outcome, Outcome::Acked(_)) {
            events.push((sent.called, i));
            events.push((sent.answered, i));
        }
    }
    events.sort_unstable();
    let mut highest: HashMap<u32, (i64, Value)> = HashMap::new();
    let mut at_call: HashMap<usize, Option<(i64, Value)>> = HashMap::new();
    for (moment, i) in events {
        let sent = &history.sent[i];
        let Outcome::Acked(offset) = sent.outcome else { continue };
        if moment == sent.called {
            at_call.insert(i, highest.get(&sent.partition).copied());
            continue;
        }
        if let Some(Some((acked_at, acked))) = at_call.remove(&i)
            && acked_at > offset
        {
            let (partition, sent_later) = (sent.partition, sent.value);
            anomalies.push(Anomaly::RealTime { partition, acked, sent_later });
        }
        let high = highest.entry(sent.partition).or_insert((offset, sent.value));
        if offset > high.0 {
            *high = (offset, sent.value);
        }
    }
}

/// Each reader's offsets grow and leave nothing out.
fn readers(history: &History, log: &Log, anomalies: &mut Vec<Anomaly>) {
    let mut places: HashMap<(u32, u32), i64> = HashMap::new();
    for poll in &history.polls {
        let (reader, partition) = (poll.reader, poll.partition);
        if let Some(to) = poll.moved_to {
            places.insert((reader, partition), to - 1);
        }
        for (given, _) in &poll.records {
            let given = *given;
            if let Some(had) = places.insert((reader, partition), given) {
                if given <= had {
                    anomalies.push(Anomaly::NonMonotonic { reader, partition, had, given });
                } else if let Some(skipped) = log.between(partition, had, given) {
                    anomalies.push(Anomaly::Skipped { reader, partition, had, given, skipped });
                }
            }
        }
    }
}

/// An end lies past all that was acknowledged, and all ends told, before it was asked for.
fn end_offsets(history: &History, anomalies: &mut Vec<Anomaly>) {
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Event {
        Acked(u32, i64),
        Asked(usize),
        Told(usize),
    }
    let mut events: Vec<(Moment, Event)> = Vec::new();
    let committed = history.sent.iter().filter(|_| !history.acks_of_the_leader);
    for sent in committed {
        if let Outcome::Acked(offset) = sent.outcome {
            events.push((sent.answered, Event::Acked(sent.partition, offset + 1)));
        }
    }
    for (i, end) in history.ends.iter().enumerate() {
        events.push((end.called, Event::Asked(i)));
        events.push((end.answered, Event::Told(i)));
    }
    events.sort_unstable();
    let mut least: HashMap<u32, i64> = HashMap::new();
    let mut at_call: HashMap<usize, i64> = HashMap::new();
    for (_, event) in events {
        let (partition, known) = match event {
            Event::Acked(partition, end) => (partition, end),
            Event::Asked(i) => {
                let floor = least.get(&history.ends[i].partition).copied().unwrap_or(0);
                at_call.insert(i, floor);
                continue;
            }
            Event::Told(i) => {
                let told = &history.ends[i];
                let at_least = at_call.remove(&i).unwrap_or(0);
                if told.end < at_least {
                    let (partition, end) = (told.partition, told.end);
                    anomalies.push(Anomaly::StaleEnd { partition, end, at_least });
                }
                (told.partition, told.end)
            }
        };
        let floor = least.entry(partition).or_insert(known);
        *floor = (*floor).max(known);
    }
}

#[cfg(test)]
#[path = "checker_test.rs"]
mod tests;
