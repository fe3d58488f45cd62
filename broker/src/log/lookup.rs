//! Finding offsets by time. Always for the I/O pool: the answer is an exact record, so a batch has
//! to be decoded.
//!
//! Timestamps need not grow with offsets. The answer for a time t is the *first* record, by offset,
//! at or after t, as in Kafka's ListOffsets.

use std::sync::Arc;

use riverrun_proto::{
    limits::BATCH_DECOMPRESSED_BYTES_MAX, offset::Offset, record::RecordBatch, timestamp::Timestamp,
};

use super::{
    error::{Damage, LogError, ReadError},
    frame::FrameFault,
    layout::SEGMENT_HEADER_BYTES,
    reader::{self, LogReader},
    segment::{OpenSegment, Segment},
    shared::Shared,
    walk::{Frame, Step, Walk, WalkStart},
};

/// Bytes read at once: about what lies between two index entries, for batches of usual size.
const LOOKUP_CHUNK_BYTES: usize = 64 * 1024;

/// A question about time that has to be run on the I/O pool.
#[derive(Debug)]
pub struct TimestampLookup {
    shared: Arc<Shared>,
    upper: Offset,
    question: Question,
}

#[derive(Debug, Clone, Copy)]
enum Question {
    FirstAtOrAfter(Timestamp),
    Latest,
}

/// A record, by place and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOffset {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
}

// === impl LogReader ===

impl LogReader {
    /// The first record at or after `time`, below `upper`.
    pub fn offset_for_timestamp(&self, time: Timestamp, upper: Offset) -> TimestampLookup {
        self.lookup(upper, Question::FirstAtOrAfter(time))
    }

    /// The record with the latest timestamp below `upper`; the first of several.
    pub fn max_timestamp(&self, upper: Offset) -> TimestampLookup {
        self.lookup(upper, Question::Latest)
    }

    fn lookup(&self, upper: Offset, question: Question) -> TimestampLookup {
        TimestampLookup { shared: self.shared.clone(), upper, question }
    }
}

// === impl TimestampLookup ===

impl TimestampLookup {
    /// Looks. Blocks. `None`: there is no such record.
    pub fn run(self) -> Result<Option<TimedOffset>, ReadError> {
        let end = self.shared.log_end();
        let range = (self.shared.log_start(), self.upper.min(end));
        match self.question {
            Question::FirstAtOrAfter(time) => first_at_or_after(&self.shared, time, range),
            Question::Latest => latest(&self.shared, range),
        }
    }
}

