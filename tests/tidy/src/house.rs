//! The source as the rules see it: files by their path from the root of the workspace.

use std::{collections::BTreeMap, fmt, fs, io, path::Path};

use crate::tokens::{Token, tokenize};

/// Directories, by name or from the root, that hold no source of ours.
const NOT_OURS: [&str; 4] = ["target", "node_modules", "riverrun-data", "proto/raft"];

/// All source files and manifests.
#[derive(Debug, Default)]
pub struct House {
    files: BTreeMap<String, Source>,
    /// Manifests by their directory, `""` for the root.
    manifests: BTreeMap<String, String>,
}

/// One Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
}

/// A rule that is broken, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    file: String,
    line: usize,
    what: String,
}

impl House {
    /// Reads everything below `root`.
    ///
    /// # Errors
    /// If a directory or file cannot be read, or a source file is not UTF-8.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut house = Self::default();
        house.walk(root, "")?;
        Ok(house)
    }

    /// Made of texts, for the rules' own tests.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut house = Self::default();
        for (path, text) in files {
            house.add(path, (*text).to_owned());
        }
        house
    }

    /// All Rust files with their paths, `/` between parts.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.files.iter().map(|(path, source)| (path.as_str(), source))
    }

    pub(crate) fn file(&self, path: &str) -> Option<&Source> {
        self.files.get(path)
    }

    /// Directories of packages with the text of their manifest.
    pub(crate) fn packages(&self) -> impl Iterator<Item = (&str, &str)> {
        let packages = self.manifests.iter().filter(|(_, text)| text.contains("[package]"));
        packages.map(|(dir, text)| (dir.as_str(), text.as_str()))
    }

    fn walk(&mut self, root: &Path, dir: &str) -> io::Result<()> {
        for entry in fs::read_dir(root.join(dir))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = join(dir, &name);
            if entry.file_type()?.is_dir() {
                let ours = !NOT_OURS.contains(&name.as_str()) && !NOT_OURS.contains(&path.as_str());
                if ours && !name.starts_with('.') {
                    self.walk(root, &path)?;
                }
            } else if name == "Cargo.toml" || name.ends_with(".rs") {
                self.add(&path, fs::read_to_string(entry.path())?);
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &str, text: String) {
        if let Some(dir) = path.strip_suffix("Cargo.toml") {
            self.manifests.insert(dir.trim_end_matches('/').to_owned(), text);
        } else {
            let tokens = tokenize(&text);
            self.files.insert(path.to_owned(), Source { text, tokens });
        }
    }
}

impl Finding {
    pub(crate) fn new(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// `a` + `b` = `a/b`, without a slash at the root.
pub(crate) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// Whether a file holds only tests, by its name: within a crate's `src`, it or a directory it is in
/// is called `tests`, `test_*` or `*_test`.
pub(crate) fn is_test_file(path: &str) -> bool {
    let within = path.split_once("src/").map_or(path, |(_, within)| within);
    within
        .split('/')
        .map(|part| part.trim_end_matches(".rs"))
        .any(|part| part == "tests" || part.starts_with("test_") || part.ends_with("_test"))
}

#[cfg(test)]
mod tests {
    use super::is_test_file;

    #[test]
    fn tests_are_known_by_their_names() {
        for path in
            ["a/src/b_test.rs", "a/src/b_test/c.rs", "a/src/test_support.rs", "a/src/b/tests.rs"]
        {
            assert!(is_test_file(path), "{path}");
        }
        for path in ["tests/src/process.rs", "a/src/latest.rs", "a/src/contest/b.rs"] {
            assert!(!is_test_file(path), "{path}");
        }
    }
}
