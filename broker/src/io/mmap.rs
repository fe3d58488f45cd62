//! The memory map under a segment file. **The only unsafe code of the project.**
//!
//! ```text
//!   0 ........ published ........ window ........ end of file ........ end of the map
//!   slices     │ append copies here │ allocated    │ reserved addresses; touching them
//!   (shared)   │ (exclusive)        │ untouched    │ would be a SIGBUS: nobody does
//! ```
//!
//! # Why this is sound
//! Three things can go wrong with a shared file map: bytes change under a `&[u8]`, the file is cut
//! under it (SIGBUS), the address range goes away.
//!
//! 1. **Bytes under a slice never change.** A slice is handed out only below `published`
//!    ([`MappedFile::slice`]). Writes go to `[published, window)` only: [`Extent::append`] is the
//!    only writer, gives out that range under its lock, and moves `published` past it afterwards
//!    with Release; a reader that sees the new end (Acquire) sees the bytes. `published` never moves
//!    back. No reference to bytes at or above `published` ever exists: the copy goes through a raw
//!    pointer, so there is no `&mut [u8]` and no `&[u8]` over a range that is being written.
//!    With [`WriteMode::Write`] the kernel writes the same page cache; the same order holds.
//! 2. **The file is never shorter than what is touched.** Slices: the file is cut only by
//!    [`MappedFile::shrink`], down to `published` exactly, and slices end there. Copies: the window
//!    is raised only after the file was found to reach it; it is lowered, under the writer's lock,
//!    before the file is cut, so no copy can be under way above. The map may be longer than the file
//!    (addresses are reserved ahead so that a growing file keeps its map); nothing touches that part
//!    except `madvise`, which reports it as an error.
//! 3. **The addresses stay.** Every slice owns an `Arc` of its [`Map`]; `munmap` happens when the
//!    last one drops. Growing past the reservation makes a second map of the same file; the first
//!    lives as long as its slices.
//!
//! # What the argument rests on
//! * Nobody else writes to or cuts our files. Other processes are kept out by
//!   [`DirLock`](super::dir::DirLock) (against those who ignore it, no map is safe). Inside the
//!   process [`Maps`](super::maps::Maps) sees to it that a file has one writer: who opens it to
//!   append supersedes the writer before, is refused below the end of slices that may still live,
//!   and no segment in use is opened as a plain file. (Not refused, but not done: keeping a plain
//!   handle from before, or changing files behind the back of [`Disk`](super::Disk).)
//! * Blocks under the window are allocated and stay so: only file systems where that holds are
//!   mapped ([`super::file_system`]). Elsewhere a store could meet ENOSPC, as a SIGBUS.
//! * An I/O error while a page of a slice is read back in is a SIGBUS, which ends the process; the
//!   next start recovers. [`MappedFile::resident`] keeps that to pages evicted between the question
//!   and the use.
#![allow(unsafe_code, reason = "the one place; see above")]

use std::{
    fmt, io, ptr,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rustix::{
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags},
};

use super::{
    AppendError, File, SyncPoint, WriteMode,
    extent::Extent,
    maps::MapPermit,
    real_file::RealFile,
    segment_file::{total, write_parts},
};

/// Populated in one go: bounds how long the address space is locked against new maps (about 1 ms at
/// 3 microseconds per page).
const POPULATE_STEP: usize = 1 << 20;

/// Maps the pages of a file that are in memory, ready to be stored to.
#[cfg(target_os = "linux")]
const POPULATE_WRITE: Advice = Advice::LinuxPopulateWrite;
/// Elsewhere files are not mapped (see [`super::file_system`]); this has only to compile.
#[cfg(not(target_os = "linux"))]
const POPULATE_WRITE: Advice = Advice::WillNeed;

/// Takes pages out of a map, not out of memory.
#[cfg(target_os = "linux")]
const UNMAP_PAGES: Advice = Advice::LinuxDontNeed;
#[cfg(not(target_os = "linux"))]
const UNMAP_PAGES: Advice = Advice::WillNeed;

/// Pages asked about in one `mincore`.
const MINCORE_PAGES: usize = 512;

/// A segment file, seen through a map if there is one.
///
/// Extent first, handle last: fields drop in this order, and once map and handle are gone the file
/// system may give the file's number to another, which the registry would take for this one.
pub(super) struct MappedFile {
    /// Shared with every map, so that the registry sees it as long as there are slices.
    extent: Arc<Extent>,
    map: ArcSwapOption<Map>,
    file: RealFile,
    /// Start of what was populated last and not given back since: known to be in memory.
    resident_from: AtomicU64,
    /// What was populated for stores. For speed alone, as are the two around it: any place of the
    /// window may be stored to and written to.
    populated: Populated,
    /// Start of what may have been stored to through the map and not been synced since.
    stored_from: AtomicU64,
    /// Addresses to reserve when a file that is appended to is mapped, in bytes.
    reserve: u64,
    /// Set by readers, cleared by [`Maps`](super::maps::Maps) when it looks for an idle map.
    used: AtomicBool,
}

