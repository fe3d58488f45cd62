//! Commands for tests, with as little to say as each test needs.

use std::{collections::BTreeMap, num::NonZeroU64};

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch},
    ids::{
        BrokerId, DirectoryId, IncarnationId, PartitionIndex, TopicId, TopicName, TopicPartition,
    },
};

use super::{
    Applied, Command, Endpoint, FeatureLevel, FeatureRange, IsrChange, MetadataImage, Presence,
    TopicConfigs, TopicVersion,
    command::{
        AllocateProducerIds, AlterIsr, AlterTopicConfigs, CancelReassignment, Choice,
        CreatePartitions, CreateTopic, DeleteTopic, ElectLeader, JoinBroker, Reassign,
        RegisterBroker, RemoveBroker, SetDraining, SetFeatureLevel, SetMoveThrottle, SetPresence,
    },
};

pub(crate) fn bytes16(n: u8) -> [u8; 16] {
    [n.wrapping_add(1).max(1); 16]
}

pub(crate) fn topic_id(n: u8) -> TopicId {
    TopicId::from_bytes(&bytes16(n)).unwrap()
}

pub(crate) fn name(text: &str) -> TopicName {
    TopicName::try_new(text).unwrap()
}

pub(crate) fn configs(entries: &[(&str, &str)]) -> TopicConfigs {
    entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(crate) fn level_1() -> Command {
    Command::SetFeatureLevel(SetFeatureLevel {
        expected: FeatureLevel::NONE,
        level: FeatureLevel::V1,
    })
}

pub(crate) fn registration(broker: u32, incarnation: u8) -> RegisterBroker {
    RegisterBroker {
        broker: BrokerId(broker),
        incarnation: IncarnationId::from_bytes(&bytes16(incarnation)).unwrap(),
        directory: DirectoryId::from_bytes(&bytes16(u8::try_from(broker).unwrap())).unwrap(),
        endpoints: vec![Endpoint {
            listener: Endpoint::CLIENTS.into(),
            host: "localhost".into(),
            port: 9190,
        }],
        rack: None,
        features: FeatureRange::SUPPORTED,
    }
}

pub(crate) fn register(broker: u32, incarnation: u8) -> Command {
    Command::RegisterBroker(registration(broker, incarnation))
}

/// Topic `n`, called `text`; `assignment` has a list of brokers for each partition.
pub(crate) fn create(n: u8, text: &str, assignment: &[&[u32]]) -> Command {
    Command::CreateTopic(CreateTopic {
        name: name(text),
        id: topic_id(n),
        assignment: brokers(assignment),
        configs: BTreeMap::new(),
        min_isr: 1,
    })
}

pub(crate) fn grow(n: u8, expected: u64, assignment: &[&[u32]]) -> Command {
    Command::CreatePartitions(CreatePartitions {
        topic: topic_id(n),
        expected: TopicVersion(expected),
        assignment: brokers(assignment),
    })
}

pub(crate) fn alter(
    n: u8,
    expected: u64,
    set: &[(&str, &str)],
    reset: &[&str],
    min_isr: u32,
) -> Command {
    Command::AlterTopicConfigs(AlterTopicConfigs {
        topic: topic_id(n),
        expected: TopicVersion(expected),
        set: configs(set),
        reset: reset.iter().map(|key| (*key).to_owned()).collect(),
        min_isr,
    })
}

pub(crate) fn delete(n: u8) -> Command {
    Command::DeleteTopic(DeleteTopic { topic: topic_id(n) })
}

pub(crate) fn allocate(broker: u32, epoch: i64, count: u32) -> Command {
    Command::AllocateProducerIds(AllocateProducerIds {
        broker: BrokerId(broker),
        broker_epoch: BrokerEpoch::new(epoch).unwrap(),
        count,
    })
}

/// The first partition of topic `n`.
pub(crate) fn first_of(n: u8) -> TopicPartition {
    TopicPartition::new(topic_id(n), PartitionIndex::new(0).unwrap())
}

pub(crate) fn level_2() -> Command {
    let (expected, level) = (FeatureLevel::V1, FeatureLevel::V2);
    Command::SetFeatureLevel(SetFeatureLevel { expected, level })
}

pub(crate) fn level_3() -> Command {
    let (expected, level) = (FeatureLevel::V2, FeatureLevel::V3);
    Command::SetFeatureLevel(SetFeatureLevel { expected, level })
}

pub(crate) fn level_4() -> Command {
    let (expected, level) = (FeatureLevel::V3, FeatureLevel::V4);
    Command::SetFeatureLevel(SetFeatureLevel { expected, level })
}

/// 0: none.
pub(crate) fn throttle(bytes_per_second: u64) -> Command {
    let bytes_per_second = NonZeroU64::new(bytes_per_second);
    Command::SetMoveThrottle(SetMoveThrottle { bytes_per_second })
}

pub(crate) fn drain(broker: u32, draining: bool) -> Command {
    Command::SetDraining(SetDraining { broker: BrokerId(broker), draining })
}

/// `epoch`: the run that is gone.
pub(crate) fn remove(broker: u32, epoch: i64) -> Command {
    let broker_epoch = BrokerEpoch::new(epoch).unwrap();
    Command::RemoveBroker(RemoveBroker { broker: BrokerId(broker), broker_epoch })
}

pub(crate) fn join(broker: u32, incarnation: u8, whole_since: Option<i64>) -> Command {
    let whole_since = whole_since.map(|epoch| BrokerEpoch::new(epoch).unwrap());
    Command::JoinBroker(JoinBroker { registration: registration(broker, incarnation), whole_since })
}

pub(crate) fn stand(broker: u32, epoch: i64, presence: Presence) -> Command {
    let broker_epoch = BrokerEpoch::new(epoch).unwrap();
    Command::SetPresence(SetPresence { broker: BrokerId(broker), broker_epoch, presence })
}

/// `leader`: broker and its epoch; `epochs`: leader epoch, partition epoch.
pub(crate) fn alter_isr(
    n: u8,
    leader: (u32, i64),
    epochs: (i32, i32),
    isr: &[(u32, Option<i64>)],
) -> Command {
    let run = |epoch| BrokerEpoch::new(epoch).unwrap();
    Command::AlterIsr(AlterIsr {
        partition: first_of(n),
        change: IsrChange {
            leader: BrokerId(leader.0),
            broker_epoch: run(leader.1),
            leader_epoch: LeaderEpoch::new(epochs.0).unwrap(),
            partition_epoch: PartitionEpoch::new(epochs.1).unwrap(),
            isr: isr.iter().map(|(id, epoch)| (BrokerId(*id), epoch.map(run))).collect(),
        },
    })
}

pub(crate) fn elect(n: u8, expected: i32, choice: Choice) -> Command {
    let expected = PartitionEpoch::new(expected).unwrap();
    Command::ElectLeader(ElectLeader { partition: first_of(n), expected, choice })
}

pub(crate) fn reassign(n: u8, expected: i32, to: &[u32]) -> Command {
    let expected = PartitionEpoch::new(expected).unwrap();
    let to = to.iter().map(|id| BrokerId(*id)).collect();
    Command::Reassign(Reassign { partition: first_of(n), expected, to })
}

pub(crate) fn cancel(n: u8, expected: i32) -> Command {
    let expected = PartitionEpoch::new(expected).unwrap();
    Command::CancelReassignment(CancelReassignment { partition: first_of(n), expected })
}

fn brokers(assignment: &[&[u32]]) -> Vec<Vec<BrokerId>> {
    assignment.iter().map(|ids| ids.iter().map(|id| BrokerId(*id)).collect()).collect()
}

/// Applies at the next offset.
pub(crate) fn apply(image: &MetadataImage, command: &Command) -> Applied {
    image.apply(image.offset().next(), command)
}

/// The image after commands all of which must be accepted.
pub(crate) fn after(commands: &[Command]) -> MetadataImage {
    commands.iter().fold(MetadataImage::default(), |image, command| {
        let applied = apply(&image, command);
        assert!(applied.outcome.is_ok(), "{command:?}: {:?}", applied.outcome);
        applied.image
    })
}
