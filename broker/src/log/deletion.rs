//! Deleting: what lies below the log start offset, and whole partitions.

use std::{io, path::Path};

use riverrun_proto::offset::Offset;

use super::{
    checkpoint::LogPoint,
    checkpointing::{self, Checkpointed, Checkpointing},
    env::LogEnv,
    error::LogError,
    layout,
    work::Context,
};
use crate::io::SyncPoint;

/// A new log start offset to be made durable, and segments below it.
#[derive(Debug)]
pub(super) struct Delete {
    pub(super) log_start: Offset,
    /// If the recovery point does not reach the new start: the checkpoint that moves it.
    pub(super) checkpoint_first: Option<Box<Checkpointing>>,
    /// Base offsets, oldest first.
    pub(super) segments: Vec<Offset>,
    /// The log is empty then, and ends here.
    pub(super) empty_at: Option<Offset>,
    /// Of [`super::work::DiskSide`] when this was made.
    pub(super) resets: u64,
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
        mut self: Box<Self>,
        context: &Context<'_>,
    ) -> Result<Deleted, (LogError, Box<Self>)> {
        self.try_run(context).map_err(|error| (error, self))
    }

    fn try_run(&mut self, context: &Context<'_>) -> Result<Deleted, LogError> {
        let shared = context.shared;
        let mut on_disk = context.side.checkpoint.lock();
        shared.env.failure.check()?;
        if context.side.resets() != self.resets {
            // The log was emptied meanwhile; files of these names, if there are any, are new.
            return Ok(Deleted { log_start: self.log_start, checkpointed: None });
        }
        let checkpointed = match self.checkpoint_first.as_ref().filter(|_| !context.is_void()) {
            Some(checkpointing) => Some(checkpointing.write(shared, &mut on_disk)?),
            None => None,
        };
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
