//! What one topic sets differently: validated when it comes in, canonical when it is stored.
//!
//! Stored values are plain numbers of bytes and milliseconds, so that the metadata log does not
//! depend on the grammar of units.

use std::collections::BTreeMap;

use super::{
    problem::{Origin, Problem, Problems, did_you_mean},
    section::{Key, Section, SetError},
    topic::{TopicConfig, TopicDefaults},
};

/// Keys of Kafka that users of Kafka will try, and what to tell them.
const NOT_IN_THIS_VERSION: [(&str, &str); 20] = [
    ("delete.retention.ms", "compaction does not exist in this version"),
    ("file.delete.delay.ms", "files are deleted as soon as no reader holds them"),
    ("flush.messages", "set durability=disk: then every ack waits for a sync"),
    ("flush.ms", "set durability=disk: then every ack waits for a sync"),
    (
        "follower.replication.throttled.replicas",
        "moves are throttled as a whole: riverrun cluster throttle",
    ),
    ("index.interval.bytes", "set log.index.interval.bytes on the broker"),
    (
        "leader.replication.throttled.replicas",
        "moves are throttled as a whole: riverrun cluster throttle",
    ),
    ("local.retention.bytes", "tiered storage does not exist in this version"),
    ("local.retention.ms", "tiered storage does not exist in this version"),
    ("max.compaction.lag.ms", "compaction does not exist in this version"),
    ("message.downconversion.enable", "there is one record format"),
    ("message.format.version", "there is one record format"),
    ("min.cleanable.dirty.ratio", "compaction does not exist in this version"),
    ("min.compaction.lag.ms", "compaction does not exist in this version"),
    ("preallocate", "segments are always allocated ahead of the writer"),
    ("remote.storage.enable", "tiered storage does not exist in this version"),
    ("segment.index.bytes", "indexes grow with their segment"),
    ("segment.jitter.ms", "segments are rolled by the age of their own records"),
    (
        "message.timestamp.difference.max.ms",
        "set message.timestamp.before.max.ms and message.timestamp.after.max.ms",
    ),
    ("unclean.leader.election.enable", "a replica that lacks acknowledged records never leads"),
];

/// Keys that a topic sets, with canonical values. Every key and value in it is valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicOverrides(BTreeMap<String, String>);

/// One line of a topic's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfigEntry {
    /// Kafka's key.
    pub key: &'static str,
    /// In force, canonical.
    pub value: String,
    /// Set on the topic, not the broker's default.
    pub overridden: bool,
    /// What the key means.
    pub documentation: String,
}

