//! Reading a log, beside the one who appends and without a lock.
//!
//! A reader sees offsets published by the writer (Release/Acquire) and a list of segments that is
//! replaced as a whole. Bytes below a published end never change, so what it slices stays valid for
//! as long as it is held, whatever happens to the segment.
//!
//! **Warm reads** ([`LogReader::read`]) take slices of what is in memory and never wait for a disk.
//! Frames that this process appended are not checked again: their bytes were checked when they came
//! in, they went into the page cache from there, and pages that have left memory since are not
//! warm; base offset, length and epoch order are still compared, and the consumer checks the
//! batch's own CRC-32C. All other frames are checked against the frame's checksum.
//!
//! **Cold reads** ([`ColdRead::run`], [`super::TimestampLookup::run`]) belong on the I/O pool. They check
//! every frame, and are the only ones to report damage: where a warm read meets something odd it
//! asks for a cold one.

use std::{io, sync::Arc};

use bytes::Bytes;
use riverrun_proto::offset::Offset;

use super::{
    error::{Damage, LogError, ReadError},
    frame::FrameFault,
    index_files,
    layout::SEGMENT_HEADER_BYTES,
    segment::{self, OpenSegment, Segment, SegmentEnd},
    shared::Shared,
    walk::{Step, Walk, WalkStart},
};

/// Index entries looked at to find whole batches behind damage.
const RESYNC_ENTRIES_MAX: usize = 256;

/// A log deleted or truncated under a cold read is looked up anew this often.
const ATTEMPTS: usize = 4;

/// Reads one log. Cheap to clone; any number work beside the appends.
#[derive(Debug, Clone)]
pub struct LogReader {
    pub(super) shared: Arc<Shared>,
}

/// What a read found.
#[derive(Debug)]
pub enum Read {
    /// Batches, in order.
    Batches(Batches),
    /// They are not in memory: run this on the I/O pool.
    Cold(ColdRead),
    /// Nothing below the upper bound yet.
    Empty,
}

/// Batches that follow one another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batches {
    /// One batch each, as stored. The first may begin below the offset that was asked for.
    pub batches: Vec<Bytes>,
    /// Where to read on.
    pub next_offset: Offset,
}

/// A read that has to go to the disk.
#[derive(Debug)]
pub struct ColdRead {
    shared: Arc<Shared>,
    ask: Ask,
}

#[derive(Debug, Clone, Copy)]
struct Ask {
    from: Offset,
    upper: Offset,
    max_bytes: usize,
}

/// What a look into one segment gave.
enum Looked {
    Batches(Batches),
    NotResident,
    Fault { offset: Offset, position: u64, fault: FrameFault },
}

// === impl LogReader ===

impl LogReader {
    /// Batches from the one that holds `from`, up to `upper` (exclusive; usually the high
    /// watermark), together at most `max_bytes`, but at least one, which is returned whole even if
    /// it is larger. At most to the end of a segment: less than is there is no sign of an end.
    /// Never blocks.
    pub fn read(&self, from: Offset, upper: Offset, max_bytes: usize) -> Result<Read, ReadError> {
        let ask = Ask { from, upper, max_bytes };
        let Some(ask) = self.shared.bound(ask)? else { return Ok(Read::Empty) };
        let cold = || Ok(Read::Cold(ColdRead { shared: self.shared.clone(), ask }));
        let list = self.shared.segments.load();
        let Some((at, segment)) = list.find(ask.from) else { return cold() };
        let Some(open) = segment.get_open() else { return cold() };
        let end = range_end(segment, &open, list.next_base(at), ask.upper);
        let source = |position, len| Ok(open.file.try_slice(position, len));
        let verify_below = open.appended_from;
        let start = floor(segment, &open, ask.from);
        match look(&open, start, end, ask, verify_below, source) {
            Ok(Looked::Batches(batches)) => {
                self.shared.env.counters.reads_warm.add(1);
                Ok(self.shared.counted(batches))
            }
            _ => cold(),
        }
    }

    /// First offset that may be read.
    pub fn log_start_offset(&self) -> Offset {
        self.shared.log_start()
    }

    /// First offset that is not written yet.
    pub fn log_end_offset(&self) -> Offset {
        self.shared.log_end()
    }
}

// === impl ColdRead ===

impl ColdRead {
    /// How many bytes it may bring, for a budget; the first batch may exceed it.
    pub const fn max_bytes(&self) -> usize {
        self.ask.max_bytes
    }

