//! The table of keys is consistent, the documents made from it are current, and every source of
//! values reports what is wrong with it.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::*;

const NO_FLAGS: [&str; 0] = [];

fn load(toml: &str, env: &[(&str, &str)], flags: &[&str]) -> Result<Config, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    fs::write(&file, toml).unwrap();
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let shown = format!("{}/", dir.path().display());
    Config::load(Some(&file), env, flags)
        .map_err(|problems| problems.iter().map(|p| p.to_string().replace(&shown, "")).collect())
}

fn refused(toml: &str, env: &[(&str, &str)], flags: &[&str]) -> Vec<String> {
    load(toml, env, flags).expect_err("a configuration that must be refused")
}

// === the table ===

#[test]
fn keys_and_fields_have_the_same_names() {
    let tables = [
        BrokerConfig::FIELDS,
        NetworkConfig::FIELDS,
        TlsConfig::FIELDS,
        ControllerConfig::FIELDS,
        LogConfig::FIELDS,
        TopicDefaults::FIELDS,
        ProduceConfig::FIELDS,
        ReplicaConfig::FIELDS,
        FetchConfig::FIELDS,
        TelemetryConfig::FIELDS,
    ];
    for (key, field) in tables.concat() {
        assert_eq!(key.replace('.', "_"), field, "{key}");
    }
    assert_eq!(Config::keys().count(), tables.concat().len());
}

#[test]
fn every_key_is_documented_and_its_default_is_within_its_bounds() {
    let mut config = Config::default();
    for key in Config::keys() {
        assert!(key.documentation().len() > 20, "{} is not documented", key.name);
        assert!(!key.doc.is_empty() && key.documentation().ends_with('.'), "{}", key.name);
        assert_eq!(config.set(key.name, &key.default_value()), Ok(()), "{}", key.name);
    }
    assert_eq!(config, Config::default());
    assert_eq!(Config::default().check(), Ok(()));
}

#[test]
fn names_say_their_unit() {
    for key in Config::keys() {
        let words: Vec<&str> = key.name.split('.').collect();
        let expects = key.expects();
        let budget = key.name == "broker.memory.budget";
        assert_eq!(
            expects.starts_with("a size"),
            words.contains(&"bytes") && !budget,
            "{}",
            key.name
        );
        assert_eq!(expects.starts_with("a duration"), words.last() == Some(&"ms"), "{}", key.name);
    }
}

#[test]
fn no_key_is_the_beginning_of_another_and_no_two_share_a_variable() {
    let names: Vec<&str> = Config::keys().map(|k| k.name).collect();
    for name in &names {
        let longer =
            names.iter().find(|n| n.strip_prefix(name).is_some_and(|r| r.starts_with('.')));
        assert_eq!(longer, None, "TOML has no place for both {name} and that");
    }
    let variables: BTreeSet<String> = Config::keys().map(load::variable_of).collect();
    assert_eq!(variables.len(), names.len());
    assert!(!variables.contains("RIVERRUN_LOG"), "that is the log filter");
}

// === the documents ===

/// Compares a document in `deploy/` with what the table gives; with `RIVERRUN_TEST_BLESS` set,
/// writes it.
fn assert_current(name: &str, expected: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    if std::env::var_os("RIVERRUN_TEST_BLESS").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "deploy/{name} is out of date; run: \
         RIVERRUN_TEST_BLESS=1 cargo test -p riverrun-broker --lib config"
    );
}

#[test]
fn the_documents_in_deploy_are_current_and_complete() {
    assert_current("broker.toml", &Config::annotated_toml());
    assert_current("CONFIGURATION.md", &Config::reference_markdown());
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/broker.toml");
    assert_eq!(Config::load(Some(&path), [], NO_FLAGS), Ok(Config::default()));
    let text = fs::read_to_string(path).unwrap();
    let reference = Config::reference_markdown();
    for key in Config::keys() {
        let (_, short) = key.name.split_once('.').unwrap();
        assert!(text.lines().any(|line| line.starts_with(&format!("{short} = "))), "{}", key.name);
        assert!(reference.contains(&format!("### `{}`", key.name)), "{}", key.name);
    }
    let longest = text.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(100), "{longest:?}");
}

// === sources ===

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(Config::load(None, [], NO_FLAGS), Ok(Config::default()));
    assert_eq!(load("", &[], &[]), Ok(Config::default()));
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let toml = "[log]\nreserve.bytes = \"1MiB\"\nio.threads = 3\nwindow.bytes.min = 65536\n";
    let env =
        [("RIVERRUN_LOG_RESERVE_BYTES", "2MiB"), ("RIVERRUN_LOG_IO_THREADS", "5"), ("HOME", "/")];
    let config = load(toml, &env, &["log.reserve.bytes=3MiB"]).unwrap();
    assert_eq!(config.log.reserve_bytes, ByteSize::mib(3));
    assert_eq!(config.log.io_threads, 5);
    assert_eq!(config.log.window_bytes_min, ByteSize::kib(64));
    assert_eq!(config.log.window_bytes_max, LogConfig::default().window_bytes_max);
    assert_eq!(config.get("log.reserve.bytes").as_deref(), Some("3145728"));
    assert_eq!(config.get("log.nothing"), None);
}

