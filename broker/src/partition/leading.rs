//! Leading: pushing to followers what comes after a cursor, read from the log when it is their turn,
//! never kept in a queue.
//!
//! What a follower is owed is a few fields, whatever happens meanwhile: a cursor, whether it knows
//! how far the log is committed, one answer. Whoever runs the connection asks for the next thing
//! ([`Partition::next_for_follower`]); what is in memory is sliced, what is not is read on the pool,
//! on the connection's task and outside the lock.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use riverrun_proto::{ids::BrokerId, offset::Offset, record::BatchHeader};

use super::{
    line::{Line, Place},
    order::State,
    owner::Partition,
    replication::{PUSHES_IN_FLIGHT_MAX, Push, ToFollower, ToLeader},
    throttle::Direction,
};
use crate::{
    log::{Batches, Read},
    replica::{
        Event,
        frame::{LeaderFrame, Position, Session},
    },
};

/// What a leader owes its followers.
#[derive(Debug, Default)]
pub(super) struct Leading {
    /// One for each connection that a follower has asked on; at most one of a follower's is served.
    downlinks: Vec<Downlink>,
    /// Where the follower asked that is being answered.
    asking: Option<(BrokerId, Arc<Line>)>,
}

#[derive(Debug)]
struct Downlink {
    follower: BrokerId,
    line: Arc<Line>,
    place: Arc<Place>,
    /// What is served.
    session: Option<Session>,
    /// What comes next.
    cursor: Offset,
    window: Window,
    progress: Owed,
    /// Said before anything else; a newer one takes the place of an older.
    answer: Option<ToFollower>,
}

/// Whether the follower is to be told how far the log is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    /// With the next batches, or by itself if there are none.
    Progress,
    /// Before the first batches: it grants the subscription.
    Grant,
}

/// What was pushed and not acknowledged: a follower's credit is what is left of its window.
#[derive(Debug)]
struct Window {
    limit: usize,
    bytes: usize,
    /// Where each push ends, and its bytes.
    pushes: VecDeque<(Offset, usize)>,
}

/// What a follower's turn comes to.
enum Turn {
    Say(ToFollower),
    /// Read on from here, on this session.
    Push {
        session: Session,
        from: Offset,
    },
    Nothing,
}

impl Partition {
    /// A follower said something on a connection. `window_bytes`: how much it lets be under way.
    pub fn hear_follower(
        self: &Arc<Self>,
        on: &Arc<Line>,
        follower: BrokerId,
        said: ToLeader,
        window_bytes: usize,
    ) {
        self.change(|state, effects| {
            if !state.is_sound() {
                return state.leading.turn_away(self, on, follower, &said);
            }
            match said {
                ToLeader::Subscribe(subscribe) => {
                    let limits = self.env.replication.limits;
                    let limit = window_bytes.min(limits.window_bytes);
                    state.leading.ask(self, on, follower, limit);
                    state.step(self, Event::Subscribe(subscribe), effects);
                }
                ToLeader::Ack(ack) => {
                    state.leading.ask(self, on, follower, 0);
                    state.leading.note_acked(&ack.0);
                    state.step(self, Event::Ack(ack), effects);
                }
                ToLeader::Unsubscribe(session) => {
                    if let Some(session) = state.leading.leave(on, follower, session) {
                        state.step(self, Event::FollowerLost { follower, session }, effects);
                    }
                }
            }
            state.leading.answered();
        });
    }

    /// A connection of a follower is gone: it is served on it no more.
    pub fn downlink_lost(self: &Arc<Self>, line: &Arc<Line>) {
        self.change(|state, effects| {
            let lost = state.leading.downlinks.extract_if(.., |down| Arc::ptr_eq(&down.line, line));
            let lost: Vec<_> = lost.map(|down| (down.follower, down.session)).collect();
            for (follower, session) in lost {
                if let Some(session) = session
                    && state.is_sound()
                {
                    state.step(self, Event::FollowerLost { follower, session }, effects);
                }
            }
        });
    }

