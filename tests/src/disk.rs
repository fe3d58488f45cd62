//! Small file systems of our own, for what a healthy disk never does: be full, hang, fail.
//!
//! They are loop mounts, so they need root and a kernel that mounts ext4; where that is not to be
//! had the constructors say so and the scenario is passed over. A disk is unmounted when dropped:
//! drop the broker first.
//!
//! | disk | how | what a process on it sees |
//! |---|---|---|
//! | [`SmallDisk`] | ext4 in a file | ENOSPC, once [`SmallDisk::fill`]ed |
//! | [`HangingDisk`] | ext4 in a file on another such disk, which can be frozen | the page cache works, syncs do not come back |
//! | [`FailingDisk`] | ext4 in a sparse file on a tmpfs smaller than it | the page cache works, syncs fail with EIO |

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A file system of a few MiB.
#[derive(Debug)]
pub struct SmallDisk {
    mount: Mount,
    // Holds image and mount point; removed after the mount is gone.
    _place: TempDir,
}

/// What keeps a disk full. Dropping it gives the room back.
#[derive(Debug)]
pub struct Filling {
    file: PathBuf,
}

/// A disk whose syncs can be made to hang.
#[derive(Debug)]
pub struct HangingDisk {
    // Unmounted in this order.
    disk: Mount,
    below: SmallDisk,
    hangs: bool,
}

/// A disk whose syncs can be made to fail.
#[derive(Debug)]
pub struct FailingDisk {
    // Unmounted in this order.
    disk: Mount,
    below: Mount,
    _place: TempDir,
}

/// A directory that shows another one, such as one of another disk.
#[derive(Debug)]
pub struct Shown {
    _mount: Mount,
}

/// Something mounted; unmounted when dropped.
#[derive(Debug)]
struct Mount {
    at: PathBuf,
}

// === impl SmallDisk ===

impl SmallDisk {
    /// A disk of `mib` MiB.
    ///
    /// # Errors
    /// It cannot be mounted here.
    pub fn new(mib: u64) -> Result<Self, String> {
        let place = TempDir::new().map_err(|e| e.to_string())?;
        let image = place.path().join("image");
        let at = place.path().join("disk");
        Ok(Self { mount: ext4(&image, &at, mib)?, _place: place })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.mount.at
    }

    /// Leaves no room on it.
    pub fn fill(&self) -> Filling {
        fill(&self.mount.at)
    }
}

// === impl HangingDisk ===

impl HangingDisk {
    /// A disk of `mib` MiB.
    ///
    /// # Errors
    /// It cannot be mounted here.
    pub fn new(mib: u64) -> Result<Self, String> {
        let below = SmallDisk::new(mib + mib / 2 + 16)?;
        let image = below.path().join("image");
        // Allocated, so that no write needs metadata of the disk below.
        let file = File::create(&image).map_err(|e| e.to_string())?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, mib * MIB)
            .map_err(|e| e.to_string())?;
        let at = below._place.path().join("hanging");
        let disk = ext4(&image, &at, mib)?;
        // Freezing must be possible, or there is nothing to test.
        run("fsfreeze", ["-f".as_ref(), below.path().as_os_str()])?;
        run("fsfreeze", ["-u".as_ref(), below.path().as_os_str()])?;
        Ok(Self { disk, below, hangs: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.disk.at
    }

    /// From now on nothing reaches the disk, and whoever waits for that waits.
    pub fn hang(&mut self) {
        run("fsfreeze", ["-f".as_ref(), self.below.path().as_os_str()]).expect("it was tried");
        self.hangs = true;
    }

    /// All goes on.
    pub fn recover(&mut self) {
        if self.hangs {
            run("fsfreeze", ["-u".as_ref(), self.below.path().as_os_str()]).expect("it is frozen");
            self.hangs = false;
        }
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        self.recover();
    }
}

// === impl FailingDisk ===

impl FailingDisk {
    /// A disk of `mib` MiB.
    ///
    /// # Errors
    /// It cannot be mounted here.
    pub fn new(mib: u64) -> Result<Self, String> {
        let place = TempDir::new().map_err(|e| e.to_string())?;
        let tmpfs = place.path().join("below");
        fs::create_dir(&tmpfs).map_err(|e| e.to_string())?;
        let size = format!("size={mib}m");
        run(
            "mount",
            ["-t", "tmpfs", "-o", &size, "none"]
                .map(OsStr::new)
                .into_iter()
                .chain([tmpfs.as_os_str()]),
        )?;
        let below = Mount { at: tmpfs };
        // Twice what the tmpfs holds: not all of it can ever be written.
        let disk = ext4(&below.at.join("image"), &place.path().join("failing"), mib * 2)?;
        Ok(Self { disk, below, _place: place })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.disk.at
    }

    /// From now on blocks that were never written cannot be: syncs that need them fail.
    pub fn fail(&self) -> Filling {
        fill(&self.below.at)
    }
}

// === impl Shown ===

impl Shown {
    /// Moves the directory `dir` into `onto`, another disk, and shows it where it was.
    ///
    /// # Errors
    /// It cannot be mounted here.
    pub fn moved(dir: &Path, onto: &Path) -> Result<Self, String> {
        let to = onto.join(dir.file_name().expect("a directory has a name"));
        run("cp", ["-a".as_ref(), dir.as_os_str(), to.as_os_str()])?;
        run("mount", ["--bind".as_ref(), to.as_os_str(), dir.as_os_str()])?;
        Ok(Self { _mount: Mount { at: dir.to_owned() } })
    }
}

// === impl Mount ===

impl Drop for Mount {
    fn drop(&mut self) {
        let path = [self.at.as_os_str()];
        if run("umount", path).is_err() {
            // Somebody is still on it: out of sight at least, and gone with its last user.
            let _ = run("umount", ["-l".as_ref(), self.at.as_os_str()]);
        }
    }
}

// === impl Filling ===

impl Drop for Filling {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// An ext4 without a journal: a journal would make one file's sync wait for another's.
fn ext4(image: &Path, at: &Path, mib: u64) -> Result<Mount, String> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(image)
        .map_err(|e| e.to_string())?;
    file.set_len(mib * MIB).map_err(|e| e.to_string())?;
    let options = ["-q", "-F", "-m", "0", "-O", "^has_journal"].map(OsStr::new);
    run("mkfs.ext4", options.into_iter().chain([image.as_os_str()]))?;
    fs::create_dir(at).map_err(|e| e.to_string())?;
    run("mount", ["-o".as_ref(), "loop".as_ref(), image.as_os_str(), at.as_os_str()])?;
    Ok(Mount { at: at.to_owned() })
}

/// Writes until nothing fits any more, large pieces first.
fn fill(dir: &Path) -> Filling {
    let path = dir.join("filling");
    let mut file = File::create(&path).expect("an empty file fits");
    for piece in [MIB as usize, 4096, 512] {
        let zeros = vec![0; piece];
        loop {
            match file.write(&zeros) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => panic!("filling {}: {error}", dir.display()),
            }
        }
        // Delayed allocation may have promised less than there is.
        let _ = file.sync_all();
    }
    Filling { file: path }
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
