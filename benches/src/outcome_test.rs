use super::*;

fn document() -> Document {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
    (1..=1000u64).for_each(|us| histogram.record(us * 1000).unwrap());
    let run = Run {
        subject: Subject::RIVERRUN.into(),
        subject_version: None,
        round: 1,
        workload: Workload::default(),
        settings: BTreeMap::from([("log.reserve.bytes".into(), "0".into())]),
        produced: Some(Throughput::new(1000, 1_024_000, 2.0)),
        consumed: None,
        latencies: BTreeMap::from([(latency::ACK.into(), Latency::of(&histogram).unwrap())]),
        cost: Cost { generator_cpu_s: Some(0.5), ..Cost::default() },
        errors: Errors::default(),
        series: vec![Second { at_s: 1.0, ..Second::default() }],
        notes: vec!["a note".into()],
    };
    let machine = Machine::here(Path::new("/"));
    Document {
        schema: SCHEMA,
        started: "2026-01-01T00:00:00Z".into(),
        command: vec!["riverrun-bench".into()],
        surroundings: Surroundings {
            version: "0".into(),
            commit: None,
            build: "debug".into(),
            machine,
            load_average: None,
            dirty: None,
        },
        runs: vec![run],
        comparisons: vec![],
        restarts: vec![],
        failovers: vec![],
        isr_faults: vec![],
    }
}

#[test]
fn a_document_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    let written = document();
    written.write(&path).unwrap();
    let read = Document::read(&path).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&written).unwrap());
    let run = &read.runs[0];
    assert_eq!(run.produced.unwrap().records_per_s.to_bits(), 500f64.to_bits());
    let ack = &run.latencies[latency::ACK];
    assert!((495_000..=505_000).contains(&ack.p50_ns), "{ack:?}");
    let histogram = ack.histogram().unwrap();
    assert_eq!((histogram.len(), histogram.max()), (ack.count, ack.max_ns));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn fields_that_a_first_version_lacked_may_be_missing() {
    let mut value = serde_json::to_value(document()).unwrap();
    value.as_object_mut().unwrap().remove("comparisons");
    for field in ["restarts", "failovers", "isr_faults"] {
        value.as_object_mut().unwrap().remove(field);
    }
    let run = value["runs"][0].as_object_mut().unwrap();
    for field in ["subject_version", "settings", "consumed", "latencies", "series", "notes"] {
        run.remove(field);
    }
    serde_json::from_value::<Document>(value).unwrap();
}

#[test]
fn newer_and_foreign_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    for (text, says) in [
        (r#"{"schema": 2, "changed": true}"#, "version 2"),
        (r#"{"benchmark": "other"}"#, "no result of riverrun-bench"),
        ("[1, 2", "no result of riverrun-bench"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Document::read(&path).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    assert!(Document::read(&dir.path().join("none")).is_err());
}

#[test]
fn a_damaged_histogram_is_an_error_and_an_empty_one_is_none() {
    let mut latency = document().runs[0].latencies[latency::ACK].clone();
    latency.histogram.insert(4, '!');
    assert!(latency.histogram().is_err());
    latency.histogram = BASE64.encode([1, 2, 3]);
    assert!(latency.histogram().is_err());
    assert_eq!(Latency::of(&Histogram::new(3).unwrap()), None);
}

#[test]
fn no_time_is_no_rate() {
    let nothing = Throughput::new(5, 5, 0.0);
    assert_eq!(nothing.records_per_s.to_bits(), 0f64.to_bits());
}
