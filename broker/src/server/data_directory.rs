//! The data directory as a whole: locked, known to be fit, and whether the last stop was a clean one.
//!
//! ```text
//!   <data>/.lock            who has it
//!   <data>/meta.properties  whose it is
//!   <data>/failed           only after a sync failed: nothing is served
//!   <data>/clean-shutdown   only between a clean stop and the next start
//!   <data>/reserve          room set aside for stopping on a full disk
//!   <data>/meta/            the metadata log
//!   <data>/data/            a directory per partition
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

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
    _lock: DirLock,
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
        fs::create_dir_all(root).map_err(failed_on)?;
        let lock = DirLock::acquire(root)?;
        let failure = Failure::open(Arc::clone(&disk), root);
        failure.check()?;
        if let Some(parent) = root.canonicalize().map_err(failed_on)?.parent() {
            disk.sync_dir(parent, SyncPoint::DataDir).map_err(failed_on)?;
        }
        let directory = Self { root: root.to_owned(), disk, failure, reserve_bytes, _lock: lock };
        directory.reserve();
        Ok(directory)
    }

    /// Makes the directory of the partitions, once it is known whose data this is.
    pub fn create_data(&self) -> io::Result<()> {
        self.disk.create_dir(&self.data())?;
        self.disk.sync_dir(&self.root, SyncPoint::DataDir)
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

    /// Gives back the reserved room: called before a stop, so that a full disk does not keep the
    /// logs from being closed in order.
    pub fn release_reserve(&self) {
        match self.disk.remove_file(&self.root.join(RESERVE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the reserve file was not removed");
            }
            _ => {}
        }
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

    /// Sets room aside. Not having it is no reason not to serve.
    fn reserve(&self) {
        if self.reserve_bytes == 0 {
            return;
        }
        let path = self.root.join(RESERVE);
        let file = match self.disk.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.disk.open(&path),
            file => file,
        };
        if let Err(error) = file.and_then(|file| file.allocate(self.reserve_bytes)) {
            tracing::warn!(%error, bytes = self.reserve_bytes, "no room for the reserve file: a full disk may keep this broker from stopping cleanly");
            self.release_reserve();
        }
    }
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
        assert!(!dir.path().join(RESERVE).exists());
        directory.release_reserve();
    }

    #[test]
    fn one_broker_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path()).unwrap();
        assert!(matches!(open(dir.path()), Err(DataDirectoryError::Locked(_))));
    }
}
