//! Deleting: what lies below the log start offset, and whole partitions.

use std::{io, path::Path, sync::Arc};

use riverrun_proto::{offset::Offset, timestamp::Timestamp};

use super::{
    checkpoint::LogPoint,
    checkpointing::{self, Checkpointed, Checkpointing},
    env::LogEnv,
    error::LogError,
    flush,
    inventory::Inventory,
    layout,
    producer_state::ProducerLimits,
    replay,
    segment_list::SegmentList,
    shared::Shared,
    work::Context,
};
use crate::io::SyncPoint;

/// A new log start offset to be made durable, and segments below it.
#[derive(Debug)]
pub(super) struct Delete {
    pub(super) log_start: Offset,
    /// If the recovery point does not reach the new start: the checkpoint that moves it.
    pub(super) checkpoint_first: Option<Box<Checkpointing>>,
    /// All segments, before.
    pub(super) list: Arc<SegmentList>,
    /// Base offsets of those to delete, oldest first.
    pub(super) segments: Vec<Offset>,
    /// The log is empty then, and ends here.
    pub(super) empty_at: Option<Offset>,
    /// Of [`super::work::DiskSide`] when this was made.
    pub(super) resets: u64,
    pub(super) limits: ProducerLimits,
    pub(super) now: Timestamp,
}

/// What is durable then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deleted {
    pub(super) log_start: Offset,
    pub(super) checkpointed: Option<Checkpointed>,
}

// === impl Delete ===

impl Delete {
    /// First the checkpoint, then the files: of what a crash brings back, the next open knows that
    /// it is deleted. So the removals need no sync. The log start offset never passes the recovery
    /// point: with the records the only trace of their producers would go, and of how far they are.
    ///
    /// What failed is given back, to be tried again: readers have been told of the new start, and
    /// a full disk needs these files gone more than anything.
    pub(super) fn run(
        self: Box<Self>,
        context: &Context<'_>,
    ) -> Result<Deleted, (LogError, Box<Self>)> {
        self.try_run(context).map_err(|error| (error, self))
    }

    fn try_run(&self, context: &Context<'_>) -> Result<Deleted, LogError> {
        let shared = context.shared;
        let mut on_disk = context.side.checkpoint.lock();
        shared.env.failure.check()?;
        if context.side.resets() != self.resets {
            // The log was emptied meanwhile; files of these names, if there are any, are new.
            return Ok(Deleted { log_start: self.log_start, checkpointed: None });
        }
        let is_due = on_disk.recovery_point.offset < self.log_start && !context.is_void();
        let checkpointed = match self.checkpoint_first.as_ref().filter(|_| is_due) {
            Some(checkpointing) => Some(checkpointing.write(shared, &mut on_disk)?),
            None => None,
        };
        if !self.segments.is_empty() && !context.is_void() {
            self.keep_producers(shared, on_disk.life)?;
        }
        let mut next = on_disk.clone();
        next.log_start = next.log_start.max(self.log_start);
        next.cuts.retain(|cut| cut.end > self.log_start);
        if let Some(end) = self.empty_at.filter(|end| *end >= next.recovery_point.offset) {
            next.recovery_point = LogPoint::start_of_segment(end);
        }
        if next != *on_disk {
            checkpointing::write_checkpoint(shared, &mut on_disk, next)?;
        }
        let disk = shared.env.disk.as_ref();
        for base in &self.segments {
            for path in [
                layout::segment_file(&shared.dir, *base),
                layout::offset_index_file(&shared.dir, *base),
                layout::time_index_file(&shared.dir, *base),
            ] {
                match disk.remove_file(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other.map_err(|error| shared.failed("removing", &path, error))?,
                }
            }
            shared.env.counters.segments_deleted.add(1);
        }
        Ok(Deleted { log_start: self.log_start, checkpointed })
    }
}

impl Delete {
    /// With the records would go what is known of their producers, unless a snapshot has it. One
    /// that a later truncation, which reaches back to the log start at most, can begin from.
    fn keep_producers(&self, shared: &Shared, life: u32) -> Result<(), LogError> {
        let begin = self.list.as_slice().get(self.segments.len()).map(|first| first.base());
        let Some(begin) = begin.or(self.empty_at) else { return Ok(()) };
        let disk = shared.env.disk.as_ref();
        let Inventory { snapshots, .. } = Inventory::of(disk, &shared.dir)?;
        if snapshots.iter().any(|as_of| (begin..=self.log_start).contains(as_of)) {
            return Ok(());
        }
        let states = replay::producers_at(shared, &self.list, begin, life, self.limits, self.now)?;
        checkpointing::write_snapshot(shared, begin, life, &states)?;
        flush::sync_dir(shared, SyncPoint::RecoveryFilesDir)
    }
}

/// Removes a partition's directory with all in it, on the cluster's explicit word only. Its log must
/// not be in use any more; readers that still hold slices keep them. Blocks.
///
/// The directory is renamed first, durably: from then on it is no partition, and if the removal
/// does not end, [`finish_removal`] ends it at the next start.
pub fn remove_partition(env: &LogEnv, dir: &Path) -> Result<(), LogError> {
    let deleted = layout::deleted_dir(dir);
    let disk = env.disk.as_ref();
    let failed = |error| LogError::io("removing", dir, error);
    match disk.rename(dir, &deleted) {
        // Removed already, or a removal that did not end: nothing to rename.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other.map_err(failed)?,
    }
    if let Some(parent) = dir.parent() {
        let synced = disk.sync_dir(parent, SyncPoint::PartitionRemovedDir);
        env.failure.of_sync(&parent.display().to_string(), synced).map_err(failed)?;
    }
    finish_removal(env, &deleted)
}

/// Removes what [`remove_partition`] has renamed ([`layout::is_deleted_dir`]). Blocks.
pub fn finish_removal(env: &LogEnv, deleted: &Path) -> Result<(), LogError> {
    let disk = env.disk.as_ref();
    let failed = |error| LogError::io("removing", deleted, error);
    let entries = match disk.list(deleted) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for entry in entries.iter().filter(|entry| !entry.is_dir) {
        disk.remove_file(&deleted.join(&entry.name)).map_err(failed)?;
    }
    disk.remove_dir(deleted).map_err(failed)
}
