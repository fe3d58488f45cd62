//! `PartitionService`.

use std::time::Duration;

use riverrun_proto::{
    ids::BrokerId,
    limits,
    rpc::v1::{
        self, describe_partitions_request::Filter, elect_leader_request::Choice,
        partition_service_client::PartitionServiceClient,
    },
};
use tonic::transport::Channel;

use super::{Connections, Use, convert};
use crate::{
    address::Address,
    admin::{
        Election, FollowerState, LeaderState, MovingState, PartitionDescription, PartitionFilter,
        PartitionPage, ReplicaState,
    },
    error::{Error, Result},
    topic::TopicPartition,
};

/// Which partitions are asked about.
#[derive(Clone, Debug)]
pub(crate) struct PartitionQuestion {
    /// Empty: all topics.
    pub(crate) topic: String,
    /// None: all of them.
    pub(crate) partitions: Vec<u32>,
    pub(crate) filter: PartitionFilter,
    pub(crate) page_size: u32,
    pub(crate) page_token: String,
}

/// Where the replicas of a partition go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reassigned<'a> {
    /// To these, if the partition is at that version still.
    To(&'a [BrokerId], Option<i32>),
    /// Back to where they were.
    Back,
}

impl Connections {
    fn partitions(&self, address: &Address) -> Result<PartitionServiceClient<Channel>> {
        Ok(PartitionServiceClient::new(self.channel(address, Use::Control)?)
            .max_decoding_message_size(limits::GRPC_DECODE_BYTES_MAX))
    }

    pub(crate) async fn describe_partitions(
        &self,
        address: &Address,
        question: PartitionQuestion,
    ) -> Result<PartitionPage> {
        let filter = match question.filter {
            PartitionFilter::All => Filter::Unspecified,
            PartitionFilter::NotWell => Filter::NotWell,
            PartitionFilter::Reassigning => Filter::Reassigning,
        };
        let request = self.request(v1::DescribePartitionsRequest {
            topic: question.topic,
            partitions: question.partitions.into_iter().map(u32::cast_signed).collect(),
            filter: filter.into(),
            page_size: question.page_size,
            page_token: question.page_token,
        });
        let mut client = self.partitions(address)?;
        let call = async { Ok(client.describe_partitions(request).await?.into_inner()) };
        let answer = self.bounded(address, "describing partitions", call).await?;
        let told_by = BrokerId(answer.broker_id);
        let partitions = answer.partitions.into_iter().map(|p| description(p, told_by));
        Ok(PartitionPage {
            partitions: partitions.collect::<Result<_>>()?,
            next_page_token: answer.next_page_token,
        })
    }

    pub(crate) async fn elect_leader(
        &self,
        address: &Address,
        partition: &TopicPartition,
        election: Election,
        seen: Option<i32>,
    ) -> Result<PartitionDescription> {
        let choice = match election {
            Election::Preferred => Choice::Preferred(true),
            Election::Member(broker) => Choice::Member(broker.0),
            Election::Unclean(broker) => Choice::Unclean(broker.0),
        };
        let request = self.request(v1::ElectLeaderRequest {
            partition: Some(named(partition)),
            choice: Some(choice),
            expected_partition_epoch: seen,
            validate_only: false,
        });
        let mut client = self.partitions(address)?;
        let call = async { Ok(client.elect_leader(request).await?.into_inner()) };
        changed(self.bounded(address, "electing a leader", call).await?.partition)
    }

    pub(crate) async fn reassign(
        &self,
        address: &Address,
        partition: &TopicPartition,
        to: Reassigned<'_>,
        validate_only: bool,
    ) -> Result<PartitionDescription> {
        let partition = Some(named(partition));
        let mut client = self.partitions(address)?;
        match to {
            Reassigned::To(to, seen) => {
                let request = self.request(v1::ReassignPartitionRequest {
                    partition,
                    to: to.iter().map(|id| id.0).collect(),
                    expected_partition_epoch: seen,
                    validate_only,
                });
                let call = async { Ok(client.reassign_partition(request).await?.into_inner()) };
                changed(self.bounded(address, "changing replicas", call).await?.partition)
            }
            Reassigned::Back => {
                let request =
                    self.request(v1::CancelReassignmentRequest { partition, validate_only });
                let call = async { Ok(client.cancel_reassignment(request).await?.into_inner()) };
                let answer = self.bounded(address, "cancelling a change of replicas", call).await?;
                changed(answer.partition)
            }
        }
    }
}

fn named(partition: &TopicPartition) -> v1::TopicPartition {
    v1::TopicPartition {
        topic: partition.topic.to_string(),
        topic_id: bytes::Bytes::new(),
        partition: partition.partition.cast_signed(),
    }
}

/// What a change made of a partition. Whoever answers tells it, and not of its own copy.
fn changed(partition: Option<v1::PartitionDescription>) -> Result<PartitionDescription> {
    let partition = partition.ok_or_else(|| {
        let message = "the change was made; the topic was deleted right after it";
        Error::protocol(message)
    })?;
    description(partition, BrokerId(0))
}

pub(super) fn ids(brokers: Vec<u32>) -> Vec<BrokerId> {
    brokers.into_iter().map(BrokerId).collect()
}

fn description(told: v1::PartitionDescription, told_by: BrokerId) -> Result<PartitionDescription> {
    let leading = told.leading.map(|leading| LeaderState {
        waits_for_disk: leading.waits_for_disk,
        uncommitted_for: span(leading.uncommitted_for),
        holds_appends: leading.holds_appends,
        lag_bytes_max: leading.lag_bytes_max,
        lag_time_max: span(leading.lag_time_max).unwrap_or_default(),
        proposed_isr: ids(leading.proposed_isr),
        followers: leading.followers.into_iter().map(follower).collect(),
    });
    let here = told.here.map(|here| ReplicaState {
        log_start_offset: here.log_start_offset,
        high_watermark: here.high_watermark,
        log_end_offset: here.log_end_offset,
        flushed_end_offset: here.flushed_end_offset,
        last_leader_epoch: here.last_leader_epoch,
        size_bytes: here.size_bytes,
    });
    Ok(PartitionDescription {
        topic: told.topic,
        topic_id: convert::topic_id(&told.topic_id)?,
        partition: convert::partition_index(told.partition)?,
        leader: told.leader.map(BrokerId),
        leader_epoch: told.leader_epoch,
        partition_epoch: told.partition_epoch,
        replicas: ids(told.replicas),
        in_sync_replicas: ids(told.in_sync_replicas),
        eligible_leaders: ids(told.eligible_leaders),
        last_known_eligible: ids(told.last_known_eligible),
        min_in_sync_replicas: told.min_in_sync_replicas,
        reassignment: told.reassignment.map(|r| (ids(r.from), ids(r.to))),
        unclean_leader_epoch: told.unclean_leader_epoch,
        told_by: (told_by, here),
        leading,
        moving: told.moving.map(|moving| MovingState {
            adding: ids(moving.adding),
            throttle_bytes_per_second: moving.throttle_bytes_per_second,
            growth_bytes_per_second: moving.growth_bytes_per_second,
        }),
    })
}

fn follower(told: v1::FollowerState) -> FollowerState {
    FollowerState {
        id: BrokerId(told.broker_id),
        counts: told.counts,
        connected: told.connected,
        log_end_offset: told.log_end_offset,
        flushed_end_offset: told.flushed_end_offset,
        bytes_behind: told.bytes_behind,
        behind_for: span(told.behind_for),
    }
}

fn span(told: Option<prost_types::Duration>) -> Option<Duration> {
    told.and_then(|told| Duration::try_from(told).ok())
}
