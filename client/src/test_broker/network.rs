//! Pipes instead of sockets: connections that can be cut and refused.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use riverrun_proto::{limits, rpc::v1};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server, Uri, server::Connected};

use super::TestCluster;
use crate::connection::Dial;

/// Bytes a pipe holds each way: little, so that what is not read is soon felt.
const PIPE_BYTES: usize = 64 * 1024;

#[derive(Clone)]
pub(super) struct Network(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    brokers: HashMap<u32, Listener>,
    dials: u64,
}

struct Listener {
    accept: mpsc::Sender<io::Result<Pipe>>,
    up: bool,
    /// Breaks the connections there are.
    cut: CancellationToken,
}

/// One end of a connection.
pub(super) struct Pipe {
    stream: DuplexStream,
    broken: BoxFuture<'static, ()>,
    is_broken: bool,
}

// === impl Network ===

impl Network {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn cut(&self, broker: u32) {
        let mut inside = self.0.lock();
        let listener = inside.brokers.get_mut(&broker).unwrap();
        std::mem::take(&mut listener.cut).cancel();
    }

    pub(super) fn set_up(&self, broker: u32, up: bool) {
        self.0.lock().brokers.get_mut(&broker).unwrap().up = up;
    }

    pub(super) fn dials(&self) -> u64 {
        self.0.lock().dials
    }

    async fn connect(self, uri: Uri) -> io::Result<TokioIo<Pipe>> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let broker: u32 =
            uri.host().and_then(|host| host.strip_prefix('b')?.parse().ok()).ok_or_else(refused)?;
        let (accept, server, client) = {
            let mut inside = self.0.lock();
            inside.dials += 1;
            let listener = inside.brokers.get(&broker).filter(|b| b.up).ok_or_else(refused)?;
            let (server, client) = tokio::io::duplex(PIPE_BYTES);
            let end = |stream| Pipe {
                stream,
                broken: listener.cut.clone().cancelled_owned().boxed(),
                is_broken: false,
            };
            (listener.accept.clone(), end(server), end(client))
        };
        accept.send(Ok(server)).await.map_err(|_| refused())?;
        Ok(TokioIo::new(client))
    }
}

impl Dial for Network {
    fn dial(&self, endpoint: &Endpoint) -> Channel {
        let network = self.clone();
        endpoint
            .connect_with_connector_lazy(tower::service_fn(move |uri| network.clone().connect(uri)))
    }
}

/// A broker of the cluster, one service after another.
#[derive(Clone)]
pub(super) struct Broker {
    pub(super) id: u32,
    pub(super) cluster: TestCluster,
}

pub(super) fn serve(cluster: &TestCluster, id: u32) {
    let (accept, incoming) = mpsc::channel(16);
    let listener = Listener { accept, up: true, cut: CancellationToken::new() };
    cluster.0.network.0.lock().brokers.insert(id, listener);
    let broker = Broker { id, cluster: cluster.clone() };
    let max = limits::GRPC_DECODE_BYTES_MAX;
    let server = Server::builder()
        .max_frame_size(limits::http2::MAX_FRAME_BYTES)
        .initial_stream_window_size(limits::http2::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::http2::CONNECTION_WINDOW_BYTES)
        .add_service(
            v1::produce_service_server::ProduceServiceServer::new(broker.clone())
                .max_decoding_message_size(max),
        )
        .add_service(
            v1::consume_service_server::ConsumeServiceServer::new(broker.clone())
                .max_encoding_message_size(max),
        )
        .add_service(v1::metadata_service_server::MetadataServiceServer::new(broker.clone()))
        .add_service(v1::admin_service_server::AdminServiceServer::new(broker));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
}

// === impl Pipe ===

impl Pipe {
    /// Remembers the waker for the cut as well.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.is_broken && self.broken.poll_unpin(cx).is_ready() {
            self.is_broken = true;
        }
        if self.is_broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Pipe {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
