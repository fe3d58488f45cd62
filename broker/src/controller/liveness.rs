//! Which brokers are there, as the leader of the metadata quorum hears them. Pure: heartbeats and the
//! time in, changes of presence to be proposed out.
//!
//! | a broker is | and | it becomes |
//! |---|---|---|
//! | active or leaving | was not heard from for the session timeout | fenced |
//! | active or leaving | closed its connection and did not dial again at once | fenced |
//! | active or leaving | did not dial whoever began to lead, and nobody listens at its address | fenced |
//! | active | wants to stop | leaving |
//! | fenced | is heard, has applied its own registration, and its clock is right ([`clocks`](super::clocks)) | active |
//!
//! Whoever begins to lead has heard nobody yet, so every broker has a full session from then on; but
//! one that died together with the leader before is not to be missed for so long. So whoever has not
//! dialled is looked for ([`Liveness::missing`]): a machine that is up and says that nobody listens
//! there tells of a process that is gone. Wrongly told, it costs a change of leader, never a record.
//!
//! Whoever is active and heard is granted a lease ([`Liveness::lease`]): for so long nobody is to lead in
//! its place.
//!
//! What is decided here is proposed for one run of a broker ([`SetPresence::broker_epoch`]) and judged
//! when it is applied; to propose it twice, or late, does no harm.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use riverrun_proto::{epoch::BrokerEpoch, ids::BrokerId};

use super::clocks::{Clocks, Compared};
use crate::{
    clock::{ClocksTold, Instant, WallAnchor},
    metadata::{
        Broker, FeatureLevel, MetadataImage, MetadataOffset, Presence, command::SetPresence,
    },
};

/// A closed connection that was not made again for so long is a dead process: a broker that only lost
/// its connection dials at once.
pub const REDIAL_GRACE: Duration = Duration::from_millis(500);

/// Part of the session timeout that a lease lasts. The rest is for clocks that do not run alike, and
/// for a leader of the quorum that was replaced and does not know yet. Another is elected no sooner than an
/// election timeout (a second, with the shipped ticks) after it was last heard, and it steps down within
/// two: so it grants for a second too long at most, and with sessions of four seconds and more that ends
/// before the next leader, whose sessions begin when it does, fences anybody.
const LEASE: (u32, u32) = (3, 4);

/// What a broker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Which broker.
    pub broker: BrokerId,
    /// Its registration.
    pub epoch: BrokerEpoch,
    /// All up to here is carried out there.
    pub applied: MetadataOffset,
    /// It is about to stop.
    pub wants_to_stop: bool,
    /// What came of comparing its wall clock with this node's; `None`: it has not yet.
    pub clock: Option<Compared>,
}

/// See the module.
#[derive(Debug)]
pub struct Liveness {
    session_timeout: Duration,
    /// How far wall clocks may be apart; `None`: nobody asks.
    clock_offset_max: Option<Duration>,
    /// How this node's stands.
    wall: WallAnchor,
    /// The term in which this node leads, and since when.
    leads: Option<(u64, Instant)>,
    /// Of the term, all that earlier leaders have decided is in the image.
    knows_earlier: bool,
    sessions: BTreeMap<BrokerId, Session>,
    /// To be fenced, as was proposed then; taken in again once it is known what became of that.
    fencing: BTreeMap<BrokerId, Instant>,
    /// Looked for in this term, and found to be gone.
    gone: BTreeMap<BrokerId, BrokerEpoch>,
    /// Names connections, so that the end of an old one does not end a new one.
    connections: u64,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    said: Heartbeat,
    heard: Instant,
    connection: u64,
    closed: Option<Instant>,
    /// Where the log stood when its leaving was first seen.
    left: Option<MetadataOffset>,
    /// And when it was first seen to be active, since it was last fenced.
    taken_in: Option<MetadataOffset>,
}

// === impl Liveness ===

impl Liveness {
    /// Brokers that are not heard from for `session_timeout` are fenced.
    pub const fn new(session_timeout: Duration) -> Self {
        Self {
            session_timeout,
            clock_offset_max: None,
            wall: WallAnchor::told(0),
            leads: None,
            knows_earlier: false,
            sessions: BTreeMap::new(),
            fencing: BTreeMap::new(),
            gone: BTreeMap::new(),
            connections: 0,
        }
    }

    /// And nobody is taken in whose wall clock is further than `max` from this node's, or not compared yet.
    #[must_use]
    pub const fn with_clocks_within(mut self, max: Duration) -> Self {
        self.clock_offset_max = Some(max);
        self
    }

