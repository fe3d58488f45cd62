//! What has to be durable, and what waits for that.
//!
//! ```text
//!   ready ─► dirty ──(disk idle)──► in flight ──► written ─► Raft counts it, messages leave
//! ```
//!
//! One write is under way at a time; what comes meanwhile becomes the next, as one frame, with one
//! sync. A message that promises something (a vote, an acknowledgement) is held until everything
//! that was to be written before it is on the disk.
//!
//! **Every frame has the newest commit index.** Raft would allow to forget it. But a node that has a
//! change of voters in its log must, after a restart, know of each earlier one that it is in force,
//! or it would campaign among voters of long ago and win. The leader proposes a change only after the
//! one before is applied, and says so with it; so the commit index that comes with an entry, kept
//! with that entry, is enough.

use std::{collections::VecDeque, sync::Arc};

use raft::eraftpb::Message;

use super::mutation::{Mutation, Planted};
use crate::{
    controller::{
        frame::{Entry, HardState, ITEM_HEAD_BYTES, Item, VoterId},
        store::{Checkpoint, MetaStore},
        wal::AppendError,
    },
    io::failure::Failed,
    metadata::MetadataImage,
};

/// A frame's own bytes and those of a hard state: what a write costs beside its entries.
const FRAME_OVERHEAD_BYTES: u64 = 128;

/// Something for the disk. One at a time; its [`Written`] goes back to the node.
#[derive(Debug)]
pub(super) struct Write {
    number: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Append(Vec<Item>),
    Replace(Checkpoint, Arc<MetadataImage>),
    Reserve(u64),
}

/// What became of a [`Write`].
#[derive(Debug)]
pub(super) struct Written {
    number: u64,
    outcome: Result<u64, AppendError>,
}

/// Where the node stands when a write is made: what a new log file begins with.
pub(super) type Now<'a> = &'a dyn Fn() -> (Checkpoint, Arc<MetadataImage>);

/// See the module.
#[derive(Debug)]
pub(super) struct Writes {
    planted: Planted,
    /// What is to be written, in order.
    dirty: Vec<Item>,
    dirty_bytes: u64,
    /// The hard state that the newest frame has, written or under way.
    hard_state: HardState,
    /// All is to be written anew, behind a snapshot; because the disk's log cannot lead there, or
    /// because it is long.
    replace: Option<Replace>,
    reserve: u64,
    in_flight: Option<InFlight>,
    held: VecDeque<(u64, Vec<Message>)>,
    /// Of the last ready, and of the last that has a new term or vote.
    last: u64,
    promised: u64,
    /// Readies up to here are durable.
    durable: u64,
    /// Raft was told so up to here.
    told: u64,
    /// What the log file has room for, as of the last write.
    room: u64,
    full: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replace {
    /// A leader's snapshot was installed: nothing can be appended before it is written.
    Installed,
    /// The log is long.
    Long,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    items: Vec<Item>,
    bytes: u64,
    replace: Option<Replace>,
    reserve: bool,
}

/// What a finished write means for the node.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Readies up to here are durable.
    pub(super) durable: Option<u64>,
    /// Those that waited for it.
    pub(super) messages: Vec<Message>,
    /// A snapshot is on the disk.
    pub(super) replaced: bool,
    /// There is no room, although it was asked for.
    pub(super) no_room: bool,
}

// === impl Write ===

impl Write {
    /// Bytes of what is appended.
    #[cfg(test)]
    pub(super) fn len(&self) -> u64 {
        match &self.work {
            Work::Append(items) => items.iter().map(cost).sum(),
            Work::Replace(..) | Work::Reserve(_) => 0,
        }
    }

    /// Does it. Blocks. What was to be durable is, when this returns.
    pub(super) fn perform(self, store: &mut MetaStore) -> Written {
        let Self { number, work } = self;
        let done = match work {
            Work::Append(group) => store.write(&group),
            Work::Replace(first, image) => store.replace(first, &image),
            Work::Reserve(bytes) => store.reserve(bytes).map(drop),
        };
        Written { number, outcome: done.map(|()| store.room()) }
    }
}

// === impl Writes ===

impl Writes {
    pub(super) fn new(hard_state: HardState, room: u64, planted: Planted) -> Self {
        Self {
            planted,
            dirty: Vec::new(),
            dirty_bytes: 0,
            hard_state,
            replace: None,
            reserve: 0,
            in_flight: None,
            held: VecDeque::new(),
            last: 0,
            promised: 0,
            durable: 0,
            told: 0,
            room,
            full: false,
        }
    }

    /// Takes what a ready wants to be durable, and the messages that depend on it.
    pub(super) fn add(
        &mut self,
        number: u64,
        hard_state: HardState,
        entries: Vec<Entry>,
        held: Vec<Message>,
    ) {
        self.last = number;
        let mut kept = hard_state;
        if self.planted.has(Mutation::ForgetVote) {
            kept.vote = VoterId::default();
        }
        if self.planted.has(Mutation::ForgetCommit) {
            kept.commit = self.hard_state.commit;
        }
        let (now, before) = (kept, self.hard_state);
        let promised = (now.term, now.vote) != (before.term, before.vote);
        if promised {
            self.promised = number;
        }
        if promised || (!entries.is_empty() && now != before) {
            self.push(Item::HardState(now));
            self.hard_state = now;
        }
        for entry in entries {
            self.push(Item::Entry(entry));
        }
        if !held.is_empty() {
            self.held.push_back((number, held));
        }
    }

