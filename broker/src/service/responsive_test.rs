//! Peers that stop, alone and under a real HTTP/2 connection.

use std::io::IoSlice;

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tonic::transport::Endpoint;

use super::{
    super::{test_support::*, v1},
    *,
};

const SILENCE: Duration = Duration::from_secs(50);

/// A connection whose buffer takes eight bytes, its peer, and the counters.
fn pair() -> (Responsive<DuplexStream>, DuplexStream, Metrics) {
    let metrics = Metrics::new();
    let (ours, theirs) = duplex(8);
    let connection = Responsive::new(ours, SILENCE, ConnectionMetrics::register(&metrics));
    (connection, theirs, metrics)
}

fn given_up(metrics: &Metrics, cause: &str) -> String {
    let line = format!("riverrun_connections_given_up_total{{cause=\"{cause}\"}} ");
    let text = metrics.encode();
    let found = text.lines().find_map(|l| l.strip_prefix(&line));
    found.unwrap_or_else(|| panic!("no {line} in\n{text}")).to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_write_that_nobody_takes_fails_when_the_time_is_over_and_is_counted_once() {
    let (mut connection, theirs, metrics) = pair();
    let began = Instant::now();
    let failed = connection.write_all(&[7; 9]).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::TimedOut, "{failed}");
    assert!((SILENCE..SILENCE * 2).contains(&began.elapsed()));
    let again = connection.write_vectored(&[IoSlice::new(&[1]), IoSlice::new(&[2])]).await;
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(given_up(&metrics, "takes_nothing"), "1");
    drop(theirs);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_little_and_late_is_kept() {
    let (mut connection, mut theirs, metrics) = pair();
    let reading = tokio::spawn(async move {
        let mut taken = 0;
        while taken < 40 {
            sleep(SILENCE - Duration::from_secs(1)).await;
            taken += theirs.read(&mut [0; 2]).await.unwrap();
        }
        theirs
    });
    connection.write_all(&[7; 48]).await.unwrap();
    reading.await.unwrap();
    assert_eq!(given_up(&metrics, "takes_nothing"), "0");
}

#[tokio::test(start_paused = true)]
async fn the_time_runs_anew_for_each_write_that_waits() {
    let (mut connection, mut theirs, _) = pair();
    connection.write_all(&[7; 8]).await.unwrap();
    assert!(timeout(SILENCE / 2, connection.write_all(&[7])).await.is_err());
    theirs.read_exact(&mut [0; 8]).await.unwrap();
    connection.write_all(&[7; 8]).await.unwrap();
    // Far more than the first wait had left.
    assert!(timeout(SILENCE * 3 / 4, connection.write_all(&[7])).await.is_err());
    theirs.read_exact(&mut [0; 8]).await.unwrap();
    connection.write_all(&[7]).await.unwrap();
}

/// Reads so many bytes and then nothing, as a process that was stopped does; its kernel is alive.
struct Deaf {
    stream: TcpStream,
    left: usize,
}

impl AsyncRead for Deaf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        let most = self.left.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut part);
        let read = part.filled().len();
        buf.advance(read);
        self.left -= read;
        polled
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Far more data on its way than any socket takes, all of it granted by HTTP/2: keepalive times out
/// and cannot say so. The connection and all it held are given back even so.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_with_a_full_socket_is_let_go() {
    use v1::fetch_stream_request::Request;
    let keepalive = Duration::from_millis(300);
    let broker = Broker::with(|setup| {
        setup.config.network.keepalive_interval_ms = keepalive;
        setup.config.network.keepalive_timeout_ms = keepalive;
    })
    .await;
    let topic = broker.topic_with("large", 1, &[("durability", "memory")]).await;
    let value = "x".repeat(1_000_000);
    broker.write(topic, 0, &[&*value; 24]).await;

    let connect = move |uri: http::Uri| async move {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(16 << 10)?;
        let address = uri.authority().expect("it has one").as_str().parse().expect("an address");
        let stream = socket.connect(address).await?;
        io::Result::Ok(TokioIo::new(Deaf { stream, left: 256 << 10 }))
    };
    let port = broker.quorum.image().brokers().next().unwrap().endpoints[0].port;
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
        .unwrap()
        .initial_stream_window_size(64 << 20)
        .initial_connection_window_size(64 << 20)
        .connect_with_connector(tower::service_fn(connect))
        .await
        .unwrap();
    let mut consumer = ConsumeServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let open = v1::FetchStreamOpen {
        partitions: vec![from_offset(by_id(topic, 0), 0)],
        ..Default::default()
    };
    let open = v1::FetchStreamRequest { request: Some(Request::Open(open)) };
    let requests =
        futures::StreamExt::chain(tokio_stream::iter([open]), futures::stream::pending());
    let reading = consumer.fetch_stream(requests).await.unwrap();

    let streams = "riverrun_open_streams{request=\"fetch_stream\"}";
    until(|| broker.metric(streams) == 1.0).await;
    until(|| broker.metric("riverrun_memory_budget_used_bytes{pool=\"fetch\"}") > 0.0).await;
    until(|| broker.metric(streams) == 0.0).await;
    until(|| broker.metric("riverrun_open_connections") <= 1.0).await;
    assert_eq!(broker.metric("riverrun_memory_budget_used_bytes{pool=\"fetch\"}"), 0.0);
    let given_up = "riverrun_connections_given_up_total{cause=\"takes_nothing\"}";
    assert_eq!(broker.metric(given_up), 1.0);
    drop(reading);
}
