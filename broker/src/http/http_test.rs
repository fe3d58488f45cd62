//! The port over real sockets: what it answers, what it bounds, when it closes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};

use super::*;
use crate::{config::NetworkConfig, shutdown::Shutdown, telemetry::register_application};

struct Port {
    address: SocketAddr,
    readiness: Arc<Mutex<Readiness>>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

async fn port(network: NetworkConfig) -> Port {
    let registry = Registry::new();
    register_application(&registry, || Duration::from_secs(1));
    let readiness = Arc::new(Mutex::new(Readiness::NotReady("recovering 3 partitions".into())));
    let probes = Probes::new(registry, {
        let readiness = Arc::clone(&readiness);
        move || readiness.lock().unwrap().clone()
    });
    let network = NetworkConfig { http_listen: "127.0.0.1:0".parse().unwrap(), ..network };
    let server = HttpServer::bind(&network, probes).await.unwrap();
    let (address, shutdown) = (server.local_addr(), Shutdown::new());
    let task = tokio::spawn(server.serve(shutdown.clone()));
    Port { address, readiness, shutdown, task }
}

/// Sends one request and reads until the port closes the connection.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut stream).await
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_health_and_readiness() {
    let port = port(NetworkConfig::default()).await;
    let metrics = get(port.address, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains(CONTENT_TYPE) && metrics.contains("riverrun_application_build{"));
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");

    let health = get(port.address, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.contains(r#""status":"ok""#), "{health}");

    let ready = get(port.address, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.ends_with(r#"{"ready":false,"reason":"recovering 3 partitions"}"#), "{ready}");
    *port.readiness.lock().unwrap() = Readiness::Ready;
    let ready = get(port.address, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.ends_with(r#"{"ready":true}"#), "{ready}");

    assert!(get(port.address, "/").await.starts_with("HTTP/1.1 404"));
    let post = ask(port.address, "POST /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(post.await.starts_with("HTTP/1.1 405"));
    assert!(ask(port.address, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn it_answers_while_draining_and_closes_when_stopping() {
    let port = port(NetworkConfig::default()).await;
    port.shutdown.begin_drain();
    assert!(get(port.address, "/healthz").await.starts_with("HTTP/1.1 200"));
    let mut idle = TcpStream::connect(port.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    idle.read_exact(&mut [0; 12]).await.unwrap();
    port.shutdown.stop();
    assert!(read_all(&mut idle).await.contains(r#""status":"ok""#));
    port.task.await.unwrap();
    assert!(port.shutdown.still_running().is_empty());
    assert!(TcpStream::connect(port.address).await.is_err());
}

#[tokio::test]
async fn a_client_that_sends_no_request_gives_its_place_back() {
    let network = NetworkConfig {
        http_max_connections: 1,
        http_header_timeout_ms: Duration::from_millis(100),
        ..NetworkConfig::default()
    };
    let port = port(network).await;
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    silent.write_all(b"GET /healthz HTT").await.unwrap();
    // The only place is taken: this waits in the listen queue until the silent one is thrown out.
    assert!(get(port.address, "/healthz").await.starts_with("HTTP/1.1 200"));
    let _ = silent.read(&mut [0; 64]).await;
}

/// Answers that nobody takes fill every buffer; the age of the connection is its end.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_answer_gives_its_place_back() {
    let network = NetworkConfig { http_max_connections: 1, ..NetworkConfig::default() };
    let port = port(network).await;
    *port.readiness.lock().unwrap() = Readiness::NotReady("x".repeat(1 << 20));
    let mut stopped = TcpStream::connect(port.address).await.unwrap();
    // More than any socket takes: 32 answers of a MiB and more.
    let requests = "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(32);
    stopped.write_all(requests.as_bytes()).await.unwrap();
    let began = Instant::now();
    assert!(get(port.address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(began.elapsed() >= Duration::from_secs(300), "the only place was taken until then");
    drop(stopped);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let port = port(NetworkConfig::default()).await;
    let network = NetworkConfig { http_listen: port.address, ..NetworkConfig::default() };
    let probes = Probes::new(Registry::new(), || Readiness::Ready);
    let error = HttpServer::bind(&network, probes).await.unwrap_err().to_string();
    assert!(error.contains(&port.address.to_string()), "{error}");
    assert!(error.contains("network.http.listen"), "{error}");
}