    /// What there is to be said to a follower on a connection, as of now; `None`: nothing for the
    /// time being. To be asked when it is this partition's turn ([`Line::next`]). What is not in
    /// memory is waited for.
    ///
    /// Cancel safe: what was not said is still owed, but for an answer that had been taken out.
    pub async fn next_for_follower(
        self: &Arc<Self>,
        on: &Arc<Line>,
        follower: BrokerId,
    ) -> Option<ToFollower> {
        loop {
            let (session, from) = match self.with_state(|state| state.turn(self, on, follower)) {
                Turn::Say(said) => return Some(said),
                Turn::Nothing => return None,
                Turn::Push { session, from } => (session, from),
            };
            let bytes = self.env.replication.limits.push_bytes;
            // The first batch may begin below the log start: read there, it comes whole.
            let kept = from.max(self.reader.log_start_offset());
            let read = match self.reader.read(kept, Offset::MAX, bytes) {
                Ok(Read::Batches(found)) => Ok(Some(found)),
                Ok(Read::Empty) => Ok(None),
                Ok(Read::Cold(cold)) => match self.read_cold(cold).await {
                    Ok(Ok(found)) => Ok(Some(found).filter(|found| !found.batches.is_empty())),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(error) => Err(error.to_string()),
                },
                Err(error) => Err(error.to_string()),
            };
            let pushed = read.and_then(|found| {
                let found = found.ok_or_else(|| "nothing is there".to_owned())?;
                match first_offset(&found) {
                    Some(begins) if begins < from => {
                        self.begin_further_down(on, follower, session, begins);
                        Ok(None)
                    }
                    // The log start has moved on, and the protocol is told when that is durable.
                    Some(begins) if begins > from => Err(format!("{from} is deleted")),
                    _ => self.with_state(|state| state.push(self, on, (session, from), found)),
                }
            });
            match pushed {
                Ok(Some(push)) => return Some(ToFollower::Push(push)),
                // Served anew meanwhile, or no more.
                Ok(None) => {}
                // What cannot be read ends the session: the follower asks anew, and is told where
                // the log begins.
                Err(why) => self.cannot_push(on, follower, session, &why),
            }
        }
    }

    /// What comes next lies inside a batch: the follower is told to begin where that does.
    fn begin_further_down(
        self: &Arc<Self>,
        on: &Arc<Line>,
        follower: BrokerId,
        session: Session,
        begins: Offset,
    ) {
        self.change(|state, effects| {
            let served = state.leading.find(on, follower).filter(|d| d.session == Some(session));
            let Some(down) = served else { return };
            down.session = None;
            if state.is_sound() {
                state.leading.asking = Some((follower, Arc::clone(on)));
                state.step(self, Event::InsideBatch { follower, session, begins }, effects);
                state.leading.answered();
            }
        });
    }

    fn cannot_push(
        self: &Arc<Self>,
        on: &Arc<Line>,
        follower: BrokerId,
        session: Session,
        why: &str,
    ) {
        let ended = self.change(|state, effects| {
            let ended = state.leading.end(session);
            if ended && state.is_sound() {
                state.step(self, Event::FollowerLost { follower, session }, effects);
            }
            ended
        });
        if ended {
            tracing::warn!(partition = %self.id(), topic = %self.topic(), %follower, %why, line = ?on, "cannot read what a follower is to be sent");
        }
    }
}

impl State {
    fn turn(&mut self, partition: &Partition, on: &Arc<Line>, follower: BrokerId) -> Turn {
        let (sound, is_move) = (self.is_sound(), self.sends_move_to(follower));
        let Some(down) = self.leading.find(on, follower) else { return Turn::Nothing };
        if !sound && let Some(session) = down.session.take() {
            return Turn::Say(ToFollower::Ended(session));
        }
        if let Some(answer) = down.answer.take() {
            down.line_up();
            return Turn::Say(answer);
        }
        let Some(session) = down.session else { return Turn::Nothing };
        let Some(progress) = self.replica.progress(follower) else { return Turn::Nothing };
        if progress.session != session {
            return Turn::Nothing;
        }
        if down.progress == Owed::Grant {
            down.progress = Owed::Nothing;
            down.line_up();
            return Turn::Say(ToFollower::Progress(progress));
        }
        if !is_move {
            // It may have been, and be for the throttle no longer.
            down.place.step_back();
        }
        if down.cursor < self.log.log_end_offset()
            && down.window.has_room()
            && (!is_move || down.passes(partition))
        {
            return Turn::Push { session, from: down.cursor };
        }
        if down.progress == Owed::Progress {
            down.progress = Owed::Nothing;
            return Turn::Say(ToFollower::Progress(progress));
        }
        Turn::Nothing
    }

