use std::sync::Arc;

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch},
    ids::{BrokerId, DirectoryId, PartitionIndex, TopicPartition},
};

use super::super::{
    Command, Delta, FeatureLevel, FeatureRange, MetadataImage, ProducerIdBlock, Rejection, Reply,
    TopicVersion,
    command::{CreateTopic, RegisterBroker, SetFeatureLevel},
    rejection::AssignmentProblem,
    test_support::*,
};

fn rejection(image: &MetadataImage, command: &Command) -> Rejection {
    let applied = apply(image, command);
    assert_eq!(
        applied.image,
        image.at(image.offset().next()),
        "a rejected command changes nothing"
    );
    assert_eq!(applied.deltas, []);
    applied.outcome.unwrap_err()
}

fn partition(topic: u8, index: u32) -> TopicPartition {
    TopicPartition::new(topic_id(topic), PartitionIndex::new(index).unwrap())
}

#[test]
fn before_a_feature_level_is_set_nothing_else_goes() {
    let empty = MetadataImage::default();
    for command in [register(1, 1), create(1, "a", &[&[1]]), delete(1), allocate(1, 1, 1)] {
        assert_eq!(
            rejection(&empty, &command),
            Rejection::FeatureLevelTooLow { needed: FeatureLevel::V1, current: FeatureLevel::NONE }
        );
    }
    let applied = apply(&empty, &level_1());
    assert_eq!(applied.outcome, Ok(Reply::FeatureLevel(FeatureLevel::V1)));
    assert_eq!(applied.deltas, [Delta::FeatureLevelChanged(FeatureLevel::V1)]);
}

#[test]
fn feature_levels_only_go_up_and_only_where_all_brokers_follow() {
    let image = after(&[level_1(), register(1, 1)]);
    let set = |expected, level| {
        Command::SetFeatureLevel(SetFeatureLevel {
            expected: FeatureLevel::new(expected),
            level: FeatureLevel::new(level),
        })
    };
    for (expected, level) in [(0, 1), (0, 2), (1, 1), (1, 0), (2, 3)] {
        let order = Rejection::FeatureLevelOrder {
            current: FeatureLevel::V1,
            expected: FeatureLevel::new(expected),
            level: FeatureLevel::new(level),
        };
        assert_eq!(rejection(&image, &set(expected, level)), order);
    }
    // This binary writes no level 5; a later one does, and must ask its brokers.
    assert!(matches!(
        rejection(&image, &set(1, 5)),
        Rejection::FeatureLevelUnsupported { broker: BrokerId(1), .. }
    ));
    let newer = RegisterBroker {
        features: FeatureRange { min: FeatureLevel::new(2), max: FeatureLevel::new(3) },
        ..registration(2, 2)
    };
    assert!(matches!(
        rejection(&image, &Command::RegisterBroker(newer)),
        Rejection::FeatureLevelUnsupported { broker: BrokerId(2), level: FeatureLevel::V1, .. }
    ));
}

#[test]
fn a_new_incarnation_begins_new_terms_where_it_leads() {
    let image = after(&[
        level_1(),
        register(1, 1),
        register(2, 2),
        create(1, "a", &[&[1, 2], &[2, 1]]),
        create(2, "b", &[&[2]]),
    ]);
    let untouched = Arc::clone(image.topic(&name("b")).unwrap());
    let applied = apply(&image, &register(1, 3));
    assert_eq!(applied.outcome, Ok(Reply::BrokerEpoch(BrokerEpoch::new(6).unwrap())));
    let led = applied.image.partition(partition(1, 0)).unwrap();
    assert_eq!(led.leader_epoch, LeaderEpoch::new(1).unwrap());
    assert_eq!(led.partition_epoch, PartitionEpoch::new(1).unwrap());
    assert_eq!(led.leader, Some(BrokerId(1)));
    assert_eq!(
        applied.image.partition(partition(1, 1)).unwrap(),
        image.partition(partition(1, 1)).unwrap(),
        "followed, not led"
    );
    assert!(Arc::ptr_eq(applied.image.topic(&name("b")).unwrap(), &untouched));
    let broker = Arc::clone(applied.image.broker(BrokerId(1)).unwrap());
    assert_eq!(
        applied.deltas,
        [
            Delta::BrokerRegistered(broker),
            Delta::PartitionChanged { partition: partition(1, 0), state: led.clone() },
        ]
    );
}

