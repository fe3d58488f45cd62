//! A running broker: what is started in which order, and stopped in which.
//!
//! ```text
//!   start: lock the directory → metadata log → register (a new leader epoch for every partition)
//!          → take the clean marker → open the partitions → follow the metadata → serve
//!   stop:  not ready → drain streams and calls → close the ports → close the partitions
//!          → metadata log → clean marker → unlock
//! ```

mod data_directory;
mod embedded;
mod metadata_follower;
mod observe;
mod register;

use std::{io, net::SocketAddr, path::Path, sync::Arc, thread, time::Duration};

use riverrun_proto::ids::BrokerId;
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinHandle};

pub use data_directory::{DataDirectory, DataDirectoryError};
pub use embedded::{Embedded, EmbeddedBuilder};

use crate::{
    clock::{Clock, SystemClock},
    config::{Config, LogConfig},
    controller::{
        Controller, LocalOptions, LocalQuorum, MetaProperties, MetaQuorum, OpenError, ProducerIds,
        QuorumError, topics::TopicPolicy,
    },
    http::{HttpServer, Probes},
    io::real::{MapPolicy, RealDisk},
    log::{LogBudgets, LogEnv, SaltSource},
    partition::{
        IoPool, PartitionEnv, ReadBudget,
        housekeeping::{EXPIRY_INTERVAL, Housekeeping},
        registry::{OpenReport, Registry, RegistryEnv},
    },
    service::{self, ServiceEnv, limits::Limits},
    shutdown::{Phase, Shutdown},
    telemetry::{Bounds, Registry as Metrics, RequestMetrics, StorageMetrics, TopicMetrics},
};

/// Time that parts have to end once they were told to, past the drain.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A broker that serves. Dropped without [`Server::stop`], it leaves everything as a killed process
/// would: safe, and slower to start again.
#[derive(Debug)]
pub struct Server {
    grpc: SocketAddr,
    http: SocketAddr,
    drain: Duration,
    parts: Parts,
    /// Ends by itself once it has drained.
    serving: JoinHandle<()>,
    report: OpenReport,
}

/// What has to be stopped in order.
#[derive(Debug)]
struct Parts {
    shutdown: Shutdown,
    directory: Arc<DataDirectory>,
    quorum: Arc<LocalQuorum>,
    registry: Arc<Registry>,
    pool: IoPool,
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

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Everything was written down: the next start is a quick one.
    pub clean: bool,
    /// What still ran when its time was over, if anything.
    pub cut_off: Option<String>,
}

impl Server {
    /// Starts a broker and returns once it serves. `config` was checked ([`Config::check`]).
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        // Ports first: a taken one must not cost a recovery.
        let listener = TcpListener::bind(config.network.grpc_listen).await.map_err(|source| {
            StartError::Listen {
                address: config.network.grpc_listen,
                key: "network.grpc.listen",
                source,
            }
        })?;
        let grpc = listener.local_addr().map_err(io_error("reading the gRPC port's address"))?;
        let metrics = Metrics::new();
        let shutdown = Shutdown::new();

        let (directory, quorum, identity) = blocking({
            let config = config.clone();
            move || open_metadata(&config)
        })
        .await?;
        let broker_epoch = register::register(&*quorum, &config, identity, grpc).await?;

