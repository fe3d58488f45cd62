//! The log as Raft reads it: in memory, as far as it may still be asked for.
//!
//! ```text
//!   base │ entry │ entry │ … │ entry │ … │ entry
//!        ^ first           ^ applied: the image, and who votes, are of here    ^ last
//! ```
//!
//! All entries after the newest snapshot on disk are here, and some before it, so that a voter which
//! is a little behind is sent entries and not an image. What is on disk is known elsewhere
//! ([`Writes`](super::writes::Writes)): Raft counts an entry only when that says so.

use std::{collections::VecDeque, sync::Arc};

use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{self, EntryType, Snapshot},
    util::limit_size,
};

use super::membership::conf_state;
use crate::{
    controller::{
        frame::{Entry, EntryKind, HardState, Item, Mark, Membership, VoterId},
        store::Recovered,
    },
    metadata::{MetadataImage, snapshot},
};

/// What an entry takes in memory beside its record.
const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// See the module.
pub(super) struct Log {
    /// As found at the start; Raft keeps its own from then on.
    hard_state: HardState,
    /// Before the first entry.
    base: Mark,
    entries: VecDeque<eraftpb::Entry>,
    bytes: u64,
    applied: Mark,
    image: Arc<MetadataImage>,
    membership: Membership,
    truncations: u64,
}

// === impl Log ===

impl Log {
    pub(super) fn new(
        recovered: Recovered,
        snapshot: Mark,
        membership: Membership,
        hard_state: HardState,
    ) -> Self {
        let mut log = Self {
            hard_state,
            base: snapshot,
            entries: VecDeque::new(),
            bytes: 0,
            applied: snapshot,
            image: Arc::new(recovered.image),
            membership,
            truncations: 0,
        };
        log.append(recovered.entries.iter().map(to_raft).collect());
        log
    }

    /// Appends entries; they replace those of their indices and above.
    pub(super) fn append(&mut self, entries: Vec<eraftpb::Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.applied.index, "an applied entry never changes");
        if first.index <= self.last() {
            self.truncations += 1;
            for gone in self.entries.drain(offset(first.index, self.base.index)..) {
                self.bytes -= cost(&gone);
            }
        }
        assert_eq!(first.index, self.last() + 1, "entries follow one another");
        self.bytes += entries.iter().map(cost).sum::<u64>();
        self.entries.extend(entries);
    }

    /// Takes the place of everything there was: the log goes on after a snapshot.
    pub(super) fn restore(&mut self, mark: Mark, membership: Membership, image: MetadataImage) {
        self.entries.clear();
        self.bytes = 0;
        self.base = mark;
        self.applied(mark, image);
        self.membership = membership;
    }

    /// Notes what became of the image with the entry at `mark`.
    pub(super) fn applied(&mut self, mark: Mark, image: MetadataImage) {
        self.applied = mark;
        self.image = Arc::new(image);
    }

    /// Notes who votes from the last applied entry on.
    pub(super) fn set_membership(&mut self, membership: Membership) {
        self.membership = membership;
    }

    /// Forgets applied entries before `index`, but for as many of the last as fit into both bounds.
    pub(super) fn compact(&mut self, index: u64, keep_entries: u64, keep_bytes: u64) {
        let index = index.min(self.applied.index);
        while let Some(first) = self.entries.front()
            && first.index <= index
            && (first.index + keep_entries <= index || self.bytes > keep_bytes)
        {
            self.base = Mark { index: first.index, term: first.term };
            self.bytes -= cost(first);
            self.entries.pop_front();
        }
    }

    /// Those after `index`.
    pub(super) fn after(&self, index: u64) -> Vec<Entry> {
        let known = self.entries.iter().skip_while(|entry| entry.index <= index);
        known.map(from_raft).collect()
    }

    pub(super) fn image(&self) -> &Arc<MetadataImage> {
        &self.image
    }

    pub(super) fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The last entry that the image has.
    pub(super) fn applied_mark(&self) -> Mark {
        self.applied
    }

    pub(super) fn last(&self) -> u64 {
        self.entries.back().map_or(self.base.index, |entry| entry.index)
    }

    /// Bytes of the entries kept.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How often another leader's entries replaced some.
    pub(super) fn truncations(&self) -> u64 {
        self.truncations
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(to_raft_state(self.hard_state), conf_state(&self.membership)))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.base.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let (low, high) = (offset(low, self.base.index), offset(high, self.base.index));
        let mut entries: Vec<_> = self.entries.range(low..high).cloned().collect();
        limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index < self.base.index {
            return Err(StorageError::Compacted.into());
        }
        let entry = self.entries.get(offset(index, self.base.index));
        entry.map(|entry| entry.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Made when asked for, of all that is applied: never older than what was forgotten.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.applied.index < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut made = Snapshot::default();
        let metadata = made.mut_metadata();
        metadata.index = self.applied.index;
        metadata.term = self.applied.term;
        metadata.set_conf_state(conf_state(&self.membership));
        let mut data = Vec::new();
        let membership = Membership { at: self.applied, ..self.membership.clone() };
        Item::ConfState(membership).encode(&mut data);
        Item::Image(self.applied, snapshot::encode(&self.image)).encode(&mut data);
        made.data = data.into();
        Ok(made)
    }
}

