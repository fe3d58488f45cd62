//! The command line as people and scripts use it: the real binary, real brokers, real pipes.
//!
//! Nothing here waits by sleeping: every wait is for a line, an exit or a closed pipe, with a limit
//! that is only reached when a test is about to fail.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod cluster;
mod consume;
mod demo;
mod harness;
mod offline;
mod operate;
mod produce;
mod topics;
mod usage;
