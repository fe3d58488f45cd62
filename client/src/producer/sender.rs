//! What one partition has in flight, and in which order it is sent again. Pure: answers, losses and
//! `now` go in; what to send comes out.
//!
//! ```text
//!  answered, waiting for   on the wire            to be sent (again)
//!  those before them
//!  ── done ── done ──────── sent ── sent ──────── waiting ── waiting ──► taken from the accumulator
//!  oldest                                                      newest
//! ```
//!
//! The law: batches reach the log in the order they were taken, each once.
//!
//! - A batch gets its sequence when it is taken and keeps it over all attempts, so the broker
//!   recognises what it has already.
//! - After a refusal nothing new is sent until every batch on the wire is answered; then everything
//!   unanswered goes again, from the oldest on. (Those behind a refused batch were refused for
//!   their sequence.)
//! - After a lost connection the same, at once.
//! - There is no final state of the producer. When the broker says that the sequence is lost
//!   (expired state, an epoch taken over), the partition goes on under a new producer id. Batches
//!   of which that is certain that they were not written are stamped anew; a batch with an attempt
//!   of unknown outcome fails, and its error says so: under a new id the broker could not tell it
//!   from a new one.
//! - Answers are given out in order.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use riverrun_proto::{ids::ProducerId, reason::Reason, record::ProducerStamp};

use crate::{
    clock::Instant,
    connection::Appended,
    error::{Error, ErrorKind, Result},
    retry::RetryPolicy,
};

/// A broker that knows nothing of a producer may take any sequence of it for the first. So until the
/// first batch under an identity is answered, and again when the last answer is this old, one batch at
/// a time is on the wire: a second one could be taken while the first is refused. (Brokers forget
/// producers after a day by default, and after five minutes if a partition has too many.)
const ESTABLISHED_FOR: Duration = Duration::from_secs(240);

/// Under which id and epoch a partition's batches are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: ProducerId,
    pub(crate) epoch: i16,
}

/// The batches of one partition between accumulator and answer.
#[derive(Debug)]
pub(crate) struct Sender<P> {
    flights: VecDeque<Flight<P>>,
    /// Bytes on the wire.
    sent_bytes: usize,
    /// Batches on the wire.
    sent: usize,
    numbering: Numbering,
    /// Nothing is sent before every batch on the wire is answered.
    draining: bool,
    /// How long to wait after that.
    backoff: Duration,
    /// Nothing is sent before this.
    resume_at: Option<Instant>,
    /// Refusals since the last success.
    refusals: u32,
    /// The newest leader epoch that a refusal named, and the newest that is believed: it was sent to.
    hinted_epoch: i32,
    believed_epoch: i32,
    /// The last success under this identity.
    last_success: Option<Instant>,
}

/// Below every leader epoch.
const NO_EPOCH: i32 = -1;

/// A batch, its place and what is known of it.
#[derive(Debug)]
struct Flight<P> {
    payload: P,
    bytes: usize,
    records: i32,
    created: Instant,
    state: State,
    /// An attempt may have been carried out, and nobody answered it.
    uncertain: bool,
}

#[derive(Debug)]
enum State {
    Waiting,
    Sent { correlation_id: u64 },
    Done(Result<Appended>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    /// Not idempotent.
    Off,
    /// No identity yet, or it is lost.
    Wanted {
        lost: Option<Identity>,
    },
    On {
        identity: Identity,
        next_sequence: i32,
    },
}

// === impl Sender ===

impl<P> Sender<P> {
    pub(crate) fn new(idempotent: bool) -> Self {
        Self {
            flights: VecDeque::new(),
            sent_bytes: 0,
            sent: 0,
            numbering: if idempotent { Numbering::Wanted { lost: None } } else { Numbering::Off },
            draining: false,
            backoff: Duration::ZERO,
            resume_at: None,
            refusals: 0,
            hinted_epoch: NO_EPOCH,
            believed_epoch: NO_EPOCH,
            last_success: None,
        }
    }

    /// Whether another batch may be taken: the broker recognises retries of so many.
    pub(crate) fn has_room(&self, in_flight_max: usize, now: Instant) -> bool {
        let max = if self.is_established(now) { in_flight_max } else { 1 };
        self.may_send(now) && self.flights.len() < max
    }

    /// A batch is to be sent, now or later.
    pub(crate) fn has_waiting(&self) -> bool {
        self.flights.iter().any(|flight| matches!(flight.state, State::Waiting))
    }

    /// The stamp of the next batch of `records`; `None` if the producer is not idempotent. Only
    /// after [`Sender::has_room`].
    pub(crate) fn next_stamp(&mut self, records: i32) -> Option<ProducerStamp> {
        match &mut self.numbering {
            Numbering::On { identity, next_sequence } => {
                Some(number(*identity, next_sequence, records))
            }
            Numbering::Off | Numbering::Wanted { .. } => None,
        }
    }

