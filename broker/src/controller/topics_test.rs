use riverrun_proto::limits::TOPIC_NAME_CHARS_MAX;

use super::*;
use crate::metadata::{
    Presence, TopicVersion,
    test_support::{
        after, apply, configs, create, level_1, level_2, name, register, stand, topic_id,
    },
};

fn policy() -> TopicPolicy {
    TopicPolicy::new(&BrokerConfig::default(), TopicDefaults::default())
}

fn image(brokers: u8) -> MetadataImage {
    let mut commands = vec![level_1()];
    commands.extend((1..=brokers).map(|n| register(u32::from(n), n)));
    after(&commands)
}

fn topic(name: &str) -> NewTopic {
    NewTopic { name: name.into(), ..NewTopic::default() }
}

fn decide(image: &MetadataImage, topic: &NewTopic) -> Result<CreateTopic, TopicError> {
    create_topic(image, &policy(), topic, topic_id(1)).map(|command| match command {
        Command::CreateTopic(command) => command,
        other => panic!("{other:?}"),
    })
}

fn by_name(text: &str) -> TopicRef {
    TopicRef { name: name(text), id: None }
}

fn changes(set: &[(&str, &str)], reset: &[&str]) -> ConfigChanges {
    ConfigChanges { set: configs(set), reset: reset.iter().map(|key| (*key).to_owned()).collect() }
}

#[test]
fn a_topic_with_nothing_said() {
    let command = decide(&image(1), &topic("orders")).unwrap();
    assert_eq!(command.name, name("orders"));
    assert_eq!(command.id, topic_id(1));
    assert_eq!(command.assignment, [[BrokerId(1)]]);
    assert_eq!((command.configs, command.min_isr), (configs(&[]), 1));
}

#[test]
fn who_is_away_gets_nothing_new() {
    let mut commands = vec![level_1(), register(1, 1), register(2, 2), register(3, 3), level_2()];
    commands.push(stand(2, 3, Presence::Fenced));
    let image = after(&commands);
    let asked =
        |factor| NewTopic { partitions: Some(4), replication_factor: Some(factor), ..topic("t") };
    for factor in [1, 2] {
        let command = decide(&image, &asked(factor)).unwrap();
        assert!(!command.assignment.concat().contains(&BrokerId(2)));
    }
    let error = decide(&image, &asked(3)).unwrap_err();
    assert_eq!(error, TopicError::ReplicationFactor { asked: 3, brokers: 2, away: Away(1) });
    assert!(error.to_string().contains("1 more are known"), "{error}");
}

#[test]
fn overrides_become_canonical_and_min_isr_follows_them() {
    let asked = NewTopic {
        partitions: Some(4),
        replication_factor: Some(3),
        configs: configs(&[("retention.ms", "7d"), ("segment.bytes", "64MiB")]),
        ..topic("t")
    };
    let command = decide(&image(3), &asked).unwrap();
    assert_eq!(
        command.configs,
        configs(&[("retention.ms", "604800000"), ("segment.bytes", "67108864")])
    );
    assert_eq!(command.min_isr, 2, "the majority");
    assert_eq!(command.assignment.len(), 4);
    let explicit = NewTopic { configs: configs(&[("min.insync.replicas", "3")]), ..asked };
    assert_eq!(decide(&image(3), &explicit).unwrap().min_isr, 3);
}

#[test]
fn topics_that_are_refused() {
    let full = apply(&image(1), &create(9, "taken", &[&[1]])).image;
    let with =
        |partitions, replication_factor| NewTopic { partitions, replication_factor, ..topic("t") };
    for (asked, why) in [
        (topic(""), TopicError::Name(InvalidTopicName::Empty)),
        (topic("a/b"), TopicError::Name(InvalidTopicName::Character('/'))),
        (
            topic(&"x".repeat(TOPIC_NAME_CHARS_MAX + 1)),
            TopicError::Name(InvalidTopicName::TooLong(TOPIC_NAME_CHARS_MAX + 1)),
        ),
        (topic("taken"), TopicError::Exists { name: name("taken"), id: topic_id(9) }),
        (with(Some(0), None), TopicError::PartitionCount(0)),
        (with(Some(10_001), None), TopicError::PartitionCount(10_001)),
        (
            with(None, Some(0)),
            TopicError::ReplicationFactor { asked: 0, brokers: 1, away: Away(0) },
        ),
        (
            with(None, Some(3)),
            TopicError::ReplicationFactor { asked: 3, brokers: 1, away: Away(0) },
        ),
        (
            with(Some(10_000), None),
            TopicError::TooManyPartitions { wanted: 10_001, max: 10_000, brokers: 1 },
        ),
    ] {
        assert_eq!(decide(&full, &asked).unwrap_err(), why);
    }
    let longest = decide(&full, &topic(&"x".repeat(TOPIC_NAME_CHARS_MAX))).unwrap();
    assert!(apply(&full, &Command::CreateTopic(longest)).outcome.is_ok());
}