    /// Reads. Blocks. No batches (and `next_offset` = what was asked) if there is nothing any more,
    /// as after a truncation.
    pub fn run(self) -> Result<Batches, ReadError> {
        let shared = self.shared;
        shared.env.counters.reads_cold.add(1);
        match read_cold(&shared, self.ask)? {
            Some(batches) => {
                shared.counted(batches.clone());
                Ok(batches)
            }
            None => Ok(Batches { batches: Vec::new(), next_offset: self.ask.from }),
        }
    }
}

impl Shared {
    /// Compares what is asked with the log; `None`: there is nothing to read yet.
    fn bound(&self, mut ask: Ask) -> Result<Option<Ask>, ReadError> {
        // The end first: it never lies below a start that is read later, except for a moment while
        // a truncation is under way.
        let end = self.log_end();
        let start = self.log_start();
        if ask.from < start || ask.from > end {
            return Err(ReadError::OutOfRange { start, end });
        }
        ask.upper = ask.upper.min(end);
        Ok((ask.from < ask.upper).then_some(ask))
    }

    fn counted(&self, batches: Batches) -> Read {
        let bytes: usize = batches.batches.iter().map(Bytes::len).sum();
        self.env.counters.bytes_read.add(bytes as u64);
        if batches.batches.is_empty() { Read::Empty } else { Read::Batches(batches) }
    }
}

/// Reads from the disk, with every frame checked. `None`: there is nothing below the bound.
fn read_cold(shared: &Arc<Shared>, ask: Ask) -> Result<Option<Batches>, ReadError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let Some(ask) = shared.bound(ask)? else { return Ok(None) };
        match read_cold_once(shared, ask) {
            // Deleted between our look at the list and our opening of the file: look again.
            Err(ReadError::Log(error)) if error.is_not_found() && attempt < ATTEMPTS => {}
            other => return other.map(Some),
        }
    }
}

fn read_cold_once(shared: &Arc<Shared>, ask: Ask) -> Result<Batches, ReadError> {
    let list = shared.segments.load_full();
    let corrupt = |offset, next_offset, what: String| {
        shared.env.counters.reads_corrupt.add(1);
        Err(Damage { offset, next_offset, what }.into())
    };
    let Some((at, segment)) = list.find(ask.from) else {
        let next = list.as_slice().first().map_or(shared.log_end(), |first| first.base());
        return corrupt(ask.from, next, "the segment is missing".to_owned());
    };
    let next_base = list.next_base(at).unwrap_or_else(|| shared.log_end());
    let open = match open_segment(shared, segment) {
        Ok(open) => open,
        Err(LogError::Format { source, path }) => {
            let what = format!("{}: {source}", path.display());
            return corrupt(ask.from, next_base, what);
        }
        Err(error) if segment::is_too_short(&error) => {
            return corrupt(ask.from, next_base, "the segment file is cut short".to_owned());
        }
        Err(error) => return Err(error.into()),
    };
    let end = range_end(segment, &open, list.next_base(at), ask.upper);
    let mut start = floor(segment, &open, ask.from);
    loop {
        let source = |position, len| open.file.read(position, len).map(Some);
        let looked = look(&open, start, end, ask, u64::MAX, source).map_err(|error| {
            LogError::io("reading", &shared.segment_path(segment.base()), error)
        })?;
        let (offset, position, fault) = match looked {
            Looked::Batches(batches) => return Ok(batches),
            Looked::NotResident => unreachable!("a cold source always has the bytes or an error"),
            Looked::Fault { offset, position, fault } => (offset, position, fault),
        };
        let end = SegmentEnd { offset: next_base, position: end.position };
        match resync(&open, offset, position, end) {
            // The damage lies before what was asked for, which can be read all the same.
            Some(next) if next.0 <= ask.from => start = next,
            next => {
                let next = next.map_or(next_base, |(offset, _)| offset);
                return corrupt(offset.max(ask.from), next, fault.to_string());
            }
        }
    }
}

/// The last index entry at or before an offset, or the beginning of the segment.
fn floor(segment: &Segment, open: &OpenSegment, from: Offset) -> (Offset, u64) {
    open.offsets.floor(from).unwrap_or((segment.base(), SEGMENT_HEADER_BYTES as u64))
}

/// Where the part of a segment ends that may be read.
fn range_end(
    segment: &Segment,
    open: &OpenSegment,
    next_base: Option<Offset>,
    upper: Offset,
) -> SegmentEnd {
    let position = segment.end().map_or_else(|| open.file.published(), |end| end.position);
    SegmentEnd { offset: next_base.map_or(upper, |next| next.min(upper)), position }
}

