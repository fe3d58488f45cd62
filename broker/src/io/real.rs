//! The real disk, by way of the kernel's file systems.

use std::{fs, io, path::Path, sync::Arc};

use super::{
    Access, DirEntry, Disk, File, SegmentFile, Space, SyncPoint, WriteMode,
    buffers::Buffers,
    file_system::{Mapping, mapping_of},
    limits::Limits,
    mapped_segment::MappedSegment,
    maps::{MapCounts, Maps, RESERVE_DEFAULT, SEALED_MAX_DEFAULT},
    real_file::RealFile,
    segment_file::PwriteSegment,
};

/// The file systems of this machine; clones share maps and buffers. One per process is best: the
/// bounds hold for each.
#[derive(Debug, Clone)]
pub struct RealDisk {
    policy: MapPolicy,
    maps: Arc<Maps>,
    buffers: Buffers,
}

/// Whether segment files may be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MapPolicy {
    /// Where it is known to be safe.
    #[default]
    Auto,
    /// Nowhere: plain reads and writes.
    Never,
}

/// What the disk may keep for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskBounds {
    /// Maps of segment files, active and sealed.
    pub maps: usize,
    /// Maps of sealed segments among them.
    pub sealed_maps: usize,
    /// Bytes of addresses reserved for a segment that is appended to.
    pub reserve: u64,
    /// Bytes of free read buffers that are kept.
    pub buffer_bytes: usize,
}

impl Default for DiskBounds {
    /// Half of `vm.max_map_count`; [`SEALED_MAX_DEFAULT`]; [`RESERVE_DEFAULT`];
    /// [`Buffers::BYTES_MAX_DEFAULT`].
    fn default() -> Self {
        Self {
            maps: Limits::read().segment_maps(),
            sealed_maps: SEALED_MAX_DEFAULT,
            reserve: RESERVE_DEFAULT,
            buffer_bytes: Buffers::BYTES_MAX_DEFAULT,
        }
    }
}

// === impl RealDisk ===

impl RealDisk {
    /// The disk of this machine, with default bounds.
    pub fn new(policy: MapPolicy) -> Self {
        Self::with_bounds(policy, DiskBounds::default())
    }

    /// The disk of this machine.
    pub fn with_bounds(policy: MapPolicy, bounds: DiskBounds) -> Self {
        Self {
            policy,
            maps: Arc::new(Maps::new(bounds.maps, bounds.sealed_maps, bounds.reserve)),
            buffers: Buffers::new(bounds.buffer_bytes),
        }
    }

    /// Whether segments in this directory are mapped, and if not, why; for a line in the log.
    pub fn mapping(&self, dir: &Path) -> io::Result<Mapping> {
        self.mapping_of(&fs::File::open(dir)?)
    }

    /// How many maps there are.
    pub fn map_counts(&self) -> MapCounts {
        self.maps.counts()
    }

    /// Bytes of free read buffers that are kept, and how many may be.
    pub fn buffer_bytes(&self) -> (usize, usize) {
        (self.buffers.kept_bytes(), self.buffers.bytes_max())
    }

    /// Takes the maps from sealed segments that nobody read since the last call. To be called every
    /// few minutes, by whoever keeps house. Blocks shortly.
    pub fn drop_idle_maps(&self) {
        self.maps.drop_idle();
    }

    fn mapping_of(&self, file: &fs::File) -> io::Result<Mapping> {
        match self.policy {
            MapPolicy::Auto => mapping_of(file),
            MapPolicy::Never => Ok(Mapping::Unsafe("it is switched off".to_owned())),
        }
    }

    fn may_map(&self, file: &RealFile) -> bool {
        matches!(self.mapping_of(file.as_std()), Ok(Mapping::Safe))
    }

    fn new_segment(
        &self,
        file: RealFile,
        len: u64,
        mode: WriteMode,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        let buffers = self.buffers.clone();
        Ok(if self.may_map(&file) {
            Arc::new(MappedSegment::create(file, len, mode, self.maps.clone(), buffers)?)
        } else {
            Arc::new(PwriteSegment::create(Arc::new(file), len, buffers)?)
        })
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let metadata = match entry.metadata() {
                // Removed while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let is_dir = metadata.is_dir();
            entries.push(DirEntry { name, is_dir, len: if is_dir { 0 } else { metadata.len() } });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = open(path)?;
        self.maps.check_plain(file.as_std())?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path, _point: SyncPoint) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn create_segment(
        &self,
        path: &Path,
        len: u64,
        mode: WriteMode,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        let file = create(path)?;
        self.new_segment(file, len, mode).inspect_err(|_| {
            // The first error is the one that says why; a name of nothing is found at recovery.
            let _ = fs::remove_file(path);
        })
    }

    fn open_segment(
        &self,
        path: &Path,
        published: u64,
        access: Access,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        let file = open(path)?;
        let buffers = self.buffers.clone();
        if self.may_map(&file) {
            let maps = self.maps.clone();
            return Ok(Arc::new(MappedSegment::open(file, published, access, maps, buffers)?));
        }
        let file = Arc::new(file);
        Ok(Arc::new(match access {
            Access::Append => PwriteSegment::open(file, published, buffers)?,
            Access::Read => PwriteSegment::open_read_only(file, published, buffers)?,
        }))
    }
}

fn create(path: &Path) -> io::Result<RealFile> {
    fs::OpenOptions::new().read(true).write(true).create_new(true).open(path).map(RealFile::new)
}

fn open(path: &Path) -> io::Result<RealFile> {
    fs::OpenOptions::new().read(true).write(true).open(path).map(RealFile::new)
}

#[cfg(test)]
#[path = "real_test.rs"]
mod tests;
