//! The thread that owns the log of a quorum of one.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::watch;

use super::{LocalOptions, Proposal, Shared};
use crate::{
    controller::{
        error::QuorumError,
        frame::{Entry, EntryKind},
        quorum::{Accepted, Leader},
        store::MetaStore,
        wal::AppendError,
    },
    io::failure::Failed,
    metadata::MetadataOffset,
};

/// See the module. Fields are dropped in this order: when `leads` goes, and with it the last sign of
/// life, nothing of the directory is open.
pub(super) struct Worker {
    store: MetaStore,
    shared: Arc<Shared>,
    options: LocalOptions,
    /// A snapshot is due at this entry, or at this size of the log.
    snapshot_due: MetadataOffset,
    snapshot_due_bytes: u64,
    leads: watch::Sender<Option<Leader>>,
}

impl Worker {
    pub(super) fn new(
        store: MetaStore,
        shared: Arc<Shared>,
        leads: watch::Sender<Option<Leader>>,
        options: LocalOptions,
    ) -> Self {
        let mut worker = Self {
            snapshot_due: MetadataOffset::ZERO,
            snapshot_due_bytes: 0,
            store,
            shared,
            options,
            leads,
        };
        worker.snapshot_due = after(worker.store.snapshot_offset(), options.snapshot_entries);
        worker.snapshot_due_bytes = options.snapshot_bytes;
        worker
    }

    pub(super) fn run(mut self) {
        while let Some(group) = self.shared.inbox.take() {
            if let Err(failed) = self.commit(group).and_then(|()| self.snapshot_if_due()) {
                self.leads.send_replace(None);
                self.refuse_all(&failed);
                return;
            }
        }
        self.leads.send_replace(None);
    }

    /// Writes a group, applies it, answers. An error is final.
    pub(super) fn commit(&mut self, group: Vec<Proposal>) -> Result<(), Failed> {
        let term = self.store.term();
        let first = self.shared.publisher.image().offset().get() + 1;
        let entries = (first..).zip(&group).map(|(index, proposal)| Entry {
            index,
            term,
            kind: EntryKind::Command,
            record: proposal.record.clone(),
        });
        match self.store.append(entries.collect()) {
            Ok(()) => {}
            Err(AppendError::Full) => {
                self.shared.counters.disk_full.fetch_add(1, Ordering::Relaxed);
                for proposal in group {
                    answer(proposal, Err(QuorumError::StorageFull));
                }
                return Ok(());
            }
            Err(AppendError::Failed(failed)) => {
                for proposal in group {
                    answer(proposal, Err(QuorumError::OutcomeUnknown(failed.to_string())));
                }
                return Err(failed);
            }
        }
        self.shared.counters.groups.fetch_add(1, Ordering::Relaxed);
        for proposal in group {
            self.apply(proposal);
        }
        Ok(())
    }

    fn apply(&self, proposal: Proposal) {
        let image = self.shared.publisher.image();
        let offset = image.offset().next();
        let applied = image.apply(offset, &proposal.command);
        let outcome = applied.outcome.clone();
        self.shared.publisher.publish(applied.image, applied.deltas);
        self.shared.counters.entries.fetch_add(1, Ordering::Relaxed);
        if let Err(rejection) = &outcome {
            tracing::debug!(%offset, %rejection, "a metadata command was rejected");
            self.shared.counters.rejected.fetch_add(1, Ordering::Relaxed);
        }
        let accepted = outcome.map(|reply| Accepted { offset, reply });
        answer(proposal, accepted.map_err(QuorumError::Rejected));
    }

    pub(super) fn snapshot_if_due(&mut self) -> Result<(), Failed> {
        let image = self.shared.publisher.image();
        let bytes = self.store.wal_bytes();
        if image.offset() < self.snapshot_due && bytes < self.snapshot_due_bytes {
            return Ok(());
        }
        match self.store.checkpoint(&image) {
            Ok(()) => {
                self.snapshot_due_bytes = self.options.snapshot_bytes;
                self.shared.counters.snapshots.fetch_add(1, Ordering::Relaxed);
            }
            // The log goes on as it was; try again after as much as it took to get here.
            Err(AppendError::Full) => {
                self.snapshot_due_bytes = bytes.saturating_add(self.options.snapshot_bytes);
                self.shared.counters.disk_full.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("the disk is full: no snapshot of the metadata could be made");
            }
            Err(AppendError::Failed(failed)) => return Err(failed),
        }
        self.snapshot_due = after(image.offset(), self.options.snapshot_entries);
        Ok(())
    }

    /// Nothing of these was written.
    fn refuse_all(&self, failed: &Failed) {
        self.shared.inbox.close();
        for proposal in self.shared.inbox.take().into_iter().flatten() {
            answer(proposal, Err(QuorumError::StorageFailed(failed.clone())));
        }
    }
}

/// However the thread ends, nobody waits for it in vain.
impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.inbox.close();
        drop(self.shared.inbox.take());
    }
}

fn after(offset: MetadataOffset, entries: u64) -> MetadataOffset {
    MetadataOffset::new(offset.get().saturating_add(entries)).unwrap_or(offset)
}

fn answer(proposal: Proposal, result: Result<Accepted, QuorumError>) {
    let Proposal { answer, permit, .. } = proposal;
    // Whoever was answered finds room for his next proposal.
    drop(permit);
    // Whoever asked may have gone; the command stands all the same.
    let _ = answer.send(result);
}
