use std::collections::BTreeMap;

use super::*;
use crate::{
    outcome::{Cost, Errors, Subject, latency},
    workload::Workload,
};

fn run(subject: &str, round: u32, bytes_per_s: f64) -> Run {
    Run {
        subject: subject.into(),
        subject_version: None,
        round,
        workload: Workload::default(),
        settings: BTreeMap::new(),
        produced: Some(Throughput { bytes_per_s, ..Throughput::default() }),
        consumed: None,
        latencies: BTreeMap::new(),
        cost: Cost::default(),
        errors: Errors::default(),
        series: vec![],
        notes: vec![],
    }
}

const SINK: (&str, Figure) = (Subject::NULL_SINK, Figure::ProducedBytes);
const TCP: (&str, Figure) = (Subject::TCP_UP, Figure::ProducedBytes);
const OURS: (&str, Figure) = (Subject::RIVERRUN, Figure::ProducedBytes);

#[test]
fn the_middle_and_the_ends() {
    for (values, median, min, max) in [
        (&[3.0][..], 3.0, 3.0, 3.0),
        (&[3.0, 1.0], 2.0, 1.0, 3.0),
        (&[9.0, 1.0, 2.0], 2.0, 1.0, 9.0),
        (&[4.0, 1.0, 2.0, 100.0], 3.0, 1.0, 100.0),
    ] {
        assert_eq!(Spread::of(values), Some(Spread { median, min, max }), "{values:?}");
    }
    assert_eq!(Spread::of(&[]), None);
    assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
}

#[test]
fn ratios_pair_the_rounds_whatever_their_order() {
    let runs = [
        run(Subject::RIVERRUN, 2, 30.0),
        run(Subject::NULL_SINK, 1, 20.0),
        run(Subject::NULL_SINK, 2, 40.0),
        run(Subject::RIVERRUN, 1, 10.0),
        run(Subject::RIVERRUN, 3, 60.0),
        run(Subject::NULL_SINK, 3, 60.0),
    ];
    let found = compare(&runs, OURS, SINK).unwrap();
    assert_eq!(found.ratios, [0.5, 0.75, 1.0]);
    assert_eq!((found.median, found.min, found.max), (0.75, 0.5, 1.0));
    assert_eq!((found.of.as_str(), found.to.as_str()), ("riverrun", "null-sink"));
}

#[test]
fn a_round_that_lacks_a_side_or_a_figure_is_an_error() {
    let lone = [run(Subject::RIVERRUN, 1, 10.0)];
    assert!(compare(&lone, OURS, SINK).unwrap_err().to_string().contains("null-sink"));
    let nothing = [run(Subject::RIVERRUN, 1, 10.0), run(Subject::NULL_SINK, 1, 0.0)];
    assert!(compare(&nothing, OURS, SINK).is_err(), "no division by zero");
    assert!(compare(&[], OURS, SINK).is_err());
    let figure = Figure::Median(latency::ACK);
    assert!(compare(&lone, (Subject::RIVERRUN, figure), SINK).is_err());
}

#[test]
fn a_starved_sink_is_no_yardstick() {
    for (sink, accepted) in [(54.9, false), (55.0, true), (100.0, true)] {
        let runs = [run(Subject::NULL_SINK, 1, sink), run(Subject::TCP_UP, 1, 100.0)];
        let judged = yardstick(&compare(&runs, SINK, TCP).unwrap());
        assert_eq!(judged.accepted, accepted, "{sink}");
        assert_eq!(judged.against, Subject::TCP_UP);
    }
}
