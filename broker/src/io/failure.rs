//! A failed sync is final for its log directory, and stays so over restarts.
//!
//! After a failed fsync the kernel marks the pages clean although they never reached the disk
//! (fsyncgate; Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
//! The page cache then shows bytes which the disk has not, a retry succeeds, and a restarted
//! process reads them back and believes them. So the first failure is remembered here, by everybody
//! who shares the directory, and in a mark file which the next start reads. Only a person who has
//! looked at the disk removes the mark.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use super::{
    Disk, SyncPoint,
    dir::{self, AtomicPoints},
};

/// Name of the mark file inside a failed log directory.
pub const MARK: &str = "failed";

/// Longest reason that is read back from a mark.
const MARK_LEN_MAX: usize = 64 << 10;

/// Whether a log directory has failed; clones share it. Cheap to ask, sticky once set.
#[derive(Clone)]
pub struct Failure(Arc<State>);

struct State {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    failed: OnceLock<Failed>,
}

/// Why a log directory takes no more work, and what to do. No retry helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "log directory {dir} has failed and takes no more work: {why}. Records that were not synced may \
     be missing on the disk although reads still show them. Check or replace the disk, restart the \
     machine (or drop its page cache), restore the directory from the other replicas or accept what \
     the disk has, then remove {mark} and start again"
)]
pub struct Failed {
    /// The log directory.
    pub dir: Arc<str>,
    /// Its mark file.
    pub mark: Arc<str>,
    /// What happened first.
    pub why: Arc<str>,
}

// === impl Failure ===

impl Failure {
    /// The state of a log directory: failed if it has a mark from an earlier run. An unreadable
    /// mark counts as one.
    pub fn open(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>) -> Self {
        let failure = Self(Arc::new(State { disk, dir: dir.into(), failed: OnceLock::new() }));
        match dir::read_small(failure.0.disk.as_ref(), &failure.mark_path(), MARK_LEN_MAX) {
            Ok(Some(why)) => failure.set(&format!(
                "an earlier run left the mark: {}",
                String::from_utf8_lossy(&why).trim()
            )),
            Ok(None) => {}
            Err(error) => failure.set(&format!("its failure mark cannot be read: {error}")),
        }
        failure
    }

    /// An error once the directory has failed. To be asked before every ack, append and sync.
    pub fn check(&self) -> Result<(), Failed> {
        match self.0.failed.get() {
            None => Ok(()),
            Some(failed) => Err(failed.clone()),
        }
    }

    /// Whether the directory has failed.
    pub fn is_failed(&self) -> bool {
        self.0.failed.get().is_some()
    }

    /// Marks the directory as failed, for good. The first reason stays. Everybody sees it before
    /// the mark file is tried (best effort: this disk is failing); its error is for the operator's
    /// log only. Blocks.
    pub fn poison(&self, why: &str) -> io::Result<()> {
        if self.is_failed() {
            return Ok(());
        }
        self.set(why);
        let points = AtomicPoints { file: SyncPoint::FailureMark, dir: SyncPoint::FailureMarkDir };
        dir::write_atomic(self.0.disk.as_ref(), &self.mark_path(), why.as_bytes(), points)
    }

    /// Passes on the result of a sync; an error poisons the directory first, unless there was no
    /// sync ([`is_handle_shortage`]).
    pub fn of_sync(&self, what: &str, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result
            && !is_handle_shortage(error)
        {
            // The mark is best effort; the caller's error is the one to report.
            let _ = self.poison(&format!("sync of {what} failed: {error}"));
        }
        result
    }

    /// The log directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    fn mark_path(&self) -> PathBuf {
        self.0.dir.join(MARK)
    }

    fn set(&self, why: &str) {
        // Two may fail at once: the first reason is the one that explains the second.
        let _ = self.0.failed.set(Failed {
            dir: self.0.dir.display().to_string().into(),
            mark: self.mark_path().display().to_string().into(),
            why: why.into(),
        });
    }
}

/// Whether a call failed because this process, or the machine, has too many files open: it says
/// nothing of the disk, nothing was done, and trying again later may help.
pub fn is_handle_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].iter().any(|no| error.raw_os_error() == Some(no.raw_os_error()))
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("dir", &self.0.dir)
            .field("failed", &self.0.failed.get().map(|failed| &failed.why))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::sim::{Fault, PowerCut, SimDisk},
        *,
    };

    fn disk() -> SimDisk {
        let disk = SimDisk::new(1);
        disk.create_dir(Path::new("/data")).unwrap();
        disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
        disk
    }

    #[test]
    fn the_first_reason_stays_and_everybody_sees_it() {
        let failure = Failure::open(Arc::new(disk()), "/data");
        let other = failure.clone();
        other.check().unwrap();
        let error = failure.of_sync("00.log", Err(io::Error::other("device gone"))).unwrap_err();
        assert_eq!(error.to_string(), "device gone");
        failure.poison("a later one").unwrap();
        let text = other.check().unwrap_err().to_string();
        assert!(text.contains("sync of 00.log failed: device gone"), "{text}");
        assert!(text.contains("/data") && text.contains("remove /data/failed"), "{text}");
    }

    #[test]
    fn too_many_open_files_are_no_failure_of_the_disk() {
        let failure = Failure::open(Arc::new(disk()), "/data");
        let shortage = io::Error::from(rustix::io::Errno::MFILE);
        failure.of_sync("the directory", Err(shortage)).unwrap_err();
        failure.check().unwrap();
    }

    #[test]
    fn the_mark_outlives_a_power_loss_until_somebody_removes_it() {
        let disk = disk();
        Failure::open(Arc::new(disk.clone()), "/data").poison("EIO on sync").unwrap();
        let disk = disk.power_loss(PowerCut::LoseUnsynced);
        let failed = Failure::open(Arc::new(disk.clone()), "/data").check().unwrap_err();
        assert!(failed.why.contains("EIO on sync"), "{failed}");
        disk.remove_file(Path::new("/data/failed")).unwrap();
        Failure::open(Arc::new(disk), "/data").check().unwrap();
    }

    #[test]
    fn a_disk_that_takes_no_mark_is_still_failed_for_this_run() {
        let disk = disk();
        let failure = Failure::open(Arc::new(disk.clone()), "/data");
        disk.fail_after(0, Fault::NoSpace);
        assert!(failure.poison("sync failed").is_err());
        assert!(failure.is_failed());
    }
}
