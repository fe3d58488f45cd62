//! What lies in a partition's directory, sorted by what it is.

use std::path::Path;

use riverrun_proto::offset::Offset;

use super::{
    error::LogError,
    layout::{self, FileName},
};
use crate::io::Disk;

/// The files of a partition, by kind; everything in order of offsets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    /// Base offsets and sizes of segment files.
    pub(super) segments: Vec<(Offset, u64)>,
    /// Base offsets of index files of either kind.
    pub(super) indexes: Vec<FileName>,
    pub(super) snapshots: Vec<Offset>,
    /// Names of what was left half-written.
    pub(super) tmp: Vec<String>,
    /// Names of what is not ours.
    pub(super) unknown: Vec<String>,
    pub(super) has_meta: bool,
}

// === impl Inventory ===

impl Inventory {
    /// Looks.
    pub(super) fn of(disk: &dyn Disk, dir: &Path) -> Result<Self, LogError> {
        let entries = disk.list(dir).map_err(|error| LogError::io("listing", dir, error))?;
        let mut found = Self::default();
        for entry in entries {
            match FileName::parse(&entry.name).filter(|_| !entry.is_dir) {
                Some(FileName::Segment(base)) => found.segments.push((base, entry.len)),
                Some(name @ (FileName::OffsetIndex(_) | FileName::TimeIndex(_))) => {
                    found.indexes.push(name);
                }
                Some(FileName::Snapshot(as_of)) => found.snapshots.push(as_of),
                Some(FileName::Tmp) => found.tmp.push(entry.name),
                Some(FileName::Meta) => found.has_meta = true,
                Some(FileName::LeaderEpochs | FileName::Checkpoint) => {}
                None => found.unknown.push(entry.name),
            }
        }
        found.segments.sort_unstable();
        found.snapshots.sort_unstable();
        Ok(found)
    }

    /// Removes segment files and their indexes, the highest first. Errors are the disk's.
    pub(super) fn remove_segments(
        disk: &dyn Disk,
        dir: &Path,
        bases: &[Offset],
    ) -> Result<(), LogError> {
        for base in bases.iter().rev() {
            for path in [
                layout::segment_file(dir, *base),
                layout::offset_index_file(dir, *base),
                layout::time_index_file(dir, *base),
            ] {
                match disk.remove_file(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => other.map_err(|error| LogError::io("removing", &path, error))?,
                }
            }
        }
        Ok(())
    }

    /// Removes what is worthless: half-written files, indexes of segments that are gone. What stays
    /// behind does no harm.
    pub(super) fn remove_leftovers(&self, disk: &dyn Disk, dir: &Path, live: &[(Offset, u64)]) {
        for name in &self.tmp {
            let _ = disk.remove_file(&dir.join(name));
        }
        for name in &self.indexes {
            let (base, path) = match *name {
                FileName::OffsetIndex(base) => (base, layout::offset_index_file(dir, base)),
                FileName::TimeIndex(base) => (base, layout::time_index_file(dir, base)),
                _ => continue,
            };
            if live.binary_search_by_key(&base, |(base, _)| *base).is_err() {
                let _ = disk.remove_file(&path);
            }
        }
    }
}
