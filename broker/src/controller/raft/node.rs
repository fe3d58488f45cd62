//! A node of the quorum, without I/O: what comes in changes its state, what is to be done comes out.
//!
//! ```text
//!   tick, message, proposal, read, change of voters, finished write
//!        │
//!        ▼
//!      Node ── RawNode (Raft) ── Log (entries, image, who votes)
//!        │
//!        ▼
//!   messages, a write, answers, changes of the image, who leads
//! ```
//!
//! No clock, no thread, no disk, no randomness but a seed: the same inputs make the same outputs, so
//! what runs in the broker is what runs in the simulation. After every input the caller takes
//! [`Node::outputs`] and does, in this order: sends the messages, hands the write to the disk, and
//! publishes and answers the rest.
//!
//! # Laws
//! * What a message promises is on the disk before it leaves ([`writes`](super::writes)).
//! * An entry is applied once it is committed *and* on this node's disk, in order, once.
//! * What this node cannot understand (an entry or snapshot of a newer version, its own lost
//!   entries) stops it; it does not guess ([`Stop`]).

use bytes::Bytes;
use raft::{
    Config, INVALID_ID, RawNode, Ready, StateRole,
    eraftpb::{Message, MessageType},
};
use riverrun_proto::ids::BrokerId;

use super::{
    barriers::Barriers,
    log::{self, Log},
    membership::{ChangeError, Step},
    mutation::Mutation,
    proposals::{Kind, Logged, Proposals, Waiting},
    trace,
    types::{Answer, NodeOptions, NodeStats, Outputs, Stop, Ticket},
    writes::{Settled, Writes, Written, entry_cost},
};
use crate::{
    controller::{
        error::QuorumError,
        frame::{HardState, Mark, Membership, Voter, VoterId},
        quorum::Leader,
        store::{Checkpoint, MetaStore, Recovered},
    },
    metadata::MetadataImage,
};

/// Bytes of entries in one message to a peer, and how many messages may be under way to it.
const MESSAGE_BYTES_MAX: u64 = 256 * 1024;
const MESSAGES_IN_FLIGHT_MAX: usize = 64;

/// See the module.
pub(super) struct Node {
    pub(super) raw: RawNode<Log>,
    pub(super) me: Voter,
    pub(super) options: NodeOptions,
    pub(super) writes: Writes,
    pub(super) proposals: Proposals,
    pub(super) barriers: Barriers,
    pub(super) outputs: Outputs,
    pub(super) stopped: Option<Stop>,
    /// Place of the newest snapshot on the disk, or on its way there.
    pub(super) snapshot: Mark,
    /// Ticks that each peer has been waiting for a snapshot to arrive.
    pub(super) snapshots_sent: Vec<(u64, u32)>,
    pub(super) stats: NodeStats,
}

// === impl Node ===

impl Node {
    /// A node over what its disk has. A voter that is alone leads when this returns, once its first
    /// write is done.
    pub(super) fn new(
        me: Voter,
        store: &MetaStore,
        recovered: Recovered,
        options: NodeOptions,
    ) -> Self {
        let (snapshot, hard_state) = (store.snapshot(), store.hard_state());
        let log = Log::new(recovered, snapshot, store.membership().clone(), hard_state);
        let election = options.election_ticks as usize;
        let config = Config {
            id: me.id.0,
            applied: snapshot.index,
            election_tick: election,
            heartbeat_tick: options.heartbeat_ticks as usize,
            check_quorum: true,
            pre_vote: true,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            ..Config::default()
        };
        let raw = RawNode::new(&config, log, &trace::logger(me.node))
            .expect("the log was checked when it was read, the configuration is valid");
        let mut node = Self {
            raw,
            me,
            options,
            writes: Writes::new(hard_state, store.room(), options.planted),
            proposals: Proposals::default(),
            barriers: Barriers::new(options.seed, options.planted),
            outputs: Outputs::default(),
            stopped: None,
            snapshot,
            snapshots_sent: Vec::new(),
            stats: NodeStats::default(),
        };
        node.advance();
        if node.is_alone() {
            // Nobody else could be elected, so there is nobody to wait for.
            let _ = node.raw.campaign();
            node.advance();
        }
        node
    }

    // --- inputs ---

