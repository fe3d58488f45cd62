//! gRPC in: `riverrun.v1` over tonic, with health and reflection.
//!
//! Nothing is decided here: a call is decoded, checked, admitted, handed down, and its outcome
//! encoded. Every wait is bounded by the client's deadline or its stream, every byte held by a
//! window, a credit or a budget ([`limits`]):
//!
//! ```text
//!   connections × connection window │ HTTP/2, before anything is looked at
//!   streams × one usual message     │ being received or sent
//!   receive budget                  │ larger messages and many elements, received  receiving.rs
//!   produce budget                  │ batches received and not yet answered    shares.rs
//!     a share of it for a partition │ so that one which hangs leaves the rest
//!   fetch budget                    │ answers larger than a usual message      core.rs
//! ```
//!
//! | file | what |
//! |---|---|
//! | `produce`, `produce_unary`, `produce_stream` | `ProduceService` |
//! | `batch`, `record_batches`, `in_flight` | one batch in; records into batches; what is unanswered |
//! | `consume`, `fetch_unary`, `fetch_stream`, `tail` | `ConsumeService` |
//! | `subscriptions`, `reading`, `read_from`, `decode`, `credit` | what the three readers share |
//! | `forward`, `forward_fetch`, `forward_tail` | what other brokers lead, passed on to them |
//! | `cluster`, `moving` | `ClusterService` |
//! | `partitions` | `PartitionService` |
//! | [`internal`] | the port between nodes |
//! | `metadata`, `admin` | `MetadataService`, `AdminService` |
//! | `convert`, `status` | the only translations between wire and domain |
//! | `core`, `resolve`, `freshness`, `admission`, `shares`, `deadline`, [`limits`] | what all calls share |
//! | [`internal`] | what other brokers ask, on their own port |
//! | `connections`, `handshake`, `socket`, `responsive`, `preface` | connections, before there are calls |
//! | `held`, `receiving`, `counting` | what surrounds calls |

mod admin;
mod admission;
mod batch;
mod cluster;
mod connections;
mod consume;
mod convert;
mod core;
mod counting;
mod credit;
mod deadline;
mod decode;
mod fetch_stream;
mod fetch_unary;
mod forward;
mod forward_fetch;
mod forward_tail;
mod freshness;
mod handshake;
mod held;
mod in_flight;
pub mod internal;
pub mod limits;
mod metadata;
mod moving;
mod nearby;
mod partitions;
mod preface;
mod produce;
mod produce_stream;
mod produce_unary;
mod read_from;
mod reading;
mod receiving;
mod record_batches;
mod resolve;
mod responsive;
mod shares;
mod socket;
mod status;
mod subscriptions;
mod tail;

use std::{fmt, io, sync::Arc};

use riverrun_proto::{
    ids::{BrokerId, ClusterId},
    rpc::{self, v1},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    service::Routes,
    transport::{Server, server::Router},
};
use tonic_health::ServingStatus;
use tonic_reflection::server::Builder as Reflection;
use tower::layer::util::{Identity, Stack};
use v1::{
    admin_service_server::AdminServiceServer, cluster_service_server::ClusterServiceServer,
    consume_service_server::ConsumeServiceServer, metadata_service_server::MetadataServiceServer,
    partition_service_server::PartitionServiceServer, produce_service_server::ProduceServiceServer,
};

pub use self::forward::ToLeaders;
use self::{
    connections::Places, core::Core, handshake::secure, held::AroundCalls, internal::Placed,
    limits::Limits, preface::Preface, responsive::Responsive,
};
use crate::{
    clock::{Clock, WallTrust},
    config::NetworkConfig,
    controller::{Controller, ProducerIds},
    partition::registry::Registry,
    shutdown::Shutdown,
    telemetry::{Bounds, RequestMetrics, TopicMetrics},
    tls::Security,
};

/// Header list of a request: ours have a few hundred bytes.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Streams that a client opened and reset before they were looked at (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 64;

/// The parts of a broker that its gRPC service works with.
pub struct ServiceEnv {
    /// This broker.
    pub broker: BrokerId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Where calls are passed on to; `None`: nowhere.
    pub to_leaders: Option<ToLeaders>,
    /// The bounds of the service.
    pub limits: Limits,
    /// Listener, windows, keepalive.
    pub network: NetworkConfig,
    /// How connections are secured; `None`: without TLS.
    pub security: Option<Security>,
    /// Make a topic when somebody produces to it (`broker.auto.create.topics.enable`).
    pub auto_create: bool,
    /// The partitions of this broker.
    pub registry: Arc<Registry>,
    /// Decides about topics; its quorum has the metadata.
    pub controller: Controller,
    /// Ids for idempotent producers.
    pub producer_ids: ProducerIds,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether its time of day is right, and everybody else's.
    pub wall: WallTrust,
    /// Metrics of calls.
    pub requests: RequestMetrics,
    /// Traffic by topic.
    pub topics: TopicMetrics,
    /// When to drain and when to stop.
    pub shutdown: Shutdown,
}

