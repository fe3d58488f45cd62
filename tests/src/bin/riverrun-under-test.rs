//! The product's binary, built with the scenarios so that they never run a stale one.

use std::process::ExitCode;

use riverrun_broker::{
    cli::{self, Cli},
    clock::{Clock as _, SystemClock},
};

fn main() -> ExitCode {
    let start = SystemClock.monotonic();
    cli::report(Cli::from_arguments().run(start))
}
