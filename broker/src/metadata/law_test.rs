//! The laws of the module, on random histories with commands good and bad.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
};

use proptest::{collection::vec, prelude::*};
use riverrun_proto::ids::{BrokerId, TopicId};

use super::{
    Applied, Command, Delta, MetadataImage, Partition, Presence, Reply, Topic, TopicConfigs,
    broker::Broker, command::Choice, record, snapshot, test_support::*,
};

/// A command in the making: numbers are small so that they meet; versions and epochs are relative to
/// what the image has, mostly right.
#[derive(Debug, Clone)]
enum Op {
    Register { broker: u32, incarnation: u8 },
    Create { id: u8, name: u8, assignment: Vec<Vec<u32>>, min_isr: u32 },
    Grow { id: u8, late: u64, assignment: Vec<Vec<u32>> },
    Alter { id: u8, late: u64, set: Vec<(u8, u8)>, reset: Vec<u8>, min_isr: u32 },
    Delete { id: u8 },
    Allocate { broker: u32, late: i64, count: u32 },
    SetLevel,
    Join { broker: u32, incarnation: u8, whole: bool },
    Stand { broker: u32, late: i64, presence: Presence },
    Isr { id: u8, late: i32, members: Vec<bool> },
    Elect { id: u8, late: i32, choice: Choice },
    Reassign { id: u8, late: i32, to: Vec<u32> },
    Cancel { id: u8, late: i32 },
    Drain { broker: u32, draining: bool },
    Remove { broker: u32, late: i64 },
    Throttle { bytes_per_second: u64 },
}

