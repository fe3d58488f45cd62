//! Connections to other nodes.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rand::Rng;
use riverrun_proto::limits::http2;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::tls::{BULK_PROTOCOL, CALLS_PROTOCOL, Credentials, HTTP2, server_name};

/// The first byte of a connection that carries batches, without TLS (which says it otherwise:
/// [`crate::tls`]), before HTTP/2 begins (with a `P`): whoever
/// accepts it serves it on other threads than those that the quorum lives on.
pub const BULK: u8 = b'B';

/// The first byte of a connection that carries clients' calls which are passed on: they are served
/// where clients are.
pub const CALLS: u8 = b'C';

/// How long a connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a look at an address may take. Who refuses does so at once.
const LOOK_TIMEOUT: Duration = Duration::from_millis(200);
/// Silence before a node is asked whether it is there, and how long it may take to say so: a peer
/// that vanished without a word is given up after both.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));
/// The first pause after a failure; each is twice the one before, up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// How other nodes are dialled. Cheap to clone; the default is without TLS.
#[derive(Debug, Clone, Default)]
pub struct Dialler(Option<Secured>);

/// With TLS.
#[derive(Debug, Clone)]
struct Secured {
    credentials: Arc<Credentials>,
    /// Where this node dials itself, and what its certificate calls it.
    myself: (String, String),
}

// === impl Dialler ===

impl Dialler {
    /// With TLS: this node shows its certificate, and each other one has to show one of the
    /// cluster's CA for the host that was dialled. This node is dialled at `own`, whatever the
    /// others call it, and shows a certificate for `host`.
    pub fn secured(credentials: Arc<Credentials>, own: String, host: String) -> Self {
        Self(Some(Secured { credentials, myself: (own, host) }))
    }

    /// Connects, or says why not. Nothing was asked of anybody if this fails.
    pub async fn dial(&self, address: &str) -> Result<Channel, Status> {
        let endpoint = endpoint(address)?;
        match &self.0 {
            None => in_time(address, endpoint.connect()).await,
            Some(secured) => secured.connect(address, endpoint, HTTP2).await,
        }
    }

    /// Connects for batches between replicas: see [`BULK`].
    ///
    /// # Errors
    /// As for [`Dialler::dial`].
    pub async fn dial_bulk(&self, address: &str) -> Result<Channel, Status> {
        self.dial_for(address, BULK, BULK_PROTOCOL).await
    }

    /// Connects for calls of clients that are passed on: see [`CALLS`].
    ///
    /// # Errors
    /// As for [`Dialler::dial`].
    pub async fn dial_calls(&self, address: &str) -> Result<Channel, Status> {
        self.dial_for(address, CALLS, CALLS_PROTOCOL).await
    }

    async fn dial_for(
        &self,
        address: &str,
        first: u8,
        protocol: &'static [u8],
    ) -> Result<Channel, Status> {
        let endpoint = endpoint(address)?.max_frame_size(http2::MAX_FRAME_BYTES);
        if let Some(secured) = &self.0 {
            return secured.connect(address, endpoint, protocol).await;
        }
        let to = address.to_owned();
        let connector = service_fn(move |_: Uri| {
            let to = to.clone();
            async move {
                let mut stream = tcp(&to).await?;
                stream.write_all(&[first]).await?;
                io::Result::Ok(TokioIo::new(stream))
            }
        });
        in_time(address, endpoint.connect_with_connector(connector)).await
    }
}

// === impl Secured ===

