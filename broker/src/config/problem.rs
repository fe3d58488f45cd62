//! What is wrong with a configuration: everything at once, each with where it came from, what is
//! wrong and what would be right.

use std::{fmt, path::PathBuf};

/// How alike two keys must be (0 to 1) for one to be offered in place of the other.
const ALIKE: f64 = 0.75;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A configuration file.
    File {
        /// Which one.
        path: PathBuf,
        /// From 1; `None` where the file as a whole is meant.
        line: Option<usize>,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A command-line flag.
    Flag,
    /// The configuration of a topic, in a call.
    Topic,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it came from.
    pub origin: Origin,
    /// The key it is about; empty where there is none.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What would be right, as advice; empty where nobody can tell.
    pub right: String,
}

/// All that is wrong, in the order of the sources. One line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// `value` if nothing is wrong.
    pub(super) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default | Origin::Topic => {}
            Origin::File { path, line: None } => write!(f, "{}: ", path.display())?,
            Origin::File { path, line: Some(line) } => write!(f, "{}:{line}: ", path.display())?,
            Origin::Environment(name) => write!(f, "environment variable {name}: ")?,
            Origin::Flag => write!(f, "command line: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        if !self.right.is_empty() {
            write!(f, "; {}", self.right)?;
        }
        Ok(())
    }
}

/// The known key that somebody may have meant, if any is near. Dots, underscores and case do not
/// count.
pub(super) fn nearest<T: AsRef<str>>(key: &str, known: impl Iterator<Item = T>) -> Option<T> {
    let plain = |key: &str| key.to_ascii_lowercase().replace(['_', '-'], ".");
    let key = plain(key);
    known
        .map(|name| (strsim::normalized_damerau_levenshtein(&key, &plain(name.as_ref())), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

/// Advice to somebody whose key nobody knows.
pub(super) fn did_you_mean<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(key, known).map_or_else(String::new, |name| format!("did you mean {name}?"))
}
