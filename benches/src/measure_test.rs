use std::sync::Arc;

use tokio::time::sleep;

use super::*;
use crate::{recorder::Measure, workload::Kind};

fn workload(duration_ms: u64, warm_up_ms: u64) -> Workload {
    Workload {
        duration_ms: Duration::from_millis(duration_ms),
        warm_up_ms: Duration::from_millis(warm_up_ms),
        ..Workload::default()
    }
}

/// Runs `load` on a recorder and a stop of its own.
async fn run<F: Future<Output = Result<()>>>(
    workload: &Workload,
    burst_bytes: Option<u64>,
    load: impl FnOnce(Arc<Recorder>, Stop) -> F,
) -> Result<Run> {
    let (recorder, stop) = (Arc::new(Recorder::new()), Stop::new());
    let accounts = Accounts::of(None, None);
    let measurement = Measurement {
        subject: "test",
        round: 1,
        workload,
        recorder: &recorder,
        stop: &stop,
        accounts: &accounts,
        data: None,
        burst_bytes,
        settings: BTreeMap::new(),
        progress: false,
    };
    measurement.run(|_| load(Arc::clone(&recorder), stop.clone())).await
}

/// One record after the other until it is told to stop.
async fn steadily(recorder: Arc<Recorder>, stop: Stop) -> Result<()> {
    while !stop.is_told() {
        let start = Moment::now();
        sleep(Duration::from_millis(1)).await;
        recorder.record(Measure::Ack).add(start, Moment::now());
        recorder.produced(1, 10);
        recorder.appended(20);
    }
    Ok(())
}

#[tokio::test]
async fn time_ends_a_run_and_the_warm_up_does_not_count() {
    let run = run(&workload(100, 50), None, steadily).await.unwrap();
    let produced = run.produced.unwrap();
    assert_eq!(produced.bytes, produced.records * 10);
    let appended = run.cost.appended_bytes.unwrap();
    assert!(appended > produced.records * 20, "the warm-up was appended as well");
    assert!(run.consumed.is_none());
    assert!(run.latencies["ack"].count <= produced.records + 1);
    assert_eq!(run.series.len(), 1);
    assert_eq!(run.cost.device_bytes_per_byte, None);
    assert!(run.notes[0].contains("not known"), "{:?}", run.notes);
}

#[tokio::test]
async fn a_counted_run_counts_from_the_beginning_to_the_end() {
    let mut workload = workload(60_000, 10_000);
    workload.records = Some(5);
    let run = run(&workload, None, async |recorder, _| {
        for _ in 0..5 {
            sleep(Duration::from_millis(1)).await;
            recorder.produced(1, 10);
        }
        Ok(())
    });
    assert_eq!(run.await.unwrap().produced.unwrap().records, 5);
}

#[tokio::test]
async fn a_burst_ends_at_its_bytes_and_says_so() {
    let run = run(&workload(60_000, 0), Some(400), steadily).await.unwrap();
    assert!(run.cost.appended_bytes.unwrap() >= 400);
    assert!(run.notes.iter().any(|note| note.contains("burst ended")), "{:?}", run.notes);
}

#[tokio::test]
async fn failures_of_the_load_are_failures_of_the_run() {
    let quick = workload(60_000, 0);
    let failed = run(&quick, None, async |_, _| Err(BenchError::Failed("no broker".into())));
    assert!(failed.await.unwrap_err().to_string().contains("no broker"));
    let warming = workload(60_000, 10_000);
    let early = run(&warming, None, async |_, _| Ok(()));
    assert!(early.await.unwrap_err().to_string().contains("within its warm-up"));
}

#[tokio::test]
async fn both_directions_are_told_where_both_are_measured() {
    let workload = Workload { kind: Kind::ProduceConsume, records: Some(1), ..workload(1_000, 0) };
    let run = run(&workload, None, async |recorder, _| {
        recorder.produced(4, 40);
        recorder.consumed(3, 30);
        recorder.failed(1, "lost");
        Ok(())
    });
    let run = run.await.unwrap();
    assert_eq!((run.produced.unwrap().records, run.consumed.unwrap().records), (4, 3));
    assert_eq!((run.errors.records, run.errors.first.as_slice()), (1, &["lost".to_owned()][..]));
}