    /// This node leads in `term`, or does not lead.
    pub fn lead(&mut self, term: Option<u64>, now: Instant) {
        if term == self.leads.map(|(term, _)| term) {
            return;
        }
        self.leads = term.map(|term| (term, now));
        self.knows_earlier = false;
        self.sessions.clear();
        self.fencing.clear();
        self.gone.clear();
    }

    /// How this node's wall clock stands now: before whatever asks about clocks.
    pub const fn own_clock(&mut self, wall: WallAnchor) {
        self.wall = wall;
    }

    /// Whether this node leads.
    pub const fn leads(&self) -> bool {
        self.leads.is_some()
    }

    /// Brokers that are to be there and have not dialled since this node leads, though they have had
    /// the time, each in the run that is looked for.
    pub fn missing(&self, image: &MetadataImage, now: Instant) -> Vec<(BrokerId, BrokerEpoch)> {
        let dialled = |broker: &Broker| {
            let session = self.sessions.get(&broker.id);
            session.is_some_and(|session| session.said.epoch == broker.epoch)
        };
        let is_missing = |broker: &Broker| {
            broker.presence != Presence::Fenced
                && !dialled(broker)
                && self.gone.get(&broker.id) != Some(&broker.epoch)
        };
        match self.leads {
            Some((_, since)) if now.duration_since(since) >= REDIAL_GRACE => {
                let missing = image.brokers().filter(|broker| is_missing(broker));
                missing.map(|broker| (broker.id, broker.epoch)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Nobody listens where a missing broker was, as `term` saw it.
    pub fn found_gone(&mut self, broker: BrokerId, epoch: BrokerEpoch, term: u64) {
        if self.leads.is_some_and(|(led, _)| led == term) {
            self.gone.insert(broker, epoch);
        }
    }

    /// The term in which this node leads.
    pub fn term(&self) -> Option<u64> {
        self.leads.map(|(term, _)| term)
    }

    /// The term in which this node leads, and may not know yet what the leader before has decided.
    pub fn term_to_catch_up(&self) -> Option<u64> {
        self.term().filter(|_| !self.knows_earlier)
    }

    /// All that was decided before `term` is in the image from now on.
    pub fn caught_up(&mut self, term: u64) {
        self.knows_earlier |= self.term() == Some(term);
    }

    /// For how long from the sending of its last heartbeat nobody will lead in a broker's place; zero:
    /// not said. `image` is to be no older than this call.
    ///
    /// The broker has to be active and about to stay so, and know of everything that was taken from it
    /// while it was not: what is moved away from one that is active leaves it in the ISR, and commits
    /// nothing that it has not agreed to.
    pub fn lease(&mut self, image: &MetadataImage, id: BrokerId) -> Duration {
        if image.feature_level() < FeatureLevel::V2 {
            return if self.leads() { self.session_timeout } else { Duration::ZERO };
        }
        let is_active = |said: &Heartbeat| {
            let broker = image.broker(id).filter(|broker| broker.epoch == said.epoch);
            broker.is_some_and(|broker| broker.presence == Presence::Active) && !said.wants_to_stop
        };
        let session = self.sessions.get_mut(&id).filter(|session| is_active(&session.said));
        let Some(session) = session else { return Duration::ZERO };
        let taken_in = *session.taken_in.get_or_insert_with(|| image.offset());
        let knows = self.knows_earlier && session.said.applied >= taken_in;
        if knows && !self.fencing.contains_key(&id) {
            self.session_timeout * LEASE.0 / LEASE.1
        } else {
            Duration::ZERO
        }
    }

    /// What everybody is told of the clocks of those that are heard.
    pub fn clocks(&self, image: &MetadataImage, now: Instant) -> ClocksTold {
        let takes_part = |broker: &&Arc<Broker>| broker.presence != Presence::Fenced;
        let taking_part = image.brokers().filter(takes_part).count();
        let clocks = self.judge_clocks(now);
        clocks.map_or_else(ClocksTold::default, |clocks| clocks.told(taking_part))
    }

    fn judge_clocks(&self, now: Instant) -> Option<Clocks> {
        let is_heard = |session: &&Session| !session.is_over(self.session_timeout, now);
        let heard = self.sessions.values().filter(is_heard);
        let compared = heard
            .filter_map(|Session { said, .. }| Some((said.broker, said.clock?.as_of(self.wall))));
        self.clock_offset_max.map(|max| Clocks::judge(compared, max))
    }

    /// A broker dialled; names the connection.
    pub fn dialled(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    /// A heartbeat came over a connection.
    pub fn heard(&mut self, said: Heartbeat, connection: u64, now: Instant) {
        let before = self.sessions.get(&said.broker);
        if before.is_some_and(|before| before.said.epoch > said.epoch) {
            return; // Of an earlier run.
        }
        let before = before.filter(|before| before.said.epoch == said.epoch);
        let left = before.and_then(|before| before.left);
        let taken_in = before.and_then(|before| before.taken_in);
        let session = Session { said, heard: now, connection, closed: None, left, taken_in };
        self.sessions.insert(said.broker, session);
    }

    /// A connection has ended.
    pub fn closed(&mut self, broker: BrokerId, connection: u64, now: Instant) {
        if let Some(session) = self.sessions.get_mut(&broker)
            && session.connection == connection
        {
            session.closed.get_or_insert(now);
        }
    }

    /// What has to change, as the cluster stands in `image`.
    pub fn decide(&mut self, image: &MetadataImage, now: Instant) -> Vec<SetPresence> {
        let Some((_, since)) = self.leads else { return Vec::new() };
        // Below that level there is one broker, and nobody to take its place.
        if image.feature_level() < FeatureLevel::V2 {
            return Vec::new();
        }
        self.sessions.retain(|id, _| image.broker(*id).is_some());
        let timeout = self.session_timeout;
        // What was not made for so long was refused: an undecided proposal ends with the term.
        self.fencing.retain(|id, since| {
            let stands = image.broker(*id).is_some_and(|b| b.presence != Presence::Fenced);
            stands && now.duration_since(*since) < timeout
        });
        let clocks = self.judge_clocks(now);
        let mut changes = Vec::new();
        for broker in image.brokers() {
            let session = self.sessions.get_mut(&broker.id);
            let mut session = session.filter(|session| session.said.epoch == broker.epoch);
            if let Some(session) = &mut session
                && broker.presence == Presence::Fenced
            {
                session.taken_in = None;
            }
            let next = match &session {
                None if now.duration_since(since) >= timeout => Presence::Fenced,
                None if self.gone.get(&broker.id) == Some(&broker.epoch) => Presence::Fenced,
                None => broker.presence,
                Some(session) => session.presence(broker, clocks.as_ref(), timeout, now),
            };
            if next != broker.presence {
                let (id, broker_epoch) = (broker.id, broker.epoch);
                changes.push(SetPresence { broker: id, broker_epoch, presence: next });
                if next == Presence::Fenced {
                    self.fencing.insert(id, now);
                }
            } else if next == Presence::Leaving
                && let Some(session) = session
            {
                session.left.get_or_insert(image.offset());
            }
        }
        changes
    }

    /// Whether a broker that wants to stop may: it leads nothing that another could lead, and every
    /// other broker has heard of that.
    pub fn may_stop(&self, image: &MetadataImage, id: BrokerId) -> bool {
        let Some(session) = self.sessions.get(&id) else { return false };
        if image.feature_level() < FeatureLevel::V2 {
            return true;
        }
        let is_leaving = image.broker(id).is_some_and(|b| b.presence == Presence::Leaving);
        let Some(left) = session.left.filter(|_| is_leaving) else { return false };
        let mut others = image.brokers().filter(|b| b.id != id && b.presence == Presence::Active);
        others.all(|other| {
            self.sessions.get(&other.id).is_some_and(|other| other.said.applied >= left)
        })
    }
}

// === impl Session ===

impl Session {
    /// Silent for too long, or hung up.
    fn is_over(&self, timeout: Duration, now: Instant) -> bool {
        let hung_up = self.closed.is_some_and(|closed| now.duration_since(closed) >= REDIAL_GRACE);
        hung_up || now.duration_since(self.heard) >= timeout
    }

    fn presence(
        &self,
        broker: &Broker,
        clocks: Option<&Clocks>,
        timeout: Duration,
        now: Instant,
    ) -> Presence {
        if self.is_over(timeout, now) {
            return Presence::Fenced;
        }
        let clock_is_right =
            || clocks.is_none_or(|clocks| self.said.clock.is_some() && clocks.admit(broker.id));
        let registered = u64::try_from(broker.epoch.get()).unwrap_or(u64::MAX);
        match broker.presence {
            Presence::Active if self.said.wants_to_stop => Presence::Leaving,
            // A closed connection is a doubt: nobody is taken in on it.
            Presence::Fenced
                if self.said.applied.get() >= registered
                    && !self.said.wants_to_stop
                    && self.closed.is_none()
                    && clock_is_right() =>
            {
                Presence::Active
            }
            as_it_is => as_it_is,
        }
    }
}

#[cfg(test)]
#[path = "liveness_test.rs"]
mod tests;
