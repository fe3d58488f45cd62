//! A disk in memory that does on purpose what the [fault model](super) says a disk may do.
//!
//! Deterministic: the same seed and the same calls give the same bytes. No thread, no clock. Cheap
//! to branch: pages and names are shared until written to, so a test may keep the state after
//! *every* operation of a workload and cut the power at each, in many ways:
//!
//! ```
//! use riverrun_broker::io::{Disk, SyncPoint, sim::{PowerCut, SimDisk}};
//! use std::{io::IoSlice, path::Path};
//!
//! let disk = SimDisk::new(42);
//! disk.record_history();
//! let file = disk.create(Path::new("/a"))?;
//! disk.sync_dir(Path::new("/"), SyncPoint::DataDir)?;
//! file.write_at(&[IoSlice::new(b"hello")], 0)?;
//! file.sync(SyncPoint::SegmentData)?;
//! let acked_after = disk.ops(); // how many operations the ack rests on
//!
//! for (ops, state) in disk.history().iter().enumerate() {
//!     for cut in PowerCut::sample(10) {
//!         let found = state.snapshot().power_loss(cut);
//!         if ops as u64 >= acked_after {
//!             assert_eq!(found.open(Path::new("/a"))?.len()?, 5);
//!         }
//!     }
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Not modelled: hard links, permissions, reordering of directory operations by a file system that
//! would break one rename in two.

mod content;
mod names;
pub(crate) mod rng;
mod world;

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use self::{
    names::Inode,
    world::{Planned, State, World},
};
use super::{
    Access, DirEntry, Disk, File, SegmentFile, Space, SyncPoint, WriteMode, buffers::Buffers,
    segment_file::PwriteSegment,
};

/// A simulated disk; clones are the same disk. It has a root directory `/`, nothing else.
#[derive(Debug, Clone)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    buffers: Buffers,
}

/// What a power loss leaves of everything that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerCut {
    /// Nothing: only what was synced survives.
    LoseUnsynced,
    /// All of it, as if the kernel had been quick.
    KeepUnsynced,
    /// Names are kept, content is lost: the classic empty file after a rename.
    LoseContent,
    /// Content is kept, names are lost.
    LoseNames,
    /// Any legal mixture, of pages, of torn pages, of names; chosen by this seed.
    Random(u64),
}

// === impl PowerCut ===

impl PowerCut {
    /// The four extremes, then `random` mixtures.
    pub fn sample(random: u64) -> impl Iterator<Item = Self> {
        [Self::LoseUnsynced, Self::KeepUnsynced, Self::LoseContent, Self::LoseNames]
            .into_iter()
            .chain((0..random).map(Self::Random))
    }
}

/// Something that goes wrong in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO: a write leaves any prefix, other changes nothing.
    WriteError,
    /// EIO: reads.
    ReadError,
    /// EIO: a sync of a file or directory. What was dirty counts as clean, whether or not it
    /// reached the disk (fsyncgate).
    SyncError,
    /// ENOSPC: a write, an allocation, a creation, a rename.
    NoSpace,
}

// === impl Fault ===

impl Fault {
    fn error(self) -> io::Error {
        let errno = match self {
            Self::WriteError | Self::ReadError | Self::SyncError => rustix::io::Errno::IO,
            Self::NoSpace => rustix::io::Errno::NOSPC,
        };
        errno.into()
    }
}

/// A change that was made, for tests that look at the order of things. Reads are not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the calls of Disk and File")]
pub enum Op {
    CreateDir(PathBuf),
    Create(PathBuf),
    Rename(PathBuf, PathBuf),
    RemoveFile(PathBuf),
    RemoveDir(PathBuf),
    SyncDir(PathBuf, SyncPoint),
    Write { path: PathBuf, position: u64, len: u64 },
    Allocate { path: PathBuf, len: u64 },
    SetLen { path: PathBuf, len: u64 },
    Sync(PathBuf, SyncPoint),
}

