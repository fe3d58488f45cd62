//! What the simulation sees of a node.

use super::super::node::Node;
use crate::controller::frame::Entry;

impl Node {
    /// Where it stands, in words.
    pub(in super::super) fn describe(&self) -> String {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let peers: Vec<_> = raft
            .prs()
            .iter()
            .map(|(id, p)| format!("{} {:?} {}/{}", id % 1000, p.state, p.matched, p.next_idx))
            .collect();
        format!(
            "{:?} term {} leader {} log {}..{} persisted {} committed {} applied {} idle {} \
             voters {:?} {peers:?}",
            raft.state,
            raft.term,
            raft.leader_id % 1000,
            log.first_index(),
            log.last_index(),
            log.persisted,
            log.committed,
            log.applied,
            self.writes.is_idle(),
            self.membership().voters.iter().map(|voter| voter.id.0 % 1000).collect::<Vec<_>>(),
        )
    }

    /// Index of the first entry in memory, and all from there on.
    pub(in super::super) fn entries(&self) -> (u64, Vec<Entry>) {
        let log = self.raw.store();
        let first = raft::Storage::first_index(log).expect("it is in memory");
        (first, log.after(first - 1))
    }
}
