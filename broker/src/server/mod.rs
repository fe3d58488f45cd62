//! A running broker: what is started in which order, and stopped in which.
//!
//! ```text
//!   start: bind the ports → lock the directory → find and join the cluster → metadata log → register
//!          (a new leader epoch for every partition) → take the clean marker → open the partitions
//!          → follow the metadata → say so to the cluster, be taken in → serve → ready
//!   stop:  not ready → ask for leave, hand over what is led → drain streams and calls → close the ports → close the partitions
//!          → metadata log → clean marker → unlock
//! ```
//! A start that fails, or is given up, stops what it had started, in the same order ([`parts`]).

mod data_directory;
mod embedded;
mod keeper;
mod last_run;
mod leaders;
mod machine;
mod membership;
mod metadata_follower;
mod observe;
mod parts;
mod presence;
mod readiness;
mod register;
mod replication;
mod runtimes;
mod security;
mod space;

use std::{io, net::SocketAddr, path::Path, sync::Arc, thread, time::Duration};

use tempfile::TempDir;
use thiserror::Error;
use tokio::{net::TcpListener, sync::mpsc, task::JoinError};

use self::{
    keeper::Keeper, membership::Membership, observe::Watched, parts::Parts, presence::OwnPresence,
    readiness::Stage, register::Logs, replication::Replicas, runtimes::Threads, space::SpaceGuard,
};

pub use data_directory::{DataDirectory, DataDirectoryError};
pub use embedded::{Embedded, EmbeddedBuilder};
pub use parts::Stopped;

use crate::{
    clock::{Clock, SystemClock, WallTrust},
    config::{ByteSize, Config, LogConfig},
    controller::{
        Controller, MetaQuorum, OpenError, ProducerIds, QuorumError, topics::TopicPolicy,
    },
    http::{HttpServer, Probes},
    io::real::{DiskBounds, MapPolicy, RealDisk},
    log::{LogBudgets, LogEnv, SaltSource},
    partition::{
        IoPool, ParkedLimit, PartitionEnv, ReadBudget, WriteGate,
        registry::{OpenReport, Registry, RegistryEnv},
    },
    service::{self, ServiceEnv, limits::Limits},
    telemetry::{
        Bounds, ConnectionMetrics, Registry as Metrics, ReplicationMetrics, RequestMetrics,
        StorageMetrics, TopicMetrics,
    },
    tls::TlsError,
};

/// A broker that serves. Dropped without [`Server::stop`] it stops in the background: calls under
/// way are cut off, ports, threads and the directory's lock are given back soon, not at once.
#[derive(Debug)]
pub struct Server {
    grpc: SocketAddr,
    http: SocketAddr,
    internal: SocketAddr,
    drain: Duration,
    report: OpenReport,
    parts: Parts,
}

