//! Segment files of real disks: a map where that is safe and to be had, plain reads and writes for
//! the rest, all of it behind one contract.
//!
//! | | mapped | not mapped |
//! |---|---|---|
//! | append | `memcpy` where the window is populated ([`WriteMode::Map`]), else `pwrite` | `pwrite` |
//! | [`try_slice`](SegmentFile::try_slice) | a view, if resident | a copy, if cached |
//! | [`read`](SegmentFile::read) | `pread` into a pooled buffer | the same |
//!
//! A sealed segment gets its map from the first `read` of it, on the I/O pool: making a map locks
//! the address space, which no async worker should wait for.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use super::{
    Access, AppendError, File, SegmentFile, SyncPoint, WriteMode,
    buffers::Buffers,
    extent::Extent,
    maps::Maps,
    mmap::MappedFile,
    real_file::RealFile,
    segment_file::{check_published, read_bytes},
};

/// A segment file that may be mapped.
#[derive(Debug)]
pub(super) struct MappedSegment {
    file: Arc<MappedFile>,
    access: Access,
    /// Sealed and without hope of a map: copies will do.
    unmappable: AtomicBool,
    maps: Arc<Maps>,
    buffers: Buffers,
}

// === impl MappedSegment ===

impl MappedSegment {
    /// A segment over a new, empty file. The caller removes the file if this fails.
    pub(super) fn create(
        file: RealFile,
        len: u64,
        mode: WriteMode,
        maps: Arc<Maps>,
        buffers: Buffers,
    ) -> io::Result<Self> {
        let extent = Arc::new(Extent::open(0));
        maps.enter_writer(file.as_std(), &extent)?;
        let segment = Self::new(file, extent, Access::Append, maps, buffers);
        segment.extend(len, mode)?;
        Ok(segment)
    }

    /// A segment whose bytes below `published` are valid. To be appended to, it is cut there.
    pub(super) fn open(
        file: RealFile,
        published: u64,
        access: Access,
        maps: Arc<Maps>,
        buffers: Buffers,
    ) -> io::Result<Self> {
        let len = check_published(&file, published)?;
        let extent = if access == Access::Append {
            let extent = Arc::new(Extent::open(published));
            maps.enter_writer(file.as_std(), &extent)?;
            if len > published {
                file.set_len(published)?;
            }
            extent
        } else {
            let extent = Arc::new(Extent::closed(published));
            maps.enter_reader(file.as_std(), &extent)?;
            extent
        };
        Ok(Self::new(file, extent, access, maps, buffers))
    }

    fn new(
        file: RealFile,
        extent: Arc<Extent>,
        access: Access,
        maps: Arc<Maps>,
        buffers: Buffers,
    ) -> Self {
        let file = Arc::new(MappedFile::new(file, extent, maps.reserve));
        Self { file, access, unmappable: AtomicBool::new(false), maps, buffers }
    }

    /// Gives a sealed segment a map, if it wants one.
    fn map_if_sealed(&self) {
        let extent = self.file.extent();
        if extent.is_closed()
            && extent.published() > 0
            && !self.file.is_mapped()
            && !self.unmappable.load(Ordering::Relaxed)
            && !self.maps.map_sealed(&self.file)
        {
            self.unmappable.store(true, Ordering::Relaxed);
        }
    }

    fn cached_copy(&self, position: u64, len: usize) -> Option<Bytes> {
        let mut buffer = self.buffers.take(len);
        // An error is found again, and reported, by the read that follows on the I/O pool.
        self.file.file().read_cached_at(&mut buffer, position).ok()?.then(|| buffer.freeze())
    }
}

impl SegmentFile for MappedSegment {
    fn published(&self) -> u64 {
        self.file.extent().published()
    }

    fn window(&self) -> u64 {
        self.file.extent().window()
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, AppendError> {
        self.file.append(parts)
    }

    fn extend(&self, to: u64, mode: WriteMode) -> io::Result<()> {
        self.file.extend(to, mode, || self.maps.permit())
    }

    fn try_slice(&self, position: u64, len: usize) -> Option<Bytes> {
        if !self.file.extent().contains(position, len) {
            return None;
        }
        if self.file.is_mapped() {
            self.file.mark_used();
            return if self.file.resident(position, len) {
                self.file.slice(position, len)
            } else {
                None
            };
        }
        let wants_map = self.file.extent().is_closed() && !self.unmappable.load(Ordering::Relaxed);
        if wants_map && len > 0 { None } else { self.cached_copy(position, len) }
    }

    fn read(&self, position: u64, len: usize) -> io::Result<Bytes> {
        self.map_if_sealed();
        read_bytes(self.file.file(), &self.buffers, position, len)
    }

    fn sync(&self, point: SyncPoint) -> io::Result<()> {
        self.file.sync(point)
    }

    fn release_window(&self) -> io::Result<()> {
        if self.access == Access::Append {
            self.file.unmap();
        }
        self.file.shrink(false)
    }

    fn seal(&self) -> io::Result<()> {
        self.file.shrink(true)?;
        if self.access == Access::Append && self.file.is_mapped() {
            // Readers at the tail are still in it.
            self.file.mark_used();
            self.maps.keep_sealed(&self.file);
        }
        Ok(())
    }
}
