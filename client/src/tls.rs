//! TLS of a client: whom it believes, what it shows, how failures read.
//!
//! Certificate files are read when a connection is made, so that certificates which are renewed in
//! place need no new client. Files that are broken then change nothing: what was read before is used
//! on, and a warning says so.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{
    AlertDescription, ClientConfig, Error as TlsFailure, InconsistentKeys, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{
    connection::Dial,
    error::{Error, Result},
};

/// What gRPC is spoken over.
const HTTP2: &[u8] = b"h2";

/// Begins every text about certificates that do not fit. HTTP/2 keeps the text of an I/O error and
/// drops everything else of it, so this is how it is known again.
pub(crate) const REFUSED: &str = "TLS: ";

/// What a broker says on a port with TLS to whoever comes without, in HTTP/2.
pub(crate) const TLS_ONLY: &str = "this port speaks TLS only";

/// How a [`Client`](crate::Client) speaks TLS.
///
/// ```no_run
/// # async fn example() -> Result<(), riverrun_client::Error> {
/// use riverrun_client::{Client, Tls};
///
/// let tls = Tls::new("/etc/riverrun/ca.pem").identity("/etc/app/cert.pem", "/etc/app/key.pem");
/// let client = Client::builder().bootstrap_servers(["broker-1:9190"]).tls(tls).build().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Tls {
    ca: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

/// Files as they were read, and what was made of them.
struct Loaded {
    contents: Vec<Vec<u8>>,
    config: Arc<ClientConfig>,
}

/// Dials with TLS.
pub(crate) struct TlsDial(Arc<Shared>);

struct Shared {
    tls: Tls,
    loaded: Mutex<Loaded>,
}

// === impl Tls ===

impl Tls {
    /// Believes brokers that show a certificate of a CA in this PEM file, for the host that is
    /// dialled. For a public CA, name the system's file, such as `/etc/ssl/certs/ca-certificates.crt`.
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self { ca: ca.into(), identity: None, server_name: None }
    }

    /// The certificate (and those between it and its CA) that this client shows, and its private
    /// key, as PEM files: for brokers that ask for one.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The name to look for in brokers' certificates instead of the host that is dialled, for
    /// brokers behind a tunnel.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        std::iter::once(&self.ca).chain(identity).map(PathBuf::as_path)
    }

    /// Blocks.
    fn read(&self) -> Result<Vec<Vec<u8>>> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| unusable(path, format!("cannot be read: {error}")))
        };
        self.paths().map(read).collect()
    }

    fn load(&self, contents: Vec<Vec<u8>>) -> Result<Loaded> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca, &contents[0])? {
            roots.add(certificate).map_err(|error| {
                unusable(&self.ca, format!("holds a certificate that is none of a CA: {error}"))
            })?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks all of them")
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let certificates = certificates(chain, &contents[1])?;
                let parsed = PrivateKeyDer::from_pem_slice(&contents[2]).map_err(|error| {
                    let what = "holds no private key that is not encrypted, as PEM";
                    unusable(key, format!("{what}: {error}"))
                })?;
                config.with_client_auth_cert(certificates, parsed).map_err(|error| match error {
                    TlsFailure::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                        let of = chain.display();
                        unusable(key, format!("is not the key of the certificate in {of}"))
                    }
                    error => unusable(chain, format!("cannot be used with its key: {error}")),
                })?
            }
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Loaded { contents, config: Arc::new(config) })
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| unusable(path, format!("is no PEM: {error}")))?;
    if all.is_empty() {
        let what = "holds no certificate as PEM (-----BEGIN CERTIFICATE-----)";
        return Err(unusable(path, what.into()));
    }
    Ok(all)
}

fn unusable(path: &Path, what: String) -> Error {
    Error::invalid(format!("tls: {} {what}", path.display()))
}

// === impl TlsDial ===

impl TlsDial {
    /// Reads the files for the first time. Blocks.
    pub(crate) fn new(tls: Tls) -> Result<Self> {
        let loaded = tls.load(tls.read()?)?;
        if let Some(name) = &tls.server_name {
            server_name(name)?;
        }
        Ok(Self(Arc::new(Shared { loaded: Mutex::new(loaded), tls })))
    }
}

