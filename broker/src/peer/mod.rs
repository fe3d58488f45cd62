//! gRPC out, to other nodes: `riverrun.internal.v1`.
//!
//! | file | what |
//! |---|---|
//! | [`connect`] | connections: how they are made, when they are given up |
//! | [`isr`] | what leaders propose of their ISRs, to the metadata log |
//! | [`replication`] | [`ReplicationPeers`]: subscriptions to partitions that other brokers lead |
//! | [`replication_wire`] | what replicas say to each other, as it stands on the wire |

pub mod connect;
pub mod isr;
pub mod replication;
#[cfg(test)]
mod replication_test;
pub mod replication_wire;

pub use replication::ReplicationPeers;
