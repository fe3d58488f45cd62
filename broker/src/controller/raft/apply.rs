//! What a node does with what is committed: entries, snapshots, changes of who votes.

use raft::Ready;

use super::{
    log,
    membership::{self, ChangeError},
    mutation::Mutation,
    node::Node,
    proposals::Kind,
    types::{Answer, Applied, Stop},
};
use crate::{
    controller::{
        applied,
        frame::{EntryKind, Mark},
        quorum::Judged,
    },
    metadata::Delta,
};

impl Node {
    /// Takes over a leader's snapshot.
    pub(super) fn install(&mut self, ready: &Ready) {
        let (mark, membership, image) =
            log::read_snapshot(ready.snapshot()).expect("it was read before Raft was given it");
        let deltas = Delta::between(self.image(), &image);
        self.outputs.applied.push(Applied { image: image.clone(), deltas });
        self.raw.mut_store().restore(mark, membership, image);
        self.writes.installed();
        self.snapshot = mark;
        self.stats.snapshots_installed += 1;
        self.give_up_logged(mark.index, "a newer leader's snapshot has it or not");
    }

    pub(super) fn apply_all(&mut self, committed: &[raft::eraftpb::Entry]) {
        for form in committed {
            let entry = log::from_raft(form);
            let mark = Mark { index: entry.index, term: entry.term };
            let applied = match applied::apply(self.image(), &entry) {
                Ok(applied) => applied,
                Err(source) => return self.stop(Stop::Record { offset: entry.index, source }),
            };
            let log = self.raw.mut_store();
            log.applied(mark, applied.image.clone());
            let offset = applied.image.offset();
            self.outputs.applied.push(Applied { image: applied.image, deltas: applied.deltas });
            self.stats.entries += 1;
            self.stats.rejected += u64::from(matches!(applied.outcome, Some(Err(_))));
            if entry.kind == EntryKind::Change {
                match self.apply_change(&entry.record, mark) {
                    Ok(()) => self.stats.changes += 1,
                    Err(why) => return self.stop(Stop::Change { offset: entry.index, why }),
                }
            }
            let Some(waits) = self.proposals.take(entry.index) else { continue };
            let ours = waits.term == entry.term || self.planted(Mutation::AnswerByIndex);
            let answer = match (waits.kind, applied.outcome) {
                (Kind::Command, Some(outcome)) if ours => {
                    Answer::Proposed(Ok(Judged { offset, outcome }))
                }
                (Kind::Change, _) if ours => Answer::Changed(Ok(self.membership().clone())),
                // Another entry is at its place for good.
                (Kind::Command, _) => Answer::Proposed(Err(self.not_leader())),
                (Kind::Change, _) => {
                    Answer::Changed(Err(ChangeError::NotLeader { leader: self.leader_node() }))
                }
            };
            self.answer(waits.ticket, answer);
        }
    }

    pub(super) fn apply_change(&mut self, record: &[u8], mark: Mark) -> Result<(), String> {
        let change = membership::decode(record)?;
        let state = self.raw.apply_conf_change(&change).map_err(|why| why.to_string())?;
        let after = membership::after(&change, &state, self.membership(), mark)?;
        self.raw.mut_store().set_membership(after);
        let out = !self.raw.raft.promotable();
        if out && self.is_leader() && !self.planted(Mutation::LeadAfterRemoval) {
            // Raft leaves that to us. The others elect one of theirs.
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
        Ok(())
    }
}
