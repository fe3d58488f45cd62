//! Connections as they come in: so many at once, each without Nagle's delay.
//!
//! Past the limit nobody is accepted until somebody leaves; those who come wait in the kernel's
//! listen queue. Together with the HTTP/2 connection window this bounds what peers can make the
//! broker hold before it has looked at anything.

use std::{
    io,
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
use tonic::transport::server::Connected;

use crate::telemetry::{Bound, Bounds, Usage};

/// Pause after an accept that failed for want of resources (file handles): they come back when
/// somebody leaves, and trying at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// As many connections as a listener may have at once.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    full: Bound,
}

/// An accepted connection, as the listener wants it to be; it has its place until it is dropped.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    _place: OwnedSemaphorePermit,
}

/// Accepts as many connections at once as there are `places`; `made` says what a connection is here.
pub(super) fn accept<S>(
    listener: TcpListener,
    places: Places,
    made: impl Fn(TcpStream) -> S,
) -> impl Stream<Item = io::Result<Connection<S>>> {
    futures::stream::unfold((listener, places, made), |(listener, places, made)| async {
        let place = places.take().await;
        let stream = next(&listener).await;
        // A connection that is gone already fails its first read.
        let _ = stream.set_nodelay(true);
        let connection = Connection { stream: made(stream), _place: place };
        Some((Ok(connection), (listener, places, made)))
    })
}

async fn next(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection accepted for now");
                sleep(ACCEPT_PAUSE).await;
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

// === impl Places ===

impl Places {
    /// `max` of them, shown in `bounds` as `name`.
    pub(super) fn new(name: &'static str, max: usize, bounds: &Bounds) -> Self {
        let free = Arc::new(Semaphore::new(max));
        let full = bounds.watch(name, {
            let free = Arc::clone(&free);
            move || Usage { used: (max - free.available_permits()) as u64, limit: max as u64 }
        });
        Self { free, full }
    }

    /// Waits for one.
    pub(super) async fn take(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.free).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.full.hit();
                let place = Arc::clone(&self.free).acquire_owned().await;
                place.expect("the places are never closed")
            }
        }
    }
}

// === impl Connection ===

impl<S> Connection<S> {
    /// What is connected.
    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// What is connected.
    pub(super) fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The same, seen as another thing.
    pub(super) fn map<T>(self, seen: impl FnOnce(S) -> T) -> Connection<T> {
        Connection { stream: seen(self.stream), _place: self._place }
    }

    /// Another way to speak over it; it keeps its place meanwhile.
    pub(super) async fn upgrade<T, E>(
        self,
        speak: impl AsyncFnOnce(S) -> Result<T, E>,
    ) -> Result<Connection<T>, E> {
        Ok(Connection { stream: speak(self.stream).await?, _place: self._place })
    }
}

impl<S: Connected> Connected for Connection<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{StreamExt, poll};

    use super::*;
    use crate::telemetry::Registry;

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = Bounds::register(&Registry::new());
        let places = Places::new("connections", 1, &bounds);
        let free = Arc::clone(&places.free);
        let mut accepted = pin!(accept(listener, places, |stream| stream));
        let _first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let first = accepted.next().await.unwrap().unwrap();
        assert_eq!(free.available_permits(), 0);
        assert!(poll!(accepted.next()).is_pending());
        drop(first);
        accepted.next().await.unwrap().unwrap();
    }
}
