//! Group commit: one sync for everything appended until now, however many wait for it.
//!
//! An offset is flushed when the bytes of all batches below it are on the disk *and* the files that
//! hold them have durable names. So a flush syncs every segment with unsynced bytes, and the
//! directory if a segment was created since it last was.

use std::sync::Arc;

use riverrun_proto::offset::Offset;

use super::{
    error::LogError,
    segment::{OpenSegment, Segment, SegmentEnd},
    shared::Shared,
    work::Context,
};
use crate::io::SyncPoint;

/// What is dirty and what is under way; belongs to the log.
#[derive(Debug)]
pub(super) struct FlushState {
    flushed_end: Offset,
    is_running: bool,
    /// Sealed, and not yet covered by a checkpoint. Their handles stay open since before their
    /// first byte was written, so that no write error of theirs goes unseen.
    pub(super) sealed: Vec<SealedSegment>,
    /// How many segment files were created, and of how many the names are durable.
    created: u64,
    names_durable: u64,
}

/// A segment that was sealed by this process.
#[derive(Debug, Clone)]
pub(super) struct SealedSegment {
    pub(super) segment: Arc<Segment>,
    pub(super) open: Arc<OpenSegment>,
    pub(super) end: SegmentEnd,
    pub(super) is_synced: bool,
}

/// A flush under way.
#[derive(Debug)]
pub(super) struct Flush {
    sealed: Vec<Arc<OpenSegment>>,
    active: Option<Arc<OpenSegment>>,
    sync_names: bool,
    flushed: Flushed,
}

/// What a flush made durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flushed {
    pub(super) end: Offset,
    created: u64,
}

// === impl FlushState ===

impl FlushState {
    pub(super) const fn new(flushed_end: Offset) -> Self {
        Self { flushed_end, is_running: false, sealed: Vec::new(), created: 0, names_durable: 0 }
    }

    /// A flush up to `log_end`; `None` if nothing is dirty or one is under way.
    pub(super) fn start(
        &mut self,
        log_end: Offset,
        active: Option<&Arc<OpenSegment>>,
    ) -> Option<Flush> {
        if self.is_running || self.flushed_end >= log_end {
            return None;
        }
        self.is_running = true;
        let dirty = self.sealed.iter().filter(|sealed| !sealed.is_synced);
        Some(Flush {
            sealed: dirty.map(|sealed| sealed.open.clone()).collect(),
            active: active.cloned(),
            sync_names: self.created > self.names_durable,
            flushed: Flushed { end: log_end, created: self.created },
        })
    }

    /// A flush is over, one way or the other.
    pub(super) fn finish(&mut self) {
        self.is_running = false;
    }

    /// Everything below `flushed.end` is durable. Returns the flushed end if it moved.
    pub(super) fn note(&mut self, flushed: Flushed) -> Option<Offset> {
        self.names_durable = self.names_durable.max(flushed.created);
        for sealed in &mut self.sealed {
            sealed.is_synced |= sealed.end.offset <= flushed.end;
        }
        (flushed.end > self.flushed_end).then(|| {
            self.flushed_end = flushed.end;
            flushed.end
        })
    }

    /// What a checkpoint that is taken now makes durable.
    pub(super) const fn would_flush(&self, log_end: Offset) -> Flushed {
        Flushed { end: log_end, created: self.created }
    }

    /// A checkpoint up to `end` is done: what it covers needs no more care.
    pub(super) fn forget_sealed(&mut self, end: Offset) {
        self.sealed.retain(|sealed| sealed.end.offset > end);
    }

    /// A segment file was created; its name is not durable yet.
    pub(super) const fn note_created(&mut self) {
        self.created += 1;
    }

    /// The log was cut to `end` and everything below synced, names too. `cut` is the segment that
    /// was cut, if one was: it has its index already.
    pub(super) fn truncate(&mut self, end: Offset, cut: Option<Offset>) {
        self.flushed_end = end;
        self.names_durable = self.created;
        self.sealed.retain(|sealed| sealed.end.offset <= end && Some(sealed.segment.base()) != cut);
        for sealed in &mut self.sealed {
            sealed.is_synced = true;
        }
    }

    /// Sealed segments that are not known to be durable.
    pub(super) fn unsynced(&self) -> Vec<Arc<OpenSegment>> {
        let unsynced = self.sealed.iter().filter(|sealed| !sealed.is_synced);
        unsynced.map(|sealed| sealed.open.clone()).collect()
    }

    pub(super) const fn flushed_end(&self) -> Offset {
        self.flushed_end
    }
}

// === impl Flush ===

impl Flush {
    pub(super) fn run(self, context: &Context<'_>) -> Result<Flushed, LogError> {
        let shared = context.shared;
        shared.env.failure.check()?;
        for open in &self.sealed {
            sync_segment(shared, open, SyncPoint::SegmentSealed)?;
        }
        if let Some(open) = &self.active {
            sync_segment(shared, open, SyncPoint::SegmentData)?;
        }
        if self.sync_names {
            sync_dir(shared, SyncPoint::SegmentCreatedDir)?;
        }
        shared.env.counters.flushes.add(1);
        Ok(self.flushed)
    }
}

/// Syncs a segment's file; a failure is final for the log directory.
pub(super) fn sync_segment(
    shared: &Shared,
    open: &OpenSegment,
    point: SyncPoint,
) -> Result<(), LogError> {
    let path = shared.segment_path(open.base());
    let result = open.file.sync(point);
    shared
        .env
        .failure
        .of_sync(&path.display().to_string(), result)
        .map_err(|error| LogError::io("syncing", &path, error))
}

/// Syncs the partition's directory; a failure is final for the log directory.
pub(super) fn sync_dir(shared: &Shared, point: SyncPoint) -> Result<(), LogError> {
    let result = shared.env.disk.sync_dir(&shared.dir, point);
    shared
        .env
        .failure
        .of_sync(&shared.dir.display().to_string(), result)
        .map_err(|error| LogError::io("syncing directory", &shared.dir, error))
}
