//! A connection whose peer has to do its part: say what it speaks, take what it asked for.
//!
//! HTTP/2 keepalive alone does not get rid of a dead peer. It begins only once the peer has sent its
//! preface, so one that connects and says nothing holds its place for good. And where it does give a
//! peer up, it first wants to tell it so: a GOAWAY behind whatever waits to be written. A peer that
//! was stopped (SIGSTOP, a laptop's lid, a cable) has closed its TCP window and takes nothing, so
//! that frame is never written and the connection with all it holds never closed; TCP itself only
//! gives up where the peer's kernel is gone as well. Hence two bounds down here, below HTTP/2:
//! a write that makes no progress and a preface that does not come fail with
//! [`io::ErrorKind::TimedOut`] after the time keepalive allows for silence.
//!
//! A peer that takes its bytes, however slowly, is not given up here: that is flow control.

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

use crate::telemetry::{GivenUp, OpenGuard, RequestMetrics};

/// What a client sends first: `PRI * HTTP/2.0 ... SM` (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

/// See the module. Counted as an open connection until dropped.
#[derive(Debug)]
pub(super) struct Responsive<S> {
    stream: S,
    /// How long the peer may do nothing where something is its turn.
    silence_max: Duration,
    /// Bytes of the preface that did not come yet.
    preface_missing: usize,
    /// Runs while they are waited for.
    preface_due: Option<Pin<Box<Sleep>>>,
    /// Runs while a write waits.
    write_due: Option<Pin<Box<Sleep>>>,
    given_up: bool,
    requests: RequestMetrics,
    _open: OpenGuard,
}

// === impl Responsive ===

impl<S> Responsive<S> {
    /// A peer that has just connected, and may be silent for `silence_max` where it is its turn.
    pub(super) fn new(stream: S, silence_max: Duration, requests: RequestMetrics) -> Self {
        Self {
            _open: requests.connection_opened(),
            stream,
            silence_max,
            preface_missing: PREFACE_BYTES,
            preface_due: None,
            write_due: None,
            given_up: false,
            requests,
        }
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
        match due.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(self.give_up(GivenUp::TakesNothing))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn give_up(&mut self, why: GivenUp) -> io::Error {
        if !std::mem::replace(&mut self.given_up, true) {
            self.requests.observe_given_up(why);
        }
        let what = match why {
            GivenUp::TakesNothing => "the peer took nothing",
            GivenUp::SaysNothing => "the peer did not begin to speak HTTP/2",
        };
        io::Error::new(io::ErrorKind::TimedOut, format!("{what} for {:?}", self.silence_max))
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
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.preface_missing == 0 {
            return polled;
        }
        let me = &mut *self;
        me.preface_missing = me.preface_missing.saturating_sub(buf.filled().len() - before);
        if polled.is_ready() {
            // The time is for all of it: a byte now and then does not prolong it.
            if me.preface_missing == 0 {
                me.preface_due = None;
            }
            return polled;
        }
        let due = me.preface_due.get_or_insert_with(|| Box::pin(sleep(me.silence_max)));
        match due.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(me.give_up(GivenUp::SaysNothing))),
            Poll::Pending => Poll::Pending,
        }
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
