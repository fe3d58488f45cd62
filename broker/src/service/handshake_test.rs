//! Handshakes over real sockets: who gets in, who is told what, and how many at once.

use std::pin::pin;

use futures::poll;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::pem::PemObject as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{
    service::{connections::accept, responsive::Responsive},
    telemetry::{ConnectionMetrics, Registry, TlsMetrics},
    tls::{
        BULK_PROTOCOL, CALLS_PROTOCOL, Credentials, HTTP2, Peers, Source, Sources, server_name,
        test_certificates::{Authority, Files, Identity},
    },
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A port that secures what comes in.
struct Port {
    address: String,
    security: Security,
    bounds: Bounds,
    registry: Registry,
    listener: Option<TcpListener>,
}

impl Port {
    async fn open(sources: Sources) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Registry::new();
        let metrics = TlsMetrics::register(&registry).of("port");
        Self {
            address: listener.local_addr().unwrap().to_string(),
            security: Security {
                credentials: Arc::new(Credentials::load(sources, metrics).unwrap()),
                handshake_timeout: PATIENCE,
                handshakes_max: 8,
            },
            bounds: Bounds::register(&registry),
            registry,
            listener: Some(listener),
        }
    }

    /// What gets in.
    fn secured(&mut self) -> impl Stream<Item = io::Result<Connection<Socket>>> + use<> {
        let metrics = ConnectionMetrics::register(&Registry::new());
        let places = Places::new("connections", 16, &self.bounds);
        let accepted = accept(self.listener.take().unwrap(), places, move |tcp| {
            Responsive::new(tcp, PATIENCE, metrics.clone())
        });
        secure(accepted, Some(self.security.clone()), 16, ("handshakes", &self.bounds))
    }

    fn ended(&self, how: &str) -> u32 {
        let line = format!("riverrun_tls_handshakes_total{{port=\"port\",outcome=\"{how}\"}} ");
        let text = self.registry.encode();
        text.lines().find_map(|l| l.strip_prefix(&line)).unwrap().parse().unwrap()
    }
}

