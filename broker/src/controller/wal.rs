//! A file of the metadata log: appended to group by group, each group synced before the next.
//!
//! ```text
//!   header │ frame │ frame │ … │ frame │ zeros, allocated ahead
//!                                      ^ end
//! ```
//!
//! The file is allocated ahead of its end, so that a full disk is met before a byte is written, and
//! a sync need not move the end of the file.
//!
//! # Reading it back
//! Valid frames count, from the start on. What follows the last of them is
//! * nothing but zeros: the end;
//! * something, and no valid frame anywhere behind it: the last group, torn. It was not synced, so
//!   nobody was answered; it is cut off;
//! * something, and then a valid frame: damage, for a frame is written only after everything before
//!   it was synced. That is refused, not repaired.
//!
//! A bit that flips in the very last group looks like the second case. A quorum of several makes up
//! for that; a quorum of one has nothing to compare with.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    error::OpenError,
    frame::{FRAME_HEAD_BYTES, HEADER_BYTES, Header, Item, Unreadable, all_zero},
};
use crate::io::{Disk, Failure, File, SyncPoint, failure::Failed};

/// The file grows by this much ahead of its end: a few thousand topics' worth.
const ALLOCATE_STEP: u64 = 256 * 1024;

/// The file that takes appends.
#[derive(Debug)]
pub(super) struct Wal {
    path: PathBuf,
    header: Header,
    file: Arc<dyn File>,
    failure: Failure,
    /// End of the last group.
    end: u64,
    /// End of what is allocated.
    allocated: u64,
}

/// Why a group was not, or not certainly, written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AppendError {
    /// Nothing is in the file that was not there before.
    #[error("the disk is full")]
    Full,
    /// The directory has failed; the group may be in the file or not.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) header: Header,
    pub(super) groups: Vec<Vec<Item>>,
    /// End of the last valid group.
    pub(super) end: u64,
    /// Bytes behind it that are not zero: a group that was torn.
    pub(super) torn: bool,
}

// === impl Wal ===

impl Wal {
    /// Makes a file with a first group. Durable but for its name: sync its directory. After
    /// [`AppendError::Full`] there is no such file.
    pub(super) fn create(
        disk: &dyn Disk,
        path: &Path,
        header: Header,
        failure: &Failure,
        first: &[Item],
    ) -> Result<Self, AppendError> {
        let frame = header.frame(HEADER_BYTES as u64, first);
        let end = (HEADER_BYTES + frame.len()) as u64;
        let allocated = end.next_multiple_of(ALLOCATE_STEP);
        let made = disk.create(path).and_then(|file| {
            // From here on there may be a file that recovery would take for the newest: either it
            // goes again, or the directory has failed.
            file.allocate(allocated)?;
            Ok(file)
        });
        let file = match made {
            Ok(file) => file,
            Err(error) if is_full(&error) => {
                remove_if_there(disk, path).map_err(|e| fail(failure, "removing", path, &e))?;
                return Err(AppendError::Full);
            }
            Err(error) => return Err(fail(failure, "creating", path, &error).into()),
        };
        let head = header.encode();
        let parts = [IoSlice::new(&head), IoSlice::new(&frame)];
        file.write_at(&parts, 0).map_err(|e| fail(failure, "writing", path, &e))?;
        sync(failure, &*file, path, SyncPoint::MetaWalHeader)?;
        Ok(Self { path: path.to_owned(), header, file, failure: failure.clone(), end, allocated })
    }

