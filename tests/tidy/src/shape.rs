//! The shape of files and crates: short, with a contract on top, reachable, named for what they are,
//! and `unsafe` ruled out where it has no business.

use std::collections::BTreeSet;

use crate::{
    Finding, House,
    house::{Source, is_test_file, join},
    tokens::{Kind, Token},
};

/// Past this a file holds more than one concept.
const LINES_MAX: usize = 600;

/// Names that say nothing, as a module or a part of its name.
const EMPTY_NAMES: [&str; 10] = [
    "manager", "managers", "helper", "helpers", "util", "utils", "common", "misc", "inner", "stuff",
];

/// Crates whose root need not forbid `unsafe`: the broker denies it, save in one file.
const DENIES_ONLY: &str = "broker";

/// All findings of this rule.
pub(crate) fn check(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in house.files() {
        findings.extend(too_long(file, source));
        findings.extend(no_contract(file, source));
        findings.extend(empty_name(file));
    }
    findings.extend(unreachable(house));
    findings.extend(unsafe_allowed(house));
    findings
}

fn too_long(file: &str, source: &Source) -> Option<Finding> {
    let lines = source.text.lines().count();
    (lines > LINES_MAX)
        .then(|| Finding::new(file, lines, format!("{lines} lines, the most is {LINES_MAX}")))
}

/// A module begins with `//!`; only attributes of the whole file may come first. A file of tests
/// has the contract of what it tests.
fn no_contract(file: &str, source: &Source) -> Option<Finding> {
    if is_test_file(file) {
        return None;
    }
    let mut lines = source.text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with("#!["));
    let contract = first.is_some_and(|line| line.starts_with("//!"));
    (!contract).then(|| Finding::new(file, 1, "does not begin with //! and what it is about"))
}

fn empty_name(file: &str) -> Option<Finding> {
    let path = file.trim_end_matches(".rs");
    let name = path.split(['/', '_', '-']).find(|part| EMPTY_NAMES.contains(part))?;
    Some(Finding::new(file, 1, format!("{name:?} names nothing: say what it does")))
}

/// Files that no crate root leads to, which the compiler never sees.
fn unreachable(house: &House) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    for (dir, manifest) in house.packages() {
        for root in roots(house, dir, manifest) {
            reach(house, &root, &mut reached);
        }
    }
    let lost = house.files().filter(|(file, _)| !reached.contains(*file));
    lost.map(|(file, _)| Finding::new(file, 1, "no mod leads here: it is never compiled")).collect()
}

/// Files at which cargo starts: those it finds by itself and those the manifest names.
fn roots(house: &House, dir: &str, manifest: &str) -> Vec<String> {
    let named = manifest.lines().filter_map(|line| {
        let value = line.trim().strip_prefix("path")?.trim_start().strip_prefix('=')?;
        Some(join(dir, value.trim().trim_matches('"')))
    });
    let mut roots: Vec<String> = named.collect();
    roots.extend(["src/lib.rs", "src/main.rs", "build.rs"].map(|file| join(dir, file)));
    for (file, _) in house.files() {
        let Some(rest) = file.strip_prefix(dir) else { continue };
        let rest = rest.trim_start_matches('/');
        let found = ["src/bin/", "tests/", "benches/", "examples/"].iter().any(|place| {
            let name = rest.strip_prefix(place);
            name.is_some_and(|name| !name.contains('/') || name.ends_with("/main.rs"))
        });
        if found {
            roots.push(file.to_owned());
        }
    }
    roots
}

/// Follows the `mod`s of a crate's root.
fn reach(house: &House, root: &str, reached: &mut BTreeSet<String>) {
    let mut open = vec![(root.to_owned(), true)];
    while let Some((file, is_root)) = open.pop() {
        let Some(source) = house.file(&file) else { continue };
        if !reached.insert(file.clone()) {
            continue;
        }
        for module in modules(&source.tokens) {
            let candidates = module.files(&file, is_root).into_iter();
            open.extend(candidates.filter(|path| house.file(path).is_some()).map(|p| (p, false)));
        }
    }
}

/// A `mod x;` with the inline modules around it and its `#[path]`.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    around: Vec<String>,
    name: String,
    path: Option<String>,
}

impl Module {
    /// Where its file may be.
    fn files(&self, parent: &str, parent_is_root: bool) -> Vec<String> {
        let (dir, name) = parent.rsplit_once('/').unwrap_or(("", parent));
        if let Some(path) = &self.path {
            return vec![normal(&join(dir, path))];
        }
        let mut dir = dir.to_owned();
        if !parent_is_root && name != "mod.rs" {
            dir = join(&dir, name.trim_end_matches(".rs"));
        }
        for module in &self.around {
            dir = join(&dir, module);
        }
        let place = join(&dir, &self.name);
        vec![format!("{place}.rs"), format!("{place}/mod.rs")]
    }
}

/// `a/../b` = `b`
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// All `mod x;` of a file.
fn modules(tokens: &[Token]) -> Vec<Module> {
    let mut modules = Vec::new();
    // Inline modules around, each with the depth of braces at which it ends.
    let mut around: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut path = None;
    for (i, token) in tokens.iter().enumerate() {
        match &token.kind {
            Kind::Char('{') => depth += 1,
            Kind::Char('}') => {
                depth -= 1;
                around.retain(|(_, at)| depth > *at);
            }
            Kind::Char(';') => path = None,
            Kind::Str(text) if is_path_attribute(tokens, i) => path = Some(text.clone()),
            Kind::Word(word) if word == "mod" => {
                let (Some(name), Some(after)) =
                    (tokens.get(i + 1).and_then(Token::word), tokens.get(i + 2))
                else {
                    continue;
                };
                if after.is_char('{') {
                    around.push((name.to_owned(), depth));
                } else if after.is_char(';') {
                    let around = around.iter().map(|(name, _)| name.clone()).collect();
                    modules.push(Module { around, name: name.to_owned(), path: path.take() });
                }
            }
            _ => {}
        }
    }
    modules
}