/// What a leader's snapshot holds; or what is wrong with it.
pub(super) fn read_snapshot(made: &Snapshot) -> Result<(Mark, Membership, MetadataImage), String> {
    let metadata = made.get_metadata();
    let mark = Mark { index: metadata.index, term: metadata.term };
    let items = Item::decode_all(&made.data).map_err(|why| format!("{why:?}"))?;
    let [Item::ConfState(membership), Item::Image(at, image)] = items.as_slice() else {
        return Err("it has other items than voters and an image".into());
    };
    if *at != mark || membership.at != mark {
        return Err("its image is of another place".into());
    }
    if !raft_same(&conf_state(membership), metadata.get_conf_state()) {
        return Err("its voters are not those it was announced with".into());
    }
    let image = snapshot::decode(image).map_err(|why| why.to_string())?;
    if image.offset().get() != mark.index {
        return Err("its image is of another offset".into());
    }
    Ok((mark, membership.clone(), image))
}

fn raft_same(a: &eraftpb::ConfState, b: &eraftpb::ConfState) -> bool {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    sorted(&a.voters) == sorted(&b.voters)
        && sorted(&a.learners) == sorted(&b.learners)
        && sorted(&a.voters_outgoing) == sorted(&b.voters_outgoing)
        && sorted(&a.learners_next) == sorted(&b.learners_next)
        && a.auto_leave == b.auto_leave
}

/// An entry as Raft has it.
pub(super) fn to_raft(entry: &Entry) -> eraftpb::Entry {
    let mut form = eraftpb::Entry::default();
    form.set_entry_type(match entry.kind {
        EntryKind::Command => EntryType::EntryNormal,
        EntryKind::Change => EntryType::EntryConfChangeV2,
    });
    form.index = entry.index;
    form.term = entry.term;
    form.data = entry.record.clone();
    form
}

/// An entry as we store it.
pub(super) fn from_raft(entry: &eraftpb::Entry) -> Entry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Command,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::Change,
    };
    let record = entry.data.clone();
    Entry { index: entry.index, term: entry.term, kind, record }
}

fn to_raft_state(state: HardState) -> eraftpb::HardState {
    let HardState { term, vote, commit } = state;
    eraftpb::HardState { term, vote: vote.0, commit, ..eraftpb::HardState::default() }
}

pub(super) fn from_raft_state(state: &eraftpb::HardState) -> HardState {
    HardState { term: state.term, vote: VoterId(state.vote), commit: state.commit }
}

fn cost(entry: &eraftpb::Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES
}

/// Place of an index in `entries`.
fn offset(index: u64, base: u64) -> usize {
    usize::try_from(index - base - 1).expect("as many entries as fit into memory")
}
