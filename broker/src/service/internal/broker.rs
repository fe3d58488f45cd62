//! `BrokerService`: see `proto/riverrun/internal/v1/broker.proto`.

use std::pin::Pin;

use futures::{Stream, stream};
use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::BrokerId,
    rpc::internal::v1::{self as wire, broker_service_server::BrokerService},
};
use tonic::{Request, Response, Status, Streaming};

use super::{Door, Inside};
use crate::{
    clock::{ClockOffset, WallAnchor},
    controller::{Compared, Heartbeat, MetaQuorum},
    metadata::MetadataOffset,
};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Broker(pub(super) Door);

type Answers = Pin<Box<dyn Stream<Item = Result<wire::HeartbeatResponse, Status>> + Send>>;

/// A broker's connection. Dropped, it has ended.
#[derive(Debug)]
struct Link {
    door: Door,
    broker: BrokerId,
    connection: u64,
}

#[tonic::async_trait]
impl BrokerService for Broker {
    type HeartbeatStream = Answers;

    async fn heartbeat(
        &self,
        request: Request<Streaming<wire::HeartbeatRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let inside = self.0.inside()?;
        let mut first =
            requests.message().await?.ok_or_else(|| Status::invalid_argument("no heartbeat"))?;
        let greeting = inside.greet(first.hello.take())?;
        let connection = inside.liveness.lock().dialled();
        let link = Link { door: self.0.clone(), broker: greeting.from.node, connection };
        let first = Some(link.hear(&first)?);
        let answers = stream::try_unfold((link, requests, first), next_answer);
        Ok(Response::new(Box::pin(answers)))
    }
}

type State = (Link, Streaming<wire::HeartbeatRequest>, Option<wire::HeartbeatResponse>);

async fn next_answer(
    (link, mut requests, first): State,
) -> Result<Option<(wire::HeartbeatResponse, State)>, Status> {
    if let Some(first) = first {
        return Ok(Some((first, (link, requests, None))));
    }
    let mut leader = link.inside()?.quorum.leader();
    let me = link.inside()?.card.voter.node;
    let stopping = link.door.shutdown.clone();
    let request = tokio::select! {
        request = requests.message() => request?,
        // Whoever waits for an answer must not wait for a node that does not give one.
        _ = leader.wait_for(|leader| leader.is_none_or(|l| l.node != me)) => None,
        () = stopping.stopping() => None,
    };
    let Some(request) = request else {
        return Err(Status::unavailable("this node does not lead the metadata quorum any more"));
    };
    let answer = link.hear(&request)?;
    Ok(Some((answer, (link, requests, None))))
}

// === impl Link ===

impl Link {
    fn inside(&self) -> Result<&Inside, Status> {
        self.door.inside()
    }

    fn hear(&self, request: &wire::HeartbeatRequest) -> Result<wire::HeartbeatResponse, Status> {
        let inside = self.inside()?;
        let (epoch, applied) =
            (BrokerEpoch::new(request.broker_epoch), MetadataOffset::new(request.applied_offset));
        let (Some(epoch), Some(applied)) = (epoch, applied) else {
            return Err(Status::invalid_argument("a heartbeat with a negative epoch or offset"));
        };
        let mut liveness = inside.liveness.lock();
        // Under the lock: no older than what was decided by the last who held it.
        let (image, now) = (inside.quorum.image(), inside.clock.monotonic());
        liveness.lead(inside.term_led(), now);
        if !liveness.leads() {
            return Err(Status::unavailable("this node does not lead the metadata quorum"));
        }
        let broker = self.broker;
        let (wants_to_stop, clock) = (request.wants_to_stop, request.clock.and_then(told));
        let wall = inside.clock.now();
        let anchor = WallAnchor::of(wall, now);
        liveness.own_clock(anchor);
        let said = Heartbeat { broker, epoch, applied, wants_to_stop, clock };
        liveness.heard(said, self.connection, now);
        let may_stop = said.wants_to_stop && liveness.may_stop(&image, broker);
        let lease = liveness.lease(&image, broker);
        let clocks = liveness.clocks(&image, now);
        drop(liveness);
        inside.heard.notify_one();
        Ok(wire::HeartbeatResponse {
            may_stop,
            sent_at_ns: request.sent_at_ns,
            lease_ms: u32::try_from(lease.as_millis()).unwrap_or(u32::MAX),
            wall_clock_ms: wall.as_millis(),
            wall_anchor_ms: anchor.ms(),
            clocks_off: clocks.off.into_iter().map(clock_of).collect(),
            clock_disputed: clocks.disputed,
            clock_confirmed: clocks.confirmed,
        })
    }
}

/// `None`: it does not say what came of it, and so counts as one that has not compared, never as one that
/// agrees.
fn told(compared: wire::ClockCompared) -> Option<Compared> {
    let wire::ClockOffset { ahead_ms, uncertain_ms } = compared.offset?;
    let offset = ClockOffset::told(ahead_ms, uncertain_ms);
    Some(Compared { offset, leader: WallAnchor::told(compared.wall_anchor_ms) })
}

fn clock_of((broker, offset): (BrokerId, ClockOffset)) -> wire::BrokerClock {
    let (ahead_ms, uncertain_ms) = (offset.ahead_ms(), offset.uncertain_ms());
    let offset = Some(wire::ClockOffset { ahead_ms, uncertain_ms });
    wire::BrokerClock { broker_id: broker.0, offset }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Ok(inside) = self.door.inside() {
            let now = inside.clock.monotonic();
            inside.liveness.lock().closed(self.broker, self.connection, now);
        }
    }
}
