//! TLS: what a port shows of itself, whom it believes, and how both are renewed while in use.
//!
//! | file | what |
//! |---|---|
//! | `files` | PEM files, read and understood |
//! | `credentials` | [`Credentials`]: those in use, and how changed files take their place |
//!
//! TLS 1.2 and 1.3 on the gRPC port, 1.3 alone between nodes; rustls with ring. Certificates are
//! judged when a connection is made: one that expires, or whose CA is taken out of the file, ends no
//! connection that stands. There are no revocation lists: take the CA out, or let certificates live
//! for days.
//!
//! # What a connection between nodes carries
//! TLS itself says it. A node that dials for batches of replicas asks for [`BULK_PROTOCOL`], one that
//! passes on calls of clients for [`CALLS_PROTOCOL`], where it asks for [`HTTP2`] otherwise (ALPN, RFC
//! 7301). So whoever accepts knows it by the end of the handshake, without a byte of payload read or
//! put back. Without TLS the first byte says it.

mod credentials;
mod files;
#[cfg(test)]
pub(crate) mod test_certificates;

use std::{path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;

pub(crate) use credentials::server_name;
pub use credentials::{Credentials, Look};

use crate::config::{ClientAuth, TlsConfig};

/// What gRPC is spoken over.
pub const HTTP2: &[u8] = b"h2";
/// HTTP/2 as well, with batches of replicas.
pub const BULK_PROTOCOL: &[u8] = b"riverrun-bulk";
/// HTTP/2 as well, with clients' calls that another broker passes on.
pub const CALLS_PROTOCOL: &[u8] = b"riverrun-calls";

/// Why certificate files cannot be used. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{} ({key}) {what}", path.display())]
pub struct TlsError {
    /// The configuration key that names the file.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// Whose certificates a port believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// None is asked for.
    Anybody,
    /// Those of this CA; whoever shows none is let in as well.
    Optional(Source),
    /// Those of this CA.
    Required(Source),
}

/// A file, and the key that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The configuration key.
    pub key: &'static str,
    /// Where it is.
    pub path: PathBuf,
}

/// Where a port's credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Of the port, for metrics and log lines.
    pub port: &'static str,
    /// The certificate, then those between it and its CA.
    pub chain: Source,
    /// The private key.
    pub key: Source,
    /// Who may come in.
    pub peers: Peers,
    /// The port is the one between nodes: they dial one another with the same credentials.
    pub between_nodes: bool,
}

/// How a port's connections are secured. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Security {
    /// Shown and believed.
    pub credentials: Arc<Credentials>,
    /// Time for a handshake.
    pub handshake_timeout: Duration,
    /// Handshakes under way at once.
    pub handshakes_max: usize,
}

// === impl Sources ===

impl Sources {
    /// Of the gRPC port; `None`: it has no TLS.
    pub fn grpc(config: &TlsConfig) -> Option<Self> {
        let ca = config.grpc_client_ca_file.as_ref();
        let ca = ca.map(|path| Source { key: "tls.grpc.client.ca.file", path: path.clone() });
        Some(Self {
            port: "grpc",
            chain: Source::of("tls.grpc.cert.file", config.grpc_cert_file.as_ref())?,
            key: Source::of("tls.grpc.key.file", config.grpc_key_file.as_ref())?,
            peers: match (ca, config.grpc_client_auth) {
                (None, _) => Peers::Anybody,
                (Some(ca), ClientAuth::Optional) => Peers::Optional(ca),
                (Some(ca), ClientAuth::Required) => Peers::Required(ca),
            },
            between_nodes: false,
        })
    }

    /// Of the port between nodes; `None`: it has no TLS.
    pub fn internal(config: &TlsConfig) -> Option<Self> {
        let ca = Source::of("tls.internal.ca.file", config.internal_ca_file.as_ref())?;
        Some(Self {
            port: "internal",
            chain: Source::of("tls.internal.cert.file", config.internal_cert_file.as_ref())?,
            key: Source::of("tls.internal.key.file", config.internal_key_file.as_ref())?,
            peers: Peers::Required(ca),
            between_nodes: true,
        })
    }
}

// === impl Source ===

impl Source {
    fn of(key: &'static str, path: Option<&PathBuf>) -> Option<Self> {
        Some(Self { key, path: path?.clone() })
    }

    /// What is wrong with this file.
    fn wrong(&self, what: impl Into<String>) -> TlsError {
        TlsError { key: self.key, path: self.path.clone(), what: what.into() }
    }
}

// === impl Peers ===

impl Peers {
    /// The CA's file.
    pub fn ca(&self) -> Option<&Source> {
        match self {
            Self::Anybody => None,
            Self::Optional(ca) | Self::Required(ca) => Some(ca),
        }
    }
}
