//! Subscriptions to partitions that other brokers lead: one stream to each broker and kind of
//! traffic, each on a connection of its own, made when a partition first wants to say something on it
//! and made anew, after a pause, when it breaks.
//!
//! ```text
//!   partitions ──► Line ──► say ──► ReplicateRequest ──► leader
//!   partitions ◄────────── hear ◄── ReplicateResponse ◄──┘
//! ```
//! What is to be said waits in the line, worked out only when it is sent. What is heard is appended
//! on the stream's task, as what clients send is; a partition whose log is not ready keeps it, within
//! its window. So nothing here grows with load, and one partition that stands still holds up no other.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock, Weak},
};

use parking_lot::Mutex;
use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, ClusterId, TopicPartition},
    limits::GRPC_DECODE_BYTES_MAX,
    rpc::internal::v1::{self as wire, replication_service_client::ReplicationServiceClient},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{
    connect::{Backoff, Dialler},
    replication_wire::{Follower, read_to_follower, to_leader, traffic},
};
use crate::{
    partition::{
        IsrProposal, Line, Partition,
        registry::Registry,
        replication::{Peers, ReplicationLimits, Traffic},
    },
    shutdown::Shutdown,
};

/// Of the protocol between replicas. Raised when an older broker would misunderstand a newer one.
pub const VERSION: u32 = 1;

/// Requests on their way into a stream that does not take them: one is being sent, one is ready.
const REQUESTS_AHEAD: usize = 1;

/// What is said in one request: acknowledgements of so many partitions.
const FRAMES_MAX: usize = 256;

/// Proposals that wait to be taken to the controller. One that finds no room is made again a second
/// later.
pub const PROPOSALS_MAX: usize = 1024;

/// Where other brokers are reached.
pub trait Whereabouts: fmt::Debug + Send + Sync {
    /// `host:port` of a broker's internal listener, as far as known now, best guess first.
    fn addresses_of(&self, broker: BrokerId) -> Vec<String>;
}

/// A leader's wish for another ISR, for whoever takes it to the controller.
pub type Proposal = (TopicPartition, IsrProposal);

/// Who this broker is to those it follows.
#[derive(Debug, Clone, Copy)]
pub struct Follows {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Which broker.
    pub broker: BrokerId,
    /// This run of it.
    pub epoch: BrokerEpoch,
}

/// The other brokers, to this one's partitions. Cheap to clone.
#[derive(Clone)]
pub struct ReplicationPeers {
    shared: Arc<Shared>,
}

struct Shared {
    me: Follows,
    whereabouts: Arc<dyn Whereabouts>,
    dialler: Dialler,
    limits: ReplicationLimits,
    proposals: mpsc::Sender<Proposal>,
    shutdown: Shutdown,
    tasks: Handle,
    /// Set once the partitions are there; weak, for they hold this.
    registry: OnceLock<Weak<Registry>>,
    begun: watch::Sender<bool>,
    lines: Mutex<HashMap<(BrokerId, Traffic), Arc<Line>>>,
}

/// How a stream ended.
struct Broken {
    why: Status,
    /// It had been granted: whoever is there takes us for what we are.
    stood: bool,
}

impl ReplicationPeers {
    /// Peers to nobody yet: what partitions want to say waits until [`ReplicationPeers::begin`].
    /// Streams run on `tasks`, until the broker stops.
    pub fn new(
        me: Follows,
        (whereabouts, dialler): (Arc<dyn Whereabouts>, Dialler),
        limits: ReplicationLimits,
        shutdown: Shutdown,
        tasks: Handle,
    ) -> (Self, mpsc::Receiver<Proposal>) {
        let (proposals, proposed) = mpsc::channel(PROPOSALS_MAX);
        let shared = Arc::new(Shared {
            me,
            whereabouts,
            dialler,
            limits,
            proposals,
            shutdown,
            tasks,
            registry: OnceLock::new(),
            begun: watch::Sender::new(false),
            lines: Mutex::default(),
        });
        (Self { shared }, proposed)
    }

    /// The partitions are there.
    pub fn begin(&self, registry: &Arc<Registry>) {
        // A broker starts once.
        let _ = self.shared.registry.set(Arc::downgrade(registry));
        self.shared.begun.send_replace(true);
    }
}

impl Peers for ReplicationPeers {
    fn uplink(&self, leader: BrokerId, traffic: Traffic) -> Option<Arc<Line>> {
        let shared = &self.shared;
        let mut lines = shared.lines.lock();
        let line = lines.entry((leader, traffic)).or_insert_with(|| {
            let line = Line::new();
            let stream = Arc::clone(shared).follow(leader, traffic, Arc::clone(&line));
            shared.tasks.spawn(stream);
            line
        });
        Some(Arc::clone(line))
    }

    fn propose_isr(&self, partition: TopicPartition, proposal: &IsrProposal) {
        // Made again by the next tick, if there is no room or nobody listens.
        let _ = self.shared.proposals.try_send((partition, proposal.clone()));
    }
}

impl Shared {
    /// Keeps up a stream to `leader` until the broker stops.
    async fn follow(self: Arc<Self>, leader: BrokerId, traffic: Traffic, line: Arc<Line>) {
        let shutdown = self.shutdown.clone();
        let _running = shutdown.register("replication from another broker");
        tokio::select! {
            () = shutdown.stopping() => {}
            () = self.follow_on(leader, traffic, line) => {}
        }
    }

