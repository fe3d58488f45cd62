//! `ProduceStream` and `InitProducer`.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use riverrun_proto::{
    ids::{ProducerId, TopicId},
    limits,
    rpc::v1::{
        self, produce_service_client::ProduceServiceClient, produce_stream_ack::Outcome,
        produce_stream_request::Request, produce_stream_response::Response,
    },
};
use tonic::Status;

use super::{
    Connections, Use, convert,
    outbox::{Outbox, Pull},
    status,
};
use crate::{
    address::Address,
    config::{Acks, Durability},
    error::{Error, Result},
};

/// Bytes of envelope per append, for packing: ids, lengths and tags.
const APPEND_ENVELOPE_BYTES: usize = 64;

/// One batch on its way.
#[derive(Clone, Debug)]
pub(crate) struct Append {
    pub(crate) correlation_id: u64,
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) leader_epoch: Option<i32>,
    pub(crate) batch: Bytes,
}

/// What the broker advertised when the stream was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProduceLimits {
    pub(crate) in_flight_bytes: u64,
    pub(crate) batch_bytes: u32,
    /// Per producer and partition.
    pub(crate) in_flight_batches: usize,
}

/// What the broker says on the stream.
#[derive(Debug)]
pub(crate) enum ProduceEvent {
    /// Outcomes, and the new window if it changed.
    Acks { acks: Vec<Ack>, in_flight_bytes: Option<u64> },
    /// The broker drains, or asks to slow down.
    Control { reconnect: bool, throttle: Option<Duration> },
}

/// Outcome of one append.
#[derive(Debug)]
pub(crate) struct Ack {
    pub(crate) correlation_id: u64,
    pub(crate) outcome: Result<Appended>,
}

/// Where a batch is and what it survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: Option<i64>,
    pub(crate) log_append_time_ms: Option<i64>,
    pub(crate) duplicate: bool,
    pub(crate) leader_epoch: i32,
    pub(crate) durability: Durability,
    pub(crate) replicas: u32,
}

/// An open stream to a leader: the way in. The way out is the stream of events opened with it.
pub(crate) struct ProduceLink(Outbox<Appends>);

struct Appends {
    open: Option<v1::ProduceStreamOpen>,
    waiting: VecDeque<Append>,
}

// === impl ProduceLink ===

impl ProduceLink {
    /// Hands a batch to the transport. The caller keeps within the advertised window, which is
    /// what bounds the queue here.
    pub(crate) fn send(&self, append: Append) {
        self.0.with(|appends| appends.waiting.push_back(append));
    }

    /// Correlation ids of what the transport has not taken: the broker cannot have it.
    pub(crate) fn untaken(&self) -> HashSet<u64> {
        self.0.with(|appends| appends.waiting.iter().map(|append| append.correlation_id).collect())
    }
}

impl fmt::Debug for ProduceLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProduceLink").finish_non_exhaustive()
    }
}

impl Pull for Appends {
    type Message = v1::ProduceStreamRequest;

    fn pull(&mut self) -> Option<v1::ProduceStreamRequest> {
        if let Some(open) = self.open.take() {
            return Some(v1::ProduceStreamRequest { request: Some(Request::Open(open)) });
        }
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(append) = self.waiting.front() {
            let size = append.batch.len() + APPEND_ENVELOPE_BYTES;
            if !items.is_empty() && bytes + size > limits::PACK_TARGET_BYTES {
                break;
            }
            bytes += size;
            items.extend(self.waiting.pop_front().map(append_to_wire));
        }
        (!items.is_empty()).then(|| v1::ProduceStreamRequest {
            request: Some(Request::Appends(v1::ProduceStreamAppends { items })),
        })
    }
}

fn append_to_wire(append: Append) -> v1::ProduceStreamAppend {
    v1::ProduceStreamAppend {
        correlation_id: append.correlation_id,
        topic_id: convert::topic_id_bytes(append.topic),
        partition: append.partition.cast_signed(),
        leader_epoch: append.leader_epoch,
        batch: append.batch,
        format: v1::BatchFormat::KafkaV2.into(),
    }
}

