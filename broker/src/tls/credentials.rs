//! The credentials of a port, and how changed files take their place.
//!
//! Files are looked at by the clock, for that works wherever they come from: written over, renamed
//! into place, or behind a symlink that moves (Kubernetes). A certificate and its key are two files;
//! whoever looks between the two writes finds a pair that does not fit, keeps what he has, and looks
//! again. Broken files never take away what is in use.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, InconsistentKeys, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::time::{MissedTickBehavior, interval};

use super::{BULK_PROTOCOL, CALLS_PROTOCOL, HTTP2, Peers, Sources, TlsError, files::Contents};
use crate::telemetry::PortTlsMetrics;

/// What a port shows of itself and whom it believes.
pub struct Credentials {
    sources: Sources,
    current: ArcSwap<Loaded>,
    /// What was wrong with the files when they were last looked at.
    wrong: Mutex<Option<TlsError>>,
    metrics: PortTlsMetrics,
}

/// What came of a look at the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// They are what is in use.
    Same,
    /// They are in use from now on.
    Renewed,
    /// They are broken; what was in use stays.
    Broken(TlsError),
}

struct Loaded {
    contents: Contents,
    server: Arc<ServerConfig>,
    /// To dial other nodes, by what is asked for; none where the port is not between nodes.
    dialling: Vec<Arc<ClientConfig>>,
}

// === impl Credentials ===

impl Credentials {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn load(sources: Sources, metrics: PortTlsMetrics) -> Result<Self, TlsError> {
        let loaded = Loaded::of(&sources, Contents::read(&sources)?)?;
        let current = ArcSwap::from_pointee(loaded);
        Ok(Self { sources, current, wrong: Mutex::default(), metrics })
    }

    /// For connections that come in from now on.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().server)
    }

    /// To dial another node and ask it for `protocol`; `None` where the port is not the one between
    /// nodes.
    pub fn to_dial(&self, protocol: &[u8]) -> Option<Arc<ClientConfig>> {
        let current = self.current.load();
        let mut all = current.dialling.iter();
        all.find(|config| config.alpn_protocols[..] == [protocol]).cloned()
    }

    /// Of the port.
    pub fn metrics(&self) -> &PortTlsMetrics {
        &self.metrics
    }

    /// Looks whether the files have changed, and takes them over if they are whole. Blocks.
    pub fn look(&self) -> Look {
        let read = Contents::read(&self.sources);
        if read.as_ref().is_ok_and(|contents| *contents == self.current.load().contents) {
            if self.wrong.lock().take().is_some() {
                self.metrics.observe_unbroken();
            }
            return Look::Same;
        }
        let port = self.sources.port;
        match read.and_then(|contents| Loaded::of(&self.sources, contents)) {
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                *self.wrong.lock() = None;
                self.metrics.observe_renewed();
                tracing::info!(port, "certificate files have changed; new connections use them");
                Look::Renewed
            }
            Err(error) => {
                let before = self.wrong.lock().replace(error.clone());
                // Said and counted once, not with every look.
                if before.as_ref() != Some(&error) {
                    self.metrics.observe_kept();
                    tracing::error!(port, %error, "changed certificate files are broken; the old ones stay in use");
                }
                Look::Broken(error)
            }
        }
    }

    /// Looks every so often, for as long as it is polled.
    pub async fn keep_current(self: Arc<Self>, every: Duration) {
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let me = Arc::clone(&self);
            // One that panics has changed nothing.
            let _ = tokio::task::spawn_blocking(move || me.look()).await;
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("sources", &self.sources).finish_non_exhaustive()
    }
}

// === impl Loaded ===

impl Loaded {
    fn of(sources: &Sources, contents: Contents) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = contents.chain(&sources.chain)?;
        let key = contents.key(&sources.key)?;
        let roots = sources.peers.ca().map(|ca| contents.roots(ca)).transpose()?.map(Arc::new);
        let versions: &[_] = if sources.between_nodes { &[&TLS13] } else { &[&TLS12, &TLS13] };

        let verifier = match (&sources.peers, &roots) {
            (Peers::Anybody, _) | (_, None) => WebPkiClientVerifier::no_client_auth(),
            (Peers::Optional(ca) | Peers::Required(ca), Some(roots)) => {
                let builder = WebPkiClientVerifier::builder_with_provider(
                    Arc::clone(roots),
                    Arc::clone(&provider),
                );
                let builder = match sources.peers {
                    Peers::Optional(_) => builder.allow_unauthenticated(),
                    _ => builder,
                };
                builder.build().map_err(|error| ca.wrong(format!("is no use: {error}")))?
            }
        };
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("ring speaks these versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| unfit(sources, &error))?;
        server.alpn_protocols = vec![HTTP2.to_vec()];

        let mut dialling = Vec::new();
        if let Some(roots) = roots.filter(|_| sources.between_nodes) {
            let dialler = Dialling { provider, roots, chain, key, sources };
            server.alpn_protocols.extend([BULK_PROTOCOL.to_vec(), CALLS_PROTOCOL.to_vec()]);
            for protocol in &server.alpn_protocols {
                dialling.push(dialler.asking_for(protocol)?);
            }
        }
        Ok(Self { contents, server: Arc::new(server), dialling })
    }
}

/// What a node dials others with.
struct Dialling<'a> {
    provider: Arc<CryptoProvider>,
    roots: Arc<rustls::RootCertStore>,
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
    sources: &'a Sources,
}

impl Dialling<'_> {
    fn asking_for(&self, protocol: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .expect("ring speaks this version")
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| unfit(self.sources, &error))?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }
}

/// A certificate and a key that do not go together.
fn unfit(sources: &Sources, error: &rustls::Error) -> TlsError {
    let certificate = sources.chain.path.display();
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            sources.key.wrong(format!("is not the key of the certificate in {certificate}"))
        }
        error => sources.chain.wrong(format!("cannot be used with its key: {error}")),
    }
}

/// The name by which `host` is looked for in a certificate: a name, or an address.
pub(crate) fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

#[cfg(test)]
#[path = "credentials_test.rs"]
mod tests;
