//! What the cluster agrees on: brokers, topics, partitions, producer ids. Pure: no I/O, no clock, no
//! randomness, nothing of ours but `riverrun-proto`'s domain types.
//!
//! ```text
//!   Command ──record::encode──► log ──record::decode──► MetadataImage::apply(offset, command)
//!                                                        ├─ the next image      (immutable, shared)
//!                                                        ├─ reply or rejection  (to the proposer)
//!                                                        └─ deltas, in order    (to every broker)
//! ```
//!
//! # Laws
//! * **Validated when applied.** A command is judged against the image it meets, not the one its
//!   proposer saw: it names what it expects (topic version, broker epoch) and is rejected as a whole
//!   where that no longer holds. A rejected command takes a place in the log and changes nothing
//!   else, so a stale or duplicate proposer is harmless.
//! * **Deterministic.** Equal logs make equal images at equal offsets on every node. Whatever is
//!   random (topic ids) or local (the proposer's defaults) is decided before the command is written.
//! * **Refused, never skipped.** A record of an unknown kind, a newer version or a higher feature
//!   level stops the reader with a [`RecordError`]: an image with a hole would hand out wrong
//!   answers on this node alone.
//! * **Deleted by record only.** A topic's data may be removed when a [`Delta::TopicDeleted`] or
//!   [`MetadataImage::deleted_at`] says so. Absence from an image proves nothing.
//!
//! # Where the cluster's commands go
//! Changes of ISR, fencing, elections and reassignments are commands of their own kinds since feature
//! level 2, judged by partition epoch and broker epoch. What becomes of a partition is decided by
//! [`Decision`], pure functions of the partition and of how brokers stand, which the proof in
//! `tests/proof` runs as well; `apply_cluster` asks it and enters what it says. The deltas they make
//! are [`Delta::PartitionChanged`].

mod apply;
mod apply_cluster;
mod apply_drain;
mod apply_throttle;
pub mod broker;
pub mod command;
pub mod decision;
pub mod delta;
pub mod feature;
pub mod image;
mod invariants;
#[cfg(test)]
mod law_test;
pub mod offset;
pub mod partition;
pub mod reassignment;
pub mod record;
pub mod rejection;
pub mod rules;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod test_support;
pub mod topic;
mod wire;
mod wire_cluster;
mod wire_drain;
mod wire_throttle;

pub use broker::{Broker, Endpoint};
pub use command::Command;
pub use decision::{Decision, Departure, IsrChange, Presence, Standing, Standings};
pub use delta::Delta;
pub use feature::{FeatureLevel, FeatureRange};
pub use image::{Applied, MetadataImage, ProducerIdBlock, Reply};
pub use offset::MetadataOffset;
pub use partition::{Partition, Reassignment};
pub use record::RecordError;
pub use rejection::Rejection;
pub use rules::{Mutation, Rules, Sound};
pub use snapshot::SnapshotError;
pub use topic::{Topic, TopicConfigs, TopicVersion};
