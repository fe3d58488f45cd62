//! Reads a configuration: defaults, then the file, then the environment, then flags; the later wins.
//!
//! Nothing is believed and nothing stops at the first mistake: unknown keys, bad values and
//! contradictions of all sources are reported together.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config,
    problem::{Origin, Problem, Problems, did_you_mean, nearest},
    section::{Key, SetError},
};

/// Begins every environment variable of ours.
const ENVIRONMENT_PREFIX: &str = "RIVERRUN_";

/// Also sets `telemetry.log.filter`, as `RUST_LOG` does elsewhere.
const LOG_FILTER_VARIABLE: &str = "RIVERRUN_LOG";

/// Of the command line's own options, which look like keys.
const COMMAND_LINE_VARIABLES: [&str; 3] =
    ["RIVERRUN_TLS_CA", "RIVERRUN_TLS_CERT", "RIVERRUN_TLS_KEY"];

/// Which origin set each key, for the checks that come after.
pub(super) type Origins = BTreeMap<&'static str, Origin>;

/// A configuration under construction.
#[derive(Default)]
struct Loading {
    config: Config,
    origins: Origins,
    problems: Problems,
}

impl Config {
    /// Reads the configuration of a broker.
    ///
    /// * `file`: TOML with one table per section; `None` for none. A missing file is a problem.
    /// * `environment`: `RIVERRUN_` and the key in capitals, dots as underscores
    ///   (`RIVERRUN_NETWORK_GRPC_LISTEN`). Other variables are passed over, save those that look
    ///   like a mistyped key.
    /// * `flags`: `key=value`, the strongest.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, Problems> {
        let mut loading = Loading::default();
        if let Some(path) = file {
            loading.file(path);
        }
        for (name, value) in environment {
            loading.variable(&name, &value);
        }
        for flag in flags {
            loading.flag(flag.as_ref());
        }
        let Loading { config, origins, mut problems } = loading;
        config.check_with(&origins, &mut problems);
        problems.or(config)
    }
}

// === impl Loading ===

impl Loading {
    fn file(&mut self, path: &Path) {
        let whole = Origin::File { path: path.to_owned(), line: None };
        match fs::read_to_string(path) {
            Ok(text) => self.toml(path, &text),
            Err(e) => self.problem(whole, "", format!("cannot be read: {e}"), String::new()),
        }
    }

    fn toml(&mut self, path: &Path, text: &str) {
        let lines = Lines { path, text };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.problem(lines.origin(at), "", error.message().to_owned(), String::new());
        }
        self.table(&lines, "", table.get_ref());
    }

    /// Walks down tables; dotted keys are tables too.
    fn table(&mut self, lines: &Lines<'_>, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let origin = lines.origin(key.span().start);
            let name = match prefix {
                "" => key.get_ref().to_string(),
                prefix => format!("{prefix}.{}", key.get_ref()),
            };
            match scalar(value) {
                Ok(Some(text)) => self.set(origin, &name, &text),
                Ok(None) => {
                    let DeValue::Table(table) = value.get_ref() else { continue };
                    self.table(lines, &name, table);
                }
                Err(what) => {
                    let right = key_of(&name).map_or_else(String::new, Key::advice);
                    self.problem(origin, &name, what.to_owned(), right);
                }
            }
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { return };
        let origin = Origin::Environment(name.to_owned());
        if name == LOG_FILTER_VARIABLE {
            return self.set(origin, "telemetry.log.filter", value);
        }
        if let Some(key) = Config::keys().find(|key| variable_of(key) == name) {
            return self.set(origin, key.name, value);
        }
        // Kubernetes gives every container the addresses of the services beside it.
        if is_service_link(rest) || COMMAND_LINE_VARIABLES.contains(&name) {
            return;
        }
        let of_a_section = Config::default()
            .sections()
            .iter()
            .any(|(section, _)| name.starts_with(&variable(&format!("{section}."))));
        // Without the prefix, which would make all of them look alike.
        let keys = Config::keys().map(|key| key.name);
        let advice = nearest(rest, keys)
            .map_or_else(String::new, |key| format!("did you mean {}?", variable(key)));
        if of_a_section || !advice.is_empty() {
            self.problem(origin, "", "no key is called that".to_owned(), advice);
        }
    }

    fn flag(&mut self, flag: &str) {
        match flag.split_once('=') {
            Some((key, value)) => self.set(Origin::Flag, key.trim(), value),
            None => {
                let right = "write key=value, such as log.reserve.bytes=64MiB".to_owned();
                self.problem(Origin::Flag, flag, "has no value".to_owned(), right);
            }
        }
    }

    fn set(&mut self, origin: Origin, name: &str, text: &str) {
        match self.config.set(name, text) {
            Ok(()) => {
                let key = key_of(name).expect("a key that was just set");
                self.origins.insert(key.name, origin);
            }
            Err(SetError::BadValue(what)) => {
                let right = key_of(name).map_or_else(String::new, Key::advice);
                self.problem(origin, name, what, right);
            }
            Err(SetError::UnknownKey) => {
                let advice = did_you_mean(name, Config::keys().map(|key| key.name));
                self.problem(origin, name, "there is no such key".to_owned(), advice);
            }
        }
    }

    fn problem(&mut self, origin: Origin, key: &str, what: String, right: String) {
        self.problems.push(Problem { origin, key: key.to_owned(), what, right });
    }
}

/// Tells lines from positions.
struct Lines<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Lines<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        Origin::File { path: PathBuf::from(self.path), line: Some(line) }
    }
}

/// The text of a plain value; `None` for a table; what is wrong with anything else.
fn scalar(value: &Spanned<DeValue<'_>>) -> Result<Option<String>, &'static str> {
    match value.get_ref() {
        DeValue::String(text) => Ok(Some(text.to_string())),
        DeValue::Integer(number) if number.radix() == 10 => Ok(Some(number.as_str().to_owned())),
        DeValue::Integer(_) => Err("numbers are decimal"),
        DeValue::Boolean(flag) => Ok(Some(flag.to_string())),
        DeValue::Table(_) => Ok(None),
        DeValue::Float(_) => Err("no key takes a number with a fraction"),
        DeValue::Datetime(_) => Err("no key takes a date"),
        DeValue::Array(_) => Err("no key takes a list"),
    }
}

fn key_of(name: &str) -> Option<&'static Key> {
    Config::keys().find(|key| key.name == name)
}

/// The environment variable that sets a key.
pub(super) fn variable_of(key: &Key) -> String {
    variable(key.name)
}

fn variable(name: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", name.to_ascii_uppercase().replace('.', "_"))
}

/// Whether the end of a variable's name is one that Kubernetes (or a linked container) makes for a
/// service called `riverrun` or `riverrun-…`: `SERVICE_HOST`, `PORT`, `PORT_9190_TCP_ADDR`, ….
fn is_service_link(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let service = words.windows(2).any(|w| w[0] == "SERVICE" && matches!(w[1], "HOST" | "PORT"));
    let port = |i: usize| {
        words[i] == "PORT"
            && words.get(i + 1).is_none_or(|n| n.bytes().all(|b| b.is_ascii_digit()))
            && words.get(i + 2).is_none_or(|p| matches!(*p, "TCP" | "UDP" | "SCTP"))
    };
    service || (0..words.len()).any(port)
}
