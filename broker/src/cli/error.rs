//! How a command that went wrong ends: an exit code for scripts, what happened and what to type
//! next for people.

use std::{fmt, io};

/// How alike two names must be (0 to 1) for one to be offered in place of the other.
const ALIKE: f64 = 0.6;

/// What the exit code of a command that went wrong says. Success is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Whoever read standard output went away (`| head`): the command is over, nothing is wrong.
    ReaderGone = 0,
    /// It was tried and went wrong.
    Failure = 1,
    /// What was typed, or what a file or the input says, cannot be.
    Usage = 2,
    /// The topic, partition or file does not exist.
    NotFound = 3,
    /// No broker answered, or it cannot serve at the moment. The same command may work later.
    Unavailable = 4,
}

/// A command that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    what: String,
    advice: Vec<String>,
}

/// What commands return.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

// === impl Failure ===

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), advice: Vec::new() }
    }

    /// It was tried and went wrong.
    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failure, what)
    }

    /// What was typed or read cannot be.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// A topic that does not exist, among those that do.
    pub(crate) fn no_such_topic<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let failure = Self::new(Exit::NotFound, format!("topic '{name}' not found"));
        let failure = match nearest(name, known) {
            Some(near) => failure.advise(format!("did you mean '{near}'?")),
            None => failure.advise("see what there is: riverrun topic list"),
        };
        failure.advise(format!("create it: riverrun topic create {name}"))
    }

    /// Something on this machine could not be read or written.
    pub(crate) fn io(doing: impl fmt::Display, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failure,
        };
        Self::new(exit, format!("{doing}: {error}"))
    }

    /// Standard output did not take what was written. Nobody there any more is no failure.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::ReaderGone, ""),
            _ => Self::failed(format!("cannot write to standard output: {error}")),
        }
    }

    /// One more line that says what to do.
    #[must_use]
    pub(crate) fn advise(mut self, line: impl Into<String>) -> Self {
        self.advice.push(line.into());
        self
    }

    /// What was being done, before what happened.
    #[must_use]
    pub(crate) fn context(mut self, doing: impl fmt::Display) -> Self {
        self.what = format!("{doing}: {}", self.what);
        self
    }

    /// For the process to end with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Nothing to tell anybody: see [`Exit::ReaderGone`].
    pub fn is_quiet(&self) -> bool {
        self.exit == Exit::ReaderGone
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        for line in &self.advice {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The known name that somebody may have meant, if any is near.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .map(|known| (strsim::normalized_damerau_levenshtein(&lower, &known.to_lowercase()), known))
        .filter(|(likeness, known)| *likeness >= ALIKE && *known != name)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_topic_says_what_was_meant_and_what_to_type() {
        let failure = Failure::no_such_topic("ordres", ["payments", "orders", "o"].into_iter());
        assert_eq!(failure.exit(), Exit::NotFound);
        assert_eq!(
            failure.to_string(),
            "error: topic 'ordres' not found\n  did you mean 'orders'?\n  \
             create it: riverrun topic create ordres"
        );
        let failure = Failure::no_such_topic("x", ["payments"].into_iter());
        assert!(failure.to_string().contains("riverrun topic list"), "{failure}");
    }

    #[test]
    fn near_is_a_slip_of_the_hand_and_not_another_word() {
        for (typed, meant) in [
            ("Orders", Some("orders")),
            ("oredrs", Some("orders")),
            ("order", Some("orders")),
            ("payments", Some("payments-v2")),
            ("zebra", None),
            ("", None),
        ] {
            let found = nearest(typed, ["orders", "payments-v2"].into_iter());
            assert_eq!(found, meant, "{typed}");
        }
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes =
            [Exit::ReaderGone, Exit::Failure, Exit::Usage, Exit::NotFound, Exit::Unavailable];
        assert_eq!(codes.map(|exit| exit as u8), [0, 1, 2, 3, 4]);
        let gone = Failure::stdout(&io::ErrorKind::BrokenPipe.into());
        assert!(gone.is_quiet());
        assert!(!Failure::stdout(&io::ErrorKind::StorageFull.into()).is_quiet());
    }
}
