//! Words that may stand in few places or none: `unsafe`, reading the clock, unbounded queues, things
//! left undone.

use crate::{
    Finding, House,
    house::Source,
    paths::{Path, paths},
};

/// The only file that may say `unsafe`: it holds the argument why.
const UNSAFE: &str = "broker/src/io/mmap.rs";

/// The only files that read a clock of the system. In the client tokio's clock is fine too: tests
/// can stop it.
const CLOCKS: [&str; 2] = ["broker/src/clock.rs", "client/src/clock.rs"];

/// Where a file called `clock.rs` is the clock of that program.
const PROGRAMS_WITH_A_CLOCK: [&str; 2] = ["benches/", "tests/"];

/// Names of queues without a bound, in the libraries we have.
const WITHOUT_BOUND: [&str; 4] =
    ["unbounded", "unbounded_channel", "UnboundedSender", "UnboundedReceiver"];

/// Marks of what is not done, cut in two so that this file does not contain them.
const MARKS: [(&str, &str); 3] = [("FIX", "ME"), ("XX", "X"), ("TO", "DO")];

/// All findings of this rule.
pub(crate) fn check(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in house.files() {
        code(file, source, &mut findings);
        clocks(file, source, &mut findings);
        marks(file, source, &mut findings);
    }
    findings
}

/// `unsafe`, `dbg!` and unbounded queues.
fn code(file: &str, source: &Source, findings: &mut Vec<Finding>) {
    for (i, token) in source.tokens.iter().enumerate() {
        let Some(word) = token.word() else { continue };
        let macro_call = source.tokens.get(i + 1).is_some_and(|t| t.is_char('!'));
        let what = match word {
            "unsafe" if file != UNSAFE => format!("unsafe code belongs into {UNSAFE}"),
            "dbg" if macro_call => "dbg! is for the desk".to_owned(),
            _ if WITHOUT_BOUND.contains(&word) => "every queue is bounded".to_owned(),
            _ => continue,
        };
        findings.push(Finding::new(file, token.line, what));
    }
}

/// The client lives on its caller's runtime, whose clock a test may pause; a test of the broker that
/// pauses it may ask what the time has become.
fn may_use_tokios(file: &str) -> bool {
    file.starts_with("client/") || file.starts_with("broker/") && file.ends_with("_test.rs")
}

/// `Instant::now` and `SystemTime::now`, under whatever path.
fn clocks(file: &str, source: &Source, findings: &mut Vec<Finding>) {
    let program = PROGRAMS_WITH_A_CLOCK.iter().any(|dir| file.starts_with(dir));
    if CLOCKS.contains(&file) || program && file.ends_with("/clock.rs") {
        return;
    }
    let paths = paths(&source.tokens);
    for path in &paths {
        if let Some(clock) = clock_read(path)
            && !(may_use_tokios(file) && is_tokios(path, clock, &paths))
        {
            let what =
                format!("{clock}::now: the clock is read in clock.rs only, time is passed in");
            findings.push(Finding::new(file, path.line, what));
        }
    }
}

/// The clock that a path reads.
fn clock_read(path: &Path) -> Option<&str> {
    match path.segments.as_slice() {
        [.., clock, now] if now == "now" && (clock == "Instant" || clock == "SystemTime") => {
            Some(clock)
        }
        _ => None,
    }
}

/// Whether a read of the clock is one of tokio's: by its path or by what is imported.
fn is_tokios(path: &Path, clock: &str, paths: &[Path]) -> bool {
    let imported = paths.iter().any(|p| p.text() == format!("tokio::time::{clock}"));
    path.starts_with(&["tokio", "time"])
        || path.starts_with(&["time", clock]) && paths.iter().any(|p| p.text() == "tokio::time")
        || path.segments.len() == 2 && imported
}

/// Marks of what is not done, in code, comments and strings.
fn marks(file: &str, source: &Source, findings: &mut Vec<Finding>) {
    for (i, line) in source.text.lines().enumerate() {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let found = words.find(|word| MARKS.iter().any(|(a, b)| *word == format!("{a}{b}")));
        if let Some(mark) = found {
            findings.push(Finding::new(file, i + 1, format!("{mark}: do it or open an issue")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, code: &str) -> usize {
        check(&House::of(&[(file, code)])).len()
    }

    #[test]
    fn unsafe_is_found_outside_its_file() {
        let code = "fn f() { unsafe { g() } }";
        assert_eq!(found("broker/src/log/mod.rs", code), 1);
        assert_eq!(found("tests/src/lib.rs", code), 1);
        assert_eq!(found(UNSAFE, code), 0);
        assert_eq!(found("a.rs", "#![forbid(unsafe_code)] // unsafe"), 0);
    }

    #[test]
    fn clocks_are_read_in_clock_rs_only() {
        let reads = [
            "use std::time::Instant; fn f() { Instant::now(); }",
            "fn f() { std::time::SystemTime::now(); }",
            "fn f() { SystemTime::now(); }",
            "#[cfg(test)] mod tests { fn f() { Instant::now(); } }",
        ];
        for code in reads {
            assert_eq!(found("broker/src/log/mod.rs", code), 1, "{code}");
            assert_eq!(found("client/src/retry.rs", code), 1, "{code}");
            assert_eq!(found("benches/src/load.rs", code), 1, "{code}");
            for clock in ["broker/src/clock.rs", "client/src/clock.rs", "benches/src/clock.rs"] {
                assert_eq!(found(clock, code), 0, "{clock}: {code}");
            }
        }
        assert_eq!(found("broker/src/http/clock.rs", reads[0]), 1, "not any clock.rs");
        assert_eq!(found("broker/src/a.rs", "fn f(c: &dyn Clock) { c.now(); }"), 0);
    }

    #[test]
    fn the_client_and_tests_of_the_broker_may_use_tokios_clock() {
        for code in [
            "use tokio::time::Instant; fn f() { Instant::now(); }",
            "use tokio::{sync, time::{Instant, sleep}}; fn f() { Instant::now(); }",
            "fn f() { tokio::time::Instant::now(); }",
            "use tokio::time; fn f() { time::Instant::now(); }",
        ] {
            assert_eq!(found("client/src/a.rs", code), 0, "{code}");
            assert_eq!(found("broker/src/http/http_test.rs", code), 0, "{code}");
            assert_eq!(found("broker/src/a.rs", code), 1, "{code}");
        }
    }

    #[test]
    fn unbounded_queues_are_found() {
        assert_eq!(found("a.rs", "fn f() { tokio::sync::mpsc::unbounded_channel::<u8>(); }"), 1);
        assert_eq!(found("a.rs", "use crossbeam::channel::unbounded;"), 1);
        assert_eq!(found("a.rs", "// an unbounded wait"), 0);
    }

    #[test]
    fn what_is_left_undone_is_found_anywhere() {
        for (a, b) in MARKS {
            assert_eq!(found("a.rs", &format!("// {a}{b}: later")), 1, "{a}{b}");
            assert_eq!(found("a.rs", &format!("f(\"{a}{b}\")")), 1, "{a}{b}");
            assert_eq!(found("a.rs", &format!("// {a}{b}S are something else")), 0, "{a}{b}");
        }
        assert_eq!(found("a.rs", "fn f() { dbg!(1); }"), 1);
        assert_eq!(found("a.rs", "fn dbg() {}"), 0);
    }
}