impl Secured {
    async fn connect(
        &self,
        address: &str,
        endpoint: Endpoint,
        protocol: &[u8],
    ) -> Result<Channel, Status> {
        let (own, host) = &self.myself;
        let host = match address {
            address if address == own => host,
            address => host_of(address),
        };
        let name = server_name(host).ok_or_else(|| {
            Status::invalid_argument(format!("{address}: no certificate can name {host}"))
        })?;
        let no_nodes = || Status::internal("these credentials are not for the port between nodes");
        let config = self.credentials.to_dial(protocol).ok_or_else(no_nodes)?;
        let connector = service_fn({
            let (to, host) = (address.to_owned(), host.to_owned());
            move |_: Uri| {
                let (to, host) = (to.clone(), host.clone());
                let (config, name) = (Arc::clone(&config), name.clone());
                async move {
                    let asked = config.alpn_protocols.first().cloned();
                    let shaking = TlsConnector::from(config).connect(name, tcp(&to).await?);
                    let stream = shaking.await.map_err(|error| {
                        io::Error::new(error.kind(), format!("TLS: {error} (looked for {host})"))
                    })?;
                    if stream.get_ref().1.alpn_protocol() != asked.as_deref() {
                        return Err(io::Error::other("TLS: who answers is no node of a cluster"));
                    }
                    Ok(TokioIo::new(stream))
                }
            }
        });
        in_time(address, endpoint.connect_with_connector(connector)).await
    }
}

async fn tcp(to: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The host of `host:port` or `[host]:port`.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether a machine answers for `address` that nobody listens there: the process is gone. Anything
/// else, silence too, says nothing.
pub async fn is_refused(address: &str) -> bool {
    let dialled = timeout(LOOK_TIMEOUT, TcpStream::connect(address)).await;
    matches!(dialled, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

fn endpoint(address: &str) -> Result<Endpoint, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|why| Status::invalid_argument(format!("{address}: {why}")))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(http2::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(http2::CONNECTION_WINDOW_BYTES))
}

async fn in_time(
    address: &str,
    connecting: impl Future<Output = Result<Channel, tonic::transport::Error>>,
) -> Result<Channel, Status> {
    // Names are resolved within the same time.
    let connected = timeout(CONNECT_TIMEOUT * 2, connecting).await;
    let unreachable = |why: String| Status::unavailable(format!("{address}: {why}"));
    connected
        .map_err(|_| unreachable("no connection in time".into()))?
        .map_err(|why| unreachable(root_cause(&why)))
}

/// Pauses between tries, each longer than the one before, and no two nodes in step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    tries: u32,
}

// === impl Backoff ===

impl Backoff {
    /// It went well: the next pause is a short one.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// How long to wait now.
    pub fn pause(&mut self) -> Duration {
        let whole = PAUSE_FIRST.saturating_mul(1 << self.tries.min(16)).min(PAUSE_LAST);
        self.tries = self.tries.saturating_add(1);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// What the outermost error only wraps ("transport error").
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_and_begin_anew() {
        let mut backoff = Backoff::default();
        for whole in [50, 100, 200, 400, 800, 1000, 1000] {
            let whole = Duration::from_millis(whole);
            let pause = backoff.pause();
            assert!(pause <= whole && pause >= whole / 2, "{pause:?} of {whole:?}");
        }
        for _ in 0..100 {
            assert!(backoff.pause() <= PAUSE_LAST);
        }
        backoff.reset();
        assert!(backoff.pause() <= PAUSE_FIRST);
    }

    #[test]
    fn a_certificate_names_the_host_and_not_the_port() {
        for (address, host) in [
            ("node-1:9192", "node-1"),
            ("10.0.0.1:9192", "10.0.0.1"),
            ("[2001:db8::1]:9192", "2001:db8::1"),
        ] {
            assert_eq!(host_of(address), host);
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address_and_the_reason() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dialler = Dialler::default();
        let refused = dialler.dial(&format!("127.0.0.1:{port}")).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(refused.message().contains(&port.to_string()), "{refused:?}");
        assert!(is_refused(&format!("127.0.0.1:{port}")).await);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_refused(&listener.local_addr().unwrap().to_string()).await, "it is there");
        assert!(dialler.dial("no address at all").await.is_err());
        let refused = dialler.dial_bulk(&format!("127.0.0.1:{port}")).await.unwrap_err();
        assert!(refused.message().contains(&port.to_string()), "{refused:?}");
    }
}
