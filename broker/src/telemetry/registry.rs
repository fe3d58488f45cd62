//! Where metrics are kept between scrapes.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::text,
    registry::{Metric, Registry as Families, Unit},
};

/// What `/metrics` answers in: OpenMetrics text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Begins every name.
const PREFIX: &str = "riverrun";

/// All metrics of one broker. Cheap to clone; passed down, never global, so that a process can hold
/// several brokers.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Mutex<Registered>>);

#[derive(Debug)]
struct Registered {
    families: Families,
    names: BTreeSet<String>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// Empty.
    pub fn new() -> Self {
        let families = Families::with_prefix(PREFIX);
        Self(Arc::new(Mutex::new(Registered { families, names: BTreeSet::new() })))
    }

    /// Adds a family; `name` without `riverrun_` and without `_total`.
    ///
    /// # Panics
    /// If the name is taken: Prometheus would refuse the whole scrape.
    pub(super) fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.claim(name).families.register(name, help, metric);
    }

    /// Adds a family of durations; `name` without `_seconds`.
    pub(super) fn register_seconds(&self, name: &str, help: &str, metric: impl Metric) {
        self.claim(name).families.register_with_unit(name, help, Unit::Seconds, metric);
    }

    /// Adds something that is asked at every scrape, under a name of its own for the check of
    /// names. It must not use this registry: the lock is held.
    pub(super) fn collect(&self, name: &str, collector: impl Collector) {
        self.claim(name).families.register_collector(Box::new(collector));
    }

    /// All metrics as OpenMetrics text. May block for as long as the collectors' closures do.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.0.lock().families).expect("a String takes everything");
        out
    }

    fn claim(&self, name: &str) -> parking_lot::MutexGuard<'_, Registered> {
        let mut registered = self.0.lock();
        assert!(registered.names.insert(name.to_owned()), "metric {name} registered twice");
        registered
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn names_get_prefix_and_unit() {
        let registry = Registry::new();
        let waits: Counter = Counter::default();
        registry.register_seconds("waits", "Waits", waits.clone());
        waits.inc_by(3);
        let text = registry.encode();
        assert!(text.contains("\nriverrun_waits_seconds_total 3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    #[should_panic(expected = "registered twice")]
    fn a_name_is_taken_once() {
        let registry = Registry::new();
        registry.register("a", "A", Counter::<u64>::default());
        registry.register("a", "A", Counter::<u64>::default());
    }
}
