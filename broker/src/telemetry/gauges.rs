//! Families of gauges whose values are read at the scrape.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

/// What a family of gauges is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family<'a> {
    /// Without `riverrun_` and without the unit.
    pub(super) name: &'a str,
    /// One sentence.
    pub(super) help: &'a str,
    /// Appended to the name.
    pub(super) unit: Option<&'a Unit>,
}

/// Writes one family with all its series.
pub(super) fn encode_gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    family: Family<'_>,
    series: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return Ok(());
    }
    let mut encoder = descriptor(encoder, family)?;
    for (labels, value) in series {
        gauge(value).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Writes one gauge without labels.
pub(super) fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    family: Family<'_>,
    value: u64,
) -> fmt::Result {
    gauge(value).encode(descriptor(encoder, family)?)
}

/// As [`encode_gauge`], of a value with a sign and a fraction.
pub(super) fn encode_signed_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    family: Family<'_>,
    value: f64,
) -> fmt::Result {
    ConstGauge::new(value).encode(descriptor(encoder, family)?)
}

fn descriptor<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    family: Family<'e>,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    // Registered families get their full stop from the library.
    let help = format!("{}.", family.help);
    encoder.encode_descriptor(family.name, &help, family.unit, MetricType::Gauge)
}

/// Gauges are signed; what does not fit is shown as the most that does.
fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
