//! The broker's configuration: plain data, read once at start, passed down, never ambient.
//!
//! Each part is one table ([`section`]) in a file of its own, with the documentation, default and
//! bounds of every key. [`Config::load`] merges defaults, file, environment and flags;
//! [`Config::check`] holds what lies between keys; everything that is wrong is reported at once
//! ([`Problems`]). Keys are Kafka's where Kafka has one; a key that is a size contains `bytes`, one
//! that is a duration ends in `ms`, and a bare number is in that unit.

mod broker;
mod check;
mod controller;
mod fetch;
mod load;
mod log;
mod machine;
mod network;
mod problem;
mod produce;
mod reference;
mod replica;
mod section;
mod telemetry;
mod tls;
mod topic;
mod topic_overrides;
mod units;
mod value;

pub use broker::{BrokerConfig, MEMORY_BUDGET_MIN};
pub use controller::ControllerConfig;
pub use fetch::FetchConfig;
pub use log::LogConfig;
pub use network::{GRPC_PORT, HTTP_PORT, INTERNAL_PORT, NetworkConfig};
pub use problem::{Origin, Problem, Problems};
pub use produce::ProduceConfig;
pub use replica::ReplicaConfig;
pub use section::Key;
pub use telemetry::TelemetryConfig;
pub use tls::{ClientAuth, TlsConfig};
pub use topic::{
    CleanupPolicy, CompressionType, Durability, DurabilityChoice, MinInsyncReplicas, TimestampType,
    TopicConfig, TopicDefaults,
};
pub use topic_overrides::{TopicConfigEntry, TopicOverrides};
pub use units::{ByteSize, InvalidUnit, parse_duration, show_duration};
pub use value::{LogFilter, LogFormat, MemoryBudget, ServerList};

use section::{Section, SetError};

/// The configuration of one broker.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Who this broker is, where its data lives, what it may take of the machine.
    pub broker: BrokerConfig,
    /// Where it listens, what it tells clients to dial, what a connection may take.
    pub network: NetworkConfig,
    /// Certificates of the ports.
    pub tls: TlsConfig,
    /// The metadata quorum, and how it is found.
    pub controller: ControllerConfig,
    /// How segments are written, flushed and cleaned.
    pub log: LogConfig,
    /// Defaults of all topics.
    pub topic: TopicDefaults,
    /// What producers may have on its way.
    pub produce: ProduceConfig,
    /// How far behind replicas may be.
    pub replica: ReplicaConfig,
    /// What readers may take.
    pub fetch: FetchConfig,
    /// Log lines and metrics.
    pub telemetry: TelemetryConfig,
}

impl Config {
    /// All keys, in the order of the documentation.
    pub fn keys() -> impl Iterator<Item = &'static Key> {
        let keys: Vec<&'static [Key]> =
            Self::default().sections().iter().map(|(_, section)| section.keys()).collect();
        keys.into_iter().flatten()
    }

    /// The value in force of a key, canonical; `None` if there is no such key.
    pub fn get(&self, key: &str) -> Option<String> {
        self.sections().into_iter().find_map(|(_, section)| section.get(key))
    }

    fn sections(&self) -> [(&'static str, &dyn Section); 10] {
        [
            ("broker", &self.broker),
            ("network", &self.network),
            ("tls", &self.tls),
            ("controller", &self.controller),
            ("log", &self.log),
            ("topic", &self.topic),
            ("produce", &self.produce),
            ("replica", &self.replica),
            ("fetch", &self.fetch),
            ("telemetry", &self.telemetry),
        ]
    }

    fn set(&mut self, key: &str, text: &str) -> Result<(), SetError> {
        let section: &mut dyn Section = match key.split('.').next() {
            Some("broker") => &mut self.broker,
            Some("network") => &mut self.network,
            Some("tls") => &mut self.tls,
            Some("controller") => &mut self.controller,
            Some("log") => &mut self.log,
            Some("topic") => &mut self.topic,
            Some("produce") => &mut self.produce,
            Some("replica") => &mut self.replica,
            Some("fetch") => &mut self.fetch,
            Some("telemetry") => &mut self.telemetry,
            _ => return Err(SetError::UnknownKey),
        };
        section.set(key, text)
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
