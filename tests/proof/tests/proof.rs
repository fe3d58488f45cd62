//! The proof as far as it goes in seconds: what runs with every change. `tests/PROOF.md` has the
//! commands for more.

use std::collections::BTreeSet;

use riverrun_proof::{
    metadata, replica,
    suite::{Broken, EXHAUSTIVE_SHORT, Finder, WALKS, exhaust, hush, walk},
};

/// Walks of each kind over the code as it ships.
const SEEDS: u64 = 3_000;
/// Enough for every mutation; most are found by the first hundred.
const SEEDS_TO_FIND: u64 = 100_000;

#[test]
fn no_state_within_the_bounds_breaks_a_law() {
    for scope in &EXHAUSTIVE_SHORT {
        let report = exhaust(scope.sound());
        println!("{}: {report}", scope.name);
        assert_eq!(report.found, None, "{}", scope.name);
        assert!(report.complete, "{}", scope.name);
        assert!(report.states.is_some_and(|states| states > 10_000), "the search is empty");
    }
}

#[test]
fn no_walk_breaks_a_law_and_afterwards_everything_comes_right() {
    let mut seen = BTreeSet::new();
    for scope in &WALKS {
        let report = walk(&scope.sound(), SEEDS);
        println!("{}: {report}", scope.name);
        assert_eq!(report.found, None, "{}", scope.name);
        seen.extend(report.seen);
    }
    let must = [
        "commits after an election",
        "eligible leaders outside the ISR",
        "leaders elected from outside the ISR",
        "unclean elections",
        "logs that part",
        "truncations",
        "members that join",
        "members that leave",
        "restarts",
        "reassignments completed",
    ];
    for fact in must {
        assert!(seen.contains(fact), "{fact} never happened: the walks prove less than they say");
    }
}

#[test]
fn every_broken_rule_is_found() {
    hush();
    let mut by_search_only = 0;
    for broken in Broken::all() {
        let report = broken.hunt(SEEDS_TO_FIND);
        println!("{broken} by {:?}: {report}", broken.finder());
        assert!(report.found.is_some(), "{broken} is not found: {report}");
        by_search_only += usize::from(matches!(broken.finder(), Finder::Exhaustive(_)));
    }
    assert!(by_search_only > 0, "walks alone would do, and they do not");
}

/// The same seed is the same walk: what is found once can be looked at again.
#[test]
fn walks_can_be_repeated() {
    let broken = Some(replica::Mutation::NoDivergenceCheck);
    let once = || WALKS[0].search(broken, metadata::Sound).walk(1..100, 60);
    let (a, b) = (once(), once());
    assert!(a.found.is_some());
    assert_eq!((a.found, a.transitions), (b.found, b.transitions));
}
