//! Workload files of the OpenMessaging benchmark (YAML), as far as they mean the same here.
//!
//! | key there | here |
//! |---|---|
//! | `name` | `name`, other characters as `-` |
//! | `topics` × `partitionsPerTopic` | `partitions`; only one topic |
//! | `messageSize`, `useRandomizedPayloads`, `randomBytesRatio` | `payload_bytes`, `entropy` |
//! | `producersPerTopic`, `producerRate` | `producers`, `rate`; 0: saturating |
//! | `subscriptionsPerTopic`, `consumerPerSubscription` | one subscription, `consumers`; none: produce only |
//! | `testDurationMinutes`, `warmupDurationMinutes` | `duration_ms`, `warm_up_ms` |
//! | `keyDistributor: NO_KEY` | records without a key |
//!
//! Durability, acks, batch and linger are in a driver's file there and keep their defaults here
//! until a flag says otherwise. A key that would change the figures and cannot be kept is an error,
//! never skipped.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    error::{BenchError, Result},
    workload::{Kind, Volume, Workload},
};

/// A workload read from a file, and what its reader has to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What is done.
    pub workload: Workload,
    /// What of the file was taken otherwise than it is written.
    pub notes: Vec<String>,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OmbWorkload {
    name: String,
    topics: u32,
    partitions_per_topic: u32,
    #[serde(default = "no_key")]
    key_distributor: String,
    message_size: usize,
    #[serde(default)]
    use_randomized_payloads: bool,
    #[serde(default)]
    random_bytes_ratio: f64,
    #[serde(default)]
    randomized_payload_pool_size: u64,
    payload_file: Option<String>,
    #[serde(default)]
    subscriptions_per_topic: u32,
    #[serde(default)]
    consumer_per_subscription: usize,
    #[serde(default)]
    producers_per_topic: usize,
    #[serde(default)]
    producer_rate: f64,
    #[serde(default, rename = "consumerBacklogSizeGB")]
    consumer_backlog_size_gb: f64,
    #[serde(default)]
    backlog_drain_ratio: f64,
    #[serde(default = "five_minutes")]
    test_duration_minutes: u64,
    #[serde(default = "one_minute")]
    warmup_duration_minutes: u64,
    #[serde(default)]
    log_hdr_data: bool,
}

fn no_key() -> String {
    "NO_KEY".to_owned()
}

fn five_minutes() -> u64 {
    5
}

fn one_minute() -> u64 {
    1
}

/// Reads such a file.
///
/// # Errors
/// It is no such file, or asks for something that does not exist here; everything at once.
pub fn read(yaml: &str) -> Result<Loaded> {
    let file: OmbWorkload = serde_saphyr::from_str(yaml).map_err(|e| {
        BenchError::Usage(format!("no workload of the OpenMessaging benchmark that maps: {e}"))
    })?;
    let problems = file.problems();
    if !problems.is_empty() {
        return Err(BenchError::Usage(format!("does not map:\n  {}", problems.join("\n  "))));
    }
    file.map()
}

// === impl OmbWorkload ===

impl OmbWorkload {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |fine: bool, problem: String| {
            if !fine {
                problems.push(problem);
            }
        };
        check(
            self.topics == 1,
            format!("topics: {}: one topic is measured; give it more partitions", self.topics),
        );
        check(
            self.key_distributor == "NO_KEY",
            format!("keyDistributor: {}: records have no key here", self.key_distributor),
        );
        check(
            self.subscriptions_per_topic <= 1,
            format!("subscriptionsPerTopic: {}: at most one", self.subscriptions_per_topic),
        );
        check(
            self.producers_per_topic > 0,
            "producersPerTopic: 0: to read what is there, use the command consume".to_owned(),
        );
        check(
            self.subscriptions_per_topic == 0 || self.consumer_per_subscription > 0,
            "consumerPerSubscription: 0 with a subscription".to_owned(),
        );
        check(
            self.consumer_backlog_size_gb == 0.0 && self.backlog_drain_ratio == 0.0,
            "consumerBacklogSizeGB: consumers that are paused meanwhile do not exist here; the \
             command consume reads a backlog"
                .to_owned(),
        );
        check(
            self.producer_rate >= 0.0,
            format!("producerRate: {} is below zero", self.producer_rate),
        );
        problems
    }

    fn map(self) -> Result<Loaded> {
        let mut notes = vec![
            "acks, durability, batch and linger are not in the file: those of the flags, or the \
             defaults"
                .to_owned(),
        ];
        let entropy = if self.use_randomized_payloads {
            self.random_bytes_ratio
        } else {
            if let Some(file) = &self.payload_file {
                notes.push(format!(
                    "payloadFile: {file} is not read: payloads are noise of the same size"
                ));
            }
            1.0
        };
        if self.use_randomized_payloads && self.randomized_payload_pool_size > 0 {
            notes.push("randomizedPayloadPoolSize: the pool has 16 MiB of payloads".to_owned());
        }
        if self.log_hdr_data {
            notes.push("logHdrData: histograms are always in the JSON (--json FILE)".to_owned());
        }
        let minutes = |minutes: u64| Duration::from_secs(minutes.saturating_mul(60));
        let reads = self.subscriptions_per_topic > 0;
        let workload = Workload {
            name: file_name(&self.name),
            kind: if reads { Kind::ProduceConsume } else { Kind::Produce },
            payload_bytes: self.message_size,
            entropy,
            partitions: self.partitions_per_topic,
            producers: self.producers_per_topic,
            consumers: if reads { self.consumer_per_subscription } else { 1 },
            rate: Some(self.producer_rate).filter(|rate| *rate > 0.0),
            duration_ms: minutes(self.test_duration_minutes),
            warm_up_ms: minutes(self.warmup_duration_minutes),
            // Minutes of it are past every dirty limit.
            volume: Volume::Sustained,
            ..Workload::default()
        };
        Ok(Loaded { workload: workload.checked()?, notes })
    }
}

