//! Producer state from the log itself: the newest snapshot that counts, and the headers behind it.

use riverrun_proto::{offset::Offset, record::BatchHeader, timestamp::Timestamp};

use super::{
    error::LogError,
    layout::{self, FileName, SEGMENT_HEADER_BYTES},
    producer_snapshot::{self, SNAPSHOT_BYTES_MAX},
    producer_state::{ProducerBatch, ProducerLimits, ProducerStates},
    reader,
    segment_list::SegmentList,
    shared::Shared,
    walk::{Frame, SCAN_CHUNK_BYTES, Step, Walk, WalkStart},
};
use crate::io::dir;

/// Producer state as of an offset.
#[derive(Debug)]
pub(super) struct LoadedProducers {
    pub(super) states: ProducerStates,
    /// Of which offset the snapshot was; `None`: there is none that can be used.
    pub(super) as_of: Option<Offset>,
}

/// The newest whole snapshot at or below `at_most`, which everything below is known to be durable
/// for: a later one may be of records that are gone.
pub(super) fn load_snapshot(
    shared: &Shared,
    at_most: Offset,
    life: u32,
    limits: ProducerLimits,
) -> Result<LoadedProducers, LogError> {
    let disk = shared.env.disk.as_ref();
    let entries =
        disk.list(&shared.dir).map_err(|error| LogError::io("listing", &shared.dir, error))?;
    let mut offsets: Vec<Offset> = entries
        .iter()
        .filter_map(|entry| match FileName::parse(&entry.name) {
            Some(FileName::Snapshot(offset)) if offset <= at_most => Some(offset),
            _ => None,
        })
        .collect();
    offsets.sort_unstable();
    for as_of in offsets.into_iter().rev() {
        let path = layout::snapshot_file(&shared.dir, as_of);
        let bytes = match dir::read_small(disk, &path, SNAPSHOT_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => continue,
            Err(error) => return Err(LogError::io("reading", &path, error)),
        };
        match producer_snapshot::decode(&bytes, as_of, life, limits) {
            Ok(states) => return Ok(LoadedProducers { states, as_of: Some(as_of) }),
            Err(source @ super::envelope::FormatError::Newer { .. }) => {
                return Err(LogError::Format { path, source });
            }
            Err(super::envelope::FormatError::Broken(_)) => {}
        }
    }
    Ok(LoadedProducers { states: ProducerStates::new(limits), as_of: None })
}

/// Follows one batch.
pub(super) fn follow(
    states: &mut ProducerStates,
    header: &BatchHeader,
    base_offset: Offset,
    now: Timestamp,
) {
    if let Some(stamp) = header.producer() {
        let batch = ProducerBatch {
            stamp,
            last_offset_delta: header.last_offset_delta,
            base_offset,
            timestamp: header.max_timestamp,
        };
        states.record(batch, now);
    }
}

/// Producer state as of `end`, from what there is on the disk.
pub(super) fn producers_at(
    shared: &Shared,
    list: &SegmentList,
    end: Offset,
    life: u32,
    limits: ProducerLimits,
    now: Timestamp,
) -> Result<ProducerStates, LogError> {
    let mut loaded = load_snapshot(shared, end, life, limits)?;
    let from = loaded.as_of.unwrap_or(Offset::ZERO);
    frames(shared, list, from, end, |frame| {
        follow(&mut loaded.states, &frame.header, frame.base, now);
    })?;
    Ok(loaded.states)
}

/// Shows `seen` all frames of sealed or open segments that reach into `from..to`. What is damaged is
/// left out, to the end of its segment: whoever reads it will say so.
pub(super) fn frames(
    shared: &Shared,
    list: &SegmentList,
    from: Offset,
    to: Offset,
    mut seen: impl FnMut(&Frame),
) -> Result<(), LogError> {
    for (at, segment) in list.as_slice().iter().enumerate() {
        let end = list.next_base(at).unwrap_or(to).min(to);
        if end <= from || segment.base() >= to {
            continue;
        }
        let open = match reader::open_segment(shared, segment) {
            Ok(open) => open,
            Err(LogError::Format { .. }) => continue,
            Err(error) if super::segment::is_too_short(&error) => continue,
            Err(error) => return Err(error),
        };
        let start = (segment.base(), SEGMENT_HEADER_BYTES as u64);
        let (offset, position) = open.offsets.floor(from).unwrap_or(start);
        let end_position = segment.end().map_or_else(|| open.file.published(), |end| end.position);
        let start = WalkStart {
            position,
            offset,
            end: end_position,
            verify_below: u64::MAX,
            chunk_bytes: SCAN_CHUNK_BYTES,
        };
        let read = |position, len| open.file.read(position, len).map(Some);
        let mut walk = Walk::new(&open.codec, start, read);
        while walk.expected() < end {
            let path = || shared.segment_path(segment.base());
            match walk.step().map_err(|error| LogError::io("reading", &path(), error))? {
                Step::Frame(frame) if frame.next > from => seen(&frame),
                Step::Frame(_) => {}
                _ => break,
            }
        }
    }
    Ok(())
}