    /// Adds a batch behind the others.
    pub(crate) fn push(&mut self, payload: P, bytes: usize, records: i32, created: Instant) {
        let state = State::Waiting;
        self.flights.push_back(Flight {
            payload,
            bytes,
            records,
            created,
            state,
            uncertain: false,
        });
    }

    /// Bytes of the batch to be sent next, if there is one and it may go now: no more than
    /// `bytes_max` of a partition are on the wire, except for one batch alone.
    pub(crate) fn next_bytes(&self, bytes_max: usize, now: Instant) -> Option<usize> {
        let flight = self.flights.iter().find(|flight| matches!(flight.state, State::Waiting))?;
        let fits = self.sent == 0
            || (self.is_established(now) && self.sent_bytes + flight.bytes <= bytes_max);
        (fits && self.may_send(now)).then_some(flight.bytes)
    }

    /// Marks the batch of [`Sender::next_bytes`] as sent and gives it out.
    pub(crate) fn send_next(&mut self, correlation_id: u64) -> Option<&P> {
        let flight =
            self.flights.iter_mut().find(|flight| matches!(flight.state, State::Waiting))?;
        flight.state = State::Sent { correlation_id };
        self.sent += 1;
        self.sent_bytes += flight.bytes;
        Some(&flight.payload)
    }

    /// The broker answered. Answers to attempts that no longer count are ignored.
    pub(crate) fn answered(
        &mut self,
        correlation_id: u64,
        outcome: Result<Appended>,
        now: Instant,
        policy: &RetryPolicy,
        jitter: f64,
    ) {
        let Some(at) = self.flights.iter().position(|flight| {
            matches!(flight.state, State::Sent { correlation_id: id } if id == correlation_id)
        }) else {
            return;
        };
        self.sent -= 1;
        self.sent_bytes -= self.flights[at].bytes;
        match outcome {
            Ok(appended) => {
                self.refusals = 0;
                self.last_success = Some(now);
                self.flights[at].state = State::Done(Ok(appended));
            }
            Err(error) => self.refused(at, error, policy, jitter),
        }
        self.settle(now);
    }

    fn refused(&mut self, at: usize, error: Error, policy: &RetryPolicy, jitter: f64) {
        let waits_before = self.flights.iter().take(at).any(Flight::is_unanswered);
        let flight = &mut self.flights[at];
        flight.uncertain |= !error.is_definite();
        let out_of_order = error.is_reason(Reason::OutOfOrderSequence);
        let fenced = error.is_reason(Reason::InvalidProducerEpoch)
            || error.is_reason(Reason::ProducerFenced);
        if self.numbering != Numbering::Off && (out_of_order || fenced) {
            flight.state = State::Waiting;
            self.draining = true;
            // Behind a batch that is sent again, this is how it has to be.
            if fenced || !waits_before {
                self.lose_identity();
            }
        } else if error.is_retriable() {
            flight.state = State::Waiting;
            self.draining = true;
            let wait = match error.leader() {
                // News is followed at once.
                Some(hint) if hint.leader_epoch > self.believed_epoch => {
                    self.hinted_epoch = self.hinted_epoch.max(hint.leader_epoch);
                    Duration::ZERO
                }
                // Whoever was named has not taken office, or is not where it is said to be.
                Some(_) => policy.seeking(self.refusals, jitter),
                None => policy.backoff(self.refusals, jitter),
            };
            self.backoff = self.backoff.max(error.retry_after().unwrap_or(wait));
            self.refusals = self.refusals.saturating_add(1);
        } else {
            let definite = !flight.uncertain;
            flight.state = State::Done(Err(error.definite(definite)));
        }
    }

    fn lose_identity(&mut self) {
        if let Numbering::On { identity, .. } = self.numbering {
            self.numbering = Numbering::Wanted { lost: Some(identity) };
        }
    }

    /// The connection broke: nobody knows what became of the batches on the wire, except for those
    /// that never left.
    pub(crate) fn lost(&mut self, untaken: &HashSet<u64>, now: Instant) {
        for flight in &mut self.flights {
            if let State::Sent { correlation_id } = flight.state {
                flight.state = State::Waiting;
                flight.uncertain |= !untaken.contains(&correlation_id);
            }
        }
        self.sent = 0;
        self.sent_bytes = 0;
        self.settle(now);
    }

    /// Fails every batch begun before `created`.
    pub(crate) fn expire(&mut self, created: Instant, after: Duration, now: Instant) {
        for flight in &mut self.flights {
            if !flight.is_unanswered() || flight.created >= created {
                continue;
            }
            if matches!(flight.state, State::Sent { .. }) {
                self.sent -= 1;
                self.sent_bytes -= flight.bytes;
                flight.uncertain = true;
            }
            flight.state = State::Done(Err(timed_out(after, !flight.uncertain)));
        }
        self.settle(now);
    }