#[test]
fn dotted_keys_tables_and_quoted_keys_are_the_same() {
    for toml in [
        "network.keepalive.interval.ms = \"7s\"",
        "[network]\nkeepalive.interval.ms = 7000",
        "[network.keepalive]\ninterval.ms = \"7s\"",
        "[network]\n\"keepalive.interval.ms\" = \"7s\"",
    ] {
        let config = load(toml, &[], &[]).unwrap();
        assert_eq!(config.network.keepalive_interval_ms.as_secs(), 7, "{toml}");
    }
}

#[test]
fn the_log_filter_has_a_variable_of_its_own() {
    let config = load("", &[("RIVERRUN_LOG", "debug,h2=warn")], &[]).unwrap();
    assert_eq!(config.telemetry.log_filter.as_str(), "debug,h2=warn");
}

#[test]
fn all_problems_come_at_once_with_place_reason_and_advice() {
    let toml = "\
[log]
segmnt.bytes = 1
reserve.bytes = \"64M\"
[produce]
admission.percent = 1
[broker]
rack = [1, 2]
";
    let problems = refused(
        toml,
        &[("RIVERRUN_FETCH_MAX_WAIT_MS", "soon"), ("RIVERRUN_NETWORK_GRPC_LISTN", "x")],
        &["network.insecure", "topic.segment.bytes=1GiB", "brokr.rack=a", "log.io.threads=-1"],
    );
    let expected = [
        "broker.toml:7: broker.rack: no key takes a list; expected a text; empty for none",
        "broker.toml:3: log.reserve.bytes: unit \"M\" is ambiguous: write MB for powers of 1000 or \
         MiB for powers of 1024; expected a size: bytes, or such as 64MiB or 1GB; from 0 to 16GiB",
        "broker.toml:2: log.segmnt.bytes: there is no such key",
        "broker.toml:5: produce.admission.percent: 1 is below the least, 5; \
         expected a whole number; from 5 to 90",
        "environment variable RIVERRUN_FETCH_MAX_WAIT_MS: fetch.max.wait.ms: \"soon\" is no number \
         where one should be; expected a duration: milliseconds, or such as 500ms, 10s or 7d; \
         from 10ms to 10m",
        "environment variable RIVERRUN_NETWORK_GRPC_LISTN: no key is called that; \
         did you mean RIVERRUN_NETWORK_GRPC_LISTEN?",
        "command line: network.insecure: has no value; \
         write key=value, such as log.reserve.bytes=64MiB",
        "command line: brokr.rack: there is no such key; did you mean broker.rack?",
        "command line: log.io.threads: \"-1\" is not a whole number in range; \
         expected a whole number; from 0 to 512",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_a_problem() {
    let missing = Config::load(Some("/nonexistent/broker.toml".as_ref()), [], NO_FLAGS);
    let text = missing.unwrap_err().to_string();
    assert!(text.starts_with("/nonexistent/broker.toml: cannot be read: "), "{text}");
    let syntax = refused("[log]\nreserve.bytes = \nio.threads = 0x10\n", &[], &[]);
    assert!(syntax[0].starts_with("broker.toml:2: "), "{syntax:?}");
    assert!(syntax.iter().any(|p| p.contains("log.io.threads: numbers are decimal")), "{syntax:?}");
}

#[test]
fn other_peoples_variables_are_passed_over() {
    let env = [
        ("RIVERRUN_SERVICE_HOST", "10.0.0.1"),
        ("RIVERRUN_PORT", "tcp://10.0.0.1:9190"),
        ("RIVERRUN_PORT_9190_TCP_ADDR", "10.0.0.1"),
        ("RIVERRUN_BROKER_SERVICE_PORT_GRPC", "9190"),
        ("RIVERRUN_BROKER_PORT_9190_TCP", "tcp://10.0.0.1:9190"),
        ("RIVERRUN_TEST_PYTHON", "/usr/bin/python3"),
        ("RIVERRUN_TLS_CA", "/etc/riverrun/ca.pem"),
        ("PATH", "/bin"),
    ];
    assert_eq!(load("", &env, &[]), Ok(Config::default()));
    assert_eq!(
        refused("", &[("RIVERRUN_BROKER_NONSENSE", "1")], &[]),
        ["environment variable RIVERRUN_BROKER_NONSENSE: no key is called that"]
    );
}

// === between keys ===

#[test]
fn listening_to_the_world_needs_a_word() {
    for listen in ["192.0.2.1:9190", "[2001:db8::1]:9190", "[::ffff:192.0.2.1]:9190"] {
        let problems = refused("", &[], &[&format!("network.grpc.listen={listen}")]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        for part in ["command line: network.grpc.listen", "need no certificate", "--insecure"] {
            assert!(problems[0].contains(part), "{problems:?}");
        }
        let flags = [&*format!("network.grpc.listen={listen}"), "network.insecure=true"];
        assert!(load("", &[], &flags).is_ok());
    }
    for listen in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert!(
            load("", &[], &[format!("network.grpc.listen={listen}").as_str()]).is_ok(),
            "{listen}"
        );
    }
}

#[test]
fn ports_that_ask_for_certificates_may_be_reached() {
    let clients = ["grpc.cert.file=c", "grpc.key.file=k", "grpc.client.ca.file=a"];
    let nodes = ["internal.cert.file=c", "internal.key.file=k", "internal.ca.file=a"];
    let world = [
        "network.grpc.listen=192.0.2.1:9190",
        "network.http.listen=192.0.2.1:9191",
        "network.internal.listen=192.0.2.1:9192",
    ];
    let refused_keys = |tls: &[&str]| {
        let tls: Vec<String> = tls.iter().map(|flag| format!("tls.{flag}")).collect();
        let flags: Vec<&str> = tls.iter().map(String::as_str).chain(world).collect();
        let problems = load("", &[], &flags).err().unwrap_or_default();
        let key =
            |p: &String| p.split(": ").nth(1).unwrap().trim_start_matches("network.").to_owned();
        problems.iter().map(key).collect::<Vec<_>>()
    };
    assert_eq!(refused_keys(&[&clients[..], &nodes[..]].concat()), [""; 0]);
    assert_eq!(refused_keys(&clients), ["internal.listen"]);
    assert_eq!(refused_keys(&nodes), ["grpc.listen", "http.listen"]);
    // Encrypted, and still open to everybody.
    for open in [&clients[..2], &[&clients[..], &["grpc.client.auth=optional"]].concat()] {
        let flags = [open, &nodes[..]].concat();
        assert_eq!(refused_keys(&flags), ["grpc.listen", "http.listen"], "{flags:?}");
    }
}

#[test]
fn half_of_what_tls_needs_is_refused() {
    let cases: [(&[&str], &[&str]); 5] = [
        (&["grpc.cert.file"], &["grpc.key.file"]),
        (&["grpc.key.file"], &["grpc.cert.file"]),
        (&["grpc.client.ca.file"], &["grpc.cert.file", "grpc.key.file"]),
        (&["internal.cert.file", "internal.key.file"], &["internal.ca.file"]),
        (&["internal.ca.file"], &["internal.cert.file", "internal.key.file"]),
    ];
    for (set, missing) in cases {
        let flags: Vec<_> = set.iter().map(|key| format!("tls.{key}=/a/file")).collect();
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let problems = refused("", &[], &flags);
        assert_eq!(problems.len(), missing.len(), "{flags:?}: {problems:?}");
        for (key, problem) in missing.iter().zip(&problems) {
            assert!(problem.contains(&format!("tls.{key}: ")), "{flags:?}: {problem}");
        }
    }
}

#[test]
fn contradictions_are_found() {
    let cases: [(&[&str], &str); 12] = [
        (&["network.http.listen=127.0.0.1:9190"], "network.http.listen"),
        (&["network.grpc.listen=0.0.0.0:9190", "network.insecure=true"], "network.advertised.host"),
        (&["network.internal.listen=127.0.0.1:9191"], "network.internal.listen"),
        (
            &["network.internal.listen=0.0.0.0:9192", "network.insecure=true"],
            "network.internal.advertised.host",
        ),
        (&["broker.heartbeat.interval.ms=4s"], "broker.heartbeat.interval.ms"),
        (&["broker.memory.budget=1MiB"], "broker.memory.budget"),
        (&["produce.admission.percent=90"], "produce.admission.percent"),
        (&["network.http2.stream.window.bytes=32MiB"], "network.http2.stream.window.bytes"),
        (&["produce.stream.in.flight.bytes=17MiB"], "produce.stream.in.flight.bytes"),
        (&["log.window.bytes.max=64KiB", "log.window.bytes.min=65537"], "log.window.bytes.min"),
        (&["topic.max.message.bytes=2MiB", "topic.segment.bytes=1MiB"], "topic.segment.bytes"),
        (&["topic.min.insync.replicas=2"], "topic.min.insync.replicas"),
    ];
    for (flags, key) in cases {
        let problems = refused("", &[], flags);
        assert_eq!(problems.len(), 1, "{flags:?}: {problems:?}");
        assert!(problems[0].contains(&format!("{key}: ")), "{flags:?}: {problems:?}");
    }
}

#[test]
fn a_configuration_made_in_code_is_checked_too() {
    let mut config = Config::default();
    config.network.grpc_listen = "0.0.0.0:0".parse().unwrap();
    assert_eq!(config.check().unwrap_err().len(), 2);
}
