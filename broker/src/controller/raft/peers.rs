//! What a leader does about its peers: changes of who votes, and snapshots that got lost.

use raft::{ProgressState, SnapshotStatus, eraftpb::ConfChangeV2};

use super::{
    membership::{self, ChangeError, PROMOTION_LAG_MAX, Step},
    node::Node,
};
use crate::controller::frame::VoterId;

impl Node {
    pub(super) fn propose_change(&mut self, steps: &[Step]) -> Result<u64, ChangeError> {
        let leader = self.leader_node();
        if !self.is_leader() {
            return Err(ChangeError::NotLeader { leader });
        }
        let joint = !self.membership().outgoing.is_empty();
        if self.raw.raft.has_pending_conf() || joint {
            return Err(ChangeError::InProgress);
        }
        let change = membership::encode(steps, self.membership())?;
        for step in steps {
            if let Step::Vote(id) = step {
                self.check_caught_up(*id)?;
            }
        }
        self.raw
            .propose_conf_change(Vec::new(), change)
            .map_err(|_| ChangeError::NotLeader { leader: self.transferee() })?;
        Ok(self.raw.raft.raft_log.last_index())
    }

    pub(super) fn check_caught_up(&self, id: VoterId) -> Result<(), ChangeError> {
        let raft = &self.raw.raft;
        let progress = raft.prs().get(id.0);
        let behind = progress.map_or(u64::MAX, |progress| {
            // It has acknowledged something. Where nothing is proposed, one that has everything may be
            // probed for long.
            let live = progress.state != ProgressState::Snapshot
                && progress.recent_active
                && progress.matched > 0;
            let behind = raft.raft_log.committed.saturating_sub(progress.matched);
            if live { behind } else { behind.max(PROMOTION_LAG_MAX + 1) }
        });
        match self.node_of(id) {
            Some(node) if behind > PROMOTION_LAG_MAX => {
                Err(ChangeError::NotCaughtUp { node, behind })
            }
            _ => Ok(()),
        }
    }

    /// Raft leaves a joint configuration when it applies the change that entered it; a leader that
    /// was elected in between has to be told.
    pub(super) fn leave_joint(&mut self) {
        let stuck =
            self.is_leader() && self.membership().auto_leave && !self.raw.raft.has_pending_conf();
        if stuck {
            let _ = self.raw.propose_conf_change(Vec::new(), ConfChangeV2::default());
        }
    }

    /// Raft waits for a snapshot it sent until it hears of it: what is lost must be told.
    pub(super) fn watch_snapshots(&mut self) {
        let patience = self.options.election_ticks * 2;
        let leads = self.is_leader();
        let waiting: Vec<u64> = self
            .raw
            .raft
            .prs()
            .iter()
            .filter(|(_, progress)| leads && progress.state == ProgressState::Snapshot)
            .map(|(id, _)| *id)
            .collect();
        let before = std::mem::take(&mut self.snapshots_sent);
        for id in waiting {
            let ticks = before.iter().find(|(known, _)| *known == id).map_or(0, |(_, t)| t + 1);
            if ticks > patience {
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            } else {
                self.snapshots_sent.push((id, ticks));
            }
        }
    }
}
