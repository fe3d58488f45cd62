//! What runs and since when.

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, family::Family, gauge::Gauge},
    registry::Unit,
};

use super::Registry;

/// Revision of the source this was built from, where the build says so.
const REVISION: &str = match option_env!("RIVERRUN_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Registers `riverrun_application_uptime_seconds_total` and
/// `riverrun_application_build{version,revision}`. `uptime` is asked at every scrape.
pub fn register_application(
    registry: &Registry,
    uptime: impl Fn() -> Duration + Send + Sync + 'static,
) {
    let build = Family::<[(&'static str, &'static str); 2], Gauge>::default();
    build.get_or_create(&[("version", env!("CARGO_PKG_VERSION")), ("revision", REVISION)]).set(1);
    registry.register("application_build", "What runs; always 1", build);
    registry.collect("application_uptime", Uptime(Box::new(uptime)));
}

struct Uptime(Box<dyn Fn() -> Duration + Send + Sync>);

impl fmt::Debug for Uptime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uptime")
    }
}

impl Collector for Uptime {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let uptime = ConstCounter::new((self.0)().as_secs_f64());
        let help = "Time since the broker started";
        let seconds = Some(&Unit::Seconds);
        let encoder =
            encoder.encode_descriptor("application_uptime", help, seconds, MetricType::Counter)?;
        uptime.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_and_uptime_are_there() {
        let registry = Registry::new();
        register_application(&registry, || Duration::from_millis(1_500));
        let text = registry.encode();
        assert!(text.contains("riverrun_application_uptime_seconds_total 1.5\n"), "{text}");
        let version = env!("CARGO_PKG_VERSION");
        let build = format!("riverrun_application_build{{version=\"{version}\",revision=\"");
        assert!(text.contains(&build), "{text}");
    }
}
