//! Directories and small files: one broker per directory, whole files replaced at once.

use std::{
    fs,
    io::{self, IoSlice, Read, Seek, Write},
    path::{Path, PathBuf},
};

use super::{Disk, SyncPoint};

/// Name of the lock file inside a data directory.
pub const LOCK: &str = ".lock";

/// Suffix of a file that is being written, before it takes its name. Leftovers mean nothing.
pub const TMP_SUFFIX: &str = ".tmp";

/// The right to use a data directory, held by one broker at a time, over all processes. Freed when
/// dropped and by the kernel when the process dies; the file stays.
#[derive(Debug)]
pub struct DirLock {
    path: PathBuf,
    _file: fs::File,
}

/// Why a data directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum DirLockError {
    /// Another broker has it. Trying again helps once that one has stopped.
    #[error(
        "data directory {} is in use by another broker ({holder}): stop that one, or give this one \
         another directory", dir.display()
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Who has it, as far as the lock file says.
        holder: String,
    },
    /// The lock file could not be made or locked.
    #[error("data directory {} cannot be locked", dir.display())]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

// === impl DirLock ===

impl DirLock {
    /// Takes the lock of `dir`, which exists, or says at once who has it.
    pub fn acquire(dir: &Path) -> Result<Self, DirLockError> {
        let failed = |source| DirLockError::Io { dir: dir.to_owned(), source };
        let path = dir.join(LOCK);
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The number is only for the reader of the error; without it the lock holds too.
                let _ = file.take(64).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "process unknown".to_owned(),
                    pid => format!("process {pid}"),
                };
                return Err(DirLockError::InUse { dir: dir.to_owned(), holder });
            }
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        // Same here: who holds the lock is decided by the kernel, not by this text.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { path, _file: file })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The two syncs of [`write_atomic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtomicPoints {
    /// Of the temporary file, before it takes its name.
    pub file: SyncPoint,
    /// Of the directory, after that.
    pub dir: SyncPoint,
}

/// Replaces the content of the file at `path`, all or nothing, also in a power loss. Durable when it
/// returns. On error the old content stands, or, if only the directory's sync failed, either.
pub fn write_atomic(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
    points: AtomicPoints,
) -> io::Result<()> {
    replace(disk, path, bytes, points.file)?;
    disk.sync_dir(split(path)?.0, points.dir)
}

/// As [`write_atomic`], but a power loss may still bring the old content back until the directory is
/// synced: the caller does that once for several files.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8], point: SyncPoint) -> io::Result<()> {
    let (_, tmp) = split(path)?;
    let file = match disk.create(&tmp) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove_file(&tmp)?;
            disk.create(&tmp)?
        }
        other => other?,
    };
    let written = file
        .write_at(&[IoSlice::new(bytes)], 0)
        .and_then(|()| file.sync(point))
        .and_then(|()| disk.rename(&tmp, path));
    if let Err(error) = written {
        // A leftover is harmless, the next write removes it; but a full disk wants its bytes back.
        let _ = disk.remove_file(&tmp);
        return Err(error);
    }
    Ok(())
}

/// The content of a small file, `None` if there is none; an error if it has more than `limit` bytes.
pub fn read_small(disk: &dyn Disk, path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let len = file.len()?;
    if len > limit as u64 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} has {len} bytes, more than the {limit} it may have", path.display()),
        ));
    }
    let mut bytes = vec![0; usize::try_from(len).expect("not above a usize")];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

fn split(path: &Path) -> io::Result<(&Path, PathBuf)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file has a name"));
    };
    let mut tmp = name.to_owned();
    tmp.push(TMP_SUFFIX);
    Ok((dir, dir.join(tmp)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::sim::{Fault, PowerCut, SimDisk},
        *,
    };

    const POINTS: AtomicPoints =
        AtomicPoints { file: SyncPoint::Checkpoint, dir: SyncPoint::CheckpointDir };

    #[test]
    fn two_brokers_on_one_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path()).unwrap();
        let error = DirLock::acquire(dir.path()).unwrap_err();
        assert!(matches!(error, DirLockError::InUse { .. }));
        let text = error.to_string();
        assert!(text.contains(&dir.path().display().to_string()), "{text}");
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        drop(first);
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn no_directory_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let error = DirLock::acquire(&dir.path().join("missing")).unwrap_err();
        assert!(matches!(error, DirLockError::Io { .. }), "{error:?}");
    }

    #[test]
    fn a_small_file_is_read_back_within_its_limit() {
        let disk = SimDisk::new(0);
        let path = Path::new("/a");
        assert_eq!(read_small(&disk, path, 10).unwrap(), None);
        write_atomic(&disk, path, b"0123456789", POINTS).unwrap();
        assert_eq!(read_small(&disk, path, 10).unwrap().unwrap(), b"0123456789");
        let error = read_small(&disk, path, 9).unwrap_err();
        assert!(error.to_string().contains("10 bytes"), "{error}");
        assert_eq!(disk.list(Path::new("/")).unwrap().len(), 1, "no leftover");
    }

    /// Old or new, never a mix, at every operation and for many ways to lose power; new once it
    /// returned.
    #[test]
    fn a_replaced_file_is_old_or_new() {
        let path = Path::new("/checkpoint");
        let [old, new] = [vec![b'o'; 9000], vec![b'n'; 5000]];
        let disk = SimDisk::new(7);
        write_atomic(&disk, path, &old, POINTS).unwrap();
        disk.record_history();
        write_atomic(&disk, path, &new, POINTS).unwrap();
        let history = disk.history();
        let last = history.len() - 1;
        assert!(last >= 4, "create, write, sync, rename, sync");
        for (step, state) in history.iter().enumerate() {
            for cut in PowerCut::sample(40) {
                let after = state.snapshot().power_loss(cut);
                let found = read_small(&after, path, 1 << 20).unwrap().expect("never without");
                assert!(found == new || found == old && step < last, "{cut:?} after step {step}");
            }
        }
    }

    /// The same, seen from the other side: leaving out either sync is noticed.
    #[test]
    fn both_syncs_of_a_replaced_file_are_needed() {
        let path = Path::new("/checkpoint");
        for point in [POINTS.file, POINTS.dir] {
            let disk = SimDisk::new(7);
            write_atomic(&disk, path, &[b'o'; 9000], POINTS).unwrap();
            disk.ignore_sync(Some(point));
            write_atomic(&disk, path, &[b'n'; 9000], POINTS).unwrap();
            let lost = PowerCut::sample(40).any(|cut| {
                let after = disk.snapshot().power_loss(cut);
                read_small(&after, path, 1 << 20).unwrap().as_deref() != Some(&[b'n'; 9000][..])
            });
            assert!(lost, "{point:?} is not needed");
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_content_and_no_leftover() {
        let disk = SimDisk::new(3);
        let path = Path::new("/a");
        write_atomic(&disk, path, b"old", POINTS).unwrap();
        disk.set_capacity(Some(8192));
        let error = write_atomic(&disk, path, &[1; 9000], POINTS).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(read_small(&disk, path, 10).unwrap().unwrap(), b"old");
        assert_eq!(disk.list(Path::new("/")).unwrap().len(), 1);
        disk.set_capacity(None);
        disk.fail_after(0, Fault::SyncError);
        assert!(write_atomic(&disk, path, b"new", POINTS).is_err());
        assert_eq!(read_small(&disk, path, 10).unwrap().unwrap(), b"old");
    }
}
