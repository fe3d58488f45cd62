//! Connections of other nodes: so many at once. Whoever comes later waits in the kernel's listen queue
//! until somebody leaves.

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

use crate::telemetry::Bound;

/// Connections at once: a handful for each node, of more nodes than any cluster has.
pub(super) const CONNECTIONS_MAX: usize = 1024;
/// Pause after an accept that failed for want of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An accepted connection; it has its place until it is dropped.
pub struct Placed {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

/// Accepts as many connections at once as there are `places`.
pub(super) fn accept(
    listener: TcpListener,
    places: Arc<Semaphore>,
    full: Bound,
) -> impl Stream<Item = io::Result<Placed>> {
    futures::stream::unfold((listener, places, full), |(listener, places, full)| async {
        let place = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                full.hit();
                Arc::clone(&places).acquire_owned().await.expect("the places are never closed")
            }
        };
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "no connection of another node accepted for now");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        // A connection that is gone already fails its first read.
        let _ = stream.set_nodelay(true);
        Some((Ok(Placed { stream, _place: place }), (listener, places, full)))
    })
}

// === impl Placed ===

impl Placed {
    /// The first bytes, which stay where they are.
    pub(super) async fn peek(&self, first: &mut [u8]) -> io::Result<usize> {
        self.stream.peek(first).await
    }

    /// Moves it to the runtime that this is called on.
    pub(super) fn rehome(self) -> io::Result<Self> {
        let stream = TcpStream::from_std(self.stream.into_std()?)?;
        Ok(Self { stream, _place: self._place })
    }
}

impl Connected for Placed {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Placed {
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

impl fmt::Debug for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placed").field("stream", &self.stream).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{StreamExt, poll};

    use super::*;
    use crate::telemetry::{Bounds, Registry, Usage};

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = Bounds::register(&Registry::new());
        let full = bounds.watch("internal.connections", || Usage { used: 0, limit: 1 });
        let mut accepted = pin!(accept(listener, Arc::new(Semaphore::new(1)), full));
        let _first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let first = accepted.next().await.unwrap().unwrap();
        assert!(poll!(accepted.next()).is_pending());
        drop(first);
        accepted.next().await.unwrap().unwrap();
    }
}
