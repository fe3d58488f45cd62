//! Modules of the broker depend downward only. The table is DESIGN section 3.
//!
//! Tests may look further than the code they test, so they are left out; what third parties a module
//! sees holds for its tests too.

use crate::{
    Finding, House,
    house::is_test_file,
    paths::{Path, paths},
};

/// Root of the broker's modules.
const BROKER: &str = "broker/src/";

/// Module, and the modules it may use; `lib.rs` names them all and is left out.
const MAY_USE: [(&str, &[&str]); 19] = [
    ("main", EVERYTHING),
    ("cli", EVERYTHING),
    ("server", EVERYTHING),
    (
        "service",
        &[
            "peer",
            "partition",
            "controller",
            "coordinator",
            "metadata",
            "config",
            "clock",
            "shutdown",
            "telemetry",
            "tls",
        ],
    ),
    ("http", &["config", "clock", "shutdown", "telemetry"]),
    (
        "peer",
        &["partition", "controller", "metadata", "config", "clock", "shutdown", "telemetry", "tls"],
    ),
    ("coordinator", ABOVE_PARTITION),
    ("controller", ABOVE_PARTITION),
    (
        "partition",
        &["log", "io", "replica", "metadata", "config", "clock", "shutdown", "telemetry"],
    ),
    ("log", &["io"]),
    ("io", &[]),
    ("replica", &[]),
    ("metadata", &[]),
    ("tls", &["telemetry", "config"]),
    ("telemetry", &["config"]),
    ("config", &[]),
    ("clock", &[]),
    ("shutdown", &[]),
    ("lib", EVERYTHING),
];

const ABOVE_PARTITION: &[&str] =
    &["partition", "metadata", "io", "config", "clock", "shutdown", "telemetry"];

/// Any module: only for those at the top.
const EVERYTHING: &[&str] = &["*"];

/// What the lower modules never see, whatever they use.
const MUST_NOT_SEE: [(&str, &[&str]); 4] = [
    ("log", &["tokio", "tonic"]),
    ("replica", &["tokio", "tonic"]),
    ("metadata", &["tokio", "tonic"]),
    ("io", &["tokio", "tonic"]),
];

/// The crates in which only some files may see the generated gRPC types, and those files.
const GENERATED_TYPES: [(&str, &[&str]); 2] = [
    ("broker/src/", &["broker/src/service/", "broker/src/peer/"]),
    ("client/src/", &["client/src/connection/", "client/src/connection.rs"]),
];

/// All findings of this rule.
pub(crate) fn check(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in house.files() {
        for path in paths(&source.tokens) {
            let wrong = downward(file, &path).or_else(|| unseen(file, &path));
            let wrong = wrong.or_else(|| generated(file, &path));
            findings.extend(wrong.map(|what| Finding::new(file, path.line, what)));
        }
    }
    findings
}

/// A path that leads to a module which this one must not use.
fn downward(file: &str, path: &Path) -> Option<String> {
    if path.test || is_test_file(file) {
        return None;
    }
    let from = module_of(file)?;
    let to = target(file, path)?;
    let may_use = MAY_USE.iter().find(|(module, _)| *module == from).map(|(_, uses)| *uses);
    let Some(may_use) = may_use else {
        return Some(format!("module {from} has no place in the table of layers"));
    };
    let known = MAY_USE.iter().any(|(module, _)| *module == to);
    let fine = to == from || !known || may_use == EVERYTHING || may_use.contains(&to);
    (!fine).then(|| format!("{from} must not use {to} ({})", path.text()))
}

/// A path into a library that this module must not see.
fn unseen(file: &str, path: &Path) -> Option<String> {
    let from = module_of(file)?;
    let (_, banned) = MUST_NOT_SEE.iter().find(|(module, _)| *module == from)?;
    let library = path.segments.first()?;
    let hit = path.segments.len() > 1 && banned.contains(&library.as_str());
    hit.then(|| format!("{from} must not see {library} ({})", path.text()))
}

/// A path to the generated types from a file that must not see them.
fn generated(file: &str, path: &Path) -> Option<String> {
    if path.test || is_test_file(file) {
        return None;
    }
    let (_, allowed) = GENERATED_TYPES.iter().find(|(krate, _)| file.starts_with(krate))?;
    let hit = path.starts_with(&["riverrun_proto", "rpc"])
        && !allowed.iter().any(|start| file.starts_with(start));
    let where_to = allowed.join(" and ");
    hit.then(|| format!("generated gRPC types are for {where_to} only ({})", path.text()))
}

/// The broker's module that a file belongs to.
fn module_of(file: &str) -> Option<&str> {
    let rest = file.strip_prefix(BROKER)?;
    Some(rest.split('/').next().unwrap_or(rest).trim_end_matches(".rs"))
}