#[test]
fn the_same_incarnation_again_is_a_retry() {
    let image = after(&[level_1(), register(1, 1), create(1, "a", &[&[1]])]);
    let applied = apply(&image, &register(1, 1));
    assert_eq!(applied.outcome, Ok(Reply::BrokerEpoch(BrokerEpoch::new(2).unwrap())));
    assert_eq!(applied.deltas, []);
    assert_eq!(applied.image.partition(partition(1, 0)), image.partition(partition(1, 0)));
    let changed = RegisterBroker { rack: Some("r".into()), ..registration(1, 1) };
    assert_eq!(
        rejection(&image, &Command::RegisterBroker(changed)),
        Rejection::RegistrationChanged(BrokerId(1))
    );
}

#[test]
fn a_broker_on_another_disk_is_not_the_broker_it_was() {
    let image = after(&[level_1(), register(1, 1)]);
    let wiped = RegisterBroker {
        directory: DirectoryId::from_bytes(&[9; 16]).unwrap(),
        ..registration(1, 2)
    };
    assert_eq!(
        rejection(&image, &Command::RegisterBroker(wiped)),
        Rejection::DirectoryChanged(BrokerId(1))
    );
}

#[test]
fn registrations_that_describe_no_broker() {
    let image = after(&[level_1()]);
    let good = registration(1, 1);
    let with = |change: &dyn Fn(&mut RegisterBroker)| {
        let mut command = good.clone();
        change(&mut command);
        Command::RegisterBroker(command)
    };
    for bad in [
        with(&|c| c.endpoints[0].port = 0),
        with(&|c| c.endpoints[0].host.clear()),
        with(&|c| c.endpoints[0].host = "x".repeat(256)),
        with(&|c| c.endpoints[0].listener.clear()),
        with(&|c| c.endpoints.push(c.endpoints[0].clone())),
        with(&|c| {
            c.endpoints = (0..17)
                .map(|n| {
                    let mut endpoint = c.endpoints[0].clone();
                    endpoint.listener = n.to_string();
                    endpoint
                })
                .collect()
        }),
        with(&|c| c.rack = Some(String::new())),
        with(&|c| c.features.min = FeatureLevel::new(7)),
    ] {
        assert!(
            matches!(rejection(&image, &bad), Rejection::Registration { broker: BrokerId(1), .. }),
            "{bad:?}"
        );
    }
}

#[test]
fn topics_that_cannot_be_made() {
    let image = after(&[
        level_1(),
        register(1, 1),
        register(2, 2),
        create(1, "a", &[&[1]]),
        create(2, "gone", &[&[1]]),
        delete(2),
    ]);
    let assignment = |partition, problem| Rejection::Assignment {
        partition: PartitionIndex::new(partition).unwrap(),
        problem,
    };
    let min_isr = |min_isr| {
        Command::CreateTopic(CreateTopic {
            name: name("n"),
            id: topic_id(7),
            assignment: vec![vec![BrokerId(1), BrokerId(2)]],
            configs: configs(&[]),
            min_isr,
        })
    };
    let Command::CreateTopic(plain) = create(7, "n", &[&[1]]) else { unreachable!() };
    let big = CreateTopic { configs: configs(&[("k", &"v".repeat(32 * 1024))]), ..plain };
    let ten_thousand_and_one = vec![&[1_u32][..]; 10_001];
    for (command, why) in [
        (create(7, "a", &[&[1]]), Rejection::TopicExists { name: name("a"), id: topic_id(1) }),
        (create(1, "n", &[&[1]]), Rejection::TopicIdUsed(topic_id(1))),
        (create(2, "n", &[&[1]]), Rejection::TopicIdUsed(topic_id(2))),
        (create(7, "n", &[]), Rejection::PartitionCount(0)),
        (create(7, "n", &ten_thousand_and_one), Rejection::PartitionCount(10_001)),
        (create(7, "n", &[&[]]), assignment(0, AssignmentProblem::Empty)),
        (create(7, "n", &[&[1], &[]]), assignment(1, AssignmentProblem::Empty)),
        (create(7, "n", &[&[1], &[1, 2]]), assignment(1, AssignmentProblem::Uneven(2, 1))),
        (create(7, "n", &[&[1, 2], &[2, 2]]), assignment(1, AssignmentProblem::Twice(BrokerId(2)))),
        (create(7, "n", &[&[1, 3]]), assignment(0, AssignmentProblem::UnknownBroker(BrokerId(3)))),
        (create(7, "n", &[&[1; 16]]), assignment(0, AssignmentProblem::TooMany(16))),
        (min_isr(0), Rejection::MinIsr { min_isr: 0, replication_factor: 2 }),
        (min_isr(3), Rejection::MinIsr { min_isr: 3, replication_factor: 2 }),
        (Command::CreateTopic(big), Rejection::ConfigTooLarge(32 * 1024 + 1)),
    ] {
        assert_eq!(rejection(&image, &command), why);
    }
}

