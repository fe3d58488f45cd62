//! The harness of the scenarios: brokers as processes, disks that fill and hang, networks that
//! stall, what clients did and saw, and what they may see.
//!
//! | module | what |
//! |---|---|
//! | [`process`] | brokers as processes: started, killed, stopped, paused, measured |
//! | [`disk`] | small file systems that are full, hang or fail (needs root) |
//! | [`proxy`] | a network that delays, loses one direction, is cut |
//! | [`cluster`], [`links`] | brokers that are one cluster, and links between them that are cut one way or both |
//! | [`chaos`] | random faults under load for as long as one likes, by seed |
//! | [`raw`], [`append`] | `riverrun.v1` by its stubs alone, for what a good client never sends |
//! | [`forge`] | record batches, sound and otherwise |
//! | [`files`] | a data directory, looked at and damaged from outside |
//! | [`history`], [`checker`] | what clients did and saw; which of it no log may show |
//! | [`load`] | producers and readers that write such a history |
//! | [`http`] | the metrics of a broker |
//! | [`wait`], [`clock`] | waiting for a condition; the only clock |
//! | [`skew`] | a wall clock that is wrong, for one broker |
//!
//! A harness may panic: its callers are tests.
#![forbid(unsafe_code)]

pub mod append;
pub mod certificates;
pub mod chaos;
pub mod checker;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod files;
pub mod forge;
pub mod history;
pub mod http;
pub mod links;
pub mod load;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod skew;
pub mod wait;

/// The README's program, compiled and run as it stands there.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
