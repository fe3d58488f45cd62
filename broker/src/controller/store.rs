//! The directory of the metadata log, `meta/`: one log file, and the snapshot it goes on from.
//!
//! ```text
//!   meta-<index>.snapshot     the image with all up to and including that index
//!   meta-<index>.wal          a log whose first entry has that index; its first group says who
//!                             votes, what this voter must not forget, and which snapshot it
//!                             follows; so the newest file is all there is to read
//! ```
//!
//! A checkpoint makes a snapshot durable, then a new log file that follows it, then removes what
//! came before. Each step is durable before the next, and no entry is written to the new file while
//! an older one could still come back: whichever file is the newest has everything.
//!
//! The log begins at index [`FORMATTED`], with a snapshot of the empty image, not at 1: a new voter,
//! whose log is empty, can then never be brought up by entries alone but is sent a snapshot, which
//! tells it who votes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use riverrun_proto::ids::{BrokerId, ClusterId, DirectoryId};
use uuid::Uuid;

use super::{
    error::OpenError,
    frame::{
        Entry, EntryKind, HEADER_BYTES, HardState, Header, Item, Mark, Membership, Unreadable,
        Voter, VoterId,
    },
    wal::{self, AppendError, ReadError, Wal, fail, is_full},
};
use crate::{
    io::{
        Disk, Failure, SyncPoint,
        dir::{self, AtomicPoints, TMP_SUFFIX},
        failure::Failed,
    },
    metadata::{
        Command, FeatureLevel, MetadataImage, MetadataOffset, command::SetFeatureLevel, record,
        snapshot,
    },
};

/// Name of the directory inside the data directory.
pub(super) const META_DIR: &str = "meta";
/// Name it has until it is complete.
const FORMATTING_DIR: &str = "meta.formatting";
/// Index and term of the snapshot a new log follows.
const FORMATTED: Mark = Mark { index: 1, term: 1 };

const WAL_SUFFIX: &str = ".wal";
const SNAPSHOT_SUFFIX: &str = ".snapshot";
const PREFIX: &str = "meta-";

const SNAPSHOT_POINTS: AtomicPoints =
    AtomicPoints { file: SyncPoint::MetaSnapshot, dir: SyncPoint::MetaSnapshotDir };

/// An open metadata log.
#[derive(Debug)]
pub(super) struct MetaStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    failure: Failure,
    wal: Wal,
    membership: Membership,
    hard_state: HardState,
    snapshot: Mark,
}

/// What an opened log holds.
#[derive(Debug)]
pub(super) struct Recovered {
    /// As of the snapshot.
    pub(super) image: MetadataImage,
    /// All after it.
    pub(super) entries: Vec<Entry>,
    /// Whether a group at the end was torn, and cut off.
    pub(super) torn: bool,
}

/// Whom a directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cluster: ClusterId,
    pub(super) node: BrokerId,
    pub(super) directory: DirectoryId,
}

/// What a log file says, its items in order.
#[derive(Debug, Default)]
struct Replayed {
    hard_state: Option<HardState>,
    membership: Option<Membership>,
    snapshot: Option<Mark>,
    entries: Vec<Entry>,
}

// === impl MetaStore ===

impl MetaStore {
    /// Makes the log of a new quorum of one in a data directory that has none: this node leads its
    /// first term, and the newest feature level is set. Appears whole or not at all; durable when
    /// this returns.
    pub(super) fn format(
        disk: &dyn Disk,
        data_dir: &Path,
        identity: Identity,
        failure: &Failure,
    ) -> Result<(), OpenError> {
        let Identity { cluster, node, directory } = identity;
        let vote = VoterId::of(directory);
        let membership =
            Membership::of_voters(FORMATTED, vec![Voter { id: vote, node, directory }]);
        let Mark { index, term } = FORMATTED;
        let set_level = Command::SetFeatureLevel(SetFeatureLevel {
            expected: FeatureLevel::NONE,
            level: FeatureLevel::INITIAL,
        });
        let record = record::encode(&set_level).expect("a small record of a level we know");
        let kind = EntryKind::Command;
        let first = Checkpoint {
            mark: FORMATTED,
            membership,
            hard_state: HardState { term, vote, commit: index + 1 },
            entries: vec![Entry { index: index + 1, term, kind, record }],
        };
        let offset = MetadataOffset::new(index).expect("a small number");
        let image = MetadataImage::default().at(offset);
        Self::format_with(disk, data_dir, cluster, failure, &first, &image)
    }

