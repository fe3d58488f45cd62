//! Following a leader: saying what this replica has, and appending what is pushed.
//!
//! What comes is appended on the thread it came on, under the lock, as a leader appends what it is
//! sent. Where the log is not ready, pushes wait in order; what of a push is in the log is
//! acknowledged, the rest follows. Rules that are easy to break (the simulator's shell did):
//!
//! * what ends one session must not discard what was pushed on another;
//! * pushes that are discarded must end their session: their leader believes them under way;
//! * of what waits to be said only the newest counts, and it is worked out when it is said.

use std::{collections::VecDeque, sync::Arc};

use riverrun_proto::{
    epoch::LeaderEpoch,
    epoch_history::EpochStart,
    limits::BATCH_BYTES_MAX,
    offset::Offset,
    record::{BatchError, RecordBatch},
};

use super::{
    line::{Line, Place},
    order::{Effects, State},
    owner::Partition,
    replication::{Push, ToFollower, ToLeader, Traffic},
    role::Role,
    throttle::Direction,
};
use crate::{
    log::AppendError,
    replica::{
        Event,
        frame::{DataHead, LeaderFrame, Session, Subscribe},
    },
};

/// What a partition knows of its way to leaders, and of what came from the present one.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// One for each connection on which something is to be said, or may come.
    uplinks: Vec<Uplink>,
    /// The connection of the present session.
    current: Option<Arc<Line>>,
    /// The push just given to the protocol.
    given: Option<Arrived>,
    /// The protocol wants it appended.
    append_given: bool,
    /// Pushes that wait for the log to be ready, in order.
    waiting: VecDeque<Arrived>,
    waiting_bytes: usize,
    /// Why the log took nothing when last asked to; said once.
    refusal: Option<String>,
}

#[derive(Debug)]
struct Uplink {
    line: Arc<Line>,
    place: Arc<Place>,
    traffic: Traffic,
    /// The session to take leave of.
    farewell: Option<Session>,
    says: Option<Saying>,
}

/// What is to be said; its content is that of the moment in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saying {
    Subscribe,
    Ack,
}

/// A push, checked.
#[derive(Debug)]
struct Arrived {
    head: DataHead,
    batches: Vec<RecordBatch>,
}

/// Why a push is none.
#[derive(Debug, thiserror::Error)]
enum BadPush {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("it has no batches")]
    Empty,
    #[error("a batch at {found} follows one that ends at {expected}")]
    Gap { expected: Offset, found: Offset },
    #[error("the batch at {0} has no leader epoch")]
    NoEpoch(Offset),
    #[error("it goes beyond what may be under way")]
    TooMuch,
}

impl Partition {
    /// What this partition has to say to its leader on a connection, as of now; `None`: nothing any
    /// more. To be asked when it is its turn ([`Line::next`]).
    pub fn next_for_leader(&self, on: &Arc<Line>) -> Option<ToLeader> {
        self.with_state(|state| state.next_for_leader(self, on))
    }

    /// The leader said something.
    pub fn hear_leader(self: &Arc<Self>, said: ToFollower) {
        // The checksums are the costly part, and no business of the lock's.
        let arrived = match said {
            ToFollower::Push(push) => match Arrived::check(push) {
                Ok(arrived) => Ok(arrived),
                Err((session, bad)) => Err(Heard::Bad(session, bad)),
            },
            ToFollower::Ended(session) => Err(Heard::Ended(session)),
            ToFollower::Progress(progress) => Err(Heard::Frame(LeaderFrame::Progress(progress))),
            ToFollower::Diverging(diverging) => {
                Err(Heard::Frame(LeaderFrame::Diverging(diverging)))
            }
            ToFollower::Refused(refused) => Err(Heard::Frame(LeaderFrame::Refused(refused))),
        };
        self.change(|state, effects| {
            if !state.is_sound() {
                return;
            }
            match arrived {
                Ok(arrived) => {
                    state.note_committed(&arrived.head.progress);
                    state.note_pushed_here(self, arrived.bytes());
                    state.take_push(self, arrived, effects);
                }
                Err(Heard::Frame(frame)) => {
                    if let LeaderFrame::Progress(progress) = &frame {
                        state.note_committed(progress);
                    }
                    state.step(self, Event::Leader(frame), effects);
                }
                Err(Heard::Ended(session)) => state.leader_ended(self, session, effects),
                Err(Heard::Bad(session, bad)) => {
                    if state.session() == Some(session) {
                        state.end_session(self, &bad.to_string(), effects);
                    }
                }
            }
        });
    }

