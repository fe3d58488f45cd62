//! The wire and disk contract of Riverrun: generated gRPC types, ids, offsets, epochs, the record
//! batch. No I/O.
#![forbid(unsafe_code)]

pub mod codec;
pub mod epoch;
pub mod epoch_history;
pub mod ids;
pub mod limits;
pub mod murmur2;
pub mod offset;
pub mod reason;
pub mod record;
pub mod rpc;
pub mod timestamp;
