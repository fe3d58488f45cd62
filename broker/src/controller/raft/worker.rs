//! The two threads of a node: one drives it, the other writes for it.
//!
//! A disk that takes its time holds up what waits for the disk and nothing else: ticks and messages
//! go on, so nobody takes this node for dead. One write is under way at a time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender},
    },
    time::Duration,
};

use protobuf::Message as _;
use tokio::sync::watch;

use super::{
    inbox::{Asked, Input},
    membership::ChangeError,
    node::Node,
    quorum::Shared,
    transport::Transport,
    types::{Answer, Ticket},
    writes::Write,
};
use crate::{
    clock::{Clock, Instant},
    controller::{
        error::QuorumError,
        frame::{Membership, Voter, VoterId},
        quorum::{Judged, Leader},
        store::MetaStore,
    },
    metadata::MetadataOffset,
};

/// Ticks that a node goes on for, once it is to stop, while somebody still waits for an answer.
const LAST_TICKS: u32 = 20;
/// Peers remembered by what they sent, beside those that vote or listen.
const PEERS_MAX: usize = 64;

/// Whom an answer goes to.
#[derive(Debug)]
enum Waiter {
    Proposal(Asked<Result<Judged, QuorumError>>),
    Read(Asked<Result<MetadataOffset, QuorumError>>),
    Change(Asked<Result<Membership, ChangeError>>),
}

/// Drives the node. Dropped, nobody waits for it in vain: who waits is told that nobody knows.
pub(super) struct Worker {
    pub(super) node: Node,
    pub(super) me: Voter,
    pub(super) shared: Arc<Shared>,
    pub(super) disk: SyncSender<Write>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tick: Duration,
    pub(super) leads: watch::Sender<Option<Leader>>,
    pub(super) waiters: Waiters,
}

/// Who waits, by ticket; and who sent something.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    next: u64,
    waiting: BTreeMap<Ticket, Waiter>,
    peers: BTreeMap<VoterId, Voter>,
}

impl Waiters {
    fn add(&mut self, waiter: Waiter) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.waiting.insert(ticket, waiter);
        ticket
    }
}

// === impl Worker ===

impl Worker {
    pub(super) fn run(mut self) {
        self.carry_out();
        let mut next = self.clock.monotonic() + self.tick;
        let mut last_ticks = 0;
        loop {
            let now = self.clock.monotonic();
            let (inputs, closed) = self.shared.inbox.take(next.duration_since(now));
            for input in inputs {
                self.take(input);
                self.carry_out();
            }
            if self.tick_if_due(&mut next) {
                last_ticks += u32::from(closed);
            }
            if closed && (self.waiters.waiting.is_empty() || last_ticks > LAST_TICKS) {
                return;
            }
            if self.node.stopped().is_some() {
                return self.refuse_until_closed();
            }
        }
    }

    /// A machine that was asleep has one tick to catch up on, not all: it heard nobody meanwhile.
    fn tick_if_due(&mut self, next: &mut Instant) -> bool {
        let now = self.clock.monotonic();
        if now < *next {
            return false;
        }
        *next = now + self.tick;
        self.node.tick();
        self.carry_out();
        true
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Message { from, message, .. } => {
                if self.waiters.peers.len() < PEERS_MAX {
                    self.waiters.peers.insert(from.id, from);
                }
                self.node.step(*message);
            }
            Input::Propose { record, asked } => {
                let ticket = self.waiters.add(Waiter::Proposal(asked));
                self.node.propose(ticket, record);
            }
            Input::Read { asked } => {
                let ticket = self.waiters.add(Waiter::Read(asked));
                self.node.read(ticket);
            }
            Input::Change { steps, asked } => {
                let ticket = self.waiters.add(Waiter::Change(asked));
                self.node.change(ticket, &steps);
            }
            Input::Transfer(to) => self.node.transfer(to),
            Input::Written(written) => self.node.written(written),
        }
    }

    /// Does what the node wants done.
    fn carry_out(&mut self) {
        let outputs = self.node.outputs();
        for message in outputs.messages {
            self.send(&message);
        }
        if let Some(write) = outputs.write {
            // The disk's thread has room for one; if it is gone, the node hears nothing more of it.
            let _ = self.disk.send(write);
        }
        for applied in outputs.applied {
            self.shared.publisher.publish(applied.image, applied.deltas);
        }
        for (ticket, answer) in outputs.answers {
            self.answer(ticket, answer);
        }
        let leader = self.node.leader();
        self.leads.send_if_modified(|known| std::mem::replace(known, leader) != leader);
        *self.shared.stats.lock() = self.node.stats();
        *self.shared.membership.lock() = self.node.membership().clone();
    }

    fn send(&self, message: &raft::eraftpb::Message) {
        let to = VoterId(message.to);
        let known = self.node.membership().all().find(|voter| voter.id == to);
        let Some(to) = known.or_else(|| self.waiters.peers.get(&to)) else { return };
        match message.write_to_bytes() {
            Ok(bytes) => self.transport.send(&self.me, to, bytes.into()),
            Err(why) => tracing::error!(%why, "a message to a peer cannot be encoded"),
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        // Whoever asked may have gone; what was done stands all the same. The permit goes first, so
        // that whoever was answered finds room for his next request.
        match (self.waiters.waiting.remove(&ticket), answer) {
            (Some(Waiter::Proposal(Asked { answer, permit })), Answer::Proposed(result)) => {
                drop(permit);
                let _ = answer.send(result);
            }
            (Some(Waiter::Read(Asked { answer, permit })), Answer::Read(result)) => {
                drop(permit);
                let _ = answer.send(result);
            }
            (Some(Waiter::Change(Asked { answer, permit })), Answer::Changed(result)) => {
                drop(permit);
                let _ = answer.send(result);
            }
            (waiter, answer) => tracing::error!(?waiter, ?answer, "an answer to another question"),
        }
    }

    /// The node has stopped for good: whoever comes is told why.
    fn refuse_until_closed(mut self) {
        loop {
            let (inputs, closed) = self.shared.inbox.take(self.tick);
            for input in inputs {
                self.take(input);
                self.carry_out();
            }
            if closed {
                return;
            }
        }
    }
}

/// However the thread ends: requests are not taken any more, and `leads` says that nobody leads.
impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.inbox.close();
        let (left, _) = self.shared.inbox.take(Duration::ZERO);
        drop(left);
        self.leads.send_replace(None);
    }
}

/// Writes until nobody wants anything written.
pub(super) fn write_all(mut store: MetaStore, writes: &Receiver<Write>, shared: &Shared) {
    while let Ok(write) = writes.recv() {
        let written = write.perform(&mut store);
        // Taken also when it is closed.
        let _ = shared.inbox.put(Input::Written(written));
    }
}
