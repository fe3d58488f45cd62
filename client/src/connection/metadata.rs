//! `MetadataService`: the cluster, topics, offsets by place or time.

use std::sync::Arc;

use riverrun_proto::{
    ids::{BrokerId, TopicId},
    limits,
    rpc::v1::{
        self, metadata_service_client::MetadataServiceClient, offset_query::At, offset_result,
        topic_result,
    },
};
use tonic::transport::Channel;

use super::{Connections, Use, convert, status};
use crate::{
    address::Address,
    error::{Error, Result},
    topic::{Broker, Cluster, Topic},
};

/// Answer to a question about topics.
#[derive(Debug)]
pub(crate) struct ListedTopics {
    /// In the order asked for, or by name.
    pub(crate) topics: Vec<(Arc<str>, Result<Topic>)>,
    pub(crate) brokers: Vec<Broker>,
    /// Empty: the last page.
    pub(crate) next_page_token: String,
}

/// Which offset is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OffsetAt {
    Earliest,
    Latest,
    Timestamp(i64),
    MaxTimestamp,
}

/// Which offset of which partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OffsetQuestion {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) at: OffsetAt,
}

impl Connections {
    fn metadata(&self, address: &Address) -> Result<MetadataServiceClient<Channel>> {
        Ok(MetadataServiceClient::new(self.channel(address, Use::Control)?)
            .max_decoding_message_size(limits::GRPC_DECODE_BYTES_MAX))
    }

    /// The cluster as the broker at `address` knows it.
    pub(crate) async fn cluster(&self, address: &Address) -> Result<Cluster> {
        let mut client = self.metadata(address)?;
        let request = self.request(v1::GetClusterRequest {});
        let call = async { Ok(client.get_cluster(request).await?.into_inner()) };
        let answer = self.bounded(address, "asking for the cluster", call).await?;
        Ok(Cluster {
            id: answer.cluster_id,
            brokers: answer.brokers.into_iter().map(convert::broker).collect::<Result<_>>()?,
            controller: BrokerId(answer.controller_id),
            answered_by: BrokerId(answer.broker_id),
            version: answer.version,
        })
    }

    /// The topics of these names.
    pub(crate) async fn topics(
        &self,
        address: &Address,
        names: &[Arc<str>],
        allow_auto_create: bool,
    ) -> Result<ListedTopics> {
        let request = v1::GetTopicsRequest {
            topics: names.iter().map(|name| name.as_ref().to_owned()).collect(),
            allow_auto_create,
            ..Default::default()
        };
        self.get_topics(address, request).await
    }

    /// A page of all topics.
    pub(crate) async fn topics_page(
        &self,
        address: &Address,
        page_size: u32,
        page_token: String,
    ) -> Result<ListedTopics> {
        let request = v1::GetTopicsRequest { page_size, page_token, ..Default::default() };
        self.get_topics(address, request).await
    }

    async fn get_topics(
        &self,
        address: &Address,
        request: v1::GetTopicsRequest,
    ) -> Result<ListedTopics> {
        let mut client = self.metadata(address)?;
        let request = self.request(request);
        let call = async { Ok(client.get_topics(request).await?.into_inner()) };
        let answer = self.bounded(address, "asking for topics", call).await?;
        let topics = answer.topics.into_iter().map(|result| {
            let outcome = match result.outcome {
                Some(topic_result::Outcome::Topic(topic)) => convert::topic(topic),
                Some(topic_result::Outcome::Error(error)) => Err(status::from_wire(error)),
                None => Err(Error::protocol("the broker answered a topic without an outcome")),
            };
            (Arc::from(result.name), outcome)
        });
        Ok(ListedTopics {
            topics: topics.collect(),
            brokers: answer.brokers.into_iter().map(convert::broker).collect::<Result<_>>()?,
            next_page_token: answer.next_page_token,
        })
    }

    /// Offsets of partitions the broker at `address` leads, in the order of the questions. `None`:
    /// no record at or after that time.
    pub(crate) async fn list_offsets(
        &self,
        address: &Address,
        questions: &[OffsetQuestion],
    ) -> Result<Vec<Result<Option<(i64, Option<i64>)>>>> {
        let request = self.request(v1::ListOffsetsRequest {
            queries: questions.iter().map(question_to_wire).collect(),
        });
        let mut client = self.metadata(address)?;
        let call = async { Ok(client.list_offsets(request).await?.into_inner()) };
        let answer = self.bounded(address, "asking for offsets", call).await?;
        if answer.results.len() != questions.len() {
            return Err(Error::protocol(format!(
                "the broker at {address} answered {} offsets of {}",
                answer.results.len(),
                questions.len()
            )));
        }
        let results = answer.results.into_iter().map(|result| match result.outcome {
            Some(offset_result::Outcome::Found(found)) => {
                Ok(found.offset.map(|offset| (offset, found.timestamp_ms)))
            }
            Some(offset_result::Outcome::Error(error)) => Err(status::from_wire(error)),
            None => Err(Error::protocol("the broker answered an offset without an outcome")),
        });
        Ok(results.collect())
    }
}

fn question_to_wire(question: &OffsetQuestion) -> v1::OffsetQuery {
    let at = match question.at {
        OffsetAt::Earliest => At::Edge(v1::Edge::Earliest.into()),
        OffsetAt::Latest => At::Edge(v1::Edge::Latest.into()),
        OffsetAt::Timestamp(ms) => At::TimestampMs(ms),
        OffsetAt::MaxTimestamp => At::MaxTimestamp(true),
    };
    v1::OffsetQuery {
        partition: Some(v1::TopicPartition {
            topic: String::new(),
            topic_id: convert::topic_id_bytes(question.topic),
            partition: question.partition.cast_signed(),
        }),
        leader_epoch: None,
        at: Some(at),
    }
}
