//! Followers of partitions that this broker leads: one stream each, and kind of traffic.
//!
//! Two tasks a stream. One takes in what the follower says, at any time; the other asks the
//! partitions in its line, in turns, what there is for the follower, and waits where the follower or
//! the network does not take it: then nothing piles up but a few fields per partition. What has to be
//! read from the disk is read on the I/O pool within the budget for such reads, and delays only this
//! stream; a follower that catches up has one of its own.

use std::{fmt, pin::pin, sync::Arc};

use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, ClusterId, TopicPartition},
    limits::{GRPC_DECODE_BYTES_MAX, PACK_TARGET_BYTES},
    rpc::internal::v1::{
        self as wire,
        replication_service_server::{ReplicationService, ReplicationServiceServer},
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    partition::{
        Line, Partition,
        frame::{self, Position, Refusal, Refused},
        registry::Registry,
        replication::{ToFollower, ToLeader},
    },
    peer::{
        replication::VERSION,
        replication_wire::{Follower, read_to_leader, to_follower},
    },
    shutdown::Shutdown,
};

/// Responses on their way into a stream that does not take them.
const RESPONSES_AHEAD: usize = 1;

/// Frames in one response: news of so many partitions.
const FRAMES_MAX: usize = 256;

/// Refusals of subscriptions to what is not here that wait to be said. A follower that is not
/// answered asks again.
const REFUSALS_MAX: usize = 256;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Replication {
    cluster: ClusterId,
    me: BrokerId,
    registry: Arc<Registry>,
    shutdown: Shutdown,
}

/// A follower's stream; when it ends, however it does, partitions serve nobody on it.
struct Stream {
    follower: Follower,
    window_bytes: usize,
    line: Arc<Line>,
    registry: Arc<Registry>,
}

impl Replication {
    /// Serves the partitions of `registry`, until the broker stops.
    pub fn new(
        cluster: ClusterId,
        me: BrokerId,
        registry: Arc<Registry>,
        shutdown: Shutdown,
    ) -> Self {
        Self { cluster, me, registry, shutdown }
    }

    /// For a server's routes.
    pub fn into_server(self) -> ReplicationServiceServer<Self> {
        // What a follower says is short; batches only go the other way.
        ReplicationServiceServer::new(self)
            .max_decoding_message_size(GRPC_DECODE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// Whether whoever calls is a broker of this cluster and means this one.
    fn check(&self, hello: Option<wire::ReplicateHello>) -> Result<Stream, Status> {
        let malformed = || Status::invalid_argument("the hello is missing or malformed");
        let hello = hello.ok_or_else(malformed)?;
        let cluster = ClusterId::from_bytes(&hello.cluster_id).map_err(|_| malformed())?;
        let epoch = BrokerEpoch::new(hello.broker_epoch).ok_or_else(malformed)?;
        let window_bytes = usize::try_from(hello.window_bytes).unwrap_or(usize::MAX);
        if hello.traffic() == wire::Traffic::Unspecified || window_bytes == 0 {
            return Err(malformed());
        }
        let id = BrokerId(hello.broker_id);
        if hello.version > VERSION {
            return Err(Status::failed_precondition(format!(
                "broker {id} speaks version {} of replication, this one only up to {VERSION}: \
                 upgrade this one first",
                hello.version
            )));
        }
        if cluster != self.cluster {
            return Err(Status::failed_precondition(format!(
                "broker {id} belongs to cluster {cluster}, this is broker {} of cluster {}: point \
                 it at the brokers of its own cluster",
                self.me, self.cluster
            )));
        }
        if hello.leader_id != self.me.0 {
            return Err(Status::failed_precondition(format!(
                "this is broker {}, not broker {}: its advertised address is wrong, or out of date",
                self.me, hello.leader_id
            )));
        }
        if id == self.me {
            return Err(Status::failed_precondition(format!(
                "broker {id} does not follow itself: two brokers have this id"
            )));
        }
        let (line, registry) = (Line::new(), Arc::clone(&self.registry));
        Ok(Stream { follower: Follower { id, epoch }, window_bytes, line, registry })
    }
}

#[tonic::async_trait]
impl ReplicationService for Replication {
    type ReplicateStream = ReceiverStream<Result<wire::ReplicateResponse, Status>>;

    async fn replicate(
        &self,
        request: Request<Streaming<wire::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap_or_default();
        let stream = self.check(first.hello)?;
        let (responses, sent) = mpsc::channel(RESPONSES_AHEAD);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let _running = shutdown.register("replication to another broker");
            let ended = tokio::select! {
                ended = stream.serve(requests, first.frames, responses.clone()) => ended,
                () = shutdown.stopping() => Status::unavailable("the broker is stopping"),
            };
            tracing::debug!(follower = %stream.follower.id, why = ended.message(), "a follower's stream ended");
            // Gone, as a rule.
            let _ = responses.try_send(Err(ended));
        });
        Ok(Response::new(ReceiverStream::new(sent)))
    }
}