/// Why a broker does not start. Nothing was changed but what an interrupted start may change.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DataDirectoryError),
    /// The metadata log cannot be used.
    #[error(transparent)]
    Metadata(#[from] OpenError),
    /// Certificate files cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The cluster does not take this node as it is.
    #[error("this node cannot join the cluster: {0}")]
    Join(#[from] crate::peer::cluster::Refused),
    /// The broker could not register with its own metadata log.
    #[error("registering with the metadata log failed: {0}")]
    Register(#[from] QuorumError),
    /// The partitions' directory cannot be read.
    #[error(transparent)]
    Partitions(#[from] crate::partition::registry::OpenError),
    /// A port is taken, or the address is not this machine's.
    #[error("cannot listen on {address} ({key}): {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The configuration key that says so.
        key: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Threads, sockets, the clean marker.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl Server {
    /// Starts a broker and returns once it serves. `config` was checked ([`Config::check`]).
    ///
    /// Cancel safe: dropped, what was started ends in the background.
    ///
    /// # Errors
    /// Whatever had been started has ended again: ports, threads, the directory's lock.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_by(config, Arc::new(SystemClock)).await
    }

    /// As [`Server::start`], by another clock than the machine's.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_by(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        machine::prepare();
        machine::complain(&config);
        Self::start_holding(config, clock, None).await
    }

    /// As [`Server::start`], inside another program, whose machine is not ours to complain about;
    /// `dir`, which holds the data, is removed once the broker has stopped.
    pub(crate) async fn start_in(config: Config, dir: Option<TempDir>) -> Result<Self, StartError> {
        machine::prepare();
        Self::start_holding(config, Arc::new(SystemClock), dir).await
    }

    async fn start_holding(
        config: Config,
        clock: Arc<dyn Clock>,
        dir: Option<TempDir>,
    ) -> Result<Self, StartError> {
        let mut parts = Parts::new(dir);
        match Self::start_parts(config, clock, &mut parts).await {
            Ok(Started { grpc, http, internal, report, drain }) => {
                Ok(Self { grpc, http, internal, report, drain, parts })
            }
            Err(error) => {
                parts.stop(Duration::ZERO).await;
                Err(error)
            }
        }
    }

    async fn start_parts(
        config: Config,
        clock: Arc<dyn Clock>,
        parts: &mut Parts,
    ) -> Result<Started, StartError> {
        let wall = WallTrust::within(config.broker.clock_offset_max_ms);
        let (metrics, shutdown) = (Metrics::new(), parts.shutdown.clone());
        let bounds = Bounds::register(&metrics);

        let secured = security::load(&config.tls, &metrics, &shutdown).await?;
        // Ports first: a taken one must not cost a recovery.
        let listener = listen(config.network.grpc_listen, "network.grpc.listen").await?;
        let grpc = listener.local_addr().map_err(io_error("reading the gRPC port's address"))?;
        let control = parts.control.insert(Threads::control()?);
        let internal =
            control.listen(config.network.internal_listen, "network.internal.listen").await?;
        let internal_address =
            internal.local_addr().map_err(io_error("reading the internal port's address"))?;
        let door = membership::door(&config, shutdown.clone());
        let control = control.handle();
        let (bulk, replicas) = mpsc::channel(service::internal::WAITING_MAX);
        let (calls, passed_on) = mpsc::channel(service::internal::WAITING_MAX);
        let nodes = ConnectionMetrics::register_internal(&metrics);
        let port = service::internal::Port {
            listener: internal,
            security: secured.internal.clone(),
            door: door.clone(),
            bulk,
            calls,
            connections: nodes.clone(),
        };
        control.spawn(service::internal::serve(port, &bounds));
        let stage = Stage::new(shutdown.clone(), wall.clone());
        let probes = Probes::new(metrics.clone(), {
            let stage = stage.clone();
            move || stage.readiness()
        });
        let http = HttpServer::bind(&config.network, probes).await.map_err(|source| {
            let (address, key) = (config.network.http_listen, "network.http.listen");
            StartError::Listen { address, key, source }
        })?;
        let http_address = http.local_addr();
        tokio::spawn(http.serve(shutdown.clone()));

        let budget = config.broker.memory_budget_bytes();
        let cold_reads = budget.percent(config.fetch.cold_read_percent);
        let disk_bounds = disk_bounds(&config.log, cold_reads);
        let disk = RealDisk::with_bounds(MapPolicy::Auto, disk_bounds);
        let directory = blocking({
            let (config, disk) = (config.clone(), disk.clone());
            move || open_directory(&config, disk)
        })
        .await?;
        let directory = Arc::clone(parts.directory.insert(directory));
        let newcomer = membership::newcomer(
            &config,
            door,
            internal_address,
            secured.internal.as_ref(),
            control.clone(),
            Arc::clone(&clock),
        );
        let member = newcomer.join(&config, &directory, parts).await?;
        let Membership { identity, card, quorum, transport, .. } = &member;
        let (identity, quorum) = (*identity, Arc::clone(quorum));
        let listeners = register::Listeners { grpc, internal: internal_address };
        let logs = blocking({
            let directory = Arc::clone(&directory);
            move || {
                let looking = io_error("looking for the clean marker");
                let stopped_clean = directory.has_clean_marker().map_err(looking)?;
                Ok(Logs { stopped_clean, survived: last_run::survived(directory.root()) })
            }
        })
        .await?;
        let broker_epoch =
            register::register(&*quorum, &config, &identity, card.incarnation, listeners, logs)
                .await?;
        let presence =
            OwnPresence::begin(&member, broker_epoch, &config, (&clock, &wall, &shutdown))?;
        parts.presence = Some(presence.clone());

        let threads = parts.replication.insert(Threads::replication()?).handle();
        let replication = Replicas::new(&member, broker_epoch, &config.replica, &shutdown, threads);

        let limits = Limits::new(&config, budget);
        let cold_reads = cold_reads.get().saturating_sub(disk_bounds.buffer_bytes as u64);
        let env = RegistryEnv {
            me: identity.node,
            dir: directory.data(),
            log: LogEnv::new(
                Arc::clone(directory.disk()),
                directory.failure().clone(),
                SaltSource::random(),
                log_budgets(&config.log),
            ),
            partition: PartitionEnv {
                clock: Arc::clone(&clock),
                wall: wall.clone(),
                failure: directory.failure().clone(),
                gate: WriteGate::default(),
                pool: IoPool::start(io_threads(&config), io_threads(&config))
                    .map_err(io_error("starting the I/O threads"))?,
                metrics: StorageMetrics::register(&metrics),
                read_budget: ReadBudget::new(clamp_u32(cold_reads)),
                parked: ParkedLimit::new(limits.parked_bytes_max),
                replication: replication.to_partitions(
                    &config.replica,
                    ReplicationMetrics::register(&metrics),
                    presence.lease().clone(),
                ),
            },
            topic_defaults: config.topic.clone(),
            log_settings: config.log.clone(),
            produce_settings: config.produce.clone(),
        };
        let subscription = quorum.subscribe();
        let (registry, report) = blocking({
            let (directory, env) = (Arc::clone(&directory), env.clone());
            let (image, shutdown) = (Arc::clone(subscription.start()), shutdown.clone());
            let opening = shutdown.register(parts::OPENING);
            move || {
                let _opening = opening;
                if let Err(error) = last_run::note(directory.root(), broker_epoch) {
                    tracing::warn!(%error, "this run is not noted: killed, it counts as one that lost records");
                }
                directory.create_data().map_err(io_error("making the partitions' directory"))?;
                let clean =
                    directory.take_clean_marker().map_err(io_error("taking the clean marker"))?;
                Ok(Registry::open_unless(env, &image, clean, || shutdown.is_draining())?)
            }
        })
        .await?;
        let registry = Arc::clone(parts.registry.insert(registry));
        report_opening(&report);
        replication.begin(&member, &registry, (replicas, nodes), &control);

        tokio::spawn(metadata_follower::follow(
            subscription,
            Arc::clone(&registry),
            shutdown.clone(),
            presence.clone(),
        ));
        let space = SpaceGuard::new(
            Arc::clone(&directory),
            env.partition.gate.clone(),
            registry.counters(),
        );
        let full = space.full();
        let keeper = Keeper {
            registry: Arc::clone(&registry),
            space,
            disk: disk.clone(),
            clock: clock.clone(),
            lease: presence.lease().clone(),
        };
        parts.keeper = Some(keeper.start(&config, &shutdown)?);
        let watched = Watched {
            directory: &directory,
            disk: &disk,
            full,
            quorum: quorum.here(),
            transport,
            registry: &registry,
            env: &env,
        };
        observe::watch(&watched, &metrics, &bounds, &config, &clock);

        presence.taken_in().await;
        let quorum: Arc<dyn MetaQuorum> = quorum;
        let env = ServiceEnv {
            broker: identity.node,
            to_leaders: Some(service::ToLeaders {
                locate: member.locate.clone(),
                dialler: member.dialler.clone(),
            }),
            cluster: identity.cluster,
            limits,
            network: config.network.clone(),
            security: secured.grpc,
            auto_create: config.broker.auto_create_topics_enable,
            registry: Arc::clone(&registry),
            producer_ids: ProducerIds::new(Arc::clone(&quorum), identity.node, broker_epoch),
            controller: Controller::new(
                quorum,
                TopicPolicy::new(&config.broker, config.topic.clone()),
            ),
            clock,
            wall,
            requests: RequestMetrics::register(&metrics),
            topics: TopicMetrics::register(&metrics, config.telemetry.metrics_topic_series_max),
            shutdown,
        };
        let serving = tokio::spawn(service::serve(listener, passed_on, env, &bounds).await);
        stage.serves(Arc::clone(&directory), registry, serving.abort_handle(), presence);
        parts.serving = Some(serving);
        let drain = config.broker.shutdown_drain_ms;
        Ok(Started { grpc, http: http_address, internal: internal_address, report, drain })
    }

    /// Where clients connect.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where metrics and health are.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where other nodes connect.
    pub fn internal_address(&self) -> SocketAddr {
        self.internal
    }

    /// What opening the partitions found.
    pub fn open_report(&self) -> &OpenReport {
        &self.report
    }

    /// Waits until this broker cannot go on, and says why: it does not carry out metadata changes any
    /// more. Cancel safe. Call [`Server::stop`] then; another start may do better.
    pub async fn cannot_go_on(&self) -> Arc<str> {
        match &self.parts.registry {
            Some(registry) => registry.end_of_applying().await,
            None => std::future::pending().await,
        }
    }

    /// Finishes what is in flight, writes everything down, and ends.
    ///
    /// Dropped on the way, the rest is done in the background.
    pub async fn stop(mut self) -> Stopped {
        self.parts.stop(self.drain).await
    }
}

/// What a start comes to.
struct Started {
    grpc: SocketAddr,
    http: SocketAddr,
    internal: SocketAddr,
    report: OpenReport,
    drain: Duration,
}

async fn listen(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| StartError::Listen { address, key, source })
}

/// The directory, locked. Blocks.
fn open_directory(config: &Config, disk: RealDisk) -> Result<Arc<DataDirectory>, StartError> {
    let root: &Path = &config.broker.data_dir;
    let shared = Arc::new(disk.clone());
    let directory = DataDirectory::open(root, shared, config.log.reserve_bytes.get())?;
    machine::report_mapping(&disk, config);
    Ok(Arc::new(directory))
}

fn report_opening(report: &OpenReport) {
    let OpenReport { opened, scanned_bytes, torn, damaged, set_aside, failed } = report;
    tracing::info!(
        opened,
        scanned_bytes,
        torn,
        damaged = damaged.len(),
        set_aside = set_aside.len(),
        failed = failed.len(),
        "partitions opened"
    );
    for (partition, damage) in damaged {
        tracing::error!(%partition, %damage, "partition takes no appends");
    }
    for (partition, why) in failed {
        tracing::error!(%partition, %why, "partition not opened; it answers KAFKA_STORAGE_ERROR, the others serve");
    }
}

/// A sealed segment that is kept open has a map: one bound for both. Of what cold reads may hold, a
/// quarter at most is buffers between two of them.
fn disk_bounds(log: &LogConfig, cold_reads: ByteSize) -> DiskBounds {
    let bounds = DiskBounds::default();
    DiskBounds {
        sealed_maps: log.open_segments_max as usize,
        buffer_bytes: bounds.buffer_bytes.min(cold_reads.as_usize() / 4),
        ..bounds
    }
}

fn log_budgets(log: &LogConfig) -> LogBudgets {
    LogBudgets {
        window_bytes: log.window_budget_bytes.get(),
        open_segments: log.open_segments_max as usize,
        index_bytes: log.open_indexes_bytes.as_usize(),
    }
}

/// Four threads per core and at least eight: they wait for disks, not for cores.
fn io_threads(config: &Config) -> usize {
    match config.log.io_threads {
        0 => thread::available_parallelism().map_or(2, usize::from).saturating_mul(4).max(8),
        threads => threads as usize,
    }
}

fn clamp_u32(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(job).await.unwrap_or_else(|panic| Err(panicked(panic)))
}

fn panicked(panic: JoinError) -> StartError {
    io_error("starting")(io::Error::other(panic))
}
