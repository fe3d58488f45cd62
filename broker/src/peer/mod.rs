//! gRPC out, to other nodes: `riverrun.internal.v1`.
//!
//! | file | what |
//! |---|---|
//! | [`hello`] | the first word between two nodes, and when it is refused |
//! | [`connect`] | connections: how they are made, when they are given up |
//! | [`transport`] | [`PeerTransport`]: messages of the metadata quorum |
//! | [`calls`] | [`PeerCalls`]: what is asked of the quorum's leader |
//! | [`heartbeat`] | this broker is there, said to the quorum's leader |
//! | [`cluster`] | how a node finds the cluster it belongs to, and joins it |
//! | [`isr`] | what leaders propose of their ISRs, to the metadata log |
//! | [`replication`] | [`ReplicationPeers`]: subscriptions to partitions that other brokers lead |
//! | [`replication_wire`] | what replicas say to each other, as it stands on the wire |
//!
//! Messages of the quorum have a connection per peer that carries nothing else, so that no bulk
//! ever stands before a heartbeat of the leader. What serves the quorum runs on the control runtime,
//! which serves no client.

pub mod calls;
pub mod cluster;
pub mod connect;
pub mod heartbeat;
pub mod hello;
pub mod isr;
pub mod replication;
#[cfg(test)]
mod replication_test;
pub mod replication_wire;
pub mod transport;

pub use calls::PeerCalls;
pub use hello::Card;
pub use replication::ReplicationPeers;
pub use transport::PeerTransport;