/// A client that believes `ca`, and shows `identity`.
async fn connect(
    address: &str,
    ca: &Authority,
    identity: Option<&Identity>,
    protocol: &[u8],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(Identity { chain, key }) => config
            .with_client_auth_cert(
                vec![rustls::pki_types::CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
                rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(server_name("localhost").unwrap(), tcp).await
}

/// Says something and hears what comes back; with TLS 1.3 a client learns only so that it was refused.
async fn talk(stream: io::Result<TlsStream<TcpStream>>) -> io::Result<Vec<u8>> {
    let mut stream = stream?;
    // As a client of HTTP/2 does, at once, and more than a bare handshake would leave unread.
    stream.write_all(&[b'x'; 3000]).await?;
    stream.flush().await?;
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await?;
    Ok(heard.to_vec())
}

/// What the port asks for, what is shown, and what is said against it.
type Way<'a> = (fn(Source) -> Peers, Option<&'a Identity>, Option<&'static str>);

#[tokio::test]
async fn who_has_a_certificate_of_the_ca_gets_in_and_nobody_else() {
    let (ca, other) = (Authority::new("cluster"), Authority::new("other"));
    let files = Files::of(&ca.signs(&["localhost"]), &ca);
    let (ours, stranger) = (ca.signs(&["client"]), other.signs(&["client"]));
    let ways: [Way<'_>; 6] = [
        (Peers::Required, Some(&ours), None),
        (Peers::Required, None, Some("CertificateRequired")),
        (Peers::Required, Some(&stranger), Some("UnknownCA")),
        (Peers::Optional, Some(&ours), None),
        (Peers::Optional, None, None),
        (Peers::Optional, Some(&stranger), Some("UnknownCA")),
    ];
    for (peers, identity, refused) in ways {
        let mut port = Port::open(files.grpc(peers)).await;
        let mut secured = Box::pin(port.secured());
        let serving = tokio::spawn(async move {
            let mut connection = secured.next().await.unwrap().unwrap();
            connection.write_all(b"hello").await.unwrap();
            connection.flush().await.unwrap();
            // Until the other side has had enough.
            let _ = connection.read_to_end(&mut Vec::new()).await;
        });
        let stream = connect(&port.address, &ca, identity, HTTP2).await;
        let heard = timeout(PATIENCE, talk(stream)).await.unwrap();
        match refused {
            None => {
                assert_eq!(heard.unwrap(), b"hello");
                assert_eq!(port.ended("done"), 1);
            }
            Some(alert) => {
                let why = heard.unwrap_err().to_string();
                assert!(why.contains(alert), "the alert arrives, not a reset: {why}");
                assert_eq!((port.ended("refused"), port.ended("done")), (1, 0));
            }
        }
        serving.abort();
    }
}

#[tokio::test]
async fn a_client_that_does_not_believe_the_port_is_counted_as_refused() {
    let (ca, other) = (Authority::new("cluster"), Authority::new("other"));
    let files = Files::of(&ca.signs(&["localhost"]), &ca);
    let mut port = Port::open(files.grpc(|_| Peers::Anybody)).await;
    let mut secured = Box::pin(port.secured());
    let serving = tokio::spawn(async move { secured.next().await.is_some() });
    let refused = connect(&port.address, &other, None, HTTP2).await.unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    while port.ended("refused") == 0 {
        tokio::task::yield_now().await;
    }
    serving.abort();
}

#[tokio::test]
async fn between_nodes_the_handshake_says_what_the_connection_carries() {
    let ca = Authority::new("cluster");
    let identity = ca.signs(&["localhost"]);
    let files = Files::of(&identity, &ca);
    let mut port = Port::open(files.internal()).await;
    let mut secured = Box::pin(port.secured());
    for protocol in [HTTP2, BULK_PROTOCOL, CALLS_PROTOCOL] {
        let address = port.address.clone();
        let (accepted, stream) =
            tokio::join!(secured.next(), connect(&address, &ca, Some(&identity), protocol));
        let mut connection = accepted.unwrap().unwrap();
        assert_eq!(connection.get_ref().asked_for(), Some(protocol));
        // Moved to other threads, it goes on where it was.
        let mut stream = stream.unwrap();
        let moved = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                connection.get_mut().rehome().unwrap();
                let mut heard = [0; 4];
                connection.read_exact(&mut heard).await.unwrap();
                connection.write_all(b"pong").await.unwrap();
                connection.flush().await.unwrap();
                heard
            })
        });
        stream.write_all(b"ping").await.unwrap();
        stream.flush().await.unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!((&heard, &moved.join().unwrap()), (b"pong", b"ping"));
    }
    // Something else in common there is none.
    let address = port.address.clone();
    let refused = connect(&address, &ca, Some(&identity), b"http/1.1");
    let refused = tokio::select! {
        refused = refused => refused.unwrap_err(),
        _ = secured.next() => panic!("it speaks something else"),
    };
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test]
async fn whoever_speaks_without_tls_is_told_so_in_http2() {
    let ca = Authority::new("cluster");
    let mut port = Port::open(Files::of(&ca.signs(&["localhost"]), &ca).internal()).await;
    let mut secured = Box::pin(port.secured());
    let serving = tokio::spawn(async move { secured.next().await.is_some() });
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", port.address));
    let channel = channel.unwrap().connect_lazy();
    let mut grpc = tonic_health::pb::health_client::HealthClient::new(channel);
    let refused = grpc.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap_err();
    let mut said = refused.to_string();
    let mut error: &dyn std::error::Error = &refused;
    while let Some(source) = error.source() {
        said = format!("{said}: {source}");
        error = source;
    }
    assert!(said.contains("speaks TLS only"), "{said}");
    assert!(port.ended("plaintext") >= 1);
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_let_go_when_the_time_is_over() {
    let ca = Authority::new("cluster");
    let mut port = Port::open(Files::of(&ca.signs(&["localhost"]), &ca).internal()).await;
    port.security.handshake_timeout = Duration::from_secs(10);
    let mut secured = Box::pin(port.secured());
    let serving = tokio::spawn(async move { secured.next().await.is_some() });
    let mut silent = TcpStream::connect(&port.address).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "closed");
    assert_eq!(port.ended("timed_out"), 1);
    serving.abort();
}

#[tokio::test]
async fn past_the_bound_handshakes_wait_their_turn() {
    let ca = Authority::new("cluster");
    let identity = ca.signs(&["localhost"]);
    let mut port = Port::open(Files::of(&identity, &ca).internal()).await;
    port.security.handshakes_max = 1;
    let mut secured = Box::pin(port.secured());
    let silent = TcpStream::connect(&port.address).await.unwrap();
    let metric = |name: &str| {
        let line = format!("riverrun_bound_{name}{{bound=\"handshakes\"}} ");
        let text = port.registry.encode();
        text.lines().find_map(|l| l.strip_prefix(&line)).unwrap().to_owned()
    };
    while metric("used") == "0" {
        assert!(poll!(secured.next()).is_pending());
        tokio::task::yield_now().await;
    }
    let mut waiting = pin!(connect(&port.address, &ca, Some(&identity), HTTP2));
    while metric("hits_total") == "0" {
        assert!(poll!(&mut waiting).is_pending());
        assert!(poll!(secured.next()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(silent);
    let (accepted, stream) = tokio::join!(secured.next(), waiting);
    assert!(accepted.unwrap().is_ok() && stream.is_ok());
}
