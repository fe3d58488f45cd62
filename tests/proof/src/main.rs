//! Runs the searches of the proof.

use std::{env, process::ExitCode};

use riverrun_proof::suite::{
    Broken, EXHAUSTIVE_LONG, EXHAUSTIVE_SHORT, Report, WALKS, exhaust, hush, walk,
};

const USAGE: &str = "\
usage: riverrun-proof search            all states within the bounds, of the code as it ships
       riverrun-proof walk SEEDS        random walks, of the code as it ships
       riverrun-proof mutations SEEDS   every rule broken in turn: each must be found
       riverrun-proof mutation NAME SEEDS   one of them, with the steps that show it";

fn main() -> ExitCode {
    hush();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let seeds = words.last().and_then(|word| word.parse().ok());
    let is_well = match (words.as_slice(), seeds) {
        (["search"], _) => search(),
        (["walk", _], Some(seeds)) => walks(seeds),
        (["mutations", _], Some(seeds)) => {
            all(Broken::all().map(|broken| mutation(broken, seeds, false)))
        }
        (["mutation", name, _], Some(seeds)) => {
            let broken = Broken::all().find(|broken| broken.to_string() == *name);
            broken.is_some_and(|broken| mutation(broken, seeds, true))
        }
        _ => {
            eprintln!("{USAGE}");
            false
        }
    };
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn search() -> bool {
    let scopes = EXHAUSTIVE_SHORT.iter().chain(&EXHAUSTIVE_LONG);
    all(scopes.map(|scope| sound(scope.name, &exhaust(scope.sound()))))
}

fn walks(seeds: u64) -> bool {
    all(WALKS.iter().map(|scope| sound(scope.name, &walk(&scope.sound(), seeds))))
}

/// Whether all went well; the rest is run even if one did not.
fn all(outcomes: impl Iterator<Item = bool>) -> bool {
    outcomes.filter(|went_well| !went_well).count() == 0
}

fn sound(name: &str, report: &Report) -> bool {
    println!("{name}: {report}");
    println!("    seen: {}", report.seen.join(", "));
    for step in report.found.iter().flat_map(|(_, steps)| steps) {
        println!("    {step}");
    }
    report.found.is_none()
}

fn mutation(broken: Broken, seeds: u64, tells: bool) -> bool {
    let report = broken.hunt(seeds);
    println!("{broken} by {:?}: {report}", broken.finder());
    for step in report.found.iter().filter(|_| tells).flat_map(|(_, steps)| steps) {
        println!("    {step}");
    }
    report.found.is_some()
}