    /// Time goes on.
    pub(super) fn tick(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        self.writes.tick();
        // A voter that is alone wins as it stands; Raft wants its log to be on the disk by then. And
        // nobody stands for election with a snapshot that is not on the disk.
        let unfit = self.writes.installing() || (self.is_alone() && !self.writes.is_idle());
        if self.is_leader() || !unfit {
            self.raw.tick();
        }
        for ticket in self.barriers.tick() {
            self.answer(ticket, Answer::Read(Err(self.not_leader())));
        }
        let patience = self.options.election_ticks * 2;
        if self.proposals.tick(self.is_leader(), patience) {
            self.give_up_logged(u64::MAX, "this node no longer leads the metadata quorum");
        }
        self.watch_snapshots();
        self.leave_joint();
        self.advance();
    }

    /// A peer says something.
    pub(super) fn step(&mut self, message: Message) {
        if self.stopped.is_some() {
            return;
        }
        if message.to != self.me.id.0 {
            // For a disk that was here before, or was never here.
            self.stats.messages_refused += 1;
            return;
        }
        let kind = message.get_msg_type();
        if kind == MessageType::MsgSnapshot
            && let Err(why) = log::read_snapshot(message.get_snapshot())
        {
            self.stats.snapshots_refused += 1;
            tracing::error!(%why, "a snapshot of the metadata leader cannot be used");
            return;
        }
        if kind == MessageType::MsgTimeoutNow && self.writes.installing() {
            self.stats.messages_refused += 1;
            return;
        }
        let last = self.raw.raft.raft_log.last_index();
        if kind == MessageType::MsgHeartbeat
            && message.term >= self.raw.raft.term
            && message.commit > last
        {
            // A leader tells nobody of more than that one has acknowledged.
            self.stop(Stop::LostEntries { acknowledged: message.commit, last });
            return;
        }
        if self.raw.step(message).is_err() {
            self.stats.messages_refused += 1;
        }
        self.advance();
    }

    /// Somebody wants a command in the log.
    pub(super) fn propose(&mut self, ticket: Ticket, record: Bytes) {
        if let Some(stop) = &self.stopped {
            let error = stop.refusal();
            self.answer(ticket, Answer::Proposed(Err(error)));
            return;
        }
        self.proposals.waiting.push_back(Waiting { ticket, record });
        self.advance();
    }

    /// Somebody wants to read.
    pub(super) fn read(&mut self, ticket: Ticket) {
        if let Some(stop) = &self.stopped {
            let error = stop.refusal();
            self.answer(ticket, Answer::Read(Err(error)));
            return;
        }
        self.barriers.ask(ticket, self.options.election_ticks * 2);
        self.advance();
    }

    /// Somebody wants other voters.
    pub(super) fn change(&mut self, ticket: Ticket, steps: &[Step]) {
        match self.propose_change(steps) {
            Ok(index) => {
                let term = self.raw.raft.term;
                let waits = Logged { ticket, term, kind: Kind::Change };
                self.log_proposal(index, waits);
            }
            Err(error) => self.answer(ticket, Answer::Changed(Err(error))),
        }
        self.advance();
    }

    /// This node is to hand the lead to another voter. Whether it comes to that, the future shows.
    pub(super) fn transfer(&mut self, to: VoterId) {
        if self.stopped.is_none() {
            self.raw.transfer_leader(to.0);
            self.advance();
        }
    }

    /// The disk is done with the last write.
    pub(super) fn written(&mut self, written: Written) {
        if self.stopped.is_some() {
            return;
        }
        match self.writes.written(written) {
            Ok(settled) => self.settled(settled),
            Err(failed) => return self.stop(failed.into()),
        }
        self.advance();
    }

    // --- outputs ---

    /// What is to be done since the last time.
    pub(super) fn outputs(&mut self) -> Outputs {
        let mut outputs = std::mem::take(&mut self.outputs);
        if self.stopped.is_none() {
            let raft = &self.raw.raft;
            let (term, vote, commit) = (raft.term, VoterId(raft.vote), raft.raft_log.committed);
            let log = self.raw.store();
            let now = || {
                let mark = log.applied_mark();
                let membership = Membership { at: mark, ..log.membership().clone() };
                let hard_state = HardState { term, vote, commit };
                let entries = log.after(mark.index);
                (Checkpoint { mark, membership, hard_state, entries }, log.image().clone())
            };
            outputs.write = self.writes.next(&now);
        }
        outputs
    }

    /// Who leads, as far as this node knows.
    pub(super) fn leader(&self) -> Option<Leader> {
        if self.stopped.is_some() || self.is_forsaken() {
            return None;
        }
        let id = VoterId(self.raw.raft.leader_id);
        let node = if id == self.me.id { Some(self.me.node) } else { self.node_of(id) };
        node.map(|node| Leader { node, term: self.raw.raft.term })
    }

    pub(super) fn image(&self) -> &MetadataImage {
        self.raw.store().image()
    }

