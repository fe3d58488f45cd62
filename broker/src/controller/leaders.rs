//! Which leaders to move: back to where they belong, and away from brokers that are drained. Pure
//! decisions of the quorum's leader; each is judged again when it is applied.
//!
//! After a broker was away, others lead what it led; nothing is wrong with that but that they do its
//! work, too. So now and then leadership goes back to the preferred leader, the first of the replicas,
//! where that is in sync and there. As in Kafka, only for brokers that lack more than some part of
//! what they should lead: every move costs a moment in which producers look for the new leader.

use std::collections::BTreeMap;

use riverrun_proto::ids::{BrokerId, TopicPartition};

use crate::metadata::{
    MetadataImage, Partition,
    command::{Choice, ElectLeader},
};

/// Elections for all partitions whose preferred leader lacks more than `percent` of those that it
/// should lead. Partitions whose replicas are being changed are left alone.
pub fn back_to_preferred(image: &MetadataImage, percent: u8) -> Vec<ElectLeader> {
    // Per preferred leader: what it should lead, and of that what it could lead and does not.
    let mut shares: BTreeMap<BrokerId, (usize, Vec<ElectLeader>)> = BTreeMap::new();
    let mut lacking: BTreeMap<BrokerId, usize> = BTreeMap::new();
    for (id, partition) in partitions(image) {
        let Some(&preferred) = partition.assigned().first() else { continue };
        let (should, may) = shares.entry(preferred).or_default();
        *should += 1;
        if partition.leader == Some(preferred) {
            continue;
        }
        *lacking.entry(preferred).or_default() += 1;
        let takes_more = image.broker(preferred).is_some_and(|broker| broker.takes_more());
        if takes_more
            && partition.leader.is_some()
            && partition.reassignment.is_none()
            && partition.isr.contains(&preferred)
        {
            may.push(election(id, partition, Choice::Preferred));
        }
    }
    let is_due = |id: &BrokerId, should: usize| {
        lacking.get(id).is_some_and(|lacks| lacks * 100 > should * usize::from(percent))
    };
    let due = shares.into_iter().filter(|(id, (should, _))| is_due(id, *should));
    due.flat_map(|(_, (_, elections))| elections).collect()
}

/// Elections that hand on what drained brokers lead: to the first replica that is in sync and may be
/// given more. Where there is none, the drained broker goes on.
pub fn away_from_drained(image: &MetadataImage) -> Vec<ElectLeader> {
    if !image.brokers().any(|broker| broker.draining) {
        return Vec::new();
    }
    let is_drained = |id| image.broker(id).is_some_and(|broker| broker.draining);
    let takes_more = |id: &BrokerId| image.broker(*id).is_some_and(|broker| broker.takes_more());
    partitions(image)
        .filter(|(_, partition)| partition.leader.is_some_and(is_drained))
        .filter_map(|(id, partition)| {
            let mut in_order = partition.replicas.iter().filter(|id| partition.isr.contains(id));
            let heir = in_order.find(|id| takes_more(id))?;
            Some(election(id, partition, Choice::Member(*heir)))
        })
        .collect()
}

fn partitions(image: &MetadataImage) -> impl Iterator<Item = (TopicPartition, &Partition)> {
    image.topics().flat_map(|topic| {
        let id = topic.id;
        topic.partitions().map(move |(at, partition)| (TopicPartition::new(id, at), partition))
    })
}

fn election(partition: TopicPartition, state: &Partition, choice: Choice) -> ElectLeader {
    ElectLeader { partition, expected: state.partition_epoch, choice }
}

#[cfg(test)]
#[path = "leaders_test.rs"]
mod tests;
