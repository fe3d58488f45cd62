//! The data directory as a whole: locked, known to be fit, and whether the last stop was a clean one.
//!
//! ```text
//!   <data>/.lock            who has it
//!   <data>/meta.properties  whose it is
//!   <data>/failed           only after a sync failed: nothing is served
//!   <data>/clean-shutdown   only between a clean stop and the next start
//!   <data>/last-run         which run wrote last, on which boot of the machine
//!   <data>/reserve          room set aside for stopping on a full disk
//!   <data>/meta/            the metadata log
//!   <data>/data/            a directory per partition
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use thiserror::Error;

use crate::io::{
    Disk, Failure, SyncPoint,
    dir::{AtomicPoints, DirLock, DirLockError, read_small, write_atomic},
    failure::Failed,
};

const CLEAN_MARKER: &str = "clean-shutdown";
const RESERVE: &str = "reserve";
/// First line of the marker; a marker of another version counts as none, which costs a scan.
const CLEAN_MARKER_V1: &[u8] = b"riverrun clean shutdown v1\n";

/// An open data directory. Nobody else opens it while this lives.
#[derive(Debug)]
pub struct DataDirectory {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    failure: Failure,
    reserve_bytes: u64,
    has_reserve: AtomicBool,
    lock: Mutex<Option<DirLock>>,
}

