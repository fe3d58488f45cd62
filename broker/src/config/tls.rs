//! `[tls]`: certificates of the ports, and whose certificates they believe.

use std::{path::PathBuf, time::Duration};

use super::{
    section::section,
    value::{Value, words},
};

/// What a client of the gRPC port has to show, where `tls.grpc.client.ca.file` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// A certificate of that CA.
    #[default]
    Required,
    /// One of that CA, or none.
    Optional,
}

words!(ClientAuth { "required" => Required, "optional" => Optional });

section! {
    /// Certificates of the ports, as PEM files that are read again when they change.
    pub struct TlsConfig in "tls";

    /// Certificate of the gRPC port, followed by those between it and its CA. It has to name what
    /// clients dial (network.advertised.host). Set: the port speaks TLS only. Empty: no TLS.
    "grpc.cert.file" => grpc_cert_file: Option<PathBuf> = None;

    /// Its private key (PKCS #8, SEC 1 or PKCS #1), not encrypted; readable by the broker alone.
    "grpc.key.file" => grpc_key_file: Option<PathBuf> = None;

    /// Certificates of the CAs whose clients may connect to the gRPC port (mTLS). Empty: clients
    /// show no certificate, so that everybody who reaches the port may do everything.
    "grpc.client.ca.file" => grpc_client_ca_file: Option<PathBuf> = None;

    /// Whether a client has to show a certificate (Kafka's ssl.client.auth). optional is for the
    /// time in which clients get theirs: whoever shows none is let in too. Without a CA it means
    /// nothing.
    "grpc.client.auth" => grpc_client_auth: ClientAuth = ClientAuth::Required;

    /// Certificate of this node for the port between nodes, which it shows to those that it dials as
    /// well. It has to name what other nodes dial (network.internal.advertised.host), and to be
    /// good for server and client. Set: the port speaks TLS only, so all nodes of a cluster change
    /// at once. Empty: no TLS.
    "internal.cert.file" => internal_cert_file: Option<PathBuf> = None;

    /// Its private key, not encrypted; readable by the broker alone.
    "internal.key.file" => internal_key_file: Option<PathBuf> = None;

    /// Certificates of the cluster's CAs. Whoever has a certificate of one of them is believed to be
    /// a node: give the cluster a CA that signs for nothing else.
    "internal.ca.file" => internal_ca_file: Option<PathBuf> = None;

    /// How often the files are looked at. A change counts for connections made from then on; those
    /// that stand go on. Files that are broken change nothing: what was in use stays in use, and
    /// riverrun_tls_files_broken says so.
    "reload.interval.ms" => reload_interval_ms: Duration = Duration::from_secs(10),
        in Duration::from_millis(100) => Duration::from_secs(3600);

    /// Time for a TLS handshake; a connection that takes longer is closed.
    "handshake.timeout.ms" => handshake_timeout_ms: Duration = Duration::from_secs(10),
        in Duration::from_millis(100) => Duration::from_secs(60);

    /// TLS handshakes under way at once on a port; more wait their turn. They cost processor time
    /// before anybody has said who he is.
    "handshakes.max" => handshakes_max: u32 = 256, in 1 => 100_000;
}

// === impl TlsConfig ===

impl TlsConfig {
    /// The gRPC port lets nobody in who has no certificate.
    pub fn grpc_asks_for_certificates(&self) -> bool {
        self.grpc_cert_file.is_some()
            && self.grpc_client_ca_file.is_some()
            && self.grpc_client_auth == ClientAuth::Required
    }

    /// The port between nodes lets nobody in but nodes.
    pub fn internal_asks_for_certificates(&self) -> bool {
        self.internal_cert_file.is_some() && self.internal_ca_file.is_some()
    }
}