fn cluster_op() -> impl Strategy<Value = Op> {
    let late = || prop_oneof![5 => Just(0), 1 => Just(1)];
    let presence = prop_oneof![
        3 => Just(Presence::Active), 1 => Just(Presence::Leaving), 2 => Just(Presence::Fenced)
    ];
    let choice = (0..3, 1..5_u32).prop_map(|(kind, id)| match kind {
        0 => Choice::Preferred,
        1 => Choice::Member(BrokerId(id)),
        _ => Choice::Unclean(BrokerId(id)),
    });
    let late_run = prop_oneof![5 => Just(0), 1 => Just(-1)];
    prop_oneof![
        2 => (1..5_u32, 0..6_u8, any::<bool>())
            .prop_map(|(broker, incarnation, whole)| Op::Join { broker, incarnation, whole }),
        5 => (1..5_u32, late_run, presence)
            .prop_map(|(broker, late, presence)| Op::Stand { broker, late, presence }),
        4 => (0..8_u8, late(), vec(any::<bool>(), 3))
            .prop_map(|(id, late, members)| Op::Isr { id, late, members }),
        2 => (0..8_u8, late(), choice).prop_map(|(id, late, choice)| Op::Elect { id, late, choice }),
        2 => (0..8_u8, late(), vec(1..5_u32, 0..4))
            .prop_map(|(id, late, to)| Op::Reassign { id, late, to }),
        1 => (0..8_u8, late()).prop_map(|(id, late)| Op::Cancel { id, late }),
        1 => (1..5_u32, any::<bool>()).prop_map(|(broker, draining)| Op::Drain { broker, draining }),
        2 => (1..5_u32, prop_oneof![5 => Just(0), 1 => Just(-1)])
            .prop_map(|(broker, late)| Op::Remove { broker, late }),
        1 => (0..3_u64).prop_map(|bytes_per_second| Op::Throttle { bytes_per_second }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let assignment = || vec(vec(1..5_u32, 0..3), 0..4);
    let good = || {
        (1..4_usize, prop_oneof![Just(vec![1_u32]), Just(vec![2, 1]), Just(vec![3, 2, 1])])
            .prop_map(|(n, replicas)| vec![replicas; n])
    };
    let assignment = move || prop_oneof![2 => good(), 1 => assignment()];
    let late = || prop_oneof![4 => Just(0), 1 => Just(1)];
    prop_oneof![
        3 => (1..5_u32, 0..6_u8)
            .prop_map(|(broker, incarnation)| Op::Register { broker, incarnation }),
        5 => (0..8_u8, 0..6_u8, assignment(), 0..4_u32)
            .prop_map(|(id, name, assignment, min_isr)| Op::Create { id, name, assignment, min_isr }),
        3 => (0..8_u8, late(), assignment())
            .prop_map(|(id, late, assignment)| Op::Grow { id, late, assignment }),
        4 => (0..8_u8, late(), vec((0..4_u8, 0..3_u8), 0..3), vec(0..4_u8, 0..2), 0..4_u32)
            .prop_map(|(id, late, set, reset, min_isr)| Op::Alter { id, late, set, reset, min_isr }),
        2 => (0..8_u8).prop_map(|id| Op::Delete { id }),
        2 => (1..5_u32, prop_oneof![3 => Just(0), 1 => Just(1)], 0..3_u32)
            .prop_map(|(broker, late, count)| Op::Allocate { broker, late, count }),
        1 => Just(Op::SetLevel),
        12 => cluster_op(),
    ]
}

fn command(op: &Op, image: &MetadataImage) -> Command {
    let version = |id: u8| image.topic_by_id(topic_id(id)).map_or(0, |topic| topic.version.0);
    let lists = |assignment: &[Vec<u32>]| assignment.to_vec();
    match op {
        Op::Register { broker, incarnation } => register(*broker, *incarnation),
        Op::Create { id, name, assignment, min_isr } => {
            let lists = lists(assignment);
            let slices: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
            let Command::CreateTopic(mut topic) = create(*id, &format!("t{name}"), &slices) else {
                unreachable!()
            };
            topic.min_isr = *min_isr;
            Command::CreateTopic(topic)
        }
        Op::Grow { id, late, assignment } => {
            let lists = lists(assignment);
            let slices: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
            grow(*id, version(*id) + late, &slices)
        }
        Op::Alter { id, late, set, reset, min_isr } => {
            let set: Vec<_> = set.iter().map(|(k, v)| (format!("k{k}"), format!("v{v}"))).collect();
            let set: Vec<_> = set.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let reset: Vec<_> = reset.iter().map(|k| format!("k{k}")).collect();
            let reset: Vec<_> = reset.iter().map(String::as_str).collect();
            alter(*id, version(*id) + late, &set, &reset, *min_isr)
        }
        Op::Delete { id } => delete(*id),
        Op::Allocate { broker, late, count } => {
            let epoch = image.broker(BrokerId(*broker)).map_or(0, |b| b.epoch.get());
            allocate(*broker, epoch + late, *count)
        }
        Op::SetLevel => level_1(),
        Op::Join { broker, incarnation, whole } => {
            join(*broker, *incarnation, whole.then(|| run_of(image, *broker)))
        }
        Op::Stand { broker, late, presence } => {
            stand(*broker, (run_of(image, *broker) + late).max(0), *presence)
        }
        Op::Isr { id, late, members } => {
            let Some(partition) = image.partition(first_of(*id)) else { return cancel(*id, 0) };
            let leader = partition.leader.map_or(1, |leader| leader.0);
            let named = partition.replicas.iter().zip(members);
            let named = named.filter(|(id, is_named)| **is_named || id.0 == leader);
            let named = named.map(|(id, _)| (id.0, Some(run_of(image, id.0))));
            let epochs = (partition.leader_epoch.get(), partition.partition_epoch.get() + late);
            let isr: Vec<_> = named.collect();
            alter_isr(*id, (leader, run_of(image, leader)), epochs, &isr)
        }
        Op::Elect { id, late, choice } => elect(*id, version_of(image, *id) + late, *choice),
        Op::Reassign { id, late, to } => reassign(*id, version_of(image, *id) + late, to),
        Op::Cancel { id, late } => cancel(*id, version_of(image, *id) + late),
        Op::Drain { broker, draining } => drain(*broker, *draining),
        Op::Remove { broker, late } => remove(*broker, (run_of(image, *broker) + late).max(0)),
        Op::Throttle { bytes_per_second } => throttle(*bytes_per_second),
    }
}

fn run_of(image: &MetadataImage, broker: u32) -> i64 {
    image.broker(BrokerId(broker)).map_or(0, |broker| broker.epoch.get())
}

fn version_of(image: &MetadataImage, n: u8) -> i32 {
    image.partition(first_of(n)).map_or(0, |partition| partition.partition_epoch.get())
}

/// What a broker knows that has nothing but deltas.
#[derive(Debug, Default, PartialEq, Clone)]
struct Shadow {
    brokers: BTreeMap<BrokerId, Broker>,
    topics: BTreeMap<TopicId, (String, TopicConfigs, Vec<Partition>)>,
    throttle: Option<NonZeroU64>,
}

impl Shadow {
    fn of(image: &MetadataImage) -> Self {
        let mut shadow = Self { throttle: image.move_throttle(), ..Self::default() };
        for broker in image.brokers() {
            shadow.brokers.insert(broker.id, Broker::clone(broker));
        }
        for topic in image.topics() {
            shadow.create(topic);
        }
        shadow
    }

    fn create(&mut self, topic: &Topic) {
        let partitions = topic.partitions().map(|(_, state)| state.clone()).collect();
        let entry = (topic.name.to_string(), TopicConfigs::clone(&topic.configs), partitions);
        assert_eq!(self.topics.insert(topic.id, entry), None, "created twice");
        let names: BTreeSet<_> = self.topics.values().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), self.topics.len(), "two topics of one name at once");
    }

    fn apply(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            match delta {
                Delta::FeatureLevelChanged(_) => {}
                Delta::MoveThrottleChanged(rate) => self.throttle = *rate,
                Delta::BrokerRegistered(broker) => {
                    self.brokers.insert(broker.id, Broker::clone(broker));
                }
                Delta::BrokerRemoved(id) => {
                    assert!(self.brokers.remove(id).is_some(), "removed twice");
                }
                Delta::TopicCreated(topic) => self.create(topic),
                Delta::PartitionsCreated { topic, first } => {
                    let known = &mut self.topics.get_mut(&topic.id).unwrap().2;
                    assert_eq!(known.len(), first.get() as usize);
                    let skipped = topic.partitions().skip(known.len());
                    known.extend(skipped.map(|(_, state)| state.clone()));
                }
                Delta::TopicConfigChanged(topic) => {
                    self.topics.get_mut(&topic.id).unwrap().1 = TopicConfigs::clone(&topic.configs);
                }
                Delta::PartitionChanged { partition, state } => {
                    let known = &mut self.topics.get_mut(&partition.topic).unwrap().2
                        [partition.partition.get() as usize];
                    assert!(state.partition_epoch > known.partition_epoch);
                    *known = state.clone();
                }
                Delta::TopicDeleted(topic) => {
                    assert!(self.topics.remove(&topic.id).is_some(), "deleted twice");
                }
            }
        }
    }
}

