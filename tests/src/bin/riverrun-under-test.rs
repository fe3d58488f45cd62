//! The product's binary, built with the scenarios so that they never run a stale one. All it has beside is
//! a wall clock that a test can set.

use std::{env, process::ExitCode, sync::Arc};

use mimalloc::MiMalloc;
use riverrun_broker::{
    cli::{self, Cli},
    clock::{Clock as _, SystemClock},
};
use riverrun_tests::skew::{SkewedClock, VARIABLE};

/// As the product has.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let start = SystemClock.monotonic();
    let command_line = Cli::from_arguments();
    cli::report(match env::var_os(VARIABLE) {
        None => command_line.run(start),
        Some(file) => command_line.run_by(Arc::new(SkewedClock::from_file(file)), start),
    })
}