// === impl SimDisk ===

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self::of(State::new(seed))
    }

    fn of(state: State) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(state))), buffers: Buffers::new(0) }
    }

    /// The disk as it is found after the power came back. This one, and all that is open on it, is
    /// dead from now on.
    pub fn power_loss(&self, cut: PowerCut) -> Self {
        let mut world = self.world.lock();
        world.off = true;
        Self::of(world.state.after(cut))
    }

    /// The disk as the next process finds it after this one was killed: the page cache survives,
    /// and what was not synced may still be lost later. This one is dead from now on.
    pub fn kill(&self) -> Self {
        let mut world = self.world.lock();
        world.off = true;
        Self::of(world.state.clone().without_handles())
    }

    /// Another disk in the same state, unsynced changes included, nothing open. This one lives on.
    pub fn snapshot(&self) -> Self {
        Self::of(self.world.lock().state.clone().without_handles())
    }

    /// From now on remembers the state after every operation; begins with the state now.
    pub fn record_history(&self) {
        let mut world = self.world.lock();
        world.trace.clear();
        world.history = Some(vec![world.state.clone()]);
    }

    /// The disk after 0, 1, 2 … operations since [`SimDisk::record_history`].
    pub fn history(&self) -> Vec<Self> {
        let world = self.world.lock();
        let states = world.history.iter().flatten();
        states.map(|state| Self::of(state.clone().without_handles())).collect()
    }

    /// How many operations changed something, since the beginning or [`SimDisk::record_history`].
    pub fn ops(&self) -> u64 {
        self.world.lock().trace.len() as u64
    }

    /// Those operations.
    pub fn trace(&self) -> Vec<Op> {
        self.world.lock().trace.clone()
    }

    /// Bounds the disk, or not: calls that need more blocks meet ENOSPC.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world.lock().capacity = bytes;
    }

    /// The next call `fault` can strike fails, after `n` more that do not; once. Several may be
    /// planned.
    pub fn fail_after(&self, n: u64, fault: Fault) {
        self.world.lock().faults.push_back(Planned { after: n, fault, point: None });
    }

    /// The next sync at this point fails; once.
    pub fn fail_sync(&self, point: SyncPoint) {
        let planned = Planned { after: 0, fault: Fault::SyncError, point: Some(point) };
        self.world.lock().faults.push_back(planned);
    }

    /// How many planned faults have not struck yet.
    pub fn faults_left(&self) -> usize {
        self.world.lock().faults.len()
    }

    /// None of them strikes any more.
    pub fn forget_faults(&self) {
        self.world.lock().faults.clear();
    }

    /// After `n` more operations that change something, every call fails, as if the process were
    /// gone; go on with [`SimDisk::power_loss`] or [`SimDisk::kill`].
    pub fn off_after(&self, n: u64) {
        self.world.lock().off_after = Some(n);
    }

    /// Mutation: syncs at this point do nothing.
    pub fn ignore_sync(&self, point: Option<SyncPoint>) {
        self.world.lock().ignored = point;
    }

    /// Splits every write into operations of at most this many bytes, so that a process can be
    /// killed, or the power lost, in the middle of one.
    pub fn split_writes(&self, bytes: Option<usize>) {
        self.world.lock().write_step = bytes.map(|bytes| bytes.max(1));
    }

    /// Whether reads would have to wait for the device: [`SegmentFile::try_slice`] finds nothing.
    pub fn set_cold(&self, cold: bool) {
        self.world.lock().cold = cold;
    }

    /// Evicts clean pages: shows what a failed sync has lost.
    pub fn drop_caches(&self) {
        self.world.lock().drop_caches();
    }

    /// Bit rot: flips a bit of the byte at `position`, on the disk and in the page cache.
    pub fn flip_bit(&self, path: &Path, position: u64, bit: u8) -> io::Result<()> {
        self.world.lock().flip_bit(path, position, bit)
    }

    fn file(&self, path: &Path, inode: Inode) -> Arc<SimFile> {
        Arc::new(SimFile { world: self.world.clone(), inode, path: path.into() })
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.world.lock().create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.world.lock().list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let inode = self.world.lock().create(path)?;
        Ok(self.file(path, inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let inode = self.world.lock().open(path)?;
        Ok(self.file(path, inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.world.lock().rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.world.lock().remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.world.lock().remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path, point: SyncPoint) -> io::Result<()> {
        self.world.lock().sync_dir(dir, point)
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        self.world.lock().space()
    }

    fn create_segment(
        &self,
        path: &Path,
        len: u64,
        _mode: WriteMode,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        let file = self.create(path)?;
        match PwriteSegment::create(file, len, self.buffers.clone()) {
            Ok(segment) => Ok(Arc::new(segment)),
            Err(error) => {
                // The disk may be off; then the file stays, as a killed process would leave it.
                let _ = self.remove_file(path);
                Err(error)
            }
        }
    }

    fn open_segment(
        &self,
        path: &Path,
        published: u64,
        access: Access,
    ) -> io::Result<Arc<dyn SegmentFile>> {
        let (file, buffers) = (self.open(path)?, self.buffers.clone());
        Ok(Arc::new(match access {
            Access::Append => PwriteSegment::open(file, published, buffers)?,
            Access::Read => PwriteSegment::open_read_only(file, published, buffers)?,
        }))
    }
}

/// An open file of a simulated disk.
#[derive(Debug)]
struct SimFile {
    world: Arc<Mutex<World>>,
    inode: Inode,
    path: PathBuf,
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.world.lock().len(self.inode)
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.world.lock().read(self.inode, buf, position)
    }

    fn read_cached_at(&self, buf: &mut [u8], position: u64) -> io::Result<bool> {
        let mut world = self.world.lock();
        Ok(!world.cold && world.read(self.inode, buf, position)? == buf.len())
    }

    fn write_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.world.lock().write((self.inode, &self.path), parts, position)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.world.lock().allocate((self.inode, &self.path), len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.world.lock().set_len((self.inode, &self.path), len)
    }

    fn sync(&self, point: SyncPoint) -> io::Result<()> {
        self.world.lock().sync((self.inode, &self.path), point)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.world.lock().close(self.inode);
    }
}

#[cfg(test)]
#[path = "sim_test.rs"]
mod tests;
