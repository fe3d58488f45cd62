//! Batches out of `FetchStream`, counted by their headers and not decoded. Against the broker this
//! is what the broker can give; against the null source it is what gRPC can carry.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::try_join_all;
use riverrun_proto::{
    ids::TopicId,
    record::{BatchHeader, HEADER_BYTES},
    rpc::v1::{
        self, consume_service_client::ConsumeServiceClient, fetch_stream_request::Request,
        fetch_stream_response::Response, partition_data::Outcome,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::{MESSAGE_BYTES_MAX, connect};
use crate::{
    error::{BenchError, Result},
    recorder::Recorder,
    stop::{Quota, Stop},
    workload::Workload,
};

/// Credit of one stream: as much as the product's consumer prefetches.
const CREDIT_BYTES: u64 = 16 << 20;

/// Silence after which records that must be there count as lost.
const STALL: Duration = Duration::from_secs(30);

/// Requests on their way into a stream: one grant of credit and one change at a time.
const REQUESTS: usize = 8;

/// What the drains of one run share.
#[derive(Clone, Debug)]
pub struct Drains {
    /// Whom to connect to.
    pub address: String,
    /// What to read.
    pub topic: TopicId,
    /// What is done.
    pub workload: Arc<Workload>,
    /// The offset at which each partition ends; each lap reads up to it. `None`: it never ends.
    pub ends: Option<Arc<Vec<i64>>>,
    /// Where it is counted.
    pub recorder: Arc<Recorder>,
    /// When it ends.
    pub stop: Stop,
    /// Records that are still to be read; whole batches are taken.
    pub quota: Arc<Quota>,
}

/// One stream.
struct Drain {
    drains: Drains,
    partitions: Vec<u32>,
    topic: Bytes,
    requests: mpsc::Sender<v1::FetchStreamRequest>,
    /// Used and not granted again.
    debt_bytes: u64,
    /// Where each partition of this lap is.
    next: HashMap<u32, i64>,
    generation: u64,
    /// Data before the broker's answer to a change is of the lap before.
    stale: bool,
}

/// Reads until it is told to stop or the quota is used up.
///
/// # Errors
/// A stream breaks, is silent where there must be records, or gives an error.
pub async fn run(drains: &Drains) -> Result<()> {
    let consumers = drains.workload.consumers;
    let running = (0..consumers).map(|first| {
        let partitions = (0..drains.workload.partitions).skip(first).step_by(consumers).collect();
        AbortOnDropHandle::new(tokio::spawn(one(drains.clone(), partitions)))
    });
    let running: Vec<_> = running.collect();
    let ended = try_join_all(running).await;
    let ended = ended.map_err(|e| BenchError::Failed(format!("a drain died: {e}")))?;
    ended.into_iter().collect()
}

async fn one(drains: Drains, partitions: Vec<u32>) -> Result<()> {
    let channel = connect(&drains.address).await?;
    let mut client =
        ConsumeServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (requests, outgoing) = mpsc::channel(REQUESTS);
    let mut drain = Drain {
        topic: Bytes::copy_from_slice(drains.topic.as_bytes()),
        drains,
        partitions,
        requests,
        debt_bytes: 0,
        next: HashMap::new(),
        generation: 0,
        stale: false,
    };
    let open = Request::Open(v1::FetchStreamOpen {
        partitions: drain.starts(),
        format: v1::ReadFormat::Encoded.into(),
        isolation: v1::IsolationLevel::ReadUncommitted.into(),
        initial_credit_bytes: Some(CREDIT_BYTES),
        ..Default::default()
    });
    drain.request(open).await;
    let answers = client.fetch_stream(ReceiverStream::new(outgoing)).await;
    let mut answers = answers.map_err(BenchError::rpc("opening a fetch stream"))?.into_inner();
    loop {
        let answer = tokio::select! {
            answer = timeout(STALL, answers.message()) => answer,
            () = drain.drains.stop.told() => return Ok(()),
        };
        let answer = answer.map_err(|_| {
            BenchError::Failed(format!("nothing came for {STALL:?} where there must be records"))
        })?;
        let answer = answer.map_err(BenchError::rpc("reading"))?;
        let Some(answer) = answer else {
            return Err(BenchError::Failed("the fetch stream ended by itself".into()));
        };
        match answer.response {
            Some(Response::Data(data)) => {
                let enough = drain.take(data).await?;
                if enough {
                    return Ok(());
                }
            }
            Some(Response::Updated(updated)) if updated.generation == drain.generation => {
                drain.stale = false;
            }
            _ => {}
        }
    }
}

// === impl Drain ===

impl Drain {
    async fn request(&self, request: Request) {
        // The other end is gone with the stream, which says so itself.
        let _ = self.requests.send(v1::FetchStreamRequest { request: Some(request) }).await;
    }

    fn starts(&self) -> Vec<v1::PartitionFrom> {
        let from = |partition: &u32| v1::PartitionFrom {
            partition: Some(v1::TopicPartition {
                topic: String::new(),
                topic_id: self.topic.clone(),
                partition: partition.cast_signed(),
            }),
            start: Some(v1::ReadFrom { at: Some(v1::read_from::At::Offset(0)) }),
            ..Default::default()
        };
        self.partitions.iter().map(from).collect()
    }

    /// Counts what came; `true`: that was enough.
    async fn take(&mut self, data: v1::PartitionDataList) -> Result<bool> {
        let mut records = 0;
        for item in data.items {
            self.debt_bytes += item.credit_bytes;
            let partition = item.partition.as_ref().map_or(-1, |place| place.partition);
            match item.outcome {
                None => {}
                Some(Outcome::Batches(batches)) if !self.stale => {
                    for batch in &batches.batches {
                        records += records_of(batch)?;
                    }
                }
                Some(Outcome::Batches(_)) => continue,
                Some(Outcome::Error(error)) => {
                    return Err(BenchError::Failed(format!(
                        "partition {partition}: {}: {}",
                        error.reason, error.message
                    )));
                }
                Some(_) => {
                    return Err(BenchError::Failed(format!(
                        "partition {partition}: neither batches nor an error"
                    )));
                }
            }
            if let (Ok(partition), Some(next)) = (u32::try_from(partition), item.next_offset) {
                self.next.insert(partition, next);
            }
        }
        let taken = self.drains.quota.take(records);
        self.drains.recorder.consumed(taken, taken * self.drains.workload.payload_bytes as u64);
        if records > 0 && taken == 0 {
            return Ok(true);
        }
        // Half of the window, as the product's consumer does.
        if self.debt_bytes >= CREDIT_BYTES / 2 {
            let bytes = std::mem::take(&mut self.debt_bytes);
            self.request(Request::Credit(v1::Credit { bytes })).await;
        }
        if self.lap_is_over() {
            self.begin_again().await;
        }
        Ok(false)
    }

    fn lap_is_over(&self) -> bool {
        let Some(ends) = &self.drains.ends else { return false };
        self.partitions.iter().all(|partition| {
            let end = ends[*partition as usize];
            end == 0 || self.next.get(partition).is_some_and(|next| *next >= end)
        })
    }

    async fn begin_again(&mut self) {
        self.next.clear();
        self.generation += 1;
        self.stale = true;
        let set = self.starts();
        let generation = self.generation;
        self.request(Request::Update(v1::UpdatePartitions {
            generation,
            set,
            ..Default::default()
        }))
        .await;
    }
}

/// What the header of a batch says.
fn records_of(batch: &[u8]) -> Result<u64> {
    let header = batch.get(..HEADER_BYTES).map(BatchHeader::parse);
    match header {
        Some(Ok(header)) if header.total_bytes() == batch.len() => {
            Ok(u64::try_from(header.record_count).unwrap_or(0))
        }
        _ => Err(BenchError::Failed("the broker sent a batch that is none".into())),
    }
}
