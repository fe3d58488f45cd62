//! The part of [recovery](super::recovery) that looks at segments: which of them belong to the log,
//! where each ends, where the log ends.

use std::sync::Arc;

use riverrun_proto::offset::Offset;

use super::{
    checkpoint::{Checkpoint, LogPoint},
    envelope::FormatError,
    error::{Damage, LogError},
    frame::FrameFault,
    index::IndexHead,
    index_files,
    inventory::Inventory,
    layout::{self, SEGMENT_HEADER_BYTES},
    recovery::{Cut, RecoveryReport},
    segment::{self, IndexWriter, OpenSegment, Segment, SegmentEnd},
    segment_header::SegmentHeader,
    segment_list::SegmentList,
    shared::Shared,
    walk::{SCAN_CHUNK_BYTES, Step, Walk, WalkStart},
};

/// What is known before looking.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    pub(super) shared: &'a Shared,
    pub(super) checkpoint: Checkpoint,
    /// The last process that had the log open says that it closed it.
    pub(super) clean: bool,
    /// The checkpoint is made up.
    pub(super) lost: bool,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) list: SegmentList,
    pub(super) log_start: Offset,
    pub(super) log_end: Offset,
    pub(super) recovery_point: LogPoint,
    /// The last segment may be appended to again.
    pub(super) reopen: bool,
    pub(super) damage: Option<Damage>,
    /// Segments that were read: what of them is kept has to be made durable.
    pub(super) touched: Vec<(Arc<Segment>, Arc<OpenSegment>)>,
    /// The directory has changed, or has names that may not be durable.
    pub(super) is_changed: bool,
}

/// A segment that was read.
struct Found {
    segment: Arc<Segment>,
    open: Arc<OpenSegment>,
    end: SegmentEnd,
    fault: FrameFault,
}

/// What a segment file turned out to be.
enum Look {
    Found(Found),
    NoHeader(String),
}

// === impl Scan ===

