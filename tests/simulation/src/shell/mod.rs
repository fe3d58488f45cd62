//! A partition's copy in a broker's process: the shipped log and the shipped protocol, and between
//! them the thin shell that carries out what the protocol says.
//!
//! The shell is the simulator's. As far as `broker/src/partition` goes it does the same in the same
//! order (appending, parking, waiting, log work, flushes); beyond that, where brokers meet, it is the
//! first to do it: subscribing, pushing, appending what was pushed, cutting and beginning anew. It
//! is generic over the protocol's rules, so that they can be broken.
//!
//! | file | what |
//! |---|---|
//! | `producing` | what clients send |
//! | `leading` | pushing to followers |
//! | `following` | taking what is pushed, and cutting what must go |
//! | `working` | slow work of the log |

mod following;
mod leading;
mod producing;
pub mod working;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use riverrun_broker::{
    log::{Log, Read},
    replica::{
        Action, Durability, Event, FollowerView, IsrProposal, Limits, Registration, Replica, Rules,
    },
};
use riverrun_proto::{
    epoch::BrokerEpoch, ids::BrokerId, offset::Offset, record::RecordBatch, timestamp::Timestamp,
};

use self::{
    following::Arrived,
    leading::Sender,
    producing::{Append, Waiter},
    working::Works,
};
use crate::{
    controller::broker_id,
    coverage::Fact,
    message::{Body, Connection, End, Extent, Node},
    mirror::{Entry, Mirror},
    stage::Stage,
};

/// What a shell can reach outside of itself.
#[derive(Debug)]
pub struct Around<'a> {
    /// All that is around the process.
    pub stage: &'a mut Stage,
    /// The process.
    pub me: End,
    /// Its slow work.
    pub works: &'a mut Works,
    /// Its connections to leaders.
    pub uplinks: &'a mut BTreeMap<BrokerId, Connection>,
    /// Its wall clock.
    pub wall: Timestamp,
    /// Where the controller is.
    pub controller: Option<Node>,
}

