//! The product's binary, built with the scenarios so that they never run a stale one.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use riverrun_broker::{
    cli::{self, Cli},
    clock::{Clock as _, SystemClock},
};

/// As the product has.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let start = SystemClock.monotonic();
    cli::report(Cli::from_arguments().run(start))
}
