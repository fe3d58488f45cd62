//! Connections of a port: how many are open, and which were given up.

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::{OpenGuard, Registry};

/// Metrics of a port's connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    open: Gauge,
    given_up: [Counter; 2],
}

/// Why the broker gave a connection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// What waits for the peer is not taken.
    TakesNothing,
    /// The peer did not begin to speak.
    SaysNothing,
}

// === impl ConnectionMetrics ===

impl ConnectionMetrics {
    /// Registers `riverrun_open_connections` and `riverrun_connections_given_up_total{cause}`, of
    /// the gRPC port.
    pub fn register(registry: &Registry) -> Self {
        let open = ("open_connections", "gRPC connections open now");
        let help = "gRPC connections closed because the peer did nothing for keepalive's time";
        Self::named(registry, open, ("connections_given_up", help))
    }

    /// Registers `riverrun_internal_open_connections` and
    /// `riverrun_internal_connections_given_up_total{cause}`, of the port between nodes.
    pub fn register_internal(registry: &Registry) -> Self {
        let open = ("internal_open_connections", "Connections of other nodes open now");
        let help = "Connections of other nodes closed because they did nothing for too long";
        Self::named(registry, open, ("internal_connections_given_up", help))
    }

    fn named(
        registry: &Registry,
        open: (&'static str, &'static str),
        given_up: (&'static str, &'static str),
    ) -> Self {
        let causes = Family::<[(&'static str, &'static str); 1], Counter>::default();
        let metrics = Self {
            open: Gauge::default(),
            given_up: ["takes_nothing", "says_nothing"]
                .map(|cause| causes.get_or_create_owned(&[("cause", cause)])),
        };
        registry.register(open.0, open.1, metrics.open.clone());
        registry.register(given_up.0, given_up.1, causes);
        metrics
    }

    /// A connection was closed because its peer did nothing.
    pub fn observe_given_up(&self, why: GivenUp) {
        self.given_up[why as usize].inc();
    }

    /// A connection is open until the guard is dropped.
    pub fn opened(&self) -> OpenGuard {
        OpenGuard::of(&self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_counts_its_own() {
        let registry = Registry::new();
        let clients = ConnectionMetrics::register(&registry);
        let nodes = ConnectionMetrics::register_internal(&registry);
        clients.observe_given_up(GivenUp::TakesNothing);
        nodes.observe_given_up(GivenUp::SaysNothing);
        let open = clients.opened();
        let text = registry.encode();
        for line in [
            "riverrun_open_connections 1",
            "riverrun_internal_open_connections 0",
            "riverrun_connections_given_up_total{cause=\"takes_nothing\"} 1",
            "riverrun_connections_given_up_total{cause=\"says_nothing\"} 0",
            "riverrun_internal_connections_given_up_total{cause=\"says_nothing\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        drop(open);
        assert!(registry.encode().contains("riverrun_open_connections 0"));
    }
}
