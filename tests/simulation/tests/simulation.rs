//! The simulator as far as it goes in seconds: what runs with every change. `tests/PROOF.md` has the
//! commands for more.

use riverrun_simulation::{
    coverage::Fact,
    plant::Plant,
    suite::{self, hush, replay},
};

/// Runs of the code as it ships: these seeds, with every change.
const SEEDS: u64 = 200;
/// Every planted bug is found within so many seeds.
const SEEDS_TO_FIND: u64 = 120;

#[test]
fn no_run_breaks_a_law_and_everything_that_can_happen_does() {
    hush();
    let report = suite::search(1, SEEDS, None, false, |_, _| {});
    let broken: Vec<_> = report
        .broken
        .iter()
        .map(|(seed, law)| format!("seed {seed}: {law}\n    {}", replay(*seed, None)))
        .collect();
    println!("{} runs, {} steps\n{}", report.runs, report.steps, report.coverage);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let missing: Vec<_> = report.coverage.missing().into_iter().map(Fact::words).collect();
    assert!(
        missing.is_empty(),
        "never happened, so the runs prove less than they say: {missing:?}"
    );
}

#[test]
fn every_planted_bug_is_found() {
    hush();
    for plant in Plant::all() {
        let report = suite::search(1, SEEDS_TO_FIND, Some(plant), true, |_, _| {});
        println!("{plant}: {:?}", report.broken.first());
        assert!(!report.broken.is_empty(), "{plant} is not found in {SEEDS_TO_FIND} runs");
    }
}

/// The same seed is the same run: what is found once can be looked at again.
#[test]
fn runs_can_be_repeated() {
    for seed in [3, 11, 42] {
        let (a, b) = (suite::run(seed, None, false), suite::run(seed, None, true));
        assert_eq!((a.hash, a.steps, a.broken), (b.hash, b.steps, b.broken), "seed {seed}");
        assert!(a.steps > 500, "an empty run is easily repeated");
        assert_eq!(b.lines.len() as u64, b.steps);
    }
    assert_ne!(suite::run(1, None, false).hash, suite::run(2, None, false).hash);
}
