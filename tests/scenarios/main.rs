//! What the product promises, tried on real processes over real gRPC. One binary, so that it links
//! once; see `tests/README.md` for what each file tries and how long it takes.

mod backpressure;
mod bad_input;
mod bad_requests;
mod chaos;
mod clocks;
mod configuration;
mod crash;
mod crawling;
mod cut_off;
mod deploy;
mod directory;
mod disk_fails;
mod disk_full;
mod drain;
mod forwarding;
mod idempotence;
mod network;
mod nodes;
mod observing;
mod operating;
mod overload;
mod python;
mod quorum;
mod racks;
mod replication;
mod retention;
mod rolling;
mod strangers;
mod throttled;
mod tls;

use std::{io::Write, path::Path};

use riverrun_tests::process::BrokerOptions;
use tempfile::TempDir;

/// The broker under test on `data`, with as little of the machine as a test needs.
fn broker(data: &Path) -> BrokerOptions {
    BrokerOptions::new(env!("CARGO_BIN_EXE_riverrun-under-test"), data)
        .set("broker.memory.budget", "64MiB")
        .set("log.reserve.bytes", "1MiB")
        .set("network.max.connections", "200")
}

fn data_dir() -> TempDir {
    TempDir::new().expect("there is room for files of a test")
}

/// Says that a scenario cannot run here, past the capture of output.
fn passed_over(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// How often to repeat what may be repeated: once by default, more where
/// `RIVERRUN_TEST_ROUNDS` says so.
fn rounds() -> usize {
    std::env::var("RIVERRUN_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}
