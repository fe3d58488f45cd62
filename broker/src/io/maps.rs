//! How many maps there are, which of the sealed segments have one, and which files are in use.
//!
//! Maps are bounded because the kernel bounds them (`vm.max_map_count`, 65530 unless raised), for
//! the whole process, the allocator's included. One without a map is slower, never wrong, so running
//! out is no error.
//!
//! * Segments that are appended to have a map from their first extension until they are idle.
//! * Of the sealed ones, those that are read: a clock (second chance) evicts what nobody used since
//!   the hand came by last.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::{extent::Extent, mmap::MappedFile};

/// Maps of sealed segments, unless told otherwise: at 256 MiB each, 256 GiB of hot history.
pub const SEALED_MAX_DEFAULT: usize = 1024;

/// Addresses reserved for a segment that is appended to, unless told otherwise: two of the default
/// size. Costs an entry in the kernel's table, no memory; a longer file gets another map of twice
/// its size.
pub const RESERVE_DEFAULT: u64 = 512 << 20;

/// All maps of one [`RealDisk`](super::real::RealDisk).
#[derive(Debug)]
pub(super) struct Maps {
    limit: usize,
    sealed_max: usize,
    /// Addresses reserved for a segment that is appended to, in bytes.
    pub(super) reserve: u64,
    live: Arc<AtomicUsize>,
    refused: AtomicU64,
    evicted: AtomicU64,
    clock: Mutex<Clock>,
    files: Mutex<Files>,
}

/// Sealed segments with a map, and where the hand stands.
#[derive(Debug, Default)]
struct Clock {
    mapped: Vec<Weak<MappedFile>>,
    hand: usize,
}

/// Segment files that are open or still have slices, by device and inode.
#[derive(Debug, Default)]
struct Files {
    open: HashMap<(u64, u64), Vec<Weak<Extent>>>,
    /// Look for dead entries at this size.
    sweep_at: usize,
}

/// The right to have one map; given back when the map is gone.
#[derive(Debug)]
pub(super) struct MapPermit(Arc<AtomicUsize>);

impl Drop for MapPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the maps cost, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapCounts {
    /// Maps there may be.
    pub limit: usize,
    /// Maps there are, those included that only slices keep.
    pub live: usize,
    /// Sealed segments among them.
    pub sealed: usize,
    /// Sealed segments there may be among them.
    pub sealed_max: usize,
    /// How often a map was not to be had, since the start.
    pub refused: u64,
    /// How often a sealed segment lost its map, since the start.
    pub evicted: u64,
}

// === impl Maps ===

impl Maps {
    pub(super) fn new(limit: usize, sealed_max: usize, reserve: u64) -> Self {
        Self {
            limit,
            sealed_max: sealed_max.min(limit),
            reserve,
            live: Arc::default(),
            refused: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            clock: Mutex::default(),
            files: Mutex::default(),
        }
    }

