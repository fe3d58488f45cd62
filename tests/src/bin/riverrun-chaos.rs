//! Random faults on a cluster of real processes under load; see `riverrun_tests::chaos`.

use std::{env, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use riverrun_tests::{
    chaos::{self, Plan},
    clock,
};

/// Kills, pauses, cuts off, slows, fills and restarts brokers under load, and checks what they kept.
#[derive(Debug, Parser)]
#[command(name = "riverrun-chaos")]
struct Arguments {
    /// Which faults strike, whom, and when; drawn if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How long to go on; the epoch that is under way then is brought to its end.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// How many brokers.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Faults before everything heals and is checked.
    #[arg(long, default_value_t = 10)]
    strikes: usize,
    /// The longest that a fault holds, in seconds.
    #[arg(long, default_value_t = 30)]
    hold: u64,
    /// How long each producer pauses after a record, in milliseconds; 0: it does not.
    #[arg(long, default_value_t = 5)]
    pace: u64,
    /// The broker; the one built beside this program if not given.
    #[arg(long)]
    broker: Option<PathBuf>,
    /// Where data and logs of the brokers go; emptied first, kept if something is found.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A setting of all brokers, KEY=VALUE; may be repeated.
    #[arg(long = "set", value_parser = setting)]
    settings: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is wanted")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let beside = || env::current_exe().ok().map(|it| it.with_file_name("riverrun-under-test"));
    let Some(binary) = arguments.broker.clone().or_else(beside) else {
        eprintln!("no broker beside this program: name one with --broker");
        return ExitCode::FAILURE;
    };
    let seed = arguments.seed.unwrap_or_else(|| clock::unix_ms().unsigned_abs() % 1_000_000);
    let dir = || env::temp_dir().join(format!("riverrun-chaos-{seed}"));
    let plan = Plan {
        binary,
        dir: arguments.dir.clone().unwrap_or_else(dir),
        nodes: arguments.nodes,
        seed,
        lasts: Duration::from_secs(60 * arguments.minutes),
        strikes: arguments.strikes,
        hold_max: Duration::from_secs(arguments.hold),
        pace: Duration::from_millis(arguments.pace),
        settings: chaos::settings(&arguments.settings),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let report = runtime.expect("there are threads").block_on(chaos::run(&plan));
    match report {
        Ok(report) if report.missing().is_empty() => ExitCode::SUCCESS,
        Ok(report) => {
            eprintln!("never happened: {:?}; run for longer", report.missing());
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("not on this machine: {why}");
            ExitCode::FAILURE
        }
    }
}
