//! `riverrun topic`.

use crate::harness::Broker;

#[test]
fn a_topics_life() {
    let broker = Broker::start();
    let created = broker
        .riverrun(&["topic", "create", "orders", "-p", "3", "-c", "retention.ms=7d"])
        .expect(0);
    assert_eq!(created.text(), "orders created: 3 partitions\n");
    broker.riverrun(&["topic", "create", "orders"]).expect(1).says(&["exists"]);
    broker.riverrun(&["topic", "create", "orders", "--if-not-exists"]).expect(0);

    let list = broker.riverrun(&["topic", "list"]).expect(0);
    assert_eq!(list.text(), "TOPIC   PARTITIONS  REPLICAS\norders           3         1\n");

    broker.with(&["produce", "orders", "-K", ":"], "a:1\nb:2\nc:3\n").expect(0);
    let described =
        broker.riverrun(&["topic", "describe", "orders", "-o", "json"]).expect(0).json();
    let partitions = described[0]["partitions"].as_array().unwrap();
    let committed = partitions.iter().map(|p| p["high_watermark"].as_i64().unwrap());
    assert_eq!(committed.sum::<i64>(), 3);
    let configs = described[0]["configs"].as_array().unwrap();
    let retention = configs.iter().find(|entry| entry["key"] == "retention.ms").unwrap();
    assert_eq!(
        (&retention["value"], &retention["overridden"]),
        (&"604800000".into(), &true.into())
    );
    let text = broker.riverrun(&["topic", "describe", "orders"]).expect(0);
    for part in ["orders  3 partitions, 1 replica", "COMMITTED", "retention.ms  604800000  topic"] {
        assert!(text.text().contains(part), "{part} in {}", text.text());
    }
    let all = broker.riverrun(&["topic", "describe", "orders", "--all"]).expect(0);
    assert!(all.text().contains("durability = disk  (default)"), "{}", all.text());

    let alter = ["topic", "alter", "orders", "-p", "5", "--reset", "retention.ms"];
    let dry = broker.riverrun(&[&alter[..], &["--dry-run"]].concat()).expect(0);
    assert!(dry.text().contains("orders would have 5 partitions"), "{}", dry.text());
    assert_eq!(broker.riverrun(&["topic", "list", "--json"]).json()[0]["partitions"], 3);
    broker.riverrun(&alter).expect(0);
    assert_eq!(broker.riverrun(&["topic", "list", "--json"]).json()[0]["partitions"], 5);

    let dry = broker.riverrun(&["topic", "delete", "orders", "--dry-run"]).expect(0);
    assert!(dry.text().contains("would be deleted: 5 partitions, 3 offsets"), "{}", dry.text());
    broker.riverrun(&["topic", "delete", "orders"]).expect(2).says(&["--yes", "--dry-run"]);
    assert_ne!(broker.riverrun(&["topic", "list", "--json"]).json().as_array().unwrap().len(), 0);
    broker.riverrun(&["topic", "delete", "orders", "-y"]).expect(0);
    assert_eq!(broker.riverrun(&["topic", "list", "--json"]).expect(0).text(), "[]\n");
}

#[test]
fn what_cannot_be_is_refused_as_a_whole_and_says_why() {
    let broker = Broker::start();
    broker.riverrun(&["topic", "create", "orders"]).expect(0);
    let long = "x".repeat(250);
    for (args, code, says) in [
        (&["topic", "create", "a b"][..], 2, "consists of a-z"),
        (&["topic", "create", &long], 2, "249"),
        (&["topic", "create", "x", "-c", "foo=1"], 2, "foo"),
        (&["topic", "create", "x", "-c", "retention.ms=7 fortnights"], 2, "retention.ms"),
        (&["topic", "create", "x", "-p", "0"], 2, "partition"),
        (&["topic", "create", "x", "-r", "3"], 2, "replica"),
        (&["topic", "alter", "orders"], 2, "nothing to change"),
        (&["topic", "alter", "orders", "-p", "1"], 2, "can only grow"),
        (&["topic", "alter", "orders", "-c", "segment.bytes=1"], 2, "segment.bytes"),
        (&["topic", "describe", "ordres"], 3, "did you mean 'orders'?"),
        (&["topic", "alter", "ordres", "-p", "9"], 3, "did you mean 'orders'?"),
        (&["topic", "delete", "ordres", "-y"], 3, "did you mean 'orders'?"),
        (&["topic", "describe", "zebra"], 3, "riverrun topic create zebra"),
    ] {
        broker.riverrun(args).expect(code).says(&[says]);
    }
    // The first of two changes could have been made; neither was.
    broker.riverrun(&["topic", "alter", "orders", "-c", "retention.ms=1h", "-p", "1"]).expect(2);
    let described = broker.riverrun(&["topic", "describe", "orders"]).expect(0);
    assert!(described.text().contains("No configuration of its own"), "{}", described.text());
    assert_eq!(broker.riverrun(&["topic", "list", "--json"]).json().as_array().unwrap().len(), 1);
}
