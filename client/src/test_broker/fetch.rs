//! `ConsumeService` of the test cluster.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream;
use riverrun_proto::{
    ids::TopicId,
    reason::Reason,
    rpc::v1::{
        self, consume_service_server::ConsumeService, fetch_stream_request::Request as Said,
        fetch_stream_response::Response as Answer, partition_data::Outcome,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{State, error, log::header, network::Broker};

const HEARTBEAT: Duration = Duration::from_secs(10);
/// Batches of one partition in a message.
const BATCHES: usize = 4;

/// One stream.
struct Reading {
    at: BTreeMap<PartitionKey, Place>,
    credit: i64,
    messages: u32,
    out: mpsc::Sender<Result<v1::FetchStreamResponse, Status>>,
    /// The reader named its rack.
    has_rack: bool,
}

type PartitionKey = ([u8; 16], i32);

#[derive(Clone, Copy)]
struct Place {
    next: i64,
    /// Looked at once.
    last_read_epoch: Option<i32>,
    /// The reader was told that it has everything up to here.
    told_end: Option<i64>,
    /// And that this broker was cut off.
    told_cut: bool,
    /// It was answered an error, and has to be set again.
    stopped: bool,
    no_redirect: bool,
}

#[tonic::async_trait]
impl ConsumeService for Broker {
    type FetchStreamStream = BoxStream<'static, Result<v1::FetchStreamResponse, Status>>;
    type ConsumeStream = BoxStream<'static, Result<v1::ConsumeResponse, Status>>;
    type TailStream = BoxStream<'static, Result<v1::TailResponse, Status>>;

    async fn fetch(
        &self,
        _: Request<v1::FetchRequest>,
    ) -> Result<Response<v1::FetchResponse>, Status> {
        Err(Status::unimplemented("the Rust client does not use it"))
    }

    async fn fetch_stream(
        &self,
        request: Request<Streaming<v1::FetchStreamRequest>>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        // One message at a time: what is not read here waits for credit, not in a queue.
        let (out, answers) = mpsc::channel(1);
        self.cluster.state().seen.fetch_streams += 1;
        tokio::spawn(self.clone().run_fetch_stream(request.into_inner(), out));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn consume(
        &self,
        _: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        Err(Status::unimplemented("groups are another issue"))
    }

    async fn tail(
        &self,
        _: Request<v1::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        Err(Status::unimplemented("the Rust client does not use it"))
    }
}

impl Broker {
    async fn run_fetch_stream(
        self,
        mut said: Streaming<v1::FetchStreamRequest>,
        out: mpsc::Sender<Result<v1::FetchStreamResponse, Status>>,
    ) {
        let Ok(Some(v1::FetchStreamRequest { request: Some(Said::Open(open)) })) =
            said.message().await
        else {
            return;
        };
        let mut changes = self.cluster.subscribe();
        let mut reading = Reading {
            at: BTreeMap::new(),
            credit: i64::try_from(open.initial_credit_bytes.unwrap_or(1 << 40)).unwrap(),
            messages: 0,
            out,
            has_rack: !open.client_rack.is_empty(),
        };
        self.cluster.state().seen.credit_granted += open.initial_credit_bytes.unwrap_or(0);
        reading.set(open.partitions);
        loop {
            changes.mark_unchanged();
            let mute = self.cluster.state().faults.mute_fetch;
            if !mute && !self.push(&mut reading).await {
                return;
            }
            tokio::select! {
                message = said.message() => {
                    let Ok(Some(message)) = message else { return };
                    match message.request {
                        Some(Said::Credit(credit)) => {
                            reading.credit += i64::try_from(credit.bytes).unwrap();
                            self.cluster.state().seen.credit_granted += credit.bytes;
                        }
                        Some(Said::Update(update)) => {
                            if self.cluster.state().faults.stale_before_update {
                                // The reader's credit allows it, and it has not heard of us yet.
                                self.push_one(&mut reading).await;
                            }
                            for partition in update.remove {
                                reading.at.remove(&key(&partition));
                            }
                            reading.set(update.set);
                            let updated = v1::PartitionsUpdated { generation: update.generation };
                            if !reading.send(Answer::Updated(updated)).await {
                                return;
                            }
                        }
                        _ => return,
                    }
                }
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(HEARTBEAT) => {
                    if !mute && !reading.send(Answer::Heartbeat(v1::Heartbeat {})).await {
                        return;
                    }
                }
            }
        }
    }

    /// Sends all there is credit for.
    async fn push(&self, reading: &mut Reading) -> bool {
        while let Some(sent) = self.push_one(reading).await {
            if !sent {
                return false;
            }
            let cut_after = self.cluster.state().faults.cut_fetch_after;
            if cut_after.is_some_and(|n| reading.messages >= n) {
                // What was sent arrives.
                tokio::time::sleep(Duration::from_millis(1)).await;
                self.cluster.cut(self.id);
                return false;
            }
        }
        true
    }

    /// `None`: nothing to send.
    async fn push_one(&self, reading: &mut Reading) -> Option<bool> {
        let items = {
            let mut state = self.cluster.state();
            let mut items = Vec::new();
            let has_rack = reading.has_rack;
            let credit = &mut reading.credit;
            for (key, place) in &mut reading.at {
                if let Some(data) = self.read(&mut state, *key, place, *credit, has_rack) {
                    if data.credit_bytes > 0 {
                        *state.seen.served.entry(self.id).or_default() += 1;
                    }
                    *credit -= i64::try_from(data.credit_bytes).unwrap();
                    state.seen.credit_used += data.credit_bytes;
                    items.push(data);
                }
            }
            items
        };
        if items.is_empty() {
            return None;
        }
        reading.messages += 1;
        Some(reading.send(Answer::Data(v1::PartitionDataList { items })).await)
    }

    fn read(
        &self,
        state: &mut State,
        key: PartitionKey,
        place: &mut Place,
        credit: i64,
        has_rack: bool,
    ) -> Option<v1::PartitionData> {
        if place.stopped {
            return None;
        }
        let topic = TopicId::from_bytes(&key.0).unwrap();
        let at = (topic, key.1.cast_unsigned());
        let faults = &mut state.faults;
        let fault = match faults.fetch_errors_again.checked_sub(1) {
            Some(again) if faults.fetch_errors.contains_key(&at) => {
                faults.fetch_errors_again = again;
                faults.fetch_errors.get(&at).cloned()
            }
            _ => faults.fetch_errors.remove(&at),
        };
        let is_cut_off = state.faults.cut_off.is_some_and(|(broker, _)| broker == self.id);
        let nearby = state.nearby.get(&at).copied().filter(|_| has_rack);
        let partition = Some(v1::TopicPartition {
            topic: String::new(),
            topic_id: Bytes::copy_from_slice(&key.0),
            partition: key.1,
        });
        let mut failed = |outcome| {
            place.stopped = true;
            let partition = partition.clone();
            Some(v1::PartitionData { partition, outcome: Some(outcome), ..Default::default() })
        };
        if let Some(error) = fault {
            return failed(Outcome::Error(error));
        }
        let Some(log) = state.log(&key.0, key.1) else {
            return failed(Outcome::Error(error(Reason::UnknownTopicId, false, true)));
        };
        let leads = log.leader == Some(self.id) || is_cut_off;
        if let Some(replica) = nearby
            && leads
            && replica != self.id
            && !place.no_redirect
        {
            place.stopped = true;
            let (host, port) = (format!("b{replica}"), 9190);
            let replica = v1::ReadReplica { broker_id: replica, host, port };
            let preferred_read_replica = Some(replica);
            return Some(v1::PartitionData {
                partition,
                preferred_read_replica,
                ..Default::default()
            });
        }
        if !leads && nearby != Some(self.id) {
            return failed(Outcome::Error(error(Reason::NotLeaderOrFollower, true, true)));
        }
        if let Some(leader_epoch) = place.last_read_epoch.take()
            && let Some(end_offset) = log.diverging(leader_epoch, place.next)
        {
            return failed(Outcome::Diverging(v1::Diverging { leader_epoch, end_offset }));
        }
        if place.next < log.log_start || place.next > log.log_end {
            return failed(Outcome::Error(error(Reason::OffsetOutOfRange, false, true)));
        }
        let mut batches = Vec::new();
        let mut bytes = 0;
        // What came since it was cut off it has not.
        while !is_cut_off
            && batches.len() < BATCHES
            && (credit > 0 && bytes < credit)
            && let Some(batch) = log.read(place.next)
        {
            place.next = header(batch).next_offset();
            bytes += i64::try_from(batch.len()).unwrap();
            batches.push(batch.clone());
        }
        let caught_up = is_cut_off || place.next >= log.log_end;
        let news = match is_cut_off {
            true => !std::mem::replace(&mut place.told_cut, true),
            false => caught_up && place.told_end != Some(log.log_end),
        };
        if batches.is_empty() && !news {
            return None;
        }
        if caught_up {
            place.told_end = Some(log.log_end);
        }
        let format = v1::BatchFormat::KafkaV2.into();
        Some(v1::PartitionData {
            partition,
            outcome: Some(Outcome::Batches(v1::EncodedBatches { batches, format })),
            next_offset: Some(place.next),
            high_watermark: Some(log.log_end),
            last_stable_offset: Some(log.log_end),
            log_start_offset: Some(log.log_start),
            caught_up,
            credit_bytes: bytes.cast_unsigned(),
            preferred_read_replica: None,
            others_may_lead: is_cut_off,
        })
    }
}

impl Reading {
    fn set(&mut self, partitions: Vec<v1::PartitionFrom>) {
        for from in partitions {
            let next = match from.start.unwrap().at.unwrap() {
                v1::read_from::At::Offset(offset) => offset,
                other => panic!("the Rust client resolves places itself: {other:?}"),
            };
            let last_read_epoch = from.last_read_epoch;
            let no_redirect = from.no_redirect;
            let place = Place {
                next,
                last_read_epoch,
                told_end: None,
                told_cut: false,
                stopped: false,
                no_redirect,
            };
            self.at.insert(key(&from.partition.unwrap()), place);
        }
    }

    async fn send(&self, answer: Answer) -> bool {
        self.out.send(Ok(v1::FetchStreamResponse { response: Some(answer) })).await.is_ok()
    }
}

fn key(partition: &v1::TopicPartition) -> PartitionKey {
    (partition.topic_id.as_ref().try_into().unwrap(), partition.partition)
}