impl Dial for TlsDial {
    fn dial(&self, endpoint: &Endpoint) -> Channel {
        let shared = Arc::clone(&self.0);
        // What proxies and logs see; the connection is made by the connector.
        let secure = Uri::builder().scheme("https").path_and_query("/");
        let secure = secure.authority(endpoint.uri().authority().map_or("", |at| at.as_str()));
        let endpoint = match secure.build() {
            Ok(secure) => endpoint.clone().origin(secure),
            Err(_) => endpoint.clone(),
        };
        endpoint.connect_with_connector_lazy(service_fn(move |to: Uri| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, io::Error>(TokioIo::new(shared.connect(&to).await?)) }
        }))
    }
}

// === impl Shared ===

impl Shared {
    async fn connect(self: Arc<Self>, to: &Uri) -> io::Result<Explained<TcpStream>> {
        let host = to.host().unwrap_or_default().trim_matches(['[', ']']);
        let looked_for = self.tls.server_name.as_deref().unwrap_or(host).to_owned();
        let name = server_name(&looked_for).map_err(io::Error::other)?;
        let port = to.port_u16().unwrap_or(crate::address::DEFAULT_PORT);
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let config = tokio::task::spawn_blocking(move || self.current()).await?;
        match TlsConnector::from(config).connect(name, tcp).await {
            Ok(stream) => Ok(Explained(stream)),
            Err(error) => Err(explain(error, Some(&looked_for))),
        }
    }

    /// The files as they are now, or as they were when they were last whole. Blocks.
    fn current(&self) -> Arc<ClientConfig> {
        let read = self.tls.read();
        let mut loaded = self.loaded.lock();
        if read.as_ref().is_ok_and(|contents| *contents == loaded.contents) {
            return Arc::clone(&loaded.config);
        }
        match read.and_then(|contents| self.tls.load(contents)) {
            Ok(renewed) => *loaded = renewed,
            Err(error) => {
                tracing::warn!(%error, "changed certificate files are broken; the old ones are used");
            }
        }
        Arc::clone(&loaded.config)
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| Error::invalid(format!("tls: no certificate can name {name:?}")))
}

/// TLS whose failures say what to do. With TLS 1.3 a client learns that its certificate is refused
/// only when it reads, after its part of the handshake.
struct Explained<S>(TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Explained<S> {
    /// What was to be written went nowhere: perhaps the broker has said why.
    fn ask_why(&mut self, cx: &mut Context<'_>, error: io::Error) -> io::Error {
        let mut byte = [0];
        match Pin::new(&mut self.0).poll_read(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Err(why)) => explain(why, None),
            _ => error,
        }
    }

    fn explained<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        Poll::Ready(match ready!(polled) {
            Err(error) => Err(self.ask_why(cx, error)),
            written => written,
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Explained<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf).map_err(|error| explain(error, None))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Explained<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.0).poll_write(cx, buf);
        self.explained(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.0).poll_write_vectored(cx, bufs);
        self.explained(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.0).poll_flush(cx);
        self.explained(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The same failure with what to do about it, where it is one of certificates.
fn explain(error: io::Error, looked_for: Option<&str>) -> io::Error {
    use AlertDescription as Alert;
    let failure = error.get_ref().and_then(|error| error.downcast_ref::<TlsFailure>());
    let what = match failure {
        Some(TlsFailure::InvalidCertificate(why)) => {
            let name = looked_for.map_or_else(String::new, |name| format!(", as {name}"));
            format!(
                "the broker's certificate is not believed{name}: {why}; give the CA that signed it \
                 (Tls::new, --tls-ca), and dial the broker by a name in it"
            )
        }
        Some(TlsFailure::AlertReceived(Alert::CertificateRequired)) => {
            "the broker wants a certificate of this client and was shown none; give it one \
             (Tls::identity, --tls-cert and --tls-key)"
                .to_owned()
        }
        Some(TlsFailure::AlertReceived(
            alert @ (Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRevoked
            | Alert::AccessDenied),
        )) => format!(
            "the broker does not believe this client's certificate ({alert:?}); it takes those of \
             the CA in its tls.grpc.client.ca.file, while they are valid"
        ),
        Some(TlsFailure::InvalidMessage(why)) => format!(
            "what answers speaks no TLS ({why:?}); does the broker have tls.grpc.cert.file, and is \
             this its gRPC port?"
        ),
        _ => return error,
    };
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{REFUSED}{what}"))
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("tls", &self.tls).finish_non_exhaustive()
    }
}
