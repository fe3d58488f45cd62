//! `riverrun-bench`: load for a broker, its ceilings measured beside it, figures that can be checked.
#![forbid(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod error;
pub mod outcome;
pub mod units;
pub mod workload;