    /// A connection is gone, or could not be made: nothing that was said on it counts on.
    pub fn uplink_lost(self: &Arc<Self>, line: &Arc<Line>) {
        self.change(|state, effects| {
            state.following.uplinks.retain(|uplink| !Arc::ptr_eq(&uplink.line, line));
            let current = &mut state.following.current;
            if current.take_if(|current| Arc::ptr_eq(current, line)).is_some()
                && state.is_sound()
                && let Some(session) = state.session()
            {
                state.leader_ended(self, session, effects);
                // On a connection made anew: what holds there is seen there.
                state.step(self, Event::Tick, effects);
            }
        });
    }

    /// Whether it follows a leader that has granted nothing, and is to ask again soon: for a look
    /// without the lock.
    pub(super) fn waits_to_subscribe(&self) -> bool {
        self.published.role.get() == Role::Waits
    }

    /// Asks its leader again, if it waits to.
    pub(super) fn subscribe_again(self: &Arc<Self>) {
        self.change(|state, effects| {
            if state.is_sound() && state.replica.is_paused() {
                state.step(self, Event::Tick, effects);
            }
        });
    }
}

enum Heard {
    Frame(LeaderFrame),
    Ended(Session),
    Bad(Session, BadPush),
}

impl State {
    fn next_for_leader(&mut self, partition: &Partition, on: &Arc<Line>) -> Option<ToLeader> {
        let takes_history = self.takes_history();
        let following = &mut self.following;
        let at = following.uplinks.iter().position(|uplink| Arc::ptr_eq(&uplink.line, on))?;
        let uplink = &mut following.uplinks[at];
        if let Some(session) = uplink.farewell.take() {
            let is_current = following.current.as_ref().is_some_and(|line| Arc::ptr_eq(line, on));
            if uplink.says.is_some() {
                uplink.line.enter(&uplink.place);
            } else if !is_current {
                following.uplinks.swap_remove(at);
            }
            return Some(ToLeader::Unsubscribe(session));
        }
        // Acknowledgements move the leader's window: without them it pushes no more.
        let throttle = &partition.env.replication.throttle;
        if takes_history
            && uplink.says == Some(Saying::Ack)
            && !throttle.admits(
                Direction::Receiving,
                partition.env.clock.monotonic(),
                (&uplink.line, &uplink.place),
            )
        {
            return None;
        }
        // What the protocol says by now may be something else than when it was put in line.
        match (uplink.says.take()?, self.replica.position_for_leader()?.1) {
            (Saying::Ack, Ok(ack)) => Some(ToLeader::Ack(ack)),
            (Saying::Subscribe, Err(subscribe)) => Some(ToLeader::Subscribe(subscribe)),
            _ => None,
        }
    }

    /// Asks on the connection to the leader. A member of the ISR has its own.
    pub(super) fn subscribe(&mut self, partition: &Arc<Partition>, subscribe: Subscribe) {
        self.following.forget_pushes();
        self.forget_committed();
        let Some(registration) = self.replica.registration() else { return };
        let Some(leader) = registration.leader else { return };
        let traffic = if registration.isr.contains(&subscribe.0.follower) {
            Traffic::InSync
        } else {
            Traffic::CatchUp
        };
        if self.log.damage().is_some() || partition.env.failure.is_failed() {
            // Nothing could be appended. The operator was told when it was found.
            return;
        }
        let Some(line) = partition.env.replication.peers.uplink(leader, traffic) else { return };
        self.following.current = Some(Arc::clone(&line));
        let uplink = self.following.uplink(partition, line, traffic);
        uplink.says = Some(Saying::Subscribe);
        uplink.line.enter(&uplink.place);
    }

    /// What this replica has changed.
    pub(super) fn acknowledge_to_leader(&mut self) {
        let following = &mut self.following;
        let Some(current) = &following.current else { return };
        let on_it = |uplink: &&mut Uplink| Arc::ptr_eq(&uplink.line, current);
        if let Some(uplink) = following.uplinks.iter_mut().find(on_it) {
            uplink.says = Some(Saying::Ack);
            uplink.line.enter(&uplink.place);
        }
    }