    async fn follow_on(&self, leader: BrokerId, traffic: Traffic, mut line: Arc<Line>) {
        let mut begun = self.begun.subscribe();
        if begun.wait_for(|begun| *begun).await.is_err() {
            return;
        }
        let (mut backoff, mut told) = (Backoff::default(), String::new());
        loop {
            line.wait().await;
            let Broken { why, stood } = self.stream(leader, traffic, &line).await;
            if stood {
                backoff.reset();
                told.clear();
            }
            if told != why.message() {
                why.message().clone_into(&mut told);
                tracing::warn!(%leader, ?traffic, why = told, "not replicating from this broker; trying again");
            }
            if stood {
                // What was said on it counts no more. Partitions that follow on say it anew, in the
                // line of the connection that is made next.
                let old = std::mem::replace(&mut line, Line::new());
                self.lines.lock().insert((leader, traffic), Arc::clone(&line));
                let Some(registry) = self.registry() else { return };
                for partition in registry.all() {
                    partition.uplink_lost(&old);
                }
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    fn registry(&self) -> Option<Arc<Registry>> {
        self.registry.get()?.upgrade()
    }

    /// One stream, until it ends, whichever way.
    async fn stream(&self, leader: BrokerId, traffic: Traffic, line: &Arc<Line>) -> Broken {
        let not_yet = |why| Broken { why, stood: false };
        let mut dialled = Err(Status::unavailable("where it is reached is not known yet"));
        for address in self.whereabouts.addresses_of(leader) {
            dialled = self.dialler.dial_bulk(&address).await;
            if dialled.is_ok() {
                break;
            }
        }
        let channel = match dialled {
            Ok(channel) => channel,
            Err(why) => return not_yet(why),
        };
        let (requests, sent) = mpsc::channel(REQUESTS_AHEAD);
        let hello =
            wire::ReplicateRequest { hello: Some(self.hello(leader, traffic)), frames: Vec::new() };
        requests.try_send(hello).expect("the channel is new and has room for one");
        match open(channel, sent).await {
            Ok(responses) => {
                let why = tokio::select! {
                    why = self.say(line, requests) => why,
                    why = self.hear(responses) => why,
                };
                Broken { why, stood: true }
            }
            Err(why) => not_yet(why),
        }
    }

    fn hello(&self, leader: BrokerId, kind: Traffic) -> wire::ReplicateHello {
        let Follows { cluster, broker, epoch } = self.me;
        wire::ReplicateHello {
            cluster_id: bytes::Bytes::copy_from_slice(cluster.as_bytes()),
            broker_id: broker.0,
            broker_epoch: epoch.get(),
            leader_id: leader.0,
            traffic: traffic(kind).into(),
            window_bytes: self.limits.window_bytes as u64,
            version: VERSION,
        }
    }

    /// Says whatever partitions have to say, in turns.
    async fn say(
        &self,
        line: &Arc<Line>,
        requests: mpsc::Sender<wire::ReplicateRequest>,
    ) -> Status {
        loop {
            let mut next = Some(line.next().await);
            let mut frames = Vec::new();
            while let Some(partition) = next {
                if let Some(said) = partition.next_for_leader(line) {
                    frames.push(to_leader(partition.id(), &said));
                }
                next = if frames.len() < FRAMES_MAX { line.try_next() } else { None };
            }
            if frames.is_empty() {
                continue;
            }
            if requests.send(wire::ReplicateRequest { hello: None, frames }).await.is_err() {
                return Status::unavailable("the connection is gone");
            }
        }
    }

    /// Takes in whatever the leader says.
    async fn hear(&self, mut responses: Streaming<wire::ReplicateResponse>) -> Status {
        let me = Follower { id: self.me.broker, epoch: self.me.epoch };
        loop {
            let frames = match responses.message().await {
                Ok(Some(response)) => response.frames,
                Ok(None) => return Status::unavailable("the leader has ended the stream"),
                Err(why) => return why,
            };
            let Some(registry) = self.registry() else {
                return Status::cancelled("this broker stops");
            };
            for frame in frames {
                let Some((about, said)) = read_to_follower(frame, me) else {
                    return Status::internal("the leader says what makes no sense here");
                };
                // A partition that is gone needs nothing any more.
                if let Some(partition) = registry.get(about) {
                    Partition::hear_leader(&partition, said);
                }
            }
        }
    }
}

async fn open(
    channel: Channel,
    requests: mpsc::Receiver<wire::ReplicateRequest>,
) -> Result<Streaming<wire::ReplicateResponse>, Status> {
    let mut client = ReplicationServiceClient::new(channel)
        .max_decoding_message_size(2 * GRPC_DECODE_BYTES_MAX)
        .max_encoding_message_size(usize::MAX);
    Ok(client.replicate(ReceiverStream::new(requests)).await?.into_inner())
}

impl fmt::Debug for ReplicationPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicationPeers")
            .field("me", &self.shared.me)
            .field("lines", &*self.shared.lines.lock())
            .finish_non_exhaustive()
    }
}
