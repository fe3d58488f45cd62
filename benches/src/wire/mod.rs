//! The bare streams of `riverrun.v1`, and the only place of this crate that sees generated gRPC
//! types: a load generator that encodes and decodes nothing while it is measured ([`pump`],
//! [`drain`]), and servers that keep nothing ([`null`]). All of them have the product's HTTP/2
//! settings.

pub mod drain;
pub mod null;
pub mod pump;

use riverrun_proto::limits::{GRPC_DECODE_BYTES_MAX, http2};
use tonic::transport::{Channel, Endpoint};

use crate::error::{BenchError, Result};

/// A connection with the settings of the product's client.
///
/// # Errors
/// The address is none, or nobody listens there.
pub async fn connect(address: &str) -> Result<Channel> {
    let not_reached = |e: tonic::transport::Error| {
        let mut why = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(cause) = source {
            why += &format!(": {cause}");
            source = cause.source();
        }
        BenchError::Failed(format!("connecting to {address}: {why}"))
    };
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(not_reached)?
        .tcp_nodelay(true)
        .max_frame_size(http2::MAX_FRAME_BYTES)
        .initial_stream_window_size(http2::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(http2::CONNECTION_WINDOW_BYTES)
        .connect()
        .await
        .map_err(not_reached)
}

/// Bytes of the largest message either side takes.
const MESSAGE_BYTES_MAX: usize = GRPC_DECODE_BYTES_MAX;

#[cfg(test)]
mod wire_test;
