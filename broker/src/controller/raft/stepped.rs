//! A node that is driven step by step, with the log it writes: what runs where there are no threads.
//!
//! [`RaftQuorum`](super::RaftQuorum) is this node between two threads. Whoever simulates whole
//! brokers calls it himself: gives it time, messages and requests, takes what is to be done, and
//! decides when the disk gets to its write. Nothing of the protocol, the log or its recovery is
//! another than the broker's.

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use riverrun_proto::ids::ClusterId;

use super::{
    membership::{ChangeError, Step},
    node::Node,
    quorum::{RaftOptions, Voters},
    types::{Answer, NodeStats, Ticket},
    writes::{Write, Written},
};
use crate::{
    controller::{
        error::{OpenError, QuorumError},
        frame::{EntryKind, Voter, VoterId},
        quorum::{Judged, Leader},
        store::{Identity, MetaStore},
    },
    io::{Disk, Failure},
    metadata::{Command, Delta, MetadataImage, record},
};

/// See the module.
pub struct SteppedNode {
    node: Node,
    store: MetaStore,
    write: Option<Write>,
    written: Option<Written>,
    found: Found,
    snapshot: Arc<MetadataImage>,
}

/// What an opened log held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Entries after the snapshot.
    pub entries: usize,
    /// A group at its end was torn, and cut off.
    pub torn: bool,
}

/// What is to be done since the last time, in this order.
#[derive(Debug, Default)]
pub struct StepOutputs {
    /// To be sent; they may be lost, doubled and overtaken.
    pub messages: Vec<(VoterId, Bytes)>,
    /// A write waits for [`SteppedNode::perform`]. There is one at a time.
    pub wants_write: bool,
    /// What was applied: the image after it, and what changed.
    pub applied: Vec<(Arc<MetadataImage>, Vec<Delta>)>,
    /// Answers to requests, by the ticket they were made with.
    pub answers: Vec<(u64, StepAnswer)>,
}

/// What became of a request.
#[derive(Debug)]
pub enum StepAnswer {
    /// Of a command.
    Proposed(Result<Judged, QuorumError>),
    /// Of a change of voters.
    Changed(Result<(), ChangeError>),
}

// === impl SteppedNode ===

impl SteppedNode {
    /// Makes the log of the first node of a cluster, in a data directory that has none.
    pub fn found(
        disk: &dyn Disk,
        data_dir: &Path,
        cluster: ClusterId,
        me: Voter,
        failure: &Failure,
    ) -> Result<(), OpenError> {
        let identity = Identity { cluster, node: me.node, directory: me.directory };
        MetaStore::format(disk, data_dir, identity, failure)
    }

    /// Makes the log of a node that is to join a cluster.
    pub fn prepare(
        disk: &dyn Disk,
        data_dir: &Path,
        cluster: ClusterId,
        failure: &Failure,
    ) -> Result<(), OpenError> {
        MetaStore::format_joining(disk, data_dir, cluster, failure)
    }

    /// Opens the log of a data directory and recovers what it has. Of the options, the tick is the
    /// caller's, and there is no inbox.
    pub fn open(
        disk: Arc<dyn Disk>,
        data_dir: &Path,
        me: Voter,
        failure: &Failure,
        seed: u64,
        options: &RaftOptions,
    ) -> Result<Self, OpenError> {
        let (store, recovered) = MetaStore::open(disk, data_dir, failure)?;
        let found = Found { entries: recovered.entries.len(), torn: recovered.torn };
        let snapshot = Arc::new(recovered.image.clone());
        let node = Node::new(me, &store, recovered, options.node(seed));
        Ok(Self { node, store, write: None, written: None, found, snapshot })
    }

    // --- what comes in ---

    /// One tick has passed.
    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// A peer's message. What cannot be read is dropped, as the broker does.
    pub fn receive(&mut self, message: &[u8]) {
        if let Ok(message) = Message::parse_from_bytes(message) {
            self.node.step(message);
        }
    }

    /// Somebody wants a command in the log.
    ///
    /// # Errors
    /// It is too large to be one.
    pub fn propose(&mut self, ticket: u64, command: &Command) -> Result<(), QuorumError> {
        self.node.propose(Ticket(ticket), record::encode(command)?);
        Ok(())
    }

