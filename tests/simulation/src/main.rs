//! Runs the simulator.

use std::{env, process::ExitCode};

use riverrun_simulation::{
    plant::Plant,
    suite::{self, hush, replay},
};

const USAGE: &str = "\
usage: riverrun-simulation run SEED [PLANT]        one run, with its trace
       riverrun-simulation search FROM COUNT       many runs of the code as it ships
       riverrun-simulation planted NAME COUNT      runs with a planted bug, until it is found
       riverrun-simulation planted all COUNT       every planted bug in turn";

fn main() -> ExitCode {
    hush();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let is_well = match words.as_slice() {
        ["run", seed] => number(seed).map(|seed| run(seed, None)),
        ["run", seed, plant] => {
            number(seed).zip(Plant::named(plant)).map(|(seed, plant)| run(seed, Some(plant)))
        }
        ["search", from, count] => {
            number(from).zip(number(count)).map(|(from, count)| search(from, count))
        }
        ["planted", "all", count] => number(count).map(|count| {
            let found: Vec<bool> = Plant::all().iter().map(|plant| find(*plant, count)).collect();
            found.into_iter().all(|found| found)
        }),
        ["planted", name, count] => {
            Plant::named(name).zip(number(count)).map(|(plant, count)| find(plant, count))
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

fn run(seed: u64, plant: Option<Plant>) -> bool {
    let outcome = suite::run(seed, plant, true);
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

fn search(from: u64, count: u64) -> bool {
    let report = suite::search(from, count, None, false, |seed, outcome| {
        if let Some(law) = &outcome.broken {
            println!("seed {seed}: {law}\n    {}", replay(seed, None));
        }
    });
    println!("{} runs, {} steps, {} broken", report.runs, report.steps, report.broken.len());
    print!("{}", report.coverage);
    report.broken.is_empty()
}

fn find(plant: Plant, count: u64) -> bool {
    let report = suite::search(1, count, Some(plant), true, |_, _| {});
    match report.broken.first() {
        None => println!("{plant} is not found in {} runs", report.runs),
        Some((seed, law)) => {
            println!("{plant} is found by seed {seed}: {law}\n    {}", replay(*seed, Some(plant)));
        }
    }
    !report.broken.is_empty()
}