impl TopicOverrides {
    /// Checks all keys and values, and all together with `defaults` for a topic of
    /// `replication_factor` replicas. Reports every problem, not just the first.
    pub fn try_new<K: AsRef<str>, V: AsRef<str>>(
        entries: impl IntoIterator<Item = (K, V)>,
        defaults: &TopicDefaults,
        replication_factor: u32,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut canonical = BTreeMap::new();
        let mut settings = defaults.clone();
        for (key, value) in entries {
            let (key, value) = (key.as_ref(), value.as_ref());
            match set(&mut settings, key, value) {
                Ok(value) => _ = canonical.insert(key.to_owned(), value),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            check(&settings, replication_factor, &mut problems);
        }
        problems.or(Self(canonical))
    }

    /// As they were stored. Checks each key and value, but not all together: the broker's defaults
    /// may have changed since, and a topic must stay usable.
    pub fn from_stored(entries: &BTreeMap<String, String>) -> Result<Self, Problems> {
        let (overrides, problems) = Self::understood(entries);
        problems.or(overrides)
    }

    /// As they were stored, without what this version does not understand, and what that is. For
    /// those who must go on with the rest: dropping all of them would put a topic that keeps its
    /// records forever under the default retention.
    pub fn understood(entries: &BTreeMap<String, String>) -> (Self, Problems) {
        let mut problems = Problems::default();
        let mut settings = TopicDefaults::default();
        let mut known = BTreeMap::new();
        for (key, value) in entries {
            match set(&mut settings, key, value) {
                Ok(value) => _ = known.insert(key.clone(), value),
                Err(problem) => problems.push(problem),
            }
        }
        (Self(known), problems)
    }

    /// These with some keys set and others back to the broker's default; all or nothing. Keys in
    /// `reset` need to exist, not to be set.
    pub fn altered<K: AsRef<str>, V: AsRef<str>>(
        &self,
        set: impl IntoIterator<Item = (K, V)>,
        reset: impl IntoIterator<Item = K>,
        defaults: &TopicDefaults,
        replication_factor: u32,
    ) -> Result<Self, Problems> {
        let mut entries = self.0.clone();
        let mut problems = Problems::default();
        for key in reset {
            let key = key.as_ref();
            if defaults.get(&full_name(key)).is_none() {
                problems.push(unknown(key));
            }
            entries.remove(key);
        }
        entries.extend(set.into_iter().map(|(k, v)| (k.as_ref().into(), v.as_ref().into())));
        match Self::try_new(entries, defaults, replication_factor) {
            Ok(overrides) => problems.or(overrides),
            Err(more) => {
                problems.extend(more);
                Err(problems)
            }
        }
    }

    /// What a topic with these works by.
    pub fn resolve(&self, defaults: &TopicDefaults, replication_factor: u32) -> TopicConfig {
        self.over(defaults).resolve(replication_factor)
    }

    /// All keys of a topic with their values in force, in the order of the documentation.
    pub fn describe(
        &self,
        defaults: &TopicDefaults,
        replication_factor: u32,
    ) -> Vec<TopicConfigEntry> {
        let settings = self.over(defaults);
        let resolved = settings.resolve(replication_factor);
        let value = |name| match short_name(name) {
            "min.insync.replicas" => resolved.min_insync_replicas.to_string(),
            "durability" => resolved.durability.name().to_owned(),
            _ => settings.get(name).expect("a section knows its own keys"),
        };
        let entry = |key: &Key| TopicConfigEntry {
            key: short_name(key.name),
            value: value(key.name),
            overridden: self.0.contains_key(short_name(key.name)),
            documentation: key.documentation(),
        };
        settings.keys().iter().map(entry).collect()
    }

    /// The keys and canonical values, as they are stored.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The keys and canonical values, to be stored.
    pub fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }

    fn over(&self, defaults: &TopicDefaults) -> TopicDefaults {
        let mut settings = defaults.clone();
        for (key, value) in &self.0 {
            set(&mut settings, key, value).expect("checked when the overrides were made");
        }
        settings
    }
}

/// Sets one key; gives the canonical value.
fn set(settings: &mut TopicDefaults, key: &str, value: &str) -> Result<String, Problem> {
    let name = full_name(key);
    match settings.set(&name, value) {
        Ok(()) => Ok(settings.get(&name).expect("a key that was just set")),
        Err(SetError::UnknownKey) => Err(unknown(key)),
        Err(SetError::BadValue(what)) => {
            let keys = settings.keys().iter();
            let right = keys.filter(|k| k.name == name).map(Key::advice).collect();
            Err(Problem { origin: Origin::Topic, key: key.to_owned(), what, right })
        }
    }
}

/// What only shows when all keys are known.
fn check(settings: &TopicDefaults, replication_factor: u32, problems: &mut Problems) {
    let mut problem = |key: &str, what: String, right: &str| {
        let (key, right) = (key.to_owned(), right.to_owned());
        problems.push(Problem { origin: Origin::Topic, key, what, right });
    };
    if let Some(what) = settings.segments_too_small() {
        problem("segment.bytes", what, "raise it, or lower max.message.bytes");
    }
    let least = settings.resolve(replication_factor).min_insync_replicas;
    if least > replication_factor.max(1) {
        problem(
            "min.insync.replicas",
            format!("the topic has {replication_factor} replicas, {least} can never be in sync"),
            "at most the replication factor is possible, majority always fits",
        );
    }
}

fn unknown(key: &str) -> Problem {
    let defaults = TopicDefaults::default();
    let (what, right) = match NOT_IN_THIS_VERSION.iter().find(|(name, _)| *name == key) {
        Some((_, instead)) => {
            ("this key of Kafka is not supported".to_owned(), (*instead).to_owned())
        }
        None => {
            let names = defaults.keys().iter().map(|k| short_name(k.name));
            ("no topic has such a key".to_owned(), did_you_mean(key, names))
        }
    };
    Problem { origin: Origin::Topic, key: key.to_owned(), what, right }
}

fn full_name(key: &str) -> String {
    format!("topic.{key}")
}

fn short_name(name: &'static str) -> &'static str {
    name.strip_prefix("topic.").unwrap_or(name)
}

#[cfg(test)]
#[path = "topic_overrides_test.rs"]
mod tests;
