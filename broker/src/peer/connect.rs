//! Connections to other nodes.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use rand::Rng;
use riverrun_proto::limits::http2;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

/// The first byte of a connection that carries batches, before HTTP/2 begins (with a `P`): whoever
/// accepts it serves it on other threads than those that the quorum lives on.
pub const BULK: u8 = b'B';

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

/// Connects, or says why not. Nothing was asked of anybody if this fails.
pub async fn dial(address: &str) -> Result<Channel, Status> {
    let endpoint = endpoint(address)?;
    in_time(address, endpoint.connect()).await
}

/// Connects for batches between replicas: see [`BULK`].
///
/// # Errors
/// As for [`dial`].
pub async fn dial_bulk(address: &str) -> Result<Channel, Status> {
    let endpoint = endpoint(address)?.max_frame_size(http2::MAX_FRAME_BYTES);
    let to = address.to_owned();
    let connector = service_fn(move |_: Uri| {
        let to = to.clone();
        async move {
            let mut stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            stream.write_all(&[BULK]).await?;
            io::Result::Ok(TokioIo::new(stream))
        }
    });
    in_time(address, endpoint.connect_with_connector(connector)).await
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

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address_and_the_reason() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let refused = dial(&format!("127.0.0.1:{port}")).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(refused.message().contains(&port.to_string()), "{refused:?}");
        assert!(is_refused(&format!("127.0.0.1:{port}")).await);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_refused(&listener.local_addr().unwrap().to_string()).await, "it is there");
        assert!(dial("no address at all").await.is_err());
        let refused = dial_bulk(&format!("127.0.0.1:{port}")).await.unwrap_err();
        assert!(refused.message().contains(&port.to_string()), "{refused:?}");
    }
}
