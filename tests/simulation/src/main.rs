//! Runs the simulator.

use std::{env, process::ExitCode};

use riverrun_simulation::{
    plant::Plant,
    setup::Metadata,
    suite::{self, hush, replay},
};

const USAGE: &str = "\
usage: riverrun-simulation [quorum] run SEED [PLANT]      one run, with its trace
       riverrun-simulation [quorum] search FROM COUNT     many runs of the code as it ships
       riverrun-simulation [quorum] planted NAME COUNT    runs with a planted bug, until it is found
       riverrun-simulation [quorum] planted all COUNT     every planted bug in turn

With `quorum` the metadata log is the shipped quorum, a node of it in every broker; without, one that
never fails.";

fn main() -> ExitCode {
    hush();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (metadata, words) = match words.as_slice() {
        ["quorum", words @ ..] => (Metadata::Quorum, words),
        words => (Metadata::Ideal, words),
    };
    let is_well = match words {
        ["run", seed] => number(seed).map(|seed| run(seed, metadata, None)),
        ["run", seed, plant] => {
            let given = number(seed).zip(Plant::named(plant));
            given.map(|(seed, plant)| run(seed, metadata, Some(plant)))
        }
        ["search", from, count] => {
            number(from).zip(number(count)).map(|(from, count)| search(from, count, metadata))
        }
        ["planted", "all", count] => number(count).map(|count| {
            let plants = Plant::all_over(metadata);
            let found: Vec<bool> =
                plants.into_iter().map(|plant| find(plant, count, metadata)).collect();
            found.into_iter().all(|found| found)
        }),
        ["planted", name, count] => {
            let given = Plant::named(name).zip(number(count));
            given.map(|(plant, count)| find(plant, count, metadata))
        }
        _ => None,
    };
    match is_well {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Option<u64> {
    word.parse().ok()
}

fn run(seed: u64, metadata: Metadata, plant: Option<Plant>) -> bool {
    let outcome = suite::run(seed, metadata, plant, true);
    for line in &outcome.lines {
        println!("{line}");
    }
    println!("{} steps, trace {:016x}", outcome.steps, outcome.hash);
    match outcome.broken {
        None => println!("all is well"),
        Some(ref law) => println!("BROKEN: {law}"),
    }
    outcome.broken.is_none()
}

fn search(from: u64, count: u64, metadata: Metadata) -> bool {
    let report = suite::search(from, count, metadata, None, false, |seed, outcome| {
        if let Some(law) = &outcome.broken {
            println!("seed {seed}: {law}\n    {}", replay(seed, metadata, None));
        }
    });
    println!("{} runs, {} steps, {} broken", report.runs, report.steps, report.broken.len());
    print!("{}", report.coverage);
    report.broken.is_empty()
}

fn find(plant: Plant, count: u64, metadata: Metadata) -> bool {
    let report = suite::search(1, count, metadata, Some(plant), true, |_, _| {});
    match report.broken.first() {
        None => println!("{plant} is not found in {} runs", report.runs),
        Some((seed, law)) => {
            println!(
                "{plant} is found by seed {seed}: {law}\n    {}",
                replay(*seed, metadata, Some(plant))
            );
        }
    }
    !report.broken.is_empty()
}