impl Around<'_> {
    /// Where nobody is known to lead the quorum, a leader asks later, of himself.
    fn tell_controller(&mut self, body: Body) {
        if let Some(controller) = self.controller {
            self.stage.send(self.me.node, controller, body);
        }
    }

    fn send_on(&mut self, connection: Connection, body: Body) {
        self.stage.send_on(connection, self.me.node, body);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Shell<R: Rules> {
    /// Which partition.
    pub partition: usize,
    /// Its log.
    pub log: Log,
    /// Its part in the protocol.
    pub replica: Replica<R>,
    /// What the log is said to hold.
    pub mirror: Mirror,

    // --- producing ---
    parked: VecDeque<Append>,
    waiters: Vec<Waiter>,

    // --- leading ---
    senders: BTreeMap<BrokerId, Sender>,

    // --- following ---
    /// The connection of the session.
    uplink: Option<Connection>,
    /// The frame just given to the protocol.
    given: Option<Arrived>,
    /// The protocol wants it appended.
    append_given: bool,
    /// Frames that came while the log was not ready.
    frames: VecDeque<Arrived>,

    // --- the log's work ---
    /// A cut that failed, to be tried again: where, and whether all goes.
    cut_again: Option<(Offset, bool)>,
    /// Cuts begun so far: what becomes of any but the last no longer matters.
    cuts: u64,
    /// Where the log start is to go.
    next_start: Offset,
    is_deleting: bool,
    stalled: bool,
    /// Pieces of work under way.
    pub works: usize,
    closed: bool,
}

/// By which a new process makes its shells.
#[derive(Debug, Clone, Copy)]
pub struct Make<R> {
    /// The protocol's rules.
    pub rules: R,
    /// This broker.
    pub broker: usize,
    /// The topic's durability.
    pub durability: Durability,
    /// The leader's limits.
    pub limits: Limits,
}

impl<R: Rules> Shell<R> {
    /// Around an opened log, of which everything is read.
    pub fn new(make: &Make<R>, partition: usize, log: Log) -> Result<Self, String> {
        let mirror = Mirror::new(read_all(&log)?.iter().filter_map(Entry::of_batch).collect());
        let ends = (log.log_start_offset(), log.log_end_offset(), log.high_watermark());
        let replica =
            Replica::with_rules(make.rules, broker_id(make.broker), make.durability, ends)
                .with_epochs(log.leader_epochs().history().clone())
                .with_limits(make.limits);
        Ok(Self {
            partition,
            next_start: log.log_start_offset(),
            log,
            replica,
            mirror,
            parked: VecDeque::new(),
            waiters: Vec::new(),
            senders: BTreeMap::new(),
            uplink: None,
            given: None,
            append_given: false,
            frames: VecDeque::new(),
            cut_again: None,
            cuts: 0,
            is_deleting: false,
            stalled: false,
            works: 0,
            closed: false,
        })
    }

    /// The run is registered: nothing has happened before this.
    pub fn begin(&mut self, epoch: BrokerEpoch) {
        self.replica = self.replica.clone().running_as(epoch);
    }

    /// How far the log goes.
    pub fn extent(&self) -> Extent {
        Extent { last_epoch: self.log.last_epoch(), log_end: self.log.log_end_offset() }
    }

    /// The metadata log registers the partition so.
    pub fn registered(&mut self, registration: Registration, around: &mut Around<'_>) {
        self.step(Event::Registered(registration), around);
        self.start_work(around);
    }

    /// Something happened that the protocol is to know, and nothing else.
    pub fn feed(&mut self, event: Event, around: &mut Around<'_>) {
        self.step(event, around);
        self.start_work(around);
    }

    /// The regular look at things.
    pub fn tick(&mut self, around: &mut Around<'_>) {
        self.stalled = false;
        self.log.tick(around.wall);
        self.step(Event::Tick, around);
        self.expire(around);
        self.cut_again(around);
        self.delete_next(around);
        self.drain_parked(around);
        self.drain_frames(around);
        self.push_all(around);
        if around.stage.random.permille(30) {
            self.log.request_checkpoint();
        }
        if let Some(proposal) = self.replica.pending_proposal().cloned() {
            let propose = Body::Propose { partition: self.partition, proposal };
            around.tell_controller(propose);
        }
        self.start_work(around);
    }

    /// A connection is gone.
    pub fn connection_lost(&mut self, connection: Connection, around: &mut Around<'_>) {
        if self.uplink == Some(connection) {
            self.uplink = None;
            self.session_lost(around);
        }
        self.sender_lost(connection, around);
        self.start_work(around);
    }

    /// Feeds the protocol and carries out what it says, in order.
    fn step(&mut self, event: Event, around: &mut Around<'_>) {
        let before = self.replica.high_watermark();
        let mut actions = Vec::new();
        self.replica.step(around.stage.now(), event, &mut actions);
        for action in actions {
            self.carry_out(action, before, around);
        }
        if std::mem::take(&mut self.append_given) {
            self.append_arrived(around);
        }
    }

    fn carry_out(&mut self, action: Action, before: Offset, around: &mut Around<'_>) {
        let ledger = &mut around.stage.ledgers[self.partition];
        match action {
            Action::StartEpoch { epoch, start } => {
                let begun = ledger.begin_term(epoch, around.me);
                if start != self.log.log_end_offset() {
                    around.stage.fail("S9: an epoch starts elsewhere than at the log's end");
                }
                self.check(begun, around);
                self.log.note_epoch(epoch);
                self.forget_frames();
            }
            Action::Resign { .. } => {
                self.log.forget_unwritten_epoch();
                self.refuse_waiters(&self.not_leader(true), around);
            }
            Action::RefuseWaiting { isr, min_isr } => self.refuse_for_isr(isr, min_isr, around),
            Action::AdvanceHighWatermark(end) => self.note_committed(end, around),
            Action::Acknowledge(end) => self.acknowledge(end, around),
            Action::HoldAppends => around.stage.note(Fact::Held),
            Action::ResumeAppends => self.drain_parked(around),
            Action::Append => self.append_given = true,
            Action::Truncate { to } => {
                if to < before {
                    around.stage.fail(format!("S9: cut to {to}, below what is committed"));
                }
                self.cut(to, false, around);
            }
            Action::Restart { at } => self.cut(at, true, around),
            Action::AdvanceLogStart(to) => self.advance_log_start(to, around),
            Action::Serve { follower, session, from } => {
                self.serve(follower, session, from, around);
            }
            Action::Reply { follower, frame } => self.reply(follower, frame, around),
            Action::EndSession { follower, session } => {
                self.end_session(follower, session, around);
            }
            Action::WakeSenders => self.push_all(around),
            Action::ShareProgress => self.share_progress(around),
            Action::Subscribe(subscribe) => self.subscribe(subscribe, around),
            Action::Ack(ack) => {
                if let Some(uplink) = self.uplink {
                    around.send_on(uplink, Body::Ack { partition: self.partition, ack });
                }
            }
            Action::Unsubscribe(session) => self.unsubscribe(session, around),
            Action::ProposeIsr(proposal) => {
                self.note_whom_it_lets_go(&proposal, around);
                let propose = Body::Propose { partition: self.partition, proposal };
                around.tell_controller(propose);
            }
        }
        around.stage.is_dirty = true;
    }

    fn note_whom_it_lets_go(&self, proposal: &IsrProposal, around: &mut Around<'_>) {
        let lag_max = around.stage.setup.lag_time_max;
        let is_let_go = |follower: &FollowerView| {
            follower.behind_for.is_some_and(|behind_for| behind_for <= lag_max)
        };
        if self.replica.leaving(around.stage.now(), proposal).iter().any(is_let_go) {
            around.stage.note(Fact::LetGo);
        }
    }

    /// S4, S6, S12: what a leader calls committed is that from now on; a follower calls nothing so
    /// that no leader has.
    fn note_committed(&mut self, end: Offset, around: &mut Around<'_>) {
        self.log.note_high_watermark(end);
        let ledger = &mut around.stage.ledgers[self.partition];
        let outcome = match (self.replica.leads(), self.replica.registration()) {
            (Some(_), Some(registration)) => {
                if registration.isr.len() < registration.effective_min_isr() {
                    Err("S6: committed below min.insync.replicas".to_owned())
                } else {
                    ledger.commit(&self.mirror, end)
                }
            }
            _ if end > ledger.end() => {
                Err(format!("S12: a follower shows {end}, committed is {}", ledger.end()))
            }
            _ => Ok(()),
        };
        self.check(outcome, around);
    }

    fn check(&self, outcome: Result<(), String>, around: &mut Around<'_>) {
        if let Err(law) = outcome {
            let at = around.me;
            around.stage.fail(format!("{law} (p{} at {at:?})", self.partition));
        }
    }
}

/// All batches of a log, from its start.
pub fn read_all(log: &Log) -> Result<Vec<Bytes>, String> {
    let (reader, end) = (log.reader(), log.log_end_offset());
    let (mut from, mut all) = (log.log_start_offset(), Vec::new());
    while from < end {
        let read = match reader.read(from, end, 1 << 20) {
            Ok(Read::Cold(cold)) => cold.run(),
            Ok(Read::Batches(batches)) => Ok(batches),
            Ok(Read::Empty) => return Err(format!("nothing at {from}, the log ends at {end}")),
            Err(error) => Err(error),
        };
        let read = read.map_err(|error| format!("reading at {from}: {error}"))?;
        for batch in read.batches {
            let checked = RecordBatch::parse_stored(batch.clone());
            checked.map_err(|error| format!("a batch at {from}: {error}"))?;
            all.push(batch);
        }
        from = read.next_offset;
    }
    Ok(all)
}
