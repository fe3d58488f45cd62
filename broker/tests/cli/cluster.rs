//! Several brokers by one command; one of them is killed, and nothing is lost.

use std::net::{Ipv4Addr, TcpListener};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{riverrun, riverrun_with, start};

/// A port from which on the ports of three brokers are free, below those the kernel gives away; each
/// `test` has its own to choose from.
pub(crate) fn first_port(test: u16) -> u16 {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let all_free = |first: &u16| (0..9).all(|n| free(first + n / 3 * 10 + n % 3));
    let begin = u16::try_from(std::process::id() % 100).unwrap();
    let mut candidates = (0..100).map(|n| 12_000 + test * 3_000 + (begin + n) % 100 * 30);
    candidates.find(all_free).unwrap()
}

#[test]
fn three_brokers_by_one_command_keep_what_was_acknowledged_when_one_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let port = first_port(0);
    let (port_text, dir_text) = (port.to_string(), dir.path().to_str().unwrap());
    let dev = ["dev", "--brokers", "3", "--first-port", &port_text, "--data-dir", dir_text];
    let (mut cluster, _stdin) = start(&dev, None);
    cluster.stderr_line("3 brokers serve");
    let mut pids = Vec::new();
    for number in 1..=3 {
        let line = cluster.stderr_line(&format!("  {number}  gRPC"));
        let pid = line.split_whitespace().skip_while(|word| *word != "pid").nth(1).unwrap();
        pids.push(Pid::from_raw(pid.parse().unwrap()).unwrap());
    }
    let line = cluster.stderr_line("export RIVERRUN_BROKERS=");
    let brokers = line.trim().strip_prefix("export RIVERRUN_BROKERS=").unwrap().to_owned();
    let ask = |args: &[&str], input: &str| {
        let all: Vec<_> = ["-b", &brokers].into_iter().chain(args.iter().copied()).collect();
        riverrun_with(&all, input.as_bytes())
    };
    let numbers = |from: u32, to: u32| (from..to).map(|n| format!("{n}\n")).collect::<String>();
    ask(&["produce", "kept"], &numbers(0, 1000)).expect(0);
    let topics = ask(&["topic", "describe", "kept", "-o", "json"], "").expect(0).json();
    let topic = &topics[0];
    assert_eq!(topic["replication_factor"], 3, "{topic}");

    // Whoever leads it.
    let leader = topic["partitions"][0]["leader"].as_str().unwrap().parse::<usize>().unwrap();
    kill_process(pids[leader - 1], Signal::KILL).unwrap();
    ask(&["produce", "kept"], &numbers(1000, 2000)).expect(0);
    cluster.stderr_line(&format!("broker {leader} was killed by signal 9"));
    let consumed = ask(&["consume", "kept", "-o", "start", "-e"], "").expect(0);
    assert_eq!(consumed.text(), numbers(0, 2000));
    cluster.stderr_line(&format!("broker {leader} is started again"));

    cluster.interrupt();
    cluster.wait().expect(0).says(&["stopped; the data stays"]);
    // All of them have ended: nobody listens any more.
    riverrun(&["-b", &brokers, "topic", "list"]).expect(4);
}

#[test]
fn ports_that_are_none_are_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for port in ["65535", "0"] {
        let dev = ["dev", "--brokers", "3", "--first-port", port, "--data-dir"];
        let dev: Vec<_> = dev.into_iter().chain(data.to_str()).collect();
        riverrun(&dev).expect(2).says(&["--first-port", port]);
        assert!(!data.exists());
    }
}

#[test]
fn a_port_that_is_taken_ends_all_of_them_with_advice() {
    let (dir, port) = (tempfile::tempdir().unwrap(), first_port(1));
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port + 11)).unwrap();
    let (port_text, dir_text) = (port.to_string(), dir.path().to_str().unwrap());
    let dev = ["dev", "--brokers", "3", "--first-port", &port_text, "--data-dir", dir_text];
    riverrun(&dev).expect(1).says(&["broker 2 | ", "--first-port"]);
    drop(taken);
}