impl Scan<'_> {
    pub(super) fn run(
        mut self,
        found: Inventory,
        report: &mut RecoveryReport,
    ) -> Result<Scanned, LogError> {
        let mut out = Scanned {
            list: SegmentList::default(),
            log_start: self.checkpoint.log_start,
            log_end: self.checkpoint.log_start,
            recovery_point: self.checkpoint.recovery_point,
            reopen: false,
            damage: None,
            touched: Vec::new(),
            is_changed: self.lost,
        };
        let live = self.remove_dead(&found)?;
        self.remove_future_snapshots(&found, &mut out)?;
        self.find_start(&live, &mut out);
        let point = self.checkpoint.recovery_point;
        let below = live.partition_point(|(base, _)| *base < point.segment);
        let mut segments = Vec::new();
        for (at, &(base, len)) in live[..below].iter().enumerate() {
            let end = live.get(at + 1).map_or(point.segment, |(next, _)| *next);
            let end = end.min(point.segment);
            segments.push(self.look_below(base, len, end, &mut out, report)?);
        }
        if live.get(below).is_none_or(|(base, _)| *base != point.segment)
            && point.offset > point.segment
            && !self.is_deleted(point.offset, &out)
        {
            let what = "its segment is missing".to_owned();
            out.note_damage(point.segment, point.offset, what);
        }
        out.log_end = point.offset;
        self.look_above(&live[below..], &mut segments, &mut out, report)?;
        out.list = SegmentList::new(segments);
        self.settle(&mut out, report);
        Ok(out)
    }

    /// Segments that lie below the log start offset as a whole are deleted, whether or not their
    /// removal survived. Their removal need not survive now either.
    fn remove_dead(&self, found: &Inventory) -> Result<Vec<(Offset, u64)>, LogError> {
        let Checkpoint { recovery_point, log_start, .. } = self.checkpoint;
        let all = &found.segments;
        let is_dead = |&(at, &(base, _)): &(usize, &(Offset, u64))| {
            // The last one ends at the latest where the recovery point's segment begins.
            let next = all.get(at + 1).map(|(next, _)| *next);
            let end = next.or_else(|| Some(recovery_point.segment).filter(|next| *next > base));
            end.is_some_and(|end| end <= log_start)
        };
        let dead = all.iter().enumerate().take_while(is_dead).count();
        let (dead, live) = all.split_at(dead);
        let bases: Vec<_> = dead.iter().map(|(base, _)| *base).collect();
        let disk = self.shared.env.disk.as_ref();
        Inventory::remove_segments(disk, &self.shared.dir, &bases)?;
        found.remove_leftovers(disk, &self.shared.dir, live);
        Ok(live.to_vec())
    }

    /// A snapshot beyond the recovery point may be of records that are gone; it must not be found
    /// by a later open when other records have taken their place.
    fn remove_future_snapshots(
        &self,
        found: &Inventory,
        out: &mut Scanned,
    ) -> Result<(), LogError> {
        let limit = self.checkpoint.recovery_point.offset;
        for as_of in found.snapshots.iter().filter(|as_of| **as_of > limit) {
            let path = layout::snapshot_file(&self.shared.dir, *as_of);
            let removed = self.shared.env.disk.remove_file(&path);
            removed.map_err(|error| LogError::io("removing", &path, error))?;
            out.is_changed = true;
        }
        Ok(())
    }

    /// Compares where the log should begin with where it does, and moves the recovery point to a
    /// segment that is still there.
    fn find_start(&mut self, live: &[(Offset, u64)], out: &mut Scanned) {
        let Checkpoint { recovery_point: point, log_start, .. } = self.checkpoint;
        let first = live.first().map(|(base, _)| *base);
        let is_missing = first.is_none_or(|first| first > log_start);
        if is_missing && point.offset > log_start {
            let next = first.unwrap_or(point.offset).min(point.offset);
            out.note_damage(log_start, next, "its segment is missing".to_owned());
        }
        if point.offset <= log_start {
            // What the recovery point speaks of is deleted; nothing is known of what follows.
            let start = first.filter(|first| *first <= log_start).unwrap_or(log_start);
            if point.segment != start || is_missing {
                self.checkpoint.recovery_point = LogPoint::start_of_segment(start);
            }
        }
    }

    fn is_deleted(&self, offset: Offset, out: &Scanned) -> bool {
        offset <= out.log_start
    }

    /// A segment that ends below the recovery point, at `end`. Its index says all there is to know;
    /// it is read only if that is not to be believed.
    fn look_below(
        &self,
        base: Offset,
        len: u64,
        end: Offset,
        out: &mut Scanned,
        report: &mut RecoveryReport,
    ) -> Result<Arc<Segment>, LogError> {
        let (disk, dir) = (self.shared.env.disk.as_ref(), &self.shared.dir);
        if let Some(head) = index_files::read_head(disk, dir, base)?
            && head.end_offset == end
            && len >= head.end_position
        {
            let end = SegmentEnd { offset: end, position: head.end_position };
            return Ok(Arc::new(Segment::sealed(end, &head)));
        }
        let (path, file) = segment::open_file(disk, dir, base, 0)?;
        let header = match self.header(file.as_ref(), base)? {
            Ok(header) => header,
            Err(what) => {
                out.note_damage(base, end, what);
                return Ok(Arc::new(unreadable(base, SegmentEnd { offset: end, position: len })));
            }
        };
        let open = OpenSegment::new(file, base, header.salt, u64::MAX);
        let limit = SegmentEnd { offset: end, position: len };
        let interval = self.shared.index_interval_bytes();
        let head = index_files::rebuild(&open, base, limit, interval, &path)?;
        report.rebuilt_indexes.push(base);
        self.shared.env.counters.indexes_rebuilt.add(1);
        let mut position = head.end_position;
        if head.end_offset < end {
            let what = "a frame is missing or broken".to_owned();
            out.note_damage(head.end_offset, end, what);
            position = len;
        }
        let end = SegmentEnd { offset: end, position };
        self.reopened(open, end, &head, out)
    }

    /// The segment of the recovery point, and those behind it.
    fn look_above(
        &self,
        live: &[(Offset, u64)],
        segments: &mut Vec<Arc<Segment>>,
        out: &mut Scanned,
        report: &mut RecoveryReport,
    ) -> Result<(), LogError> {
        let point = self.checkpoint.recovery_point;
        for (at, &(base, len)) in live.iter().enumerate() {
            let next = live.get(at + 1).map(|(next, _)| *next);
            let from = if base == point.segment {
                point
            } else if base == out.log_end {
                LogPoint::start_of_segment(base)
            } else {
                return self.cut(&live[at..], out, report);
            };
            if self.clean
                && next.is_none()
                && len == from.position
                && from == point
                && let Some(segment) = self.look_at_clean_end(base)?
            {
                segments.push(segment);
                out.reopen = true;
                return Ok(());
            }
            let found = match self.look_from(base, len, from, next, out, report)? {
                Look::Found(found) => found,
                Look::NoHeader(what) if from.offset > base => {
                    out.note_damage(base, from.offset, what);
                    let end = SegmentEnd { offset: from.offset, position: len };
                    segments.push(Arc::new(unreadable(base, end)));
                    return self.cut(&live[at + 1..], out, report);
                }
                Look::NoHeader(_) => return self.cut(&live[at..], out, report),
            };
            out.log_end = found.end.offset;
            out.is_changed |= found.end.offset > point.offset;
            if found.fault != FrameFault::Nothing && next != Some(found.end.offset) {
                let (offset, position) = (found.end.offset, found.end.position);
                let what = found.fault.to_string();
                report.cut = Some(Cut { offset, segment: base, position, what });
                out.is_changed = true;
            }
            if found.end.offset == base {
                return self.cut(&live[at..], out, report);
            }
            segments.push(found.segment.clone());
            out.touched.push((found.segment, found.open));
            match next {
                Some(next) if next != out.log_end && self.lost => {
                    // Nothing says that this was a torn tail; so it counts as damage.
                    let what = "a frame is missing or broken".to_owned();
                    out.note_damage(out.log_end, next, what);
                    report.cut = None;
                    out.log_end = next;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what follows the end of the log.
    fn cut(
        &self,
        behind: &[(Offset, u64)],
        out: &mut Scanned,
        report: &mut RecoveryReport,
    ) -> Result<(), LogError> {
        let bases: Vec<_> = behind.iter().map(|(base, _)| *base).collect();
        let disk = self.shared.env.disk.as_ref();
        Inventory::remove_segments(disk, &self.shared.dir, &bases)?;
        // A lone segment without a frame is what every crash after a roll leaves.
        out.is_changed |= bases.len() > 1 || bases.first().is_some_and(|b| *b != out.log_end);
        report.removed_segments.extend(bases);
        Ok(())
    }

    /// The last segment after a clean stop, by its index alone. One that was cut is never appended to
    /// again: what is behind the mark does not belong to the log.
    fn look_at_clean_end(&self, base: Offset) -> Result<Option<Arc<Segment>>, LogError> {
        let point = self.checkpoint.recovery_point;
        let (disk, dir) = (self.shared.env.disk.as_ref(), &self.shared.dir);
        let head = index_files::read_head(disk, dir, base)?;
        let is_end = |head: &IndexHead| {
            head.end_offset == point.offset
                && head.end_position == point.position
                && self.checkpoint.cut_of(base, head.salt).is_none()
        };
        let end = SegmentEnd { offset: point.offset, position: point.position };
        Ok(head.filter(is_end).map(|head| Arc::new(Segment::sealed(end, &head))))
    }

    /// Reads a segment from `from` to its end, at the latest to `next`.
    fn look_from(
        &self,
        base: Offset,
        len: u64,
        from: LogPoint,
        next: Option<Offset>,
        out: &mut Scanned,
        report: &mut RecoveryReport,
    ) -> Result<Look, LogError> {
        let (disk, dir) = (self.shared.env.disk.as_ref(), &self.shared.dir);
        let (path, file) = segment::open_file(disk, dir, base, 0)?;
        let header = match self.header(file.as_ref(), base)? {
            Ok(header) => header,
            Err(what) => return Ok(Look::NoHeader(what)),
        };
        let mut open = OpenSegment::new(file, base, header.salt, u64::MAX);
        // What a truncation has cut off is whole, and yet no part of the log.
        let cut = self.checkpoint.cut_of(base, header.salt);
        let next = cut.map_or(next, |cut| Some(next.map_or(cut, |next| next.min(cut))));
        let start = SegmentEnd { offset: from.offset, position: from.position };
        let mut head = index_files::empty_head(base, &open);
        if from.position > SEGMENT_HEADER_BYTES as u64 {
            head = self.load_index(&mut open, base, len, start, out, report)?;
        }
        let summary = Segment::sealed(start, &head);
        let start = WalkStart {
            position: from.position,
            offset: from.offset,
            end: len.max(from.position),
            verify_below: u64::MAX,
            chunk_bytes: SCAN_CHUNK_BYTES,
        };
        let mut end = SegmentEnd { offset: from.offset, position: from.position };
        let read = |position, len| open.file.read(position, len).map(Some);
        let mut walk = Walk::new(&open.codec, start, read);
        let mut writer = IndexWriter::new(self.shared.index_interval_bytes());
        let fault = loop {
            if next.is_some_and(|next| end.offset >= next) {
                break FrameFault::Nothing;
            }
            match walk.step().map_err(|error| LogError::io("reading", &path, error))? {
                Step::Frame(frame) if next.is_none_or(|next| frame.next <= next) => {
                    writer.note_found(&summary, &open, &frame);
                    report.scanned_bytes += frame.bytes();
                    end = SegmentEnd { offset: frame.next, position: walk.position() };
                }
                Step::Frame(frame) => {
                    let (expected, found) = (frame.base, frame.base.get());
                    break FrameFault::Offset { expected, found };
                }
                Step::Fault(fault) => break fault,
                Step::NotResident => unreachable!("a file always has the bytes or an error"),
            }
        };
        drop(walk);
        // A file that was cut short below the recovery point has no bytes up to it.
        end.position = end.position.min(len);
        let head = summary.head(header.salt, end);
        let segment = self.reopened(open, end, &head, out)?;
        let open = segment.get_open().expect("just opened");
        Ok(Look::Found(Found { segment, open, end, fault }))
    }

    /// The indexes of the part that is durable, from their files or from that part.
    fn load_index(
        &self,
        open: &mut OpenSegment,
        base: Offset,
        len: u64,
        end: SegmentEnd,
        out: &mut Scanned,
        report: &mut RecoveryReport,
    ) -> Result<IndexHead, LogError> {
        let (disk, dir) = (self.shared.env.disk.as_ref(), &self.shared.dir);
        // A file that does not reach that far has lost something: what, only its frames can tell.
        if len >= end.position
            && let Some(head) = index_files::read_head(disk, dir, base)?
            && head.salt == open.salt
            && (head.end_offset, head.end_position) == (end.offset, end.position)
            && let Some((offsets, times)) = index_files::load(disk, dir, &head)?
        {
            (open.offsets, open.times) = (offsets, times);
            return Ok(head);
        }
        let path = self.shared.segment_path(base);
        let interval = self.shared.index_interval_bytes();
        let head = index_files::rebuild(open, base, end, interval, &path)?;
        report.rebuilt_indexes.push(base);
        self.shared.env.counters.indexes_rebuilt.add(1);
        out.is_changed = true;
        if head.end_offset < end.offset {
            let what = "a frame is missing or broken".to_owned();
            out.note_damage(head.end_offset, end.offset, what);
        }
        Ok(head)
    }

    /// The header, or why it is none. A newer format is an error: whoever wrote it knows better.
    fn header(
        &self,
        file: &dyn crate::io::SegmentFile,
        base: Offset,
    ) -> Result<Result<SegmentHeader, String>, LogError> {
        let path = self.shared.segment_path(base);
        match segment::read_header(file, &path, self.shared.partition, base) {
            Ok(header) => Ok(Ok(header)),
            Err(LogError::Format { source: FormatError::Broken(what), .. }) => {
                Ok(Err(format!("the header of its segment: {what}")))
            }
            Err(error) => Err(error),
        }
    }

    /// A segment whose end is known now, open up to it.
    fn reopened(
        &self,
        open: OpenSegment,
        end: SegmentEnd,
        head: &IndexHead,
        out: &mut Scanned,
    ) -> Result<Arc<Segment>, LogError> {
        let env = &self.shared.env;
        let base = open.base();
        let (_, file) =
            segment::open_file(env.disk.as_ref(), &self.shared.dir, base, end.position)?;
        let open = Arc::new(OpenSegment { file, ..open });
        let segment = Arc::new(Segment::sealed(end, head));
        segment.set_open(open.clone());
        env.open_segments.admit(&segment, open.index_bytes());
        if !out.touched.iter().any(|(touched, _)| touched.base() == base) {
            out.touched.push((segment.clone(), open));
        }
        Ok(segment)
    }

    /// Last looks: a log never ends before it begins.
    fn settle(&self, out: &mut Scanned, report: &mut RecoveryReport) {
        if out.log_end < out.log_start {
            // Deleted records were not durable yet, and are gone; so is nothing else.
            let bases: Vec<_> = out.list.as_slice().iter().map(|one| one.base()).collect();
            // What stays behind is below the log start offset and goes with the next open.
            let disk = self.shared.env.disk.as_ref();
            let _ = Inventory::remove_segments(disk, &self.shared.dir, &bases);
            report.removed_segments.extend(bases);
            out.list = SegmentList::default();
            out.touched.clear();
            out.log_end = out.log_start;
            out.is_changed = true;
            out.reopen = false;
        }
        out.recovery_point = self.checkpoint.recovery_point;
        report.was_clean = self.clean
            && !out.is_changed
            && out.damage.is_none()
            && report.cut.is_none()
            && out.touched.is_empty();
    }
}

// === impl Scanned ===

impl Scanned {
    /// The first damage stands for all.
    fn note_damage(&mut self, offset: Offset, next_offset: Offset, what: String) {
        let found = Damage { offset, next_offset, what };
        if self.damage.as_ref().is_none_or(|known| found.offset < known.offset) {
            self.damage = Some(found);
        }
    }
}

/// A segment of which nothing can be read.
fn unreadable(base: Offset, end: SegmentEnd) -> Segment {
    let head = IndexHead {
        base,
        salt: super::frame::Salt::new(0),
        end_offset: end.offset,
        end_position: end.position,
        max_timestamp: riverrun_proto::timestamp::Timestamp::from_millis(i64::MIN),
        max_timestamp_at: base,
    };
    Segment::sealed(end, &head)
}
