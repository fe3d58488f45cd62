//! The `riverrun` binary: reads the command line, runs the command, ends with its exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use riverrun_broker::{
    cli::{self, Cli},
    clock::{Clock as _, SystemClock},
};

fn main() -> ExitCode {
    let start = SystemClock.monotonic();
    let command_line = Cli::from_arguments();
    cli::report(command_line.run(start))
}