    /// Makes the log of a node that is to join a quorum: empty, without a voter, so that it can
    /// neither vote nor be elected before a leader has told it who votes.
    pub(super) fn format_joining(
        disk: &dyn Disk,
        data_dir: &Path,
        cluster: ClusterId,
        failure: &Failure,
    ) -> Result<(), OpenError> {
        let (first, image) = (Checkpoint::default(), MetadataImage::default());
        Self::format_with(disk, data_dir, cluster, failure, &first, &image)
    }

    fn format_with(
        disk: &dyn Disk,
        data_dir: &Path,
        cluster: ClusterId,
        failure: &Failure,
        first: &Checkpoint,
        image: &MetadataImage,
    ) -> Result<(), OpenError> {
        let dir = data_dir.join(FORMATTING_DIR);
        disk.create_dir(&dir).map_err(OpenError::io("cannot create", &dir))?;
        // Left by a start that did not get far; nobody ever wrote anything of his there.
        for entry in disk.list(&dir).map_err(OpenError::io("cannot list", &dir))? {
            let path = dir.join(entry.name);
            disk.remove_file(&path).map_err(OpenError::io("cannot remove", &path))?;
        }
        write_snapshot(disk, &dir, failure, cluster, first, image)
            .map_err(|error| in_open(error, &dir))?;
        let path = dir.join(wal_name(first.mark.index + 1));
        let header = new_header(cluster);
        Wal::create(disk, &path, header, failure, &first.group())
            .map_err(|error| in_open(error, &dir))?;
        sync_dir(disk, &dir, failure, SyncPoint::MetaWalDir)?;
        let meta = data_dir.join(META_DIR);
        disk.rename(&dir, &meta).map_err(OpenError::io("cannot create", &meta))?;
        sync_dir(disk, data_dir, failure, SyncPoint::MetaFormatted)?;
        Ok(())
    }

