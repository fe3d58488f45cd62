//! Certificates of the ports: read before a port is bound, and kept current until the broker stops.

use std::sync::Arc;

use super::{StartError, blocking};
use crate::{
    config::TlsConfig,
    shutdown::Shutdown,
    telemetry::{PortTlsMetrics, Registry as Metrics, TlsMetrics},
    tls::{Credentials, Security, Sources},
};

/// How the ports are secured; `None`: without TLS.
#[derive(Debug)]
pub(super) struct Secured {
    pub(super) grpc: Option<Security>,
    pub(super) internal: Option<Security>,
}

/// Reads the files that `config` names, and looks at them from then on.
pub(super) async fn load(
    config: &TlsConfig,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Result<Secured, StartError> {
    let (grpc, internal) = (Sources::grpc(config), Sources::internal(config));
    if grpc.is_none() && internal.is_none() {
        return Ok(Secured { grpc: None, internal: None });
    }
    let metrics = TlsMetrics::register(metrics);
    Ok(Secured {
        grpc: port(grpc, metrics.of("grpc"), config, shutdown).await?,
        internal: port(internal, metrics.of("internal"), config, shutdown).await?,
    })
}

async fn port(
    sources: Option<Sources>,
    metrics: PortTlsMetrics,
    config: &TlsConfig,
    shutdown: &Shutdown,
) -> Result<Option<Security>, StartError> {
    let Some(sources) = sources else { return Ok(None) };
    let credentials = blocking(move || Ok(Credentials::load(sources, metrics)?)).await?;
    let credentials = Arc::new(credentials);
    let looking = Arc::clone(&credentials).keep_current(config.reload_interval_ms);
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = looking => {}
            () = shutdown.stopping() => {}
        }
    });
    Ok(Some(Security {
        credentials,
        handshake_timeout: config.handshake_timeout_ms,
        handshakes_max: config.handshakes_max as usize,
    }))
}
