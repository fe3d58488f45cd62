//! What lies in the partitions' directory, compared with what the metadata knows.
//!
//! A directory is removed only where a metadata record says that its topic was deleted. One that
//! belongs to no topic known here is set aside under another name and reported; absence from an
//! image proves nothing (NATS #7556: a corrupt snapshot, "orphans" cleaned up, data gone). What
//! cannot be removed or renamed is reported and stays: no reason not to serve the others.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use riverrun_proto::ids::TopicPartition;

use crate::{
    io::{Disk, SyncPoint},
    log::{self, LogEnv, LogError},
    metadata::MetadataImage,
};

/// Suffix of a directory that was set aside; a number follows if there is one of that name.
const SET_ASIDE: &str = ".set-aside";
/// How many of one name are set aside before the next one stays where it is.
const SET_ASIDE_MAX: u32 = 1_000;

/// What lies there.
#[derive(Debug, Default)]
pub(super) struct Directories {
    /// Of known partitions.
    pub(super) present: HashSet<TopicPartition>,
    /// Of no known topic, under their new names.
    pub(super) set_aside: Vec<PathBuf>,
}

/// Looks through `dir`; removes what was deleted, sets aside the unknown. Blocks.
///
/// # Errors
/// If the directory cannot be read.
pub(super) fn sort_out(
    env: &LogEnv,
    dir: &Path,
    image: &MetadataImage,
) -> Result<Directories, LogError> {
    let disk = env.disk.as_ref();
    let failed = |source| LogError::Io { what: "listing", path: dir.to_owned(), source };
    let mut found = Directories::default();
    for entry in disk.list(dir).map_err(failed)? {
        let path = dir.join(&entry.name);
        if !entry.is_dir || is_set_aside(&entry.name) {
            continue;
        }
        if log::layout::is_deleted_dir(&entry.name) {
            reported(&path, log::finish_removal(env, &path));
            continue;
        }
        // A name that only reads like the partition's is not its directory.
        let id = entry.name.parse::<TopicPartition>().ok();
        match id.filter(|id| id.to_string() == entry.name) {
            Some(id) if image.partition(id).is_some() => {
                found.present.insert(id);
            }
            Some(id) if image.deleted_at(id.topic).is_some() => {
                reported(&path, log::remove_partition(env, &path));
            }
            _ => match set_aside(disk, dir, &entry.name) {
                Ok(aside) => {
                    tracing::warn!(dir = %path.display(), now = %aside.display(), "directory of no known topic set aside");
                    found.set_aside.push(aside);
                }
                Err(error) => {
                    tracing::error!(dir = %path.display(), %error, "directory of no known topic stays where it is");
                }
            },
        }
    }
    Ok(found)
}

fn reported(path: &Path, removal: Result<(), LogError>) {
    if let Err(error) = removal {
        let cause = std::error::Error::source(&error);
        tracing::error!(dir = %path.display(), %error, cause, "data of a deleted topic not removed; the next start tries again");
    }
}

fn is_set_aside(name: &str) -> bool {
    name.rsplit_once(SET_ASIDE).is_some_and(|(_, number)| {
        number.is_empty() || number.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok())
    })
}

/// Renames the directory, durably, to a name that is not taken.
fn set_aside(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<PathBuf> {
    let taken = |path: &Path| disk.list(path).is_ok();
    let plain = dir.join(format!("{name}{SET_ASIDE}"));
    let numbered = (2..SET_ASIDE_MAX).map(|n| dir.join(format!("{name}{SET_ASIDE}-{n}")));
    let aside = std::iter::once(plain)
        .chain(numbered)
        .find(|aside| !taken(aside))
        .ok_or(io::ErrorKind::AlreadyExists)?;
    disk.rename(&dir.join(name), &aside)?;
    disk.sync_dir(dir, SyncPoint::PartitionRemovedDir)?;
    Ok(aside)
}
