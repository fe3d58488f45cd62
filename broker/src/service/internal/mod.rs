//! gRPC in, from other nodes: `riverrun.internal.v1`, on a port of its own.
//!
//! | file | what |
//! |---|---|
//! | [`replication`] | `ReplicationService`: followers of partitions that this broker leads |

pub mod replication;
