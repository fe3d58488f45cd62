//! `PartitionService`: partitions described, elected for, moved. What is decided, the controller
//! decides; this asks it, and waits until the change holds on this broker.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use riverrun_proto::{
    epoch::{LeaderEpoch, PartitionEpoch},
    ids::{BrokerId, PartitionIndex, TopicName, TopicPartition},
    offset::Offset,
    reason::Reason,
    rpc::v1,
};
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use v1::{
    describe_partitions_request::Filter, elect_leader_request::Choice as WireChoice,
    partition_service_server::PartitionService,
};

use super::{
    convert::{self, wire_duration},
    core::Core,
    status::Failure,
};
use crate::{
    controller::Mode,
    metadata::{
        MetadataImage, Partition, Topic, command::Choice, partition::REPLICATION_FACTOR_MAX,
    },
    partition::{Durability, FollowerView, LeaderView, MovingView, Standing},
    telemetry::Request as Called,
};

/// Partitions on one page where the caller names no number. Each takes some hundred bytes.
const PAGE_PARTITIONS: usize = 1000;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Partitions(pub(super) Arc<Core>);

#[tonic::async_trait]
impl PartitionService for Partitions {
    async fn describe_partitions(
        &self,
        request: Request<v1::DescribePartitionsRequest>,
    ) -> Result<Response<v1::DescribePartitionsResponse>, Status> {
        let handle = async |request, _| self.describe_all(&request);
        self.0.unary(Called::DescribePartitions, request, handle).await
    }

    async fn elect_leader(
        &self,
        request: Request<v1::ElectLeaderRequest>,
    ) -> Result<Response<v1::ElectLeaderResponse>, Status> {
        let asked_by = asked_by(&request);
        let handle = async |request, time| self.elect(request, &asked_by, time).await;
        self.0.unary(Called::ElectLeader, request, handle).await
    }

    async fn reassign_partition(
        &self,
        request: Request<v1::ReassignPartitionRequest>,
    ) -> Result<Response<v1::ReassignPartitionResponse>, Status> {
        let handle = async |request, time| self.reassign(request, time).await;
        self.0.unary(Called::ReassignPartition, request, handle).await
    }

    async fn cancel_reassignment(
        &self,
        request: Request<v1::CancelReassignmentRequest>,
    ) -> Result<Response<v1::CancelReassignmentResponse>, Status> {
        let handle = async |request, time| self.cancel(request, time).await;
        self.0.unary(Called::CancelReassignment, request, handle).await
    }
}

impl Partitions {
    fn describe_all(
        &self,
        request: &v1::DescribePartitionsRequest,
    ) -> Result<v1::DescribePartitionsResponse, Failure> {
        let core = &self.0;
        let filter = Filter::try_from(request.filter).map_err(|_| {
            let message = format!("filter {} does not exist here", request.filter);
            Failure::invalid("filter", message)
        })?;
        core.check_partition_count(request.partitions.len(), "partitions")?;
        let image = core.catalog.image();
        let topic = match request.topic.as_str() {
            "" if !request.partitions.is_empty() => {
                return Err(Failure::invalid("topic", "name the topic of these partitions"));
            }
            "" => None,
            name => Some(core.catalog.topic(&convert::topic_ref(name, &bytes::Bytes::new())?)?),
        };
        let mut wanted = Vec::with_capacity(request.partitions.len());
        if let Some(topic) = &topic {
            for partition in &request.partitions {
                wanted.push(core.catalog.index_of(topic, *partition)?);
            }
        }
        let max = core.limits.partitions_per_page_max;
        let size = match request.page_size as usize {
            0 => PAGE_PARTITIONS.min(max),
            size => size.min(max),
        };
        let after = token(&request.page_token)?;
        let is_wanted = |index: &PartitionIndex| wanted.is_empty() || wanted.contains(index);
        let mut found = topics_from(&image, topic.as_ref(), after.as_ref())
            .flat_map(|topic| topic.partitions().map(move |(index, state)| (topic, index, state)))
            .filter(|(topic, index, state)| {
                let comes_after =
                    after.as_ref().is_none_or(|(name, last)| (&topic.name, index) > (name, last));
                comes_after && is_wanted(index) && passes(filter, state)
            });
        let page: Vec<_> = found.by_ref().take(size).collect();
        let last = page.last().map(|(topic, index, _)| format!("{}/{index}", topic.name));
        let next_page_token = last.filter(|_| found.next().is_some()).unwrap_or_default();
        let describe = |(topic, index, state): &(&Arc<Topic>, PartitionIndex, &Partition)| {
            let id = TopicPartition::new(topic.id, *index);
            let here = core.catalog.here(id).map(|partition| partition.standing());
            described(&topic.name, id, state, here)
        };
        Ok(v1::DescribePartitionsResponse {
            partitions: page.iter().map(describe).collect(),
            next_page_token,
            broker_id: core.broker.0,
        })
    }

