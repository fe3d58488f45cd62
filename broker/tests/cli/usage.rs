//! Help, mistakes in what is typed, brokers that are not there.

use crate::harness::{Broker, riverrun, start};

#[test]
fn mistakes_end_with_2_and_say_what_is_right() {
    for (line, says) in [
        ("", "Usage:"),
        ("consum x", "a similar subcommand exists: 'consume'"),
        ("consume", "<TOPIC>"),
        ("consume t -o soon", "write start, end, 47"),
        ("consume t -f josn", "did you mean json?"),
        ("consume t -f %x", "%x is unknown"),
        ("consume t -p 3-1", "3-1 is empty"),
        ("consume t -n 0", "0 is not in 1.."),
        ("consume t -e --follow", "cannot be used with"),
        ("produce t -z rar", "gzip, snappy, lz4, zstd"),
        ("produce t -H nothing", "name=value"),
        ("produce t --delimiter \\q", "\\n \\t \\r"),
        ("topic create", "<TOPIC>"),
        ("topic create t --config x", "key=value"),
        ("topic list --timeout 1fortnight", "1fortnight"),
        ("topic list --output yaml", "[possible values: table, json]"),
        ("demo --partitions 0", "0 is not in 1..=1000"),
        ("completions tcsh", "bash"),
    ] {
        let args: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        riverrun(&args).expect(2).says(&[says]);
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = riverrun(&["--help"]).expect(0);
    for part in ["serve", "dev", "demo", "topic", "produce", "consume", "log", "Exit codes"] {
        assert!(help.text().contains(part), "{part} in {}", help.text());
    }
    let version = riverrun(&["--version"]).expect(0);
    assert_eq!(version.text(), format!("riverrun {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["serve", "dev", "demo", "produce", "consume", "completions"] {
        let help = riverrun(&[command, "--help"]).expect(0);
        assert!(help.text().contains("Examples:"), "{command}: {}", help.text());
    }
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = riverrun(&["completions", shell]).expect(0);
        assert!(script.text().contains("consume"), "{shell}");
    }
}

#[test]
fn no_broker_is_4_and_says_how_to_get_one() {
    // A port that nobody listens on: taken and given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("127.0.0.1:{port}");
    for command in [&["topic", "list"][..], &["produce", "t"], &["consume", "t"]] {
        let (running, _stdin) = start(command, Some(&nobody));
        let advice = ["no broker can be reached", &nobody, "riverrun dev", "--brokers"];
        running.wait().expect(4).says(&advice);
    }
}

#[test]
fn dev_says_what_to_type_and_two_brokers_do_not_share_a_directory() {
    let broker = Broker::start();
    let (dir, ended) = broker.stop();
    let ended = ended.expect(0);
    let ended = ended.says(&["riverrun produce greetings", "riverrun consume greetings"]);
    ended.says(&["topics are made when first written to", "stopped; the data stays"]);

    let mut first = Broker::run(dir.path());
    first.stderr_line("gRPC");
    let second = Broker::run(dir.path()).wait().expect(1);
    second.says(&["in use by another broker", "use another directory"]);
}