    /// What was read from the cursor, if it still is what is to be pushed.
    fn push(
        &mut self,
        partition: &Partition,
        on: &Arc<Line>,
        (session, from): (Session, Offset),
        found: Batches,
    ) -> Result<Option<Push>, String> {
        let log_end = self.log.log_end_offset();
        let downlinks = &mut self.leading.downlinks;
        let Some(down) = downlinks.iter_mut().find(|down| {
            down.session == Some(session) && Arc::ptr_eq(&down.line, on) && down.cursor == from
        }) else {
            return Ok(None);
        };
        let Batches { batches, next_offset } = found;
        let Some(head) = self.replica.data_head(down.follower, from, next_offset) else {
            return Err(format!("{from} to {next_offset} is not in the log (any more)"));
        };
        let (bytes, follower) = (batches.iter().map(Bytes::len).sum(), down.follower);
        down.cursor = next_offset;
        down.window.note_pushed(next_offset, bytes);
        down.progress = Owed::Nothing;
        if next_offset < log_end {
            down.line_up();
        }
        if self.sends_move_to(follower) {
            let now = partition.env.clock.monotonic();
            partition.env.replication.throttle.take(Direction::Sending, bytes, now);
        }
        let (progress, previous_epoch) = (head.progress, head.previous_epoch);
        Ok(Some(Push { progress, previous_epoch, batches }))
    }

    /// Push what comes after `from`, beginning with a grant.
    pub(super) fn serve(&mut self, follower: BrokerId, session: Session, from: Offset) {
        let leading = &mut self.leading;
        let Some((_, on)) = leading.asking.clone() else { return };
        for down in leading.downlinks.iter_mut().filter(|down| down.follower == follower) {
            if !Arc::ptr_eq(&down.line, &on) {
                down.session = None;
                continue;
            }
            down.session = Some(session);
            down.cursor = from;
            down.window.begin_anew();
            down.progress = Owed::Grant;
            down.answer = None;
            down.line_up();
        }
    }

    /// Answer whoever is asking.
    pub(super) fn reply(&mut self, frame: LeaderFrame) {
        let leading = &mut self.leading;
        let Some((follower, on)) = leading.asking.clone() else { return };
        let Some(down) = leading.find(&on, follower) else { return };
        down.answer = Some(match frame {
            LeaderFrame::Diverging(diverging) => ToFollower::Diverging(diverging),
            LeaderFrame::Refused(refused) => ToFollower::Refused(refused),
            // Told when it is the follower's turn.
            LeaderFrame::Progress(_) | LeaderFrame::Data(_) => return,
        });
        down.line_up();
    }
}

impl Leading {
    /// Somebody asks on a connection; whatever the answer, it goes there.
    fn ask(
        &mut self,
        partition: &Arc<Partition>,
        on: &Arc<Line>,
        follower: BrokerId,
        limit: usize,
    ) {
        self.asking = Some((follower, Arc::clone(on)));
        match self.find(on, follower) {
            // An acknowledgement says nothing of the window.
            Some(down) if limit > 0 => down.window.limit = limit,
            Some(_) => {}
            None => self.downlinks.push(Downlink {
                follower,
                line: Arc::clone(on),
                place: Place::of(partition),
                session: None,
                cursor: Offset::ZERO,
                window: Window { limit, bytes: 0, pushes: VecDeque::new() },
                progress: Owed::Nothing,
                answer: None,
            }),
        }
    }

    fn answered(&mut self) {
        self.asking = None;
    }

    fn find(&mut self, on: &Arc<Line>, follower: BrokerId) -> Option<&mut Downlink> {
        let is_it = |down: &&mut Downlink| down.follower == follower && Arc::ptr_eq(&down.line, on);
        self.downlinks.iter_mut().find(is_it)
    }

