//! The null sink and the null source: gRPC servers of the product's shape that keep nothing. The
//! sink answers every batch and drops it, the source sends the same batches again and again within
//! the credit it is given. What is measured through them is what tonic, HTTP/2 and the kernel
//! leave to a broker: the ceiling.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, stream};
use riverrun_broker::config::{ByteSize, NetworkConfig};
use riverrun_proto::{
    limits::PACK_TARGET_BYTES,
    record::BatchHeader,
    rpc::v1::{
        self,
        consume_service_server::{ConsumeService, ConsumeServiceServer},
        fetch_stream_request::Request as FetchRequest,
        fetch_stream_response::Response as FetchResponse,
        produce_service_server::{ProduceService, ProduceServiceServer},
        produce_stream_ack::Outcome,
        produce_stream_request::Request as ProduceRequest,
        produce_stream_response::Response as ProduceResponse,
    },
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use super::MESSAGE_BYTES_MAX;
use crate::error::{BenchError, Result};

/// Window that the sink advertises: the default of the broker's `produce.stream.in.flight.bytes`.
const WINDOW_BYTES: u64 = 8 << 20;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Keeps nothing.
#[derive(Debug)]
struct Null {
    /// What the source sends, packed into messages as the product packs them.
    messages: Arc<Vec<Vec<Bytes>>>,
}

/// Serves both until `until` ends.
///
/// # Errors
/// The listener breaks.
pub async fn serve(
    listener: TcpListener,
    batches: &[Bytes],
    until: impl Future<Output = ()>,
) -> Result<()> {
    let network = NetworkConfig::default();
    let bytes = |size: ByteSize| u32::try_from(size.get()).unwrap_or(u32::MAX);
    let null = Arc::new(Null { messages: Arc::new(pack(batches)) });
    let produce = ProduceServiceServer::from_arc(Arc::clone(&null))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let consume = ConsumeServiceServer::from_arc(null).max_encoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .initial_stream_window_size(bytes(network.http2_stream_window_bytes))
        .initial_connection_window_size(bytes(network.http2_connection_window_bytes))
        .max_frame_size(bytes(network.http2_max_frame_bytes))
        .max_concurrent_streams(network.http2_max_concurrent_streams)
        .add_service(produce)
        .add_service(consume)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), until)
        .await
        .map_err(|e| BenchError::Failed(format!("the null server ended: {e}")))
}

/// As many batches per message as fit the size that HTTP/2 likes best; a larger one goes alone.
fn pack(batches: &[Bytes]) -> Vec<Vec<Bytes>> {
    let mut messages: Vec<Vec<Bytes>> = Vec::new();
    let mut packed = usize::MAX;
    for batch in batches {
        if packed.saturating_add(batch.len()) > PACK_TARGET_BYTES {
            messages.push(Vec::new());
            packed = 0;
        }
        packed += batch.len();
        messages.last_mut().expect("one was just pushed").push(batch.clone());
    }
    messages
}

#[tonic::async_trait]
impl ProduceService for Null {
    type ProduceStreamStream = Answers<v1::ProduceStreamResponse>;

