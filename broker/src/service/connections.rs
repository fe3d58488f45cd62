//! Connections as they come in: so many at once, each without Nagle's delay.
//!
//! Past the limit nobody is accepted until somebody leaves; those who come wait in the kernel's
//! listen queue. Together with the HTTP/2 connection window this bounds what clients can make the
//! broker hold before it has looked at anything. Who has a place must do its part to keep it
//! ([`Responsive`]).

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::responsive::Responsive;
use crate::telemetry::{Bound, OpenGuard, RequestMetrics};

/// Pause after an accept that failed for want of resources (file handles): they come back when
/// somebody leaves, and trying at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An accepted connection; counted until dropped.
pub(super) struct Connection {
    stream: Responsive<TcpStream>,
    _place: OwnedSemaphorePermit,
    _open: OpenGuard,
}

/// What accepting takes.
struct Accepting {
    listener: TcpListener,
    places: Arc<Semaphore>,
    full: Bound,
    silence_max: Duration,
    requests: RequestMetrics,
}

/// Accepts as many connections at once as there are `places`. A peer that does nothing for
/// `silence_max` where it is its turn loses its place.
pub(super) fn accept(
    listener: TcpListener,
    places: Arc<Semaphore>,
    full: Bound,
    silence_max: Duration,
    requests: RequestMetrics,
) -> impl Stream<Item = io::Result<Connection>> {
    let accepting = Accepting { listener, places, full, silence_max, requests };
    futures::stream::unfold(accepting, |accepting| async {
        let connection = accepting.next().await;
        Some((Ok(connection), accepting))
    })
}

// === impl Accepting ===

impl Accepting {
    async fn next(&self) -> Connection {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.full.hit();
                let place = Arc::clone(&self.places).acquire_owned().await;
                place.expect("the places are never closed")
            }
        };
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    // A connection that is gone already fails its first read.
                    let _ = stream.set_nodelay(true);
                    let open = self.requests.connection_opened();
                    let stream = Responsive::new(stream, self.silence_max, self.requests.clone());
                    return Connection { stream, _place: place, _open: open };
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection accepted for now");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The connection was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

// === impl Connection ===

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.get_ref().connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("stream", &self.stream).finish_non_exhaustive()
    }
}
