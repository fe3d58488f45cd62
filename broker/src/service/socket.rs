//! What an accepted connection speaks over: TCP, or TLS over it.

use std::{
    io,
    os::fd::AsFd as _,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::responsive::Responsive;
use crate::tls::HTTP2;

/// A TCP connection whose peer has to take what is written.
pub(super) type Tcp = Responsive<TcpStream>;

/// See the module.
#[derive(Debug)]
pub enum Socket {
    /// Nothing is hidden.
    Plain(Responsive<TcpStream>),
    /// TLS, its handshake done.
    Tls(Box<TlsStream<Responsive<TcpStream>>>),
}

// === impl Socket ===

impl Socket {
    /// What the peer asked for in its handshake; `None`: without TLS its first byte says so.
    pub(super) fn asked_for(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.get_ref().1.alpn_protocol().unwrap_or(HTTP2)),
        }
    }

    /// The first bytes on the wire, which stay where they are.
    pub(super) async fn peek(&self, first: &mut [u8]) -> io::Result<usize> {
        self.tcp().get_ref().peek(first).await
    }

    /// Moves it to the runtime that this is called on. No write waits on it.
    pub(super) fn rehome(&mut self) -> io::Result<()> {
        let tcp = match self {
            Self::Plain(tcp) => tcp.get_mut(),
            Self::Tls(tls) => tls.get_mut().0.get_mut(),
        };
        // A second handle to the socket: what is above it cannot be taken apart, and the first is
        // taken off its runtime as it is dropped.
        let again = std::net::TcpStream::from(tcp.as_fd().try_clone_to_owned()?);
        *tcp = TcpStream::from_std(again)?;
        Ok(())
    }

    fn tcp(&self) -> &Tcp {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl Connected for Socket {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.tcp().connect_info()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