    /// Somebody wants other voters.
    pub fn change(&mut self, ticket: u64, steps: &[Step]) {
        self.node.change(Ticket(ticket), steps);
    }

    /// The lead is to go to another voter.
    pub fn transfer(&mut self, to: VoterId) {
        self.node.transfer(to);
    }

    /// The disk carries out the write that waits, as far as it gets. The node hears of it from
    /// [`finish`](Self::finish).
    pub fn perform(&mut self) {
        if let Some(write) = self.write.take() {
            self.written = Some(write.perform(&mut self.store));
        }
    }

    /// The node is told what became of its write.
    pub fn finish(&mut self) {
        self.perform();
        if let Some(written) = self.written.take() {
            self.node.written(written);
        }
    }

    // --- what comes out ---

    /// What is to be done; to be asked after everything that comes in.
    pub fn outputs(&mut self) -> StepOutputs {
        let outputs = self.node.outputs();
        let wants_write = outputs.write.is_some();
        if wants_write {
            self.write = outputs.write;
        }
        let messages = outputs.messages.iter().filter_map(|message| {
            // As the broker's worker does.
            Some((VoterId(message.to), message.write_to_bytes().ok()?.into()))
        });
        let applied = outputs.applied.into_iter();
        let answers = outputs.answers.into_iter().filter_map(|(Ticket(ticket), answer)| {
            let answer = match answer {
                Answer::Proposed(result) => StepAnswer::Proposed(result),
                Answer::Changed(result) => StepAnswer::Changed(result.map(drop)),
                // Nobody asks to read.
                Answer::Read(_) => return None,
            };
            Some((ticket, answer))
        });
        StepOutputs {
            messages: messages.collect(),
            wants_write,
            applied: applied.map(|applied| (Arc::new(applied.image), applied.deltas)).collect(),
            answers: answers.collect(),
        }
    }

    /// The newest image here.
    pub fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(self.node.raw.store().image())
    }

    /// Who leads, as far as known here.
    pub fn leader(&self) -> Option<Leader> {
        self.node.leader()
    }

    /// The term this node leads in.
    pub fn leads(&self) -> Option<u64> {
        self.node.is_leader().then(|| self.node.raw.raft.term)
    }

    /// Who votes, as far as known here.
    pub fn voters(&self) -> Voters {
        Voters::of(self.node.membership())
    }

    /// Whether no change of voters stands in its log that is not in force yet.
    pub fn is_settled(&self) -> bool {
        let log = self.node.raw.store();
        let coming = log.after(log.applied_mark().index);
        coming.iter().all(|entry| entry.kind != EntryKind::Change)
    }

    /// Why it does no more.
    pub fn stopped(&self) -> Option<String> {
        self.node.stopped().map(ToString::to_string)
    }

    /// What was in its log when it was opened.
    pub fn found_in_log(&self) -> Found {
        self.found
    }

    /// The image it was opened with: the first [`outputs`](Self::outputs) go on from there.
    pub fn snapshot(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.snapshot)
    }

    /// Counters since it was opened.
    pub fn stats(&self) -> NodeStats {
        self.node.stats()
    }
}

impl fmt::Debug for SteppedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SteppedNode")
            .field("leader", &self.node.leader())
            .field("applied", &self.node.image().offset())
            .finish_non_exhaustive()
    }
}

/// A message between nodes in a few words, for a trace.
pub fn describe(message: &[u8]) -> String {
    let Ok(message) = Message::parse_from_bytes(message) else {
        return "unreadable".to_owned();
    };
    let kind = match message.get_msg_type() {
        MessageType::MsgAppend => "append",
        MessageType::MsgAppendResponse => "appended",
        MessageType::MsgHeartbeat => "heartbeat",
        MessageType::MsgHeartbeatResponse => "heard",
        MessageType::MsgRequestPreVote => "may I stand",
        MessageType::MsgRequestPreVoteResponse => "you may stand",
        MessageType::MsgRequestVote => "vote for me",
        MessageType::MsgRequestVoteResponse => "my vote",
        MessageType::MsgSnapshot => "snapshot",
        MessageType::MsgTimeoutNow => "stand at once",
        _ => "other",
    };
    let no = if message.reject { " no" } else { "" };
    let (term, index, commit) = (message.term, message.index, message.commit);
    format!("{kind}{no}, term {term}, at {index}, {} more, commit {commit}", message.entries.len())
}