        let subscription = quorum.subscribe();
        let pool = IoPool::start(io_threads(&config), io_threads(&config))
            .map_err(io_error("starting the I/O threads"))?;
        let budget = config.broker.memory_budget_bytes();
        let read_budget =
            ReadBudget::new(clamp_u32(budget.percent(config.fetch.cold_read_percent).get()));
        let limits = Limits::new(&config, budget);
        let (registry, report) = blocking({
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
                    failure: directory.failure().clone(),
                    pool: pool.clone(),
                    metrics: StorageMetrics::register(&metrics),
                    read_budget: read_budget.clone(),
                    parked_bytes_max: limits.admission_bytes / 4,
                },
                topic_defaults: config.topic.clone(),
                log_settings: config.log.clone(),
                produce_settings: config.produce.clone(),
            };
            let directory = Arc::clone(&directory);
            let image = Arc::clone(subscription.start());
            move || {
                directory.create_data().map_err(io_error("making the partitions' directory"))?;
                let clean =
                    directory.take_clean_marker().map_err(io_error("taking the clean marker"))?;
                Ok(Registry::open(env, &image, clean)?)
            }
        })
        .await?;
        report_opening(&report);

        tokio::spawn(metadata_follower::follow(
            subscription,
            Arc::clone(&registry),
            shutdown.clone(),
        ));
        start_housekeeping(&registry, &clock, &config, &shutdown)?;
        let parts = Parts { shutdown, directory, quorum, registry, pool };
        let bounds = Bounds::register(&metrics);
        observe::watch(&parts, &metrics, &bounds, &config, &clock, read_budget);

        let http = HttpServer::bind(
            &config.network,
            Probes::new(metrics.clone(), observe::readiness(&parts)),
        )
        .await
        .map_err(|source| StartError::Listen {
            address: config.network.http_listen,
            key: "network.http.listen",
            source,
        })?;
        let http_address = http.local_addr();
        tokio::spawn(http.serve(parts.shutdown.clone()));

        let quorum: Arc<dyn MetaQuorum> = Arc::clone(&parts.quorum) as Arc<dyn MetaQuorum>;
        let env = ServiceEnv {
            broker: identity.node,
            cluster: identity.cluster,
            limits,
            network: config.network.clone(),
            auto_create: config.broker.auto_create_topics_enable,
            registry: Arc::clone(&parts.registry),
            producer_ids: ProducerIds::new(Arc::clone(&quorum), identity.node, broker_epoch),
            controller: Controller::new(
                quorum,
                TopicPolicy::new(&config.broker, config.topic.clone()),
            ),
            clock,
            requests: RequestMetrics::register(&metrics),
            topics: TopicMetrics::register(&metrics, config.telemetry.metrics_topic_series_max),
            shutdown: parts.shutdown.clone(),
        };
        let serving = tokio::spawn(async move { service::serve(listener, env, &bounds).await });
        Ok(Self {
            grpc,
            http: http_address,
            drain: config.broker.shutdown_drain_ms,
            parts,
            serving,
            report,
        })
    }

    /// Where clients connect.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where metrics and health are.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// What opening the partitions found.
    pub fn open_report(&self) -> &OpenReport {
        &self.report
    }

    /// Finishes what is in flight, writes everything down, and ends.
    pub async fn stop(self) -> Stopped {
        let Parts { shutdown, directory, quorum, registry, pool } = self.parts;
        shutdown.begin_drain();
        // Calls and streams end by themselves; the other parts end when they are told to.
        let _ = tokio::time::timeout(self.drain, self.serving).await;
        shutdown.stop();
        quorum.shutdown().await;
        let cut_off = shutdown.finished(STOP_GRACE).await.err().map(|still| still.to_string());
        let closed = tokio::task::spawn_blocking(move || {
            directory.release_reserve();
            let clean = registry.close() && directory.mark_clean().is_ok();
            pool.close();
            clean
        });
        Stopped { clean: closed.await.unwrap_or(false), cut_off }
    }
}

type Metadata = (Arc<DataDirectory>, Arc<LocalQuorum>, MetaProperties);

/// The lock, whose directory it is, and the metadata log. Blocks.
fn open_metadata(config: &Config) -> Result<Metadata, StartError> {
    let root: &Path = &config.broker.data_dir;
    let disk = Arc::new(RealDisk::new(MapPolicy::Auto));
    let directory = DataDirectory::open(root, disk, config.log.reserve_bytes.get())?;
    let disk = directory.disk();
    let failure = directory.failure();
    let node = BrokerId(config.broker.node_id);
    let identity = MetaProperties::open_or_format(disk, root, node, None, failure)?;
    let quorum =
        LocalQuorum::open(Arc::clone(disk), root, &identity, failure, LocalOptions::default())?;
    Ok((Arc::new(directory), Arc::new(quorum), identity))
}

fn start_housekeeping(
    registry: &Arc<Registry>,
    clock: &Arc<dyn Clock>,
    config: &Config,
    shutdown: &Shutdown,
) -> Result<(), StartError> {
    let mut housekeeping = Housekeeping::new(
        Arc::clone(registry),
        Arc::clone(clock),
        config.log.flush_dirty_bytes_max.get(),
        config.log.retention_check_interval_ms,
    );
    let running = shutdown.register("housekeeping");
    let shutdown = shutdown.clone();
    thread::Builder::new()
        .name("housekeeping".to_owned())
        .spawn(move || {
            let _running = running;
            while shutdown.phase() < Phase::Stopping {
                housekeeping.tick();
                thread::sleep(EXPIRY_INTERVAL);
            }
        })
        .map_err(io_error("starting the housekeeping thread"))?;
    Ok(())
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
    tokio::task::spawn_blocking(job)
        .await
        .unwrap_or_else(|panic| Err(io_error("starting")(io::Error::other(panic))))
}
