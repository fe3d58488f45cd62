//! `AdminService`: topics made, deleted, grown, configured; records deleted. What is decided, the
//! controller decides; this asks it, and waits until the change holds on this broker.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use riverrun_proto::{offset::Offset, reason::Reason, rpc::v1};
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use v1::admin_service_server::AdminService;

use super::{convert, core::Core, status::Failure};
use crate::{
    controller::{
        Mode,
        topics::{ConfigChanges, NewTopic, TopicRef},
    },
    metadata::Topic,
    telemetry::Request as Called,
};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Admin(pub(super) Arc<Core>);

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let handle = async |request, time| self.create(request, time).await;
        self.0.unary(Called::CreateTopic, request, handle).await
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let handle = async |request, time| self.delete(request, time).await;
        self.0.unary(Called::DeleteTopic, request, handle).await
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let handle = async |request, _| self.describe(&request).await;
        self.0.unary(Called::DescribeTopic, request, handle).await
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::CreatePartitionsResponse>, Status> {
        let handle = async |request, time| self.grow(request, time).await;
        self.0.unary(Called::CreatePartitions, request, handle).await
    }

    async fn alter_topic_configs(
        &self,
        request: Request<v1::AlterTopicConfigsRequest>,
    ) -> Result<Response<v1::AlterTopicConfigsResponse>, Status> {
        let handle = async |request, time| self.alter(request, time).await;
        self.0.unary(Called::AlterTopicConfigs, request, handle).await
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let handle = async |request, time| self.delete_records(request, time).await;
        self.0.unary(Called::DeleteRecords, request, handle).await
    }
}

impl Admin {
    async fn create(
        &self,
        request: v1::CreateTopicRequest,
        time: Duration,
    ) -> Result<v1::CreateTopicResponse, Failure> {
        let core = &self.0;
        let topic = NewTopic {
            name: request.name,
            partitions: request.partitions,
            replication_factor: request.replication_factor,
            configs: request.configs.into_iter().collect(),
        };
        let mode = mode(request.validate_only);
        let made = core.within(time, core.controller.create_topic(&topic, mode)).await?;
        self.settle(mode, time).await;
        Ok(v1::CreateTopicResponse { topic: Some(core.wire_topic(&made)) })
    }

    async fn delete(
        &self,
        request: v1::DeleteTopicRequest,
        time: Duration,
    ) -> Result<v1::DeleteTopicResponse, Failure> {
        let core = &self.0;
        let topic = self.named(&request.name, &request.topic_id, time).await?;
        let mode = mode(request.validate_only);
        core.within(time, core.controller.delete_topic(&topic, mode)).await?;
        self.settle(mode, time).await;
        Ok(v1::DeleteTopicResponse {})
    }

    async fn describe(
        &self,
        request: &v1::DescribeTopicRequest,
    ) -> Result<v1::DescribeTopicResponse, Failure> {
        let core = &self.0;
        let named = convert::topic_ref(&request.name, &bytes::Bytes::new())?;
        core.hear_of_topics([named.clone()]).await;
        let topic = core.catalog.topic(&named)?;
        let partitions = topic.partitions().map(|(index, _)| {
            let outcome = match core.catalog.partition_of(&topic, index) {
                Ok(partition) => {
                    let offsets = convert::wire_offsets(&partition.offsets());
                    v1::partition_state::Outcome::Offsets(offsets)
                }
                Err(failure) => {
                    v1::partition_state::Outcome::Error(core.catalog.wire_error(&failure))
                }
            };
            v1::PartitionState { partition: index.to_wire(), outcome: Some(outcome) }
        });
        Ok(v1::DescribeTopicResponse {
            partitions: partitions.collect(),
            configs: self.configs(&topic),
            topic: Some(core.wire_topic(&topic)),
        })
    }

    async fn grow(
        &self,
        request: v1::CreatePartitionsRequest,
        time: Duration,
    ) -> Result<v1::CreatePartitionsResponse, Failure> {
        let core = &self.0;
        let topic = self.named(&request.topic, &bytes::Bytes::new(), time).await?;
        let mode = mode(request.validate_only);
        let grown = core.controller.create_partitions(&topic, request.partitions, mode);
        let grown = core.within(time, grown).await?;
        self.settle(mode, time).await;
        Ok(v1::CreatePartitionsResponse { topic: Some(core.wire_topic(&grown)) })
    }