    /// Opens the log of a data directory. What it returns is durable.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        data_dir: &Path,
        failure: &Failure,
    ) -> Result<(Self, Recovered), OpenError> {
        failure.check()?;
        let dir = data_dir.join(META_DIR);
        let files = Files::list(&*disk, &dir)?;
        let (path, content) = files.newest(&*disk)?;
        let replayed = Replayed::of(&path, &content)?;
        let Replayed {
            hard_state: Some(hard_state),
            membership: Some(membership),
            snapshot: Some(mark),
            entries,
        } = replayed
        else {
            let problem = "it does not say who votes, or which snapshot it follows";
            return Err(OpenError::damaged(&path, HEADER_BYTES, problem));
        };
        check_commit(&hard_state, mark, &entries)
            .map_err(|problem| OpenError::damaged(&path, HEADER_BYTES, problem))?;
        let header = content.header;
        let image = read_snapshot(&*disk, &dir, header.cluster, mark)?;
        let wal = Wal::open(&*disk, &path, &content, failure)?;
        let store = Self {
            disk,
            dir,
            failure: failure.clone(),
            wal,
            membership,
            hard_state,
            snapshot: mark,
        };
        // A killed process may have left the newest file's name in the page cache only.
        sync_dir(&*store.disk, &store.dir, failure, SyncPoint::MetaWalDir)?;
        store.remove_all_but_newest()?;
        Ok((store, Recovered { image, entries, torn: content.torn }))
    }

    /// Appends entries in one group. When this returns they are durable.
    #[cfg(test)]
    pub(super) fn append(&mut self, entries: Vec<Entry>) -> Result<(), AppendError> {
        let group: Vec<_> = entries.into_iter().map(Item::Entry).collect();
        self.wal.append(&group)
    }

    /// Appends a group. When this returns it is durable.
    pub(super) fn write(&mut self, group: &[Item]) -> Result<(), AppendError> {
        self.wal.append(group)?;
        for item in group {
            if let Item::HardState(state) = item {
                self.hard_state = *state;
            }
        }
        Ok(())
    }

    /// Makes sure that `bytes` can be appended without meeting a full disk, and gives what can.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<u64, AppendError> {
        self.wal.reserve(bytes)?;
        Ok(self.room())
    }

    /// Bytes that can be appended without meeting a full disk.
    pub(super) fn room(&self) -> u64 {
        self.wal.room()
    }

    /// Makes a snapshot, and begins a new log file after it. `image` must have all entries.
    /// [`AppendError::Full`] leaves everything as it was.
    #[cfg(test)]
    pub(super) fn checkpoint(&mut self, image: &MetadataImage) -> Result<(), AppendError> {
        let index = image.offset().get();
        let mark = Mark { index, term: self.hard_state.term };
        if mark == self.snapshot {
            return Ok(());
        }
        let hard_state = HardState { commit: index, ..self.hard_state };
        let membership = self.membership.clone();
        self.replace(Checkpoint { mark, membership, hard_state, entries: Vec::new() }, image)
    }

    /// Makes a snapshot of `image`, and begins a new log file that has all of `first`: the new file
    /// is all there is from then on. [`AppendError::Full`] leaves everything as it was.
    pub(super) fn replace(
        &mut self,
        first: Checkpoint,
        image: &MetadataImage,
    ) -> Result<(), AppendError> {
        let cluster = self.cluster();
        write_snapshot(&*self.disk, &self.dir, &self.failure, cluster, &first, image)?;
        let path = self.dir.join(wal_name(first.mark.index + 1));
        let group = first.group();
        let wal = Wal::create(&*self.disk, &path, new_header(cluster), &self.failure, &group)?;
        self.disk
            .sync_dir(&self.dir, SyncPoint::MetaWalDir)
            .map_err(|e| fail(&self.failure, "syncing", &self.dir, &e))?;
        self.wal = wal;
        self.hard_state = first.hard_state;
        self.membership = first.membership;
        self.snapshot = first.mark;
        self.remove_all_but_newest()?;
        Ok(())
    }

    /// Removes what the newest log file does not need, so that it cannot come back.
    fn remove_all_but_newest(&self) -> Result<(), Failed> {
        let fail = |doing, error| fail(&self.failure, doing, &self.dir, &error);
        let keep = [self.wal.path().to_owned(), self.dir.join(snapshot_name(self.snapshot.index))];
        let mut removed = false;
        for entry in self.disk.list(&self.dir).map_err(|e| fail("listing", e))? {
            let path = self.dir.join(&entry.name);
            if keep.contains(&path) {
                continue;
            }
            if is_ours(&entry.name) {
                self.disk.remove_file(&path).map_err(|e| fail("removing from", e))?;
                removed = true;
            } else {
                tracing::warn!(path = %path.display(), "a file in the metadata directory is none of ours");
            }
        }
        if removed {
            self.disk
                .sync_dir(&self.dir, SyncPoint::MetaWalRemovedDir)
                .map_err(|e| fail("syncing", e))?;
        }
        Ok(())
    }

    /// Whether nothing happened since it was made.
    pub(super) fn is_unused(&self, recovered: &Recovered) -> bool {
        self.snapshot == FORMATTED && recovered.entries.len() == 1
    }

    pub(super) fn cluster(&self) -> ClusterId {
        self.wal.header().cluster
    }

    pub(super) fn voters(&self) -> &[Voter] {
        &self.membership.voters
    }

    /// Whether it still follows the snapshot that a single broker's log begins with.
    pub(super) fn is_of_single_broker(&self) -> bool {
        self.snapshot == FORMATTED
    }

    /// Whether nothing was ever written to it: it was made to join, and nobody took it in yet.
    pub(super) fn is_blank(&self, recovered: &Recovered) -> bool {
        self.snapshot == Mark::default()
            && self.hard_state == HardState::default()
            && recovered.entries.is_empty()
    }

    /// As of the snapshot.
    pub(super) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(super) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    pub(super) fn snapshot(&self) -> Mark {
        self.snapshot
    }

    #[cfg(test)]
    pub(super) fn term(&self) -> u64 {
        self.hard_state.term
    }

    /// What the snapshot has.
    #[cfg(test)]
    pub(super) fn snapshot_offset(&self) -> MetadataOffset {
        MetadataOffset::new(self.snapshot.index).expect("its image has this offset")
    }

    /// Bytes of the log file.
    #[cfg(test)]
    pub(super) fn wal_bytes(&self) -> u64 {
        self.wal.len()
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// What a log file begins with: all that holds when it is made.
#[derive(Debug, Clone, Default)]
pub(super) struct Checkpoint {
    /// Place of the snapshot.
    pub(super) mark: Mark,
    /// Who votes, as of the snapshot.
    pub(super) membership: Membership,
    pub(super) hard_state: HardState,
    /// Those after the snapshot.
    pub(super) entries: Vec<Entry>,
}

impl Checkpoint {
    fn group(&self) -> Vec<Item> {
        let mut group = vec![
            Item::HardState(self.hard_state),
            Item::ConfState(self.membership.clone()),
            Item::SnapshotMark(self.mark),
        ];
        group.extend(self.entries.iter().cloned().map(Item::Entry));
        group
    }
}

/// What lies in the directory.
struct Files {
    dir: PathBuf,
    /// Log files, oldest first.
    wals: Vec<PathBuf>,
}

impl Files {
    fn list(disk: &dyn Disk, dir: &Path) -> Result<Self, OpenError> {
        let entries = match disk.list(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(OpenError::Missing { path: dir.to_owned() });
            }
            other => other.map_err(OpenError::io("cannot list", dir))?,
        };
        // Listed by name, and the numbers in the names have one width.
        let names = entries.iter().filter(|entry| index_of(&entry.name, WAL_SUFFIX).is_some());
        let wals = names.map(|entry| dir.join(&entry.name)).collect();
        Ok(Self { dir: dir.to_owned(), wals })
    }

    /// The newest log file that was finished.
    fn newest(mut self, disk: &dyn Disk) -> Result<(PathBuf, wal::Content), OpenError> {
        let mut unfinished: Option<PathBuf> = None;
        while let Some(path) = self.wals.pop() {
            match wal::read(disk, &path) {
                Ok(content) => return Ok((path, content)),
                // A checkpoint was cut short before it removed what it replaces.
                Err(ReadError::Unfinished) => _ = unfinished.get_or_insert(path),
                Err(ReadError::Open(error)) => return Err(error),
            }
        }
        Err(match unfinished {
            Some(path) => OpenError::damaged(&path, 0, "its first group is not there"),
            None => OpenError::Missing { path: self.dir.join(format!("{PREFIX}*{WAL_SUFFIX}")) },
        })
    }
}