    pub(super) fn membership(&self) -> &Membership {
        self.raw.store().membership()
    }

    pub(super) fn stopped(&self) -> Option<&Stop> {
        self.stopped.as_ref()
    }

    pub(super) fn stats(&self) -> NodeStats {
        let log = self.raw.store();
        NodeStats {
            truncations: log.truncations(),
            log_bytes: log.bytes(),
            unwritten_bytes: self.writes.waiting_bytes(),
            ..self.stats
        }
    }

    pub(super) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader && self.stopped.is_none()
    }

    // --- what follows from them ---

    /// Brings everything forward that can be.
    fn advance(&mut self) {
        loop {
            if self.stopped.is_some() {
                return;
            }
            if self.planted(Mutation::ApplyBeforeCommit) && self.is_leader() {
                let own = self.raw.raft.raft_log.persisted;
                self.raw.raft.raft_log.commit_to(own);
            }
            if self.can_ask()
                && let Some(context) = self.barriers.begin(self.options.heartbeat_ticks * 2)
            {
                self.raw.read_index(context);
            }
            self.admit();
            if !self.raw.has_ready() {
                break;
            }
            let ready = self.raw.ready();
            self.take(ready);
        }
        for ticket in self.barriers.applied(self.raw.store().applied_mark().index) {
            let offset = self.image().offset();
            self.answer(ticket, Answer::Read(Ok(offset)));
        }
        self.choose_election_timeout();
        self.checkpoint_if_due();
    }

    /// Nobody leads whom this node hears. A voter stands for election then, and forgets who led; who does
    /// not vote goes on believing in the last leader, whose quorum may have forgotten it.
    fn is_forsaken(&self) -> bool {
        let raft = &self.raw.raft;
        !raft.promotable() && raft.pass_election_timeout()
    }

    /// Raft will answer a round of reads. It drops those that come to a leader that has committed
    /// nothing in its term yet, and those for which there is no leader; a round begun then would be
    /// begun again only ticks later, most of the time a broker alone takes to start.
    fn can_ask(&self) -> bool {
        let raft = &self.raw.raft;
        if self.is_leader() { raft.commit_to_current_term() } else { raft.leader_id != INVALID_ID }
    }

    fn take(&mut self, mut ready: Ready) {
        let leading = ready.take_messages();
        if ready.ss().is_some_and(|soft| soft.raft_state == StateRole::Leader) {
            self.stats.elections_won += 1;
        }
        for read in ready.take_read_states() {
            self.barriers.answered(&read.request_ctx, read.index);
        }
        if !ready.snapshot().is_empty() {
            self.install(&ready);
        }
        let entries = ready.take_entries();
        let stored = entries.iter().map(log::from_raft).collect();
        self.raw.mut_store().append(entries);
        let hard_state = log::from_raft_state(&self.raw.raft.hard_state());
        self.writes.add(ready.number(), hard_state, stored, ready.take_persisted_messages());
        self.outputs.messages.extend(self.writes.leading(leading));
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);
        self.apply_all(&committed);
        if self.stopped.is_none() {
            let settled = self.writes.settle(Settled::default());
            self.settled(settled);
        }
    }

    fn settled(&mut self, settled: Settled) {
        self.outputs.messages.extend(settled.messages);
        if let Some(number) = settled.durable {
            self.raw.on_persist_ready(number);
        }
        if !self.writes.installing() {
            self.raw.advance_apply_to(self.raw.store().applied_mark().index);
        }
        if settled.replaced {
            self.stats.snapshots_made += 1;
            let keep = self.options;
            self.raw.mut_store().compact(
                self.snapshot.index,
                keep.keep_entries,
                keep.snapshot_bytes,
            );
        }
        if settled.no_room {
            self.stats.disk_full += self.proposals.waiting.len() as u64;
            while let Some(waiting) = self.proposals.waiting.pop_front() {
                self.answer(waiting.ticket, Answer::Proposed(Err(QuorumError::StorageFull)));
            }
        }
    }

    /// Puts what waits into the log, as far as there is room.
    fn admit(&mut self) {
        while let Some(next) = self.proposals.waiting.front() {
            if !self.is_leader() {
                let error = self.not_leader();
                let ticket = next.ticket;
                self.proposals.waiting.pop_front();
                self.answer(ticket, Answer::Proposed(Err(error)));
                continue;
            }
            let cost = entry_cost(next.record.len());
            // What Raft has taken and not yet handed over takes room as well.
            let unstable = self.raw.raft.raft_log.unstable_entries();
            let taken: u64 = unstable.iter().map(|entry| entry_cost(entry.data.len())).sum();
            if cost + taken > self.writes.room() {
                if taken == 0 {
                    self.writes.ask_for_room(cost);
                }
                return;
            }
            let Some(Waiting { ticket, record }) = self.proposals.waiting.pop_front() else {
                return;
            };
            if self.raw.propose(Vec::new(), record.to_vec()).is_err() {
                // The lead is being handed over.
                let error = QuorumError::NotLeader { leader: self.transferee() };
                self.answer(ticket, Answer::Proposed(Err(error)));
                continue;
            }
            let (index, term) = (self.raw.raft.raft_log.last_index(), self.raw.raft.term);
            self.log_proposal(index, Logged { ticket, term, kind: Kind::Command });
        }
    }

    fn log_proposal(&mut self, index: u64, waits: Logged) {
        // Whoever waits for an entry that was there before: it is gone for good only when another is
        // committed in its place, and that is not certain yet.
        if let Some(before) = self.proposals.logged(index, waits) {
            self.unknown(before, "another leader's entry took its place");
        }
    }

    fn checkpoint_if_due(&mut self) {
        let log = self.raw.store();
        let applied = log.applied_mark();
        let since = applied.index - self.snapshot.index;
        let bytes_due = log.bytes() > self.options.snapshot_bytes.saturating_mul(2);
        if since >= self.options.snapshot_entries || (bytes_due && since > 0) {
            self.writes.checkpoint();
            self.snapshot = applied;
        }
    }

    /// The crate draws election timeouts from the thread's generator; ours follow from the seed. Set
    /// after every input, before a tick could look at the other.
    fn choose_election_timeout(&mut self) {
        let raft = &mut self.raw.raft;
        let least = u64::from(self.options.election_ticks);
        let mut x = self.options.seed
            ^ self.me.id.0.rotate_left(17)
            ^ raft.term.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let timeout = least + (x ^ (x >> 31)) % least;
        raft.set_randomized_election_timeout(usize::try_from(timeout).expect("below 2^33 ticks"));
    }

    pub(super) fn stop(&mut self, stop: Stop) {
        tracing::error!(%stop, "this node of the metadata quorum stops");
        let refusal = stop.refusal();
        self.give_up_logged(u64::MAX, &stop.to_string());
        while let Some(waiting) = self.proposals.waiting.pop_front() {
            self.answer(waiting.ticket, Answer::Proposed(Err(refusal.clone())));
        }
        for ticket in self.barriers.give_up() {
            self.answer(ticket, Answer::Read(Err(refusal.clone())));
        }
        // Nothing leaves that the disk does not stand for.
        self.outputs.messages.clear();
        self.stopped = Some(stop);
    }

    /// Those in the log up to `index` are told that nobody knows.
    pub(super) fn give_up_logged(&mut self, index: u64, why: &str) {
        for waits in self.proposals.take_up_to(index.min(u64::MAX - 1)) {
            self.unknown(waits, why);
        }
    }

    pub(super) fn unknown(&mut self, waits: Logged, why: &str) {
        let answer = match waits.kind {
            Kind::Command => Answer::Proposed(Err(QuorumError::OutcomeUnknown(why.to_owned()))),
            Kind::Change => Answer::Changed(Err(ChangeError::OutcomeUnknown(why.to_owned()))),
        };
        self.answer(waits.ticket, answer);
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.outputs.answers.push((ticket, answer));
    }

    pub(super) fn not_leader(&self) -> QuorumError {
        QuorumError::NotLeader { leader: self.leader_node() }
    }

    /// The node that leads; not this one, if it was asked because it does not.
    pub(super) fn leader_node(&self) -> Option<BrokerId> {
        self.node_of(VoterId(self.raw.raft.leader_id))
    }

    pub(super) fn transferee(&self) -> Option<BrokerId> {
        self.raw.raft.lead_transferee.and_then(|id| self.node_of(VoterId(id)))
    }

    pub(super) fn node_of(&self, id: VoterId) -> Option<BrokerId> {
        self.membership().all().find(|voter| voter.id == id).map(|voter| voter.node)
    }

    /// Whether this node is all there is of the quorum.
    fn is_alone(&self) -> bool {
        let membership = self.membership();
        membership.outgoing.is_empty()
            && matches!(membership.voters.as_slice(), [voter] if voter.id == self.me.id)
    }

    pub(super) fn planted(&self, mutation: Mutation) -> bool {
        self.options.planted.has(mutation)
    }
}

#[cfg(test)]
#[path = "node_test.rs"]
mod tests;