#[test]
fn every_problem_of_a_configuration_is_named() {
    let asked = NewTopic {
        configs: configs(&[("retention.ms", "7 parsecs"), ("no.such.key", "1")]),
        ..topic("t")
    };
    let TopicError::Config(problems) = decide(&image(1), &asked).unwrap_err() else { panic!() };
    let text = problems.to_string();
    assert!(text.contains("retention.ms") && text.contains("no.such.key"), "{text}");

    let too_many = NewTopic { configs: configs(&[("min.insync.replicas", "2")]), ..topic("t") };
    let TopicError::Config(problems) = decide(&image(1), &too_many).unwrap_err() else { panic!() };
    assert!(problems.to_string().contains("min.insync.replicas"), "{problems}");
}

#[test]
fn a_topic_made_anew_is_another() {
    let image = apply(&image(1), &create(2, "a", &[&[1]])).image;
    assert_eq!(
        delete_topic(&image, &by_name("a")),
        Ok(Command::DeleteTopic(DeleteTopic { topic: topic_id(2) }))
    );
    let old = TopicRef { name: name("a"), id: Some(topic_id(1)) };
    let other =
        TopicError::OtherTopic { name: name("a"), expected: topic_id(1), found: topic_id(2) };
    assert_eq!(delete_topic(&image, &old), Err(other.clone()));
    assert_eq!(create_partitions(&image, &policy(), &old, 2), Err(other.clone()));
    assert_eq!(alter_topic_configs(&image, &policy(), &old, &changes(&[], &[])), Err(other));
    assert_eq!(delete_topic(&image, &by_name("b")), Err(TopicError::Unknown(name("b"))));
}

#[test]
fn a_topic_grows_and_never_shrinks() {
    let image = apply(&image(1), &create(1, "a", &[&[1], &[1]])).image;
    let command = create_partitions(&image, &policy(), &by_name("a"), 5).unwrap();
    assert_eq!(
        command,
        Command::CreatePartitions(CreatePartitions {
            topic: topic_id(1),
            expected: TopicVersion(0),
            assignment: vec![vec![BrokerId(1)]; 3],
        })
    );
    for asked in [0, 1, 2] {
        let why = TopicError::NotMorePartitions { name: name("a"), current: 2, asked };
        assert_eq!(create_partitions(&image, &policy(), &by_name("a"), asked), Err(why));
    }
    assert_eq!(
        create_partitions(&image, &policy(), &by_name("a"), 10_001),
        Err(TopicError::PartitionCount(10_001))
    );
    let small = TopicPolicy { partitions_per_broker_max: 4, ..policy() };
    assert!(create_partitions(&image, &small, &by_name("a"), 4).is_ok());
    assert!(matches!(
        create_partitions(&image, &small, &by_name("a"), 5),
        Err(TopicError::TooManyPartitions { wanted: 5, max: 4, brokers: 1 })
    ));
}

#[test]
fn partitions_go_round_the_brokers_over_all_topics() {
    let mut now = image(3);
    let mut leads = [0; 4];
    for n in 0..9 {
        let command = create_topic(&now, &policy(), &topic(&format!("t{n}")), topic_id(n)).unwrap();
        let Command::CreateTopic(made) = &command else { panic!() };
        leads[made.assignment[0][0].0 as usize] += 1;
        now = apply(&now, &command).image;
    }
    assert_eq!(leads, [0, 3, 3, 3]);
}

#[test]
fn configurations_are_changed_against_what_the_topic_has() {
    let now = image(3);
    let asked = NewTopic {
        replication_factor: Some(3),
        configs: configs(&[("retention.ms", "1h"), ("min.insync.replicas", "3")]),
        ..topic("a")
    };
    let command = create_topic(&now, &policy(), &asked, topic_id(1)).unwrap();
    let now = apply(&now, &command).image;
    let alter = |changes: &ConfigChanges| {
        alter_topic_configs(&now, &policy(), &by_name("a"), changes).map(|command| match command {
            Command::AlterTopicConfigs(command) => command,
            other => panic!("{other:?}"),
        })
    };
    let set = alter(&changes(&[("segment.bytes", "2MiB")], &["retention.ms"])).unwrap();
    assert_eq!(set.set, configs(&[("segment.bytes", "2097152")]));
    assert_eq!(set.min_isr, 3, "not touched, so it stays");
    let reset = alter(&changes(&[], &["min.insync.replicas"])).unwrap();
    assert_eq!(reset.min_isr, 2, "back to the majority");
    assert_eq!(
        alter(&changes(&[("segment.bytes", "2MiB")], &["segment.bytes"])),
        Err(TopicError::SetAndReset("segment.bytes".into()))
    );
    assert!(matches!(alter(&changes(&[("nonsense", "1")], &[])), Err(TopicError::Config(_))));
    assert!(matches!(
        alter(&changes(&[("min.insync.replicas", "4")], &[])),
        Err(TopicError::Config(_))
    ));
}

/// A broker's default that changed since must not move a topic whose owner asked for something else.
#[test]
fn a_new_default_does_not_slip_in_with_another_change() {
    let now = apply(&image(3), &create(1, "a", &[&[1, 2, 3]])).image;
    let command = alter_topic_configs(
        &now,
        &policy(),
        &by_name("a"),
        &changes(&[("retention.ms", "1")], &[]),
    );
    let Ok(Command::AlterTopicConfigs(command)) = command else { panic!() };
    assert_eq!(command.min_isr, 1, "as it was made, though the default is a majority");
}
