//! Other brokers beside ours: their published artifacts, on loopback, under their own load
//! generators, with the payload, batch, in flight, acks and durability of the product's run that
//! alternates with them.
//!
//! | module | what |
//! |---|---|
//! | [`comparable`] | which workloads mean the same on both sides, and how long a peer is loaded |
//! | [`alternation`] | rounds of product and peer, and the ratios |
//! | [`kafka`], [`nats`] | a peer: its artifacts, its settings, its load, its figures |
//! | [`server`], [`tool`], [`cache`] | processes of others, and where their artifacts are kept |
//!
//! Nothing of a peer is in this repository. A row is its defaults, as far as the workload leaves
//! them; another one is tuned. All settings and versions are in the outcome.

pub mod alternation;
pub mod cache;
pub mod comparable;
pub mod kafka;
pub mod nats;
pub mod server;
pub mod tool;

use clap::ValueEnum;

use crate::{error::Result, outcome::Run, workload::Workload};

/// Who is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Apache Kafka: one broker that is its own controller, or as many as the workload has nodes
    Kafka,
    /// NATS JetStream, one server with a file store
    Nats,
}

/// One load of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// What is done, in the product's words.
    pub workload: &'a Workload,
    /// Which round, from 1; 0 does not count.
    pub round: u32,
    /// Records that count.
    pub records: u64,
    /// Records before them that do not, where the peer's tool can tell them apart.
    pub warm_up: u64,
}

/// A row of a comparison: a peer that runs, with its settings.
trait Peer {
    /// What it is called in documents.
    fn subject(&self) -> &'static str;

    /// Does `task` on a topic made for it.
    async fn run(&mut self, task: &Task<'_>) -> Result<Run>;

    /// Ends it and removes its data.
    fn stop(self);
}
