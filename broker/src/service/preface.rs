//! A connection whose peer has to say what it speaks.
//!
//! HTTP/2 keepalive begins only once the peer has sent its preface, so one that connects and says
//! nothing would hold its place for good. Here that fails with [`io::ErrorKind::TimedOut`] after the
//! time keepalive allows for silence. Above TLS: whoever finished a handshake has said nothing yet.

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

use crate::telemetry::{ConnectionMetrics, GivenUp};

/// What a client sends first: `PRI * HTTP/2.0 ... SM` (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

/// See the module.
#[derive(Debug)]
pub(super) struct Preface<S> {
    stream: S,
    /// Time for all of it.
    silence_max: Duration,
    /// Bytes that did not come yet.
    missing: usize,
    /// Runs while they are waited for.
    due: Option<Pin<Box<Sleep>>>,
    metrics: ConnectionMetrics,
}

// === impl Preface ===

impl<S> Preface<S> {
    /// A peer that has `silence_max` to begin.
    pub(super) fn new(stream: S, silence_max: Duration, metrics: ConnectionMetrics) -> Self {
        Self { stream, silence_max, missing: PREFACE_BYTES, due: None, metrics }
    }
}

impl<S: Connected> Connected for Preface<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Preface<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.missing == 0 {
            return polled;
        }
        let me = &mut *self;
        me.missing = me.missing.saturating_sub(buf.filled().len() - before);
        if polled.is_ready() {
            // The time is for all of it: a byte now and then does not prolong it.
            if me.missing == 0 {
                me.due = None;
            }
            return polled;
        }
        let due = me.due.get_or_insert_with(|| Box::pin(sleep(me.silence_max)));
        if due.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        me.metrics.observe_given_up(GivenUp::SaysNothing);
        // Nobody waits for it any more.
        me.missing = 0;
        me.due = None;
        let what = format!("the peer did not begin to speak HTTP/2 for {:?}", me.silence_max);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Preface<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::timeout,
    };

    use super::*;
    use crate::telemetry::Registry;

    const SILENCE: Duration = Duration::from_secs(50);
    const PREFACE: &[u8; PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn pair() -> (Preface<DuplexStream>, DuplexStream, Registry) {
        let registry = Registry::new();
        let (ours, theirs) = duplex(8);
        let connection = Preface::new(ours, SILENCE, ConnectionMetrics::register(&registry));
        (connection, theirs, registry)
    }

    fn given_up(registry: &Registry, times: u32) {
        let line = format!("riverrun_connections_given_up_total{{cause=\"says_nothing\"}} {times}");
        let text = registry.encode();
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_or_too_little_is_given_up() {
        for said in [0, 1, PREFACE_BYTES - 1] {
            let (mut connection, mut theirs, registry) = pair();
            let saying = tokio::spawn(async move {
                // Each byte just in time, were it for the next alone.
                for byte in &PREFACE[..said] {
                    sleep(SILENCE / 2).await;
                    if theirs.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                }
                std::future::pending::<()>().await;
            });
            let mut heard = [0; PREFACE_BYTES];
            let mut reading = pin!(connection.read_exact(&mut heard));
            let moment = Duration::from_millis(1);
            assert!(timeout(SILENCE - moment, &mut reading).await.is_err(), "{said}");
            let failed = timeout(2 * moment, reading).await.unwrap().unwrap_err();
            assert_eq!(failed.kind(), io::ErrorKind::TimedOut, "{said}: {failed}");
            given_up(&registry, 1);
            saying.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_its_preface_a_peer_may_be_silent() {
        let (mut connection, mut theirs, registry) = pair();
        let saying = tokio::spawn(async move {
            theirs.write_all(PREFACE).await.unwrap();
            sleep(SILENCE * 10).await;
            theirs.write_all(b"x").await.unwrap();
        });
        connection.read_exact(&mut [0; PREFACE_BYTES + 1]).await.unwrap();
        saying.await.unwrap();
        given_up(&registry, 0);
    }
}