#[test]
fn a_name_is_free_again_after_deletion_and_the_id_is_not() {
    let image = after(&[level_1(), register(1, 1), create(1, "a", &[&[1], &[1]])]);
    assert_eq!(image.partition_count(), 2);
    let was = Arc::clone(image.topic(&name("a")).unwrap());
    let applied = apply(&image, &delete(1));
    assert_eq!(applied.outcome, Ok(Reply::TopicDeleted));
    assert_eq!(applied.deltas, [Delta::TopicDeleted(was)]);
    let image = applied.image;
    assert_eq!(image.deleted_at(topic_id(1)), Some(image.offset()));
    assert_eq!(image.partition_count(), 0);
    assert_eq!(rejection(&image, &delete(1)), Rejection::UnknownTopic(topic_id(1)));
    assert!(apply(&image, &create(2, "a", &[&[1]])).outcome.is_ok());
}

#[test]
fn growing_needs_the_version_it_was_decided_on() {
    let image = after(&[level_1(), register(1, 1), create(1, "a", &[&[1]])]);
    let applied = apply(&image, &grow(1, 0, &[&[1], &[1]]));
    let topic = Arc::clone(applied.image.topic(&name("a")).unwrap());
    assert_eq!((topic.partition_count(), topic.version), (3, TopicVersion(1)));
    assert_eq!(applied.image.partition_count(), 3);
    let first = PartitionIndex::new(1).unwrap();
    assert_eq!(applied.deltas, [Delta::PartitionsCreated { topic: Arc::clone(&topic), first }]);
    let image = applied.image;
    let changed = Rejection::TopicChanged {
        topic: topic_id(1),
        expected: TopicVersion(0),
        current: TopicVersion(1),
    };
    assert!(changed.is_retriable());
    assert_eq!(rejection(&image, &grow(1, 0, &[&[1]])), changed);
    assert_eq!(rejection(&image, &grow(9, 1, &[&[1]])), Rejection::UnknownTopic(topic_id(9)));
    assert_eq!(rejection(&image, &grow(1, 1, &[])), Rejection::PartitionCount(3));
    let too_many = vec![&[1_u32][..]; 9_998];
    assert_eq!(rejection(&image, &grow(1, 1, &too_many)), Rejection::PartitionCount(10_001));
    let full = apply(&image, &grow(1, 1, &too_many[1..])).image;
    assert_eq!(rejection(&full, &grow(1, 2, &[&[1]])), Rejection::PartitionCount(10_001));
    assert_eq!(
        rejection(&image, &grow(1, 1, &[&[1, 2]])),
        Rejection::Assignment {
            partition: PartitionIndex::new(3).unwrap(),
            problem: AssignmentProblem::Uneven(2, 1)
        }
    );
}

#[test]
fn configurations_change_all_or_nothing() {
    let image = after(&[level_1(), register(1, 1), create(1, "a", &[&[1]])]);
    let applied = apply(&image, &alter(1, 0, &[("retention.ms", "5"), ("x", "y")], &["z"], 1));
    let topic = Arc::clone(applied.image.topic(&name("a")).unwrap());
    assert_eq!(*topic.configs, configs(&[("retention.ms", "5"), ("x", "y")]));
    assert_eq!(applied.deltas, [Delta::TopicConfigChanged(Arc::clone(&topic))]);
    let image = applied.image;

    let same = apply(&image, &alter(1, 1, &[("x", "y")], &["z"], 1));
    assert_eq!(same.outcome, Ok(Reply::Topic(topic)), "no change, no new version");
    assert_eq!(same.deltas, []);

    assert_eq!(
        rejection(&image, &alter(1, 1, &[("x", "1")], &["x"], 1)),
        Rejection::ConfigSetAndReset("x".into())
    );
    assert!(matches!(
        rejection(&image, &alter(1, 0, &[("x", "1")], &[], 1)),
        Rejection::TopicChanged { .. }
    ));
    assert!(matches!(
        rejection(&image, &alter(1, 1, &[("x", &"v".repeat(40_000))], &[], 1)),
        Rejection::ConfigTooLarge(_)
    ));
    assert_eq!(
        rejection(&image, &alter(1, 1, &[], &[], 2)),
        Rejection::MinIsr { min_isr: 2, replication_factor: 1 }
    );
    let reset = apply(&image, &alter(1, 1, &[], &["x"], 1)).image;
    assert_eq!(*reset.topic(&name("a")).unwrap().configs, configs(&[("retention.ms", "5")]));
}

