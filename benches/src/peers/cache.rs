//! Where published artifacts of peers are kept between runs: outside of the source tree, each entry
//! whole or not at all.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use crate::error::{BenchError, Result};

/// A directory of entries.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

// === impl Cache ===

impl Cache {
    /// In `dir`, or where the user's caches are.
    ///
    /// # Errors
    /// Nothing says where that is, or it cannot be written.
    pub fn open(dir: Option<&Path>) -> Result<Self> {
        let var = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let users = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => users()
                .map(|dir| dir.join("riverrun-bench"))
                .ok_or_else(|| BenchError::Usage("HOME is not set: say --cache DIR".to_owned()))?,
        };
        fs::create_dir_all(&dir).map_err(BenchError::io(format!("making {}", dir.display())))?;
        // Programs are started from other directories.
        let dir = fs::canonicalize(&dir).map_err(BenchError::io("finding the cache"))?;
        Ok(Self(dir))
    }

    /// The entry `name`; if there is none, `fill` makes its contents in a directory that becomes it.
    ///
    /// # Errors
    /// Those of `fill`, after which there is no entry; the cache cannot be written.
    pub async fn entry<F>(&self, name: &str, fill: F) -> Result<PathBuf>
    where
        F: AsyncFnOnce(&Path) -> Result<()>,
    {
        let entry = self.0.join(name);
        if entry.is_dir() {
            return Ok(entry);
        }
        let failed = || BenchError::io(format!("making {}", entry.display()));
        let begun =
            tempfile::Builder::new().prefix("begun-").tempdir_in(&self.0).map_err(failed())?;
        fill(begun.path()).await?;
        match fs::rename(begun.path(), &entry) {
            Ok(()) => {}
            // Another run was faster.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) => return Err(failed()(e)),
        }
        Ok(entry)
    }
}

/// Whether `version` can be part of a file's name, and of an argument.
///
/// # Errors
/// It has other characters than versions have.
pub fn checked_version(version: &str) -> Result<&str> {
    let fine = |c: char| c.is_ascii_alphanumeric() || ".-+_".contains(c);
    if version.is_empty() || version.starts_with(['-', '.']) || !version.chars().all(fine) {
        return Err(BenchError::Usage(format!("{version:?} is no version, write one like 1.2.3")));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_entry_is_filled_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(&dir.path().join("a/b"))).unwrap();
        let fill = async |dir: &Path| fs::write(dir.join("x"), "1").map_err(BenchError::io("x"));
        let entry = cache.entry("p-1", fill).await.unwrap();
        assert_eq!(fs::read_to_string(entry.join("x")).unwrap(), "1");
        let again = cache.entry("p-1", async |_: &Path| panic!("it is there")).await.unwrap();
        assert_eq!(again, entry);
    }

    #[tokio::test]
    async fn half_an_entry_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path())).unwrap();
        let half = async |dir: &Path| {
            fs::write(dir.join("x"), "1").unwrap();
            Err(BenchError::Failed("the network".into()))
        };
        cache.entry("p-1", half).await.unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn versions_are_versions() {
        for fine in ["4.1.0", "v2.12.1", "0.3.0-beta.1"] {
            assert_eq!(checked_version(fine).unwrap(), fine);
        }
        for wrong in ["", "../x", "1</version>", "-Dx", "a b", ".."] {
            assert!(checked_version(wrong).is_err(), "{wrong:?}");
        }
    }
}
