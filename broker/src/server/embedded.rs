//! A whole broker inside another program: for tests of those who use it, and for `riverrun dev`.

use std::{net::SocketAddr, path::PathBuf};

use tempfile::TempDir;

use super::{Server, StartError, Stopped};
use crate::config::{ByteSize, Config};

/// A broker in this process, on free ports of loopback, on a temporary directory unless told
/// otherwise. It is a real one: gRPC over TCP, real files, default durability.
///
/// Stop it with [`Embedded::stop`]. Dropped instead, it stops in the background: calls under way are
/// cut off, ports, threads, the directory's lock and a temporary directory are given back soon, not
/// at once.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let broker = riverrun_broker::Embedded::start().await?;
/// println!("listening on {}", broker.address());
/// broker.stop().await;
/// # Ok::<(), riverrun_broker::server::StartError>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Embedded {
    server: Server,
}

/// Settings of an [`Embedded`] broker.
#[derive(Debug, Clone)]
pub struct EmbeddedBuilder {
    config: Config,
    data_dir: Option<PathBuf>,
}

impl Embedded {
    /// Starts a broker with everything default: topics come into being when somebody produces to
    /// them.
    ///
    /// # Errors
    /// If this machine gives no directory, port or thread.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// Settings first.
    pub fn builder() -> EmbeddedBuilder {
        let mut config = Config::default();
        config.broker.auto_create_topics_enable = true;
        let network = &mut config.network;
        for address in
            [&mut network.grpc_listen, &mut network.http_listen, &mut network.internal_listen]
        {
            address.set_port(0);
        }
        EmbeddedBuilder { config, data_dir: None }
    }

    /// Where clients connect, as `host:port`.
    pub fn address(&self) -> String {
        self.server.grpc_address().to_string()
    }

    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub fn http_address(&self) -> SocketAddr {
        self.server.http_address()
    }

    /// Stops in order; a directory that was given is left ready for a quick start.
    pub async fn stop(self) -> Stopped {
        self.server.stop().await
    }
}

impl EmbeddedBuilder {
    /// Keeps the data here, over restarts.
    #[must_use]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Changes the configuration; see `deploy/CONFIGURATION.md` for the keys.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts it. Returns once it serves.
    ///
    /// # Errors
    /// If the directory is another broker's or cannot be used, or a port is taken.
    pub async fn start(self) -> Result<Embedded, StartError> {
        let Self { mut config, data_dir } = self;
        let dir = match data_dir {
            Some(dir) => {
                config.broker.data_dir = dir;
                None
            }
            None => {
                let dir =
                    temporary_dir().map_err(super::io_error("making a temporary directory"))?;
                dir.path().clone_into(&mut config.broker.data_dir);
                // What is in it need not outlive a full disk, and it may lie in memory.
                config.log.reserve_bytes = ByteSize::bytes(0);
                Some(dir)
            }
        };
        Ok(Embedded { server: Server::start_in(config, dir).await? })
    }
}

fn temporary_dir() -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix("riverrun-").tempdir()
}