    async fn produce(
        &self,
        _: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(Status::unimplemented("the null sink takes streams"))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let answers = stream::try_unfold(request.into_inner(), |mut requests| async {
            loop {
                let Some(request) = requests.message().await? else { return Ok(None) };
                let response = match request.request {
                    Some(ProduceRequest::Open(_)) => ProduceResponse::Opened(opened()),
                    Some(ProduceRequest::Appends(appends)) => {
                        ProduceResponse::Acks(answered(appends))
                    }
                    None => continue,
                };
                let answer = v1::ProduceStreamResponse { response: Some(response) };
                return Ok(Some((answer, requests)));
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        Err(Status::unimplemented("the null sink knows no producers"))
    }
}

fn opened() -> v1::ProduceStreamOpened {
    v1::ProduceStreamOpened {
        max_in_flight_bytes: WINDOW_BYTES,
        max_batch_bytes: 1 << 20,
        max_in_flight_batches: 32,
        broker_id: 0,
    }
}

fn answered(appends: v1::ProduceStreamAppends) -> v1::ProduceStreamAcks {
    let ack = |append: v1::ProduceStreamAppend| v1::ProduceStreamAck {
        correlation_id: append.correlation_id,
        outcome: Some(Outcome::Result(v1::AppendResult {
            base_offset: Some(0),
            last_offset: Some(0),
            leader_epoch: 1,
            durability: v1::Durability::Memory.into(),
            replicas: 1,
            ..Default::default()
        })),
    };
    v1::ProduceStreamAcks {
        items: appends.items.into_iter().map(ack).collect(),
        max_in_flight_bytes: None,
    }
}

/// One stream of the source.
struct Source {
    messages: Arc<Vec<Vec<Bytes>>>,
    at: usize,
    offset: i64,
    place: Option<v1::TopicPartition>,
    credit: i64,
    requests: Streaming<v1::FetchStreamRequest>,
}

// === impl Source ===

impl Source {
    fn heard(&mut self, request: v1::FetchStreamRequest) {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        match request.request {
            Some(FetchRequest::Open(open)) => {
                self.credit = open.initial_credit_bytes.map_or(i64::MAX, bytes);
                self.place = open.partitions.into_iter().find_map(|from| from.partition);
            }
            Some(FetchRequest::Credit(credit)) => {
                self.credit = self.credit.saturating_add(bytes(credit.bytes));
            }
            _ => {}
        }
    }

    async fn next(&mut self) -> Result<Option<v1::FetchStreamResponse>, Status> {
        // What has come already, and, without credit, what comes.
        while let Some(request) = self.requests.message().now_or_never() {
            match request? {
                Some(request) => self.heard(request),
                None => return Ok(None),
            }
        }
        while self.credit <= 0 {
            match self.requests.message().await? {
                Some(request) => self.heard(request),
                None => return Ok(None),
            }
        }
        let batches = self.messages[self.at].clone();
        self.at = (self.at + 1) % self.messages.len();
        let bytes: usize = batches.iter().map(Bytes::len).sum();
        self.credit = self.credit.saturating_sub_unsigned(bytes as u64);
        for batch in &batches {
            let records = BatchHeader::parse(batch).map_or(0, |header| header.record_count);
            self.offset += i64::from(records);
        }
        let data = v1::PartitionData {
            partition: self.place.clone(),
            outcome: Some(v1::partition_data::Outcome::Batches(v1::EncodedBatches {
                batches,
                format: v1::BatchFormat::KafkaV2.into(),
            })),
            next_offset: Some(self.offset),
            high_watermark: Some(i64::MAX),
            credit_bytes: bytes as u64,
            ..Default::default()
        };
        let list = v1::PartitionDataList { items: vec![data] };
        Ok(Some(v1::FetchStreamResponse { response: Some(FetchResponse::Data(list)) }))
    }
}

#[tonic::async_trait]
impl ConsumeService for Null {
    type FetchStreamStream = Answers<v1::FetchStreamResponse>;
    type ConsumeStream = Answers<v1::ConsumeResponse>;
    type TailStream = Answers<v1::TailResponse>;

    async fn fetch(
        &self,
        _: Request<v1::FetchRequest>,
    ) -> Result<Response<v1::FetchResponse>, Status> {
        Err(Status::unimplemented("the null source gives streams"))
    }

    async fn fetch_stream(
        &self,
        request: Request<Streaming<v1::FetchStreamRequest>>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        let source = Source {
            messages: Arc::clone(&self.messages),
            at: 0,
            offset: 0,
            place: None,
            credit: 0,
            requests: request.into_inner(),
        };
        let answers = stream::try_unfold(source, |mut source| async {
            Ok(source.next().await?.map(|answer| (answer, source)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn consume(
        &self,
        _: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        Err(Status::unimplemented("the null source knows no groups"))
    }

    async fn tail(
        &self,
        _: Request<v1::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        Err(Status::unimplemented("the null source gives encoded batches"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_packed_like_the_products() {
        let batch = |bytes: usize| Bytes::from(vec![0; bytes]);
        let packed = pack(&[batch(30_000), batch(30_000), batch(30_000), batch(200_000), batch(9)]);
        let sizes: Vec<Vec<usize>> =
            packed.iter().map(|m| m.iter().map(Bytes::len).collect()).collect();
        assert_eq!(sizes, [vec![30_000, 30_000], vec![30_000], vec![200_000], vec![9]]);
    }
}
