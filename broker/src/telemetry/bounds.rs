//! Everything that is bounded shows how full it is and how often it was full.
//!
//! A bound is known by the configuration key that sets it; a share of the memory budget also by its
//! pool, under the names that dashboards of other brokers use.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{counter::Counter, family::Family},
    registry::Unit,
};

use super::{
    Registry,
    gauges::{self, encode_gauges},
};

/// How full something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// What is taken.
    pub used: u64,
    /// What there is in all.
    pub limit: u64,
}

/// All bounds of a broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bounds {
    pools: Watched,
    counts: Watched,
    hits: Family<[(&'static str, &'static str); 1], Counter>,
}

/// One bound; tells when it was hit.
#[derive(Debug, Clone)]
pub struct Bound(Counter);

type Read = Box<dyn Fn() -> Usage + Send + Sync>;

#[derive(Clone, Default)]
struct Watched(Arc<Mutex<Vec<(&'static str, Read)>>>);

/// The families that show watched usages: label, then names and helps of used and limit.
#[derive(Debug)]
struct Shown {
    watched: Watched,
    label: &'static str,
    unit: Option<Unit>,
    used: (&'static str, &'static str),
    limit: (&'static str, &'static str),
}

impl Bounds {
    /// Registers `riverrun_memory_budget_{used,limit}_bytes{pool}`,
    /// `riverrun_bound_{used,limit}{bound}` and `riverrun_bound_hits_total{bound}`.
    pub fn register(registry: &Registry) -> Self {
        let bounds =
            Self { pools: Watched::default(), counts: Watched::default(), hits: Family::default() };
        registry.collect(
            "memory_budget",
            Shown {
                watched: bounds.pools.clone(),
                label: "pool",
                unit: Some(Unit::Bytes),
                used: ("memory_budget_used", "Memory of the budget in use"),
                limit: ("memory_budget_limit", "What the pool may use"),
            },
        );
        registry.collect(
            "bound",
            Shown {
                watched: bounds.counts.clone(),
                label: "bound",
                unit: None,
                used: ("bound_used", "How much of a limit is taken"),
                limit: ("bound_limit", "The limit, by the configuration key that sets it"),
            },
        );
        let help = "How often somebody had to wait or was refused at a limit";
        registry.register("bound_hits", help, bounds.hits.clone());
        bounds
    }

    /// Shows a share of the memory budget, in bytes. `read` is asked at every scrape.
    pub fn watch_pool(
        &self,
        pool: &'static str,
        read: impl Fn() -> Usage + Send + Sync + 'static,
    ) -> Bound {
        self.pools.add(pool, read);
        self.hits_of(pool)
    }

    /// Shows a limit by its configuration key. `read` is asked at every scrape.
    pub fn watch(
        &self,
        key: &'static str,
        read: impl Fn() -> Usage + Send + Sync + 'static,
    ) -> Bound {
        self.counts.add(key, read);
        self.hits_of(key)
    }

    fn hits_of(&self, bound: &'static str) -> Bound {
        Bound(self.hits.get_or_create_owned(&[("bound", bound)]))
    }
}

impl Bound {
    /// Somebody had to wait or was refused.
    pub fn hit(&self) {
        self.0.inc();
    }

    /// How often so far.
    pub fn hits(&self) -> u64 {
        self.0.get()
    }
}

impl Watched {
    fn add(&self, name: &'static str, read: impl Fn() -> Usage + Send + Sync + 'static) {
        self.0.lock().push((name, Box::new(read)));
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.lock().iter().map(|(name, _)| name)).finish()
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let usages: Vec<(&str, Usage)> =
            self.watched.0.lock().iter().map(|(name, read)| (*name, read())).collect();
        let mut family = |(name, help), value: fn(&Usage) -> u64| {
            let family = gauges::Family { name, help, unit: self.unit.as_ref() };
            let series = usages.iter().map(|(of, usage)| ([(self.label, *of)], value(usage)));
            encode_gauges(&mut encoder, family, series)
        };
        family(self.used, |usage| usage.used)?;
        family(self.limit, |usage| usage.limit)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_bound_shows_what_is_taken_now_and_how_often_it_was_hit() {
        let registry = Registry::new();
        let bounds = Bounds::register(&registry);
        let taken = Arc::new(AtomicU64::new(1));
        let waiters = bounds.watch("fetch.waiters.max", {
            let taken = Arc::clone(&taken);
            move || Usage { used: taken.load(Ordering::Relaxed), limit: 10 }
        });
        bounds.watch_pool("produce", || Usage { used: 7, limit: 64 });
        taken.store(10, Ordering::Relaxed);
        waiters.hit();
        assert_eq!(waiters.hits(), 1);
        let text = registry.encode();
        for line in [
            "riverrun_bound_used{bound=\"fetch.waiters.max\"} 10",
            "riverrun_bound_limit{bound=\"fetch.waiters.max\"} 10",
            "riverrun_bound_hits_total{bound=\"fetch.waiters.max\"} 1",
            "riverrun_bound_hits_total{bound=\"produce\"} 0",
            "riverrun_memory_budget_used_bytes{pool=\"produce\"} 7",
            "riverrun_memory_budget_limit_bytes{pool=\"produce\"} 64",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
