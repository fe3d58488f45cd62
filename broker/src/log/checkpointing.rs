//! Moving the recovery point forward: everything that a restart would otherwise have to read from
//! the data is made durable first.
//!
//! ```text
//! 1. data up to the point: segments that were sealed, the active one      (synced)
//! 2. index files, producer snapshot, leader epochs                        (each synced)
//! 3. the directory: names of new segments and of all these                (synced)
//! 4. the checkpoint, with the new recovery point                          (synced, and its name)
//! ```
//! A crash in between leaves the old recovery point, whose files are all still there.

use std::sync::Arc;

use riverrun_proto::offset::Offset;

use super::{
    checkpoint::{Checkpoint, LogPoint},
    error::LogError,
    flush::{self, Flushed, SealedSegment},
    index::IndexHead,
    index_files,
    inventory::Inventory,
    layout::{self, CHECKPOINT_FILE, LEADER_EPOCHS_FILE},
    leader_epochs::LeaderEpochs,
    producer_snapshot,
    producer_state::ProducerStates,
    segment::OpenSegment,
    shared::Shared,
    work::{Context, Outcome, Voided},
};
use crate::io::{
    SyncPoint,
    dir::{self, AtomicPoints},
};

/// The newest snapshots are kept, the second one in case the newest is found broken.
const SNAPSHOTS_KEPT: usize = 2;

/// A log as of one moment, to be made durable.
#[derive(Debug)]
pub(super) struct Checkpointing {
    pub(super) point: LogPoint,
    pub(super) high_watermark: Offset,
    pub(super) sealed: Vec<SealedSegment>,
    /// The active segment, and its summary up to the point.
    pub(super) active: Option<(IndexHead, Arc<OpenSegment>)>,
    pub(super) epochs: LeaderEpochs,
    pub(super) producers: ProducerStates,
    pub(super) flushed: Flushed,
    /// The log is being closed: what was allocated ahead is given back.
    pub(super) is_last: bool,
}

/// A checkpoint that is durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checkpointed {
    pub(super) point: LogPoint,
    pub(super) flushed: Flushed,
    pub(super) log_start: Offset,
}

// === impl Checkpointing ===

impl Checkpointing {
    pub(super) fn run(self, context: &Context<'_>) -> Outcome {
        let mut on_disk = context.side.checkpoint.lock();
        if context.is_void() {
            return Outcome::Void(Voided::Checkpoint);
        }
        Outcome::Checkpoint(self.write(context.shared, &mut on_disk))
    }

    pub(super) fn write(
        &self,
        shared: &Shared,
        on_disk: &mut Checkpoint,
    ) -> Result<Checkpointed, LogError> {
        shared.env.failure.check()?;
        let mut heads = Vec::new();
        for sealed in &self.sealed {
            let path = shared.segment_path(sealed.segment.base());
            let sealing = sealed.open.file.seal();
            sealing.map_err(|error| shared.failed("sealing", &path, error))?;
            if !sealed.is_synced {
                flush::sync_segment(shared, &sealed.open, SyncPoint::SegmentSealed)?;
            }
            heads.push((sealed.segment.head(sealed.open.salt, sealed.end), &sealed.open));
        }
        if let Some((head, open)) = &self.active {
            if self.is_last {
                let path = shared.segment_path(head.base);
                open.file.seal().map_err(|error| shared.failed("sealing", &path, error))?;
            }
            flush::sync_segment(shared, open, SyncPoint::SegmentData)?;
            heads.push((*head, open));
        }
        let disk = shared.env.disk.as_ref();
        for (head, open) in heads {
            index_files::write(disk, &shared.dir, &head, open)?;
        }
        write_states(shared, self.point.offset, on_disk.life, &self.producers, &self.epochs)?;
        flush::sync_dir(shared, SyncPoint::RecoveryFilesDir)?;
        // A deletion that emptied the log may have moved it further meanwhile.
        if on_disk.recovery_point.offset <= self.point.offset {
            let next = Checkpoint {
                recovery_point: self.point,
                high_watermark: self.high_watermark,
                // A deletion that failed (the disk was full) is made durable here.
                log_start: on_disk.log_start.max(shared.log_start().min(self.point.offset)),
                life: on_disk.life,
                cuts: on_disk.cuts.clone(),
            };
            write_checkpoint(shared, on_disk, next)?;
        }
        remove_old_snapshots(shared, on_disk.log_start, self.high_watermark);
        shared.env.counters.checkpoints.add(1);
        let log_start = on_disk.log_start;
        Ok(Checkpointed { point: self.point, flushed: self.flushed, log_start })
    }
}

/// Writes snapshot and leader epochs as of `point`; their names are durable once the directory is.
pub(super) fn write_states(
    shared: &Shared,
    point: Offset,
    life: u32,
    producers: &ProducerStates,
    epochs: &LeaderEpochs,
) -> Result<(), LogError> {
    write_snapshot(shared, point, life, producers)?;
    let path = shared.dir.join(LEADER_EPOCHS_FILE);
    dir::replace(shared.env.disk.as_ref(), &path, &epochs.encode(life), SyncPoint::LeaderEpochs)
        .map_err(|error| shared.failed("writing", &path, error))
}

/// Writes the producers' state as of `point`; its name is durable once the directory is.
pub(super) fn write_snapshot(
    shared: &Shared,
    point: Offset,
    life: u32,
    producers: &ProducerStates,
) -> Result<(), LogError> {
    let path = layout::snapshot_file(&shared.dir, point);
    let bytes = producer_snapshot::encode(point, life, producers);
    dir::replace(shared.env.disk.as_ref(), &path, &bytes, SyncPoint::ProducerSnapshot)
        .map_err(|error| shared.failed("writing", &path, error))
}

/// Replaces the checkpoint and follows it in memory.
pub(super) fn write_checkpoint(
    shared: &Shared,
    on_disk: &mut Checkpoint,
    next: Checkpoint,
) -> Result<(), LogError> {
    let path = shared.dir.join(CHECKPOINT_FILE);
    let points = AtomicPoints { file: SyncPoint::Checkpoint, dir: SyncPoint::CheckpointDir };
    dir::write_atomic(shared.env.disk.as_ref(), &path, &next.encode(), points)
        .map_err(|error| shared.failed("writing", &path, error))?;
    *on_disk = next;
    Ok(())
}

/// Removes all snapshots but the newest few, the newest at or below the high watermark, which any
/// truncation can begin from, and the newest at or below the log start offset, from which the state
/// at any later offset can be had. What stays behind is removed the next time.
fn remove_old_snapshots(shared: &Shared, log_start: Offset, high_watermark: Offset) {
    let disk = shared.env.disk.as_ref();
    let Ok(Inventory { snapshots, .. }) = Inventory::of(disk, &shared.dir) else { return };
    let newest = snapshots.len().saturating_sub(SNAPSHOTS_KEPT);
    let last_at_most = |limit: Offset| snapshots.iter().rev().find(|as_of| **as_of <= limit);
    let anchors = [last_at_most(log_start), last_at_most(high_watermark)];
    for as_of in snapshots[..newest].iter().filter(|as_of| !anchors.contains(&Some(as_of))) {
        let _ = disk.remove_file(&layout::snapshot_file(&shared.dir, *as_of));
    }
}