// === impl MappedFile ===

impl MappedFile {
    pub(super) fn new(file: RealFile, extent: Arc<Extent>, reserve: u64) -> Self {
        Self {
            extent,
            map: ArcSwapOption::empty(),
            file,
            resident_from: AtomicU64::new(u64::MAX),
            populated: Populated::default(),
            stored_from: AtomicU64::new(0),
            reserve,
            used: AtomicBool::new(false),
        }
    }

    /// Appends by a copy into the map, where it was populated for that, or by a write.
    pub(super) fn append(&self, parts: &[&[u8]]) -> Result<u64, AppendError> {
        let len = total(parts);
        self.extent.append(len, |at| {
            let map = self.map.load();
            match map.as_deref() {
                Some(map)
                    if map.writable && map.covers(at, len) && self.populated.contains(at, len) =>
                {
                    // Law 2: at + len is inside the window, so inside the file; law 1: nobody else
                    // writes there and nobody has a reference to it.
                    map.copy_in(parts, at);
                    Ok(())
                }
                _ => write_parts(&self.file, parts, at),
            }
        })
    }

    /// Grows the window to `to`: allocates, maps if `permit` gives leave, brings pages in for
    /// [`WriteMode::Map`]. Undone on error.
    pub(super) fn extend(
        &self,
        to: u64,
        mode: WriteMode,
        permit: impl FnOnce() -> Option<MapPermit>,
    ) -> io::Result<()> {
        self.extent.grow(to, |from| {
            let old_len = self.file.len()?;
            self.file.allocate_range(from, to)?;
            let prepared = self.reach(to).and_then(|()| {
                self.map_for_append(to, mode, permit);
                if mode == WriteMode::Map { self.populate(from, to) } else { Ok(()) }
            });
            if let Err(error) = prepared {
                // Nobody appends there yet. A file that stays long is only large.
                let _ = self.file.set_len(old_len);
                return Err(error);
            }
            self.resident_from.store(from, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Law 2 is checked, not believed.
    fn reach(&self, to: u64) -> io::Result<()> {
        if self.file.len()? < to {
            return Err(io::Error::other("the file is shorter than what was allocated"));
        }
        Ok(())
    }

    /// Makes a map that reaches `to`, if there is none and one may be had. Without one all works,
    /// only slower.
    fn map_for_append(&self, to: u64, mode: WriteMode, permit: impl FnOnce() -> Option<MapPermit>) {
        let writable = mode == WriteMode::Map;
        let (covers, may_be_stored_to) = self
            .map
            .load()
            .as_deref()
            .map_or((false, false), |map| (map.covers(0, to), map.writable));
        if covers && (may_be_stored_to || !writable) {
            return;
        }
        let Some(permit) = permit() else {
            // One that can only be read from serves readers all the same.
            if !covers {
                self.map.store(None);
            }
            return;
        };
        let reserve = if to <= self.reserve { self.reserve } else { to.saturating_mul(2) };
        let map = Map::new(&self.file, reserve, writable, permit, self.extent.clone());
        self.map.store(map.ok().map(Arc::new));
    }

    /// Brings in the pages of `[from, to)`, which nobody else touches yet, to be stored to through the
    /// map. For plain writes that would be work for nothing (measured: 2.3 ms for 8 MiB, and the
    /// writes got no faster).
    fn populate(&self, from: u64, to: u64) -> io::Result<()> {
        let map = self.map.load();
        let Some(map) = map.as_deref().filter(|map| map.writable) else { return Ok(()) };
        // Zeros written in large pieces make large folios: 2.1 ms for 8 MiB, both steps and all
        // appends together, where populating alone takes 5.1 ms, a page at a time (ext4, 6.18).
        self.file.write_zeros(from, to)?;
        match map.advise(from, to, POPULATE_WRITE) {
            // Before Linux 5.14: the first store to a folio takes a short fault, which finds it.
            Ok(()) | Err(Errno::INVAL) => self.populated.add(from, to),
            Err(Errno::FAULT) => {
                return Err(io::Error::other(
                    "the file system could not back the pages of a segment's window",
                ));
            }
            Err(other) => return Err(other.into()),
        }
        Ok(())
    }

    /// Syncs the file.
    ///
    /// Writing back a page that a map may store to costs an interrupt of every core that uses the
    /// address space, page by page; half of what a broker took for a GB was that. So pages that are
    /// full leave the map first, all at once: they stay in memory, and readers find them there.
    pub(super) fn sync(&self, point: SyncPoint) -> io::Result<()> {
        let map = self.map.load();
        let Some(map) = map.as_deref().filter(|map| map.writable) else {
            return self.file.sync(point);
        };
        let full = self.extent.published() / page_size() * page_size();
        let from = self.stored_from.fetch_max(full, Ordering::Relaxed);
        self.populated.advise(map, from, full, UNMAP_PAGES);
        self.file.sync(point)?;
        // Its pages take no stores any more: better to be told here than by each append.
        self.populated.advise(map, self.extent.published(), self.extent.window(), POPULATE_WRITE);
        Ok(())
    }

    /// Maps what is published of a file that is not appended to.
    pub(super) fn map_published(&self, permit: MapPermit) -> io::Result<()> {
        let len = self.extent.published();
        let map = Map::new(&self.file, len, false, permit, self.extent.clone())?;
        self.map.store(Some(Arc::new(map)));
        Ok(())
    }

    /// Lets go of the map; it lives on under the slices made of it.
    pub(super) fn unmap(&self) {
        self.resident_from.store(u64::MAX, Ordering::Relaxed);
        self.populated.clear();
        self.map.store(None);
    }

    /// Empties the window, for good if `close`, and cuts the file down to what is published.
    pub(super) fn shrink(&self, close: bool) -> io::Result<()> {
        self.extent.shrink(close, |published| {
            self.resident_from.store(u64::MAX, Ordering::Relaxed);
            // Law 2: the window ends at `published` now, and slices never reached past it.
            if self.file.len()? > published { self.file.set_len(published) } else { Ok(()) }
        })
    }

    /// A view of published bytes; `None` if they are not all published, or not mapped.
    pub(super) fn slice(&self, position: u64, len: usize) -> Option<Bytes> {
        if !self.extent.contains(position, len) {
            return None;
        }
        if len == 0 {
            return Some(Bytes::new());
        }
        let map = self.map.load_full()?;
        if !map.covers(position, len as u64) {
            return None;
        }
        let start = usize::try_from(position).ok()?;
        Some(Bytes::from_owner(Slice { map, start, len }))
    }

    /// Whether a view of these bytes can be read without waiting for the disk, as far as one can
    /// know.
    pub(super) fn resident(&self, position: u64, len: usize) -> bool {
        if position >= self.resident_from.load(Ordering::Relaxed) {
            return true;
        }
        let map = self.map.load();
        map.as_deref().is_some_and(|map| {
            map.covers(position, len as u64) && map.resident(position, len).unwrap_or(false)
        })
    }

    pub(super) fn is_mapped(&self) -> bool {
        self.map.load().is_some()
    }

    pub(super) fn file(&self) -> &RealFile {
        &self.file
    }

    pub(super) fn extent(&self) -> &Extent {
        &self.extent
    }

    /// Says that the map is in use. A store only if that is news: the line stays shared by readers.
    pub(super) fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the map was used since the last call.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile")
            .field("extent", &self.extent)
            .field("mapped", &self.is_mapped())
            .finish_non_exhaustive()
    }
}

/// A range of a file; moved by whoever grows or shrinks the file, looked at by anybody.
#[derive(Default)]
struct Populated {
    from: AtomicU64,
    to: AtomicU64,
}

// === impl Populated ===

impl Populated {
    /// This as well, if it is the next, else this alone: what is before is used up, or nearly.
    fn add(&self, from: u64, to: u64) {
        if self.to.swap(to, Ordering::Relaxed) != from {
            self.from.store(from, Ordering::Relaxed);
        }
    }

    fn clear(&self) {
        self.from.store(0, Ordering::Relaxed);
        self.to.store(0, Ordering::Relaxed);
    }

    fn contains(&self, at: u64, len: u64) -> bool {
        at >= self.from.load(Ordering::Relaxed) && at + len <= self.to.load(Ordering::Relaxed)
    }

    /// Advises on what of `[from, to)` lies in it; whether that succeeds matters for speed alone.
    fn advise(&self, map: &Map, from: u64, to: u64, advice: Advice) {
        let from = from.max(self.from.load(Ordering::Relaxed));
        let _ = map.advise(from, to.min(self.to.load(Ordering::Relaxed)), advice);
    }
}

/// Published bytes of a map; keeps it.
struct Slice {
    map: Arc<Map>,
    start: usize,
    len: usize,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `slice` made this with start + len inside the map, so one mapped range that lives
        // as long as `self.map`, and below `published`, so inside the file, written, and never
        // written again (laws 1 to 3). A `u8` has no invalid value and no alignment.
        unsafe { std::slice::from_raw_parts(self.map.address(self.start), self.len) }
    }
}

/// An address range that shows a file from its beginning.
struct Map {
    /// Keeps the file's entry in the registry as long as slices live; gone before the range is, see
    /// [`MappedFile`].
    _extent: Arc<Extent>,
    range: Range,
    writable: bool,
    _permit: MapPermit,
}

/// Addresses that were mapped, until they drop.
struct Range {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address range belongs to no thread; what may be done with it, and when, is ordered by
// the extent and its lock (law 1).
unsafe impl Send for Range {}
// SAFETY: as above; `&Range` gives out raw addresses only.
unsafe impl Sync for Range {}

// === impl Map ===

impl Map {
    fn new(
        file: &RealFile,
        len: u64,
        writable: bool,
        permit: MapPermit,
        extent: Arc<Extent>,
    ) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let access = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: no address is asked for, so no existing memory is affected. The new range is
        // reachable through this `Range` only, which keeps the laws above.
        let start = unsafe {
            rustix::mm::mmap(ptr::null_mut(), len, access, MapFlags::SHARED, file.as_std(), 0)
        }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { _extent: extent, range: Range { start, len }, writable, _permit: permit })
    }

    fn covers(&self, position: u64, len: u64) -> bool {
        position.checked_add(len).is_some_and(|end| end <= self.range.len as u64)
    }

    /// The address of a position inside the map.
    fn address(&self, position: usize) -> *mut u8 {
        assert!(position <= self.range.len, "outside of the map");
        // SAFETY: inside the mapped range or one past it, checked above; the range is one
        // allocation, at most isize::MAX long, since the kernel gave it out in one piece.
        unsafe { self.range.start.as_ptr().add(position) }
    }

    /// Copies parts to `at`. The caller holds the writer's lock and has checked that they fit the
    /// map and the file (laws 1 and 2).
    fn copy_in(&self, parts: &[&[u8]], at: u64) {
        let mut to = usize::try_from(at).expect("inside a map");
        for part in parts {
            assert!(part.len() <= self.range.len - to, "outside of the map");
            // SAFETY: the source is a live slice; the target is `part.len()` bytes of this map
            // (asserted), inside the file, writable, and touched by nobody else: it lies between
            // `published` and the window, and the caller holds the writer's lock. The two do not
            // overlap: no reference to that range exists, so `part` is not in it.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), self.address(to), part.len()) };
            to += part.len();
        }
    }

    /// Brings in the pages of `[from, to)`, or takes them out, in steps.
    fn advise(&self, from: u64, to: u64, advice: Advice) -> Result<(), Errno> {
        let page = page_size();
        let mut from = usize::try_from(from - from % page).map_err(|_| Errno::INVAL)?;
        let to = usize::try_from(to).map_err(|_| Errno::INVAL)?.min(self.range.len);
        while from < to {
            let len = POPULATE_STEP.min(to - from);
            // SAFETY: inside this map. No content changes: pages are populated, or found again in
            // the file's page cache by the next who looks, since the map is shared.
            match unsafe { rustix::mm::madvise(self.address(from).cast(), len, advice) } {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => {
                    other?;
                    from += len;
                }
            }
        }
        Ok(())
    }

    /// Whether all pages of a range inside the map are in memory.
    fn resident(&self, position: u64, len: usize) -> io::Result<bool> {
        let page = usize::try_from(page_size()).expect("a small number");
        let position = usize::try_from(position).map_err(io::Error::other)?;
        let end = position + len;
        let mut at = position - position % page;
        let mut pages = [0_u8; MINCORE_PAGES];
        while at < end {
            let len = (end - at).min(MINCORE_PAGES * page);
            // SAFETY: inside this map, and `pages` has a byte for each page of it.
            let answer =
                unsafe { libc::mincore(self.address(at).cast(), len, pages.as_mut_ptr().cast()) };
            if answer != 0 {
                return Err(io::Error::last_os_error());
            }
            if pages[..len.div_ceil(page)].iter().any(|page| page & 1 == 0) {
                return Ok(false);
            }
            at += len;
        }
        Ok(true)
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `new` and is unmapped here only; no slice of it lives,
        // each holds an `Arc` of its [`Map`].
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "an own range can be unmapped");
    }
}

/// Of the machine, in bytes.
fn page_size() -> u64 {
    rustix::param::page_size() as u64
}
