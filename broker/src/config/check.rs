//! What can only be wrong between keys: each of them is fine, together they are not.

use std::net::SocketAddr;

use super::{
    Config,
    load::Origins,
    problem::{Origin, Problem, Problems},
    units::{ByteSize, show_duration},
};

/// A problem between keys: the key to report it at, what is wrong, what would be right.
type Finding = (&'static str, String, &'static str);

const GRPC_REACHED: (&str, &str) = (
    "and clients need no certificate: whoever reaches it can read, write and delete everything",
    "listen on 127.0.0.1, or ask for certificates (tls.grpc.cert.file, tls.grpc.key.file, \
     tls.grpc.client.ca.file), or accept that with --insecure (network.insecure = true)",
);
const HTTP_REACHED: (&str, &str) = (
    "and shows metrics to whoever reaches it, while the gRPC port asks for no certificate either",
    "listen on 127.0.0.1, or guard the gRPC port (tls.grpc.client.ca.file), or accept that with \
     --insecure (network.insecure = true)",
);
const INTERNAL_REACHED: (&str, &str) = (
    "and believes whoever reaches it: he can read, write and delete everything",
    "listen on 127.0.0.1, or give the nodes certificates (tls.internal.cert.file, \
     tls.internal.key.file, tls.internal.ca.file), or accept that with --insecure \
     (network.insecure = true)",
);

impl Config {
    /// Checks what lies between keys, for a configuration made in code; one that was loaded has
    /// been checked.
    pub fn check(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        self.check_with(&Origins::new(), &mut problems);
        problems.or(())
    }

