//! `AdminService`.

use std::{collections::BTreeMap, time::Duration};

use riverrun_proto::{
    ids::TopicId,
    rpc::v1::{
        self, admin_service_client::AdminServiceClient, delete_records_result, partition_state,
    },
};
use tonic::transport::Channel;

use super::{Connections, Use, convert, status};
use crate::{
    address::Address,
    admin::{ConfigEntry, PartitionOffsets, TopicDescription},
    error::{Error, Result},
    topic::Topic,
};

/// A topic to be made.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewTopic {
    pub(crate) name: String,
    pub(crate) partitions: Option<u32>,
    pub(crate) replication_factor: Option<u32>,
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) validate_only: bool,
}

/// Records to delete: those below the offset, or below the high watermark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordsDeletion {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) before: Option<i64>,
}

impl Connections {
    fn admin(&self, address: &Address) -> Result<AdminServiceClient<Channel>> {
        Ok(AdminServiceClient::new(self.channel(address, Use::Control)?))
    }

    pub(crate) async fn create_topic(&self, address: &Address, topic: NewTopic) -> Result<Topic> {
        let request = self.request(v1::CreateTopicRequest {
            name: topic.name,
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            configs: topic.configs.into_iter().collect(),
            validate_only: topic.validate_only,
        });
        let mut client = self.admin(address)?;
        let call = async { Ok(client.create_topic(request).await?.into_inner()) };
        let answer = self.bounded(address, "creating a topic", call).await?;
        topic_of(answer.topic)
    }

    pub(crate) async fn delete_topic(
        &self,
        address: &Address,
        name: String,
        id: Option<TopicId>,
        validate_only: bool,
    ) -> Result<()> {
        let topic_id = id.map(convert::topic_id_bytes).unwrap_or_default();
        let request = self.request(v1::DeleteTopicRequest { name, topic_id, validate_only });
        let mut client = self.admin(address)?;
        let call = async { Ok(client.delete_topic(request).await?.into_inner()) };
        self.bounded(address, "deleting a topic", call).await?;
        Ok(())
    }

    pub(crate) async fn describe_topic(
        &self,
        address: &Address,
        name: String,
    ) -> Result<TopicDescription> {
        let request = self.request(v1::DescribeTopicRequest { name });
        let mut client = self.admin(address)?;
        let call = async { Ok(client.describe_topic(request).await?.into_inner()) };
        let answer = self.bounded(address, "describing a topic", call).await?;
        let partitions = answer.partitions.into_iter().map(|state| {
            let outcome = match state.outcome {
                Some(partition_state::Outcome::Offsets(offsets)) => Ok(PartitionOffsets {
                    log_start_offset: offsets.log_start_offset,
                    high_watermark: offsets.high_watermark,
                    log_end_offset: offsets.log_end_offset,
                    flushed_end_offset: offsets.flushed_end_offset,
                    size_bytes: offsets.size_bytes,
                    segments: offsets.segments,
                }),
                Some(partition_state::Outcome::Error(error)) => Err(status::from_wire(error)),
                None => Err(Error::protocol("the broker answered a partition without its state")),
            };
            Ok((convert::partition_index(state.partition)?, outcome))
        });
        Ok(TopicDescription {
            partitions: partitions.collect::<Result<_>>()?,
            topic: topic_of(answer.topic)?,
            configs: answer.configs.into_iter().map(config_entry).collect(),
        })
    }

    pub(crate) async fn create_partitions(
        &self,
        address: &Address,
        topic: String,
        partitions: u32,
        validate_only: bool,
    ) -> Result<Topic> {
        let request =
            self.request(v1::CreatePartitionsRequest { topic, partitions, validate_only });
        let mut client = self.admin(address)?;
        let call = async { Ok(client.create_partitions(request).await?.into_inner()) };
        let answer = self.bounded(address, "adding partitions", call).await?;
        topic_of(answer.topic)
    }

    pub(crate) async fn alter_topic_configs(
        &self,
        address: &Address,
        topic: String,
        set: BTreeMap<String, String>,
        reset: Vec<String>,
        validate_only: bool,
    ) -> Result<Vec<ConfigEntry>> {
        let request = self.request(v1::AlterTopicConfigsRequest {
            topic,
            set: set.into_iter().collect(),
            reset,
            validate_only,
        });
        let mut client = self.admin(address)?;
        let call = async { Ok(client.alter_topic_configs(request).await?.into_inner()) };
        let answer = self.bounded(address, "altering a topic", call).await?;
        Ok(answer.configs.into_iter().map(config_entry).collect())
    }

    /// One result per deletion, in order: the log start offset that holds now.
    pub(crate) async fn delete_records(
        &self,
        address: &Address,
        deletions: &[RecordsDeletion],
        timeout: Duration,
    ) -> Result<Vec<Result<i64>>> {
        let partitions = deletions.iter().map(|deletion| v1::DeleteRecordsBefore {
            partition: Some(v1::TopicPartition {
                topic: String::new(),
                topic_id: convert::topic_id_bytes(deletion.topic),
                partition: deletion.partition.cast_signed(),
            }),
            before_offset: deletion.before,
        });
        let request = self.request(v1::DeleteRecordsRequest {
            partitions: partitions.collect(),
            timeout: convert::duration(timeout),
        });
        let mut client = self.admin(address)?;
        let call = async { Ok(client.delete_records(request).await?.into_inner()) };
        let answer = self.bounded(address, "deleting records", call).await?;
        if answer.results.len() != deletions.len() {
            return Err(Error::protocol(format!(
                "the broker at {address} answered {} deletions of {}",
                answer.results.len(),
                deletions.len()
            ))
            .definite(false));
        }
        let results = answer.results.into_iter().map(|result| match result.outcome {
            Some(delete_records_result::Outcome::LogStartOffset(offset)) => Ok(offset),
            Some(delete_records_result::Outcome::Error(error)) => Err(status::from_wire(error)),
            None => Err(Error::protocol("the broker answered a deletion without an outcome")),
        });
        Ok(results.collect())
    }
}

fn topic_of(topic: Option<v1::Topic>) -> Result<Topic> {
    convert::topic(topic.ok_or_else(|| Error::protocol("the broker answered without the topic"))?)
}

fn config_entry(entry: v1::ConfigEntry) -> ConfigEntry {
    ConfigEntry {
        key: entry.key,
        value: entry.value,
        overridden: entry.overridden,
        documentation: entry.documentation,
    }
}
