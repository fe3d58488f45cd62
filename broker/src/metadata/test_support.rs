//! Commands for tests, with as little to say as each test needs.

use std::collections::BTreeMap;

use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, DirectoryId, IncarnationId, TopicId, TopicName},
};

use super::{
    Applied, Command, Endpoint, FeatureLevel, FeatureRange, MetadataImage, TopicConfigs,
    TopicVersion,
    command::{
        AllocateProducerIds, AlterTopicConfigs, CreatePartitions, CreateTopic, DeleteTopic,
        RegisterBroker, SetFeatureLevel,
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
