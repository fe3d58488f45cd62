//! The `riverrun-bench` binary: reads the command line, runs the command, ends with its exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use riverrun_bench::cli::Cli;

fn main() -> ExitCode {
    Cli::from_arguments().run()
}
