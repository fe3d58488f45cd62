//! The real disk, by way of the kernel's file systems.

use std::{fs, io, path::Path, sync::Arc};

use super::{
    DirEntry, Disk, File, SegmentFile, Space, SyncPoint, WriteMode, buffers::Buffers,
    real_file::RealFile, segment_file::PwriteSegment,
};

/// The file systems of this machine.
#[derive(Debug, Clone, Default)]
pub struct RealDisk {
    buffers: Buffers,
}

// === impl RealDisk ===

impl RealDisk {
    /// The disk of this machine.
    pub fn new(_policy: MapPolicy) -> Self {
        Self::default()
    }
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
        Ok(Arc::new(open(path)?))
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
        _mode: WriteMode,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        let file = Arc::new(create(path)?);
        match PwriteSegment::create(file, len, self.buffers.clone()) {
            Ok(segment) => Ok(Arc::new(segment)),
            Err(error) => {
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    fn open_segment(
        &self,
        path: &Path,
        published: u64,
        append: Option<WriteMode>,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        let file = Arc::new(open(path)?);
        let buffers = self.buffers.clone();
        Ok(Arc::new(match append {
            Some(_) => PwriteSegment::open(file, published, buffers)?,
            None => PwriteSegment::open_read_only(file, published, buffers)?,
        }))
    }
}

fn create(path: &Path) -> io::Result<RealFile> {
    fs::OpenOptions::new().read(true).write(true).create_new(true).open(path).map(RealFile::new)
}

fn open(path: &Path) -> io::Result<RealFile> {
    fs::OpenOptions::new().read(true).write(true).open(path).map(RealFile::new)
}
