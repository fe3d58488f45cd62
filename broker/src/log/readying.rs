//! Getting the active segment ready for appends: making it, opening it again, moving its window on,
//! giving the window back. Nothing here syncs: a stalled disk must not hold up appends whose acks do
//! not wait for it.

use std::{io, path::Path, sync::Arc};

use riverrun_proto::offset::Offset;

use super::{
    error::LogError,
    index_files,
    layout::SEGMENT_HEADER_BYTES,
    segment::{self, OpenSegment, Segment},
    segment_header::SegmentHeader,
    shared::Shared,
    work::{Context, Outcome, Voided},
};
use crate::io::{Access, SegmentFile, WriteMode, failure as io_failure};

/// What the active segment needs.
#[derive(Debug)]
pub(super) enum Ready {
    /// A new segment that begins at `base`, with a window of `ahead` bytes behind its header.
    Create { base: Offset, ahead: u64, mode: WriteMode },
    /// The last segment, which a clean stop left, again.
    Reopen { segment: Arc<Segment>, ahead: u64, mode: WriteMode },
    /// The window's end moved to `to`.
    Extend { open: Arc<OpenSegment>, to: u64, mode: WriteMode },
    /// Nothing for a while: window and map are given back.
    Release { open: Arc<OpenSegment> },
}

/// What is there now.
#[derive(Debug)]
pub(super) enum Readied {
    Created { base: Offset, open: Arc<OpenSegment> },
    Reopened { open: Arc<OpenSegment> },
    Extended,
    Released,
}

// === impl Ready ===

impl Ready {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "roll",
            Self::Reopen { .. } => "reopen",
            Self::Extend { .. } => "extend",
            Self::Release { .. } => "release",
        }
    }

    pub(super) fn run(self, context: &Context<'_>) -> Outcome {
        let shared = context.shared;
        let _tail = context.side.tail.lock();
        if context.is_void() {
            return Outcome::Void(Voided::Ready);
        }
        let counters = &shared.env.counters;
        Outcome::Ready(match self {
            Self::Create { base, ahead, mode } => {
                counters.rolls.add(1);
                create(shared, base, ahead, mode)
                    .map(|open| Readied::Created { base, open: Arc::new(open) })
            }
            Self::Reopen { segment, ahead, mode } => reopen(shared, &segment, ahead, mode)
                .map(|open| Readied::Reopened { open: Arc::new(open) }),
            Self::Extend { open, to, mode } => {
                counters.extends.add(1);
                let path = shared.segment_path(open.base());
                open.file
                    .extend(to, mode)
                    .map(|()| Readied::Extended)
                    .map_err(|error| shared.failed("extending", &path, error))
            }
            Self::Release { open } => {
                let path = shared.segment_path(open.base());
                open.file
                    .release_window()
                    .map(|()| Readied::Released)
                    .map_err(|error| shared.failed("shrinking", &path, error))
            }
        })
    }
}

/// Makes the file of a new segment, with its header. Nothing of it is durable yet.
pub(super) fn create(
    shared: &Shared,
    base: Offset,
    ahead: u64,
    mode: WriteMode,
) -> Result<OpenSegment, LogError> {
    shared.env.failure.check()?;
    let disk = shared.env.disk.as_ref();
    let path = shared.segment_path(base);
    let len = SEGMENT_HEADER_BYTES as u64 + ahead;
    let file = match disk.create_segment(&path, len, mode) {
        // The log ends where this one begins, so nothing in a file of that name belongs to it: it
        // is what a roll left that did not end, or a segment that recovery found empty.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove_file(&path).and_then(|()| disk.create_segment(&path, len, mode))
        }
        other => other,
    };
    let file = file.map_err(|error| shared.failed("making", &path, error))?;
    let salt = shared.env.salts.draw();
    let header = SegmentHeader { partition: shared.partition, base, salt };
    match append_header(file.as_ref(), &header.encode()) {
        Ok(()) => Ok(OpenSegment::new(file, base, salt, 0)),
        Err(error) => {
            let _ = disk.remove_file(&path);
            Err(shared.failed("writing the header of", &path, error))
        }
    }
}

fn append_header(file: &dyn SegmentFile, header: &[u8]) -> io::Result<()> {
    use crate::io::AppendError;
    match file.append(&[header]) {
        Ok(_) => Ok(()),
        Err(AppendError::Io(error)) => Err(error),
        Err(other) => Err(io::Error::other(other)),
    }
}

/// Opens the last segment for appends. Only after a clean stop, when its file ends with its last
/// frame: the salt of a file with anything behind that could bring it back.
fn reopen(
    shared: &Shared,
    segment: &Segment,
    ahead: u64,
    mode: WriteMode,
) -> Result<OpenSegment, LogError> {
    shared.env.failure.check()?;
    let disk = shared.env.disk.as_ref();
    let base = segment.base();
    let path = shared.segment_path(base);
    let end = segment.end().expect("a closed segment has an end");
    let file = disk
        .open_segment(&path, end.position, Access::Append)
        .map_err(|error| shared.failed("opening", &path, error))?;
    let header = segment::read_header(file.as_ref(), &path, shared.partition, base)?;
    let mut open = OpenSegment::new(file, base, header.salt, end.position);
    let head = segment.head(header.salt, end);
    match index_files::load(disk, &shared.dir, &head)? {
        Some((offsets, times)) => (open.offsets, open.times) = (offsets, times),
        None => {
            shared.env.counters.indexes_rebuilt.add(1);
            index_files::rebuild(&open, base, end, shared.index_interval_bytes(), &path)?;
        }
    }
    open.file
        .extend(end.position + ahead, mode)
        .map_err(|error| shared.failed("extending", &path, error))?;
    Ok(open)
}

impl Shared {
    /// The error of a call that changes files. Unless the disk is just full, or there are no more
    /// file handles, the directory has failed: what is on it now is not what we think.
    pub(super) fn failed(&self, what: &'static str, path: &Path, error: io::Error) -> LogError {
        let error = LogError::io(what, path, error);
        if let LogError::Io { source, .. } = &error
            && !io_failure::is_handle_shortage(source)
        {
            // Best effort, as the disk is failing; everybody in this process sees it anyway.
            let _ = self.env.failure.poison(&format!("{what} {}: {source}", path.display()));
        }
        error
    }
}
