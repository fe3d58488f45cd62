use std::{sync::Arc, time::Duration};

use riverrun_proto::ids::TopicId;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{drain, null, pump};
use crate::{
    clock::Moment,
    payload::Batches,
    recorder::{Measure, Recorder},
    stop::{Quota, Stop},
    workload::Workload,
};

/// A null server in this process, and what load against it needs.
struct Bed {
    address: String,
    server: JoinHandle<()>,
    workload: Arc<Workload>,
    batches: Batches,
    recorder: Arc<Recorder>,
    stop: Stop,
}

impl Bed {
    async fn new(workload: Workload) -> Self {
        let batches = Batches::encode(&workload).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let sent = batches.clone();
        let server = tokio::spawn(async move {
            null::serve(listener, sent.all(), std::future::pending()).await.unwrap();
        });
        let recorder = Arc::new(Recorder::new());
        recorder.begin(Moment::now());
        let workload = Arc::new(workload);
        Self { address, server, workload, batches, recorder, stop: Stop::new() }
    }

    fn pumps(&self, records: Option<u64>) -> pump::Pumps {
        pump::Pumps {
            address: self.address.clone(),
            topic: TopicId::random(),
            workload: Arc::clone(&self.workload),
            batches: self.batches.clone(),
            measure: Measure::Ack,
            recorder: Arc::clone(&self.recorder),
            stop: self.stop.clone(),
            quota: Arc::new(Quota::new(records)),
        }
    }

    fn drains(&self, records: Option<u64>) -> drain::Drains {
        drain::Drains {
            address: self.address.clone(),
            topic: TopicId::random(),
            workload: Arc::clone(&self.workload),
            ends: None,
            recorder: Arc::clone(&self.recorder),
            stop: self.stop.clone(),
            quota: Arc::new(Quota::new(records)),
        }
    }
}

#[tokio::test]
async fn every_batch_is_answered_and_counted_whatever_is_in_flight() {
    for (in_flight, partitions, producers, batch_bytes) in
        [(1, 1, 1, 65_536), (32, 1, 1, 4_096), (2, 7, 3, 4_096), (32, 1, 1, 1 << 20)]
    {
        let bed = Bed::new(Workload {
            in_flight,
            partitions,
            producers,
            batch_bytes,
            ..Workload::default()
        })
        .await;
        let records = bed.batches.records * 50;
        pump::run(&bed.pumps(Some(records)), Moment::now()).await.unwrap();
        let counts = bed.recorder.counts();
        assert_eq!(counts.produced_records, records);
        assert_eq!(counts.produced_bytes, records * 1024);
        assert_eq!(bed.recorder.latencies().next().unwrap().1.count, 50);
        assert_eq!(counts.errors, 0);
    }
}

#[tokio::test]
async fn an_open_loop_sends_all_that_is_due_and_no_more() {
    let workload =
        Workload { rate: Some(200.0), batch_bytes: 256, payload_bytes: 200, ..Workload::default() };
    let bed = Bed::new(workload).await;
    assert_eq!(bed.batches.records, 1);
    let start = Moment::now();
    pump::run(&bed.pumps(Some(20)), start).await.unwrap();
    // The last is due after 95 ms.
    assert!(Moment::now().since(start) >= Duration::from_millis(95));
    assert_eq!(bed.recorder.counts().produced_records, 20);
}

#[tokio::test]
async fn a_source_is_read_past_its_first_credit() {
    let bed = Bed::new(Workload::default()).await;
    // Three times the window of a stream.
    let records = 48 << 10;
    drain::run(&bed.drains(Some(records))).await.unwrap();
    let counts = bed.recorder.counts();
    assert_eq!((counts.consumed_records, counts.consumed_bytes), (records, records * 1024));
}

#[tokio::test]
async fn both_end_when_they_are_told() {
    let bed = Bed::new(Workload::default()).await;
    let (pumps, drains) = (bed.pumps(None), bed.drains(None));
    let telling = async {
        while bed.recorder.counts().produced_records == 0
            || bed.recorder.counts().consumed_records == 0
        {
            tokio::task::yield_now().await;
        }
        bed.stop.tell();
    };
    let (pumped, drained, ()) =
        tokio::join!(pump::run(&pumps, Moment::now()), drain::run(&drains), telling);
    pumped.unwrap();
    drained.unwrap();
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_error_and_not_a_wait() {
    let bed = Bed::new(Workload::default()).await;
    let pumps = bed.pumps(None);
    let drains = bed.drains(None);
    bed.server.abort();
    let _ = bed.server.await;
    let error = pump::run(&pumps, Moment::now()).await.unwrap_err().to_string();
    assert!(error.contains(&bed.address), "{error}");
    assert!(drain::run(&drains).await.is_err());
}