    /// Nothing is served here any more.
    fn turn_away(
        &mut self,
        partition: &Arc<Partition>,
        on: &Arc<Line>,
        follower: BrokerId,
        said: &ToLeader,
    ) {
        let ToLeader::Subscribe(subscribe) = said else { return };
        self.ask(partition, on, follower, 0);
        self.answered();
        if let Some(down) = self.find(on, follower) {
            down.answer = Some(ToFollower::Ended(subscribe.0.session));
            down.line_up();
        }
    }

    fn note_acked(&mut self, position: &Position) {
        let on_session = |down: &&mut Downlink| {
            down.follower == position.follower && down.session == Some(position.session)
        };
        if let Some(down) = self.downlinks.iter_mut().find(on_session) {
            let was_full = !down.window.has_room();
            down.window.note_acked(position.log_end);
            if was_full && down.window.has_room() {
                down.line_up();
            }
        }
    }

    /// The follower listens no more to this session, nor to any before it. Returns the one that was
    /// served.
    fn leave(&mut self, on: &Arc<Line>, follower: BrokerId, upto: Session) -> Option<Session> {
        let down = self.find(on, follower)?;
        let left = down.session.take_if(|session| *session <= upto)?;
        down.answer = None;
        Some(left)
    }

    /// Ends a session and says so, if it is served.
    pub(super) fn end(&mut self, session: Session) -> bool {
        let served = self.downlinks.iter_mut().find(|down| down.session == Some(session));
        let Some(down) = served else { return false };
        down.session = None;
        down.answer = Some(ToFollower::Ended(session));
        down.line_up();
        true
    }

    /// The log grew.
    pub(super) fn wake(&self) {
        // One whose window is full lines up when it has room, one that was put aside by itself.
        for down in self.served().filter(|down| down.window.has_room() && !down.place.is_aside()) {
            down.line_up();
        }
    }

    /// Nobody who was put aside stays there without having been looked at again.
    pub(super) fn let_all_in(&self) {
        self.served().filter(|down| down.place.is_aside()).for_each(Downlink::line_up);
    }

    /// High watermark or log start moved.
    pub(super) fn share_progress(&mut self) {
        for down in self.downlinks.iter_mut().filter(|down| down.session.is_some()) {
            if down.progress == Owed::Nothing {
                down.progress = Owed::Progress;
            }
            down.line_up();
        }
    }

    /// The partition closes: whoever is served is told when it is their turn.
    pub(super) fn stop(&self) {
        for down in self.served() {
            down.line_up();
        }
    }

    /// Pushes under way, and their bytes.
    pub(super) fn under_way(&self) -> usize {
        self.served().map(|down| down.window.bytes).sum()
    }

    fn served(&self) -> impl Iterator<Item = &Downlink> {
        self.downlinks.iter().filter(|down| down.session.is_some())
    }
}

/// Where the first batch begins.
fn first_offset(found: &Batches) -> Option<Offset> {
    let header = BatchHeader::parse(found.batches.first()?).ok()?;
    Offset::new(header.base_offset)
}

impl Downlink {
    fn line_up(&self) {
        self.line.enter(&self.place);
    }

    /// Whether the throttle of moves lets more be pushed here; else it is put aside.
    fn passes(&self, partition: &Partition) -> bool {
        let now = partition.env.clock.monotonic();
        let throttle = &partition.env.replication.throttle;
        throttle.admits(Direction::Sending, now, (&self.line, &self.place))
    }
}

impl Window {
    fn has_room(&self) -> bool {
        self.bytes < self.limit && self.pushes.len() < PUSHES_IN_FLIGHT_MAX
    }

    fn note_pushed(&mut self, end: Offset, bytes: usize) {
        self.bytes += bytes;
        self.pushes.push_back((end, bytes));
    }

    fn note_acked(&mut self, log_end: Offset) {
        while let Some((_, bytes)) = self.pushes.front().filter(|(end, _)| *end <= log_end) {
            self.bytes -= bytes;
            self.pushes.pop_front();
        }
    }

    fn begin_anew(&mut self) {
        self.bytes = 0;
        self.pushes.clear();
    }
}