    /// The right to one more map; sealed segments make room for it.
    pub(super) fn permit(&self) -> Option<MapPermit> {
        self.try_permit().or_else(|| {
            self.evict_one(&mut self.clock.lock());
            let permit = self.try_permit();
            if permit.is_none() {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            permit
        })
    }

    fn try_permit(&self) -> Option<MapPermit> {
        let one_more = |live: usize| (live < self.limit).then_some(live + 1);
        self.live
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()
            .map(|_| MapPermit(self.live.clone()))
    }

    /// Maps a sealed segment, in the place of another if need be. `false`: it stays without.
    pub(super) fn map_sealed(&self, file: &Arc<MappedFile>) -> bool {
        if self.sealed_max == 0 {
            return false;
        }
        let Some(permit) = self.permit() else { return false };
        if file.map_published(permit).is_err() {
            return false;
        }
        file.mark_used();
        self.keep_sealed(file);
        true
    }

    /// Takes a segment that was sealed, with its map, into the bounded set.
    pub(super) fn keep_sealed(&self, file: &Arc<MappedFile>) {
        let mut clock = self.clock.lock();
        clock.mapped.retain(|other| other.upgrade().is_some_and(|other| other.is_mapped()));
        if clock.mapped.iter().any(|other| other.as_ptr() == Arc::as_ptr(file)) {
            return;
        }
        while clock.mapped.len() >= self.sealed_max.max(1) {
            self.evict_one(&mut clock);
        }
        if self.sealed_max == 0 {
            file.unmap();
        } else {
            clock.mapped.push(Arc::downgrade(file));
        }
    }

    /// Takes the map from one sealed segment that was not used since the hand came by; from any if
    /// all were.
    fn evict_one(&self, clock: &mut Clock) {
        for _ in 0..=2 * clock.mapped.len() {
            if clock.mapped.is_empty() {
                return;
            }
            let at = clock.hand % clock.mapped.len();
            match clock.mapped[at].upgrade() {
                Some(file) if file.take_used() => clock.hand = at + 1,
                other => {
                    clock.mapped.swap_remove(at);
                    clock.hand = at;
                    if let Some(file) = other {
                        file.unmap();
                        self.evicted.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            }
        }
    }

    /// Takes the map from every sealed segment nobody used since the last call.
    pub(super) fn drop_idle(&self) {
        let mut clock = self.clock.lock();
        clock.mapped.retain(|file| match file.upgrade() {
            Some(file) if file.take_used() => true,
            Some(file) => {
                file.unmap();
                self.evicted.fetch_add(1, Ordering::Relaxed);
                false
            }
            None => false,
        });
    }

    /// Enters a segment file that is opened for appends at the extent's end. Whoever appended to it
    /// before cannot any more. Refused if that would change bytes somebody may still read.
    pub(super) fn enter_writer(&self, file: &fs::File, extent: &Arc<Extent>) -> io::Result<()> {
        self.enter(file, extent, |other| other.supersede() > extent.published())
    }

    /// Enters a segment file that is only read. Refused if whoever appends to it has published
    /// less, and may cut the rest.
    pub(super) fn enter_reader(&self, file: &fs::File, extent: &Arc<Extent>) -> io::Result<()> {
        self.enter(file, extent, |other| other.cuts() && other.published() < extent.published())
    }

    fn enter(
        &self,
        file: &fs::File,
        extent: &Arc<Extent>,
        busy: impl Fn(&Extent) -> bool,
    ) -> io::Result<()> {
        let id = file_id(file)?;
        let mut files = self.files.lock();
        let extents = files.open.entry(id).or_default();
        extents.retain(|other| other.strong_count() > 0);
        // All of them, not the first only: each is superseded by being asked.
        if extents.iter().filter_map(Weak::upgrade).filter(|other| busy(other)).count() > 0 {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "the segment file is in use, with another published end",
            ));
        }
        extents.push(Arc::downgrade(extent));
        if files.open.len() > files.sweep_at {
            files.open.retain(|_, extents| extents.iter().any(|other| other.strong_count() > 0));
            files.sweep_at = 2 * files.open.len() + 64;
        }
        Ok(())
    }

    /// Refuses a file that is open as a segment, or of which slices are in use: a plain write could
    /// change bytes under them.
    pub(super) fn check_plain(&self, file: &fs::File) -> io::Result<()> {
        let id = file_id(file)?;
        let files = self.files.lock();
        if files.open.get(&id).into_iter().flatten().any(|extent| extent.strong_count() > 0) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "the file is in use as a segment",
            ));
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn files_remembered(&self) -> usize {
        self.files.lock().open.len()
    }

    pub(super) fn counts(&self) -> MapCounts {
        MapCounts {
            limit: self.limit,
            live: self.live.load(Ordering::Relaxed),
            sealed: self.clock.lock().mapped.len(),
            sealed_max: self.sealed_max,
            refused: self.refused.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }
}

fn file_id(file: &fs::File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}