/// Why the data directory cannot be used.
#[derive(Debug, Error)]
pub enum DataDirectoryError {
    /// Another broker has it.
    #[error(transparent)]
    Locked(#[from] DirLockError),
    /// A sync failed in it earlier.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// It cannot be read or written.
    #[error("cannot use data directory {}: {source}", dir.display())]
    Io {
        /// Which one.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

impl DataDirectory {
    /// Makes the directory if it is missing, locks it, and checks that it is fit to serve. Blocks.
    ///
    /// # Errors
    /// Locked by another broker, failed earlier, or not writable. Nothing was changed in it.
    pub fn open(
        root: &Path,
        disk: Arc<dyn Disk>,
        reserve_bytes: u64,
    ) -> Result<Self, DataDirectoryError> {
        let failed_on = |source| DataDirectoryError::Io { dir: root.to_owned(), source };
        create_dirs(disk.as_ref(), root).map_err(failed_on)?;
        let lock = DirLock::acquire(root)?;
        let failure = Failure::open(Arc::clone(&disk), root);
        failure.check()?;
        let directory = Self {
            root: root.to_owned(),
            disk,
            failure,
            reserve_bytes,
            has_reserve: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
        };
        if reserve_bytes > 0
            && let Err(error) = directory.reserve()
        {
            tracing::warn!(%error, bytes = reserve_bytes, "no room for the reserve file: a full disk may keep this broker from deleting what fills it");
        }
        Ok(directory)
    }

    /// Lets another broker have it, whoever still holds this. Nothing may be written from here on.
    pub fn unlock(&self) {
        self.lock.lock().take();
    }

    /// Makes the directory of the partitions, once it is known whose data this is.
    pub fn create_data(&self) -> io::Result<()> {
        self.disk.create_dir(&self.data())?;
        self.disk.sync_dir(&self.root, SyncPoint::DataDir)
    }

    /// Whether the marker of a clean stop is there. It is taken before anything is written.
    pub fn has_clean_marker(&self) -> io::Result<bool> {
        let content = read_small(self.disk.as_ref(), &self.root.join(CLEAN_MARKER), 4096)?;
        Ok(content.is_some_and(|content| content == CLEAN_MARKER_V1))
    }

    /// Whether the last stop was a clean one; takes the marker away, durably, so that nothing
    /// written from now on can be covered by it.
    ///
    /// # Errors
    /// If the marker cannot be removed: then nothing may be appended.
    pub fn take_clean_marker(&self) -> io::Result<bool> {
        let path = self.root.join(CLEAN_MARKER);
        let Some(content) = read_small(self.disk.as_ref(), &path, 4096)? else {
            return Ok(false);
        };
        self.disk.remove_file(&path)?;
        self.disk.sync_dir(&self.root, SyncPoint::CleanMarkerRemoved)?;
        Ok(content == CLEAN_MARKER_V1)
    }

    /// Says that all logs were flushed and closed. The last thing a broker writes.
    pub fn mark_clean(&self) -> io::Result<()> {
        self.failure.check().map_err(io::Error::other)?;
        let points = AtomicPoints { file: SyncPoint::CleanMarker, dir: SyncPoint::CleanMarkerDir };
        write_atomic(self.disk.as_ref(), &self.root.join(CLEAN_MARKER), CLEAN_MARKER_V1, points)
    }

    /// Sets room aside.
    ///
    /// # Errors
    /// If there is none; then nothing is set aside.
    pub fn reserve(&self) -> io::Result<()> {
        let path = self.root.join(RESERVE);
        let file = match self.disk.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.disk.open(&path),
            file => file,
        };
        let reserved = file.and_then(|file| file.allocate(self.reserve_bytes));
        if reserved.is_err() {
            self.release_reserve();
        }
        self.has_reserve.store(reserved.is_ok(), Ordering::Relaxed);
        reserved
    }

    /// Gives back the reserved room: when the disk is full, so that there is some for deletions,
    /// checkpoints and the metadata; and before a stop, for the same reason.
    pub fn release_reserve(&self) {
        self.has_reserve.store(false, Ordering::Relaxed);
        match self.disk.remove_file(&self.root.join(RESERVE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the reserve file was not removed");
            }
            _ => {}
        }
    }

    /// Whether room is set aside.
    pub fn has_reserve(&self) -> bool {
        self.has_reserve.load(Ordering::Relaxed)
    }

    /// How much is to be set aside.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Of the partitions.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// What it is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Whether a sync in it has failed.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }
}

/// Makes a directory and those above it that are missing, durably: what is acknowledged in it must
/// not vanish with a name further up.
fn create_dirs(disk: &dyn Disk, root: &Path) -> io::Result<()> {
    // A relative path begins in a directory that exists.
    let root = std::path::absolute(root)?;
    let made: Vec<_> = root.ancestors().take_while(|dir| !dir.exists()).collect();
    fs::create_dir_all(&root)?;
    // Also of one that was there: an interrupted start may have made it.
    let last = if made.is_empty() { vec![root.as_path()] } else { made };
    for parent in last.iter().filter_map(|dir| dir.parent()) {
        disk.sync_dir(parent, SyncPoint::DataDir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::real::{MapPolicy, RealDisk};

    fn open(root: &Path) -> Result<DataDirectory, DataDirectoryError> {
        DataDirectory::open(root, Arc::new(RealDisk::new(MapPolicy::Auto)), 4096)
    }

    #[test]
    fn a_clean_stop_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deep/down");
        let directory = open(&root).unwrap();
        assert!(!directory.take_clean_marker().unwrap(), "a new one was never stopped");
        directory.mark_clean().unwrap();
        drop(directory);
        let directory = open(&root).unwrap();
        assert!(directory.has_clean_marker().unwrap(), "a look takes nothing");
        assert!(directory.take_clean_marker().unwrap());
        assert!(!directory.take_clean_marker().unwrap(), "taken");
    }

    #[test]
    fn a_marker_of_another_version_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path()).unwrap();
        fs::write(dir.path().join(CLEAN_MARKER), "riverrun clean shutdown v2\n").unwrap();
        assert!(!directory.take_clean_marker().unwrap());
        assert!(!dir.path().join(CLEAN_MARKER).exists());
    }

    #[test]
    fn a_failed_directory_is_refused_until_someone_looked() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path()).unwrap();
        directory.failure().poison("a test").unwrap();
        assert!(directory.mark_clean().is_err(), "what failed was not closed in order");
        drop(directory);
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, DataDirectoryError::Failed(_)), "{error}");
        fs::remove_file(dir.path().join("failed")).unwrap();
        open(dir.path()).unwrap();
    }

    #[test]
    fn the_reserve_is_made_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path()).unwrap();
        assert_eq!(fs::metadata(dir.path().join(RESERVE)).unwrap().len(), 4096);
        directory.release_reserve();
        assert!(!dir.path().join(RESERVE).exists() && !directory.has_reserve());
        directory.release_reserve();
        directory.reserve().unwrap();
        assert!(dir.path().join(RESERVE).exists() && directory.has_reserve());
    }

    #[test]
    fn one_broker_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        assert!(matches!(open(dir.path()), Err(DataDirectoryError::Locked(_))));
        first.unlock();
        open(dir.path()).unwrap();
    }

    #[test]
    fn every_name_on_the_way_to_it_is_made_durable() {
        let disk = crate::io::sim::SimDisk::new(1);
        let dir = tempfile::tempdir().unwrap();
        // The names are real, the syncs are simulated: each needs its directory there, too.
        let base = dir.path().canonicalize().unwrap();
        for parent in base.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
            disk.create_dir(parent).unwrap();
        }
        for below in ["a", "a/b"] {
            disk.create_dir(&base.join(below)).unwrap();
        }
        disk.record_history();
        create_dirs(&disk, &base.join("a/b/c")).unwrap();
        let synced: Vec<_> = disk
            .trace()
            .into_iter()
            .map(|op| match op {
                crate::io::sim::Op::SyncDir(dir, _) => dir,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(synced, [base.join("a/b"), base.join("a"), base.clone()]);
        create_dirs(&disk, &base.join("a/b/c")).unwrap();
        assert_eq!(disk.ops(), 4, "and the last one again: an earlier start may have been cut off");
    }
}
