//! Serves the HTTP port with every connection bounded: how many, how long a request's head may
//! take, how long a connection may last. A peer that sends or reads slowly costs one place for a
//! while, never the port.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::Probes;
use crate::{config::NetworkConfig, shutdown::Shutdown};

/// A connection older than this is closed after the answer under way: whoever scrapes for longer
/// reconnects, whoever just holds it makes room.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);

/// Time for the answer under way when a connection is to close.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// Pause after a failed accept: out of file handles, most likely, which a busy loop does not help.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The HTTP port, bound and not yet served.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    probes: Probes,
    max_connections: usize,
    header_timeout: Duration,
}

impl HttpServer {
    /// Binds `network.http.listen`.
    ///
    /// # Errors
    /// If the address cannot be bound; the error names it.
    pub async fn bind(network: &NetworkConfig, probes: Probes) -> io::Result<Self> {
        let wanted = network.http_listen;
        let named = |e: io::Error| {
            io::Error::new(
                e.kind(),
                format!("cannot listen on {wanted} (network.http.listen): {e}"),
            )
        };
        let listener = TcpListener::bind(wanted).await.map_err(named)?;
        let address = listener.local_addr()?;
        Ok(Self {
            listener,
            address,
            probes,
            max_connections: usize::try_from(network.http_max_connections).unwrap_or(usize::MAX),
            header_timeout: network.http_header_timeout_ms,
        })
    }

    /// Where it listens; tells the port where the configuration said 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` stops, then lets answers under way finish, for a moment.
    pub async fn serve(self, shutdown: Shutdown) {
        let _running = shutdown.register("HTTP port");
        let router = self.probes.router();
        let places = Arc::new(Semaphore::new(self.max_connections.min(Semaphore::MAX_PERMITS)));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.stopping() => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.listener, &places) => accepted,
            };
            let (stream, place) = accepted;
            let router = router.clone();
            let shutdown = shutdown.clone();
            connections.spawn(async move {
                serve_connection(stream, router, self.header_timeout, &shutdown).await;
                drop(place);
            });
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

/// The next connection, once there is a place for it. Cancel safe.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("this semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept an HTTP connection");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    header_timeout: Duration,
    shutdown: &Shutdown,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        // A peer that went away or sent garbage is not worth a log line.
        _ = connection.as_mut() => return,
        () = shutdown.stopping() => {}
        () = sleep(CONNECTION_AGE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(CLOSE_GRACE, connection).await;
}
