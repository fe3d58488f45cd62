//! `ProduceService` of the test cluster.

use bytes::Bytes;
use futures::stream::BoxStream;
use rand::seq::SliceRandom;
use riverrun_proto::{
    reason::Reason,
    rpc::v1::{
        self, produce_service_server::ProduceService, produce_stream_ack::Outcome,
        produce_stream_request::Request as Said, produce_stream_response::Response as Answer,
    },
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{AppendFault, PartitionAt, error, network::Broker, status};

/// What becomes of an append.
enum Verdict {
    Answer(PartitionAt, v1::ProduceStreamAck),
    Cut,
}

pub(super) fn acks(items: Vec<v1::ProduceStreamAck>) -> v1::ProduceStreamResponse {
    let acks = v1::ProduceStreamAcks { items, max_in_flight_bytes: None };
    v1::ProduceStreamResponse { response: Some(Answer::Acks(acks)) }
}

#[tonic::async_trait]
impl ProduceService for Broker {
    type ProduceStreamStream = BoxStream<'static, Result<v1::ProduceStreamResponse, Status>>;

    async fn produce(
        &self,
        _: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(Status::unimplemented("the Rust client does not use it"))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let (answers, out) = mpsc::channel(1_024);
        self.cluster.state().seen.produce_streams += 1;
        tokio::spawn(self.clone().run_produce_stream(request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let mut state = self.cluster.state();
        if let Some(error) = &state.faults.refuse_calls {
            return Err(status(error));
        }
        state.seen.producers += 1;
        let producer_id = state.next_producer_id;
        state.next_producer_id += 1;
        Ok(Response::new(v1::InitProducerResponse { producer_id, producer_epoch: 0 }))
    }
}

impl Broker {
    async fn run_produce_stream(
        self,
        mut said: Streaming<v1::ProduceStreamRequest>,
        answers: mpsc::Sender<Result<v1::ProduceStreamResponse, Status>>,
    ) {
        match said.message().await {
            Ok(Some(v1::ProduceStreamRequest { request: Some(Said::Open(_)) })) => {}
            _ => return,
        }
        let opened = {
            let state = self.cluster.state();
            v1::ProduceStreamOpened {
                max_in_flight_bytes: state.faults.window_bytes,
                max_batch_bytes: 1 << 20,
                max_in_flight_batches: state.faults.in_flight_batches,
                broker_id: self.id,
            }
        };
        let response = v1::ProduceStreamResponse { response: Some(Answer::Opened(opened)) };
        if answers.send(Ok(response)).await.is_err() {
            return;
        }
        let (later, mut due) = mpsc::channel::<(Instant, v1::ProduceStreamResponse)>(10_000);
        let forward = answers.clone();
        tokio::spawn(async move {
            while let Some((at, response)) = due.recv().await {
                tokio::time::sleep_until(at).await;
                if forward.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        let mut changes = self.cluster.subscribe();
        loop {
            while self.cluster.state().faults.stop_reading {
                if changes.changed().await.is_err() {
                    return;
                }
            }
            let Ok(Some(message)) = said.message().await else { return };
            let Some(Said::Appends(appends)) = message.request else { return };
            self.cluster.state().seen.produce_messages += 1;
            let mut items: Vec<(PartitionAt, v1::ProduceStreamAck)> = Vec::new();
            for append in appends.items {
                match self.append(append) {
                    Verdict::Answer(at, ack) => items.push((at, ack)),
                    Verdict::Cut => {
                        self.cluster.cut(self.id);
                        return;
                    }
                }
            }
            let control = {
                let mut state = self.cluster.state();
                let seen = state.seen.appends;
                state.faults.control_after.take_if(|(number, _)| *number <= seen)
            };
            if let Some((_, control)) = control {
                let response = Some(Answer::Control(control));
                let _ = answers.send(Ok(v1::ProduceStreamResponse { response })).await;
            }
            let (items, delay) = self.hold_and_shuffle(items, &answers);
            if !items.is_empty() {
                let _ = later.send((Instant::now() + delay, acks(items))).await;
            }
        }
    }

    fn hold_and_shuffle(
        &self,
        items: Vec<(PartitionAt, v1::ProduceStreamAck)>,
        answers: &super::AckSender,
    ) -> (Vec<v1::ProduceStreamAck>, std::time::Duration) {
        let mut state = self.cluster.state();
        let mut now = Vec::new();
        for (at, ack) in items {
            let log = state.log(at.0.as_bytes(), at.1.cast_signed());
            if log.is_some_and(|log| log.hold_acks) {
                state.held.push((at, answers.clone(), ack));
            } else {
                now.push((at, ack));
            }
        }
        let faults = &mut state.faults;
        if faults.shuffle_acks {
            // Partitions in any order; a stable sort keeps each one's own.
            let mut order: Vec<PartitionAt> = now.iter().map(|(at, _)| *at).collect();
            order.shuffle(&mut faults.rng);
            now.sort_by_key(|(at, _)| order.iter().position(|other| other == at));
        }
        (now.into_iter().map(|(_, ack)| ack).collect(), faults.ack_delay)
    }

    fn append(&self, append: v1::ProduceStreamAppend) -> Verdict {
        let v1::ProduceStreamAppend { correlation_id, topic_id, partition, batch, .. } = append;
        let outcome = match self.decide(&topic_id, partition, batch) {
            Ok(outcome) => outcome,
            Err(()) => return Verdict::Cut,
        };
        let at = (
            riverrun_proto::ids::TopicId::from_bytes(&topic_id).unwrap(),
            partition.cast_unsigned(),
        );
        let outcome = Some(match outcome {
            Ok(result) => Outcome::Result(result),
            Err(error) => Outcome::Error(error),
        });
        Verdict::Answer(at, v1::ProduceStreamAck { correlation_id, outcome })
    }

    /// `Err(())`: the connection breaks.
    fn decide(
        &self,
        topic: &[u8],
        partition: i32,
        batch: Bytes,
    ) -> Result<Result<v1::AppendResult, v1::Error>, ()> {
        self.cluster.change(|state| {
            state.seen.appends += 1;
            let number = state.seen.appends;
            let fault = state.faults.of_append(number);
            let Some(log) = state.log(topic, partition) else {
                return Ok(Err(error(Reason::UnknownTopicId, false, true)));
            };
            if log.leader != Some(self.id) {
                let leader = log.leader.map(|broker_id| v1::LeaderHint {
                    broker_id,
                    host: format!("b{broker_id}"),
                    port: 9190,
                    leader_epoch: log.leader_epoch,
                });
                let error = error(Reason::NotLeaderOrFollower, true, true);
                return Ok(Err(v1::Error { leader, ..error }));
            }
            match &fault {
                Some(AppendFault::CutBefore) => return Err(()),
                Some(AppendFault::Refuse(error)) => return Ok(Err(error.clone())),
                _ => {}
            }
            let appended = match log.append(batch) {
                Ok(appended) => appended,
                Err(error) => return Ok(Err(error)),
            };
            match fault {
                Some(AppendFault::CutAfter) => return Err(()),
                Some(AppendFault::StoreAndRefuse(error)) => return Ok(Err(error)),
                _ => {}
            }
            Ok(Ok(v1::AppendResult {
                base_offset: Some(appended.0),
                duplicate: appended.1,
                leader_epoch: log.leader_epoch,
                durability: v1::Durability::Disk.into(),
                replicas: 1,
                ..Default::default()
            }))
        })
    }
}
