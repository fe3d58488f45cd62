//! `riverrun.v1` by its stubs and nothing else: for what a good client never sends, and as proof
//! that the stubs are enough.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use riverrun_proto::rpc::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use v1::{
    admin_service_client::AdminServiceClient, cluster_service_client::ClusterServiceClient,
    consume_service_client::ConsumeServiceClient, fetch_stream_request,
    metadata_service_client::MetadataServiceClient, offset_result, partition_data,
    partition_service_client::PartitionServiceClient, produce_service_client::ProduceServiceClient,
    read_from, record_result,
};

use crate::wait::{self, soon};

/// Largest answer: a batch of the largest size and what goes around it.
const ANSWER_BYTES_MAX: usize = 72 << 20;

/// Messages on their way into a stream.
const REQUESTS_MAX: usize = 16;

/// Stubs of all services over one connection. Clones share it.
#[derive(Debug, Clone)]
pub struct Raw {
    /// `ProduceService`
    pub produce: ProduceServiceClient<Channel>,
    /// `ConsumeService`
    pub consume: ConsumeServiceClient<Channel>,
    /// `MetadataService`
    pub metadata: MetadataServiceClient<Channel>,
    /// `AdminService`
    pub admin: AdminServiceClient<Channel>,
    /// The connection.
    pub channel: Channel,
}

/// A failed call: the code, and the message of ours in its trailers.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// gRPC's code.
    pub code: Code,
    /// What a client acts on.
    pub error: v1::Error,
}

// === impl Raw ===

impl Raw {
    /// Connects, with windows as large as a broker takes.
    pub async fn connect(address: &str) -> Self {
        Self::over(endpoint(address).connect().await.expect("the broker listens"))
    }

    /// Stubs that connect when they are used, and again after every loss.
    pub fn lazy(address: &str) -> Self {
        Self::over(endpoint(address).connect_lazy())
    }