    async fn elect(
        &self,
        request: v1::ElectLeaderRequest,
        asked_by: &str,
        time: Duration,
    ) -> Result<v1::ElectLeaderResponse, Failure> {
        let choice = match request.choice {
            Some(WireChoice::Preferred(true)) => Choice::Preferred,
            Some(WireChoice::Member(broker)) => Choice::Member(BrokerId(broker)),
            Some(WireChoice::Unclean(broker)) => Choice::Unclean(BrokerId(broker)),
            Some(WireChoice::Preferred(false)) | None => {
                let message = "say who is to lead: preferred, member or unclean";
                return Err(Failure::invalid("choice", message));
            }
        };
        let (id, mode) =
            self.named(request.partition.as_ref(), request.validate_only, time).await?;
        let expected = partition_epoch(request.expected_partition_epoch)?;
        let core = &self.0;
        if let (Choice::Unclean(broker), Mode::Apply) = (choice, mode) {
            tracing::warn!(partition = %id, broker = broker.0, asked_by, "an unclean election is asked for: what that broker lacks will be lost");
        }
        let elected = core.controller.elect(id, choice, expected, mode);
        let elected = core.within(time, elected).await?;
        if let (Choice::Unclean(broker), Mode::Apply) = (choice, mode) {
            tracing::warn!(partition = %id, broker = broker.0, asked_by, leader_epoch = %elected.leader_epoch, "elected although it may lack committed records");
        }
        Ok(v1::ElectLeaderResponse { partition: self.changed(id, &elected, mode, time).await })
    }

    async fn reassign(
        &self,
        request: v1::ReassignPartitionRequest,
        time: Duration,
    ) -> Result<v1::ReassignPartitionResponse, Failure> {
        if request.to.is_empty() || request.to.len() > REPLICATION_FACTOR_MAX {
            let message = format!("name 1 to {REPLICATION_FACTOR_MAX} brokers");
            return Err(Failure::new(Reason::InvalidReplicaAssignment, message).at_field("to"));
        }
        let (id, mode) =
            self.named(request.partition.as_ref(), request.validate_only, time).await?;
        let expected = partition_epoch(request.expected_partition_epoch)?;
        let to: Vec<_> = request.to.into_iter().map(BrokerId).collect();
        let moved = self.0.controller.reassign(id, &to, expected, mode);
        let moved = self.0.within(time, moved).await?;
        Ok(v1::ReassignPartitionResponse { partition: self.changed(id, &moved, mode, time).await })
    }

    async fn cancel(
        &self,
        request: v1::CancelReassignmentRequest,
        time: Duration,
    ) -> Result<v1::CancelReassignmentResponse, Failure> {
        let (id, mode) =
            self.named(request.partition.as_ref(), request.validate_only, time).await?;
        let cancelled = self.0.controller.cancel_reassignment(id, mode);
        let cancelled = self.0.within(time, cancelled).await?;
        let partition = self.changed(id, &cancelled, mode, time).await;
        Ok(v1::CancelReassignmentResponse { partition })
    }

    /// The partition to change: by the newest metadata, for it may just have been made.
    async fn named(
        &self,
        named: Option<&v1::TopicPartition>,
        validate_only: bool,
        time: Duration,
    ) -> Result<(TopicPartition, Mode), Failure> {
        let named = convert::partition_ref(named)?;
        self.0.within(time, self.0.controller.catch_up()).await?;
        let mode = if validate_only { Mode::ValidateOnly } else { Mode::Apply };
        Ok((self.0.catalog.partition_id(&named)?, mode))
    }

    /// What a change made of a partition; waits until that holds on this broker, within the call's
    /// time: it is made either way.
    async fn changed(
        &self,
        id: TopicPartition,
        state: &Partition,
        mode: Mode,
        time: Duration,
    ) -> Option<v1::PartitionDescription> {
        let core = &self.0;
        if mode == Mode::Apply {
            let _ = timeout(time, core.wait_applied()).await;
        }
        let image = core.catalog.image();
        let topic = image.topic_by_id(id.topic)?;
        let here = core.catalog.here(id).map(|partition| partition.standing());
        Some(described(&topic.name, id, state, here))
    }
}

/// Who asks, for the log.
fn asked_by<T>(request: &Request<T>) -> String {
    let name = request.metadata().get("x-riverrun-client-id").and_then(|id| id.to_str().ok());
    let address = request.remote_addr().map(|address| address.to_string());
    format!(
        "{} at {}",
        name.unwrap_or("somebody"),
        address.as_deref().unwrap_or("an unknown place")
    )
}

fn partition_epoch(wire: Option<i32>) -> Result<Option<PartitionEpoch>, Failure> {
    let field = "expected_partition_epoch";
    let epoch = |wire| PartitionEpoch::new(wire);
    match wire {
        None => Ok(None),
        Some(wire) => epoch(wire).map(Some).ok_or_else(|| {
            Failure::invalid(field, format!("{field} {wire}: leave it out if it does not matter"))
        }),
    }
}

