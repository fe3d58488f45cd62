//! One partition on this broker: the only place where the log and the protocol meet.
//!
//! # The life of a produce
//! 1. `service` validates a batch and hands it to [`Partition::produce`] with a [`Ticket`].
//! 2. Under the partition's lock, on the caller's thread, in this order: may it be written (leader,
//!    epoch, min ISR, size, time, producer sequence)? Then it gets the next offset, goes into the
//!    log's window, and [`crate::replica::Replica::step`] says what that commits.
//! 3. If the log is not ready (a roll, a window to extend) the batch parks, in order, while the work
//!    runs on the [`IoPool`]; whatever comes after it parks behind it.
//! 4. Where acks wait for the disk, a flush starts unless one is under way: all batches that arrive
//!    meanwhile share the next one (group commit).
//! 5. The flush comes back as an event, the high watermark moves, waiters are answered, readers are
//!    woken ([`watch`]). Tickets are answered after the lock is let go of, in order (`answers`).
//!
//! # Replicas
//! A partition that follows appends what its leader pushes; one that leads pushes from its log behind
//! a cursor for each follower. What is to be said waits in no queue: a partition stands in the
//! [`Line`] of a connection and is asked when it is its turn ([`replication`]).
//!
//! # The life of a fetch
//! Readers take no lock: the high watermark is an atomic, the log's segments are a snapshot. What is
//! in memory is sliced at once ([`Partition::read`]), what is not is read on the pool within a byte
//! budget. A follower that is in sync serves those who ask for that ([`Partition::read_any`]).
//!
//! The lock is never held across an await, a sync, a roll or a cold read.

mod answers;
mod assignment;
mod cutting;
mod deletion;
mod directories;
mod error;
mod following;
pub mod housekeeping;
mod jobs;
mod leading;
mod lease;
mod line;
mod moving;
mod order;
mod owner;
mod parked_limit;
mod pool;
mod produce;
mod read;
pub mod registry;
pub mod replication;
mod role;
mod settings;
mod throttle;
mod token_bucket;
mod waiters;
pub mod watch;

pub use error::{CloseError, FetchError, OffsetsError};
pub use lease::Lease;
pub use line::Line;
pub use moving::MovingView;
pub use owner::{
    Partition, PartitionEnv, PartitionOffsets, Replicas, Standing, UnderWay, Waiting, WriteGate,
};
pub use parked_limit::ParkedLimit;
pub use pool::{IoPool, Lane};
pub use produce::{Acks, Append, ProduceError, ProduceSink, Produced, Ticket};
pub use read::{Fetch, Fetched, OffsetAt, OffsetSpec, ReadBudget};
pub use role::Copies;
pub use settings::Settings;
pub use throttle::MoveThrottle;

pub use crate::replica::{Durability, FollowerView, IsrProposal, LeaderView, frame};

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod deletion_test;
#[cfg(test)]
mod faults_test;
#[cfg(test)]
mod follower_read_test;
#[cfg(test)]
mod produce_test;
#[cfg(test)]
mod read_test;
#[cfg(test)]
mod registry_test;
#[cfg(test)]
mod replication_stress_test;
#[cfg(test)]
mod replication_test;
#[cfg(test)]
mod stress_test;
#[cfg(test)]
pub(crate) mod test_cluster;
#[cfg(test)]
pub(crate) mod test_net;
#[cfg(test)]
mod test_node;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod throttle_test;