/// Nothing goes back, and nothing changes without a new epoch or version to tell by.
fn check_step(before: &MetadataImage, command: &Command, applied: &Applied) {
    let after = &applied.image;
    assert_eq!(after.offset(), before.offset().next());
    assert_eq!(after.violation(), None, "{command:?}");
    if applied.outcome.is_err() {
        assert_eq!(*after, before.at(after.offset()), "{command:?}");
        assert!(applied.deltas.is_empty());
    }
    for old in before.brokers() {
        match after.broker(old.id) {
            Some(new) => assert!(new.epoch >= old.epoch),
            None => assert!(matches!(command, Command::RemoveBroker(_)), "{command:?}"),
        }
    }
    for old in before.topics() {
        let Some(new) = after.topic_by_id(old.id) else {
            assert_eq!(after.deleted_at(old.id), Some(after.offset()));
            continue;
        };
        assert!(new.version >= old.version && new.partition_count() >= old.partition_count());
        if new.configs != old.configs || new.partition_count() != old.partition_count() {
            assert!(new.version > old.version);
        }
        for (index, was) in old.partitions() {
            let is = new.partition(index).unwrap();
            assert!(is.leader_epoch >= was.leader_epoch);
            if is != was {
                assert!(is.partition_epoch > was.partition_epoch);
            }
            if is.leader != was.leader {
                assert!(is.leader_epoch > was.leader_epoch);
            }
            let reborn = was.leader.is_some_and(|leader| {
                after.broker(leader).unwrap().epoch > before.broker(leader).unwrap().epoch
            });
            if reborn {
                assert!(is.leader_epoch > was.leader_epoch, "an epoch for two incarnations");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_laws_hold_on_every_history(
        ops in vec(op(), 1..80),
        cut in 0..80_usize,
        is_cluster in any::<bool>(),
    ) {
        let mut image = after(&[level_1(), register(1, 200), register(2, 201), register(3, 202)]);
        if is_cluster {
            for level in [level_2(), level_3(), level_4()] {
                image = apply(&image, &level).image;
            }
        }
        let start = image.clone();
        let mut shadow = Shadow::of(&image);
        let mut log = Vec::new();
        let mut images = vec![image.clone()];
        let mut producer_ids = BTreeSet::new();
        for op in &ops {
            let command = command(op, &image);
            let applied = apply(&image, &command);
            check_step(&image, &command, &applied);
            shadow.apply(&applied.deltas);
            prop_assert_eq!(&shadow, &Shadow::of(&applied.image));
            if let Ok(Reply::ProducerIds(block)) = &applied.outcome {
                for n in 0..i64::from(block.count) {
                    prop_assert!(producer_ids.insert(block.first.get() + n), "an id given twice");
                }
            }
            log.push(record::encode(&command).unwrap());
            image = applied.image;
            images.push(image.clone());
        }

        // Replay from the stored form, from the start and from a snapshot: the same image.
        let cut = cut % images.len();
        let installed = snapshot::decode(&snapshot::encode(&images[cut])).unwrap();
        prop_assert_eq!(&installed, &images[cut]);
        for (from, skip) in [(&start, 0), (&installed, cut)] {
            let replayed = log[skip..].iter().fold(from.clone(), |image, record| {
                apply(&image, &record::decode(record).unwrap()).image
            });
            prop_assert_eq!(&replayed, &image);
            prop_assert_eq!(snapshot::encode(&replayed), snapshot::encode(&image));
        }

        // Whoever fell behind catches up by difference.
        let mut late = Shadow::of(&images[cut]);
        late.apply(&Delta::between(&images[cut], &image));
        prop_assert_eq!(&late, &shadow);
        prop_assert_eq!(Delta::between(&image, &image), vec![]);
    }

    #[test]
    fn a_damaged_snapshot_is_refused(byte in 0..10_000_usize, bit in 0..8_u8) {
        let image = after(&[level_1(), register(1, 1), create(1, "a", &[&[1]])]);
        let mut bytes = snapshot::encode(&image).to_vec();
        let byte = byte % bytes.len();
        bytes[byte] ^= 1 << bit;
        prop_assert!(snapshot::decode(&bytes).is_err());
        prop_assert!(snapshot::decode(&bytes[..byte]).is_err());
    }
}

/// Guards the property above against becoming empty: its histories do reach what they talk about.
#[test]
fn the_difference_names_each_change() {
    let old =
        after(&[level_1(), register(1, 1), create(1, "kept", &[&[1]]), create(2, "gone", &[&[1]])]);
    let mut new = old.clone();
    for command in [
        delete(2),
        create(3, "gone", &[&[1]]),
        grow(1, 0, &[&[1]]),
        alter(1, 1, &[("k", "v")], &[], 1),
        register(1, 2),
    ] {
        let applied = apply(&new, &command);
        assert!(applied.outcome.is_ok(), "{command:?}");
        new = applied.image;
    }
    let deltas = Delta::between(&old, &new);
    let kinds: Vec<_> = deltas
        .iter()
        .map(|delta| match delta {
            Delta::FeatureLevelChanged(_) => "level".to_owned(),
            Delta::MoveThrottleChanged(rate) => format!("throttle {rate:?}"),
            Delta::BrokerRegistered(broker) => format!("broker {}", broker.id),
            Delta::BrokerRemoved(id) => format!("removed {id}"),
            Delta::TopicCreated(topic) => format!("created {}", topic.id),
            Delta::PartitionsCreated { topic, first } => format!("grown {} {first}", topic.name),
            Delta::TopicConfigChanged(topic) => format!("configs {}", topic.name),
            Delta::PartitionChanged { partition, .. } => format!("changed {partition}"),
            Delta::TopicDeleted(topic) => format!("deleted {}", topic.id),
        })
        .collect();
    let id = topic_id;
    assert_eq!(
        kinds,
        [
            "broker 1".to_owned(),
            format!("deleted {}", id(2)),
            format!("created {}", id(3)),
            "grown kept 1".to_owned(),
            "configs kept".to_owned(),
            format!("changed {}-0", id(1)),
        ]
    );
}