    pub(super) fn unsubscribe(&mut self, session: Session) {
        let following = &mut self.following;
        following.forget_pushes();
        let Some(current) = following.current.take() else { return };
        let on_it = |uplink: &&mut Uplink| Arc::ptr_eq(&uplink.line, &current);
        if let Some(uplink) = following.uplinks.iter_mut().find(on_it) {
            uplink.says = None;
            uplink.farewell = Some(session);
            uplink.line.enter(&uplink.place);
        }
    }

    /// A member of the ISR is waited for: it leaves the connection of those who catch up. So does one
    /// that is none any more, the other way.
    pub(super) fn change_traffic(&mut self, partition: &Arc<Partition>, effects: &mut Effects) {
        let following = &self.following;
        let Some(current) = &following.current else { return };
        let traffic = following.uplinks.iter().find(|uplink| Arc::ptr_eq(&uplink.line, current));
        let (Some(traffic), Some(session)) = (traffic.map(|uplink| uplink.traffic), self.session())
        else {
            return;
        };
        let is_member = self
            .replica
            .registration()
            .is_some_and(|registration| registration.isr.contains(&self.replica.me()));
        if is_member != (traffic == Traffic::InSync) {
            self.unsubscribe(session);
            self.step(partition, Event::LeaderLost { session }, effects);
            self.step(partition, Event::Tick, effects);
        }
    }

    fn take_push(&mut self, partition: &Arc<Partition>, arrived: Arrived, effects: &mut Effects) {
        // Behind those that wait already: what comes on a session stays in order.
        if self.following.waiting.is_empty() {
            return self.give(partition, arrived, effects);
        }
        if Some(arrived.head.progress.session) != self.session() {
            return;
        }
        let following = &mut self.following;
        following.waiting_bytes += arrived.bytes();
        following.waiting.push_back(arrived);
        // A leader pushes as long as the window is not full; the last batch comes whole.
        let limits = partition.env.replication.limits;
        let most = limits.window_bytes + limits.push_bytes + BATCH_BYTES_MAX as usize;
        if following.waiting_bytes > most {
            self.end_session(partition, &BadPush::TooMuch.to_string(), effects);
        }
    }

    fn give(&mut self, partition: &Arc<Partition>, arrived: Arrived, effects: &mut Effects) {
        let head = arrived.head.clone();
        self.following.given = Some(arrived);
        self.step(partition, Event::Leader(LeaderFrame::Data(head)), effects);
        self.following.given = None;
    }

    pub(super) fn wants_append(&mut self) {
        self.following.append_given = true;
    }

    /// Appends the batches of the push just given, as they are, if the protocol said so. Where the
    /// log is not ready in the middle, what is in it is told, and the rest waits.
    pub(super) fn append_given(&mut self, partition: &Arc<Partition>, effects: &mut Effects) {
        if !std::mem::take(&mut self.following.append_given) {
            return;
        }
        let Some(arrived) = self.following.given.take() else { return };
        let now = partition.env.clock.now();
        let Arrived { head, batches } = arrived;
        for (n, batch) in batches.iter().enumerate() {
            let at = batch.base_offset();
            if partition.env.gate.is_closed() {
                self.took_part(partition, &head, at, effects);
                return self.end_session(partition, "there is no room on the disk", effects);
            }
            let began = partition.env.clock.monotonic();
            match self.log.append(&batch.as_stamped(), now) {
                Ok(_) => {
                    self.log.note_took(partition.env.clock.monotonic().duration_since(began));
                }
                Err(AppendError::NotReady) => {
                    let rest = batches[n..].to_vec();
                    let rest = Arrived { head: head.since(at), batches: rest };
                    self.following.waiting_bytes += rest.bytes();
                    self.following.waiting.push_front(rest);
                    return self.took_part(partition, &head, at, effects);
                }
                Err(error) => {
                    self.took_part(partition, &head, at, effects);
                    return self.end_session(partition, &error.to_string(), effects);
                }
            }
        }
        self.following.refusal = None;
        self.step(partition, Event::Replicated(head), effects);
    }