impl Connections {
    /// Opens a stream of appends to the broker at `address` and waits for its answer.
    ///
    /// Cancel safe: a dropped call leaves at most a stream that the broker sees closed.
    pub(crate) async fn produce_stream(
        &self,
        address: &Address,
        acks: Acks,
        ack_timeout: Duration,
    ) -> Result<(ProduceLimits, ProduceLink, BoxStream<'static, Result<ProduceEvent>>)> {
        let open = v1::ProduceStreamOpen {
            client_id: self.client_id.clone(),
            acks: convert::acks(acks).into(),
            ack_timeout: convert::duration(ack_timeout),
        };
        let (outbox, pulled) = Outbox::new(Appends { open: Some(open), waiting: VecDeque::new() });
        let mut client = ProduceServiceClient::new(self.channel(address, Use::Data)?)
            .max_decoding_message_size(limits::GRPC_DECODE_BYTES_MAX)
            .max_encoding_message_size(limits::GRPC_DECODE_BYTES_MAX);
        let opening = async {
            let mut answers = client.produce_stream(pulled).await?.into_inner();
            let first = answers.message().await?;
            Ok((first, answers))
        };
        let (first, answers) = self.bounded(address, "opening a produce stream", opening).await?;
        let limits = match first.and_then(|answer| answer.response) {
            Some(Response::Opened(opened)) => ProduceLimits {
                in_flight_bytes: opened.max_in_flight_bytes,
                batch_bytes: opened.max_batch_bytes,
                in_flight_batches: usize::try_from(opened.max_in_flight_batches)
                    .unwrap_or(usize::MAX)
                    .clamp(1, limits::PRODUCER_BATCHES_REMEMBERED),
            },
            _ => {
                return Err(Error::protocol(format!(
                    "the broker at {address} did not open the produce stream"
                ))
                .retriable(true));
            }
        };
        Ok((limits, ProduceLink(outbox), events(answers).boxed()))
    }

    /// Asks for a producer id and epoch.
    pub(crate) async fn init_producer(&self, address: &Address) -> Result<(ProducerId, i16)> {
        let mut client = ProduceServiceClient::new(self.channel(address, Use::Control)?);
        let request = self.request(v1::InitProducerRequest { producer_name: String::new() });
        let call = async { Ok(client.init_producer(request).await?.into_inner()) };
        let answer = self.bounded(address, "asking for a producer id", call).await?;
        let invalid = || {
            Error::protocol(format!(
                "the broker at {address} handed out producer id {} with epoch {}",
                answer.producer_id, answer.producer_epoch
            ))
        };
        let id = ProducerId::new(answer.producer_id).ok_or_else(invalid)?;
        let epoch = i16::try_from(answer.producer_epoch).map_err(|_| invalid())?;
        Ok((id, epoch))
    }
}

fn events(
    answers: impl Stream<Item = Result<v1::ProduceStreamResponse, Status>> + Send + 'static,
) -> impl Stream<Item = Result<ProduceEvent>> + Send + 'static {
    answers.filter_map(|answer| async {
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) => return Some(Err(status::to_error(&status))),
        };
        match answer.response {
            Some(Response::Acks(acks)) => Some(Ok(ProduceEvent::Acks {
                acks: acks.items.into_iter().map(ack_from_wire).collect(),
                in_flight_bytes: acks.max_in_flight_bytes,
            })),
            Some(Response::Control(control)) => Some(Ok(ProduceEvent::Control {
                reconnect: control.reconnect,
                throttle: control.throttle.and_then(|wait| Duration::try_from(wait).ok()),
            })),
            // A kind of answer that a newer broker may have.
            Some(Response::Opened(_)) | None => None,
        }
    })
}

fn ack_from_wire(ack: v1::ProduceStreamAck) -> Ack {
    let outcome = match ack.outcome {
        Some(Outcome::Result(result)) => Ok(Appended {
            base_offset: result.base_offset,
            log_append_time_ms: result.log_append_time_ms,
            duplicate: result.duplicate,
            leader_epoch: result.leader_epoch,
            durability: convert::durability(result.durability()),
            replicas: result.replicas,
        }),
        Some(Outcome::Error(error)) => Err(status::from_wire(error)),
        None => Err(Error::protocol("the broker answered a batch without an outcome")),
    };
    Ack { correlation_id: ack.correlation_id, outcome }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(correlation_id: u64, bytes: usize) -> Append {
        Append {
            correlation_id,
            topic: TopicId::random(),
            partition: 0,
            leader_epoch: None,
            batch: Bytes::from(vec![0; bytes]),
        }
    }

    fn ids(message: v1::ProduceStreamRequest) -> Vec<u64> {
        match message.request {
            Some(Request::Appends(appends)) => {
                appends.items.into_iter().map(|item| item.correlation_id).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn small_batches_share_a_message_and_large_ones_travel_alone() {
        let waiting = [
            append(1, 30_000),
            append(2, 30_000),
            append(3, 30_000),
            append(4, 200_000),
            append(5, 10),
        ];
        let mut appends = Appends {
            open: Some(v1::ProduceStreamOpen::default()),
            waiting: waiting.into_iter().collect(),
        };
        assert!(matches!(appends.pull().unwrap().request, Some(Request::Open(_))));
        let mut messages = Vec::new();
        while let Some(message) = appends.pull() {
            messages.push(ids(message));
        }
        assert_eq!(messages, [vec![1, 2], vec![3], vec![4], vec![5]]);
    }
}