impl Replayed {
    fn of(path: &Path, content: &wal::Content) -> Result<Self, OpenError> {
        let mut replayed = Self::default();
        for item in content.groups.iter().flatten() {
            replayed
                .take(item)
                .map_err(|problem| OpenError::damaged(path, HEADER_BYTES, problem))?;
        }
        Ok(replayed)
    }

    fn take(&mut self, item: &Item) -> Result<(), String> {
        match item {
            Item::HardState(state) => {
                let before = self.hard_state.unwrap_or_default();
                if state.term < before.term {
                    return Err(format!("term {} comes after {}", state.term, before.term));
                }
                self.hard_state = Some(*state);
            }
            Item::ConfState(membership) => self.membership = Some(membership.clone()),
            Item::SnapshotMark(mark) => {
                self.entries.retain(|entry| entry.index > mark.index);
                self.snapshot = Some(*mark);
            }
            Item::Entry(entry) => self.take_entry(entry)?,
            Item::Image(..) => return Err("an image in a log".into()),
        }
        Ok(())
    }

    /// Takes an entry: the next one, or one that supersedes all from its index on (a new leader's
    /// where an old one's was never committed).
    fn take_entry(&mut self, entry: &Entry) -> Result<(), String> {
        let snapshot = self.snapshot.ok_or("an entry before the snapshot it follows")?;
        self.entries.retain(|known| known.index < entry.index);
        let (index, term) =
            self.entries.last().map_or((snapshot.index, snapshot.term), |e| (e.index, e.term));
        if entry.index != index + 1 {
            return Err(format!("entry {} comes after {index}", entry.index));
        }
        if entry.term < term {
            return Err(format!("term {} comes after {term}", entry.term));
        }
        self.entries.push(entry.clone());
        Ok(())
    }
}