#[test]
fn min_isr_is_part_of_what_the_partition_epoch_versions() {
    let image =
        after(&[level_1(), register(1, 1), register(2, 2), create(1, "a", &[&[1, 2], &[2, 1]])]);
    let applied = apply(&image, &alter(1, 0, &[("min.insync.replicas", "2")], &[], 2));
    assert_eq!(applied.deltas.len(), 3);
    for (_, state) in applied.image.topic(&name("a")).unwrap().partitions() {
        assert_eq!((state.min_isr, state.effective_min_isr()), (2, 2));
        assert_eq!(state.partition_epoch, PartitionEpoch::new(1).unwrap());
        assert_eq!(state.leader_epoch, LeaderEpoch::ZERO, "no new term");
    }
    let grown = apply(&applied.image, &grow(1, 1, &[&[1, 2]])).image;
    assert_eq!(grown.partition(partition(1, 2)).unwrap().min_isr, 2);
}

#[test]
fn producer_ids_are_handed_out_once_and_to_the_running_broker() {
    let image = after(&[level_1(), register(1, 1)]);
    let block = |first, count| {
        let first = riverrun_proto::ids::ProducerId::new(first).unwrap();
        Ok(Reply::ProducerIds(ProducerIdBlock { first, count }))
    };
    let applied = apply(&image, &allocate(1, 2, 1000));
    assert_eq!(applied.outcome, block(0, 1000));
    assert_eq!(apply(&applied.image, &allocate(1, 2, 5)).outcome, block(1000, 5));

    assert_eq!(rejection(&image, &allocate(1, 2, 0)), Rejection::ProducerIdCount(0));
    assert_eq!(
        rejection(&image, &allocate(1, 2, 1_000_001)),
        Rejection::ProducerIdCount(1_000_001)
    );
    assert_eq!(rejection(&image, &allocate(3, 2, 1)), Rejection::UnknownBroker(BrokerId(3)));
    let rebooted = apply(&image, &register(1, 2)).image;
    assert_eq!(
        rejection(&rebooted, &allocate(1, 2, 1)),
        Rejection::StaleBrokerEpoch {
            broker: BrokerId(1),
            given: BrokerEpoch::new(2).unwrap(),
            current: BrokerEpoch::new(3).unwrap(),
        }
    );
    let mut last = image;
    last.next_producer_id = i64::MAX - 3;
    assert_eq!(rejection(&last, &allocate(1, 2, 4)), Rejection::ProducerIdsExhausted);
    assert_eq!(apply(&last, &allocate(1, 2, 3)).outcome, block(i64::MAX - 3, 3));
}

#[test]
fn pages_follow_names_whatever_comes_and_goes_between_them() {
    let mut image = after(&[level_1(), register(1, 1)]);
    for (n, text) in ["d", "a", "c", "b"].iter().enumerate() {
        image = apply(&image, &create(u8::try_from(n).unwrap(), text, &[&[1]])).image;
    }
    let page = |image: &MetadataImage, after: &str| -> Vec<String> {
        image.topics_after(&name(after)).take(2).map(|topic| topic.name.to_string()).collect()
    };
    assert_eq!(page(&image, "a"), ["b", "c"]);
    let image = apply(&image, &delete(3)).image;
    assert_eq!(page(&image, "b"), ["c", "d"], "the page goes on where 'b' was");
    assert_eq!(page(&image, "d"), [""; 0]);
}

/// What makes a thousand topics cheap is that images share: asserted as such, not by a clock.
#[test]
fn images_share_what_a_command_leaves_alone() {
    let mut image = after(&[level_1(), register(1, 1)]);
    let ten: Vec<&[u32]> = vec![&[1]; 10];
    for n in 0..1000_u32 {
        let mut id = [1; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let Command::CreateTopic(topic) = create(0, &format!("t{n:04}"), &ten) else {
            unreachable!()
        };
        let id = riverrun_proto::ids::TopicId::from_bytes(&id).unwrap();
        let applied = apply(&image, &Command::CreateTopic(CreateTopic { id, ..topic }));
        assert!(applied.outcome.is_ok());
        if n == 500 {
            let shared = |t| Arc::ptr_eq(applied.image.topic(t).unwrap(), image.topic(t).unwrap());
            assert!(image.topics().all(|topic| shared(&topic.name)));
        }
        image = applied.image;
    }
    assert_eq!((image.topics().len(), image.partition_count()), (1000, 10_000));
    let applied = apply(&image, &register(1, 2));
    assert_eq!(applied.deltas.len(), 10_001, "every partition begins a new term");
    assert_eq!(applied.image.violation(), None);
}

#[test]
#[should_panic(expected = "was applied before")]
fn an_entry_is_applied_once() {
    let image = after(&[level_1()]);
    image.apply(image.offset(), &level_1());
}
