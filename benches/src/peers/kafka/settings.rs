//! What a Kafka broker, topic, producer and consumer are told so that they do what a workload says,
//! as its makers ship it and tuned for this machine.
//!
//! | workload | Kafka |
//! |---|---|
//! | `durability = disk` | topic `flush.messages=1`: the leader syncs what it appends before it acknowledges it |
//! | `durability = memory` | nothing: Kafka acknowledges what is in the page cache |
//! | `batch_bytes`, `linger_ms` | `batch.size`, `linger.ms` |
//! | `in_flight` | `max.in.flight.requests.per.connection`, at most [`IN_FLIGHT_MAX`] |
//! | `acks` | `acks` |

use std::{collections::BTreeMap, path::Path};

use crate::workload::{Acks, Durability, Workload};

/// Requests in flight that an idempotent producer may have. Ours is idempotent too, so a comparison
/// has no more on either side.
pub const IN_FLIGHT_MAX: usize = 5;

/// Sixteen bytes in base64, which a storage directory has to be stamped with.
pub const CLUSTER_ID: &str = "cml2ZXJydW4tYmVuY2gtMQ";

/// Which of the two rows of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// What its makers ship.
    Defaults,
    /// More memory, larger buffers: what its operators set for throughput.
    Tuned,
}

/// Settings by their names.
pub type Settings = BTreeMap<String, String>;

fn settings<const N: usize>(pairs: [(&str, &str); N]) -> Settings {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

// === impl Tuning ===

impl Tuning {
    /// What a broker is told beyond [`broker_place`].
    pub fn broker(self) -> Settings {
        // Waiting for more members of a group that will have one measures nothing.
        let mut broker = settings([("group.initial.rebalance.delay.ms", "0")]);
        if self == Self::Tuned {
            broker.extend(settings([
                ("socket.receive.buffer.bytes", "1048576"),
                ("socket.send.buffer.bytes", "1048576"),
                ("log.index.interval.bytes", "65536"),
            ]));
        }
        broker
    }

    /// The virtual machine of the broker: the start script's own options, and the heap.
    pub fn broker_jvm(self) -> Vec<&'static str> {
        let mut options = match self {
            Self::Defaults => vec!["-Xms1G", "-Xmx1G"],
            Self::Tuned => vec!["-Xms2G", "-Xmx2G", "-XX:+AlwaysPreTouch"],
        };
        options.extend([
            "-server",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:InitiatingHeapOccupancyPercent=35",
            "-XX:+ExplicitGCInvokesConcurrent",
            "-XX:MaxInlineLevel=15",
        ]);
        options
    }

    /// The virtual machine of the load generators.
    pub fn load_jvm(self) -> Vec<&'static str> {
        match self {
            Self::Defaults => vec!["-Xmx512M"],
            Self::Tuned => vec!["-Xms1G", "-Xmx1G"],
        }
    }

    /// The producer of `workload`.
    pub fn producer(self, workload: &Workload) -> Settings {
        let acks = match workload.acks {
            Acks::All => "all",
            Acks::Leader => "1",
            Acks::None => "0",
        };
        let mut producer = settings([
            ("acks", acks),
            ("batch.size", &workload.batch_bytes.to_string()),
            ("linger.ms", &workload.linger_ms.as_millis().to_string()),
            ("max.in.flight.requests.per.connection", &workload.in_flight.to_string()),
            ("compression.type", "none"),
        ]);
        if self == Self::Tuned {
            producer.extend(settings([
                ("buffer.memory", "134217728"),
                ("receive.buffer.bytes", "1048576"),
                ("send.buffer.bytes", "1048576"),
            ]));
        }
        producer
    }

    /// The consumer.
    pub fn consumer(self) -> Settings {
        match self {
            Self::Defaults => Settings::new(),
            Self::Tuned => settings([
                ("fetch.max.bytes", "67108864"),
                ("max.partition.fetch.bytes", "8388608"),
                ("max.poll.records", "5000"),
            ]),
        }
    }
}

/// The topic of `workload`.
pub fn topic(workload: &Workload) -> Settings {
    match workload.durability {
        Durability::Disk => settings([("flush.messages", "1")]),
        Durability::Memory => Settings::new(),
    }
}