/// The broker's module that a path leads to, if it leads to one.
fn target<'p>(file: &str, path: &'p Path) -> Option<&'p str> {
    let segment = |i: usize| path.segments.get(i).map(String::as_str);
    match segment(0)? {
        "crate" => segment(1),
        "riverrun_broker" if file == "broker/src/main.rs" => segment(1),
        "super" => {
            let supers = path.segments.iter().take_while(|s| *s == "super").count();
            (supers >= depth(file)).then(|| segment(supers)).flatten()
        }
        _ => None,
    }
}

/// How many modules lie between the crate and the code of a file, itself included.
fn depth(file: &str) -> usize {
    let rest = file.trim_start_matches(BROKER).trim_end_matches(".rs");
    rest.split('/').filter(|part| *part != "mod").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, code: &str) -> Vec<String> {
        let house = House::of(&[(file, code)]);
        check(&house).iter().map(|f| f.to_string().split_once(": ").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn the_table_points_downward() {
        let place = |m: &str| MAY_USE.iter().position(|(module, _)| *module == m);
        for (module, uses) in MAY_USE {
            for used in uses.iter().filter(|_| uses != EVERYTHING) {
                assert!(place(used) > place(module), "{module} uses {used}, which stands above it");
            }
        }
    }

    #[test]
    fn upward_and_sideward_paths_are_found_however_they_are_written() {
        let upward = [
            ("broker/src/log/segment.rs", "use crate::partition::X;"),
            ("broker/src/log/segment.rs", "use crate::{io::Disk, partition::X};"),
            ("broker/src/log/segment.rs", "fn f(_: &crate::partition::X) {}"),
            ("broker/src/log/segment.rs", "use super::super::partition::X;"),
            ("broker/src/log/mod.rs", "use super::partition::X;"),
            ("broker/src/log.rs", "use super::partition::X;"),
            ("broker/src/log/a/b.rs", "use super::super::super::partition::X;"),
        ];
        for (file, code) in upward {
            let found = found(file, code);
            assert_eq!(found.len(), 1, "{file}: {code}");
            assert!(found[0].starts_with("log must not use partition"), "{found:?}");
        }
        assert_eq!(found("broker/src/replica/mod.rs", "use crate::clock::Instant;").len(), 1);
        assert_eq!(found("broker/src/service/a.rs", "use crate::log::Log;").len(), 1);
        assert_eq!(found("broker/src/http/mod.rs", "use crate::partition::X;").len(), 1);
        assert_eq!(found("broker/src/newcomer.rs", "use crate::io::X;").len(), 1);
    }

    #[test]
    fn downward_paths_and_tests_are_fine() {
        let fine = [
            ("broker/src/log/segment.rs", "use crate::io::Disk; use super::index::Index;"),
            ("broker/src/log/a/b.rs", "use super::super::index::Index;"),
            ("broker/src/partition/mod.rs", "use crate::{log::Log, replica, clock::Clock};"),
            ("broker/src/server/mod.rs", "use crate::{log::Log, cli::X};"),
            ("broker/src/log/a.rs", "#[cfg(test)] mod tests { use crate::clock::ManualClock; }"),
            ("broker/src/log/a_test.rs", "use crate::clock::ManualClock;"),
            ("broker/src/log/a.rs", "// crate::partition::X"),
        ];
        for (file, code) in fine {
            assert_eq!(found(file, code), [""; 0], "{file}: {code}");
        }
    }

    #[test]
    fn lower_modules_see_no_runtime() {
        for module in ["log", "replica", "metadata", "io"] {
            for code in ["use tokio::sync::Mutex;", "fn f() -> tonic::Status { x }"] {
                let found = found(&format!("broker/src/{module}/a.rs"), code);
                assert!(found[0].starts_with(&format!("{module} must not see to")), "{found:?}");
            }
        }
        assert!(found("broker/src/partition/a.rs", "use tokio::sync::Mutex;").is_empty());
        assert_eq!(found("broker/src/log/a_test.rs", "use tokio::test;").len(), 1);
    }

    #[test]
    fn generated_types_stay_at_the_doors() {
        for code in ["use riverrun_proto::rpc::v1;", "use riverrun_proto::{ids::X, rpc::v1};"] {
            for file in ["broker/src/partition/a.rs", "broker/src/cli/a.rs", "client/src/lib.rs"] {
                assert_eq!(found(file, code).len(), 1, "{file}: {code}");
            }
            for file in [
                "broker/src/service/a.rs",
                "broker/src/peer/a.rs",
                "client/src/connection/a.rs",
                "tests/src/lib.rs",
                "proto/src/rpc.rs",
            ] {
                assert!(found(file, code).is_empty(), "{file}: {code}");
            }
        }
    }
}
