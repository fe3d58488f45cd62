//! One segment: a data file, two indexes, and where it ends.
//!
//! A segment is active (the last one, growing) or sealed (its end stands fast). A sealed one is
//! opened on its first read, by the I/O pool, and closed again by [`OpenSegments`] when too many
//! are open: a log costs no map and no handle for history that nobody reads.
//!
//! The end of a segment is where the next one begins, whatever its file holds behind that: after a
//! truncation frames may lie there that no longer belong to the log.
//!
//! [`OpenSegments`]: super::open_segments::OpenSegments

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use riverrun_proto::{ids::TopicPartition, offset::Offset, timestamp::Timestamp};

use super::{
    error::LogError,
    frame::{FrameCodec, Salt},
    index::IndexHead,
    layout::{self, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES},
    offset_index::OffsetIndex,
    segment_header::SegmentHeader,
    time_index::TimeIndex,
    walk::Frame,
};
use crate::io::{Access, Disk, SegmentFile};

/// Where a sealed segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentEnd {
    /// The first offset that is not in it.
    pub(super) offset: Offset,
    /// Where its frames end in the file.
    pub(super) position: u64,
}

/// A segment of a log; shared by the log and its readers.
#[derive(Debug)]
pub(super) struct Segment {
    base: Offset,
    /// Set once, when sealed.
    end: OnceLock<SegmentEnd>,
    latest: Latest,
    open: ArcSwapOption<OpenSegment>,
    /// Held by the one who opens it.
    pub(super) opening: Mutex<()>,
    /// Read since [`super::open_segments::OpenSegments`] last looked.
    used: AtomicBool,
}

/// The latest timestamp of a segment. Its two halves are written one after the other: who needs
/// them to match looks into the batch.
#[derive(Debug)]
struct Latest {
    timestamp: AtomicI64,
    at: AtomicI64,
}

/// What is there while a segment can be read.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) salt: Salt,
    pub(super) codec: FrameCodec,
    pub(super) offsets: OffsetIndex,
    pub(super) times: TimeIndex,
    /// Frames from this position on were appended by this process.
    pub(super) appended_from: u64,
}

// === impl Segment ===

impl Segment {
    /// One that is appended to.
    pub(super) fn active(base: Offset, open: Arc<OpenSegment>) -> Self {
        let segment = Self::closed(base, Timestamp::NONE, base);
        segment.latest.timestamp.store(i64::MIN, Ordering::Relaxed);
        segment.open.store(Some(open));
        segment
    }

    /// One that ends at `end`, by the head of its index.
    pub(super) fn sealed(end: SegmentEnd, head: &IndexHead) -> Self {
        let segment = Self::closed(head.base, head.max_timestamp, head.max_timestamp_at);
        let _ = segment.end.set(end);
        segment
    }

    fn closed(base: Offset, latest: Timestamp, at: Offset) -> Self {
        Self {
            base,
            end: OnceLock::new(),
            latest: Latest {
                timestamp: AtomicI64::new(latest.as_millis()),
                at: AtomicI64::new(at.get()),
            },
            open: ArcSwapOption::empty(),
            opening: Mutex::new(()),
            used: AtomicBool::new(false),
        }
    }

    /// From now on it ends there. The first end stays.
    pub(super) fn seal(&self, end: SegmentEnd) {
        let _ = self.end.set(end);
    }

    /// Follows a batch that was appended. Only the one writer calls this.
    pub(super) fn note_timestamp(&self, timestamp: Timestamp, base: Offset) {
        if timestamp > self.max_timestamp() {
            self.latest.at.store(base.get(), Ordering::Relaxed);
            self.latest.timestamp.store(timestamp.as_millis(), Ordering::Release);
        }
    }

    pub(super) fn set_open(&self, open: Arc<OpenSegment>) {
        self.open.store(Some(open));
    }

    /// What is open of it, if it is.
    pub(super) fn get_open(&self) -> Option<Arc<OpenSegment>> {
        let open = self.open.load_full();
        if open.is_some() && !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        open
    }

    /// Lets go of map and handle; whoever reads just now finishes.
    pub(super) fn close(&self) {
        self.open.store(None);
    }

    /// Whether it was read since this was last asked.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Offset of its first record; names its files.
    pub(super) const fn base(&self) -> Offset {
        self.base
    }