/// Where a single broker that is its own controller listens and keeps its data.
pub fn broker_place(broker_port: u16, controller_port: u16, data: &Path) -> Settings {
    settings([
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        (
            "listeners",
            &format!(
                "PLAINTEXT://127.0.0.1:{broker_port},CONTROLLER://127.0.0.1:{controller_port}"
            ),
        ),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        ("controller.listener.names", "CONTROLLER"),
        ("controller.quorum.voters", &format!("1@127.0.0.1:{controller_port}")),
        ("log.dirs", &data.display().to_string()),
        ("auto.create.topics.enable", "false"),
        // One broker cannot keep three copies.
        ("offsets.topic.num.partitions", "1"),
        ("offsets.topic.replication.factor", "1"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("share.coordinator.state.topic.replication.factor", "1"),
        ("share.coordinator.state.topic.min.isr", "1"),
        // Runs delete their topics, and the disk is small.
        ("log.segment.delete.delay.ms", "1000"),
    ])
}

/// A properties file. Backslashes begin escapes in it.
pub fn properties(settings: &Settings) -> String {
    settings.iter().map(|(k, v)| format!("{k}={}\n", v.replace('\\', "\\\\"))).collect()
}

/// What the figures of a run stand on, for the report.
pub fn report(tuning: Tuning, workload: &Workload) -> Settings {
    let mut all = Settings::new();
    let mut add = |prefix: &str, settings: Settings| {
        all.extend(settings.into_iter().map(|(k, v)| (format!("{prefix}.{k}"), v)));
    };
    add("broker", tuning.broker());
    add("topic", topic(workload));
    if workload.writes() {
        add("producer", tuning.producer(workload));
    }
    if workload.reads() {
        add("consumer", tuning.consumer());
    }
    all.insert("broker.jvm".into(), tuning.broker_jvm().join(" "));
    all.insert("load.jvm".into(), tuning.load_jvm().join(" "));
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::workload::Kind;

    fn workload() -> Workload {
        Workload {
            batch_bytes: 32 << 10,
            linger_ms: Duration::from_millis(7),
            in_flight: 3,
            ..Workload::default()
        }
    }

    #[test]
    fn both_rows_have_the_workloads_batch_in_flight_and_acks() {
        for tuning in [Tuning::Defaults, Tuning::Tuned] {
            let producer = tuning.producer(&workload());
            for (key, value) in [
                ("acks", "all"),
                ("batch.size", "32768"),
                ("linger.ms", "7"),
                ("max.in.flight.requests.per.connection", "3"),
                ("compression.type", "none"),
            ] {
                assert_eq!(producer[key], value, "{key}");
            }
        }
        let leader = Workload { acks: Acks::Leader, ..workload() };
        assert_eq!(Tuning::Defaults.producer(&leader)["acks"], "1");
        let extra = |tuning: Tuning| tuning.producer(&workload()).len();
        assert!(extra(Tuning::Tuned) > extra(Tuning::Defaults));
    }

    #[test]
    fn durability_is_the_topics_and_the_same_in_both_rows() {
        let disk = Workload { durability: Durability::Disk, ..workload() };
        let memory = Workload { durability: Durability::Memory, ..workload() };
        assert_eq!(topic(&disk), settings([("flush.messages", "1")]));
        assert!(topic(&memory).is_empty());
        for tuning in [Tuning::Defaults, Tuning::Tuned] {
            assert_eq!(report(tuning, &disk)["topic.flush.messages"], "1");
            assert!(!report(tuning, &memory).contains_key("topic.flush.messages"));
        }
    }

    #[test]
    fn the_file_of_one_broker_on_loopback() {
        let mut all = broker_place(19092, 19093, Path::new("/d/a\\b"));
        all.extend(Tuning::Defaults.broker());
        let text = properties(&all);
        for line in [
            "listeners=PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093\n",
            "controller.quorum.voters=1@127.0.0.1:19093\n",
            "process.roles=broker,controller\n",
            "offsets.topic.replication.factor=1\n",
            "log.dirs=/d/a\\\\b\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(text.lines().count(), all.len());
    }

    #[test]
    fn the_report_has_heaps_and_only_what_the_run_used() {
        let consume = Workload { kind: Kind::Consume, ..workload() };
        let told = report(Tuning::Tuned, &consume);
        assert!(told["broker.jvm"].contains("-Xmx2G") && told["load.jvm"].contains("-Xmx1G"));
        assert!(told.contains_key("consumer.fetch.max.bytes"));
        assert!(!told.keys().any(|key| key.starts_with("producer.")));
    }
}