impl Stream {
    /// Until either side has enough.
    async fn serve(
        &self,
        requests: Streaming<wire::ReplicateRequest>,
        first: Vec<wire::FollowerFrame>,
        responses: mpsc::Sender<Result<wire::ReplicateResponse, Status>>,
    ) -> Status {
        let (refusals, refused) = mpsc::channel(REFUSALS_MAX);
        tokio::select! {
            ended = self.hear(requests, first, refusals) => ended,
            ended = self.say(refused, responses) => ended,
        }
    }

    async fn hear(
        &self,
        mut requests: Streaming<wire::ReplicateRequest>,
        first: Vec<wire::FollowerFrame>,
        refusals: mpsc::Sender<wire::LeaderFrame>,
    ) -> Status {
        let mut frames = first;
        loop {
            for frame in frames {
                let Some((about, said)) = read_to_leader(frame, self.follower) else {
                    return Status::invalid_argument("the follower says what makes no sense here");
                };
                self.heard(about, said, &refusals);
            }
            frames = match requests.message().await {
                Ok(Some(request)) if request.hello.is_none() => request.frames,
                Ok(Some(_)) => return Status::invalid_argument("a hello stands at the beginning"),
                Ok(None) => return Status::ok("the follower has ended the stream"),
                Err(why) => return why,
            };
        }
    }

    fn heard(
        &self,
        about: TopicPartition,
        said: ToLeader,
        refusals: &mpsc::Sender<wire::LeaderFrame>,
    ) {
        if let Some(partition) = self.registry.get(about) {
            let window_bytes = self.window_bytes;
            return partition.hear_follower(&self.line, self.follower.id, said, window_bytes);
        }
        // Not here, or not here yet: one of the two has not heard the news.
        let (ToLeader::Subscribe(frame::Subscribe(has)) | ToLeader::Ack(frame::Ack(has))) = said
        else {
            return;
        };
        let Position { session, leader_epoch, .. } = has;
        let refused = Refused { session, leader_epoch, reason: Refusal::UnknownEpoch };
        let refused = to_follower(about, ToFollower::Refused(refused));
        // A subscription that is not answered is asked for again.
        let _ = refusals.try_send(refused);
    }

    async fn say(
        &self,
        mut refused: mpsc::Receiver<wire::LeaderFrame>,
        responses: mpsc::Sender<Result<wire::ReplicateResponse, Status>>,
    ) -> Status {
        loop {
            let (mut frames, mut bytes) = (Vec::new(), 0);
            let mut next = tokio::select! {
                partition = self.line.next() => Some(partition),
                Some(refused) = refused.recv() => {
                    frames.push(refused);
                    None
                }
            };
            while let Some(partition) = next {
                let said = {
                    let mut said = pin!(partition.next_for_follower(&self.line, self.follower.id));
                    match futures::poll!(&mut said) {
                        std::task::Poll::Ready(said) => said,
                        // The disk is asked: what is ready goes first.
                        std::task::Poll::Pending => {
                            if !send(&responses, &mut frames, &mut bytes).await {
                                return gone();
                            }
                            said.await
                        }
                    }
                };
                if let Some(said) = said {
                    bytes += said.batch_bytes();
                    frames.push(to_follower(partition.id(), said));
                }
                let is_full = bytes >= PACK_TARGET_BYTES || frames.len() >= FRAMES_MAX;
                next = if is_full { None } else { self.line.try_next() };
            }
            if !send(&responses, &mut frames, &mut bytes).await {
                return gone();
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for partition in self.registry.all() {
            Partition::downlink_lost(&partition, &self.line);
        }
    }
}

/// Sends what has come together, if anything has; `false`: nobody is there.
async fn send(
    responses: &mpsc::Sender<Result<wire::ReplicateResponse, Status>>,
    frames: &mut Vec<wire::LeaderFrame>,
    bytes: &mut usize,
) -> bool {
    *bytes = 0;
    if frames.is_empty() {
        return !responses.is_closed();
    }
    let response = wire::ReplicateResponse { frames: std::mem::take(frames) };
    responses.send(Ok(response)).await.is_ok()
}

fn gone() -> Status {
    Status::unavailable("the connection is gone")
}

impl fmt::Debug for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replication")
            .field("cluster", &self.cluster)
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}
