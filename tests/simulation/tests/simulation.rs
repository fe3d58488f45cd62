//! The simulator as far as it goes in seconds: what runs with every change. `tests/PROOF.md` has the
//! commands for more.

use riverrun_simulation::{
    coverage::{Coverage, Fact},
    plant::Plant,
    setup::Metadata,
    suite::{self, hush, replay},
};

/// Runs of the code as it ships: these seeds, with every change.
const SEEDS: u64 = 200;
/// The same over the shipped quorum; most of what that is about is simulated alone, beside it.
const QUORUM_SEEDS: u64 = 250;
/// From here on, for in these everything happens that has to.
const QUORUM_FROM: u64 = 251;
/// Every planted bug is found within so many seeds.
const SEEDS_TO_FIND: u64 = 120;
/// Those of the quorum.
const QUORUM_SEEDS_TO_FIND: u64 = 60;

#[test]
fn no_run_breaks_a_law_and_everything_that_can_happen_does() {
    hush();
    let mut coverage = Coverage::default();
    for (metadata, from, seeds) in
        [(Metadata::Ideal, 1, SEEDS), (Metadata::Quorum, QUORUM_FROM, QUORUM_SEEDS)]
    {
        let report = suite::search(from, seeds, metadata, None, false, |_, _| {});
        let broken: Vec<_> = report
            .broken
            .iter()
            .map(|(seed, law)| format!("seed {seed}: {law}\n    {}", replay(*seed, metadata, None)))
            .collect();
        println!("{metadata:?}: {} runs, {} steps\n{}", report.runs, report.steps, report.coverage);
        assert!(broken.is_empty(), "{}", broken.join("\n"));
        coverage.add(&report.coverage);
    }
    let missing: Vec<_> = coverage.missing().into_iter().map(Fact::words).collect();
    assert!(
        missing.is_empty(),
        "never happened, so the runs prove less than they say: {missing:?}"
    );
}

#[test]
fn every_planted_bug_is_found() {
    hush();
    for (metadata, seeds) in
        [(Metadata::Ideal, SEEDS_TO_FIND), (Metadata::Quorum, QUORUM_SEEDS_TO_FIND)]
    {
        for plant in Plant::all_over(metadata) {
            let report = suite::search(1, seeds, metadata, Some(plant), true, |_, _| {});
            println!("{plant}: {:?}", report.broken.first());
            assert!(!report.broken.is_empty(), "{plant} is not found in {seeds} runs");
        }
    }
}

/// The same seed is the same run: what is found once can be looked at again.
#[test]
fn runs_can_be_repeated() {
    for metadata in [Metadata::Ideal, Metadata::Quorum] {
        let run = |seed, tells| suite::run(seed, metadata, None, tells);
        for seed in [3, 11, 42] {
            let (a, b) = (run(seed, false), run(seed, true));
            assert_eq!((a.hash, a.steps, a.broken), (b.hash, b.steps, b.broken), "seed {seed}");
            assert!(a.steps > 500, "an empty run is easily repeated");
            assert_eq!(b.lines.len() as u64, b.steps);
        }
        assert_ne!(run(1, false).hash, run(2, false).hash);
    }
}
