//! `[network]`: where the broker listens, what it tells clients to dial, what a connection may take.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use riverrun_proto::limits::http2;

use super::{section::section, units::ByteSize};

/// Port of the gRPC API. 9092 stays free for Kafka's protocol.
pub const GRPC_PORT: u16 = 9190;
/// Port of `/metrics`, `/healthz` and `/readyz`.
pub const HTTP_PORT: u16 = 9191;
/// Port between brokers.
pub const INTERNAL_PORT: u16 = 9192;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

section! {
    /// Where the broker listens, what it tells clients to dial, what a connection may take.
    pub struct NetworkConfig in "network";

    /// Address of the gRPC port. Anything but loopback needs clients that show certificates (`[tls]`)
    /// or `network.insecure`. Port 0 takes a free one (for tests).
    "grpc.listen" => grpc_listen: SocketAddr = loopback(GRPC_PORT);

    /// Address of the HTTP port with /metrics, /healthz and /readyz. It has no TLS: it shows how the
    /// broker does, and names of topics, and changes nothing.
    "http.listen" => http_listen: SocketAddr = loopback(HTTP_PORT);

    /// Address of the port between nodes. Whoever gets in is believed. Anything but loopback needs
    /// nodes that show certificates (tls.internal.ca.file) or `network.insecure`.
    "internal.listen" => internal_listen: SocketAddr = loopback(INTERNAL_PORT);

    /// Host that other nodes are told to dial. Empty: the address of the internal port; must be set
    /// where that is 0.0.0.0 or `[::]`.
    "internal.advertised.host" => internal_advertised_host: Option<String> = None;

    /// Port that other nodes are told to dial. 0: the one that is bound.
    "internal.advertised.port" => internal_advertised_port: u16 = 0;

    /// Host that clients are told to dial. Empty: the address of the gRPC port; must be set where
    /// that is 0.0.0.0 or `[::]`, which nobody can dial.
    "advertised.host" => advertised_host: Option<String> = None;

    /// Port that clients are told to dial, where a container maps it to another. 0: the one that
    /// is bound.
    "advertised.port" => advertised_port: u16 = 0;

    /// Listen on other addresses than loopback although nobody is asked for a certificate there:
    /// everybody who can reach them can then read, write and delete everything.
    "insecure" => insecure: bool = false;

    /// gRPC connections at once; more wait in the listen queue. Bounds memory: see
    /// broker.memory.budget.
    "max.connections" => max_connections: u32 = 1_000, in 1 => 100_000;

    /// Calls and streams at once on one connection; more wait at the client (HTTP/2
    /// MAX_CONCURRENT_STREAMS). A Rust client uses a handful.
    "http2.max.concurrent.streams" => http2_max_concurrent_streams: u32 = 256, in 1 => 10_000;

    /// Largest HTTP/2 DATA frame. The protocol's default of 16 KiB costs half of the throughput.
    "http2.max.frame.bytes" => http2_max_frame_bytes: ByteSize =
        ByteSize::bytes(http2::MAX_FRAME_BYTES as u64),
        in ByteSize::kib(16) => ByteSize::bytes((1 << 24) - 1);

    /// HTTP/2 window of one stream: what a client may have on its way to a broker that does not
    /// read yet. Bandwidth times round trip of the longest link worth filling.
    "http2.stream.window.bytes" => http2_stream_window_bytes: ByteSize =
        ByteSize::bytes(http2::STREAM_WINDOW_BYTES as u64),
        in ByteSize::kib(64) => ByteSize::bytes((1 << 31) - 1);

    /// HTTP/2 window of one connection. Larger than a stream's, so that one stream which is not
    /// read leaves room for the others.
    "http2.connection.window.bytes" => http2_connection_window_bytes: ByteSize =
        ByteSize::bytes(http2::CONNECTION_WINDOW_BYTES as u64),
        in ByteSize::kib(64) => ByteSize::bytes((1 << 31) - 1);

    /// Silence on a connection before the broker sends an HTTP/2 ping. Below the idle timeout of
    /// common load balancers (60s and up).
    "keepalive.interval.ms" => keepalive_interval_ms: Duration = Duration::from_secs(30),
        in Duration::from_secs(1) => Duration::from_secs(3600);

    /// How long the ping may stay without an answer before the connection is closed. A client
    /// paused longer comes back by reconnecting. Interval and timeout together are also how long a
    /// client may take nothing of what waits for it, or take to begin to speak.
    "keepalive.timeout.ms" => keepalive_timeout_ms: Duration = Duration::from_secs(20),
        in Duration::from_secs(1) => Duration::from_secs(600);

    /// Time for a unary call whose client set no deadline (Kafka's request.timeout.ms). Streams
    /// have none.
    "request.timeout.ms" => request_timeout_ms: Duration = Duration::from_secs(30),
        in Duration::from_secs(1) => Duration::from_secs(3600);

    /// HTTP connections at once; more wait in the listen queue.
    "http.max.connections" => http_max_connections: u32 = 64, in 1 => 10_000;

    /// Time for an HTTP client to send the head of a request; also how long a connection may stay
    /// idle between two.
    "http.header.timeout.ms" => http_header_timeout_ms: Duration = Duration::from_secs(10),
        in Duration::from_millis(100) => Duration::from_secs(600);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocols_windows_are_the_defaults() {
        let network = NetworkConfig::default();
        assert_eq!(network.http2_max_frame_bytes, ByteSize::mib(1));
        assert_eq!(network.http2_stream_window_bytes, ByteSize::mib(8));
        assert_eq!(network.http2_connection_window_bytes, ByteSize::mib(16));
        assert_eq!(network.grpc_listen.to_string(), "127.0.0.1:9190");
    }
}
