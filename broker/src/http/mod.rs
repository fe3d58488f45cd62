//! The HTTP port: what people, load balancers and Prometheus ask of a broker.
//!
//! | path | answers |
//! |---|---|
//! | `/metrics` | OpenMetrics text |
//! | `/healthz` | 200 while the process works at all: restart it otherwise |
//! | `/readyz` | 200 when it takes requests, 503 with the reason when it does not (recovering, draining, failed disk): send no traffic, do not restart |
//!
//! It stays up while the broker drains, so that the reason can be seen, and closes when it stops.

mod server;

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use crate::telemetry::{CONTENT_TYPE, Registry};

pub use server::HttpServer;

/// Whether a broker takes requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not, and why, for people.
    NotReady(String),
}

/// What the HTTP port shows. Cheap to clone.
#[derive(Clone)]
pub struct Probes {
    registry: Registry,
    readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
}

impl Probes {
    /// `readiness` is asked at every call of `/readyz`; it must not block.
    pub fn new(
        registry: Registry,
        readiness: impl Fn() -> Readiness + Send + Sync + 'static,
    ) -> Self {
        Self { registry, readiness: Arc::new(readiness) }
    }

    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(self)
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Collectors read offsets and file system sizes of every partition: not on a network thread.
async fn metrics(State(probes): State<Probes>) -> Response {
    match tokio::task::spawn_blocking(move || probes.registry.encode()).await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(panic) => (StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()).into_response(),
    }
}

async fn healthz() -> Response {
    json(StatusCode::OK, &Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

async fn readyz(State(probes): State<Probes>) -> Response {
    match (probes.readiness)() {
        Readiness::Ready => json(StatusCode::OK, &Ready { ready: true, reason: None }),
        Readiness::NotReady(reason) => {
            let body = Ready { ready: false, reason: Some(reason) };
            json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_string(body).expect("plain structs of texts and flags");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
#[path = "http_test.rs"]
mod tests;
