//! Traffic by topic, with a bounded number of topics.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, family::Family};
use riverrun_proto::ids::TopicName;

use super::Registry;

/// Where the traffic of topics without series of their own is counted. No topic can be called that.
pub const OTHER_TOPICS: &str = "other topics";

type BytesLabels = [(&'static str, String); 2];
type TopicLabel = [(&'static str, String); 1];

/// Traffic by topic. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TopicMetrics {
    bytes: Family<BytesLabels, Counter>,
    produced: Family<TopicLabel, Counter>,
    fetched: Family<TopicLabel, Counter>,
    followed: Family<TopicLabel, Counter>,
    max: usize,
    known: Arc<Mutex<BTreeMap<TopicName, TopicTraffic>>>,
}

/// Counters of one topic; get it once and keep it.
#[derive(Debug, Clone)]
pub struct TopicTraffic {
    produced_bytes: Counter,
    fetched_bytes: Counter,
    produced_records: Counter,
    fetched_records: Counter,
    followed_bytes: Counter,
}

impl TopicMetrics {
    /// Registers `riverrun_request_bytes_total{request,topic}` and
    /// `riverrun_records_{produced,fetched}_total{topic}` and
    /// `riverrun_follower_fetched_bytes_total{topic}`, for at most `max` topics
    /// (`telemetry.metrics.topic.series.max`) and [`OTHER_TOPICS`].
    pub fn register(registry: &Registry, max: u32) -> Self {
        let metrics = Self {
            bytes: Family::default(),
            produced: Family::default(),
            fetched: Family::default(),
            followed: Family::default(),
            max: usize::try_from(max).unwrap_or(usize::MAX),
            known: Arc::default(),
        };
        let help = "Bytes of record batches taken from producers and sent to readers";
        registry.register("request_bytes", help, metrics.bytes.clone());
        let help = "Records written by producers, duplicates left out";
        registry.register("records_produced", help, metrics.produced.clone());
        registry.register("records_fetched", "Records sent to readers", metrics.fetched.clone());
        let help = "Of the bytes sent to readers, those of partitions that this broker follows";
        registry.register("follower_fetched_bytes", help, metrics.followed.clone());
        metrics
    }

    /// The counters of a topic; those of [`OTHER_TOPICS`] once there are too many.
    pub fn topic(&self, name: &TopicName) -> TopicTraffic {
        let mut known = self.known.lock();
        if let Some(traffic) = known.get(name) {
            return traffic.clone();
        }
        if known.len() >= self.max {
            return self.traffic(OTHER_TOPICS);
        }
        let traffic = self.traffic(name.as_str());
        known.insert(name.clone(), traffic.clone());
        traffic
    }

    /// Drops the series of a deleted topic, which makes room for another.
    pub fn forget(&self, name: &TopicName) {
        if self.known.lock().remove(name).is_some() {
            for request in ["produce", "fetch"] {
                self.bytes.remove(&bytes_labels(request, name.as_str()));
            }
            self.produced.remove(&topic_label(name.as_str()));
            self.fetched.remove(&topic_label(name.as_str()));
            self.followed.remove(&topic_label(name.as_str()));
        }
    }

    fn traffic(&self, topic: &str) -> TopicTraffic {
        TopicTraffic {
            produced_bytes: self.bytes.get_or_create_owned(&bytes_labels("produce", topic)),
            fetched_bytes: self.bytes.get_or_create_owned(&bytes_labels("fetch", topic)),
            produced_records: self.produced.get_or_create_owned(&topic_label(topic)),
            fetched_records: self.fetched.get_or_create_owned(&topic_label(topic)),
            followed_bytes: self.followed.get_or_create_owned(&topic_label(topic)),
        }
    }
}

impl TopicTraffic {
    /// A producer's batch was written.
    pub fn observe_produced(&self, records: u64, bytes: u64) {
        self.produced_records.inc_by(records);
        self.produced_bytes.inc_by(bytes);
    }

    /// Batches were sent to a reader.
    pub fn observe_fetched(&self, records: u64, bytes: u64) {
        self.fetched_records.inc_by(records);
        self.fetched_bytes.inc_by(bytes);
    }

    /// Bytes of these were sent by a follower.
    pub fn observe_followed(&self, bytes: u64) {
        self.followed_bytes.inc_by(bytes);
    }
}

fn bytes_labels(request: &'static str, topic: &str) -> BytesLabels {
    [("request", request.to_owned()), ("topic", topic.to_owned())]
}

fn topic_label(topic: &str) -> TopicLabel {
    [("topic", topic.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> TopicName {
        TopicName::try_new(name).unwrap()
    }

    #[test]
    fn past_the_bound_topics_are_counted_together_and_a_deleted_one_makes_room() {
        let registry = Registry::new();
        let metrics = TopicMetrics::register(&registry, 1);
        metrics.topic(&name("a")).observe_produced(2, 200);
        metrics.topic(&name("b")).observe_produced(1, 10);
        metrics.topic(&name("c")).observe_fetched(1, 10);
        metrics.topic(&name("a")).observe_fetched(2, 200);
        let text = registry.encode();
        for line in [
            "riverrun_request_bytes_total{request=\"produce\",topic=\"a\"} 200",
            "riverrun_request_bytes_total{request=\"fetch\",topic=\"a\"} 200",
            "riverrun_request_bytes_total{request=\"produce\",topic=\"other topics\"} 10",
            "riverrun_records_produced_total{topic=\"a\"} 2",
            "riverrun_records_fetched_total{topic=\"other topics\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("topic=\"b\""), "{text}");
        metrics.forget(&name("a"));
        metrics.forget(&name("b"));
        metrics.topic(&name("b")).observe_produced(1, 10);
        let text = registry.encode();
        assert!(!text.contains("topic=\"a\"") && text.contains("topic=\"b\""), "{text}");
        assert!(TopicName::try_new(OTHER_TOPICS).is_err(), "no topic can be called that");
    }

    #[test]
    fn none_at_all_is_possible() {
        let registry = Registry::new();
        TopicMetrics::register(&registry, 0).topic(&name("a")).observe_produced(1, 1);
        assert!(!registry.encode().contains("topic=\"a\""));
    }
}
