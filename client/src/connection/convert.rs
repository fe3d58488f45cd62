//! Domain types to generated ones and back, where more than one call needs it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use riverrun_proto::{
    ids::{BrokerId, TopicId},
    rpc::v1,
};

use crate::{
    address::Address,
    config::{Acks, Durability},
    error::{Error, Result},
    topic::{Broker, Partition, Topic},
};

pub(super) fn topic_id_bytes(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

pub(super) fn topic_id(bytes: &[u8]) -> Result<TopicId> {
    TopicId::from_bytes(bytes).map_err(|error| Error::protocol(format!("topic id: {error}")))
}

pub(super) fn partition_index(partition: i32) -> Result<u32> {
    u32::try_from(partition)
        .map_err(|_| Error::protocol(format!("the broker named a partition {partition}")))
}

/// Durations beyond protobuf's range are cut to it.
pub(super) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

pub(super) fn acks(acks: Acks) -> v1::Acks {
    match acks {
        Acks::All => v1::Acks::All,
        Acks::Leader => v1::Acks::Leader,
        Acks::None => v1::Acks::None,
    }
}

pub(super) fn durability(durability: v1::Durability) -> Durability {
    match durability {
        v1::Durability::Unspecified => Durability::Unknown,
        v1::Durability::Memory => Durability::Memory,
        v1::Durability::Disk => Durability::Disk,
    }
}

pub(super) fn topic(topic: v1::Topic) -> Result<Topic> {
    let mut partitions =
        topic.partitions.into_iter().map(partition).collect::<Result<Vec<Partition>>>()?;
    partitions.sort_unstable_by_key(|partition| partition.index);
    let dense = partitions.iter().zip(0_u32..).all(|(partition, index)| partition.index == index);
    if partitions.is_empty() || !dense {
        return Err(Error::protocol(format!(
            "the broker named {} partitions of {:?} that are not 0, 1, 2 …",
            partitions.len(),
            topic.name
        )));
    }
    Ok(Topic {
        id: topic_id(&topic.topic_id)?,
        name: Arc::from(topic.name),
        partitions,
        replication_factor: topic.replication_factor,
        max_message_bytes: topic.max_message_bytes,
    })
}

fn partition(partition: v1::Partition) -> Result<Partition> {
    Ok(Partition {
        index: partition_index(partition.partition)?,
        leader: partition.leader.map(BrokerId),
        leader_epoch: partition.leader_epoch,
        replicas: partition.replicas.into_iter().map(BrokerId).collect(),
        in_sync_replicas: partition.in_sync_replicas.into_iter().map(BrokerId).collect(),
    })
}

pub(super) fn broker(broker: v1::Broker) -> Result<Broker> {
    let port = u16::try_from(broker.port).map_err(|_| {
        Error::protocol(format!("broker {}: port {}", broker.broker_id, broker.port))
    })?;
    Ok(Broker {
        id: BrokerId(broker.broker_id),
        address: Address::new(&broker.host, port)?,
        rack: broker.rack,
    })
}