    fn over(channel: Channel) -> Self {
        Self {
            produce: ProduceServiceClient::new(channel.clone())
                .max_decoding_message_size(ANSWER_BYTES_MAX)
                .max_encoding_message_size(usize::MAX),
            consume: ConsumeServiceClient::new(channel.clone())
                .max_decoding_message_size(ANSWER_BYTES_MAX),
            metadata: MetadataServiceClient::new(channel.clone()),
            admin: AdminServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// Creates a topic.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        configs: &[(&str, &str)],
    ) -> v1::Topic {
        let configs: HashMap<String, String> =
            configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let request = v1::CreateTopicRequest {
            name: name.to_owned(),
            partitions: Some(partitions),
            configs,
            ..Default::default()
        };
        let created = self.admin.clone().create_topic(request).await;
        created.expect("the topic is fine").into_inner().topic.expect("it is told")
    }

    /// Deletes a topic.
    pub async fn delete_topic(&self, name: &str) {
        let request = v1::DeleteTopicRequest { name: name.to_owned(), ..Default::default() };
        self.admin.clone().delete_topic(request).await.expect("the topic exists");
    }

    /// A topic by name.
    pub async fn topic(&self, name: &str) -> Option<v1::Topic> {
        let request = v1::GetTopicsRequest { topics: vec![name.to_owned()], ..Default::default() };
        let answer =
            self.metadata.clone().get_topics(request).await.expect("it is up").into_inner();
        answer.topics.into_iter().find_map(|result| match result.outcome {
            Some(v1::topic_result::Outcome::Topic(topic)) => Some(topic),
            _ => None,
        })
    }

    /// The partitions of a topic, if this broker knows it and answers.
    pub async fn partitions(&self, topic: &str) -> Option<Vec<v1::PartitionDescription>> {
        let request =
            v1::DescribePartitionsRequest { topic: topic.to_owned(), ..Default::default() };
        let mut partitions = PartitionServiceClient::new(self.channel.clone());
        Some(partitions.describe_partitions(request).await.ok()?.into_inner().partitions)
    }

    /// The cluster, if this broker answers.
    pub async fn cluster(&self) -> Option<v1::DescribeClusterResponse> {
        let mut cluster = ClusterServiceClient::new(self.channel.clone());
        let described = cluster.describe_cluster(v1::DescribeClusterRequest {}).await;
        described.ok().map(tonic::Response::into_inner)
    }

    /// Writes records to a partition by the easy path; their offsets, or the first error.
    pub async fn produce(
        &self,
        topic: &str,
        partition: i32,
        values: &[&str],
    ) -> Result<Vec<i64>, Refused> {
        let records = values.iter().map(|value| v1::Record {
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            ..Default::default()
        });
        let request = v1::ProduceRequest {
            topic: topic.to_owned(),
            records: Some(v1::RecordList { records: records.collect(), compression: 0 }),
            partition: Some(partition),
            ..Default::default()
        };
        let answer = self.produce.clone().produce(request).await.map_err(Refused::from)?;
        let results = answer.into_inner().results.into_iter();
        results
            .map(|result| match result.outcome.expect("every record has an outcome") {
                record_result::Outcome::Ack(ack) => Ok(ack.offset.expect("acks is not none")),
                record_result::Outcome::Error(error) => Err(Refused { code: Code::Ok, error }),
            })
            .collect()
    }

    /// What a partition gives from an offset on, in one answer and without waiting.
    pub async fn fetch(
        &self,
        topic: &v1::Topic,
        partition: i32,
        offset: i64,
        format: v1::ReadFormat,
    ) -> v1::PartitionData {
        let request = v1::FetchRequest {
            partitions: vec![from_offset(topic, partition, offset)],
            format: format.into(),
            max_wait: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
            ..Default::default()
        };
        let answer = self.consume.clone().fetch(request).await.expect("a fetch answers in band");
        answer.into_inner().partitions.pop().expect("one partition was asked for")
    }

    /// Every record of a partition, from its beginning to its high watermark at the time of the
    /// call. Damage on the way is an error.
    pub async fn read_out(&self, topic: &v1::Topic, partition: i32) -> ReadOut {
        let start = self.edge(topic, partition, v1::Edge::Earliest).await;
        let end = self.edge(topic, partition, v1::Edge::Latest).await;
        let records = match end > start {
            true => self.read_between(topic, partition, start, end).await,
            false => Vec::new(),
        };
        ReadOut { start, end, records }
    }

    async fn read_between(
        &self,
        topic: &v1::Topic,
        partition: i32,
        start: i64,
        end: i64,
    ) -> Vec<v1::ConsumedRecord> {
        let open = v1::FetchStreamOpen {
            partitions: vec![from_offset(topic, partition, start)],
            format: v1::ReadFormat::Records.into(),
            ..Default::default()
        };
        let open =
            v1::FetchStreamRequest { request: Some(fetch_stream_request::Request::Open(open)) };
        let (_held, requests) = held_open(open);
        let answers = self.consume.clone().fetch_stream(requests).await;
        let mut answers = answers.expect("the stream opens").into_inner();
        let mut records = Vec::new();
        loop {
            let answer = soon("the rest of a partition", answers.message()).await;
            let answer = answer.expect("the stream goes on").expect("the stream does not end");
            let Some(v1::fetch_stream_response::Response::Data(data)) = answer.response else {
                continue;
            };
            for item in data.items {
                match item.outcome {
                    Some(partition_data::Outcome::Records(read)) => records.extend(read.records),
                    other => panic!("partition {partition}: {other:?}"),
                }
                if item.next_offset.is_some_and(|next| next >= end) {
                    records.retain(|record: &v1::ConsumedRecord| record.offset < end);
                    return records;
                }
            }
        }
    }

    /// Log start offset or high watermark.
    pub async fn edge(&self, topic: &v1::Topic, partition: i32, edge: v1::Edge) -> i64 {
        let found = self.offset(topic, partition, v1::offset_query::At::Edge(edge.into())).await;
        found.offset.expect("an edge is always known")
    }

    /// The high watermark, if the broker is there and leads the partition.
    pub async fn latest(&self, topic: &v1::Topic, partition: i32) -> Option<i64> {
        let query = v1::OffsetQuery {
            partition: Some(place(topic, partition)),
            at: Some(v1::offset_query::At::Edge(v1::Edge::Latest.into())),
            leader_epoch: None,
        };
        let request = v1::ListOffsetsRequest { queries: vec![query] };
        let answer = self.metadata.clone().list_offsets(request).await.ok()?;
        match answer.into_inner().results.pop()?.outcome? {
            offset_result::Outcome::Found(found) => found.offset,
            offset_result::Outcome::Error(_) => None,
        }
    }

    /// An offset by place or time.
    pub async fn offset(
        &self,
        topic: &v1::Topic,
        partition: i32,
        at: v1::offset_query::At,
    ) -> v1::FoundOffset {
        let query = v1::OffsetQuery {
            partition: Some(place(topic, partition)),
            at: Some(at),
            leader_epoch: None,
        };
        let request = v1::ListOffsetsRequest { queries: vec![query] };
        let answer = self.metadata.clone().list_offsets(request).await.expect("it is up");
        match answer.into_inner().results.pop().expect("one was asked").outcome {
            Some(offset_result::Outcome::Found(found)) => found,
            other => panic!("{other:?}"),
        }
    }

    /// Offsets and sizes of a partition.
    pub async fn state(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<v1::PartitionOffsets, v1::Error> {
        let request = v1::DescribeTopicRequest { name: topic.to_owned() };
        let answer = self.admin.clone().describe_topic(request).await.expect("the topic exists");
        let states = answer.into_inner().partitions;
        let state = states.into_iter().find(|state| state.partition == partition);
        match state.and_then(|state| state.outcome) {
            Some(v1::partition_state::Outcome::Offsets(offsets)) => Ok(offsets),
            Some(v1::partition_state::Outcome::Error(error)) => Err(error),
            None => panic!("no state of partition {partition}"),
        }
    }

    /// Waits until the broker at the other end serves again.
    pub async fn until_serving(&self) {
        wait::until("the broker serves again", async || {
            self.metadata.clone().get_cluster(v1::GetClusterRequest {}).await.is_ok()
        })
        .await;
    }
}

/// A partition, read from its beginning to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOut {
    /// Log start offset.
    pub start: i64,
    /// High watermark.
    pub end: i64,
    /// All between them.
    pub records: Vec<v1::ConsumedRecord>,
}

impl ReadOut {
    /// The values as texts.
    pub fn texts(&self) -> Vec<String> {
        let value = |r: &v1::ConsumedRecord| r.record.as_ref().and_then(|r| r.value.clone());
        self.records
            .iter()
            .map(|r| String::from_utf8_lossy(&value(r).unwrap_or_default()).into_owned())
            .collect()
    }
}

/// How to reach a broker.
pub fn endpoint(address: &str) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address makes a URI")
        .tcp_nodelay(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
}

/// Requests of a stream: the first, and then those that are sent. They end with their sender; a
/// stream whose requests never end outlives everybody who reads its answers.
pub fn held_open<T>(first: T) -> (mpsc::Sender<T>, ReceiverStream<T>) {
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    sender.try_send(first).expect("there is room");
    (sender, ReceiverStream::new(requests))
}

/// A partition by its topic's id.
pub fn place(topic: &v1::Topic, partition: i32) -> v1::TopicPartition {
    v1::TopicPartition { topic: String::new(), topic_id: topic.topic_id.clone(), partition }
}

/// A partition from an offset on.
pub fn from_offset(topic: &v1::Topic, partition: i32, offset: i64) -> v1::PartitionFrom {
    v1::PartitionFrom {
        partition: Some(place(topic, partition)),
        start: Some(v1::ReadFrom { at: Some(read_from::At::Offset(offset)) }),
        ..Default::default()
    }
}

// === impl Refused ===

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        let trailer = status.metadata().get_bin("riverrun-error-bin");
        let bytes = trailer.unwrap_or_else(|| panic!("no riverrun-error-bin in {status:?}"));
        let bytes = bytes.to_bytes().expect("it is base64");
        let error = v1::Error::decode(bytes).expect("it is our message");
        let reason = status.metadata().get("riverrun-error").and_then(|r| r.to_str().ok());
        assert_eq!(reason, Some(error.reason.as_str()), "both trailers name the same reason");
        assert_eq!(status.message(), error.message);
        Self { code: status.code(), error }
    }
}
