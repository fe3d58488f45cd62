//! What the cluster decides: the metadata log, and the decisions written to it.
//!
//! ```text
//!   service ─► Controller ── decides on the image (topics, placement: pure) ──► Command
//!                  │                                                              │ propose
//!                  │ reply                                                        ▼
//!                  └──────────────── MetaQuorum: log, sync, apply, publish ───────┘
//!                                        │
//!                                        └─► Subscription: image, then deltas in order ─► partition
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`handle`] | [`Controller`]: create, delete, grow, alter |
//! | `operate` | [`Controller`]: elections, changes of replicas, brokers drained and removed |
//! | [`topics`], [`partitions`], [`brokers`], [`placement`], [`moves`], [`leaders`] | what is decided, pure |
//! | [`producer_ids`] | producer ids in blocks |
//! | [`quorum`] | [`MetaQuorum`]: what any quorum does for us |
//! | [`raft`] | [`RaftQuorum`](raft::RaftQuorum): a node of the quorum, which may be all there is of it |
//! | `local` | the first version's quorum of one; tests only |
//! | [`cluster`] | [`ClusterQuorum`]: asked on any node, answered by the leader |
//! | [`liveness`] | which brokers are there: pure decisions of the leader |
//! | `clocks` | whose wall clock is off, and who is kept out for it: pure |
//! | [`addresses`] | where nodes are reached |
//! | `applied` | what an entry does to the image |
//! | [`subscription`] | images and deltas for those who follow |
//! | `store`, `wal`, `frame` | the log on disk: directory, file, bytes |
//! | [`meta_properties`] | whose data directory it is; formatting |
//! | [`error`] | what can go wrong |
//!
//! # Starting
//! [`MetaProperties::open_or_format`], [`RaftQuorum::open`](raft::RaftQuorum::open), propose a
//! [`RegisterBroker`](crate::metadata::command::RegisterBroker) with this process's incarnation, then
//! [`MetaQuorum::subscribe`] and run what [`Subscription::start`] shows. The registration comes
//! first: it moves every partition this broker leads into a leader epoch in which nothing was
//! written yet.

pub mod addresses;
mod applied;
pub mod brokers;
mod clocks;
pub mod cluster;
pub mod error;
mod frame;
#[cfg(test)]
mod golden_cluster_test;
#[cfg(test)]
mod golden_drain_test;
#[cfg(test)]
mod golden_history;
#[cfg(test)]
mod golden_test;
#[cfg(test)]
mod golden_throttle_test;
pub mod handle;
pub mod leaders;
pub mod liveness;
#[cfg(test)]
pub(crate) mod local;
pub mod meta_properties;
pub mod moves;
mod operate;
pub mod partitions;
pub mod placement;
pub mod producer_ids;
pub mod quorum;
pub mod raft;
mod store;
pub mod subscription;
#[cfg(test)]
pub(crate) mod test_support;
pub mod topics;
mod wal;

pub use addresses::Addresses;
pub use clocks::Compared;
pub use cluster::{ClusterQuorum, LeaderCalls};
pub use error::{OpenError, QuorumError};
pub use handle::{Controller, ControllerError, Mode};
pub use liveness::{Heartbeat, Liveness, REDIAL_GRACE};
#[cfg(test)]
pub(crate) use local::{LocalOptions, LocalQuorum};
pub use meta_properties::MetaProperties;
pub use producer_ids::ProducerIds;
pub use quorum::{Accepted, Judged, Leader, MetaQuorum};
pub use subscription::{Change, Subscription, Update};
