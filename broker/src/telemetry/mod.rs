//! What a running broker says of itself: log lines and metrics.
//!
//! Nothing here is global but the log subscriber, which the process installs once. Metrics live in a
//! [`Registry`] that is made at start and handed to the parts; each part gets a typed struct with
//! methods that say what happened, so that names and labels stand in this directory only.
//!
//! # Names
//! * All begin with `riverrun_`, then the thing (`partition`, `storage`, `memory`, …), then the
//!   quantity, then the unit (`seconds`, `bytes`); counters end in `_total`, as OpenMetrics wants.
//! * Labels: `request` (the call), `reason` (Kafka's error name), `topic`, `partition`, `follower`
//!   (a broker), `pool` (a share of the memory budget), `bound` (the configuration key of a limit),
//!   `port` (`grpc`, `internal`), `outcome`, `cause`.
//! * The number of series is bounded: `topic` and `partition` by configuration, all others by what
//!   the code can name.

mod application;
mod bounds;
mod connections;
mod gauges;
mod logging;
mod partitions;
mod registry;
mod replication;
mod requests;
mod storage;
mod tls;
mod topics;

pub use application::register_application;
pub use bounds::{Bound, Bounds, Usage};
pub use connections::{ConnectionMetrics, GivenUp};
pub use logging::{LoggingError, init_logging};
pub use partitions::{PartitionSample, ReplicasSample, register_partitions};
pub use registry::{CONTENT_TYPE, Registry};
pub use replication::{ClusterSample, FollowerSample, ReplicationMetrics};
pub use requests::{OpenGuard, Request, RequestMetrics};
pub use storage::{DiskSample, LogCounter, StorageMetrics};
pub use tls::{Handshake, PortTlsMetrics, TlsMetrics};
pub use topics::{OTHER_TOPICS, TopicMetrics, TopicTraffic};
