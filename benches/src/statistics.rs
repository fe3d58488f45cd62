//! Ratios of what alternated: absolute figures of one machine differ by a factor of two from hour to
//! hour, ratios within one run carry over.

use crate::{
    error::{BenchError, Result},
    outcome::{Comparison, Latency, Run, Throughput, Yardstick},
};

/// A null sink below this share of loopback TCP was starved itself: it is no yardstick.
pub const YARDSTICK_SHARE_MIN: f64 = 0.55;

/// Middle, lowest and highest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

/// A figure of a run that ratios are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Bytes of payload written per second.
    ProducedBytes,
    /// Bytes of payload read per second.
    ConsumedBytes,
    /// Median of a latency, by its name.
    Median(&'static str),
    /// CPU seconds of all processes of the subject, per GB of payload.
    SubjectCpu,
}

// === impl Spread ===

impl Spread {
    /// `None` if there are none, or one is no number.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| value.is_nan()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[half - 1], sorted[half])
        } else {
            sorted[half]
        };
        Some(Self { median, min: sorted[0], max: sorted[sorted.len() - 1] })
    }
}

// === impl Figure ===

impl Figure {
    /// Its name in documents.
    pub fn name(self) -> String {
        match self {
            Self::ProducedBytes => "produced_bytes_per_s".into(),
            Self::ConsumedBytes => "consumed_bytes_per_s".into(),
            Self::Median(latency) => format!("{latency}.p50_ns"),
            Self::SubjectCpu => "subject_cpu_s_per_gb".into(),
        }
    }

    /// Its value; `None` if the run has none, or it is zero.
    pub fn of(self, run: &Run) -> Option<f64> {
        let rate = |throughput: Option<Throughput>| throughput.map(|t| t.bytes_per_s);
        let value = match self {
            Self::ProducedBytes => rate(run.produced),
            Self::ConsumedBytes => rate(run.consumed),
            Self::Median(name) => run.latencies.get(name).map(|l: &Latency| l.p50_ns as f64),
            Self::SubjectCpu => run.cost.subject_cpu_s_per_gb,
        };
        value.filter(|value| *value > 0.0)
    }
}

/// Divides the `of` figures of one subject by the `to` figures of another, round by round.
///
/// # Errors
/// A round lacks one of the two, or its figure.
pub fn compare(
    runs: &[Run],
    (of, of_figure): (&str, Figure),
    (to, to_figure): (&str, Figure),
) -> Result<Comparison> {
    let rounds = runs.iter().map(|run| run.round).max().unwrap_or(0);
    let figure = |round: u32, subject: &str, figure: Figure| {
        let run = runs.iter().find(|run| run.round == round && run.subject == subject);
        run.and_then(|run| figure.of(run)).ok_or_else(|| {
            BenchError::Failed(format!("round {round}: {subject} has no {}", figure.name()))
        })
    };
    let ratios = (1..=rounds)
        .map(|round| Ok(figure(round, of, of_figure)? / figure(round, to, to_figure)?))
        .collect::<Result<Vec<_>>>()?;
    let Some(Spread { median, min, max }) = Spread::of(&ratios) else {
        return Err(BenchError::Failed(format!("no round of {of} and {to}")));
    };
    let workload = runs.first().map_or_else(String::new, |run| run.workload.name.clone());
    Ok(Comparison {
        workload,
        of: of.to_owned(),
        to: to.to_owned(),
        figure: of_figure.name(),
        ratios,
        median,
        min,
        max,
        yardstick: None,
    })
}

/// Judges a ceiling by its share of a better one.
pub fn yardstick(share: &Comparison) -> Yardstick {
    Yardstick {
        against: share.to.clone(),
        share: share.median,
        least: YARDSTICK_SHARE_MIN,
        accepted: share.median >= YARDSTICK_SHARE_MIN,
    }
}

#[cfg(test)]
#[path = "statistics_test.rs"]
mod tests;
