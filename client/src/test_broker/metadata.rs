//! `MetadataService` of the test cluster.

use bytes::Bytes;
use riverrun_proto::{
    reason::Reason,
    rpc::v1::{
        self, metadata_service_server::MetadataService, offset_query::At, offset_result,
        topic_result,
    },
};
use tonic::{Request, Response, Status};

use super::{State, TestTopic, error, network::Broker, status};

/// Topics on a page.
const PAGE: usize = 2;

#[tonic::async_trait]
impl MetadataService for Broker {
    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        let state = self.cluster.state();
        if let Some(error) = &state.faults.refuse_calls {
            return Err(status(error));
        }
        Ok(Response::new(v1::GetClusterResponse {
            cluster_id: "0123456789abcdef0123456789abcdef".into(),
            brokers: brokers(&state),
            controller_id: 1,
            broker_id: self.id,
            version: "0.0.0-test".into(),
        }))
    }

    async fn get_topics(
        &self,
        request: Request<v1::GetTopicsRequest>,
    ) -> Result<Response<v1::GetTopicsResponse>, Status> {
        let request = request.into_inner();
        if self.cluster.state().faults.mute_topics == Some(self.id) {
            std::future::pending::<()>().await;
        }
        let mut state = self.cluster.state();
        state.seen.topic_requests += 1;
        if let Some(error) = &state.faults.refuse_calls {
            return Err(status(error));
        }
        if let Some(error) = state.faults.next_topics.pop_front() {
            return Err(status(&error));
        }
        let mut next_page_token = String::new();
        let names = if request.topics.is_empty() {
            let mut names = state.topics.keys().filter(|name| **name > request.page_token).cloned();
            let page: Vec<String> = names.by_ref().take(PAGE).collect();
            if names.next().is_some() {
                next_page_token = page.last().cloned().unwrap_or_default();
            }
            page
        } else {
            request.topics
        };
        let topics = names.into_iter().map(|name| {
            let outcome = match state.topics.get(&name) {
                Some(topic) => topic_result::Outcome::Topic(topic_to_wire(&name, topic)),
                None => topic_result::Outcome::Error(error(
                    Reason::UnknownTopicOrPartition,
                    false,
                    true,
                )),
            };
            v1::TopicResult { name, topic_id: Bytes::new(), outcome: Some(outcome) }
        });
        let mut topics: Vec<v1::TopicResult> = topics.collect();
        if let Some((broker, leader_epoch)) = state.faults.cut_off
            && broker == self.id
        {
            for result in &mut topics {
                let Some(topic_result::Outcome::Topic(topic)) = &mut result.outcome else {
                    continue;
                };
                for partition in &mut topic.partitions {
                    (partition.leader, partition.leader_epoch) = (Some(broker), leader_epoch);
                }
            }
        }
        Ok(Response::new(v1::GetTopicsResponse {
            topics,
            next_page_token,
            brokers: brokers(&state),
        }))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let mut state = self.cluster.state();
        if let Some(error) = &state.faults.refuse_calls {
            return Err(status(error));
        }
        let results = request.into_inner().queries.into_iter().map(|query| {
            let partition = query.partition.clone().unwrap();
            let outcome = match state.log(&partition.topic_id, partition.partition) {
                None => offset_result::Outcome::Error(error(Reason::UnknownTopicId, false, true)),
                Some(log) if log.leader != Some(self.id) => {
                    offset_result::Outcome::Error(error(Reason::NotLeaderOrFollower, true, true))
                }
                Some(log) => {
                    let found = match query.at.unwrap() {
                        At::Edge(edge) if edge == i32::from(v1::Edge::Earliest) => {
                            Some((log.log_start, None))
                        }
                        At::Edge(_) => Some((log.log_end, None)),
                        At::TimestampMs(ms) => log.first_since(ms).map(|(at, ms)| (at, Some(ms))),
                        At::MaxTimestamp(_) => {
                            (log.log_end > log.log_start).then_some((log.log_end - 1, Some(0)))
                        }
                    };
                    offset_result::Outcome::Found(v1::FoundOffset {
                        offset: found.map(|(offset, _)| offset),
                        timestamp_ms: found.and_then(|(_, ms)| ms),
                        leader_epoch: log.leader_epoch,
                    })
                }
            };
            v1::OffsetResult { partition: Some(partition), outcome: Some(outcome) }
        });
        let results = results.collect();
        Ok(Response::new(v1::ListOffsetsResponse { results }))
    }
}

pub(super) fn topic_to_wire(name: &str, topic: &TestTopic) -> v1::Topic {
    let partitions = topic.partitions.iter().zip(0..).map(|(log, partition)| v1::Partition {
        partition,
        leader: log.leader,
        leader_epoch: log.leader_epoch,
        replicas: log.leader.into_iter().collect(),
        in_sync_replicas: log.leader.into_iter().collect(),
    });
    v1::Topic {
        name: name.to_owned(),
        topic_id: Bytes::copy_from_slice(topic.id.as_bytes()),
        partitions: partitions.collect(),
        replication_factor: 1,
        max_message_bytes: topic.max_message_bytes,
    }
}

fn brokers(state: &State) -> Vec<v1::Broker> {
    let broker = |broker_id| v1::Broker {
        broker_id,
        host: format!("b{broker_id}"),
        port: 9190,
        rack: String::new(),
    };
    (1..=state.brokers).map(broker).collect()
}