    /// Where it ends; `None` while active.
    pub(super) fn end(&self) -> Option<SegmentEnd> {
        self.end.get().copied()
    }

    /// The latest timestamp in it; far in the past if there is none.
    pub(super) fn max_timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.latest.timestamp.load(Ordering::Acquire))
    }

    /// Base offset of the batch that has it.
    pub(super) fn max_timestamp_at(&self) -> Offset {
        Offset::new(self.latest.at.load(Ordering::Relaxed)).unwrap_or(self.base)
    }

    /// Bytes of its file that belong to the log, header included.
    pub(super) fn size_bytes(&self) -> u64 {
        match self.end.get() {
            Some(end) => end.position,
            None => self
                .open
                .load()
                .as_ref()
                .map_or(SEGMENT_HEADER_BYTES as u64, |open| open.file.published()),
        }
    }

    /// Summary for the index files, of what lies below `end`.
    pub(super) fn head(&self, salt: Salt, end: SegmentEnd) -> IndexHead {
        IndexHead {
            base: self.base,
            salt,
            end_offset: end.offset,
            end_position: end.position,
            max_timestamp: self.max_timestamp(),
            max_timestamp_at: self.max_timestamp_at(),
        }
    }
}

// === impl OpenSegment ===

impl OpenSegment {
    /// With empty indexes, for a file whose header is known.
    pub(super) fn new(
        file: Arc<dyn SegmentFile>,
        base: Offset,
        salt: Salt,
        appended_from: u64,
    ) -> Self {
        Self {
            file,
            salt,
            codec: FrameCodec::new(salt),
            offsets: OffsetIndex::new(base),
            times: TimeIndex::new(base),
            appended_from,
        }
    }

    /// Base offset of the segment.
    pub(super) const fn base(&self) -> Offset {
        self.offsets.base()
    }

    /// Memory its indexes take, in bytes.
    pub(super) fn index_bytes(&self) -> usize {
        self.offsets.numbers().memory_bytes() + self.times.numbers().memory_bytes()
    }
}

/// Decides which batches get index entries; belongs to the one writer of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexWriter {
    interval: u64,
    since: u64,
}

impl IndexWriter {
    pub(super) fn new(interval_bytes: u32) -> Self {
        Self { interval: interval_bytes.max(1).into(), since: 0 }
    }

    /// Follows a batch of `batch_bytes` at `position`; to be called before the segment's latest
    /// timestamp takes the batch in.
    pub(super) fn note(
        &mut self,
        segment: &Segment,
        open: &OpenSegment,
        base: Offset,
        position: u64,
        batch_bytes: usize,
    ) {
        if self.since >= self.interval {
            open.offsets.push(base, position);
            open.times.push(segment.max_timestamp(), base);
            self.since = 0;
        }
        self.since += (FRAME_HEADER_BYTES + batch_bytes) as u64;
    }

    /// As [`Self::note`], for a frame that was found, and takes its timestamp in.
    pub(super) fn note_found(&mut self, segment: &Segment, open: &OpenSegment, frame: &Frame) {
        self.note(segment, open, frame.base, frame.position, frame.batch.len());
        segment.note_timestamp(frame.header.max_timestamp, frame.base);
    }
}

/// Reads and checks a segment's header.
pub(super) fn read_header(
    file: &dyn SegmentFile,
    path: &Path,
    partition: TopicPartition,
    base: Offset,
) -> Result<SegmentHeader, LogError> {
    let bytes = file
        .read(0, SEGMENT_HEADER_BYTES)
        .map_err(|error| LogError::io("reading the header of", path, error))?;
    SegmentHeader::decode(&bytes, partition, base)
        .map_err(|source| LogError::Format { path: path.to_owned(), source })
}

/// Opens a segment's file for reading; what lies below `published` may be sliced.
pub(super) fn open_file(
    disk: &dyn Disk,
    dir: &Path,
    base: Offset,
    published: u64,
) -> Result<(PathBuf, Arc<dyn SegmentFile>), LogError> {
    let path = layout::segment_file(dir, base);
    match disk.open_segment(&path, published, Access::Read) {
        Ok(file) => Ok((path, file)),
        Err(error) => Err(LogError::io("opening", &path, error)),
    }
}

/// Whether a file ends before what it is supposed to have.
pub(super) fn is_too_short(error: &LogError) -> bool {
    matches!(error, LogError::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof)
}
