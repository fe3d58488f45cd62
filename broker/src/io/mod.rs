//! What we ask of a disk, and what we assume it may do to us.
//!
//! # Fault model
//! * **A write is not durable until a sync of its file returns.** Before that, a power loss keeps
//!   any subset of the written 4 KiB pages, in any order; a page may be torn at 512 bytes.
//! * **A directory entry is not durable until a sync of its directory returns**: a created file may
//!   vanish, a rename may be undone, a removed file may come back.
//! * **A failed sync is final.** The kernel marks the pages clean although they never reached the
//!   disk, and the next sync succeeds (fsyncgate). Whoever sees one fail must never again trust what
//!   the page cache shows ([`Failure`]).
//! * A killed process loses nothing of what it wrote; a power loss may.
//! * `ENOSPC` may come from every write, allocation and creation; it changes nothing.
//! * Bits rot: whatever is read is checked before it is believed.
//!
//! Everything that touches files goes through [`Disk`], so that the product's own code runs on
//! [`sim::SimDisk`], which does all of the above on purpose. Syncs are named ([`SyncPoint`]): the
//! test that removes them one by one shows that each is needed.
//!
//! All calls block; none may be made on an async worker, save [`SegmentFile::append`] within the
//! window and [`SegmentFile::try_slice`].

pub mod buffers;
#[cfg(test)]
mod conformance;
pub mod dir;
mod extent;
pub mod failure;
pub mod file_system;
pub mod limits;
mod mapped_segment;
pub mod maps;
mod mmap;
pub mod real;
mod real_file;
pub mod segment_file;
pub mod sim;
pub mod sync_point;

use std::{
    fmt,
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;

pub use failure::Failure;
pub use sync_point::SyncPoint;

/// A file system, real or simulated. Paths are absolute or relative to the process, as in std.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes a directory whose parent exists; an existing one is no error. Durable once the parent
    /// is synced.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// What lies in a directory, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Makes a new, empty file for reading and writing; fails if it exists. Durable once its
    /// directory is synced.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading and writing. One that is open as a segment is refused
    /// ([`io::ErrorKind::ResourceBusy`]) where segments are mapped.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Moves a file or directory over `to`, atomically. Durable once the directory (both, if they
    /// differ) is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open handles and maps stay valid. Durable once its directory is synced.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory. Durable once its parent is synced.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes all entries of a directory durable.
    fn sync_dir(&self, dir: &Path, point: SyncPoint) -> io::Result<()>;

    /// Size of the file system that holds `path` and what is free for us.
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Makes a new segment file to append to, with a window of `len` zero bytes, as
    /// [`SegmentFile::extend`] makes it. `ENOSPC` leaves no file behind. Durable once the file and its directory are
    /// synced.
    fn create_segment(
        &self,
        path: &Path,
        len: u64,
        mode: WriteMode,
    ) -> io::Result<Arc<dyn SegmentFile>>;

    /// Opens a segment file whose bytes below `published` are valid and will never change; fails if
    /// the file has fewer. To read, a handle that appends must have published as much
    /// ([`io::ErrorKind::ResourceBusy`] otherwise, where segments are mapped).
    ///
    /// With [`Access::Append`] it can be appended to from `published` on, once [`SegmentFile::extend`]ed.
    /// What the file has past `published` is cut off first: else a whole frame behind a torn one
    /// could come back to life once new frames fill the gap. Another handle of the file that could
    /// append cannot any more. While bytes past `published` may still be read through another
    /// handle or a slice, this is refused ([`io::ErrorKind::ResourceBusy`]) where segments are
    /// mapped.
    fn open_segment(
        &self,
        path: &Path,
        published: u64,
        access: Access,
    ) -> io::Result<Arc<dyn SegmentFile>>;
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name; names that are not UTF-8 are none of ours and are left out of listings.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Size in bytes; 0 for directories.
    pub len: u64,
}

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What we may still take.
    pub free: u64,
}

/// An open file. Reads and writes at positions; short reads only at the end of the file.
pub trait File: fmt::Debug + Send + Sync {
    /// Its size in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether it is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `position`; returns how many bytes there were.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;

