//! The proof of the replication protocol: exhaustive search and random walks over the code that
//! ships.
//!
//! `replica` and `metadata` are compiled from the broker's own files: they depend on nothing of the
//! broker, so that the proof builds in seconds and can be run over and over. `tests/PROOF.md` says
//! what is promised, what attacks it and how far that went; [`suite`] has the searches.
#![forbid(unsafe_code)]

#[path = "../../../broker/src/metadata/mod.rs"]
pub mod metadata;
#[path = "../../../broker/src/replica/mod.rs"]
pub mod replica;

#[expect(missing_docs, reason = "states and steps are named for what they are")]
pub mod cluster;
mod invariants;
#[expect(missing_docs, reason = "states and steps are named for what they are")]
pub mod model;
mod settle;
pub mod suite;
pub mod walk;