    /// What of a push lies below `at` is in the log.
    fn took_part(
        &mut self,
        partition: &Arc<Partition>,
        head: &DataHead,
        at: Offset,
        effects: &mut Effects,
    ) {
        if at > head.base {
            self.step(partition, Event::Replicated(head.until(at)), effects);
        }
    }

    /// What is pushed cannot be taken now: the session is over, and asked for again when some time
    /// has passed.
    fn end_session(&mut self, partition: &Arc<Partition>, why: &str, effects: &mut Effects) {
        if self.following.refusal.as_deref() != Some(why) {
            tracing::warn!(partition = %partition.id(), topic = %partition.topic(), %why, "nothing is replicated here for the time being");
            self.following.refusal = Some(why.to_owned());
        }
        if let Some(session) = self.session() {
            self.unsubscribe(session);
            self.step(partition, Event::LeaderLost { session }, effects);
        }
    }

    fn leader_ended(
        &mut self,
        partition: &Arc<Partition>,
        session: Session,
        effects: &mut Effects,
    ) {
        // Of another session than this it is no news: what waits goes on waiting.
        if self.session() == Some(session) {
            self.following.forget_pushes();
            self.step(partition, Event::LeaderLost { session }, effects);
        }
    }

    /// The log may be ready again: what waits goes in, in order, until it is not.
    pub(super) fn drain_pushes(&mut self, partition: &Arc<Partition>, effects: &mut Effects) {
        for _ in 0..self.following.waiting.len() {
            let waiting = self.following.waiting.len();
            let Some(arrived) = self.following.waiting.pop_front() else { return };
            self.following.waiting_bytes -= arrived.bytes();
            self.give(partition, arrived, effects);
            if self.following.waiting.len() >= waiting {
                return;
            }
        }
    }

    /// The subscription in force, or asked for.
    pub(super) fn session(&self) -> Option<Session> {
        let (_, says) = self.replica.position_for_leader()?;
        Some(says.map_or_else(|subscribe| subscribe.0.session, |ack| ack.0.session))
    }

    /// The partition closes: its leader need not wait for it.
    pub(super) fn stop_following(&mut self) {
        if let Some(session) = self.session() {
            self.unsubscribe(session);
        }
    }
}

impl Following {
    fn uplink(
        &mut self,
        partition: &Arc<Partition>,
        line: Arc<Line>,
        traffic: Traffic,
    ) -> &mut Uplink {
        let known = self.uplinks.iter().position(|uplink| Arc::ptr_eq(&uplink.line, &line));
        let at = known.unwrap_or_else(|| {
            let place = Place::of(partition);
            self.uplinks.push(Uplink { line, place, traffic, farewell: None, says: None });
            self.uplinks.len() - 1
        });
        &mut self.uplinks[at]
    }

    /// Only together with the end of their session, or the beginning of another.
    pub(super) fn forget_pushes(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.given = None;
        self.append_given = false;
    }

    /// Bytes of pushes that wait for the log.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }
}

impl Arrived {
    /// Checks every batch, and that they follow one another; what the push is about is what its
    /// batches say.
    fn check(push: Push) -> Result<Self, (Session, BadPush)> {
        let Push { progress, previous_epoch, batches } = push;
        let checked = || {
            let mut checked = Vec::with_capacity(batches.len());
            let mut epochs: Vec<EpochStart> = Vec::new();
            let mut end = None;
            for bytes in batches {
                let batch = RecordBatch::parse_stored(bytes)?;
                let base = batch.base_offset();
                if let Some(expected) = end.filter(|end| *end != base) {
                    return Err(BadPush::Gap { expected, found: base });
                }
                let epoch = LeaderEpoch::new(batch.header().leader_epoch);
                let epoch = epoch.ok_or(BadPush::NoEpoch(base))?;
                if epochs.last().is_none_or(|run| run.epoch != epoch) {
                    epochs.push(EpochStart { epoch, start: base });
                }
                end = Some(batch.next_offset());
                checked.push(batch);
            }
            let (Some(first), Some(end)) = (checked.first(), end) else {
                return Err(BadPush::Empty);
            };
            let base = first.base_offset();
            let head = DataHead { progress, base, previous_epoch, end, epochs };
            Ok(Self { head, batches: checked })
        };
        checked().map_err(|bad| (progress.session, bad))
    }

    fn bytes(&self) -> usize {
        self.batches.iter().map(RecordBatch::total_bytes).sum()
    }
}
