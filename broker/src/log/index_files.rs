//! The two index files of a segment: written, read back if they are believed, made again if not.

use std::path::Path;

use riverrun_proto::{offset::Offset, timestamp::Timestamp};

use super::{
    envelope::FormatError,
    error::LogError,
    index::{INDEX_BYTES_MAX, INDEX_HEAD_BYTES, IndexHead},
    layout::{self, FileKind, SEGMENT_HEADER_BYTES},
    offset_index::OffsetIndex,
    segment::{IndexWriter, OpenSegment, Segment, SegmentEnd},
    time_index::TimeIndex,
    walk::{SCAN_CHUNK_BYTES, Step, Walk, WalkStart},
};
use crate::io::{Disk, SyncPoint, dir};

/// Writes both files, for what lies below `head`'s end. Their names are durable once the directory
/// is synced.
pub(super) fn write(
    disk: &dyn Disk,
    dir: &Path,
    head: &IndexHead,
    open: &OpenSegment,
) -> Result<(), LogError> {
    // The segment may be growing: entries beyond the end are for the next file.
    let mut offsets = open.offsets.numbers().to_vec();
    offsets.retain(|number| number & u64::from(u32::MAX) < head.end_position);
    let below = head.end_offset.distance_from(head.base);
    let mut times = open.times.numbers().to_vec();
    let pairs = times.as_chunks::<2>().0.iter().take_while(|pair| pair[1] < below).count();
    times.truncate(2 * pairs);
    for (path, kind, numbers) in [
        (layout::offset_index_file(dir, head.base), FileKind::OffsetIndex, offsets),
        (layout::time_index_file(dir, head.base), FileKind::TimeIndex, times),
    ] {
        let bytes = head.encode(kind, &numbers);
        dir::replace(disk, &path, &bytes, SyncPoint::IndexFile)
            .map_err(|error| LogError::io("writing", &path, error))?;
    }
    Ok(())
}

/// The head of a segment's offset index; `None` if there is none to believe.
pub(super) fn read_head(
    disk: &dyn Disk,
    dir: &Path,
    base: Offset,
) -> Result<Option<IndexHead>, LogError> {
    let path = layout::offset_index_file(dir, base);
    let failed = |error| LogError::io("reading", &path, error);
    let file = match disk.open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut bytes = [0; INDEX_HEAD_BYTES];
    let read = file.read_at(&mut bytes, 0).map_err(failed)?;
    let decoded = IndexHead::decode(FileKind::OffsetIndex, &bytes[..read]);
    Ok(believed(&path, decoded)?.filter(|head| head.base == base))
}

/// Both indexes of a segment, if the files are whole and of this very segment up to `end`.
pub(super) fn load(
    disk: &dyn Disk,
    dir: &Path,
    head: &IndexHead,
) -> Result<Option<(OffsetIndex, TimeIndex)>, LogError> {
    let numbers = |path: &Path, kind| {
        let bytes = match dir::read_small(disk, path, INDEX_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(None),
            Err(error) => return Err(LogError::io("reading", path, error)),
        };
        let found = believed(path, IndexHead::decode_all(kind, &bytes))?;
        Ok(found.and_then(|(found, numbers)| (found == *head).then_some(numbers)))
    };
    let offsets = numbers(&layout::offset_index_file(dir, head.base), FileKind::OffsetIndex)?;
    let times = numbers(&layout::time_index_file(dir, head.base), FileKind::TimeIndex)?;
    let offsets = offsets.and_then(|numbers| OffsetIndex::from_numbers(head.base, &numbers));
    let times = times.and_then(|numbers| TimeIndex::from_numbers(head.base, &numbers));
    Ok(offsets.zip(times))
}

/// Walks the whole segment and fills the (empty) indexes of `open`. Returns the head for what is
/// valid up to `end`; if that is less than all, the end in it is where the damage begins.
pub(super) fn rebuild(
    open: &OpenSegment,
    base: Offset,
    end: SegmentEnd,
    interval_bytes: u32,
    path: &Path,
) -> Result<IndexHead, LogError> {
    let summary = Segment::sealed(end, &empty_head(base, open));
    let start = WalkStart {
        position: SEGMENT_HEADER_BYTES as u64,
        offset: base,
        end: end.position,
        verify_below: u64::MAX,
        chunk_bytes: SCAN_CHUNK_BYTES,
    };
    let read = |position, len| open.file.read(position, len).map(Some);
    let mut walk = Walk::new(&open.codec, start, read);
    let mut writer = IndexWriter::new(interval_bytes);
    let mut found = SegmentEnd { offset: base, position: SEGMENT_HEADER_BYTES as u64 };
    while found.offset < end.offset {
        match walk.step().map_err(|error| LogError::io("reading", path, error))? {
            Step::Frame(frame) if frame.next <= end.offset => {
                writer.note_found(&summary, open, &frame);
                found = SegmentEnd { offset: frame.next, position: walk.position() };
            }
            _ => break,
        }
    }
    Ok(summary.head(open.salt, found))
}

/// Of a segment in which nothing was seen yet.
pub(super) fn empty_head(base: Offset, open: &OpenSegment) -> IndexHead {
    IndexHead {
        base,
        salt: open.salt,
        end_offset: base,
        end_position: SEGMENT_HEADER_BYTES as u64,
        max_timestamp: Timestamp::from_millis(i64::MIN),
        max_timestamp_at: base,
    }
}

/// A broken index is as good as none. A newer one is not: whoever wrote it wrote more than indexes.
fn believed<T>(path: &Path, decoded: Result<T, FormatError>) -> Result<Option<T>, LogError> {
    match decoded {
        Ok(found) => Ok(Some(found)),
        Err(FormatError::Broken(_)) => Ok(None),
        Err(source @ FormatError::Newer { .. }) => {
            Err(LogError::Format { path: path.to_owned(), source })
        }
    }
}