/// `1 topic / 16 partitions` = `1-topic-16-partitions`
fn file_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form of the files that come with that benchmark.
    const SIMPLE: &str = "\
# A comment
name: 1 topic / 16 partitions / 1Kb

topics: 1
partitionsPerTopic: 16
keyDistributor: \"NO_KEY\"
messageSize: 1024
payloadFile: \"payload/payload-1Kb.data\"
subscriptionsPerTopic: 1
consumerPerSubscription: 2
producersPerTopic: 4
producerRate: 50000
consumerBacklogSizeGB: 0
testDurationMinutes: 15
";

    fn changed(from: &str, to: &str) -> String {
        assert!(SIMPLE.contains(from), "{from}");
        SIMPLE.replace(from, to)
    }

    #[test]
    fn a_file_maps_key_by_key() {
        let Loaded { workload, notes } = read(SIMPLE).unwrap();
        assert_eq!(workload.name, "1-topic-16-partitions-1Kb");
        assert_eq!(workload.kind, Kind::ProduceConsume);
        assert_eq!((workload.partitions, workload.payload_bytes), (16, 1024));
        assert_eq!((workload.producers, workload.consumers), (4, 2));
        assert_eq!(workload.rate, Some(50_000.0));
        assert_eq!(workload.duration_ms, Duration::from_secs(900));
        assert_eq!(workload.warm_up_ms, Duration::from_secs(60), "the default there");
        assert!(notes.iter().any(|note| note.contains("payloadFile")), "{notes:?}");
    }

    #[test]
    fn no_rate_saturates_and_no_subscription_only_writes() {
        let workload = read(&changed("producerRate: 50000", "producerRate: 0")).unwrap().workload;
        assert_eq!(workload.rate, None);
        let text = changed("subscriptionsPerTopic: 1", "subscriptionsPerTopic: 0");
        assert_eq!(read(&text).unwrap().workload.kind, Kind::Produce);
    }

    #[test]
    fn randomized_payloads_are_entropy() {
        let text = changed(
            "payloadFile: \"payload/payload-1Kb.data\"",
            "useRandomizedPayloads: true\nrandomBytesRatio: 0.5\nrandomizedPayloadPoolSize: 100",
        );
        let Loaded { workload, notes } = read(&text).unwrap();
        assert_eq!(workload.entropy.to_bits(), 0.5f64.to_bits());
        assert!(!notes.iter().any(|note| note.contains("payloadFile")), "{notes:?}");
    }

    #[test]
    fn what_does_not_map_is_an_error_that_names_the_key() {
        for (from, to, named) in [
            ("topics: 1", "topics: 100", "topics: 100"),
            ("\"NO_KEY\"", "\"KEY_ROUND_ROBIN\"", "keyDistributor"),
            ("subscriptionsPerTopic: 1", "subscriptionsPerTopic: 3", "subscriptionsPerTopic"),
            ("consumerBacklogSizeGB: 0", "consumerBacklogSizeGB: 100", "consumerBacklogSizeGB"),
            ("producersPerTopic: 4", "producersPerTopic: 0", "producersPerTopic"),
            ("consumerPerSubscription: 2", "consumerPerSubscription: 0", "consumerPerSubscription"),
            ("consumerPerSubscription: 2", "consumerPerSubscription: 20", "20 consumers of 16"),
            ("messageSize: 1024", "messageSize: 8", "payload_bytes"),
            ("producerRate: 50000", "producerRate: -1", "producerRate"),
            ("producerRate: 50000", "producerRateMax: 1", "producerRateMax"),
            ("messageSize: 1024", "", "messageSize"),
            ("topics: 1", "topics: [", "maps"),
        ] {
            let error = read(&changed(from, to)).expect_err(to).to_string();
            assert!(error.contains(named), "{to:?}: {error}");
        }
    }

    #[test]
    fn all_that_does_not_map_is_told_at_once() {
        let text = changed("topics: 1", "topics: 2").replace("NO_KEY", "RANDOM_NANO");
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains("topics: 2") && error.contains("RANDOM_NANO"), "{error}");
    }
}
