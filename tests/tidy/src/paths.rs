//! Paths (`a::b::c`) in code, with the trees of `use` spread out.

use crate::tokens::{Kind, Token};

/// A path as it stands in the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
    /// In an inline test module.
    pub(crate) test: bool,
}

impl Path {
    /// Whether it begins with these segments.
    pub(crate) fn starts_with(&self, start: &[&str]) -> bool {
        self.segments.len() >= start.len() && self.segments.iter().zip(start).all(|(a, b)| a == b)
    }

    pub(crate) fn text(&self) -> String {
        self.segments.join("::")
    }
}

/// All paths, also those of one segment only. `use a::{b, c::d}` gives `a::b` and `a::c::d`.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = path(tokens, at, &[], &mut paths);
    }
    paths
}

/// Reads a path that may begin at `at`, under `prefix`; gives the place after it.
fn path(tokens: &[Token], at: usize, prefix: &[String], out: &mut Vec<Path>) -> usize {
    let Some(first) = tokens[at].word() else { return at + 1 };
    let mut segments = prefix.to_vec();
    segments.push(first.to_owned());
    let mut next = at + 1;
    while tokens.get(next).is_some_and(|t| t.kind == Kind::PathSep) {
        let Some(after) = tokens.get(next + 1) else { break };
        if after.is_char('{') {
            return tree(tokens, next + 2, &segments, out);
        }
        match after.word() {
            Some(word) => segments.push(word.to_owned()),
            None if after.is_char('*') => segments.push("*".to_owned()),
            None => break,
        }
        next += 2;
    }
    out.push(Path { line: tokens[at].line, segments, test: tokens[at].test });
    next
}

/// Reads `b, c::d}`; gives the place after the brace.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], out: &mut Vec<Path>) -> usize {
    while let Some(token) = tokens.get(at) {
        if token.is_char('}') {
            return at + 1;
        }
        at = path(tokens, at, prefix, out);
        if tokens.get(at).is_some_and(|t| t.is_word("as")) {
            at += 2;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::tokenize;

    fn texts(code: &str) -> Vec<String> {
        paths(&tokenize(code)).iter().filter(|p| p.segments.len() > 1).map(Path::text).collect()
    }

    #[test]
    fn trees_are_spread_out() {
        let code = "use crate::{a, b::{self, c as d}, e::*}; use std::fmt;";
        let expected = ["crate::a", "crate::b::self", "crate::b::c", "crate::e::*", "std::fmt"];
        assert_eq!(texts(code), expected);
    }

    #[test]
    fn paths_in_the_middle_of_code_are_found() {
        let code = "fn f(x: crate::a::B<super::c::D>) -> u8 { Instant::now(); Vec::<u8>::new() }";
        assert_eq!(texts(code), ["crate::a::B", "super::c::D", "Instant::now"]);
    }
}
