//! gRPC in, from other nodes: `riverrun.internal.v1`, on a port of its own.
//!
//! | file | what |
//! |---|---|
//! | `broker` | `BrokerService`: who is there |
//! | `lanes` | which threads serve a connection |
//! | `quorum` | `QuorumService`: messages of the metadata quorum, joining, asking its leader |
//! | [`replication`] | `ReplicationService`: followers of partitions that this broker leads |
//!
//! The port answers from the first moment on, before this node knows which cluster it is of: nodes
//! that start together find one another by that. What needs more is `UNAVAILABLE` until then.
//! Whoever gets in is believed: who has a certificate of the cluster's CA with TLS, who reaches the
//! port without. Every call says who speaks (`peer::hello`).

mod broker;
mod lanes;
mod quorum;
pub mod replication;

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::StreamExt;
use parking_lot::Mutex;
use riverrun_proto::{
    ids::{BrokerId, IncarnationId},
    limits::http2,
    rpc::internal::v1::{
        broker_service_server::BrokerServiceServer, quorum_service_server::QuorumServiceServer,
    },
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, service::Routes, transport::Server};

pub use lanes::WAITING_MAX;

use super::{
    connections::{self, Connection, Places},
    handshake::secure,
    preface::Preface,
    responsive::Responsive,
    socket::Socket,
};
use crate::{
    clock::Clock,
    controller::{Addresses, ClusterQuorum, Liveness, MetaQuorum},
    peer::Card,
    shutdown::Shutdown,
    telemetry::{Bounds, ConnectionMetrics},
    tls::Security,
};

/// Connections at once: a handful for each node, of more nodes than any cluster has.
const CONNECTIONS_MAX: usize = 1024;
/// Silence before a node is asked whether it is there, and how long it may take to say so.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(4));
/// Calls and streams at once on one connection. A node uses a handful.
const STREAMS_MAX: u32 = 1024;
/// Largest message: the metadata image travels in one.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a node may take nothing of what is sent to it, or say nothing where it begins: as long as
/// keepalive takes to give it up, which it cannot tell a node that takes nothing.
const SILENCE_MAX: Duration = KEEPALIVE.0.saturating_add(KEEPALIVE.1);

/// An accepted connection; it has its place until it is dropped.
pub type Placed = Connection<Socket>;

/// This node, to those who knock. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    /// Its id.
    pub node: BrokerId,
    /// This run of its process.
    pub incarnation: IncarnationId,
    inside: Arc<OnceLock<Inside>>,
    /// When to end.
    pub shutdown: Shutdown,
}

/// What is behind the door, once this node knows whose it is.
#[derive(Debug)]
pub struct Inside {
    /// Who this node is.
    pub card: Card,
    /// The quorum.
    pub quorum: Arc<ClusterQuorum>,
    /// Where others are; whoever says a hello is noted.
    pub addresses: Arc<Addresses>,
    /// Who is there, while this node leads.
    pub liveness: Mutex<Liveness>,
    /// Somebody was heard.
    pub heard: Notify,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

// === impl Door ===

impl Door {
    /// A door with nothing behind it yet.
    pub fn new(node: BrokerId, incarnation: IncarnationId, shutdown: Shutdown) -> Self {
        Self { node, incarnation, inside: Arc::default(), shutdown }
    }

    /// From now on calls are answered.
    pub fn open(&self, inside: Inside) {
        // A node starts once.
        let _ = self.inside.set(inside);
    }

    /// What is behind it.
    ///
    /// # Errors
    /// This node is not that far yet.
    pub fn inside(&self) -> Result<&Inside, Status> {
        let starting = || Status::unavailable("this node is starting; try again");
        self.inside.get().ok_or_else(starting)
    }
}

impl Inside {
    /// The term in which this node leads the quorum, if it does.
    pub fn term_led(&self) -> Option<u64> {
        let leader = *self.quorum.leader().borrow();
        leader.filter(|leader| leader.node == self.card.voter.node).map(|leader| leader.term)
    }
}

/// What the port between nodes is served with.
#[derive(Debug)]
pub struct Port {
    /// Where others connect.
    pub listener: TcpListener,
    /// How; `None`: without TLS.
    pub security: Option<Security>,
    /// Who answers.
    pub door: Door,
    /// Connections of replicas are handed to it.
    pub bulk: mpsc::Sender<Placed>,
    /// Connections with calls of clients that other brokers pass on.
    pub calls: mpsc::Sender<Placed>,
    /// What becomes of connections.
    pub connections: ConnectionMetrics,
}

/// Serves until the broker stops. The broker's drain does not end it: a node that drains is a voter
/// as before.
/// Its bounds are shown in `bounds` before the future that serves is run.
pub fn serve(port: Port, bounds: &Bounds) -> impl Future<Output = ()> + Send + use<> {
    let Port { listener, security, door, bulk, calls, connections: metrics } = port;
    let places = Places::new("network.internal.connections", CONNECTIONS_MAX, bounds);
    let lanes = lanes::Lanes::new(bulk, calls, bounds);
    let accepted = connections::accept(listener, places, {
        let metrics = metrics.clone();
        move |stream| Responsive::new(stream, SILENCE_MAX, metrics.clone())
    });
    let secured = secure(accepted, security, CONNECTIONS_MAX, ("tls.internal.handshakes", bounds));
    async move {
        let shutdown = door.shutdown.clone();
        let _running = shutdown.register("internal service");
        let incoming = lanes::sort(secured, lanes);
        let incoming = incoming.map(|placed| Ok::<_, io::Error>(begins(placed?, &metrics)));
        let served = server().add_routes(routes(&door)).serve_with_incoming(incoming);
        tokio::select! {
            ended = served => if let Err(error) = ended {
                tracing::error!(%error, "the internal gRPC service ended");
            },
            () = shutdown.stopping() => {}
        }
    }
}

/// Serves replicas on the connections that [`serve`] hands over, until the broker stops. Runs on
/// threads of its own: whatever they have to do, the quorum goes on.
pub async fn serve_replicas(
    connections: mpsc::Receiver<Placed>,
    replication: replication::Replication,
    metrics: ConnectionMetrics,
    shutdown: Shutdown,
) {
    let _running = shutdown.register("replication service");
    let incoming = ReceiverStream::new(connections).map(|mut placed| {
        placed.get_mut().rehome()?;
        Ok::<_, io::Error>(begins(placed, &metrics))
    });
    let served = server().add_service(replication.into_server()).serve_with_incoming(incoming);
    tokio::select! {
        ended = served => if let Err(error) = ended {
            tracing::error!(%error, "the replication service ended");
        },
        () = shutdown.stopping() => {}
    }
}

/// From here on HTTP/2 is expected.
fn begins(placed: Placed, metrics: &ConnectionMetrics) -> Preface<Placed> {
    Preface::new(placed, SILENCE_MAX, metrics.clone())
}

fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(http2::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(http2::CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
}

fn routes(door: &Door) -> Routes {
    let quorum = QuorumServiceServer::new(quorum::Quorum(door.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(usize::MAX);
    Routes::new(quorum).add_service(BrokerServiceServer::new(broker::Broker(door.clone())))
}
