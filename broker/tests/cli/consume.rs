//! `riverrun consume`.

use crate::harness::{Broker, riverrun_head};

/// A topic of two partitions with ten records each; record `n` of partition `p` is `p<p>-<n>`, a
/// second after the one before it.
fn broker() -> Broker {
    let broker = Broker::start();
    broker.riverrun(&["topic", "create", "t", "-p", "2"]).expect(0);
    let line = |n: i64, p: i64| {
        let time = 1_795_219_200_000 + n * 1000;
        format!("{{\"value\":\"p{p}-{n}\",\"partition\":{p},\"timestamp\":{time}}}\n")
    };
    let lines: String = (0..10).flat_map(|n| [line(n, 0), line(n, 1)]).collect();
    broker.with(&["produce", "t", "-f", "json"], lines).expect(0);
    broker
}

/// Values of partition 0, as numbers.
fn of_partition_0(broker: &Broker, args: &[&str]) -> Vec<u64> {
    let args = [&["consume", "t", "-p", "0"][..], args].concat();
    let ended = broker.riverrun(&args).expect(0);
    ended.text().lines().map(|line| line.trim_start_matches("p0-").parse().unwrap()).collect()
}

#[test]
fn every_notation_of_an_offset() {
    let broker = broker();
    let all = |from: u64, to: u64| (from..to).collect::<Vec<_>>();
    for (args, expected) in [
        (&["-e"][..], all(0, 10)),
        (&["-e", "-o", "start"], all(0, 10)),
        (&["-e", "-o", "7"], all(7, 10)),
        (&["-e", "-o", "+2"], all(2, 10)),
        (&["-e", "-o", "-2"], all(8, 10)),
        (&["-e", "-o-2"], all(8, 10)),
        (&["-e", "-o", "end"], vec![]),
        (&["-e", "-o", "99"], vec![]),
        (&["-e", "-o", "@1795219204000"], all(4, 10)),
        (&["-e", "-o", "@2026-11-21T00:00:04Z"], all(4, 10)),
        (&["-e", "-o", "@2026-11-22"], vec![]),
        (&["-o", "3:6"], all(3, 6)),
        (&["-o", ":end"], all(0, 10)),
        (&["-o", "-5:-3"], all(5, 7)),
        (&["-o", "@2026-11-21T00:00:02Z:@2026-11-21T00:00:05Z"], all(2, 5)),
        (&["-n", "3"], all(0, 3)),
        (&["-n", "1", "-o", "8"], all(8, 9)),
    ] {
        assert_eq!(of_partition_0(&broker, args), expected, "{args:?}");
    }
}

#[test]
fn partitions_topics_and_what_does_not_exist() {
    let broker = broker();
    let both = broker.riverrun(&["consume", "t", "-e"]).expect(0).says(&["20 records"]);
    assert_eq!(both.text().lines().count(), 20);
    let one = broker.riverrun(&["consume", "t", "-e", "-p", "1-1"]).expect(0);
    assert!(one.text().lines().all(|line| line.starts_with("p1-")), "{}", one.text());
    broker.with(&["produce", "u"], "x\n").expect(0);
    let two = broker.riverrun(&["consume", "t", "u", "-e", "-f", "%t\\n"]).expect(0);
    assert_eq!(two.text().lines().filter(|line| *line == "u").count(), 1);
    assert_eq!(two.text().lines().count(), 21);
    broker.riverrun(&["consume", "t", "-p", "0,7"]).expect(3).says(&["no partition 7", "0 to 1"]);
    broker.riverrun(&["consume", "tt"]).expect(3).says(&["topic 'tt' not found"]);
    let quiet = broker.riverrun(&["consume", "t", "-e", "-q"]).expect(0);
    assert_eq!(quiet.stderr, "");
}

#[test]
fn json_is_one_document_per_record() {
    let broker = broker();
    let args = ["consume", "t", "-o", "4", "-n", "1", "-p", "1", "-f"];
    for format in ["json", "ndjson"] {
        let record = broker.riverrun(&[&args[..], &[format]].concat()).expect(0).json();
        assert_eq!(record["value"], "p1-4");
        assert_eq!(record["offset"], 4);
        assert_eq!(record["partition"], 1);
        assert_eq!(record["timestamp"], 1_795_219_204_000_i64);
        assert_eq!(record["topic"], "t");
    }
}

#[test]
fn following_prints_what_comes_and_ctrl_c_ends_it_in_order() {
    let broker = broker();
    let (mut following, _stdin) = broker.start_command(&["consume", "t", "-o", "-1"]);
    following.stdout_line("p");
    following.stdout_line("p");
    broker.with(&["produce", "t", "-p", "1"], "new\n").expect(0);
    following.stdout_line("new");
    broker.with(&["produce", "t", "-p", "0"], "newer\n").expect(0);
    following.stdout_line("newer");
    following.interrupt();
    following.wait().expect(0).says(&["4 records"]);
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let broker = broker();
    let lines = "a line that is long enough to fill a pipe when it is repeated\n".repeat(20_000);
    broker.with(&["produce", "t", "-p", "0"], lines).expect(0);
    for args in [&["consume", "t", "-p", "0"][..], &["consume", "t", "-e", "-f", "json"]] {
        let (line, ended) = riverrun_head(args, broker.address());
        assert!(!line.is_empty());
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert!(!stderr.contains("error") && !stderr.contains("panic"), "{stderr}");
    }
}

#[test]
fn a_broker_that_goes_away_is_told_and_waited_for() {
    let broker = broker();
    let args = ["consume", "t", "-o", "-1", "-p", "0", "--timeout", "1s"];
    let (mut following, _stdin) = broker.start_command(&args);
    following.stdout_line("p0-9");
    let broker = broker.restart(|| {
        following.stderr_line("cannot be reached; waiting for it");
    });
    following.stderr_line("the broker is back");
    broker.with(&["produce", "t", "-p", "0"], "after\n").expect(0);
    assert_eq!(following.stdout_line("after"), "after\n");
    following.interrupt();
    following.wait().expect(0).says(&["2 records,"]);
}

#[test]
fn a_broker_that_does_not_answer_is_4() {
    let broker = broker();
    broker.pause();
    for command in [&["topic", "list"][..], &["consume", "t", "-e"], &["consume", "t"]] {
        let args = [command, &["--timeout", "300ms"]].concat();
        broker.riverrun(&args).expect(4).says(&["is the broker up?"]);
    }
    broker.resume();
    broker.riverrun(&["consume", "t", "-e"]).expect(0).says(&["20 records"]);
}