    pub(super) fn check_with(&self, origins: &Origins, problems: &mut Problems) {
        for (key, what, right) in self.findings() {
            let origin = origins.get(key).cloned().unwrap_or(Origin::Default);
            problems.push(Problem { origin, key: key.to_owned(), what, right: right.to_owned() });
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.exposure(&mut findings);
        self.certificates(&mut findings);
        self.addresses(&mut findings);
        self.memory(&mut findings);
        self.windows(&mut findings);
        self.sessions(&mut findings);
        self.topics(&mut findings);
        findings
    }

    /// Who can reach the broker.
    fn exposure(&self, findings: &mut Vec<Finding>) {
        let (network, tls) = (&self.network, &self.tls);
        if network.insecure {
            return;
        }
        let clients = tls.grpc_asks_for_certificates();
        let listens = [
            ("network.grpc.listen", network.grpc_listen, clients, GRPC_REACHED),
            // It shows metrics and changes nothing: whoever took care of the port that does decides.
            ("network.http.listen", network.http_listen, clients, HTTP_REACHED),
            (
                "network.internal.listen",
                network.internal_listen,
                tls.internal_asks_for_certificates(),
                INTERNAL_REACHED,
            ),
        ];
        for (key, address, guarded, (what, right)) in listens {
            if !guarded && !address.ip().to_canonical().is_loopback() {
                let what = format!("{address} can be reached from other machines, {what}");
                findings.push((key, what, right));
            }
        }
    }

    /// Certificates that belong together.
    fn certificates(&self, findings: &mut Vec<Finding>) {
        let tls = &self.tls;
        let grpc = [
            ("tls.grpc.cert.file", &tls.grpc_cert_file),
            ("tls.grpc.key.file", &tls.grpc_key_file),
        ];
        let internal = [
            ("tls.internal.cert.file", &tls.internal_cert_file),
            ("tls.internal.key.file", &tls.internal_key_file),
            ("tls.internal.ca.file", &tls.internal_ca_file),
        ];
        for (port, files) in [("gRPC", &grpc[..]), ("internal", &internal[..])] {
            let begun = files.iter().any(|(_, file)| file.is_some())
                || (port == "gRPC" && tls.grpc_client_ca_file.is_some());
            for (key, _) in files.iter().filter(|(_, file)| begun && file.is_none()) {
                findings.push((
                    key,
                    format!("other files for TLS on the {port} port are set, this one is not"),
                    "name all of them, or none",
                ));
            }
        }
    }

    /// Where the broker listens and what clients dial.
    fn addresses(&self, findings: &mut Vec<Finding>) {
        let network = &self.network;
        if collide(network.grpc_listen, network.http_listen) {
            findings.push((
                "network.http.listen",
                format!("{} is the gRPC port already", network.http_listen),
                "give it a port of its own, such as 9191",
            ));
        }
        for (other, what) in [(network.grpc_listen, "gRPC"), (network.http_listen, "HTTP")] {
            if collide(network.internal_listen, other) {
                findings.push((
                    "network.internal.listen",
                    format!("{} is the {what} port already", network.internal_listen),
                    "give it a port of its own, such as 9192",
                ));
            }
        }
        let internal = network.internal_listen.ip();
        if internal.is_unspecified() && network.internal_advertised_host.is_none() {
            findings.push((
                "network.internal.advertised.host",
                format!("other nodes would be told to dial {internal}"),
                "set it to the name or address by which they reach this one",
            ));
        }
        if network.grpc_listen.ip().is_unspecified() && network.advertised_host.is_none() {
            findings.push((
                "network.advertised.host",
                format!("clients would be told to dial {}", network.grpc_listen.ip()),
                "set it to the name or address by which clients reach this broker",
            ));
        }
    }

    /// Who gets the memory budget.
    fn memory(&self, findings: &mut Vec<Finding>) {
        if let Some(what) = self.broker.memory_budget.too_small() {
            findings.push(("broker.memory.budget", what, "give it more, or leave it at 25%"));
        }
        // What is being received has half as much again as what was received.
        let admission = self.produce.admission_percent;
        let shares =
            [admission, admission / 2, self.fetch.memory_percent, self.fetch.cold_read_percent];
        let sum: u32 = shares.into_iter().map(u32::from).sum();
        if sum > 100 {
            findings.push((
                "produce.admission.percent",
                format!(
                    "with half as much again, fetch.memory.percent and fetch.cold.read.percent it \
                     makes {sum}%"
                ),
                "the shares of the memory budget must not exceed 100 together",
            ));
        }
    }

    /// Heartbeats that fit into a session.
    fn sessions(&self, findings: &mut Vec<Finding>) {
        let (interval, session) =
            (self.broker.heartbeat_interval_ms, self.broker.session_timeout_ms);
        if interval.saturating_mul(2) > session {
            findings.push((
                "broker.heartbeat.interval.ms",
                format!(
                    "{} is more than half of broker.session.timeout.ms, {}: one heartbeat that is \
                     late fences the broker",
                    show_duration(interval),
                    show_duration(session)
                ),
                "keep it below half, better a tenth",
            ));
        }
    }

    /// Windows that fit into one another.
    fn windows(&self, findings: &mut Vec<Finding>) {
        let network = &self.network;
        if network.http2_stream_window_bytes > network.http2_connection_window_bytes {
            findings.push((
                "network.http2.stream.window.bytes",
                too_large(
                    network.http2_stream_window_bytes,
                    "network.http2.connection.window.bytes",
                    network.http2_connection_window_bytes,
                ),
                "a stream's window is part of its connection's",
            ));
        }
        if self.produce.stream_in_flight_bytes > network.http2_connection_window_bytes {
            findings.push((
                "produce.stream.in.flight.bytes",
                too_large(
                    self.produce.stream_in_flight_bytes,
                    "network.http2.connection.window.bytes",
                    network.http2_connection_window_bytes,
                ),
                "keep it below, so that one stream cannot block its connection",
            ));
        }
        if self.log.window_bytes_min > self.log.window_bytes_max {
            findings.push((
                "log.window.bytes.min",
                too_large(
                    self.log.window_bytes_min,
                    "log.window.bytes.max",
                    self.log.window_bytes_max,
                ),
                "windows grow from the least to the most",
            ));
        }
    }

    /// Defaults of topics that no topic could have.
    fn topics(&self, findings: &mut Vec<Finding>) {
        if let Some(what) = self.topic.segments_too_small() {
            findings.push((
                "topic.segment.bytes",
                what,
                "raise it, or lower topic.max.message.bytes",
            ));
        }
        if self.topic.resolve(1).min_insync_replicas > 1 {
            findings.push((
                "topic.min.insync.replicas",
                "topics have one replica each in this version".to_owned(),
                "leave it at majority, which is 1 of 1",
            ));
        }
    }
}

/// Whether two sockets cannot both be bound.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_ip
}

fn too_large(size: ByteSize, limit_key: &str, limit: ByteSize) -> String {
    format!("{size} is more than {limit_key}, {limit}")
}