/// Whether the string at `i` is that of `#[path = "…"]`.
fn is_path_attribute(tokens: &[Token], i: usize) -> bool {
    i >= 4
        && tokens[i - 1].is_char('=')
        && tokens[i - 2].is_word("path")
        && tokens[i - 3].is_char('[')
        && tokens[i - 4].is_char('#')
}

/// Libraries that do not forbid `unsafe` at their root.
fn unsafe_allowed(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (dir, _) in house.packages() {
        let root = join(dir, "src/lib.rs");
        let Some(source) = house.file(&root) else { continue };
        let level = if dir == DENIES_ONLY { "deny" } else { "forbid" };
        let wanted = format!("#![{level}(unsafe_code)]");
        if !source.text.lines().any(|line| line.trim() == wanted) {
            findings.push(Finding::new(&root, 1, format!("does not say {wanted}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::tokenize;

    const MANIFEST: (&str, &str) = ("a/Cargo.toml", "[package]\nname = \"a\"");
    const ROOT: &str = "//! A.\n#![forbid(unsafe_code)]\n";

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        check(&House::of(files)).iter().map(ToString::to_string).collect()
    }

    fn with_root(root: &str, files: &[(&str, &str)]) -> Vec<String> {
        let root = format!("{ROOT}{root}");
        found(&[&[MANIFEST, ("a/src/lib.rs", root.as_str())], files].concat())
    }

    #[test]
    fn long_files_are_found() {
        let long = |n| format!("//! A.\n{}", "\n".repeat(n - 1));
        let file = |text: String| too_long("a.rs", &Source { tokens: vec![], text });
        assert_eq!(file(long(LINES_MAX)), None);
        assert!(file(long(LINES_MAX + 1)).is_some());
    }

    #[test]
    fn files_without_a_contract_are_found() {
        assert_eq!(with_root("", &[]), [""; 0]);
        let found =
            with_root("mod b; mod c;", &[("a/src/b.rs", "use x;\n//! late"), ("a/src/c.rs", "")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(with_root("mod b_test;", &[("a/src/b_test.rs", "use x;")]), [""; 0]);
        let main = [MANIFEST, ("a/src/main.rs", "#![no_main]\n//! A fuzz target.\n")];
        assert_eq!(self::found(&main), [""; 0]);
    }

    #[test]
    fn empty_names_are_found() {
        for name in ["log_manager.rs", "utils.rs", "common/mod.rs", "test_helpers.rs"] {
            assert!(empty_name(&format!("a/src/{name}")).is_some(), "{name}");
        }
        for name in ["commons_clause.rs", "winner.rs", "log/mod.rs"] {
            assert!(empty_name(&format!("a/src/{name}")).is_none(), "{name}");
        }
    }

    #[test]
    fn files_that_no_mod_leads_to_are_found() {
        let lost = with_root("mod b;", &[("a/src/b.rs", "//! B."), ("a/src/c.rs", "//! C.")]);
        assert_eq!(lost, ["a/src/c.rs:1: no mod leads here: it is never compiled"]);
    }

    #[test]
    fn every_way_to_reach_a_file_is_known() {
        let root = "mod b; mod c; mod d { mod e; } #[cfg(test)] #[path = \"f_test.rs\"] mod tests;";
        let files = [
            ("a/src/b.rs", "//! B.\nmod g; #[path = \"h.rs\"] mod other; mod i;"),
            ("a/src/b/g.rs", "//! G."),
            ("a/src/h.rs", "//! H."),
            ("a/src/b/i/mod.rs", "//! I."),
            ("a/src/c/mod.rs", "//! C.\nmod j;"),
            ("a/src/c/j.rs", "//! J."),
            ("a/src/d/e.rs", "//! E."),
            ("a/src/f_test.rs", "//! F."),
            ("a/src/bin/k.rs", "//! K."),
            ("a/tests/l.rs", "//! L.\nmod m;"),
            ("a/tests/m.rs", "//! M."),
            ("a/build.rs", "//! Build."),
        ];
        assert_eq!(with_root(root, &files), [""; 0]);
        let manifest = "[package]\n[[test]]\nname = \"n\"\npath = \"scenarios/main.rs\"";
        let named = [("a/Cargo.toml", manifest), ("a/scenarios/main.rs", "//! N.")];
        assert_eq!(found(&named), [""; 0]);
    }

    #[test]
    fn a_path_belongs_to_its_own_mod_only() {
        let found =
            modules(&tokenize("#[path = \"x.rs\"] mod a; mod b; const C: &str = \"y\"; mod d;"));
        let paths: Vec<_> = found.iter().map(|m| m.path.as_deref()).collect();
        assert_eq!(paths, [Some("x.rs"), None, None]);
        assert_eq!(normal("a/./b/../c.rs"), "a/c.rs");
    }

    #[test]
    fn libraries_forbid_unsafe() {
        let plain = found(&[MANIFEST, ("a/src/lib.rs", "//! A.\n// #![forbid(unsafe_code)]")]);
        assert_eq!(plain, ["a/src/lib.rs:1: does not say #![forbid(unsafe_code)]"]);
        let broker = ("broker/Cargo.toml", "[package]");
        let deny = "//! B.\n#![deny(unsafe_code)]\n";
        assert_eq!(found(&[broker, ("broker/src/lib.rs", deny)]), [""; 0]);
        assert_eq!(found(&[broker, ("broker/src/lib.rs", "//! B.")]).len(), 1);
    }
}
