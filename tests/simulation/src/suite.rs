//! Many runs, on as many threads as there are processors; each run is on one.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use riverrun_broker::replica::Sound;

use crate::{
    coverage::Coverage,
    plant::Plant,
    setup::{Metadata, Setup},
    world::{self, Outcome},
};

/// What came of many runs.
#[derive(Debug, Default)]
pub struct Report {
    /// How many.
    pub runs: u64,
    /// Steps of all of them.
    pub steps: u64,
    /// What happened in them.
    pub coverage: Coverage,
    /// Seeds in which a law was broken, and which.
    pub broken: Vec<(u64, String)>,
}

/// One run; its steps are kept if it `tells`.
pub fn run(seed: u64, metadata: Metadata, plant: Option<Plant>, tells: bool) -> Outcome {
    let setup = Setup::of(seed, metadata, plant);
    // What ships runs on `Sound`; only where a rule of the core is broken, by others.
    match plant.and_then(Plant::mutation) {
        None => world::run(setup, Sound, tells),
        broken => world::run(setup, broken, tells),
    }
}

/// Runs these seeds; stops at the first broken law if `until_broken`.
pub fn search(
    from: u64,
    count: u64,
    metadata: Metadata,
    plant: Option<Plant>,
    until_broken: bool,
    told: impl Fn(u64, &Outcome) + Sync,
) -> Report {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count || stop.load(Ordering::Relaxed) {
                return;
            }
            let seed = from + at;
            let outcome = run(seed, metadata, plant, false);
            told(seed, &outcome);
            let mut report = report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            report.runs += 1;
            report.steps += outcome.steps;
            report.coverage.add(&outcome.coverage);
            if let Some(law) = outcome.broken {
                report.broken.push((seed, law));
                stop.store(until_broken, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let mut report = report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.broken.sort();
    report
}

/// Panics are caught and reported with their seed; what they print in between says nothing.
pub fn hush() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// The command that shows a run again.
pub fn replay(seed: u64, metadata: Metadata, plant: Option<Plant>) -> String {
    let quorum = if metadata == Metadata::Quorum { "quorum " } else { "" };
    let plant = plant.map_or(String::new(), |plant| format!(" {plant}"));
    format!("cargo run -p riverrun-simulation -- {quorum}run {seed}{plant}")
}