/// The last partition of the page before: `topic/index`.
fn token(token: &str) -> Result<Option<(TopicName, PartitionIndex)>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token.rsplit_once('/').and_then(|(name, index)| {
        let index = PartitionIndex::new(index.parse().ok()?)?;
        Some((TopicName::try_new(name).ok()?, index))
    });
    parsed.map(Some).ok_or_else(|| {
        let message = "not a token of ours: pass next_page_token on as it came";
        Failure::invalid("page_token", message)
    })
}

/// The one topic, or all from the one named `after` on.
fn topics_from<'a>(
    image: &'a MetadataImage,
    one: Option<&'a Arc<Topic>>,
    after: Option<&'a (TopicName, PartitionIndex)>,
) -> Box<dyn Iterator<Item = &'a Arc<Topic>> + 'a> {
    match (one, after) {
        (Some(one), _) => Box::new(std::iter::once(one)),
        (None, None) => Box::new(image.topics()),
        (None, Some((name, _))) => {
            Box::new(image.topic(name).into_iter().chain(image.topics_after(name)))
        }
    }
}

fn passes(filter: Filter, state: &Partition) -> bool {
    match filter {
        Filter::Unspecified => true,
        Filter::NotWell => {
            state.leader.is_none() || !state.isr_suffices() || state.is_under_replicated()
        }
        Filter::Reassigning => state.reassignment.is_some(),
    }
}

fn ids(brokers: &[BrokerId]) -> Vec<u32> {
    brokers.iter().map(|id| id.0).collect()
}

fn described(
    topic: &TopicName,
    id: TopicPartition,
    state: &Partition,
    here: Option<Standing>,
) -> v1::PartitionDescription {
    let leads = |standing: &Standing| standing.leading.as_ref().map(wire_leader);
    v1::PartitionDescription {
        topic: topic.to_string(),
        topic_id: convert::wire_topic_id(id.topic),
        partition: id.partition.to_wire(),
        leader: state.leader.map(|id| id.0),
        leader_epoch: state.leader_epoch.get(),
        partition_epoch: state.partition_epoch.get(),
        replicas: ids(&state.replicas),
        in_sync_replicas: ids(&state.isr),
        eligible_leaders: ids(&state.elr),
        last_known_eligible: ids(&state.last_known_elr),
        min_in_sync_replicas: state.min_isr,
        reassignment: state
            .reassignment
            .as_ref()
            .map(|r| v1::Reassignment { from: ids(&r.from), to: ids(&r.to) }),
        unclean_leader_epoch: state.unclean_epoch.map(LeaderEpoch::get),
        leading: here.as_ref().and_then(leads),
        moving: here.as_ref().and_then(|standing| standing.moving.as_ref().map(wire_moving)),
        here: here.map(|standing| wire_replica(&standing)),
    }
}

fn wire_replica(standing: &Standing) -> v1::ReplicaState {
    let offsets = &standing.offsets;
    v1::ReplicaState {
        log_start_offset: offsets.log_start.get(),
        high_watermark: offsets.high_watermark.get(),
        log_end_offset: offsets.log_end.get(),
        flushed_end_offset: offsets.flushed_end.get(),
        last_leader_epoch: standing.last_epoch.map(LeaderEpoch::get),
        size_bytes: offsets.size_bytes,
    }
}

fn wire_moving(moving: &MovingView) -> v1::MovingState {
    v1::MovingState {
        adding: ids(&moving.arriving),
        throttle_bytes_per_second: moving.throttle.map(NonZeroU64::get),
        growth_bytes_per_second: moving.growth_bytes_per_second,
    }
}

fn wire_leader(leading: &LeaderView) -> v1::LeaderState {
    let follower = |follower: &FollowerView| v1::FollowerState {
        broker_id: follower.id.0,
        counts: follower.in_isr,
        connected: follower.connected,
        log_end_offset: follower.log_end.map(Offset::get),
        flushed_end_offset: follower.flushed_end.map(Offset::get),
        bytes_behind: follower.bytes_behind,
        behind_for: follower.behind_for.map(wire_duration),
    };
    v1::LeaderState {
        waits_for_disk: leading.durability == Durability::Disk,
        uncommitted_for: leading.uncommitted_for.map(wire_duration),
        holds_appends: leading.holds_appends,
        lag_bytes_max: leading.limits.lag_bytes_max,
        lag_time_max: Some(wire_duration(leading.limits.lag_time_max)),
        proposed_isr: leading.proposed_isr.as_deref().map(ids).unwrap_or_default(),
        followers: leading.followers.iter().map(follower).collect(),
    }
}

#[cfg(test)]
#[path = "partitions_test.rs"]
mod tests;
