//! The generated gRPC types of `riverrun.v1` and `riverrun.internal.v1`. Seen by the broker's `service` and `peer` and by the
//! client's `connection` only; everything else speaks domain types.

/// Package `riverrun.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "generated code; its documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("riverrun.v1");
}

/// Between nodes of a cluster.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "generated code; its documentation is in the .proto files"
)]
pub mod internal {
    /// Package `riverrun.internal.v1`.
    pub mod v1 {
        tonic::include_proto!("riverrun.internal.v1");
    }
}

/// The encoded `FileDescriptorSet` of the public packages, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
