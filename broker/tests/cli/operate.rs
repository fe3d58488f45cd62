//! What operators type at a cluster of three.

use crate::{
    cluster::first_port,
    harness::{Ended, riverrun_with, start},
};

#[test]
fn operators_look_elect_move_drain_and_are_told_whether_all_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let (port, dir_text) = (first_port(2).to_string(), dir.path().to_str().unwrap());
    let dev = ["dev", "--brokers", "3", "--first-port", &port, "--data-dir", dir_text];
    let (mut cluster, _stdin) = start(&dev, None);
    let line = cluster.stderr_line("export RIVERRUN_BROKERS=");
    let brokers = line.trim().strip_prefix("export RIVERRUN_BROKERS=").unwrap().to_owned();
    let ask = |line: &str| -> Ended {
        let all: Vec<_> = ["-b", &brokers].into_iter().chain(line.split(' ')).collect();
        riverrun_with(&all, b"")
    };
    ask("topic create orders -p 3 --config min.insync.replicas=2").expect(0);
    // Until all of them take part, and every copy is in sync.
    let watch = ["-b", &brokers, "cluster", "health", "-w", "--interval", "100ms"];
    let (mut watching, _) = start(&watch, None);
    watching.stdout_line("all is well");
    watching.interrupt();
    watching.wait().expect(0);
    let healthy = ask("cluster health").expect(0);
    assert!(healthy.text().contains("all is well"), "{healthy:?}");
    let json = ask("cluster health --json").expect(0).json();
    assert_eq!((&json["healthy"], &json["partitions"]["total"]), (&true.into(), &3.into()));

    let all = ask("partition describe orders").expect(0);
    assert_eq!(all.text().lines().count(), 4, "{all:?}");
    let one = ask("partition describe orders 0 --json").expect(0).json();
    assert_eq!(one["copies"].as_array().unwrap().len(), 3, "{one}");
    let replicas: Vec<u64> =
        one["replicas"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    let (leader, heir) = (one["leader"].as_u64().unwrap(), replicas[1]);
    assert_eq!(leader, replicas[0]);

    let elected = ask(&format!("partition elect orders 0 --broker {heir}")).expect(0);
    assert!(elected.text().contains(&format!("broker {heir} leads orders/0")), "{elected:?}");
    ask("partition elect orders 0").expect(0);
    ask("partition elect orders 0").expect(1).says(&["leads the partition already"]);
    let refused = format!("partition elect orders 0 --unclean --broker {heir}");
    ask(&refused).expect(2).says(&["has nothing more", "--yes"]);
    ask(&format!("{refused} --yes")).expect(1).says(&["throw records away"]);
    ask("partition elect nothing 0").expect(3).says(&["topic 'nothing' not found"]);
    ask("partition elect orders 7").expect(3).says(&["has no partition 7"]);

    let told = ask("explain orders 0").expect(0);
    assert!(told.text().contains("orders/0 is committed up to its end"), "{told:?}");
    let told = ask("explain orders 0 --json").expect(0).json();
    assert_eq!(told["hindrances"], serde_json::json!([]), "{told}");

    // The same replicas in another order: another is preferred.
    let to = format!("{},{},{}", replicas[2], replicas[0], replicas[1]);
    let moved = ask(&format!("partition reassign orders 0 --to {to}")).expect(0);
    assert!(moved.text().contains(&format!("is at brokers {to}")), "{moved:?}");
    ask(&format!("partition reassign orders 0 --to {to}")).expect(2).says(&["already"]);
    ask("partition reassign orders 0 --cancel").expect(1).says(&["not being changed"]);
    ask("partition reassign orders 0 --to 1,2,9").expect(1).says(&["broker 9 is not registered"]);
    ask("partition reassign orders 0").expect(2);

    let none = ask("cluster throttle").expect(0);
    assert_eq!(none.text(), "moves are not throttled\n");
    ask("cluster throttle none").expect(0);
    for (typed, says) in [
        ("cluster throttle 0", "write none to lift"),
        ("cluster throttle fast", "is no number"),
        ("cluster throttle 50M", "ambiguous"),
        ("cluster rebalance --throttle 50MiB/m", "unknown unit"),
        ("partition reassign orders 0 --cancel --throttle 1MiB", "cannot be used with"),
        ("broker drain 2 --throttle 1MiB", "without --replicas none does"),
    ] {
        ask(typed).expect(2).says(&[says]);
    }
    let to_nobody = "partition reassign orders 0 --to 1,2,9 --throttle 1MiB";
    ask(to_nobody).expect(1).says(&["broker 9 is not registered"]);
    assert_eq!(ask("cluster throttle").expect(0).text(), "moves are not throttled\n");
    let set = ask("cluster throttle 50MiB/s").expect(0);
    assert_eq!(set.text(), "moves take 50MiB a second at most, on each broker\n");
    let shown = ask("cluster throttle --json").expect(0).json();
    assert_eq!(shown["move_bytes_per_second"], 50 << 20);
    let status = ask("cluster status").expect(0);
    assert!(status.text().contains("0 partitions under way; moves take 50MiB"), "{status:?}");
    ask("cluster rebalance --throttle none").expect(0).says(&["moves are not throttled"]);
    let status = ask("cluster status --json").expect(0).json();
    assert_eq!(status["move_bytes_per_second"], serde_json::Value::Null);

    let plan = ask("cluster rebalance --dry-run --json").expect(0).json();
    assert_eq!(plan["stuck"], 0, "{plan}");
    ask("cluster rebalance").expect(0);
    let plan = ask("cluster rebalance --dry-run").expect(0);
    assert_eq!(plan.text(), "nothing to move\n");

    let drained = ask("broker drain 2").expect(0).says(&["leads nothing"]);
    assert!(drained.text().contains("active, drained"), "{drained:?}");
    ask("broker drain 2 --replicas").expect(4).says(&["3 replicas cannot be moved"]);
    ask("broker remove 2").expect(1).says(&["votes on the metadata"]);
    ask("broker drain 2 --cancel").expect(0).says(&["in service again"]);
    ask("broker drain 9").expect(1).says(&["broker 9 is not registered"]);

    cluster.interrupt();
    cluster.wait().expect(0);
    ask("cluster health").expect(4);
}
