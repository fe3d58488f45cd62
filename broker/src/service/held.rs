//! What surrounds every call: a budget for what is being received ([`Receiving`]), a permit that
//! lives as long as its answer, and the errors that tonic answers by itself, made ours.
//!
//! tonic refuses a request that is too large with OUT_OF_RANGE, where every other gRPC says
//! RESOURCE_EXHAUSTED, and one that cannot be decoded with INTERNAL. Both would reach the client
//! without a reason, the first easily taken for an offset out of range. An answer of a method of
//! ours that failed without our trailer is such a one.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    admission::BytePermit,
    core::Core,
    receiving::Receiving,
    status::{Failure, REASON_TRAILER},
};

/// Paths of our own services; health and reflection keep their own errors.
const OUR_PATHS: &str = "/riverrun.";

/// Permits on their way from a handler to the body of its answer.
#[derive(Debug, Clone)]
pub(super) struct Held(Arc<Mutex<Vec<BytePermit>>>);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct AroundCalls {
    core: Arc<Core>,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct AroundCall<S> {
    core: Arc<Core>,
    service: S,
}

/// A body that keeps permits until it has been sent.
struct HeldBody {
    body: Body,
    _permits: Vec<BytePermit>,
}

// === impl Held ===

impl Held {
    pub(super) fn new(permits: Vec<BytePermit>) -> Self {
        Self(Arc::new(Mutex::new(permits)))
    }
}

// === impl AroundCalls ===

impl AroundCalls {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl<S> Layer<S> for AroundCalls {
    type Service = AroundCall<S>;

    fn layer(&self, service: S) -> Self::Service {
        AroundCall { core: Arc::clone(&self.core), service }
    }
}

impl<S> Service<Request<Body>> for AroundCall<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let ours = request.uri().path().starts_with(OUR_PATHS);
        let core = Arc::clone(&self.core);
        let request = match ours {
            true => {
                let path = request.uri().path().to_owned();
                request.map(|body| Body::new(Receiving::new(body, &path, &core)))
            }
            false => request,
        };
        let call = self.service.call(request);
        Box::pin(async move {
            let mut response = call.await?;
            if ours && let Some(status) = foreign_failure(&response) {
                return Ok(core.catalog.status(&Failure::from(&status)).into_http());
            }
            let held = response.extensions_mut().remove::<Held>();
            let permits = held.map(|held| std::mem::take(&mut *held.0.lock()));
            Ok(match permits {
                Some(permits) => {
                    response.map(|body| Body::new(HeldBody { body, _permits: permits }))
                }
                None => response,
            })
        })
    }
}

/// The status of a call that failed before it reached a handler of ours.
fn foreign_failure(response: &Response<Body>) -> Option<Status> {
    let headers = response.headers();
    let status = Status::from_header_map(headers)?;
    let ours = headers.contains_key(REASON_TRAILER) || status.code() == tonic::Code::Ok;
    (!ours).then_some(status)
}

// === impl HeldBody ===

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
