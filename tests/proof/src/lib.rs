//! The proof of the replication protocol: exhaustive search and random walks over the code that
//! ships.
#![forbid(unsafe_code)]

pub mod cluster;
mod invariants;
#[path = "../../../broker/src/metadata/mod.rs"]
pub mod metadata;
pub mod model;
#[path = "../../../broker/src/replica/mod.rs"]
pub mod replica;
pub mod walk;
