//! `ConsumeService`: which call goes where. Consumer groups do not exist yet: `Consume` says so, and
//! what to use instead.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use riverrun_proto::rpc::v1;
use tonic::{Request, Response, Status, Streaming};
use v1::consume_service_server::ConsumeService;

use super::{core::Core, fetch_stream, forward_fetch, forward_tail, held::Held, status::Failure};
use crate::telemetry::Request as Called;

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Consume(pub(super) Arc<Core>);

#[tonic::async_trait]
impl ConsumeService for Consume {
    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<v1::FetchResponse>, Status> {
        let forwards = self.0.forwarder.may_forward(request.metadata());
        let handle =
            async |request, time| forward_fetch::fetch(&self.0, request, time, forwards).await;
        let (response, permits) = self.0.unary(Called::Fetch, request, handle).await?.into_inner();
        let mut response = Response::new(response);
        if !permits.is_empty() {
            response.extensions_mut().insert(Held::new(permits));
        }
        Ok(response)
    }

    type FetchStreamStream = ResponseStream<v1::FetchStreamResponse>;

    async fn fetch_stream(
        &self,
        request: Request<Streaming<v1::FetchStreamRequest>>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        let stream = fetch_stream::serve(Arc::clone(&self.0), request.into_inner());
        Ok(Response::new(Box::pin(stream)))
    }

    type ConsumeStream = ResponseStream<v1::ConsumeResponse>;

    async fn consume(
        &self,
        _request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let failure = Failure::unsupported(
            "consumer groups do not exist in this version: read partitions with FetchStream or \
             Fetch and keep the offsets yourself",
        );
        Err(self.0.catalog.status(&failure))
    }

    type TailStream = ResponseStream<v1::TailResponse>;

    async fn tail(
        &self,
        request: Request<v1::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let forwards = self.0.forwarder.may_forward(request.metadata());
        let opened = forward_tail::open(&self.0, request.get_ref(), forwards).await;
        let count = |status: &Status| {
            let failure = Failure::from(status);
            self.0.requests.observe_error(Called::Tail, failure.reason());
        };
        Ok(Response::new(opened.inspect_err(count)?))
    }
}
