//! `MetadataService`: what the cluster is, which topics there are, which offset is meant.

use std::{sync::Arc, time::Duration};

use riverrun_proto::{ids::TopicName, reason::Reason, rpc::v1};
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use v1::metadata_service_server::MetadataService;

use super::{
    convert::{self, PartitionRef, TopicRef},
    core::Core,
    status::Failure,
};
use crate::{
    metadata::{MetadataImage, Topic},
    telemetry::Request as Called,
};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Metadata(pub(super) Arc<Core>);

#[tonic::async_trait]
impl MetadataService for Metadata {
    async fn get_cluster(
        &self,
        request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        let handle = async |_, _| Ok(self.cluster());
        self.0.unary(Called::GetCluster, request, handle).await
    }

    async fn get_topics(
        &self,
        request: Request<v1::GetTopicsRequest>,
    ) -> Result<Response<v1::GetTopicsResponse>, Status> {
        let handle = async |request, _| self.topics(request).await;
        self.0.unary(Called::GetTopics, request, handle).await
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let handle = async |request, time| self.offsets(request, time).await;
        self.0.unary(Called::ListOffsets, request, handle).await
    }
}

impl Metadata {
    fn cluster(&self) -> v1::GetClusterResponse {
        let core = &self.0;
        let leader = *core.controller.quorum().leader().borrow();
        v1::GetClusterResponse {
            cluster_id: core.cluster.to_string(),
            brokers: brokers(&core.catalog.image()),
            controller_id: leader.map_or(core.broker.0, |leader| leader.node.0),
            broker_id: core.broker.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    async fn topics(
        &self,
        request: v1::GetTopicsRequest,
    ) -> Result<v1::GetTopicsResponse, Failure> {
        let core = &self.0;
        let named = request.topics.len() + request.topic_ids.len();
        if named > core.limits.topics_per_request_max {
            let message = format!(
                "{named} topics in one call; at most {}",
                core.limits.topics_per_request_max
            );
            return Err(Failure::invalid("topics", message));
        }
        if named == 0 {
            return self.page(&request);
        }
        let by_name = request.topics.iter().filter_map(|name| TopicName::try_new(name).ok());
        let by_id = request.topic_ids.iter().filter_map(|id| convert::topic_id(id).ok());
        let by_name = by_name.map(|name| TopicRef { id: None, name: Some(name) });
        let by_id = by_id.map(|id| TopicRef { id: Some(id), name: None });
        core.hear_of_topics(by_name.chain(by_id)).await;
        let mut topics = Vec::with_capacity(named);
        for name in &request.topics {
            let found = match TopicName::try_new(name) {
                Ok(valid) => {
                    let topic = TopicRef { id: None, name: Some(valid) };
                    core.topic(&topic, request.allow_auto_create).await
                }
                Err(invalid) => Err(invalid.into()),
            };
            topics.push(self.result(name.clone(), None, found));
        }
        for id in &request.topic_ids {
            let found = convert::topic_id(id)
                .and_then(|id| core.catalog.topic(&TopicRef { id: Some(id), name: None }));
            topics.push(self.result(String::new(), Some(id.clone()), found));
        }
        Ok(v1::GetTopicsResponse {
            topics,
            next_page_token: String::new(),
            brokers: brokers(&core.catalog.image()),
        })
    }

    /// A page of all topics, by name. The token is the last name of the page before, so that topics
    /// which come and go in between neither repeat nor hide others.
    fn page(&self, request: &v1::GetTopicsRequest) -> Result<v1::GetTopicsResponse, Failure> {
        let core = &self.0;
        let size = match request.page_size as usize {
            0 => core.limits.topics_per_request_max,
            size => size.min(core.limits.topics_per_request_max),
        };
        let image = core.catalog.image();
        let mut rest: Box<dyn Iterator<Item = &Arc<Topic>>> = match request.page_token.as_str() {
            "" => Box::new(image.topics()),
            token => {
                let after = TopicName::try_new(token).map_err(|_| {
                    let message = "not a token of ours: pass next_page_token on as it came";
                    Failure::invalid("page_token", message)
                })?;
                Box::new(image.topics_after(&after).collect::<Vec<_>>().into_iter())
            }
        };
        let (mut topics, mut partitions, mut last) = (Vec::new(), 0, None);
        let mut more = false;
        for topic in &mut rest {
            let count = topic.partition_count() as usize;
            let full = partitions + count > core.limits.partitions_per_page_max;
            if topics.len() == size || (full && !topics.is_empty()) {
                more = true;
                break;
            }
            partitions += count;
            last = Some(topic.name.to_string());
            topics.push(self.result(topic.name.to_string(), None, Ok(Arc::clone(topic))));
        }
        Ok(v1::GetTopicsResponse {
            topics,
            next_page_token: last.filter(|_| more).unwrap_or_default(),
            brokers: brokers(&image),
        })
    }

    fn result(
        &self,
        name: String,
        id: Option<bytes::Bytes>,
        found: Result<Arc<Topic>, Failure>,
    ) -> v1::TopicResult {
        let core = &self.0;
        match found {
            Ok(topic) => v1::TopicResult {
                name: topic.name.to_string(),
                topic_id: convert::wire_topic_id(topic.id),
                outcome: Some(v1::topic_result::Outcome::Topic(core.wire_topic(&topic))),
            },
            Err(failure) => {
                core.requests.observe_error(Called::GetTopics, failure.reason());
                v1::TopicResult {
                    name,
                    topic_id: id.unwrap_or_default(),
                    outcome: Some(v1::topic_result::Outcome::Error(
                        core.catalog.wire_error(&failure),
                    )),
                }
            }
        }
    }

    async fn offsets(
        &self,
        request: v1::ListOffsetsRequest,
        time: Duration,
    ) -> Result<v1::ListOffsetsResponse, Failure> {
        let core = &self.0;
        core.check_partition_count(request.queries.len(), "queries")?;
        let all = async {
            core.hear_of(request.queries.iter().map(|query| query.partition.as_ref())).await;
            let mut results = Vec::with_capacity(request.queries.len());
            for query in request.queries {
                let partition = query.partition.clone();
                let outcome = match self.offset(query).await {
                    Ok(found) => v1::offset_result::Outcome::Found(found),
                    Err(failure) => {
                        core.requests.observe_error(Called::ListOffsets, failure.reason());
                        v1::offset_result::Outcome::Error(core.catalog.wire_error(&failure))
                    }
                };
                results.push(v1::OffsetResult { partition, outcome: Some(outcome) });
            }
            results
        };
        let results = timeout(time, all)
            .await
            .map_err(|_| Failure::timed_out("the disk did not answer in time"))?;
        Ok(v1::ListOffsetsResponse { results })
    }

    async fn offset(&self, query: v1::OffsetQuery) -> Result<v1::FoundOffset, Failure> {
        let named: PartitionRef = convert::partition_ref(query.partition.as_ref())?;
        let spec = convert::offset_spec(query.at)?;
        let epoch = convert::leader_epoch(query.leader_epoch, "leader_epoch")?;
        let partition = self.0.catalog.partition(&named)?;
        let found = partition.offset_at(spec, epoch).await?;
        let leads = partition.leads().ok_or_else(|| {
            Failure::new(Reason::NotLeaderOrFollower, "this broker just lost the partition")
                .retriable()
        })?;
        Ok(convert::found_offset(found, leads))
    }
}

fn brokers(image: &MetadataImage) -> Vec<v1::Broker> {
    image.brokers().filter_map(|broker| convert::wire_broker(broker)).collect()
}
