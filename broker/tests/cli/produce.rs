//! `riverrun produce`, seen by `riverrun consume`.

use std::io::Write as _;

use crate::harness::Broker;

/// Everything in a topic, by a template.
fn consumed(broker: &Broker, topic: &str, format: &str) -> Vec<u8> {
    broker.riverrun(&["consume", topic, "-e", "-f", format]).expect(0).stdout
}

#[test]
fn lines_become_records_byte_for_byte() {
    let broker = Broker::start();
    let lines = b"plain\n\n\xff\x00 not text\r\nlast without an end";
    let produced = broker.with(&["produce", "t", "--print-offsets"], lines).expect(0);
    assert_eq!(produced.text(), "t[0]@0\nt[0]@1\nt[0]@2\nt[0]@3\n");
    produced.says(&["4 records", "[0]@0 to 3"]);
    let mut expected = lines.to_vec();
    expected.push(b'\n');
    assert_eq!(consumed(&broker, "t", "value"), expected);
    assert_eq!(consumed(&broker, "t", "%o:%V:%K;"), b"0:5:-1;1:0:-1;2:12:-1;3:19:-1;");
}

#[test]
fn keys_headers_partitions_codecs_and_files() {
    let broker = Broker::start();
    broker.riverrun(&["topic", "create", "t", "-p", "4"]).expect(0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lines");
    std::fs::write(&file, "a|1\nb|2\n").unwrap();
    let file = file.to_str().unwrap();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let args = ["produce", "t", file, "-", "-K", "|", "-H", "h=1", "-H", "i:2", "-p", "2"];
        broker.with(&[&args[..], &["-z", codec, "--acks", "leader"]].concat(), "c|\n").expect(0);
    }
    let records = consumed(&broker, "t", "%p %k=%v %h %V\\n");
    let once = "2 a=1 h=1,i=2 1\n2 b=2 h=1,i=2 1\n2 c= h=1,i=2 0\n";
    assert_eq!(String::from_utf8(records).unwrap(), once.repeat(5));
    // The same key goes to the same partition.
    broker.with(&["produce", "t", "-k", "same"], "x\n".repeat(50)).expect(0);
    broker.with(&["produce", "t", "-k", "same"], "x\n").expect(0);
    let places = String::from_utf8(consumed(&broker, "t", "%k %p\\n")).unwrap();
    let mut places: Vec<_> = places.lines().filter(|line| line.starts_with("same")).collect();
    assert_eq!(places.len(), 51);
    places.dedup();
    assert_eq!(places.len(), 1, "{places:?}");
    // An empty value is null only if it is told to be.
    broker.with(&["produce", "t2", "-Z", "-k", "gone"], "\n").expect(0);
    assert_eq!(consumed(&broker, "t2", "%k %V"), b"gone -1");
}

#[test]
fn ndjson_goes_round_unchanged() {
    let broker = Broker::start();
    for topic in ["a", "b"] {
        broker.riverrun(&["topic", "create", topic, "-p", "3"]).expect(0);
    }
    let input = r#"{"key":"k","value":"ünï\ncode","headers":[{"key":"h","value":"1"},{"key":"h","value":null}],"timestamp":1795219200123,"partition":2}
{"key_base64":"/wA=","value_base64":"AP8=","partition":1,"timestamp":5}

{"value":{"n": 1.50},"partition":0,"timestamp":"2026-11-21"}
{"key":"only","partition":0,"timestamp":7}
"#;
    broker.with(&["produce", "a", "--format", "json"], input).expect(0).says(&["4 records"]);
    let first = consumed(&broker, "a", "ndjson");
    broker.with(&["produce", "b", "--format", "json"], &first).expect(0);
    let second = consumed(&broker, "b", "ndjson");
    let sorted = |lines: &[u8], topic: &str| {
        let text = String::from_utf8(lines.to_vec()).unwrap();
        let text = text.replace(&format!("\"topic\":\"{topic}\""), "");
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let records = sorted(&first, "a");
    assert_eq!(records, sorted(&second, "b"));
    assert_eq!(records.len(), 4);
    let all = records.join("\n");
    for part in [
        r#""key_base64":"/wA=","value_base64":"AP8=""#,
        r#""value":"{\"n\": 1.50}""#,
        r#""timestamp":1795219200000"#,
        r#""key":"only","value":null"#,
        r#""headers":[{"key":"h","value":"1"},{"key":"h","value":null}]"#,
    ] {
        assert!(all.contains(part), "{part} in {all}");
    }
}

#[test]
fn a_wrong_line_stops_and_what_was_before_it_is_written() {
    let broker = Broker::start();
    let input = "{\"value\":\"good\"}\n{\"vlaue\":\"bad\"}\n{\"value\":\"never\"}\n";
    let ended = broker.with(&["produce", "t", "-f", "json"], input).expect(2);
    ended.says(&["line 2", "unknown field `vlaue`", "1 record,"]);
    assert_eq!(consumed(&broker, "t", "value"), b"good\n");
    broker.with(&["produce", "t", "-K", ":"], "no key\n").expect(2).says(&["line 1", "\":\""]);
    broker.with(&["produce", "t", "/nowhere"], "").expect(3).says(&["/nowhere"]);
    broker.with(&["produce", "t", "-p", "9"], "x\n").expect(3).says(&["t"]);
}

#[test]
fn a_record_above_the_topics_limit_says_how_to_raise_it() {
    let broker = Broker::start();
    broker.riverrun(&["topic", "create", "t", "-c", "max.message.bytes=2KiB"]).expect(0);
    let line = "x".repeat(10_000);
    let ended = broker.with(&["produce", "t", "-z", "none"], &line).expect(1);
    ended.says(&["line 1", "riverrun topic alter", "max.message.bytes"]);
    broker.riverrun(&["topic", "alter", "t", "-c", "max.message.bytes=16KiB"]).expect(0);
    broker.with(&["produce", "t", "-z", "none"], &line).expect(0);
    assert_eq!(consumed(&broker, "t", "%V"), b"10000");
}

#[test]
fn input_that_stays_open_is_written_as_it_comes_and_ctrl_c_keeps_it() {
    let broker = Broker::start();
    let (mut producing, mut stdin) = broker.start_command(&["produce", "t", "--print-offsets"]);
    stdin.write_all(b"one\n").unwrap();
    assert_eq!(producing.stdout_line("@"), "t[0]@0\n");
    stdin.write_all(b"two\n").unwrap();
    assert_eq!(producing.stdout_line("@"), "t[0]@1\n");
    producing.interrupt();
    producing.wait().expect(0).says(&["2 records"]);
    assert_eq!(consumed(&broker, "t", "value"), b"one\ntwo\n");
}