    /// Takes messages that a leader sends without waiting for its own disk, and gives back those that
    /// may leave. Raft takes a leader's term for durable, since others have voted for it. But a voter
    /// that is alone elects itself, and may have listeners: what it sent them in a term that it then
    /// forgot would be contradicted in the same term by its next run.
    pub(super) fn leading(&mut self, messages: Vec<Message>) -> Vec<Message> {
        if self.promised <= self.durable || self.planted.has(Mutation::LeadBeforeSync) {
            return messages;
        }
        self.held.push_back((self.promised, messages));
        Vec::new()
    }

    fn push(&mut self, item: Item) {
        self.dirty_bytes += cost(&item);
        self.dirty.push(item);
    }

    /// A snapshot took the place of the log.
    pub(super) fn installed(&mut self) {
        self.replace = Some(Replace::Installed);
    }

    /// The log is long: a snapshot is due.
    pub(super) fn checkpoint(&mut self) {
        self.replace.get_or_insert(Replace::Long);
    }

    /// Asks for room; the answer comes with a write.
    pub(super) fn ask_for_room(&mut self, bytes: u64) {
        self.reserve = self.reserve.max(bytes + FRAME_OVERHEAD_BYTES);
    }

    /// Bytes of entries that are certain to find room.
    pub(super) fn room(&self) -> u64 {
        let in_flight = self.in_flight.as_ref().map_or(0, |write| write.bytes);
        self.room.saturating_sub(self.dirty_bytes + in_flight + FRAME_OVERHEAD_BYTES)
    }

    /// Whether a leader's snapshot was taken over and is not on the disk yet.
    pub(super) fn installing(&self) -> bool {
        let in_flight = self.in_flight.as_ref().and_then(|write| write.replace);
        [self.replace, in_flight].contains(&Some(Replace::Installed))
    }

    /// Bytes that wait for the disk.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.dirty_bytes + self.in_flight.as_ref().map_or(0, |write| write.bytes)
    }

    /// Whether everything is on the disk.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none()
            && self.dirty.is_empty()
            && self.replace != Some(Replace::Installed)
    }

    /// Tries again what met a full disk.
    pub(super) fn tick(&mut self) {
        self.full = false;
    }

    /// The next write, if the disk is free for one.
    pub(super) fn next(&mut self, now: Now<'_>) -> Option<Write> {
        if self.in_flight.is_some() || self.full {
            return None;
        }
        let number = self.last;
        let reserve = self.dirty.is_empty() && self.replace.is_none();
        let replace = self.replace.take();
        let items = std::mem::take(&mut self.dirty);
        let bytes = std::mem::take(&mut self.dirty_bytes);
        let work = if replace.is_some() {
            let (mut first, image) = now();
            // What was planted to be forgotten stays forgotten.
            first.hard_state.vote = self.kept_vote(first.hard_state.vote);
            self.hard_state = first.hard_state;
            Work::Replace(first, image)
        } else if !items.is_empty() {
            Work::Append(items.clone())
        } else if self.reserve > 0 {
            Work::Reserve(self.reserve)
        } else {
            return None;
        };
        self.in_flight = Some(InFlight { number, items, bytes, replace, reserve });
        Some(Write { number, work })
    }

    fn kept_vote(&self, vote: VoterId) -> VoterId {
        if self.planted.has(Mutation::ForgetVote) { VoterId::default() } else { vote }
    }

    /// Takes note of a write that ended. An error is final.
    pub(super) fn written(&mut self, written: Written) -> Result<Settled, Failed> {
        let Some(in_flight) = self.in_flight.take() else { return Ok(Settled::default()) };
        assert_eq!(in_flight.number, written.number, "one write at a time");
        let mut settled = Settled::default();
        match written.outcome {
            Ok(room) => {
                self.room = room;
                if in_flight.reserve {
                    self.reserve = 0;
                }
                settled.replaced = in_flight.replace.is_some();
                if !in_flight.reserve {
                    self.durable = self.durable.max(in_flight.number);
                }
            }
            Err(AppendError::Full) => {
                self.full = true;
                if in_flight.reserve {
                    self.reserve = 0;
                    settled.no_room = true;
                    self.full = false;
                }
                // As before it was tried; a snapshot of our own can wait.
                let later = std::mem::replace(&mut self.dirty, in_flight.items);
                self.dirty.extend(later);
                self.dirty_bytes += in_flight.bytes;
                if in_flight.replace == Some(Replace::Installed) {
                    self.replace = Some(Replace::Installed);
                }
            }
            Err(AppendError::Failed(failed)) => return Err(failed),
        }
        Ok(self.settle(settled))
    }

    /// What may be counted, and what may leave, as things are.
    pub(super) fn settle(&mut self, mut settled: Settled) -> Settled {
        if self.is_idle() || self.planted.has(Mutation::SendBeforeSync) {
            self.durable = self.last;
        }
        if self.durable > self.told {
            self.told = self.durable;
            settled.durable = Some(self.durable);
        }
        while self.held.front().is_some_and(|(number, _)| *number <= self.durable) {
            settled.messages.extend(self.held.pop_front().into_iter().flat_map(|(_, held)| held));
        }
        settled
    }
}

/// What an item takes in the log file.
fn cost(item: &Item) -> u64 {
    let payload = match item {
        Item::Entry(entry) => entry.record.len(),
        _ => 16,
    };
    (payload + ITEM_HEAD_BYTES) as u64
}

/// What an entry with such a record takes.
pub(super) fn entry_cost(record: usize) -> u64 {
    (record + ITEM_HEAD_BYTES) as u64
}