fn first_at_or_after(
    shared: &Shared,
    time: Timestamp,
    (start, upper): (Offset, Offset),
) -> Result<Option<TimedOffset>, ReadError> {
    let list = shared.segments.load_full();
    for (at, segment) in list.as_slice().iter().enumerate() {
        let end = list.next_base(at).unwrap_or(upper).min(upper);
        if end <= start || segment.max_timestamp() < time {
            continue;
        }
        let Some(open) = open(shared, segment)? else { continue };
        let from = open.times.look_from(time).max(start);
        let mut found = None;
        let matches = |frame: Frame| {
            if frame.header.max_timestamp >= time {
                for_each_record(&frame, |record| {
                    let counts = record.offset >= start && record.offset < upper;
                    found = (counts && record.timestamp >= time).then_some(record);
                    found.is_some()
                })?;
            }
            Ok(found.is_some())
        };
        walk(shared, segment, &open, (from, end), matches)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn latest(
    shared: &Shared,
    (start, upper): (Offset, Offset),
) -> Result<Option<TimedOffset>, ReadError> {
    let list = shared.segments.load_full();
    let mut best: Option<TimedOffset> = None;
    for (at, segment) in list.as_slice().iter().enumerate() {
        let end = list.next_base(at).unwrap_or(upper).min(upper);
        let is_better = best.is_none_or(|best| segment.max_timestamp() > best.timestamp);
        if end <= start || !is_better {
            continue;
        }
        let Some(open) = open(shared, segment)? else { continue };
        // The segment's latest batch if all of it counts; else the latest of the part that does.
        let known = segment.max_timestamp_at();
        let whole = segment.base() >= start && list.next_base(at).is_some_and(|next| next <= end);
        let from = if whole { known } else { start.max(segment.base()) };
        let better = |frame: Frame| {
            if best.is_none_or(|best| frame.header.max_timestamp > best.timestamp) {
                // Not the header's word for it: of a batch across the log start offset, some of the
                // records count and some do not.
                for_each_record(&frame, |record| {
                    let counts = record.offset >= start && record.offset < upper;
                    if counts && best.is_none_or(|best| record.timestamp > best.timestamp) {
                        best = Some(record);
                    }
                    counts && record.timestamp == frame.header.max_timestamp
                })?;
            }
            Ok(whole)
        };
        walk(shared, segment, &open, (from, end), better)?;
    }
    Ok(best)
}

/// `None` if the segment was deleted meanwhile.
fn open(shared: &Shared, segment: &Arc<Segment>) -> Result<Option<Arc<OpenSegment>>, ReadError> {
    match reader::open_segment(shared, segment) {
        Ok(open) => Ok(Some(open)),
        Err(error) if error.is_not_found() && segment.base() < shared.log_start() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Shows `seen` the frames of a segment that reach into `from..end`, until it says `true`.
fn walk(
    shared: &Shared,
    segment: &Segment,
    open: &OpenSegment,
    (from, end): (Offset, Offset),
    mut seen: impl FnMut(Frame) -> Result<bool, ReadError>,
) -> Result<(), ReadError> {
    let start = (segment.base(), SEGMENT_HEADER_BYTES as u64);
    let (offset, position) = open.offsets.floor(from).unwrap_or(start);
    let end_position = segment.end().map_or_else(|| open.file.published(), |end| end.position);
    let start = WalkStart {
        position,
        offset,
        end: end_position,
        verify_below: u64::MAX,
        chunk_bytes: LOOKUP_CHUNK_BYTES,
    };
    let read = |position, len| open.file.read(position, len).map(Some);
    let mut walk = Walk::new(&open.codec, start, read);
    while walk.expected() < end {
        let offset = walk.expected();
        let path = || shared.segment_path(segment.base());
        match walk.step().map_err(|error| LogError::io("reading", &path(), error))? {
            Step::Frame(frame) if frame.next <= from => {}
            Step::Frame(frame) => {
                if seen(frame)? {
                    break;
                }
            }
            Step::Fault(fault) => {
                shared.env.counters.reads_corrupt.add(1);
                return Err(damage(offset, end, &fault));
            }
            Step::NotResident => unreachable!("a cold source always has the bytes or an error"),
        }
    }
    Ok(())
}

/// Shows `seen` the records of a batch, until it says `true`.
fn for_each_record(
    frame: &Frame,
    mut seen: impl FnMut(TimedOffset) -> bool,
) -> Result<(), ReadError> {
    let undecodable = |what: String| -> ReadError {
        Damage { offset: frame.base, next_offset: frame.next, what }.into()
    };
    let batch = RecordBatch::parse_stored(frame.batch.clone())
        .map_err(|error| undecodable(error.to_string()))?;
    let records = batch
        .records(BATCH_DECOMPRESSED_BYTES_MAX)
        .map_err(|error| undecodable(error.to_string()))?;
    for record in &records {
        let record = record.map_err(|error| undecodable(error.to_string()))?;
        if seen(TimedOffset { offset: record.offset, timestamp: record.timestamp }) {
            break;
        }
    }
    Ok(())
}

fn damage(offset: Offset, next_offset: Offset, fault: &FrameFault) -> ReadError {
    Damage { offset, next_offset, what: fault.to_string() }.into()
}
