//! What a topic may set, what is refused and with which words.

use super::*;
use crate::config::{ByteSize, Durability, MinInsyncReplicas};

fn overrides(entries: &[(&str, &str)]) -> Result<TopicOverrides, Problems> {
    TopicOverrides::try_new(entries.iter().copied(), &TopicDefaults::default(), 1)
}

fn why(entries: &[(&str, &str)]) -> String {
    overrides(entries).expect_err("overrides that must be refused").to_string()
}

#[test]
fn values_are_stored_as_plain_numbers() {
    let made = overrides(&[
        ("retention.ms", "7d"),
        ("retention.bytes", "-1"),
        ("segment.bytes", "64MiB"),
        ("durability", "memory"),
        ("message.timestamp.type", "LogAppendTime"),
    ])
    .unwrap();
    let stored: Vec<_> = made.as_map().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        stored,
        [
            ("durability", "memory"),
            ("message.timestamp.type", "LogAppendTime"),
            ("retention.bytes", "-1"),
            ("retention.ms", "604800000"),
            ("segment.bytes", "67108864"),
        ]
    );
    assert_eq!(TopicOverrides::from_stored(made.as_map()), Ok(made));
}

#[test]
fn a_topic_resolves_its_own_over_the_brokers() {
    let defaults = TopicDefaults { segment_bytes: ByteSize::mib(32), ..TopicDefaults::default() };
    let made = overrides(&[("retention.ms", "1h")]).unwrap();
    let config = made.resolve(&defaults, 3);
    assert_eq!(config.retention.unwrap().as_secs(), 3600);
    assert_eq!(config.segment_bytes, ByteSize::mib(32));
    assert_eq!((config.min_insync_replicas, config.durability), (2, Durability::Memory));
}

#[test]
fn what_is_refused_and_why() {
    let cases = [
        (
            "retention.mss",
            "1",
            "retention.mss: no topic has such a key; did you mean retention.ms?",
        ),
        ("retention_ms", "1", "retention_ms: no topic has such a key; did you mean retention.ms?"),
        ("zzz", "1", "zzz: no topic has such a key"),
        (
            "flush.ms",
            "1",
            "flush.ms: this key of Kafka is not supported; \
             set durability=disk: then every ack waits for a sync",
        ),
        (
            "retention.ms",
            "1 fortnight",
            "retention.ms: unknown unit \"fortnight\"; durations end in ms, s, m (minutes), h or d; \
             expected a duration: milliseconds, or such as 500ms, 10s or 7d, or -1 for no limit",
        ),
        (
            "segment.bytes",
            "1KiB",
            "segment.bytes: 1KiB is below the least, 1MiB; \
             expected a size: bytes, or such as 64MiB or 1GB; from 1MiB to 1GiB",
        ),
        (
            "cleanup.policy",
            "compact",
            "cleanup.policy: compaction does not exist in this version; expected delete",
        ),
        (
            "compression.type",
            "lz4",
            "compression.type: the broker does not recompress; set lz4 at the producer; \
             expected producer",
        ),
        (
            "min.insync.replicas",
            "0",
            "min.insync.replicas: \"0\" is no number of replicas; expected majority, or a number from 1",
        ),
    ];
    for (key, value, text) in cases {
        assert_eq!(why(&[(key, value)]), text);
    }
}

#[test]
fn every_problem_is_reported() {
    let text = why(&[("a", "1"), ("segment.bytes", "x"), ("durability", "tape")]);
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn keys_are_checked_together() {
    let text = why(&[("segment.bytes", "1MiB"), ("max.message.bytes", "2MiB")]);
    assert!(text.starts_with("segment.bytes: a segment of 1MiB has no room"), "{text}");
    let text = why(&[("min.insync.replicas", "2")]);
    assert!(text.contains("the topic has 1 replicas, 2 can never be in sync"), "{text}");
}

#[test]
fn stored_overrides_outlive_a_change_of_the_brokers_defaults() {
    let made = overrides(&[("segment.bytes", "1048588")]).unwrap();
    let larger = TopicDefaults { max_message_bytes: ByteSize::mib(8), ..TopicDefaults::default() };
    let config = TopicOverrides::from_stored(made.as_map()).unwrap().resolve(&larger, 1);
    assert_eq!(config.segment_bytes, ByteSize::mib(8), "a batch always fits its segment");
}

#[test]
fn stored_overrides_of_another_version_keep_what_is_understood() {
    let text = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
    let stored = [("from.the.future", "1"), ("retention.ms", "-1"), ("segment.bytes", "1")];
    let stored = BTreeMap::from(stored.map(text));
    assert_eq!(TopicOverrides::from_stored(&stored).unwrap_err().len(), 2);
    let (kept, problems) = TopicOverrides::understood(&stored);
    assert_eq!(problems.len(), 2);
    assert_eq!(kept.resolve(&TopicDefaults::default(), 1).retention, None, "kept forever still");
}

#[test]
fn altering_sets_and_resets_all_or_nothing() {
    let defaults = TopicDefaults::default();
    let before = overrides(&[("retention.ms", "1h"), ("segment.ms", "1d")]).unwrap();
    let after =
        before.altered([("retention.bytes", "1GiB")], ["retention.ms"], &defaults, 1).unwrap();
    let keys: Vec<_> = after.as_map().keys().map(String::as_str).collect();
    assert_eq!(keys, ["retention.bytes", "segment.ms"]);
    let untouched =
        before.altered([("retention.ms", "x")], ["nonsense"], &defaults, 1).unwrap_err();
    assert_eq!(untouched.len(), 2, "{untouched}");
    let none: [(&str, &str); 0] = [];
    assert!(before.altered(none, ["retention.bytes"], &defaults, 1).is_ok(), "need not be set");
}

#[test]
fn a_description_names_every_key_with_its_value_in_force() {
    let made = overrides(&[("retention.ms", "1h")]).unwrap();
    let entries = made.describe(&TopicDefaults::default(), 3);
    assert_eq!(entries.len(), TopicDefaults::default().keys().len());
    let entry = |key: &str| entries.iter().find(|e| e.key == key).unwrap();
    assert_eq!(
        (entry("retention.ms").value.as_str(), entry("retention.ms").overridden),
        ("3600000", true)
    );
    assert_eq!(
        (entry("segment.ms").value.as_str(), entry("segment.ms").overridden),
        ("604800000", false)
    );
    assert_eq!(entry("min.insync.replicas").value, "2", "what majority comes to");
    assert_eq!(entry("durability").value, "memory", "what auto comes to");
    assert!(entry("durability").documentation.contains("page cache"));
}

#[test]
fn keys_that_are_not_supported_are_none_of_ours() {
    let defaults = TopicDefaults::default();
    for (key, instead) in NOT_IN_THIS_VERSION {
        assert_eq!(defaults.get(&full_name(key)), None, "{key}");
        assert!(why(&[(key, "1")]).ends_with(instead), "{key}");
    }
    let majority = TopicDefaults { min_insync_replicas: MinInsyncReplicas::Majority, ..defaults };
    assert_eq!(majority.resolve(1).min_insync_replicas, 1);
}
