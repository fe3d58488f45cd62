use super::*;

fn problem(toml: &str) -> String {
    Workload::from_toml(toml).expect_err(toml).to_string()
}

#[test]
fn an_empty_file_is_the_default() {
    let workload = Workload::from_toml("").unwrap();
    assert_eq!(workload, Workload::default());
    assert_eq!((workload.payload_bytes, workload.batch_bytes), (1024, 65_536));
    assert_eq!(workload.entropy.to_bits(), 1.0f64.to_bits(), "incompressible");
}

#[test]
fn units_and_bare_numbers_are_the_same() {
    let units = "payload_bytes = '1KiB'\nduration_ms = '1500ms'\nwarm_up_ms = '2s'\nrate = 1000";
    let bare = "payload_bytes = 1024\nduration_ms = 1500\nwarm_up_ms = 2000\nrate = 1000.0";
    assert_eq!(Workload::from_toml(units).unwrap(), Workload::from_toml(bare).unwrap());
}

#[test]
fn what_is_written_is_read_back() {
    let workload = Workload {
        name: "a.b-c_1".into(),
        kind: Kind::EndToEnd,
        rate: Some(123.5),
        records: Some(7),
        codec: Codec::Zstd,
        segments: Segments::Resident,
        volume: Volume::Sustained,
        ..Workload::default()
    };
    let text = toml::to_string(&workload).unwrap();
    assert_eq!(Workload::from_toml(&text).unwrap(), workload, "{text}");
    let json = serde_json::to_string(&workload).unwrap();
    assert_eq!(serde_json::from_str::<Workload>(&json).unwrap(), workload, "{json}");
    assert!(json.contains("\"duration_ms\":10000"), "{json}");
}

#[test]
fn each_mistake_is_named() {
    for (toml, named) in [
        ("payload = 1", "payload"),
        ("payload_bytes = '1MiX'", "unknown unit"),
        ("payload_bytes = 0", "payload_bytes"),
        ("kind = 'end-to-end'\nrate = 1\npayload_bytes = 8", "payload_bytes is 16"),
        ("batch_bytes = 10", "batch_bytes"),
        ("in_flight = 33", "in_flight is 1 to 32"),
        ("partitions = 0", "partitions"),
        ("producers = 0", "producers"),
        ("entropy = 1.5", "entropy"),
        ("rate = 0", "rate is above zero"),
        ("records = 0", "records"),
        ("duration_ms = 0", "duration_ms"),
        ("kind = 'end-to-end'", "needs a rate"),
        ("kind = 'consume'\nrate = 5", "takes no rate"),
        ("kind = 'produce-consume'\npath = 'batches'", "path"),
        ("segments = 'cold'", "cold"),
        ("consumers = 2", "2 consumers of 1 partitions"),
        ("nodes = 2", "nodes is 1, or 3 to 9"),
        ("nodes = 3\nreplication_factor = 4", "replication_factor is 1 to nodes (3), not 4"),
        (
            "nodes = 3\nmin_insync_replicas = 2",
            "min_insync_replicas is 1 to replication_factor (1)",
        ),
        ("nodes = 3\npath = 'batches'\npartitions = 2", "talks to one broker"),
        ("nodes = 3\nkind = 'consume'\nsegments = 'cold'", "restarts the broker"),
        ("name = 'a b'", "name"),
        ("kind = 'fetch'", "fetch"),
    ] {
        let problem = problem(toml);
        assert!(problem.contains(named), "{toml}: {problem}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let problem = problem("partitions = 0\nproducers = 0\nentropy = 2");
    for name in ["partitions", "producers", "entropy"] {
        assert!(problem.contains(name), "{name}: {problem}");
    }
}

#[test]
fn the_line_states_what_matters() {
    let line = Workload { rate: Some(5e5), ..Workload::default() }.line();
    for part in ["500 k/s", "1024 B", "65536 B", "32 in flight", "acks=all", "durability=disk"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let line = Workload { kind: Kind::Consume, ..Workload::default() }.line();
    assert!(line.contains("consumer(s)") && !line.contains("acks"), "{line}");
}

#[test]
fn the_twin_on_one_broker_differs_in_nothing_else() {
    let cluster = "nodes = 3\nreplication_factor = 3\nmin_insync_replicas = 2\npartitions = 5";
    let cluster = Workload::from_toml(cluster).unwrap();
    let one = Workload { partitions: 5, ..Workload::default() };
    assert_eq!(cluster.on_one_broker(), one);
    assert!(cluster.line().contains("3 brokers, replication factor 3, min.insync.replicas 2"));
    assert!(!one.line().contains("brokers"));
}
