//! A connection whose peer has to take what it asked for.
//!
//! HTTP/2 keepalive alone does not get rid of a dead peer. Where it gives one up, it first wants to
//! tell it so: a GOAWAY behind whatever waits to be written. A peer that was stopped (SIGSTOP, a
//! laptop's lid, a cable) has closed its TCP window and takes nothing, so that frame is never
//! written and the connection with all it holds never closed; TCP itself only gives up where the
//! peer's kernel is gone as well. Hence a bound down here, below HTTP/2 and TLS, on the socket: a
//! write that makes no progress fails with [`io::ErrorKind::TimedOut`] after the time keepalive
//! allows for silence.
//!
//! A peer that takes its bytes, however slowly, is not given up here: that is flow control. One that
//! says nothing is the matter of [`Preface`](super::preface::Preface).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use tonic::transport::server::Connected;

use crate::telemetry::{ConnectionMetrics, GivenUp, OpenGuard};

/// See the module. Counted as an open connection until dropped.
#[derive(Debug)]
pub struct Responsive<S> {
    stream: S,
    /// How long the peer may take nothing.
    silence_max: Duration,
    /// Runs while a write waits.
    write_due: Option<Pin<Box<Sleep>>>,
    given_up: bool,
    metrics: ConnectionMetrics,
    _open: OpenGuard,
}

// === impl Responsive ===

impl<S> Responsive<S> {
    /// A peer that has just connected, and may be silent for `silence_max` where it is its turn.
    pub(super) fn new(stream: S, silence_max: Duration, metrics: ConnectionMetrics) -> Self {
        let open = metrics.opened();
        Self { stream, silence_max, write_due: None, given_up: false, metrics, _open: open }
    }

    /// What is underneath.
    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// What is underneath, to be put in another's place while no write waits.
    pub(super) fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Ends a wait that is over; a write that went on need not hurry any more.
    fn check_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.write_due = None;
            return polled;
        }
        let due = self.write_due.get_or_insert_with(|| Box::pin(sleep(self.silence_max)));
        if due.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if !std::mem::replace(&mut self.given_up, true) {
            self.metrics.observe_given_up(GivenUp::TakesNothing);
        }
        let what = format!("the peer took nothing for {:?}", self.silence_max);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)))
    }
}

impl<S: Connected> Connected for Responsive<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Responsive<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

/// Only writes are watched: flushing and shutting down a socket never waits.
impl<S: AsyncWrite + Unpin> AsyncWrite for Responsive<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.check_write(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.check_write(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "responsive_test.rs"]
mod tests;