/// What is known to be committed must be there.
fn check_commit(state: &HardState, snapshot: Mark, entries: &[Entry]) -> Result<(), String> {
    let last = entries.last().map_or(snapshot.index, |entry| entry.index);
    if (snapshot.index..=last).contains(&state.commit) {
        return Ok(());
    }
    Err(format!("{} is committed, {} to {last} is there", state.commit, snapshot.index))
}

fn write_snapshot(
    disk: &dyn Disk,
    dir: &Path,
    failure: &Failure,
    cluster: ClusterId,
    first: &Checkpoint,
    image: &MetadataImage,
) -> Result<(), AppendError> {
    let header = new_header(cluster);
    let mark = first.mark;
    let image = Item::Image(mark, snapshot::encode(image));
    let items = [Item::ConfState(first.membership.clone()), image];
    let mut bytes = header.encode().to_vec();
    bytes.extend(header.frame(HEADER_BYTES as u64, &items));
    let path = dir.join(snapshot_name(mark.index));
    match dir::write_atomic(disk, &path, &bytes, SNAPSHOT_POINTS) {
        Ok(()) => Ok(()),
        Err(error) if is_full(&error) => Err(AppendError::Full),
        Err(error) => Err(fail(failure, "writing", &path, &error).into()),
    }
}

fn read_snapshot(
    disk: &dyn Disk,
    dir: &Path,
    cluster: ClusterId,
    mark: Mark,
) -> Result<MetadataImage, OpenError> {
    let path = dir.join(snapshot_name(mark.index));
    let bytes = dir::read_small(disk, &path, usize::MAX)
        .map_err(OpenError::io("cannot read", &path))?
        .ok_or_else(|| OpenError::Missing { path: path.clone() })?;
    let unreadable = |why| match why {
        Unreadable::Blank => OpenError::damaged(&path, 0, "it is empty"),
        Unreadable::Newer(what) => OpenError::Newer { path: path.clone(), what },
        Unreadable::Damaged(problem) => OpenError::damaged(&path, 0, problem),
    };
    let header = Header::decode(&bytes).map_err(unreadable)?;
    if header.cluster != cluster {
        return Err(OpenError::OtherCluster { path, found: header.cluster, expected: cluster });
    }
    let body = header
        .body(&bytes, HEADER_BYTES)
        .ok_or_else(|| OpenError::damaged(&path, HEADER_BYTES, "its checksum does not match"))?;
    let image = match Item::decode_all(body).map_err(unreadable)?.as_slice() {
        [Item::ConfState(_), Item::Image(found, image)] if *found == mark => image.clone(),
        _ => return Err(OpenError::damaged(&path, HEADER_BYTES, "it is of another place")),
    };
    let image = snapshot::decode(&image)
        .map_err(|source| OpenError::Snapshot { path: path.clone(), source })?;
    if image.offset().get() != mark.index {
        return Err(OpenError::damaged(&path, HEADER_BYTES, "its image is of another offset"));
    }
    Ok(image)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(
    disk: &dyn Disk,
    dir: &Path,
    failure: &Failure,
    point: SyncPoint,
) -> Result<(), OpenError> {
    disk.sync_dir(dir, point)
        .map_err(|error| OpenError::Failed(fail(failure, "syncing", dir, &error)))
}

fn in_open(error: AppendError, path: &Path) -> OpenError {
    match error {
        AppendError::Full => {
            OpenError::io("no room to create", path)(std::io::ErrorKind::StorageFull.into())
        }
        AppendError::Failed(failed) => OpenError::Failed(failed),
    }
}

fn new_header(cluster: ClusterId) -> Header {
    Header { uuid: Uuid::new_v4().into_bytes(), cluster }
}

fn wal_name(first_index: u64) -> String {
    format!("{PREFIX}{first_index:020}{WAL_SUFFIX}")
}

fn snapshot_name(index: u64) -> String {
    format!("{PREFIX}{index:020}{SNAPSHOT_SUFFIX}")
}

fn index_of(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(suffix)?;
    if digits.len() == 20 { digits.parse().ok() } else { None }
}

/// Whether we made a file of this name, and may remove it.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(TMP_SUFFIX).unwrap_or(name);
    index_of(name, WAL_SUFFIX).is_some() || index_of(name, SNAPSHOT_SUFFIX).is_some()
}

#[cfg(test)]
#[path = "store_test.rs"]
mod tests;
