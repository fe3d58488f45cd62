//! Cutting the end off a log: on a replica whose end differs from its leader's.
//!
//! No published byte is changed. The segment that holds the cut is sealed there, what follows is
//! removed, and a new segment begins at the cut; readers who hold slices of what was cut keep them.
//!
//! ```text
//! 0. producer state as of the cut, for the recovery point          (synced)
//! 1. checkpoint: a mark where the segment is cut; the recovery     (synced)
//!    point moves back to the cut
//!      the mark, because the frames behind it are whole and would be taken for the log's end
//!      again whenever nothing follows them; the recovery point, because otherwise a crash would
//!      make the missing end look like damage
//! 2. segments above removed, from the highest down; directory      (synced)
//!      else they come back, and new records may grow up to where one of them fits on
//! 3. what is kept                                                  (synced)
//! ```
//! Then a new segment begins, as with every roll, and the new end may be told.

use std::sync::Arc;

use riverrun_proto::{offset::Offset, timestamp::Timestamp};

use super::{
    checkpoint::{Checkpoint, CutMark, LogPoint},
    checkpointing,
    error::LogError,
    flush, index_files,
    layout::{FileName, SEGMENT_HEADER_BYTES},
    producer_state::{ProducerLimits, ProducerStates},
    reader, readying, replay,
    segment::{OpenSegment, Segment, SegmentEnd},
    segment_list::SegmentList,
    shared::Shared,
    walk::{SCAN_CHUNK_BYTES, Step, Walk, WalkStart},
    work::{Context, Outcome},
};
use crate::io::{SyncPoint, WriteMode};

/// A truncation to be done.
#[derive(Debug)]
pub(super) struct Truncate {
    pub(super) to: Offset,
    pub(super) list: Arc<SegmentList>,
    /// Segments that were sealed and are not known to be durable.
    pub(super) unsynced: Vec<Arc<OpenSegment>>,
    pub(super) ahead: u64,
    pub(super) mode: WriteMode,
    pub(super) limits: ProducerLimits,
    pub(super) now: Timestamp,
}

/// A truncation that is durable.
#[derive(Debug)]
pub(super) struct Truncated {
    pub(super) end: Offset,
    /// Everything below the new segment.
    pub(super) kept: SegmentList,
    /// The segment that was cut, if one was.
    pub(super) cut: Option<Offset>,
    pub(super) active: Arc<OpenSegment>,
    pub(super) producers: ProducerStates,
    pub(super) recovery_point: LogPoint,
}

/// A log to be emptied, to begin anew elsewhere.
#[derive(Debug)]
pub(super) struct Reset {
    pub(super) to: Offset,
}

// === impl Truncate ===

impl Truncate {
    pub(super) fn run(self, context: &Context<'_>) -> Outcome {
        let mut on_disk = context.side.checkpoint.lock();
        let _tail = context.side.tail.lock();
        if context.is_void() {
            return Outcome::Void(super::work::Voided::Other);
        }
        let result = self.cut(context.shared, &mut on_disk);
        Outcome::Truncate(result.map(Box::new))
    }

    fn cut(self, shared: &Shared, on_disk: &mut Checkpoint) -> Result<Truncated, LogError> {
        shared.env.failure.check()?;
        shared.env.counters.truncations.add(1);
        let (cut, point) = self.find_cut(shared)?;
        let mut kept = self.list.below(point.offset);
        if let Some((cut, _)) = &cut {
            kept = kept.below(cut.base()).with(cut.clone());
        }
        let producers =
            replay::producers_at(shared, &kept, point.offset, on_disk.life, self.limits, self.now)?;
        self.mark(shared, on_disk, cut.as_ref(), point, &producers)?;
        remove_from(shared, point.offset)?;
        on_disk.cuts.retain(|cut| cut.segment < point.offset);
        let before = self.unsynced.iter().filter(|open| open.base() < point.offset);
        for open in before.chain(cut.iter().map(|(_, open)| open)) {
            flush::sync_segment(shared, open, SyncPoint::SegmentSealed)?;
        }
        if let Some((segment, open)) = &cut {
            let path = shared.segment_path(segment.base());
            open.file.seal().map_err(|error| shared.failed("sealing", &path, error))?;
        }
        let new = readying::create(shared, point.offset, self.ahead, self.mode)?;
        Ok(Truncated {
            end: point.offset,
            kept,
            cut: cut.map(|(segment, _)| segment.base()),
            active: Arc::new(new),
            producers,
            recovery_point: on_disk.recovery_point,
        })
    }

    /// Moves the recovery point back to the cut, with the snapshot that belongs to it, and marks the
    /// cut.
    fn mark(
        &self,
        shared: &Shared,
        on_disk: &mut Checkpoint,
        cut: Option<&(Arc<Segment>, Arc<OpenSegment>)>,
        point: LogPoint,
        producers: &ProducerStates,
    ) -> Result<(), LogError> {
        let mut next = on_disk.clone();
        if next.recovery_point.offset > point.offset {
            next.recovery_point = point;
            checkpointing::write_snapshot(shared, point.offset, next.life, producers)?;
            flush::sync_dir(shared, SyncPoint::RecoveryFilesDir)?;
        }
        next.high_watermark = next.high_watermark.min(point.offset);
        // Only if it lies within the batch that was cut off with the rest.
        next.log_start = next.log_start.min(point.offset);
        if let Some((segment, open)) = cut {
            let (segment, salt) = (segment.base(), open.salt);
            next.cuts.retain(|cut| cut.segment != segment);
            next.cuts.push(CutMark { segment, salt, end: point.offset });
        }
        if next != *on_disk {
            checkpointing::write_checkpoint(shared, on_disk, next)?;
        }
        Ok(())
    }

