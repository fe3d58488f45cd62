//! TLS: how handshakes end, and whether the files on disk are the ones in use.

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::Registry;

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// There is a connection.
    Done,
    /// It took too long.
    TimedOut,
    /// The other side speaks without TLS.
    Plaintext,
    /// The other side showed no certificate, or one that is not believed.
    Refused,
    /// Anything else: noise, no version or cipher in common, gone.
    Failed,
}

/// Metrics of TLS, of all ports.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    handshakes: Family<[(&'static str, &'static str); 2], Counter>,
    reloads: Family<[(&'static str, &'static str); 2], Counter>,
    broken: Family<[(&'static str, &'static str); 1], Gauge>,
}

/// Those of one port. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PortTlsMetrics {
    handshakes: [Counter; OUTCOMES.len()],
    renewed: Counter,
    kept: Counter,
    broken: Gauge,
}

/// In the order of [`Handshake`].
const OUTCOMES: [&str; 5] = ["done", "timed_out", "plaintext", "refused", "failed"];

// === impl TlsMetrics ===

impl TlsMetrics {
    /// Registers `riverrun_tls_handshakes_total{port,outcome}`,
    /// `riverrun_tls_reloads_total{port,outcome}` and `riverrun_tls_files_broken{port}`.
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self {
            handshakes: Family::default(),
            reloads: Family::default(),
            broken: Family::default(),
        };
        let help = "TLS handshakes of connections that came in, by how they ended";
        registry.register("tls_handshakes", help, metrics.handshakes.clone());
        let help = "Changed certificate files: taken over, or broken so that the old ones are kept";
        registry.register("tls_reloads", help, metrics.reloads.clone());
        let help = "1 while the certificate files on disk are broken and older ones in use";
        registry.register("tls_files_broken", help, metrics.broken.clone());
        metrics
    }

    /// Those of a port.
    pub fn of(&self, port: &'static str) -> PortTlsMetrics {
        let reloads =
            |outcome| self.reloads.get_or_create_owned(&[("port", port), ("outcome", outcome)]);
        PortTlsMetrics {
            handshakes: OUTCOMES.map(|outcome| {
                self.handshakes.get_or_create_owned(&[("port", port), ("outcome", outcome)])
            }),
            renewed: reloads("renewed"),
            kept: reloads("kept_old"),
            broken: self.broken.get_or_create_owned(&[("port", port)]),
        }
    }
}

// === impl PortTlsMetrics ===

impl PortTlsMetrics {
    /// A handshake ended.
    pub fn observe(&self, how: Handshake) {
        self.handshakes[how as usize].inc();
    }

    /// Changed files were taken over.
    pub fn observe_renewed(&self) {
        self.renewed.inc();
        self.broken.set(0);
    }

    /// Changed files are broken; what was in use stays.
    pub fn observe_kept(&self) {
        self.kept.inc();
        self.broken.set(1);
    }

    /// The files are again those in use.
    pub fn observe_unbroken(&self) {
        self.broken.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_and_files_are_counted_by_port() {
        let registry = Registry::new();
        let metrics = TlsMetrics::register(&registry);
        let (grpc, internal) = (metrics.of("grpc"), metrics.of("internal"));
        grpc.observe(Handshake::Done);
        internal.observe(Handshake::Refused);
        internal.observe_kept();
        grpc.observe_kept();
        grpc.observe_renewed();
        let text = registry.encode();
        for line in [
            "riverrun_tls_handshakes_total{port=\"grpc\",outcome=\"done\"} 1",
            "riverrun_tls_handshakes_total{port=\"internal\",outcome=\"refused\"} 1",
            "riverrun_tls_handshakes_total{port=\"internal\",outcome=\"failed\"} 0",
            "riverrun_tls_reloads_total{port=\"internal\",outcome=\"kept_old\"} 1",
            "riverrun_tls_reloads_total{port=\"grpc\",outcome=\"renewed\"} 1",
            "riverrun_tls_files_broken{port=\"internal\"} 1",
            "riverrun_tls_files_broken{port=\"grpc\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
