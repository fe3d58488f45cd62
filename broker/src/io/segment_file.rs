//! Segment files by plain reads and writes, over any [`File`].
//!
//! Used by the simulated disk, and on real ones where a map is unsafe or not to be had. Readers get
//! copies; otherwise nothing differs from the mapped kind: both stand on the same extent and pass
//! the same conformance suite.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    AppendError, File, SegmentFile, SyncPoint, WriteMode, buffers::Buffers, extent::Extent,
};

/// A segment file without a map.
#[derive(Debug)]
pub struct PwriteSegment {
    file: Arc<dyn File>,
    extent: Extent,
    buffers: Buffers,
}

// === impl PwriteSegment ===

impl PwriteSegment {
    /// A segment over a new, empty file, with a window of `len` zero bytes. The caller removes the
    /// file if this fails.
    pub fn create(file: Arc<dyn File>, len: u64, buffers: Buffers) -> io::Result<Self> {
        let segment = Self { file, extent: Extent::open(0), buffers };
        segment.grow(len)?;
        Ok(segment)
    }

    /// A segment to append to from `published` on. Whatever the file has past it is cut off, so
    /// that frames of a torn tail cannot come back to life behind new ones.
    pub fn open(file: Arc<dyn File>, published: u64, buffers: Buffers) -> io::Result<Self> {
        if check_published(file.as_ref(), published)? > published {
            file.set_len(published)?;
        }
        Ok(Self { file, extent: Extent::open(published), buffers })
    }

    /// A segment to read from.
    pub fn open_read_only(
        file: Arc<dyn File>,
        published: u64,
        buffers: Buffers,
    ) -> io::Result<Self> {
        check_published(file.as_ref(), published)?;
        Ok(Self { file, extent: Extent::closed(published), buffers })
    }

    fn grow(&self, to: u64) -> io::Result<()> {
        self.extent.grow(to, |_| self.file.allocate(to))
    }
}

impl SegmentFile for PwriteSegment {
    fn published(&self) -> u64 {
        self.extent.published()
    }

    fn window(&self) -> u64 {
        self.extent.window()
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, AppendError> {
        self.extent.append(total(parts), |at| write_parts(self.file.as_ref(), parts, at))
    }

    fn extend(&self, to: u64, _mode: WriteMode) -> io::Result<()> {
        self.grow(to)
    }

    fn try_slice(&self, position: u64, len: usize) -> Option<Bytes> {
        if !self.extent.contains(position, len) {
            return None;
        }
        let mut buffer = self.buffers.take(len);
        // An error is found again, and reported, by the read that follows on the I/O pool.
        self.file.read_cached_at(&mut buffer, position).ok()?.then(|| buffer.freeze())
    }

    fn read(&self, position: u64, len: usize) -> io::Result<Bytes> {
        read_bytes(self.file.as_ref(), &self.buffers, position, len)
    }

    fn sync(&self, point: SyncPoint) -> io::Result<()> {
        self.file.sync(point)
    }

    fn release_window(&self) -> io::Result<()> {
        self.extent.shrink(false, |published| self.file.set_len(published))
    }

    fn seal(&self) -> io::Result<()> {
        self.extent.shrink(true, |published| self.file.set_len(published))
    }
}

/// Refuses a published end the file does not reach; returns the file's size.
pub(super) fn check_published(file: &dyn File, published: u64) -> io::Result<u64> {
    let len = file.len()?;
    if len < published {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("a segment file has {len} bytes where {published} were published"),
        ));
    }
    Ok(len)
}

/// How many bytes the parts have together.
pub(super) fn total(parts: &[&[u8]]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// Writes parts at a position.
pub(super) fn write_parts(file: &dyn File, parts: &[&[u8]], position: u64) -> io::Result<()> {
    match parts {
        [] => Ok(()),
        [one] => file.write_at(&[IoSlice::new(one)], position),
        [one, two] => file.write_at(&[IoSlice::new(one), IoSlice::new(two)], position),
        many => {
            let slices: Vec<IoSlice<'_>> = many.iter().map(|part| IoSlice::new(part)).collect();
            file.write_at(&slices, position)
        }
    }
}

/// Reads up to `len` bytes into a pooled buffer, never asking for more than the file has.
pub(super) fn read_bytes(
    file: &dyn File,
    buffers: &Buffers,
    position: u64,
    len: usize,
) -> io::Result<Bytes> {
    let left = file.len()?.saturating_sub(position);
    let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
    let mut buffer = buffers.take(len);
    let read = file.read_at(&mut buffer, position)?;
    Ok(buffer.freeze().slice(..read))
}

#[cfg(test)]
#[path = "segment_file_test.rs"]
mod tests;