/// Sets up `riverrun.v1` on `listener`, and on connections that other nodes made to pass calls on; the
/// future that comes out of it serves. By then health says
/// that it serves, and bounds are shown in `bounds`: who calls at once finds all of it.
///
/// From [`Shutdown::draining`] on no connection is accepted and no call taken, streams are told to
/// reconnect, and this ends when the last call has been answered; at [`Shutdown::stopping`] it ends
/// at once.
pub async fn serve(
    listener: TcpListener,
    passed_on: tokio::sync::mpsc::Receiver<Placed>,
    env: ServiceEnv,
    bounds: &Bounds,
) -> impl Future<Output = ()> + Send + use<> {
    let shutdown = env.shutdown.clone();
    let running = shutdown.register("gRPC service");
    let max = env.network.max_connections as usize;
    let places = Places::new("network.max.connections", max, bounds);
    // As long as keepalive takes to give a peer up; it cannot where the peer takes nothing.
    let silence_max = env.network.keepalive_interval_ms + env.network.keepalive_timeout_ms;
    let metrics = env.requests.connections().clone();
    let accepted = connections::accept(listener, places, {
        let metrics = metrics.clone();
        move |stream| Responsive::new(stream, silence_max, metrics.clone())
    });
    let secured = secure(accepted, env.security.clone(), max, ("tls.handshakes.max", bounds));
    let passed_on = tokio_stream::StreamExt::map(ReceiverStream::new(passed_on), |mut placed| {
        placed.get_mut().rehome()?;
        Ok::<_, io::Error>(placed)
    });
    let all = futures::stream::select(secured, passed_on);
    let connections = futures::StreamExt::map(all, move |connection| {
        Ok::<_, io::Error>(Preface::new(connection?, silence_max, metrics.clone()))
    });
    let router = router(env, bounds).await;
    async move {
        let _running = running;
        let draining = shutdown.clone();
        let drained = router
            .serve_with_incoming_shutdown(connections, async move { draining.draining().await });
        tokio::select! {
            ended = drained => if let Err(error) = ended {
                tracing::error!(%error, "the gRPC service ended");
            },
            () = shutdown.stopping() => {}
        }
    }
}

/// All services behind their layers, and the HTTP/2 settings: large frames and windows, without
/// which two thirds of the throughput are lost (measured).
async fn router(env: ServiceEnv, bounds: &Bounds) -> Router<Stack<AroundCalls, Identity>> {
    let network = env.network.clone();
    let bytes = |size: crate::config::ByteSize| u32::try_from(size.get()).unwrap_or(u32::MAX);
    let core = Arc::new(Core::new(env, bounds));
    let routes = routes(&core).await;
    Server::builder()
        .initial_stream_window_size(bytes(network.http2_stream_window_bytes))
        .initial_connection_window_size(bytes(network.http2_connection_window_bytes))
        .max_frame_size(bytes(network.http2_max_frame_bytes))
        .max_concurrent_streams(network.http2_max_concurrent_streams)
        .http2_keepalive_interval(Some(network.keepalive_interval_ms))
        .http2_keepalive_timeout(Some(network.keepalive_timeout_ms))
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .layer(AroundCalls::new(core))
        .add_routes(routes)
}

async fn routes(core: &Arc<Core>) -> Routes {
    let (data, control) = {
        let limits = &core.limits;
        (limits.data_request_bytes_max, limits.control_request_bytes_max)
    };
    // What we send is bounded by what was asked for; one batch may be larger than any default.
    let produce = ProduceServiceServer::new(produce::Produce(Arc::clone(core)))
        .max_decoding_message_size(data)
        .max_encoding_message_size(usize::MAX);
    let consume = ConsumeServiceServer::new(consume::Consume(Arc::clone(core)))
        .max_decoding_message_size(control)
        .max_encoding_message_size(usize::MAX);
    let metadata = MetadataServiceServer::new(metadata::Metadata(Arc::clone(core)))
        .max_decoding_message_size(control)
        .max_encoding_message_size(usize::MAX);
    let admin = AdminServiceServer::new(admin::Admin(Arc::clone(core)))
        .max_decoding_message_size(control)
        .max_encoding_message_size(usize::MAX);
    let cluster = ClusterServiceServer::new(cluster::Cluster(Arc::clone(core)))
        .max_decoding_message_size(control)
        .max_encoding_message_size(usize::MAX);
    let partitions = PartitionServiceServer::new(partitions::Partitions(Arc::clone(core)))
        .max_decoding_message_size(control)
        .max_encoding_message_size(usize::MAX);
    let reflection = || {
        Reflection::configure()
            .register_encoded_file_descriptor_set(rpc::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ProduceServiceServer<produce::Produce>>().await;
    health.set_serving::<ConsumeServiceServer<consume::Consume>>().await;
    health.set_serving::<MetadataServiceServer<metadata::Metadata>>().await;
    health.set_serving::<AdminServiceServer<admin::Admin>>().await;
    health.set_serving::<ClusterServiceServer<cluster::Cluster>>().await;
    health.set_serving::<PartitionServiceServer<partitions::Partitions>>().await;
    let shutdown = core.shutdown.clone();
    tokio::spawn(async move {
        shutdown.draining().await;
        health.set_service_status("", ServingStatus::NotServing).await;
        health.set_not_serving::<ProduceServiceServer<produce::Produce>>().await;
        health.set_not_serving::<ConsumeServiceServer<consume::Consume>>().await;
    });
    Routes::new(health_service)
        .add_service(reflection().build_v1().expect("our own descriptors are valid"))
        .add_service(reflection().build_v1alpha().expect("our own descriptors are valid"))
        .add_service(produce)
        .add_service(consume)
        .add_service(metadata)
        .add_service(admin)
        .add_service(cluster)
        .add_service(partitions)
}

impl fmt::Debug for ServiceEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceEnv").field("broker", &self.broker).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod admin_test;
#[cfg(test)]
mod drain_test;
#[cfg(test)]
mod fetch_stream_test;
#[cfg(test)]
mod fetch_unary_test;
#[cfg(test)]
mod hanging_test;
#[cfg(test)]
mod metadata_test;
#[cfg(test)]
mod produce_stream_test;
#[cfg(test)]
mod produce_unary_test;
#[cfg(test)]
mod surroundings_test;
#[cfg(test)]
mod tail_test;
#[cfg(test)]
mod test_support;
