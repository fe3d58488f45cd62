//! `AdminService` of the test cluster. Broker 1 is the controller.

use riverrun_proto::{
    reason::Reason,
    rpc::v1::{self, admin_service_server::AdminService, delete_records_result, partition_state},
};
use tonic::{Request, Response, Status};

use super::{State, error, metadata::topic_to_wire, network::Broker, status};

impl Broker {
    fn decide_topics<R>(
        &self,
        decide: impl FnOnce(&mut State) -> Result<R, v1::Error>,
    ) -> Result<Response<R>, Status> {
        let decided = self.cluster.change(|state| {
            if let Some(error) = &state.faults.refuse_calls {
                return Err(error.clone());
            }
            if self.id != 1 {
                let leader =
                    v1::LeaderHint { broker_id: 1, host: "b1".into(), port: 9190, leader_epoch: 0 };
                let error = error(Reason::NotController, true, true);
                return Err(v1::Error { leader: Some(leader), ..error });
            }
            decide(state)
        });
        decided.map(Response::new).map_err(|error| status(&error))
    }
}

fn unknown() -> v1::Error {
    error(Reason::UnknownTopicOrPartition, false, true)
}

#[tonic::async_trait]
impl AdminService for Broker {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let request = request.into_inner();
        self.decide_topics(|state| {
            if state.topics.contains_key(&request.name) {
                return Err(error(Reason::TopicAlreadyExists, false, true));
            }
            state.create_topic(&request.name, request.partitions.unwrap_or(1));
            let topic = state.topics.get_mut(&request.name).unwrap();
            topic.configs.extend(request.configs);
            let topic = topic_to_wire(&request.name, topic);
            if request.validate_only {
                state.topics.remove(&request.name);
            }
            Ok(v1::CreateTopicResponse { topic: Some(topic) })
        })
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let name = request.into_inner().name;
        self.decide_topics(|state| {
            state.topics.remove(&name).map(|_| v1::DeleteTopicResponse {}).ok_or_else(unknown)
        })
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let name = request.into_inner().name;
        self.decide_topics(|state| {
            let topic = state.topics.get(&name).ok_or_else(unknown)?;
            let partitions = topic.partitions.iter().zip(0..).map(|(log, partition)| {
                let offsets = v1::PartitionOffsets {
                    log_start_offset: log.log_start,
                    high_watermark: log.log_end,
                    log_end_offset: log.log_end,
                    flushed_end_offset: log.log_end,
                    size_bytes: 0,
                    segments: 1,
                };
                let outcome = Some(partition_state::Outcome::Offsets(offsets));
                v1::PartitionState { partition, outcome }
            });
            Ok(v1::DescribeTopicResponse {
                partitions: partitions.collect(),
                configs: configs(&topic.configs),
                topic: Some(topic_to_wire(&name, topic)),
            })
        })
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::CreatePartitionsResponse>, Status> {
        let request = request.into_inner();
        self.decide_topics(|state| {
            let brokers = state.brokers;
            let topic = state.topics.get_mut(&request.topic).ok_or_else(unknown)?;
            let known = u32::try_from(topic.partitions.len()).unwrap();
            if request.partitions <= known {
                return Err(error(Reason::InvalidPartitions, false, true));
            }
            let new =
                (known..request.partitions).map(|p| super::PartitionLog::new(p % brokers + 1));
            topic.partitions.extend(new);
            let topic = Some(topic_to_wire(&request.topic, topic));
            Ok(v1::CreatePartitionsResponse { topic })
        })
    }

    async fn alter_topic_configs(
        &self,
        request: Request<v1::AlterTopicConfigsRequest>,
    ) -> Result<Response<v1::AlterTopicConfigsResponse>, Status> {
        let request = request.into_inner();
        self.decide_topics(|state| {
            let topic = state.topics.get_mut(&request.topic).ok_or_else(unknown)?;
            topic.configs.extend(request.set);
            topic.configs.retain(|key, _| !request.reset.contains(key));
            Ok(v1::AlterTopicConfigsResponse { configs: configs(&topic.configs) })
        })
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let results = self.cluster.change(|state| {
            let delete = |before: v1::DeleteRecordsBefore| {
                let at = before.partition.unwrap();
                let outcome = match state.log(&at.topic_id, at.partition) {
                    None => delete_records_result::Outcome::Error(unknown()),
                    Some(log) => {
                        log.log_start = before.before_offset.unwrap_or(log.log_end);
                        delete_records_result::Outcome::LogStartOffset(log.log_start)
                    }
                };
                v1::DeleteRecordsResult { partition: Some(at), outcome: Some(outcome) }
            };
            request.into_inner().partitions.into_iter().map(delete).collect()
        });
        Ok(Response::new(v1::DeleteRecordsResponse { results }))
    }
}

fn configs(configs: &std::collections::BTreeMap<String, String>) -> Vec<v1::ConfigEntry> {
    let entry = |(key, value): (&String, &String)| v1::ConfigEntry {
        key: key.clone(),
        value: value.clone(),
        overridden: true,
        documentation: String::new(),
    };
    configs.iter().map(entry).collect()
}
