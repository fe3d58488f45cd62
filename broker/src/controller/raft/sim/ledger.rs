//! What must hold, whatever happens. Told of everything that is sent, applied and answered.

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::{Message, MessageType};

use super::super::types::Ticket;
use crate::{
    controller::{
        error::QuorumError,
        frame::{Entry, EntryKind, VoterId},
    },
    metadata::{MetadataImage, snapshot},
};

/// A rule that was broken, in words.
pub(super) type Violation = String;

/// A proposal and what is known of it.
#[derive(Debug)]
struct Proposal {
    record: Vec<u8>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unknown,
    /// Answered as applied, at this offset; or as rejected, at no known one.
    Applied(Option<u64>),
    /// Answered as certain not to be.
    Never,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Who led a term.
    leaders: BTreeMap<u64, VoterId>,
    /// Whom a voter voted for in a term.
    votes: BTreeMap<(VoterId, u64), u64>,
    committed: BTreeMap<u64, Entry>,
    /// Checksum of the image at an offset.
    images: BTreeMap<u64, u32>,
    proposals: BTreeMap<Ticket, Proposal>,
    /// Offsets at which a record was committed.
    records: BTreeMap<Vec<u8>, u64>,
    /// The newest offset that anybody was told of.
    acknowledged: u64,
    /// What a read has to show.
    reads: BTreeMap<Ticket, u64>,
}

impl Ledger {
    // --- elections ---

    /// A voter promises its vote.
    pub(super) fn sent(&mut self, message: &Message) -> Result<(), Violation> {
        let granted =
            message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.reject;
        let asked = message.get_msg_type() == MessageType::MsgRequestVote;
        if !granted && !asked {
            return Ok(());
        }
        // Who stands for election has voted for himself.
        let vote = if asked { message.from } else { message.to };
        let (voter, term) = (VoterId(message.from), message.term);
        match self.votes.insert((voter, term), vote) {
            Some(before) if before != vote => {
                Err(format!("{voter:?} voted for {before} and for {vote} in term {term}"))
            }
            _ => Ok(()),
        }
    }

    /// A voter leads, and has `entry` of an index in its log.
    pub(super) fn leads(
        &mut self,
        voter: VoterId,
        term: u64,
        first: u64,
        log: &[Entry],
    ) -> Result<(), Violation> {
        match self.leaders.insert(term, voter) {
            Some(before) if before == voter => return Ok(()),
            Some(before) => return Err(format!("{before:?} and {voter:?} lead term {term}")),
            None => {}
        }
        let has: BTreeMap<_, _> = log.iter().map(|entry| (entry.index, entry)).collect();
        for (index, entry) in self.committed.range(first..=self.acknowledged.max(first)) {
            if has.get(index).is_none_or(|there| *there != entry) {
                return Err(format!(
                    "{voter:?} leads term {term} without entry {index}, which was acknowledged"
                ));
            }
        }
        Ok(())
    }

    // --- the log ---

    /// A node applied an entry.
    pub(super) fn applied(&mut self, entry: &Entry) -> Result<(), Violation> {
        if let Some(known) = self.committed.get(&entry.index) {
            if known == entry {
                return Ok(());
            }
            return Err(format!("entry {} was {known:?} and is {entry:?}", entry.index));
        }
        self.committed.insert(entry.index, entry.clone());
        if entry.kind == EntryKind::Command
            && !entry.record.is_empty()
            && let Some(before) = self.records.insert(entry.record.to_vec(), entry.index)
        {
            return Err(format!("one proposal is in entries {before} and {}", entry.index));
        }
        Ok(())
    }

    /// A node has an image.
    pub(super) fn image(&mut self, image: &MetadataImage) -> Result<(), Violation> {
        let (offset, crc) = (image.offset().get(), crc32fast::hash(&snapshot::encode(image)));
        match self.images.insert(offset, crc) {
            Some(before) if before != crc => Err(format!("two images at {offset}")),
            _ => Ok(()),
        }
    }

    // --- answers ---

    pub(super) fn proposed(&mut self, ticket: Ticket, record: Vec<u8>) {
        self.proposals.insert(ticket, Proposal { record, fate: Fate::Unknown });
    }

    /// A proposal was answered.
    pub(super) fn answered(
        &mut self,
        ticket: Ticket,
        answer: &Result<u64, QuorumError>,
    ) -> Result<(), Violation> {
        let Some(proposal) = self.proposals.get_mut(&ticket) else {
            return Err(format!("{ticket:?} was answered twice, or never asked"));
        };
        if proposal.fate != Fate::Unknown {
            return Err(format!("{ticket:?} was answered twice"));
        }
        let at = self.records.get(&proposal.record).copied();
        proposal.fate = match answer {
            Ok(offset) if at != Some(*offset) => {
                return Err(format!("{ticket:?} was answered with {offset}, and stands at {at:?}"));
            }
            Ok(offset) => {
                self.acknowledged = self.acknowledged.max(*offset);
                Fate::Applied(Some(*offset))
            }
            Err(QuorumError::Rejected(_)) => match at {
                Some(offset) => {
                    self.acknowledged = self.acknowledged.max(offset);
                    Fate::Applied(None)
                }
                None => return Err(format!("{ticket:?} was judged, and was never committed")),
            },
            Err(error) if error.is_definite() => Fate::Never,
            Err(_) => Fate::Unknown,
        };
        Ok(())
    }

    pub(super) fn asked(&mut self, ticket: Ticket) {
        self.reads.insert(ticket, self.acknowledged);
    }

    /// A read was answered: the image has all up to `offset`.
    pub(super) fn read(&mut self, ticket: Ticket, offset: u64) -> Result<(), Violation> {
        let Some(least) = self.reads.remove(&ticket) else {
            return Err(format!("{ticket:?} was answered twice, or never asked"));
        };
        if offset < least {
            return Err(format!("a read shows {offset}; {least} was acknowledged before it"));
        }
        self.acknowledged = self.acknowledged.max(offset);
        Ok(())
    }

    /// Nothing more comes: all that was said holds.
    pub(super) fn close(&self) -> Result<(), Violation> {
        for (ticket, proposal) in &self.proposals {
            let at = self.records.get(&proposal.record);
            match (proposal.fate, at) {
                (Fate::Never, Some(at)) => {
                    return Err(format!("{ticket:?} was refused for good, and is entry {at}"));
                }
                (Fate::Applied(_), None) => {
                    return Err(format!("{ticket:?} was acknowledged and is gone"));
                }
                _ => {}
            }
        }
        let indices: BTreeSet<_> = self.committed.keys().copied().collect();
        match (indices.first(), indices.last()) {
            (Some(first), Some(last)) if last - first + 1 != indices.len() as u64 => {
                Err("the committed log has holes".into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }
}
