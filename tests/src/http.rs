//! What the HTTP port of a broker says.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::wait::soon;

/// The metrics of a broker at one time.
#[derive(Debug, Clone)]
pub struct Metrics(String);

/// Status and body of a GET.
pub async fn get(http: SocketAddr, path: &str) -> (u16, String) {
    let answer = async {
        let mut stream = TcpStream::connect(http).await.expect("the port is open");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers in UTF-8");
        answer
    };
    let answer = soon("an answer over HTTP", answer).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// The metrics now.
pub async fn metrics(http: SocketAddr) -> Metrics {
    let (status, body) = get(http, "/metrics").await;
    assert_eq!(status, 200, "{body}");
    Metrics(body)
}

// === impl Metrics ===

impl Metrics {
    /// The value of a series, written as in the text: `name{label="value"}`.
    pub fn get(&self, series: &str) -> Option<f64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    /// As [`Metrics::get`].
    ///
    /// # Panics
    /// If there is no such series.
    pub fn value(&self, series: &str) -> f64 {
        self.get(series).unwrap_or_else(|| panic!("no {series} in\n{}", self.0))
    }

    /// Names of all families.
    pub fn families(&self) -> Vec<&str> {
        let types = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.filter_map(|rest| rest.split(' ').next()).collect()
    }

    /// As it came.
    pub fn text(&self) -> &str {
        &self.0
    }
}
