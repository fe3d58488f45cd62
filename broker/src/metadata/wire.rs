//! Persisted forms: the fields of every stored record and of the snapshot, by tag.
//!
//! A form never changes: not a tag, not a type, not a field more. A change is another version of its
//! kind (see [`record`](super::record)), beside the old one, which stays readable. Conversions back
//! check everything, for these bytes may come from another node or from a disk that lies.

use std::collections::BTreeMap;

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch},
    ids::{BrokerId, DirectoryId, IncarnationId, TopicId, TopicName},
};

use super::{
    Broker, Command, Endpoint, FeatureLevel, FeatureRange, MetadataImage, MetadataOffset,
    Partition, Presence, Topic, TopicVersion,
    command::{
        AllocateProducerIds, AlterTopicConfigs, CreatePartitions, CreateTopic, DeleteTopic,
        RegisterBroker, SetFeatureLevel,
    },
};

/// A field that cannot hold what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadField(pub(super) &'static str);

pub(super) type Parsed<T> = Result<T, BadField>;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SetFeatureLevelV1 {
    #[prost(uint32, tag = "1")]
    expected: u32,
    #[prost(uint32, tag = "2")]
    level: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RegisterBrokerV1 {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(bytes = "vec", tag = "2")]
    incarnation: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    directory: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    endpoints: Vec<EndpointV1>,
    #[prost(string, optional, tag = "5")]
    rack: Option<String>,
    #[prost(uint32, tag = "6")]
    features_min: u32,
    #[prost(uint32, tag = "7")]
    features_max: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EndpointV1 {
    #[prost(string, tag = "1")]
    listener: String,
    #[prost(string, tag = "2")]
    host: String,
    #[prost(uint32, tag = "3")]
    port: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReplicasV1 {
    #[prost(uint32, repeated, tag = "1")]
    brokers: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreateTopicV1 {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    assignment: Vec<ReplicasV1>,
    #[prost(btree_map = "string, string", tag = "4")]
    configs: BTreeMap<String, String>,
    #[prost(uint32, tag = "5")]
    min_isr: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreatePartitionsV1 {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(uint64, tag = "2")]
    expected: u64,
    #[prost(message, repeated, tag = "3")]
    assignment: Vec<ReplicasV1>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AlterTopicConfigsV1 {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(uint64, tag = "2")]
    expected: u64,
    #[prost(btree_map = "string, string", tag = "3")]
    set: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "4")]
    reset: Vec<String>,
    #[prost(uint32, tag = "5")]
    min_isr: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeleteTopicV1 {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AllocateProducerIdsV1 {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(int64, tag = "2")]
    broker_epoch: i64,
    #[prost(uint32, tag = "3")]
    count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ImageV1 {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(uint32, tag = "2")]
    feature_level: u32,
    #[prost(int64, tag = "3")]
    next_producer_id: i64,
    #[prost(message, repeated, tag = "4")]
    brokers: Vec<BrokerV1>,
    #[prost(message, repeated, tag = "5")]
    topics: Vec<TopicV1>,
    #[prost(message, repeated, tag = "6")]
    deleted: Vec<DeletedV1>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BrokerV1 {
    #[prost(message, required, tag = "1")]
    registration: RegisterBrokerV1,
    #[prost(int64, tag = "2")]
    epoch: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TopicV1 {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(btree_map = "string, string", tag = "4")]
    configs: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "5")]
    partitions: Vec<PartitionV1>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PartitionV1 {
    #[prost(uint32, repeated, tag = "1")]
    replicas: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    isr: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    elr: Vec<u32>,
    #[prost(uint32, optional, tag = "4")]
    leader: Option<u32>,
    #[prost(int32, tag = "5")]
    leader_epoch: i32,
    #[prost(int32, tag = "6")]
    partition_epoch: i32,
    #[prost(uint32, tag = "7")]
    min_isr: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeletedV1 {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(uint64, tag = "2")]
    offset: u64,
}

// === Commands ===

impl From<&SetFeatureLevel> for SetFeatureLevelV1 {
    fn from(command: &SetFeatureLevel) -> Self {
        Self { expected: command.expected.get(), level: command.level.get() }
    }
}

impl TryFrom<SetFeatureLevelV1> for Command {
    type Error = BadField;

    fn try_from(form: SetFeatureLevelV1) -> Parsed<Self> {
        Ok(Self::SetFeatureLevel(SetFeatureLevel {
            expected: FeatureLevel::new(form.expected),
            level: FeatureLevel::new(form.level),
        }))
    }
}

impl From<&RegisterBroker> for RegisterBrokerV1 {
    fn from(command: &RegisterBroker) -> Self {
        Self {
            broker: command.broker.0,
            incarnation: command.incarnation.as_bytes().to_vec(),
            directory: command.directory.as_bytes().to_vec(),
            endpoints: command.endpoints.iter().map(endpoint_form).collect(),
            rack: command.rack.clone(),
            features_min: command.features.min.get(),
            features_max: command.features.max.get(),
        }
    }
}

impl TryFrom<RegisterBrokerV1> for RegisterBroker {
    type Error = BadField;

    fn try_from(form: RegisterBrokerV1) -> Parsed<Self> {
        Ok(Self {
            broker: BrokerId(form.broker),
            incarnation: IncarnationId::from_bytes(&form.incarnation)
                .map_err(|_| BadField("incarnation"))?,
            directory: DirectoryId::from_bytes(&form.directory)
                .map_err(|_| BadField("directory"))?,
            endpoints: form.endpoints.into_iter().map(endpoint).collect::<Parsed<_>>()?,
            rack: form.rack,
            features: FeatureRange {
                min: FeatureLevel::new(form.features_min),
                max: FeatureLevel::new(form.features_max),
            },
        })
    }
}

impl From<&CreateTopic> for CreateTopicV1 {
    fn from(command: &CreateTopic) -> Self {
        Self {
            name: command.name.to_string(),
            id: command.id.as_bytes().to_vec(),
            assignment: assignment_form(&command.assignment),
            configs: command.configs.clone(),
            min_isr: command.min_isr,
        }
    }
}

impl TryFrom<CreateTopicV1> for Command {
    type Error = BadField;

    fn try_from(form: CreateTopicV1) -> Parsed<Self> {
        Ok(Self::CreateTopic(CreateTopic {
            name: topic_name(&form.name)?,
            id: topic_id(&form.id)?,
            assignment: assignment(form.assignment),
            configs: form.configs,
            min_isr: form.min_isr,
        }))
    }
}

impl From<&CreatePartitions> for CreatePartitionsV1 {
    fn from(command: &CreatePartitions) -> Self {
        Self {
            topic: command.topic.as_bytes().to_vec(),
            expected: command.expected.0,
            assignment: assignment_form(&command.assignment),
        }
    }
}

impl TryFrom<CreatePartitionsV1> for Command {
    type Error = BadField;

    fn try_from(form: CreatePartitionsV1) -> Parsed<Self> {
        Ok(Self::CreatePartitions(CreatePartitions {
            topic: topic_id(&form.topic)?,
            expected: TopicVersion(form.expected),
            assignment: assignment(form.assignment),
        }))
    }
}

impl From<&AlterTopicConfigs> for AlterTopicConfigsV1 {
    fn from(command: &AlterTopicConfigs) -> Self {
        Self {
            topic: command.topic.as_bytes().to_vec(),
            expected: command.expected.0,
            set: command.set.clone(),
            reset: command.reset.iter().cloned().collect(),
            min_isr: command.min_isr,
        }
    }
}

impl TryFrom<AlterTopicConfigsV1> for Command {
    type Error = BadField;

    fn try_from(form: AlterTopicConfigsV1) -> Parsed<Self> {
        Ok(Self::AlterTopicConfigs(AlterTopicConfigs {
            topic: topic_id(&form.topic)?,
            expected: TopicVersion(form.expected),
            set: form.set,
            reset: form.reset.into_iter().collect(),
            min_isr: form.min_isr,
        }))
    }
}

impl From<&DeleteTopic> for DeleteTopicV1 {
    fn from(command: &DeleteTopic) -> Self {
        Self { topic: command.topic.as_bytes().to_vec() }
    }
}

impl TryFrom<DeleteTopicV1> for Command {
    type Error = BadField;

    fn try_from(form: DeleteTopicV1) -> Parsed<Self> {
        Ok(Self::DeleteTopic(DeleteTopic { topic: topic_id(&form.topic)? }))
    }
}

impl From<&AllocateProducerIds> for AllocateProducerIdsV1 {
    fn from(command: &AllocateProducerIds) -> Self {
        Self {
            broker: command.broker.0,
            broker_epoch: command.broker_epoch.get(),
            count: command.count,
        }
    }
}

impl TryFrom<AllocateProducerIdsV1> for Command {
    type Error = BadField;

    fn try_from(form: AllocateProducerIdsV1) -> Parsed<Self> {
        Ok(Self::AllocateProducerIds(AllocateProducerIds {
            broker: BrokerId(form.broker),
            broker_epoch: broker_epoch(form.broker_epoch)?,
            count: form.count,
        }))
    }
}

// === The image ===

impl From<&MetadataImage> for ImageV1 {
    fn from(image: &MetadataImage) -> Self {
        Self {
            offset: image.offset.get(),
            feature_level: image.feature_level.get(),
            next_producer_id: image.next_producer_id,
            brokers: image.brokers().map(|broker| BrokerV1::from(&**broker)).collect(),
            topics: image.topics().map(|topic| TopicV1::from(&**topic)).collect(),
            deleted: image.deleted().map(DeletedV1::from).collect(),
        }
    }
}

impl TryFrom<ImageV1> for MetadataImage {
    type Error = BadField;

    fn try_from(form: ImageV1) -> Parsed<Self> {
        let mut image = Self::default().at(offset(form.offset)?);
        image.feature_level = FeatureLevel::new(form.feature_level);
        image.next_producer_id = form.next_producer_id;
        if image.next_producer_id < 0 {
            return Err(BadField("next producer id"));
        }
        for broker in form.brokers {
            image.put_broker(Broker::try_from(broker)?.into());
        }
        for topic in form.topics {
            image.put_topic(&Topic::try_from(topic)?.into());
        }
        for deleted in form.deleted {
            let (at, id) = deleted.try_into()?;
            image.remember_deleted(id, at);
        }
        Ok(image)
    }
}

impl From<(MetadataOffset, TopicId)> for DeletedV1 {
    fn from((at, id): (MetadataOffset, TopicId)) -> Self {
        Self { topic: id.as_bytes().to_vec(), offset: at.get() }
    }
}

impl TryFrom<DeletedV1> for (MetadataOffset, TopicId) {
    type Error = BadField;

    fn try_from(form: DeletedV1) -> Parsed<Self> {
        Ok((offset(form.offset)?, topic_id(&form.topic)?))
    }
}

impl From<&Broker> for BrokerV1 {
    fn from(broker: &Broker) -> Self {
        Self {
            registration: RegisterBrokerV1 {
                broker: broker.id.0,
                incarnation: broker.incarnation.as_bytes().to_vec(),
                directory: broker.directory.as_bytes().to_vec(),
                endpoints: broker.endpoints.iter().map(endpoint_form).collect(),
                rack: broker.rack.clone(),
                features_min: broker.features.min.get(),
                features_max: broker.features.max.get(),
            },
            epoch: broker.epoch.get(),
        }
    }
}

impl TryFrom<BrokerV1> for Broker {
    type Error = BadField;

    fn try_from(form: BrokerV1) -> Parsed<Self> {
        let epoch = broker_epoch(form.epoch)?;
        let RegisterBroker { broker: id, incarnation, directory, endpoints, rack, features } =
            form.registration.try_into()?;
        Ok(Self {
            id,
            epoch,
            incarnation,
            directory,
            endpoints,
            rack,
            features,
            presence: Presence::Active,
            draining: false,
        })
    }
}

impl From<&Topic> for TopicV1 {
    fn from(topic: &Topic) -> Self {
        Self {
            id: topic.id.as_bytes().to_vec(),
            name: topic.name.to_string(),
            version: topic.version.0,
            configs: (*topic.configs).clone(),
            partitions: topic.partitions().map(|(_, partition)| partition.into()).collect(),
        }
    }
}

impl TryFrom<TopicV1> for Topic {
    type Error = BadField;

    fn try_from(form: TopicV1) -> Parsed<Self> {
        let max = riverrun_proto::limits::PARTITIONS_PER_TOPIC_MAX as usize;
        if form.partitions.is_empty() || form.partitions.len() > max {
            return Err(BadField("number of partitions"));
        }
        Ok(Self::new(
            topic_id(&form.id)?,
            topic_name(&form.name)?,
            TopicVersion(form.version),
            form.configs,
            form.partitions.into_iter().map(Partition::try_from).collect::<Parsed<Vec<_>>>()?,
        ))
    }
}

impl From<&Partition> for PartitionV1 {
    fn from(partition: &Partition) -> Self {
        Self {
            replicas: broker_ids_form(&partition.replicas),
            isr: broker_ids_form(&partition.isr),
            elr: broker_ids_form(&partition.elr),
            leader: partition.leader.map(|leader| leader.0),
            leader_epoch: partition.leader_epoch.get(),
            partition_epoch: partition.partition_epoch.get(),
            min_isr: partition.min_isr,
        }
    }
}

impl TryFrom<PartitionV1> for Partition {
    type Error = BadField;

    fn try_from(form: PartitionV1) -> Parsed<Self> {
        Ok(Self {
            replicas: broker_ids(form.replicas),
            isr: broker_ids(form.isr),
            elr: broker_ids(form.elr),
            leader: form.leader.map(BrokerId),
            leader_epoch: LeaderEpoch::new(form.leader_epoch).ok_or(BadField("leader epoch"))?,
            partition_epoch: PartitionEpoch::new(form.partition_epoch)
                .ok_or(BadField("partition epoch"))?,
            min_isr: form.min_isr,
            last_known_elr: Vec::new(),
            reassignment: None,
            unclean_epoch: None,
        })
    }
}

// === Fields ===

pub(super) fn topic_id(bytes: &[u8]) -> Parsed<TopicId> {
    TopicId::from_bytes(bytes).map_err(|_| BadField("topic id"))
}

pub(super) fn topic_name(name: &str) -> Parsed<TopicName> {
    TopicName::try_new(name).map_err(|_| BadField("topic name"))
}

pub(super) fn offset(offset: u64) -> Parsed<MetadataOffset> {
    MetadataOffset::new(offset).ok_or(BadField("metadata offset"))
}

pub(super) fn broker_epoch(epoch: i64) -> Parsed<BrokerEpoch> {
    BrokerEpoch::new(epoch).ok_or(BadField("broker epoch"))
}

fn endpoint_form(endpoint: &Endpoint) -> EndpointV1 {
    EndpointV1 {
        listener: endpoint.listener.clone(),
        host: endpoint.host.clone(),
        port: endpoint.port.into(),
    }
}

fn endpoint(form: EndpointV1) -> Parsed<Endpoint> {
    let port = u16::try_from(form.port).map_err(|_| BadField("port"))?;
    Ok(Endpoint { listener: form.listener, host: form.host, port })
}

fn assignment_form(assignment: &[Vec<BrokerId>]) -> Vec<ReplicasV1> {
    assignment.iter().map(|brokers| ReplicasV1 { brokers: broker_ids_form(brokers) }).collect()
}

fn assignment(forms: Vec<ReplicasV1>) -> Vec<Vec<BrokerId>> {
    forms.into_iter().map(|form| broker_ids(form.brokers)).collect()
}

pub(super) fn broker_ids_form(ids: &[BrokerId]) -> Vec<u32> {
    ids.iter().map(|id| id.0).collect()
}

pub(super) fn broker_ids(ids: Vec<u32>) -> Vec<BrokerId> {
    ids.into_iter().map(BrokerId).collect()
}