    /// The batch boundary at or below `to`, and the segment that ends there as it is from now on.
    #[expect(clippy::type_complexity, reason = "a segment and what is open of it")]
    fn find_cut(
        &self,
        shared: &Shared,
    ) -> Result<(Option<(Arc<Segment>, Arc<OpenSegment>)>, LogPoint), LogError> {
        let below = self.list.below(self.to);
        let Some(last) = below.last() else {
            return Ok((None, LogPoint::start_of_segment(self.to)));
        };
        let open = reader::open_segment(shared, last)?;
        let base = last.base();
        let start = (base, SEGMENT_HEADER_BYTES as u64);
        let (offset, position) = open.offsets.floor(self.to).unwrap_or(start);
        let start = WalkStart {
            position,
            offset,
            end: last.end().map_or_else(|| open.file.published(), |end| end.position),
            verify_below: u64::MAX,
            chunk_bytes: SCAN_CHUNK_BYTES,
        };
        let read = |position, len| open.file.read(position, len).map(Some);
        let mut walk = Walk::new(&open.codec, start, read);
        let mut end = SegmentEnd { offset, position };
        loop {
            let path = || shared.segment_path(base);
            match walk.step().map_err(|error| LogError::io("reading", &path(), error))? {
                Step::Frame(frame) if frame.next <= self.to => {
                    end = SegmentEnd { offset: frame.next, position: walk.position() };
                }
                // What follows goes anyway, be it whole or damaged.
                _ => break,
            }
        }
        let point = LogPoint { offset: end.offset, segment: base, position: end.position };
        if end.offset == base {
            // Nothing of this segment stays: the new one takes its name.
            let before = below.below(base);
            let point = match before.last().and_then(|last| Some((last.base(), last.end()?))) {
                Some((segment, end)) => LogPoint { offset: base, segment, position: end.position },
                None => LogPoint::start_of_segment(base),
            };
            return Ok((None, point));
        }
        if last.end().is_some_and(|known| known.offset == end.offset) {
            return Ok((None, point));
        }
        let cut = OpenSegment::new(open.file.clone(), base, open.salt, open.appended_from);
        let head = index_files::rebuild(
            &cut,
            base,
            end,
            shared.index_interval_bytes(),
            &shared.segment_path(base),
        )?;
        // An index that is not written is made again by whoever misses it.
        let _ = index_files::write(shared.env.disk.as_ref(), &shared.dir, &head, &cut);
        let segment = Arc::new(Segment::sealed(end, &head));
        let cut = Arc::new(cut);
        segment.set_open(cut.clone());
        shared.env.open_segments.admit(&segment, cut.index_bytes());
        Ok((Some((segment, cut)), point))
    }
}

// === impl Reset ===

impl Reset {
    pub(super) fn run(self, context: &Context<'_>) -> Outcome {
        let mut on_disk = context.side.checkpoint.lock();
        let _tail = context.side.tail.lock();
        if context.is_void() {
            return Outcome::Void(super::work::Voided::Other);
        }
        Outcome::Reset(self.empty(context.shared, &mut on_disk))
    }

    fn empty(self, shared: &Shared, on_disk: &mut Checkpoint) -> Result<Offset, LogError> {
        shared.env.failure.check()?;
        // The one step: what is left of the files after a crash lies outside of it, or is of an
        // earlier life.
        let empty = Checkpoint { life: on_disk.life + 1, ..Checkpoint::empty_at(self.to) };
        checkpointing::write_checkpoint(shared, on_disk, empty)?;
        remove(shared, |name| !matches!(name, FileName::Checkpoint | FileName::Meta))?;
        Ok(self.to)
    }
}

/// Removes segments that begin at `from` or later, the highest first, with their indexes, and
/// snapshots of what lies beyond `from`; durably.
fn remove_from(shared: &Shared, from: Offset) -> Result<(), LogError> {
    remove(shared, |name| match name {
        FileName::Segment(base) | FileName::OffsetIndex(base) | FileName::TimeIndex(base) => {
            base >= from
        }
        FileName::Snapshot(as_of) => as_of > from,
        _ => false,
    })
}

/// Removes the files that `doomed` names, the last by name (and so by offset) first; durably.
fn remove(shared: &Shared, doomed: impl Fn(FileName) -> bool) -> Result<(), LogError> {
    let disk = shared.env.disk.as_ref();
    let entries =
        disk.list(&shared.dir).map_err(|error| LogError::io("listing", &shared.dir, error))?;
    let mut is_changed = false;
    for entry in entries.iter().rev() {
        if FileName::parse(&entry.name).is_some_and(&doomed) {
            let path = shared.dir.join(&entry.name);
            disk.remove_file(&path).map_err(|error| shared.failed("removing", &path, error))?;
            is_changed = true;
        }
    }
    if is_changed {
        flush::sync_dir(shared, SyncPoint::SegmentRemovedDir)?;
    }
    Ok(())
}
