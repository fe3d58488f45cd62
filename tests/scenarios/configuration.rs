//! A broker that is configured wrongly says all that is wrong, at once, and touches nothing.

use std::process::Stdio;

use crate::{broker, data_dir};

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_said_at_once_and_nothing_is_touched() {
    let data = data_dir();
    let dir = data.path().join("not-yet");
    let refusal = broker(&dir)
        .set("log.reserve.bytez", "1MiB")
        .set("fetch.max.wait.ms", "7 moons")
        .set("log.window.bytes.max", "12 parsecs")
        .set("network.max.connections", "0")
        .set("topic.durability", "tape")
        .start_refused();
    assert_eq!(refusal.status.code(), Some(2), "{refusal:?}");
    for wrong in [
        "log.reserve.bytez",
        "log.reserve.bytes",
        "fetch.max.wait.ms",
        "moons",
        "log.window.bytes.max",
        "network.max.connections",
        "topic.durability",
    ] {
        assert!(refusal.said.contains(wrong), "{wrong} is not in: {}", refusal.said);
    }
    assert!(!dir.exists(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_addresses_than_loopback_need_a_word() {
    let data = data_dir();
    let open = broker(data.path()).set("network.grpc.listen", "0.0.0.0:0");
    let refusal = open.start_refused();
    assert_eq!(refusal.status.code(), Some(2), "{refusal:?}");
    assert!(refusal.said.contains("insecure"), "it says what to do: {}", refusal.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named_and_the_directory_left_alone() {
    let (data, other) = (data_dir(), data_dir());
    let first = broker(data.path()).start();
    let dir = other.path().join("not-yet");
    let refusal = broker(&dir).set("network.grpc.listen", &first.address()).start_refused();
    assert_eq!(refusal.status.code(), Some(1), "{refusal:?}");
    assert!(refusal.said.contains(&first.address()), "{}", refusal.said);
    assert!(!dir.exists(), "a taken port costs no recovery");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_starts_nothing() {
    let data = data_dir();
    let dir = data.path().join("not-yet");
    for (setting, code) in [("log.reserve.bytes=8MiB", 0), ("log.reserve.bytes=8 miles", 2)] {
        let mut command = broker(&dir).command();
        command.args(["--check", "--set", setting]).stdin(Stdio::null());
        let output = command.output().expect("the binary under test exists");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(!dir.exists());
    }
}
