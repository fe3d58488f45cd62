//! The proof of the replication protocol: exhaustive search and random walks over the code that
//! ships.
#![forbid(unsafe_code)]

#[path = "../../../broker/src/metadata/mod.rs"]
pub mod metadata;
#[path = "../../../broker/src/replica/mod.rs"]
pub mod replica;
pub mod cluster;
mod invariants;
pub mod model;
pub mod walk;
