//! `meta.properties`: whose data directory this is. People read it; the format is Kafka's.
//!
//! ```text
//!   version=1
//!   cluster.id=6ba7b8109dad11d180b400c04fd430c8
//!   node.id=1
//!   directory.id=0f4a8be09dad11d180b400c04fd430c8
//! ```
//!
//! It is the last thing formatting writes: a directory without it was never used.

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr, sync::Arc};

use riverrun_proto::ids::{BrokerId, ClusterId, DirectoryId, TopicPartition};

use super::{
    error::OpenError,
    store::{Identity, META_DIR, MetaStore, sync_dir},
    wal::{fail, is_full},
};
use crate::io::{
    Disk, Failure, SyncPoint,
    dir::{self, AtomicPoints},
};

/// Name of the file in the data directory.
pub const META_PROPERTIES: &str = "meta.properties";

const VERSION: &str = "1";
const BYTES_MAX: usize = 64 * 1024;
const POINTS: AtomicPoints =
    AtomicPoints { file: SyncPoint::MetaProperties, dir: SyncPoint::DataDir };

const PREAMBLE: &str = "\
# Written by riverrun when it first used this directory. It ties the directory to one broker of one
# cluster: do not edit it, and do not copy it to another broker.
";

/// Whose data directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaProperties {
    /// The cluster.
    pub cluster: ClusterId,
    /// The broker.
    pub node: BrokerId,
    /// The directory itself: a wiped disk gets another.
    pub directory: DirectoryId,
}

impl MetaProperties {
    /// Whether the directory says whose it is. Blocks.
    pub fn exist(disk: &dyn Disk, data_dir: &Path) -> Result<bool, OpenError> {
        Ok(Self::read(disk, &data_dir.join(META_PROPERTIES))?.is_some())
    }

    /// Reads whose directory it is; formats one that was never used, as a new cluster, or as
    /// `cluster` where that is given. Blocks. Durable when it returns. `data_dir` exists and is
    /// locked by the caller.
    ///
    /// # Errors
    /// A directory of another broker or cluster, or one with data that says nothing of whose it is,
    /// is refused. Interrupted formatting is taken up again.
    pub fn open_or_format(
        disk: &Arc<dyn Disk>,
        data_dir: &Path,
        node: BrokerId,
        cluster: Option<ClusterId>,
        failure: &Failure,
    ) -> Result<Self, OpenError> {
        failure.check()?;
        let path = data_dir.join(META_PROPERTIES);
        // What is found may be in the page cache only, if the last process was killed: before
        // anything rests on it, it is synced.
        if let Some(properties) = Self::read(&**disk, &path)? {
            properties.check(&path, node, cluster)?;
            sync_dir(&**disk, data_dir, failure, SyncPoint::DataDir)?;
            return Ok(properties);
        }
        if let Some(properties) = formatted_before(disk, data_dir, failure)? {
            properties.check(&data_dir.join(META_DIR), node, cluster)?;
            sync_dir(&**disk, data_dir, failure, SyncPoint::MetaFormatted)?;
            properties.write(&**disk, data_dir, failure)?;
            return Ok(properties);
        }
        let fresh = Self {
            cluster: cluster.unwrap_or_else(ClusterId::random),
            node,
            directory: DirectoryId::random(),
        };
        fresh.format(&**disk, data_dir, failure)?;
        Ok(fresh)
    }

    /// Reads whose directory it is; formats one that was never used to join the quorum of `cluster`:
    /// its metadata log is empty and names no voter, so that it waits for a leader to take it in. A
    /// disk that was lost is another directory, and so another voter. As
    /// [`open_or_format`](Self::open_or_format) otherwise.
    pub fn open_or_join(
        disk: &Arc<dyn Disk>,
        data_dir: &Path,
        node: BrokerId,
        cluster: ClusterId,
        failure: &Failure,
    ) -> Result<Self, OpenError> {
        failure.check()?;
        let path = data_dir.join(META_PROPERTIES);
        if Self::read(&**disk, &path)?.is_some() {
            return Self::open_or_format(disk, data_dir, node, Some(cluster), failure);
        }
        let fresh = Self { cluster, node, directory: DirectoryId::random() };
        // An empty log is one of an interrupted start: nobody has heard of it.
        remove_blank(disk, data_dir, failure)?;
        MetaStore::format_joining(&**disk, data_dir, cluster, failure)?;
        fresh.write(&**disk, data_dir, failure)?;
        Ok(fresh)
    }

    /// Makes the metadata log and then this file, in a directory that has neither.
    pub fn format(
        &self,
        disk: &dyn Disk,
        data_dir: &Path,
        failure: &Failure,
    ) -> Result<(), OpenError> {
        MetaStore::format(disk, data_dir, self.identity(), failure)?;
        self.write(disk, data_dir, failure)
    }

    fn write(&self, disk: &dyn Disk, data_dir: &Path, failure: &Failure) -> Result<(), OpenError> {
        let path = data_dir.join(META_PROPERTIES);
        dir::write_atomic(disk, &path, self.to_string().as_bytes(), POINTS).map_err(|error| {
            if is_full(&error) {
                OpenError::io("no room to write", &path)(error)
            } else {
                OpenError::Failed(fail(failure, "writing", &path, &error))
            }
        })
    }

    fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Self>, OpenError> {
        let Some(bytes) =
            dir::read_small(disk, path, BYTES_MAX).map_err(OpenError::io("cannot read", path))?
        else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&bytes);
        parse(&text).map(Some).map_err(|bad| match bad {
            BadProperties::Newer(version) => OpenError::Newer {
                path: path.to_owned(),
                what: format!("format version {version}"),
            },
            BadProperties::Bad(problem) => OpenError::Properties { path: path.to_owned(), problem },
        })
    }

    fn check(
        &self,
        path: &Path,
        node: BrokerId,
        cluster: Option<ClusterId>,
    ) -> Result<(), OpenError> {
        let path = path.to_owned();
        if self.node != node {
            return Err(OpenError::OtherNode { path, found: self.node, expected: node });
        }
        match cluster {
            Some(expected) if expected != self.cluster => {
                Err(OpenError::OtherCluster { path, found: self.cluster, expected })
            }
            _ => Ok(()),
        }
    }

    fn identity(&self) -> Identity {
        Identity { cluster: self.cluster, node: self.node, directory: self.directory }
    }
}

/// Whose directory it is where formatting came as far as the log: the log was made, and nobody used
/// it yet.
fn formatted_before(
    disk: &Arc<dyn Disk>,
    data_dir: &Path,
    failure: &Failure,
) -> Result<Option<MetaProperties>, OpenError> {
    let entries = disk.list(data_dir).map_err(OpenError::io("cannot list", data_dir))?;
    let unidentified = |found| Err(OpenError::Unidentified { dir: data_dir.to_owned(), found });
    if let Some(entry) = entries.iter().find(|e| e.name.parse::<TopicPartition>().is_ok()) {
        return unidentified(format!("the partition {}", entry.name));
    }
    if !entries.iter().any(|entry| entry.name == META_DIR) {
        return Ok(None);
    }
    let (store, recovered) = MetaStore::open(Arc::clone(disk), data_dir, failure)?;
    match (store.voters(), store.is_unused(&recovered)) {
        ([voter], true) => Ok(Some(MetaProperties {
            cluster: store.cluster(),
            node: voter.node,
            directory: voter.directory,
        })),
        _ => unidentified("a metadata log with entries".into()),
    }
}

/// Removes a log that was made to join and never used. Refuses a directory with anything else in it.
fn remove_blank(disk: &Arc<dyn Disk>, data_dir: &Path, failure: &Failure) -> Result<(), OpenError> {
    let entries = disk.list(data_dir).map_err(OpenError::io("cannot list", data_dir))?;
    let unidentified = |found| Err(OpenError::Unidentified { dir: data_dir.to_owned(), found });
    if let Some(entry) = entries.iter().find(|e| e.name.parse::<TopicPartition>().is_ok()) {
        return unidentified(format!("the partition {}", entry.name));
    }
    if !entries.iter().any(|entry| entry.name == META_DIR) {
        return Ok(());
    }
    let (store, recovered) = MetaStore::open(Arc::clone(disk), data_dir, failure)?;
    if !store.is_blank(&recovered) {
        return unidentified("a metadata log that was used".into());
    }
    drop(store);
    let dir = data_dir.join(META_DIR);
    for entry in disk.list(&dir).map_err(OpenError::io("cannot list", &dir))? {
        let path = dir.join(entry.name);
        disk.remove_file(&path).map_err(OpenError::io("cannot remove", &path))?;
    }
    disk.remove_dir(&dir).map_err(OpenError::io("cannot remove", &dir))
}

/// Why text is no `meta.properties`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum BadProperties {
    Newer(String),
    Bad(String),
}

impl fmt::Display for MetaProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREAMBLE)?;
        writeln!(f, "version={VERSION}")?;
        writeln!(f, "cluster.id={}", self.cluster)?;
        writeln!(f, "node.id={}", self.node)?;
        writeln!(f, "directory.id={}", self.directory)
    }
}

fn parse(text: &str) -> Result<MetaProperties, BadProperties> {
    let bad = |problem: String| BadProperties::Bad(problem);
    let mut values = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| bad(format!("'{line}' is no line of the form key=value")))?;
        if values.insert(key.trim(), value.trim()).is_some() {
            return Err(bad(format!("{key} stands there twice")));
        }
    }
    let mut take = |key: &str| {
        values.remove(key).ok_or_else(|| bad(format!("{key} is missing; restore the file")))
    };
    match take("version")? {
        VERSION => {}
        version => return Err(BadProperties::Newer(version.to_owned())),
    }
    let properties = MetaProperties {
        cluster: parsed("cluster.id", take("cluster.id")?)?,
        node: BrokerId(parsed("node.id", take("node.id")?)?),
        directory: parsed("directory.id", take("directory.id")?)?,
    };
    match values.keys().next() {
        None => Ok(properties),
        Some(key) => Err(bad(format!("{key} is no key of format version {VERSION}"))),
    }
}

fn parsed<T: FromStr<Err: fmt::Display>>(key: &str, value: &str) -> Result<T, BadProperties> {
    value.parse().map_err(|why| BadProperties::Bad(format!("{key}={value}: {why}")))
}

#[cfg(test)]
#[path = "meta_properties_test.rs"]
mod tests;
