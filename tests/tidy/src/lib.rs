//! House rules as a test: what the layout of the code promises, checked by reading the code. No
//! dependencies, so that it runs before anything else is built.
//!
//! | rule | file |
//! |---|---|
//! | modules of the broker depend downward only; who may see tokio, tonic and the generated types | [`layering`] |
//! | files are short, begin with their contract, are reachable; names say something; crates forbid `unsafe` | [`shape`] |
//! | every configuration key is read by something | [`settings`] |
//! | `unsafe`, the clock and unbounded queues are where they may be; nothing is left undone | [`words`] |
//!
//! Each rule has tests beside it that show it fires. An exception is a line in a rule's table, with
//! its reason, never an attribute in the code.
#![forbid(unsafe_code)]

mod house;
mod layering;
mod paths;
mod settings;
mod shape;
mod tokens;
mod words;

pub use house::{Finding, House};

/// All rules over a house.
pub fn findings(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(layering::check(house));
    findings.extend(settings::check(house));
    findings.extend(shape::check(house));
    findings.extend(words::check(house));
    findings.sort();
    findings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_house_keeps_its_rules() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let house = House::read(&root).expect("the source can be read");
        assert!(house.files().count() > 20, "the walk finds the source");
        let found: Vec<String> = findings(&house).iter().map(Finding::to_string).collect();
        assert!(found.is_empty(), "{} house rules broken:\n{}", found.len(), found.join("\n"));
    }
}