    async fn alter(
        &self,
        request: v1::AlterTopicConfigsRequest,
        time: Duration,
    ) -> Result<v1::AlterTopicConfigsResponse, Failure> {
        let core = &self.0;
        let topic = self.named(&request.topic, &bytes::Bytes::new(), time).await?;
        let mode = mode(request.validate_only);
        let changes = ConfigChanges {
            set: request.set.into_iter().collect(),
            reset: request.reset.into_iter().collect(),
        };
        let altered = core.controller.alter_topic_configs(&topic, &changes, mode);
        let altered = core.within(time, altered).await?;
        self.settle(mode, time).await;
        Ok(v1::AlterTopicConfigsResponse { configs: self.configs(&altered) })
    }

    async fn delete_records(
        &self,
        request: v1::DeleteRecordsRequest,
        time: Duration,
    ) -> Result<v1::DeleteRecordsResponse, Failure> {
        let core = &self.0;
        core.check_partition_count(request.partitions.len(), "partitions")?;
        let asked_time = convert::duration(request.timeout.as_ref(), "timeout")?;
        let time = asked_time.map_or(time, |asked| asked.min(time));
        core.hear_of(request.partitions.iter().map(|asked| asked.partition.as_ref())).await;
        // All at once: each waits for its own partition's disk.
        let all = request.partitions.into_iter().map(async |asked| {
            let deleted = timeout(time, self.delete_before(&asked)).await.unwrap_or_else(|_| {
                let message = "the new log start was not written down in time; it will be, but \
                               until then a kill of the broker may bring the records back";
                Err(Failure::timed_out(message).indefinite())
            });
            let outcome = match deleted {
                Ok(start) => v1::delete_records_result::Outcome::LogStartOffset(start.get()),
                Err(failure) => {
                    core.requests.observe_error(Called::DeleteRecords, failure.reason());
                    v1::delete_records_result::Outcome::Error(core.catalog.wire_error(&failure))
                }
            };
            v1::DeleteRecordsResult { partition: asked.partition, outcome: Some(outcome) }
        });
        Ok(v1::DeleteRecordsResponse { results: join_all(all).await })
    }

    async fn delete_before(&self, asked: &v1::DeleteRecordsBefore) -> Result<Offset, Failure> {
        let partition =
            self.0.catalog.partition(&convert::partition_ref(asked.partition.as_ref())?)?;
        let before = match asked.before_offset {
            None => None,
            Some(offset) => Some(Offset::new(offset).ok_or_else(|| {
                let message =
                    format!("offset {offset}: leave it out to delete all that is committed");
                Failure::new(Reason::OffsetOutOfRange, message).at_field("before_offset")
            })?),
        };
        partition.delete_records(before, None).await.map_err(|error| {
            let (is_definite, failure) = (error.is_definite(), Failure::from(error));
            let failure = if is_definite { failure } else { failure.indefinite() };
            self.0.catalog.refine(failure, partition.id().topic)
        })
    }

    fn configs(&self, topic: &Topic) -> Vec<v1::ConfigEntry> {
        let core = &self.0;
        let replicas = u32::try_from(topic.replication_factor()).unwrap_or(u32::MAX);
        let entries = core.topic_overrides(topic).describe(core.topic_defaults(), replicas);
        let entry = |entry: crate::config::TopicConfigEntry| v1::ConfigEntry {
            key: entry.key.to_owned(),
            value: entry.value,
            overridden: entry.overridden,
            documentation: entry.documentation,
        };
        entries.into_iter().map(entry).collect()
    }

    /// A topic to change: by name, and by id where the caller wants to be sure. Whether there is one
    /// of that name the controller says, who looks at the newest metadata.
    async fn named(
        &self,
        name: &str,
        id: &bytes::Bytes,
        time: Duration,
    ) -> Result<TopicRef, Failure> {
        let core = &self.0;
        let named = convert::topic_ref(name, id)?;
        match (named.name, named.id) {
            (Some(name), id) => Ok(TopicRef { name, id }),
            (None, Some(id)) => {
                core.within(time, core.controller.catch_up()).await?;
                let topic = core.catalog.topic(&convert::TopicRef { id: Some(id), name: None })?;
                Ok(TopicRef { name: topic.name.clone(), id: Some(id) })
            }
            (None, None) => Err(Failure::invalid("topic", "name a topic")),
        }
    }

    /// Waits until the change holds on this broker, within the call's time: it is made either way.
    async fn settle(&self, mode: Mode, time: Duration) {
        if mode == Mode::Apply {
            let _ = timeout(time, self.0.wait_applied()).await;
        }
    }
}

fn mode(validate_only: bool) -> Mode {
    if validate_only { Mode::ValidateOnly } else { Mode::Apply }
}
