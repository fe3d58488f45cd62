//! Persisted forms of clusters: the records since feature level 2, and the snapshot that has what
//! they say. As in [`wire`](super::wire), a form never changes.

use std::collections::BTreeMap;

use riverrun_proto::{
    epoch::{LeaderEpoch, PartitionEpoch},
    ids::{BrokerId, PartitionIndex, TopicPartition},
};

use super::{
    Broker, Command, FeatureLevel, IsrChange, MetadataImage, Partition, Presence, Reassignment,
    Topic, TopicVersion,
    command::{
        AlterIsr, CancelReassignment, Choice, ElectLeader, JoinBroker, Reassign, SetPresence,
    },
    wire::{
        BadField, BrokerV1, DeletedV1, Parsed, PartitionV1, RegisterBrokerV1, broker_epoch,
        broker_ids, broker_ids_form, offset, topic_id, topic_name,
    },
};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct JoinBrokerV1 {
    #[prost(message, required, tag = "1")]
    registration: RegisterBrokerV1,
    #[prost(int64, optional, tag = "2")]
    whole_since: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SetPresenceV1 {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(int64, tag = "2")]
    broker_epoch: i64,
    /// 1 active, 2 leaving, 3 fenced.
    #[prost(uint32, tag = "3")]
    presence: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PartitionIdV1 {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(uint32, tag = "2")]
    partition: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MemberV1 {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(int64, optional, tag = "2")]
    broker_epoch: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AlterIsrV1 {
    #[prost(message, required, tag = "1")]
    partition: PartitionIdV1,
    #[prost(uint32, tag = "2")]
    leader: u32,
    #[prost(int64, tag = "3")]
    broker_epoch: i64,
    #[prost(int32, tag = "4")]
    leader_epoch: i32,
    #[prost(int32, tag = "5")]
    partition_epoch: i32,
    #[prost(message, repeated, tag = "6")]
    isr: Vec<MemberV1>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ElectLeaderV1 {
    #[prost(message, required, tag = "1")]
    partition: PartitionIdV1,
    #[prost(int32, tag = "2")]
    expected: i32,
    /// 1 the preferred one, 2 this member of the ISR, 3 this one although it may lack records.
    #[prost(uint32, tag = "3")]
    choice: u32,
    #[prost(uint32, optional, tag = "4")]
    leader: Option<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReassignV1 {
    #[prost(message, required, tag = "1")]
    partition: PartitionIdV1,
    #[prost(int32, tag = "2")]
    expected: i32,
    #[prost(uint32, repeated, tag = "3")]
    to: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CancelReassignmentV1 {
    #[prost(message, required, tag = "1")]
    partition: PartitionIdV1,
    #[prost(int32, tag = "2")]
    expected: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ImageV2 {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(uint32, tag = "2")]
    feature_level: u32,
    #[prost(int64, tag = "3")]
    next_producer_id: i64,
    #[prost(message, repeated, tag = "4")]
    brokers: Vec<BrokerV2>,
    #[prost(message, repeated, tag = "5")]
    topics: Vec<TopicV2>,
    #[prost(message, repeated, tag = "6")]
    deleted: Vec<DeletedV1>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BrokerV2 {
    #[prost(message, required, tag = "1")]
    broker: BrokerV1,
    #[prost(uint32, tag = "2")]
    presence: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TopicV2 {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(btree_map = "string, string", tag = "4")]
    configs: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "5")]
    partitions: Vec<PartitionV2>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PartitionV2 {
    #[prost(message, required, tag = "1")]
    partition: PartitionV1,
    #[prost(uint32, repeated, tag = "2")]
    last_known_elr: Vec<u32>,
    #[prost(message, optional, tag = "3")]
    reassignment: Option<ReassignmentV2>,
    #[prost(int32, optional, tag = "4")]
    unclean_epoch: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReassignmentV2 {
    #[prost(uint32, repeated, tag = "1")]
    from: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    to: Vec<u32>,
}

// === Commands ===

impl From<&JoinBroker> for JoinBrokerV1 {
    fn from(command: &JoinBroker) -> Self {
        Self {
            registration: (&command.registration).into(),
            whole_since: command.whole_since.map(|epoch| epoch.get()),
        }
    }
}

impl TryFrom<JoinBrokerV1> for Command {
    type Error = BadField;

    fn try_from(form: JoinBrokerV1) -> Parsed<Self> {
        Ok(Self::JoinBroker(JoinBroker {
            registration: form.registration.try_into()?,
            whole_since: form.whole_since.map(broker_epoch).transpose()?,
        }))
    }
}

impl From<&SetPresence> for SetPresenceV1 {
    fn from(command: &SetPresence) -> Self {
        Self {
            broker: command.broker.0,
            broker_epoch: command.broker_epoch.get(),
            presence: presence_form(command.presence),
        }
    }
}

impl TryFrom<SetPresenceV1> for Command {
    type Error = BadField;

    fn try_from(form: SetPresenceV1) -> Parsed<Self> {
        Ok(Self::SetPresence(SetPresence {
            broker: BrokerId(form.broker),
            broker_epoch: broker_epoch(form.broker_epoch)?,
            presence: presence(form.presence)?,
        }))
    }
}

impl From<&AlterIsr> for AlterIsrV1 {
    fn from(command: &AlterIsr) -> Self {
        let IsrChange { leader, broker_epoch, leader_epoch, partition_epoch, isr } =
            &command.change;
        let member = |(broker, epoch): &(BrokerId, Option<_>)| MemberV1 {
            broker: broker.0,
            broker_epoch: epoch.map(|epoch: riverrun_proto::epoch::BrokerEpoch| epoch.get()),
        };
        Self {
            partition: partition_id_form(command.partition),
            leader: leader.0,
            broker_epoch: broker_epoch.get(),
            leader_epoch: leader_epoch.get(),
            partition_epoch: partition_epoch.get(),
            isr: isr.iter().map(member).collect(),
        }
    }
}

impl TryFrom<AlterIsrV1> for Command {
    type Error = BadField;

    fn try_from(form: AlterIsrV1) -> Parsed<Self> {
        let member = |form: MemberV1| -> Parsed<_> {
            Ok((BrokerId(form.broker), form.broker_epoch.map(broker_epoch).transpose()?))
        };
        Ok(Self::AlterIsr(AlterIsr {
            partition: partition_id(&form.partition)?,
            change: IsrChange {
                leader: BrokerId(form.leader),
                broker_epoch: broker_epoch(form.broker_epoch)?,
                leader_epoch: leader_epoch(form.leader_epoch)?,
                partition_epoch: partition_epoch(form.partition_epoch)?,
                isr: form.isr.into_iter().map(member).collect::<Parsed<_>>()?,
            },
        }))
    }
}

impl From<&ElectLeader> for ElectLeaderV1 {
    fn from(command: &ElectLeader) -> Self {
        let (choice, leader) = match command.choice {
            Choice::Preferred => (1, None),
            Choice::Member(leader) => (2, Some(leader.0)),
            Choice::Unclean(leader) => (3, Some(leader.0)),
        };
        Self {
            partition: partition_id_form(command.partition),
            expected: command.expected.get(),
            choice,
            leader,
        }
    }
}

impl TryFrom<ElectLeaderV1> for Command {
    type Error = BadField;

    fn try_from(form: ElectLeaderV1) -> Parsed<Self> {
        let choice = match (form.choice, form.leader.map(BrokerId)) {
            (1, None) => Choice::Preferred,
            (2, Some(leader)) => Choice::Member(leader),
            (3, Some(leader)) => Choice::Unclean(leader),
            _ => return Err(BadField("choice of a leader")),
        };
        Ok(Self::ElectLeader(ElectLeader {
            partition: partition_id(&form.partition)?,
            expected: partition_epoch(form.expected)?,
            choice,
        }))
    }
}

impl From<&Reassign> for ReassignV1 {
    fn from(command: &Reassign) -> Self {
        Self {
            partition: partition_id_form(command.partition),
            expected: command.expected.get(),
            to: broker_ids_form(&command.to),
        }
    }
}

impl TryFrom<ReassignV1> for Command {
    type Error = BadField;

    fn try_from(form: ReassignV1) -> Parsed<Self> {
        Ok(Self::Reassign(Reassign {
            partition: partition_id(&form.partition)?,
            expected: partition_epoch(form.expected)?,
            to: broker_ids(form.to),
        }))
    }
}

impl From<&CancelReassignment> for CancelReassignmentV1 {
    fn from(command: &CancelReassignment) -> Self {
        Self { partition: partition_id_form(command.partition), expected: command.expected.get() }
    }
}

impl TryFrom<CancelReassignmentV1> for Command {
    type Error = BadField;

    fn try_from(form: CancelReassignmentV1) -> Parsed<Self> {
        Ok(Self::CancelReassignment(CancelReassignment {
            partition: partition_id(&form.partition)?,
            expected: partition_epoch(form.expected)?,
        }))
    }
}

// === The image ===

impl From<&MetadataImage> for ImageV2 {
    fn from(image: &MetadataImage) -> Self {
        Self {
            offset: image.offset.get(),
            feature_level: image.feature_level.get(),
            next_producer_id: image.next_producer_id,
            brokers: image.brokers().map(|broker| BrokerV2::from(&**broker)).collect(),
            topics: image.topics().map(|topic| TopicV2::from(&**topic)).collect(),
            deleted: image.deleted().map(DeletedV1::from).collect(),
        }
    }
}

impl TryFrom<ImageV2> for MetadataImage {
    type Error = BadField;

    fn try_from(form: ImageV2) -> Parsed<Self> {
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

impl From<&Broker> for BrokerV2 {
    fn from(broker: &Broker) -> Self {
        Self { broker: broker.into(), presence: presence_form(broker.presence) }
    }
}

impl TryFrom<BrokerV2> for Broker {
    type Error = BadField;

    fn try_from(form: BrokerV2) -> Parsed<Self> {
        Ok(Self { presence: presence(form.presence)?, ..form.broker.try_into()? })
    }
}

impl From<&Topic> for TopicV2 {
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

impl TryFrom<TopicV2> for Topic {
    type Error = BadField;

    fn try_from(form: TopicV2) -> Parsed<Self> {
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

impl From<&Partition> for PartitionV2 {
    fn from(partition: &Partition) -> Self {
        Self {
            partition: partition.into(),
            last_known_elr: broker_ids_form(&partition.last_known_elr),
            reassignment: partition.reassignment.as_ref().map(|reassignment| ReassignmentV2 {
                from: broker_ids_form(&reassignment.from),
                to: broker_ids_form(&reassignment.to),
            }),
            unclean_epoch: partition.unclean_epoch.map(LeaderEpoch::get),
        }
    }
}

impl TryFrom<PartitionV2> for Partition {
    type Error = BadField;

    fn try_from(form: PartitionV2) -> Parsed<Self> {
        Ok(Self {
            last_known_elr: broker_ids(form.last_known_elr),
            reassignment: form
                .reassignment
                .map(|form| Reassignment { from: broker_ids(form.from), to: broker_ids(form.to) }),
            unclean_epoch: form.unclean_epoch.map(leader_epoch).transpose()?,
            ..form.partition.try_into()?
        })
    }
}

// === Fields ===

fn presence_form(presence: Presence) -> u32 {
    match presence {
        Presence::Active => 1,
        Presence::Leaving => 2,
        Presence::Fenced => 3,
    }
}

fn presence(number: u32) -> Parsed<Presence> {
    match number {
        1 => Ok(Presence::Active),
        2 => Ok(Presence::Leaving),
        3 => Ok(Presence::Fenced),
        _ => Err(BadField("presence")),
    }
}

fn partition_id_form(id: TopicPartition) -> PartitionIdV1 {
    PartitionIdV1 { topic: id.topic.as_bytes().to_vec(), partition: id.partition.get() }
}

fn partition_id(form: &PartitionIdV1) -> Parsed<TopicPartition> {
    let index = PartitionIndex::new(form.partition).ok_or(BadField("partition"))?;
    Ok(TopicPartition::new(topic_id(&form.topic)?, index))
}

fn leader_epoch(epoch: i32) -> Parsed<LeaderEpoch> {
    LeaderEpoch::new(epoch).ok_or(BadField("leader epoch"))
}

fn partition_epoch(epoch: i32) -> Parsed<PartitionEpoch> {
    PartitionEpoch::new(epoch).ok_or(BadField("partition epoch"))
}