    /// Opens a file that was read ([`read`]): cuts what was torn, and syncs what is kept before
    /// anybody believes it (a killed process leaves bytes that the disk has not).
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        content: &Content,
        failure: &Failure,
    ) -> Result<Self, OpenError> {
        let io = |what| OpenError::io(what, path);
        let file = disk.open(path).map_err(io("cannot open"))?;
        if content.torn {
            file.set_len(content.end).map_err(io("cannot cut the torn end of"))?;
        }
        let allocated = file.len().map_err(io("cannot read the length of"))?;
        failure
            .of_sync(&path.display().to_string(), file.sync(SyncPoint::MetaWalRecovered))
            .map_err(io("cannot sync"))?;
        Ok(Self {
            path: path.to_owned(),
            header: content.header,
            file,
            failure: failure.clone(),
            end: content.end,
            allocated,
        })
    }

    /// Appends a group and syncs it. When this returns, the group is durable.
    pub(super) fn append(&mut self, group: &[Item]) -> Result<(), AppendError> {
        self.failure.check()?;
        let frame = self.header.frame(self.end, group);
        let end = self.end + frame.len() as u64;
        self.reserve(frame.len() as u64)?;
        match self.file.write_at(&[IoSlice::new(&frame)], self.end) {
            Ok(()) => {}
            // File systems that copy on write may run out of space where it was allocated. Part of
            // the frame may be there: it must be gone for good before this is called definite.
            Err(error) if is_full(&error) => {
                self.file.set_len(self.end).map_err(|e| self.fail("cutting", &e))?;
                self.allocated = self.end;
                self.sync()?;
                return Err(AppendError::Full);
            }
            Err(error) => return Err(self.fail("writing", &error).into()),
        }
        self.sync()?;
        self.end = end;
        Ok(())
    }

    /// Makes sure that so many bytes more can be written.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<(), AppendError> {
        if bytes <= self.room() {
            return Ok(());
        }
        let to = self.end.saturating_add(bytes).next_multiple_of(ALLOCATE_STEP);
        match self.file.allocate(to) {
            Ok(()) => self.allocated = to,
            Err(error) if is_full(&error) => return Err(AppendError::Full),
            Err(error) => return Err(self.fail("allocating", &error).into()),
        }
        Ok(())
    }

    /// Bytes behind the end that are allocated.
    pub(super) fn room(&self) -> u64 {
        self.allocated.saturating_sub(self.end)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn header(&self) -> Header {
        self.header
    }

    /// Bytes of header and groups.
    #[cfg(test)]
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    fn sync(&self) -> Result<(), Failed> {
        sync(&self.failure, &*self.file, &self.path, SyncPoint::MetaWal)
    }

    fn fail(&self, doing: &str, error: &io::Error) -> Failed {
        fail(&self.failure, doing, &self.path, error)
    }
}

/// Reads a file back; see the module's contract.
pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Content, ReadError> {
    let io = |what| OpenError::io(what, path);
    let file = disk.open(path).map_err(io("cannot open"))?;
    let len = file.len().map_err(io("cannot read the length of"))?;
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| ReadError::too_long(path))?];
    let read = file.read_at(&mut bytes, 0).map_err(io("cannot read"))?;
    bytes.truncate(read);
    parse(path, &bytes)
}

/// Why a file could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// Its header or first group was never written whole: making it did not come to its end.
    Unfinished,
    /// For good.
    Open(OpenError),
}

impl From<OpenError> for ReadError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl ReadError {
    fn too_long(path: &Path) -> Self {
        Self::Open(OpenError::damaged(path, 0, "it is longer than the memory"))
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Content, ReadError> {
    let unreadable = |position, why| match why {
        Unreadable::Blank => ReadError::Unfinished,
        Unreadable::Newer(what) => {
            ReadError::Open(OpenError::Newer { path: path.to_owned(), what })
        }
        Unreadable::Damaged(problem) => {
            ReadError::Open(OpenError::damaged(path, position, problem))
        }
    };
    let header = Header::decode(bytes).map_err(|why| unreadable(0, why))?;
    let mut groups = Vec::new();
    let mut end = HEADER_BYTES;
    while let Some(body) = header.body(bytes, end) {
        groups.push(Item::decode_all(body).map_err(|why| unreadable(end, why))?);
        end += FRAME_HEAD_BYTES + body.len();
    }
    let torn = !all_zero(&bytes[end..]);
    if torn && let Some(valid) = (end + 1..bytes.len()).find(|at| header.body(bytes, *at).is_some())
    {
        let problem = format!("an invalid frame, and a valid one behind it, at {valid}");
        return Err(OpenError::damaged(path, end, problem).into());
    }
    if groups.is_empty() {
        return Err(ReadError::Unfinished);
    }
    Ok(Content { header, groups, end: end as u64, torn })
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Marks the directory as failed, for good.
pub(super) fn fail(failure: &Failure, doing: &str, path: &Path, error: &io::Error) -> Failed {
    let why = format!("{doing} {} failed: {error}", path.display());
    if let Err(mark) = failure.poison(&why) {
        tracing::error!(%why, %mark, "the mark of the failed log directory could not be written");
    }
    failure.check().expect_err("it was just marked")
}

pub(super) fn sync(
    failure: &Failure,
    file: &dyn File,
    path: &Path,
    point: SyncPoint,
) -> Result<(), Failed> {
    file.sync(point).map_err(|error| fail(failure, "syncing", path, &error))
}

#[cfg(test)]
#[path = "wal_test.rs"]
mod tests;