    /// Fails every batch.
    pub(crate) fn fail(&mut self, error: &Error) {
        for flight in &mut self.flights {
            if flight.is_unanswered() {
                let uncertain = flight.uncertain || matches!(flight.state, State::Sent { .. });
                let error = error.clone().definite(error.is_definite() && !uncertain);
                flight.state = State::Done(Err(error));
            }
        }
        self.sent = 0;
        self.sent_bytes = 0;
    }

    /// Goes on under this identity, from sequence 0. `restamp` rewrites a batch.
    pub(crate) fn identify(
        &mut self,
        identity: Identity,
        mut restamp: impl FnMut(&mut P, ProducerStamp),
    ) {
        let mut next_sequence = 0;
        for flight in &mut self.flights {
            if !matches!(flight.state, State::Waiting) {
                continue;
            }
            if flight.uncertain {
                flight.state = State::Done(Err(sequence_lost()));
            } else {
                restamp(&mut flight.payload, number(identity, &mut next_sequence, flight.records));
            }
        }
        self.numbering = Numbering::On { identity, next_sequence };
        self.last_success = None;
    }

    /// An identity is needed before anything can be sent, and another than this one.
    pub(crate) fn wants_identity(&self) -> Option<Option<Identity>> {
        match self.numbering {
            Numbering::Wanted { lost } if !self.draining => Some(lost),
            _ => None,
        }
    }

    /// The oldest batch, if it is answered.
    pub(crate) fn pop_done(&mut self) -> Option<(P, Result<Appended>)> {
        match self.flights.front()?.state {
            State::Done(_) => {}
            State::Waiting | State::Sent { .. } => return None,
        }
        let flight = self.flights.pop_front()?;
        match flight.state {
            State::Done(outcome) => Some((flight.payload, outcome)),
            State::Waiting | State::Sent { .. } => None,
        }
    }

    /// When to look again, if it waits for time alone.
    pub(crate) fn resume_at(&self) -> Option<Instant> {
        self.resume_at
    }

    /// The oldest batch on the wire, by its attempt.
    pub(crate) fn oldest_sent(&self) -> Option<u64> {
        self.flights.iter().find_map(|flight| match flight.state {
            State::Sent { correlation_id } => Some(correlation_id),
            State::Waiting | State::Done(_) => None,
        })
    }

    /// Batches on the wire.
    pub(crate) fn sent_count(&self) -> usize {
        self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Records not answered.
    pub(crate) fn record_count(&self) -> u64 {
        self.flights.iter().map(|flight| u64::from(flight.records.unsigned_abs())).sum()
    }

    /// The broker knows where this partition's sequence stands.
    fn is_established(&self, now: Instant) -> bool {
        let recent = |at| now.duration_since(at) < ESTABLISHED_FOR;
        self.numbering == Numbering::Off || self.last_success.is_some_and(recent)
    }

    fn may_send(&self, now: Instant) -> bool {
        !self.draining
            && !matches!(self.numbering, Numbering::Wanted { .. })
            && self.resume_at.is_none_or(|at| at <= now)
    }

    /// Ends draining once nothing is on the wire.
    fn settle(&mut self, now: Instant) {
        debug_assert_eq!(
            self.sent,
            self.flights.iter().filter(|f| matches!(f.state, State::Sent { .. })).count()
        );
        if self.draining && self.sent == 0 {
            self.draining = false;
            self.believed_epoch = self.believed_epoch.max(self.hinted_epoch);
            let wait = std::mem::take(&mut self.backoff);
            self.resume_at = (!wait.is_zero()).then(|| now + wait);
        }
    }
}

impl<P> Flight<P> {
    fn is_unanswered(&self) -> bool {
        !matches!(self.state, State::Done(_))
    }
}

fn number(identity: Identity, next_sequence: &mut i32, records: i32) -> ProducerStamp {
    let base_sequence = *next_sequence;
    *next_sequence = ProducerStamp::sequence_after(base_sequence, records);
    ProducerStamp { id: identity.id, epoch: identity.epoch, base_sequence }
}

/// A batch outlived `delivery_timeout`.
pub(crate) fn timed_out(after: Duration, definite: bool) -> Error {
    let advice = if definite {
        "nothing was written; the leader was not reachable or refused it all that time"
    } else {
        "an attempt may have been written; read the partition before sending it again"
    };
    Error::new(
        ErrorKind::Timeout,
        format!("not acknowledged within delivery_timeout ({after:?}): {advice}"),
    )
    .retriable(true)
    .definite(definite)
}

fn sequence_lost() -> Error {
    Error::new(
        ErrorKind::ProducerState,
        "the broker no longer knows this producer's sequence, and an earlier attempt to write the \
         record was never answered; read the partition before sending it again",
    )
    .definite(false)
}

#[cfg(test)]
#[path = "sender_test.rs"]
mod tests;
