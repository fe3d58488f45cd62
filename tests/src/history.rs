//! What clients did and saw, in an order that all of them agree on.
//!
//! A [`Moment`] is a tick of one counter: of two operations, the one that was answered at a smaller
//! moment than the other was called came before it in real time. That is all a checker needs of a
//! clock.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

/// A point in real time, comparable across all clients of a history.
pub type Moment = u64;

/// What a record says: unique within a history. A producer numbers what it sends from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// Who wrote it.
    pub producer: u32,
    /// How many that producer had sent before.
    pub number: u64,
}

/// What a producer knows of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written, at this offset.
    Acked(i64),
    /// Certainly not written.
    Refused,
    /// Written or not.
    Unknown,
}

/// A record handed to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// What it says.
    pub value: Value,
    /// Where it was sent.
    pub partition: u32,
    /// When it was handed over.
    pub called: Moment,
    /// When the outcome was known.
    pub answered: Moment,
    /// What became of it.
    pub outcome: Outcome,
}

/// Records that a reader was given at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// Who read.
    pub reader: u32,
    /// What it read.
    pub partition: u32,
    /// Where the reader was put before this poll; `None`: it went on where it was.
    pub moved_to: Option<i64>,
    /// Offsets and what the records there say.
    pub records: Vec<(i64, Value)>,
}

/// An answer to the question where a partition ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOffset {
    /// Of which partition.
    pub partition: u32,
    /// When it was asked.
    pub called: Moment,
    /// When it was answered.
    pub answered: Moment,
    /// The first offset not yet committed.
    pub end: i64,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// In no order.
    pub sent: Vec<Sent>,
    /// In each reader's own order.
    pub polls: Vec<Poll>,
    /// In no order.
    pub ends: Vec<EndOffset>,
    /// Partitions read from their beginning to their end after everything had been answered, and
    /// that end. What is not in such a reading is not in the log.
    pub read_out: HashMap<u32, i64>,
    /// Acks were the leader's alone: what is acknowledged may not be committed yet, so that an end
    /// offset may lie before it for a while.
    pub acks_of_the_leader: bool,
}

/// Takes down a history from many tasks.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    moments: AtomicU64,
    history: Mutex<History>,
}

// === impl Value ===

impl Value {
    /// As the value of a record.
    pub fn to_bytes(self) -> Vec<u8> {
        format!("{}/{}", self.producer, self.number).into_bytes()
    }

    /// Back from it, whatever stands behind the number.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (producer, rest) = text.split_once('/')?;
        let number = rest.split(' ').next()?;
        Some(Self { producer: producer.parse().ok()?, number: number.parse().ok()? })
    }
}

// === impl Recorder ===

impl Recorder {
    /// The next moment.
    pub fn moment(&self) -> Moment {
        self.0.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// Takes down what became of a record.
    pub fn sent(&self, value: Value, partition: u32, called: Moment, outcome: Outcome) {
        let answered = self.moment();
        self.lock().sent.push(Sent { value, partition, called, answered, outcome });
    }

    /// Takes down what a reader was given.
    pub fn polled(&self, poll: Poll) {
        self.lock().polls.push(poll);
    }

    /// Takes down where a partition ended.
    pub fn end(&self, partition: u32, called: Moment, end: i64) {
        let answered = self.moment();
        self.lock().ends.push(EndOffset { partition, called, answered, end });
    }

    /// Takes down that a partition was read out, up to `end`.
    pub fn read_out(&self, partition: u32, end: i64) {
        self.lock().read_out.insert(partition, end);
    }

    /// Acks say less than that a record is committed.
    pub fn acks_of_the_leader(&self) {
        self.lock().acks_of_the_leader = true;
    }

    /// How many records were acknowledged so far.
    pub fn acked(&self) -> usize {
        self.lock().sent.iter().filter(|sent| matches!(sent.outcome, Outcome::Acked(_))).count()
    }

    /// What was taken down so far.
    pub fn history(&self) -> History {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().expect("nobody panics while holding it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_from_its_bytes_with_padding_or_without() {
        let value = Value { producer: 3, number: u64::MAX };
        assert_eq!(Value::parse(&value.to_bytes()), Some(value));
        let padded = [value.to_bytes(), b" xxxx".to_vec()].concat();
        assert_eq!(Value::parse(&padded), Some(value));
        for foreign in ["", "3", "/", "3/", "a/1", "3/-1"] {
            assert_eq!(Value::parse(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn an_answer_comes_after_its_call() {
        let recorder = Recorder::default();
        let called = recorder.moment();
        recorder.sent(Value { producer: 0, number: 0 }, 0, called, Outcome::Unknown);
        let sent = recorder.history().sent[0];
        assert!(sent.called < sent.answered);
        assert!(sent.answered < recorder.moment());
    }
}
