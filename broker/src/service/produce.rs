//! `ProduceService`: which call goes where.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use riverrun_proto::rpc::v1;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};
use v1::produce_service_server::ProduceService;

use super::{core::Core, produce_stream, produce_unary, status::Failure};
use crate::telemetry::Request as Called;

/// Epoch of a producer that has just been given its id.
const FIRST_EPOCH: i32 = 0;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Produce(pub(super) Arc<Core>);

#[tonic::async_trait]
impl ProduceService for Produce {
    async fn produce(
        &self,
        request: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        let forwards = self.0.forwarder.may_forward(request.metadata());
        let handle =
            async |request, time| produce_unary::produce(&self.0, request, time, forwards).await;
        self.0.unary(Called::Produce, request, handle).await
    }

    type ProduceStreamStream =
        Pin<Box<dyn Stream<Item = Result<v1::ProduceStreamResponse, Status>> + Send>>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let stream = produce_stream::serve(Arc::clone(&self.0), request.into_inner());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let handle = async |request, time| self.init_producer(request, time).await;
        self.0.unary(Called::InitProducer, request, handle).await
    }
}

impl Produce {
    async fn init_producer(
        &self,
        request: v1::InitProducerRequest,
        time: Duration,
    ) -> Result<v1::InitProducerResponse, Failure> {
        if !request.producer_name.is_empty() {
            return Err(Failure::unsupported(
                "named producers come with transactions, which do not exist in this version: \
                 leave producer_name empty",
            )
            .at_field("producer_name"));
        }
        let id = timeout(time, self.0.producer_ids.next())
            .await
            .map_err(|_| Failure::timed_out("the controller did not answer in time"))??;
        Ok(v1::InitProducerResponse { producer_id: id.get(), producer_epoch: FIRST_EPOCH })
    }
}