    /// Fills `buf` from `position` if that needs no waiting for the device (the bytes are in the
    /// page cache); `false` if it does, if the file ends before, or if the file system cannot tell.
    fn read_cached_at(&self, buf: &mut [u8], position: u64) -> io::Result<bool>;

    /// Writes all parts, one after the other, at `position`. On error any prefix may be written.
    fn write_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()>;

    /// Grows the file to `len` bytes, new ones zero, with blocks reserved so that later writes
    /// below `len` cannot meet `ENOSPC`. Undone on error.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Cuts the file to `len` bytes, or grows it with a hole.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes content and size durable (`fdatasync`).
    fn sync(&self, point: SyncPoint) -> io::Result<()>;
}

/// What a segment file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only to be read.
    Read,
    /// To be appended to as well.
    Append,
}

/// How bytes get into a part of a segment file; readers see no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// `memcpy` into a window mapped and populated ahead: no call of the kernel for an append, which
    /// is what small ones cost most, and no wait for it either. The window's pages are written twice
    /// for that: zeros first.
    Map,
    /// `pwrite`: the cheaper one for large appends. And where every batch is synced, a map would
    /// write whole large folios to the device for each (measured: 29.6 bytes per byte), `pwrite`
    /// does not.
    Write,
}

/// The data file of a segment: bytes appended at the end by one writer, published, never changed
/// again; read by any number of readers without locks.
///
/// ```text
///   0 ......... published ............. window ......... file size
///   immutable, readable │ allocated, populated: │ perhaps allocated
///                       │ append does not block │
/// ```
///
/// Appends are serialised by the caller (the partition's lock); implementations are sound without
/// that, they need not be fair.
pub trait SegmentFile: fmt::Debug + Send + Sync {
    /// End of what readers may see (Acquire: bytes below are visible).
    fn published(&self) -> u64;

    /// End of what can be appended without blocking.
    fn window(&self) -> u64;

    /// Appends all parts and publishes them (Release). Returns the position of the first byte.
    /// After [`AppendError::Io`] the file takes no more appends: seal it and go on in a new one.
    fn append(&self, parts: &[&[u8]]) -> Result<u64, AppendError>;

    /// Moves the window's end to at least `to`: allocates and, for [`WriteMode::Map`], brings in
    /// pages ahead of the writer so that no append there takes a page fault. Blocks; may run beside
    /// appends and reads. Undone on error, `ENOSPC` above all.
    fn extend(&self, to: u64, mode: WriteMode) -> io::Result<()>;

    /// The `len` bytes at `position` if they are published and in memory: a view of the map or a
    /// copy, but never a page fault. `None`: use [`SegmentFile::read`] on the I/O pool.
    fn try_slice(&self, position: u64, len: usize) -> Option<Bytes>;

    /// The `len` bytes at `position`, from the disk if need be. Blocks. Reaches past `published`
    /// (recovery looks there); short only at the end of the file.
    fn read(&self, position: u64, len: usize) -> io::Result<Bytes>;

    /// Makes everything appended before this call durable.
    fn sync(&self, point: SyncPoint) -> io::Result<()>;

    /// No append is expected soon: gives back what was allocated past `published`, and the map if
    /// there is one. The window is empty until the next [`SegmentFile::extend`]. Blocks.
    fn release_window(&self) -> io::Result<()>;

    /// No more appends: gives back what was allocated past `published`. Slices stay valid, they
    /// never reach past it. A file that was opened read-only is left as it is. Blocks.
    fn seal(&self) -> io::Result<()>;
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The parts reach past the window: [`SegmentFile::extend`] to at least this first.
    #[error("the segment's window has to be extended to {needed} bytes")]
    WindowFull {
        /// End of the parts.
        needed: u64,
    },
    /// The file was sealed or opened read-only.
    #[error("the segment file takes no more appends")]
    Sealed,
    /// The write failed; nothing was published, and the file is closed for appends, because what
    /// lies past its published end is unknown.
    #[error("writing to the segment file failed")]
    Io(#[from] io::Error),
}
