//! The harness of the scenarios: brokers as processes, what clients saw, what they may see.
#![forbid(unsafe_code)]

pub mod process;
