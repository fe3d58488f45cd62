//! What is asked of whole brokers: drained, removed, what to move where, and how fast.

use std::{num::NonZeroU64, time::Duration};

use riverrun_proto::{ids::BrokerId, reason::Reason, rpc::v1};
use tokio::time::timeout;

use super::{cluster, convert, core::Core, status::Failure};
use crate::controller::moves::{self, Goal, Move, Plan};

/// Moves of one answer at most; `total` counts the rest.
const MOVES_MAX: usize = 1000;

pub(super) async fn drain(
    core: &Core,
    request: &v1::DrainBrokerRequest,
    time: Duration,
) -> Result<v1::DrainBrokerResponse, Failure> {
    let id = BrokerId(request.broker_id);
    core.within(time, core.controller.drain(id, !request.cancel)).await?;
    let _ = timeout(time, core.wait_applied()).await;
    let brokers = cluster::brokers(&core.catalog.image());
    let broker = brokers.into_iter().find(|broker| broker.broker_id == id.0);
    Ok(v1::DrainBrokerResponse { broker })
}

pub(super) async fn remove(
    core: &Core,
    request: &v1::RemoveBrokerRequest,
    time: Duration,
) -> Result<v1::RemoveBrokerResponse, Failure> {
    let id = BrokerId(request.broker_id);
    core.within(time, core.controller.remove_broker(id)).await?;
    Ok(v1::RemoveBrokerResponse {})
}

pub(super) async fn throttle(
    core: &Core,
    request: v1::ThrottleMovesRequest,
    time: Duration,
) -> Result<v1::ThrottleMovesResponse, Failure> {
    let asked = match request.bytes_per_second.map(NonZeroU64::new) {
        None => None,
        Some(Some(rate)) => Some(rate),
        Some(None) => {
            let message = "with 0 bytes a second moves would stand still for good; leave it out to \
                           lift the throttle";
            return Err(Failure::invalid("bytes_per_second", message));
        }
    };
    let rate = core.within(time, core.controller.throttle_moves(asked)).await?;
    // On this broker, if the call's time allows; the others follow as fast as news go.
    let _ = timeout(time, core.wait_applied()).await;
    Ok(v1::ThrottleMovesResponse { bytes_per_second: rate.map(NonZeroU64::get) })
}

/// On the newest metadata, for whoever carries a plan out asks again after each few moves.
pub(super) async fn plan(
    core: &Core,
    request: &v1::PlanMovesRequest,
    time: Duration,
) -> Result<v1::PlanMovesResponse, Failure> {
    core.within(time, core.controller.catch_up()).await?;
    let image = core.catalog.image();
    let goal = match request.off_broker.map(BrokerId) {
        None => Goal::Spread,
        Some(id) if image.broker(id).is_some() => Goal::Off(id),
        Some(id) => {
            let message = format!("broker {id} is not registered; see riverrun cluster brokers");
            let failure = Failure::new(Reason::BrokerIdNotRegistered, message);
            return Err(failure.at_field("off_broker"));
        }
    };
    // A look at every partition, some of them several times: not on a thread that serves calls.
    let planned = tokio::task::spawn_blocking(move || moves::plan(&image, goal)).await;
    let Plan { moves, stuck } = planned.map_err(|panic| {
        Failure::new(Reason::UnknownServerError, format!("the plan was not made: {panic}"))
    })?;
    let max = match request.max_moves as usize {
        0 => MOVES_MAX,
        max => max.min(MOVES_MAX),
    };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let total = count(moves.len());
    let moves = moves.into_iter().take(max).map(wire_move).collect();
    Ok(v1::PlanMovesResponse { moves, total, stuck: count(stuck) })
}

fn wire_move(planned: Move) -> v1::PlannedMove {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|id| id.0).collect();
    v1::PlannedMove {
        topic: planned.topic.to_string(),
        topic_id: convert::wire_topic_id(planned.partition.topic),
        partition: planned.partition.partition.to_wire(),
        partition_epoch: planned.epoch.get(),
        from: ids(&planned.from),
        to: ids(&planned.to),
    }
}