/// Collects batches of one segment from the one that holds `ask.from`, below `end`; walks there from
/// `start`.
fn look(
    open: &OpenSegment,
    (offset, position): (Offset, u64),
    end: SegmentEnd,
    ask: Ask,
    verify_below: u64,
    source: impl FnMut(u64, usize) -> io::Result<Option<Bytes>>,
) -> io::Result<Looked> {
    // What lies between the index entry and `from` is walked over.
    let slack = 16 * 1024;
    let chunk_bytes = ask.max_bytes.saturating_add(slack);
    let start = WalkStart { position, offset, end: end.position, verify_below, chunk_bytes };
    let mut walk = Walk::new(&open.codec, start, source);
    let mut found = Batches { batches: Vec::new(), next_offset: ask.from };
    let mut room = ask.max_bytes;
    while walk.expected() < end.offset {
        let (offset, position) = (walk.expected(), walk.position());
        match walk.step()? {
            Step::Frame(frame) => {
                if frame.next <= ask.from {
                    continue;
                }
                let fits = found.batches.is_empty() || frame.batch.len() <= room;
                // A batch across the upper bound is not committed as a whole.
                if !fits || frame.next > end.offset {
                    break;
                }
                room = room.saturating_sub(frame.batch.len());
                found.next_offset = frame.next;
                found.batches.push(frame.batch);
            }
            _ if !found.batches.is_empty() => break,
            Step::NotResident => return Ok(Looked::NotResident),
            Step::Fault(fault) => {
                return Ok(Looked::Fault { offset, position, fault });
            }
        }
        if room == 0 {
            break;
        }
    }
    Ok(Looked::Batches(found))
}

/// The first place behind damage from which a whole batch follows, within the segment.
fn resync(
    open: &OpenSegment,
    damaged: Offset,
    position: u64,
    end: SegmentEnd,
) -> Option<(Offset, u64)> {
    let read = |position, len| open.file.read(position, len).map(Some);
    let valid = |offset: Offset, position: u64| {
        let start = WalkStart {
            position,
            offset,
            end: end.position,
            verify_below: u64::MAX,
            chunk_bytes: 0,
        };
        matches!(Walk::new(&open.codec, start, read).step(), Ok(Step::Frame(_)))
    };
    // If only the batch was hit, its frame still says where the next one begins.
    if let Some((offset, position)) = neighbour(open, damaged, position, end.position)
        && offset < end.offset
        && valid(offset, position)
    {
        return Some((offset, position));
    }
    open.offsets
        .beyond(position)
        .take_while(|&(_, position)| position < end.position)
        .take(RESYNC_ENTRIES_MAX)
        .find(|&(offset, position)| offset > damaged && valid(offset, position))
}

/// Base offset and position that the frame behind the damaged one claims.
fn neighbour(
    open: &OpenSegment,
    damaged: Offset,
    position: u64,
    end: u64,
) -> Option<(Offset, u64)> {
    let head = open.file.read(position, super::layout::FRAME_HEADER_BYTES).ok()?;
    let frame = super::frame::FrameHeader::parse(&head).ok()?;
    let next = position + frame.frame_bytes() as u64;
    let at = next + super::layout::FRAME_HEADER_BYTES as u64;
    if at >= end {
        return None;
    }
    let header = open.file.read(at, riverrun_proto::record::HEADER_BYTES).ok()?;
    let header = riverrun_proto::record::BatchHeader::parse(&header).ok()?;
    let offset = Offset::new(header.base_offset)?;
    (offset > damaged).then_some((offset, next))
}

/// What is open of a segment; opens it if need be. Blocks.
pub(super) fn open_segment(
    shared: &Shared,
    segment: &Arc<Segment>,
) -> Result<Arc<OpenSegment>, LogError> {
    if let Some(open) = segment.get_open() {
        return Ok(open);
    }
    let _opening = segment.opening.lock();
    if let Some(open) = segment.get_open() {
        return Ok(open);
    }
    let env = &shared.env;
    let base = segment.base();
    let end = segment.end().expect("what is not sealed is open");
    let (path, file) = segment::open_file(env.disk.as_ref(), &shared.dir, base, end.position)?;
    let header = segment::read_header(file.as_ref(), &path, shared.partition, base)?;
    let mut open = OpenSegment::new(file, base, header.salt, u64::MAX);
    let head = segment.head(header.salt, end);
    match index_files::load(env.disk.as_ref(), &shared.dir, &head)? {
        Some((offsets, times)) => (open.offsets, open.times) = (offsets, times),
        None => {
            env.counters.indexes_rebuilt.add(1);
            index_files::rebuild(&open, base, end, shared.index_interval_bytes(), &path)?;
        }
    }
    let open = Arc::new(open);
    segment.set_open(open.clone());
    env.open_segments.admit(segment, open.index_bytes());
    Ok(open)
}
