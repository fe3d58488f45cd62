//! Looking at a partition's directory without a broker: reads only, takes no lock, repairs nothing.
//! For `riverrun log dump` and [`super::verify`].
//!
//! What a running broker appends meanwhile may look torn at the end; everything before it does not
//! change.

use std::{
    fs::{self, File},
    io,
    ops::ControlFlow,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use riverrun_proto::{offset::Offset, record::BatchHeader};

use super::{
    envelope::FormatError,
    frame::{FrameCodec, FrameFault},
    layout::{FileName, SEGMENT_HEADER_BYTES, is_deleted_dir},
    segment_header::SegmentHeader,
    walk::{SCAN_CHUNK_BYTES, Step, Walk, WalkStart},
};

/// A batch in a segment whose frame is whole. Whether the batch is what its own CRC says was not
/// looked at.
#[derive(Debug)]
pub struct StoredBatch {
    /// Where its frame begins in the file.
    pub position: u64,
    /// The batch's fixed fields.
    pub header: BatchHeader,
    /// The batch.
    pub bytes: Bytes,
}

/// How the frames of a segment end.
#[derive(Debug)]
pub struct SegmentEnd {
    /// What the file says of itself.
    pub header: SegmentHeader,
    /// The first offset after the last frame that was looked at.
    pub offset: Offset,
    /// Where the frames end in the file.
    pub position: u64,
    /// Bytes of the file; those behind the frames were set aside for more.
    pub file_bytes: u64,
    /// What stands at `position`; [`FrameFault::Nothing`] where nothing was written. `None`: the
    /// visitor had enough.
    pub fault: Option<FrameFault>,
    /// The first byte behind the frames that is not zero, if there is one.
    pub stray_at: Option<u64>,
}

/// Why something cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is broken, or newer than this version.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// It has another name than segments have.
    #[error("{} is not named like a segment (20 digits and .log)", .0.display())]
    NotASegment(PathBuf),
    /// There is no partition in it.
    #[error("{} is neither a partition's directory nor does it hold any", .0.display())]
    NoPartitions(PathBuf),
}

impl InspectError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Whether the file or directory does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The partitions' directories under `dir`, which may be one itself, a broker's data directory, or
/// the directory in it that holds them. In order of their names.
///
/// # Errors
/// If it cannot be listed, or there are none.
pub fn partition_dirs(dir: &Path) -> Result<Vec<PathBuf>, InspectError> {
    if !segments(dir)?.is_empty() || dir.join(super::layout::META_FILE).is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let holder = dir.join("data");
    let holder = if holder.is_dir() { holder } else { dir.to_owned() };
    let mut found = Vec::new();
    for entry in fs::read_dir(&holder).map_err(InspectError::io(&holder))? {
        let path = entry.map_err(InspectError::io(&holder))?.path();
        let deleted = path.file_name().and_then(|n| n.to_str()).is_some_and(is_deleted_dir);
        if path.is_dir() && !deleted && path.join(super::layout::META_FILE).is_file() {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(InspectError::NoPartitions(dir.to_owned()));
    }
    found.sort();
    Ok(found)
}

/// Base offsets of the segments in a partition's directory, in order.
///
/// # Errors
/// If the directory cannot be listed.
pub fn segments(dir: &Path) -> Result<Vec<Offset>, InspectError> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(dir).map_err(InspectError::io(dir))? {
        let name = entry.map_err(InspectError::io(dir))?.file_name();
        if let Some(FileName::Segment(base)) = name.to_str().and_then(FileName::parse) {
            bases.push(base);
        }
    }
    bases.sort();
    Ok(bases)
}

/// Shows `visit` every batch of a segment whose frame is whole, from the front, until it breaks off
/// or a frame is not. Holds one read (1 MiB) or one batch in memory.
///
/// # Errors
/// If the file cannot be read, is not named like a segment, or has no valid header.
pub fn scan_segment(
    path: &Path,
    mut visit: impl FnMut(&StoredBatch) -> ControlFlow<()>,
) -> Result<SegmentEnd, InspectError> {
    let (file, header) = open_segment(path)?;
    let file_bytes = file.metadata().map_err(InspectError::io(path))?.len();
    let codec = FrameCodec::new(header.salt);
    let start = WalkStart {
        position: SEGMENT_HEADER_BYTES as u64,
        offset: header.base,
        end: file_bytes,
        verify_below: u64::MAX,
        chunk_bytes: SCAN_CHUNK_BYTES,
    };
    let source = |position, len| read_at(&file, position, len).map(Some);
    let mut walk = Walk::new(&codec, start, source);
    let fault = loop {
        match walk.step().map_err(InspectError::io(path))? {
            Step::Frame(frame) => {
                let batch = StoredBatch {
                    position: frame.position,
                    header: frame.header,
                    bytes: frame.batch,
                };
                if visit(&batch).is_break() {
                    break None;
                }
            }
            Step::Fault(fault) => break Some(fault),
            Step::NotResident => unreachable!("the source always has the bytes"),
        }
    };
    let position = walk.position();
    let stray_at = match fault {
        Some(_) => first_nonzero(&file, position).map_err(InspectError::io(path))?,
        None => None,
    };
    Ok(SegmentEnd { header, offset: walk.expected(), position, file_bytes, fault, stray_at })
}

/// What a segment's file says of itself.
///
/// # Errors
/// If the file cannot be read, is not named like a segment, or has no valid header.
pub fn read_header(path: &Path) -> Result<SegmentHeader, InspectError> {
    open_segment(path).map(|(_, header)| header)
}

fn open_segment(path: &Path) -> Result<(File, SegmentHeader), InspectError> {
    let base = match path.file_name().and_then(|name| name.to_str()).and_then(FileName::parse) {
        Some(FileName::Segment(base)) => base,
        _ => return Err(InspectError::NotASegment(path.to_owned())),
    };
    let file = File::open(path).map_err(InspectError::io(path))?;
    let head = read_at(&file, 0, SEGMENT_HEADER_BYTES).map_err(InspectError::io(path))?;
    let broken = |source| InspectError::Format { path: path.to_owned(), source };
    let header = SegmentHeader::parse(&head).map_err(broken)?;
    if header.base != base {
        return Err(broken(FormatError::Broken("it is another segment than its name says")));
    }
    Ok((file, header))
}

/// Up to `len` bytes from `position`; fewer at the end of the file.
fn read_at(file: &File, position: u64, len: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}

fn first_nonzero(file: &File, from: u64) -> io::Result<Option<u64>> {
    let mut position = from;
    loop {
        let bytes = read_at(file, position, SCAN_CHUNK_BYTES)?;
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            return Ok(Some(position + at as u64));
        }
        if bytes.len() < SCAN_CHUNK_BYTES {
            return Ok(None);
        }
        position += bytes.len() as u64;
    }
}
