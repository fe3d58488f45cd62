use std::{collections::BTreeMap, path::Path, time::Duration};

use hdrhistogram::Histogram;
use riverrun_broker::cli::Machine;

use super::*;
use crate::{
    outcome::{Cost, Errors, Latency, SCHEMA, Subject, Surroundings, Throughput, latency},
    workload::Kind,
};

/// Three rounds of producing, of the product and of a peer that tells percentiles only; one of
/// consuming.
pub(crate) fn sample() -> Document {
    let produce = Workload { name: "produce".into(), ..Workload::default() };
    let consume = Workload { name: "consume".into(), kind: Kind::Consume, ..Workload::default() };
    let mut runs = Vec::new();
    for (round, mb) in [(1, 900), (2, 1000), (3, 1250)] {
        let mut ours = run(Subject::RIVERRUN, round, &produce);
        ours.produced = Some(Throughput::new(mb * 1000, mb * 1_000_000, 1.0));
        ours.latencies.insert(latency::ACK.into(), Latency::of(&histogram()).unwrap());
        ours.cost = Cost {
            generator_cpu_s_per_gb: Some(0.75),
            subject_cpu_s_per_gb: Some(0.5),
            ..Cost::default()
        };
        let mut theirs = run("kafka", round, &produce);
        theirs.subject_version = Some("4.3.1, Java 17".into());
        theirs.settings = BTreeMap::from([("broker.jvm".into(), "-Xmx1G".into())]);
        theirs.produced = Some(Throughput::new(mb * 250, mb * 250_000, 1.0));
        theirs.latencies.insert(latency::ACK.into(), percentiles());
        theirs.notes = vec!["kafka: whole milliseconds".into()];
        runs.extend([ours, theirs]);
    }
    let mut read = run(Subject::RIVERRUN, 1, &consume);
    read.consumed = Some(Throughput::new(2_000_000, 2_000_000_000, 1.0));
    runs.push(read);
    Document {
        schema: SCHEMA,
        started: "2026-01-01T00:00:00Z".into(),
        command: vec!["riverrun-bench".into(), "compare".into(), "kafka".into()],
        surroundings: Surroundings {
            version: "0.1.0".into(),
            commit: Some("abc123".into()),
            build: "release".into(),
            machine: Machine::here(Path::new("/")),
            load_average: Some(0.5),
            dirty: None,
        },
        runs,
        comparisons: vec![Comparison {
            workload: "produce".into(),
            of: Subject::RIVERRUN.into(),
            to: "kafka".into(),
            figure: "produced_bytes_per_s".into(),
            ratios: vec![4.0, 4.0, 5.0],
            median: 4.0,
            min: 4.0,
            max: 5.0,
            yardstick: None,
        }],
        restarts: vec![],
        failovers: vec![],
        isr_faults: vec![],
    }
}

fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
    (1..=1000u64).for_each(|us| histogram.record(us * 1000).unwrap());
    histogram
}

fn percentiles() -> Latency {
    Latency {
        count: 1000,
        p50_ns: 4_000_000,
        p90_ns: None,
        p99_ns: 9_000_000,
        p999_ns: 20_000_000,
        max_ns: 30_000_000,
        histogram: String::new(),
    }
}

fn run(subject: &str, round: u32, workload: &Workload) -> Run {
    Run {
        subject: subject.into(),
        subject_version: None,
        round,
        workload: Workload { duration_ms: Duration::from_secs(1), ..workload.clone() },
        settings: BTreeMap::new(),
        produced: None,
        consumed: None,
        latencies: BTreeMap::new(),
        cost: Cost::default(),
        errors: Errors::default(),
        series: vec![],
        notes: vec![],
    }
}

#[test]
fn runs_are_put_together_by_workload_and_subject() {
    let document = sample();
    let groups = Group::all(&document);
    let shape: Vec<(&str, Vec<(&str, usize)>)> = groups
        .iter()
        .map(|group| {
            let rows = group.rows.iter().map(|row| (row.subject, row.runs.len())).collect();
            (group.workload.name.as_str(), rows)
        })
        .collect();
    assert_eq!(
        shape,
        [("produce", vec![("riverrun", 3), ("kafka", 3)]), ("consume", vec![("riverrun", 1)])]
    );
    assert_eq!(groups[0].comparisons.len(), 1);
    assert!(groups[1].comparisons.is_empty());
    let written = |run: &Run| run.produced.map(|t| t.bytes_per_s);
    let spread = groups[0].rows[0].spread(written).unwrap();
    assert_eq!([spread.min, spread.median, spread.max], [9e8, 1e9, 1.25e9]);
    assert_eq!(groups[1].rows[0].spread(written), None);
}

#[test]
fn versions_and_settings_of_each_subject_are_told() {
    let text = settings(&sample());
    assert!(text.contains("  kafka 4.3.1, Java 17: broker.jvm=-Xmx1G\n"), "{text}");
    assert!(text.contains("  riverrun: defaults\n"), "{text}");
    assert!(text.contains("settings of consume"), "{text}");
}
