//! Answers to produces, on their way to whoever waits: in the order in which the partition gave them.
//!
//! They are given under the partition's lock and handed out without it, by whichever thread made the
//! change. Two threads could overtake each other in between, and the ack of a later batch of a stream
//! come before that of an earlier one.

use parking_lot::Mutex;

use super::produce::{ProduceError, Produced, Ticket};

/// One answer.
pub(super) type Answer = (Ticket, Result<Produced, ProduceError>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// In order. Never locked for longer than it takes to move some.
    given: Mutex<Vec<Answer>>,
    /// Held by the thread that hands out.
    turn: Mutex<()>,
}

// === impl Answers ===

impl Answers {
    /// Puts answers behind those that were given before. To be called under the partition's lock,
    /// which makes the order.
    pub(super) fn give(&self, answers: &mut Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        let mut given = self.given.lock();
        if given.is_empty() {
            std::mem::swap(&mut *given, answers);
        } else {
            given.append(answers);
        }
    }

    /// Hands out all that was given, or waits until another thread has. Not to be called under the
    /// partition's lock.
    pub(super) fn hand_out(&self) {
        let _turn = self.turn.lock();
        let given = std::mem::take(&mut *self.given.lock());
        for (ticket, outcome) in given {
            ticket.complete(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt,
        sync::{Arc, mpsc},
        thread::{self, JoinHandle},
        time::Duration,
    };

    use super::*;
    use crate::partition::ProduceSink;

    /// In the middle of its first answer another thread does something.
    #[derive(Default)]
    struct Interrupted {
        interruption: Mutex<Option<Box<dyn FnOnce() + Send>>>,
        interrupting: Mutex<Option<JoinHandle<()>>>,
        order: Mutex<Vec<u64>>,
    }

    impl fmt::Debug for Interrupted {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Interrupted")
        }
    }

    impl ProduceSink for Interrupted {
        fn complete(&self, tag: u64, _: Result<Produced, ProduceError>) {
            if let Some(interruption) = self.interruption.lock().take() {
                let (done, other) = mpsc::sync_channel(1);
                let interrupting = thread::spawn(move || {
                    interruption();
                    // Nobody listens any more if it was made to wait.
                    let _ = done.send(());
                });
                *self.interrupting.lock() = Some(interrupting);
                // Time to overtake, were it possible.
                let _ = other.recv_timeout(Duration::from_millis(100));
            }
            self.order.lock().push(tag);
        }
    }

    #[test]
    fn no_answer_overtakes_one_given_before() {
        let (answers, sink) = (Arc::new(Answers::default()), Arc::new(Interrupted::default()));
        let answer = |tag| {
            let ticket = Ticket::new(Arc::clone(&sink) as Arc<dyn ProduceSink>, tag, ());
            (ticket, Err(ProduceError::StorageFull))
        };
        let (other, mut later) = (Arc::clone(&answers), vec![answer(2)]);
        *sink.interruption.lock() = Some(Box::new(move || {
            other.give(&mut later);
            other.hand_out();
        }));
        answers.give(&mut vec![answer(0), answer(1)]);
        answers.hand_out();
        sink.interrupting.lock().take().unwrap().join().unwrap();
        assert_eq!(*sink.order.lock(), [0, 1, 2]);
    }
}
