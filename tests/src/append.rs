//! A `ProduceStream` by its stub: batches as they are, answers as they come.

use std::collections::VecDeque;

use bytes::Bytes;
use riverrun_proto::rpc::v1;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use v1::{produce_stream_ack::Outcome, produce_stream_request, produce_stream_response::Response};

use crate::{
    raw::{Raw, held_open},
    wait::soon,
};

/// An open stream.
#[derive(Debug)]
pub struct AppendStream {
    requests: mpsc::Sender<v1::ProduceStreamRequest>,
    responses: Streaming<v1::ProduceStreamResponse>,
    acks: VecDeque<v1::ProduceStreamAck>,
    /// What the broker allows it.
    pub opened: v1::ProduceStreamOpened,
    /// The broker asked to reconnect.
    pub told_to_reconnect: bool,
    next_id: u64,
}

// === impl AppendStream ===

impl AppendStream {
    /// Opens a stream.
    pub async fn open(raw: &Raw, acks: v1::Acks) -> Self {
        let open = v1::ProduceStreamOpen {
            client_id: "scenario".to_owned(),
            acks: acks.into(),
            ack_timeout: None,
        };
        let open = produce_stream_request::Request::Open(open);
        let (requests, stream) = held_open(v1::ProduceStreamRequest { request: Some(open) });
        let responses = raw.produce.clone().produce_stream(stream).await;
        let mut responses = responses.expect("the stream opens").into_inner();
        let first = soon("a stream to open", responses.message()).await;
        match first.expect("it opens").and_then(|first| first.response) {
            Some(Response::Opened(opened)) => Self {
                requests,
                responses,
                acks: VecDeque::new(),
                opened,
                told_to_reconnect: false,
                next_id: 1,
            },
            other => panic!("not opened: {other:?}"),
        }
    }

    /// Sends a batch and returns its correlation id. Waits where the stream is not read.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn send(
        &mut self,
        topic: &v1::Topic,
        partition: i32,
        batch: impl Into<Bytes>,
    ) -> Result<u64, ()> {
        let correlation_id = self.next_id;
        self.next_id += 1;
        let item = v1::ProduceStreamAppend {
            correlation_id,
            topic_id: topic.topic_id.clone(),
            partition,
            batch: batch.into(),
            ..Default::default()
        };
        let appends = v1::ProduceStreamAppends { items: vec![item] };
        self.send_raw(produce_stream_request::Request::Appends(appends)).await?;
        Ok(correlation_id)
    }

    /// Sends a message as it is.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn send_raw(&self, request: produce_stream_request::Request) -> Result<(), ()> {
        let request = v1::ProduceStreamRequest { request: Some(request) };
        self.requests.send(request).await.map_err(|_| ())
    }

    /// Sends no more; what is in flight is still answered.
    pub fn half_close(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.requests = closed;
    }

    /// The next answer; `None`: the stream ended well.
    ///
    /// # Errors
    /// The stream failed.
    pub async fn ack(&mut self) -> Result<Option<v1::ProduceStreamAck>, Status> {
        loop {
            if let Some(ack) = self.acks.pop_front() {
                return Ok(Some(ack));
            }
            match self.responses.message().await?.map(|message| message.response) {
                None => return Ok(None),
                Some(Some(Response::Acks(acks))) => self.acks.extend(acks.items),
                Some(Some(Response::Control(control))) => {
                    self.told_to_reconnect |= control.reconnect
                }
                Some(other) => panic!("{other:?} in the middle of a stream"),
            }
        }
    }

    /// Sends a batch and waits for what becomes of it, when nothing else is in flight.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn append(
        &mut self,
        topic: &v1::Topic,
        partition: i32,
        batch: impl Into<Bytes>,
    ) -> Result<v1::AppendResult, v1::Error> {
        let id = self.send(topic, partition, batch).await.expect("the stream is open");
        let ack = soon("an answer to a batch", self.ack()).await;
        let ack = ack.expect("the stream stays").expect("the stream does not end");
        assert_eq!(ack.correlation_id, id);
        match ack.outcome.expect("an answer has an outcome") {
            Outcome::Result(result) => Ok(result),
            Outcome::Error(error) => Err(error),
        }
    }
}
