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
//! | `nodes` | brokers, each of which is a controller too; heaps of 1 GiB then, also in the tuned row |
//! | `replication_factor`, `min_insync_replicas` | the topic's |

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
    pub fn broker_jvm(self, nodes: u32) -> Vec<&'static str> {
        // Several share the memory of this machine with each other's page cache.
        let heap = if self == Self::Tuned && nodes == 1 {
            ["-Xms2G", "-Xmx2G"]
        } else {
            ["-Xms1G", "-Xmx1G"]
        };
        let mut options = heap.to_vec();
        if self == Self::Tuned {
            options.push("-XX:+AlwaysPreTouch");
        }
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
    let mut topic = match workload.durability {
        Durability::Disk => settings([("flush.messages", "1")]),
        Durability::Memory => Settings::new(),
    };
    if workload.nodes > 1 {
        let min = workload.min_insync_replicas.to_string();
        topic.insert("min.insync.replicas".to_owned(), min);
    }
    topic
}

/// Where a broker that is a controller too listens and keeps its data: the one at `index`, of as many
/// as there are ports, for brokers and for controllers.
pub fn broker_place(index: usize, ports: &[[u16; 2]], data: &Path) -> Settings {
    let [broker_port, controller_port] = ports[index];
    let voters: Vec<_> =
        (1..).zip(ports).map(|(id, [_, port])| format!("{id}@127.0.0.1:{port}")).collect();
    let mut place = settings([
        ("process.roles", "broker,controller"),
        ("node.id", &(index + 1).to_string()),
        (
            "listeners",
            &format!(
                "PLAINTEXT://127.0.0.1:{broker_port},CONTROLLER://127.0.0.1:{controller_port}"
            ),
        ),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        ("controller.listener.names", "CONTROLLER"),
        ("controller.quorum.voters", &voters.join(",")),
        ("log.dirs", &data.display().to_string()),
        ("auto.create.topics.enable", "false"),
        ("offsets.topic.num.partitions", "1"),
        // Runs delete their topics, and the disk is small.
        ("log.segment.delete.delay.ms", "1000"),
    ]);
    if ports.len() == 1 {
        // One broker cannot keep three copies.
        place.extend(settings([
            ("offsets.topic.replication.factor", "1"),
            ("transaction.state.log.replication.factor", "1"),
            ("transaction.state.log.min.isr", "1"),
            ("share.coordinator.state.topic.replication.factor", "1"),
            ("share.coordinator.state.topic.min.isr", "1"),
        ]));
    }
    place
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
    if workload.nodes > 1 {
        all.insert("brokers".into(), workload.nodes.to_string());
        all.insert("topic.replication.factor".into(), workload.replication_factor.to_string());
    }
    all.insert("broker.jvm".into(), tuning.broker_jvm(workload.nodes).join(" "));
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
        let mut all = broker_place(0, &[[19092, 19093]], Path::new("/d/a\\b"));
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
    fn brokers_of_a_cluster_know_each_other_and_keep_as_many_copies_as_are_asked_for() {
        let ports = [[1, 2], [3, 4], [5, 6]];
        for index in 0..3 {
            let all = broker_place(index, &ports, Path::new("/d"));
            assert_eq!(all["node.id"], (index + 1).to_string());
            assert!(
                all["listeners"].starts_with(&format!("PLAINTEXT://127.0.0.1:{}", ports[index][0]))
            );
            assert_eq!(
                all["controller.quorum.voters"],
                "1@127.0.0.1:2,2@127.0.0.1:4,3@127.0.0.1:6"
            );
            assert!(!all.contains_key("offsets.topic.replication.factor"), "its default");
        }
        let workload =
            Workload { nodes: 3, replication_factor: 3, min_insync_replicas: 2, ..workload() };
        for tuning in [Tuning::Defaults, Tuning::Tuned] {
            let told = report(tuning, &workload);
            assert!(told["broker.jvm"].contains("-Xmx1G"));
            assert_eq!(told["topic.min.insync.replicas"], "2");
            assert_eq!(told["topic.replication.factor"], "3");
            assert_eq!(told["brokers"], "3");
        }
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
