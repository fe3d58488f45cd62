//! `riverrun log` and `riverrun serve --check`: no broker involved.

use std::{fs, os::unix::fs::FileExt as _};

use crate::harness::{Broker, riverrun};

#[test]
fn a_stopped_brokers_files_are_dumped_and_verified_and_damage_is_found() {
    let broker = Broker::start();
    broker.with(&["produce", "t", "-K", ":", "-H", "h=1"], "k:v\nk:w\n").expect(0);
    let (dir, ended) = broker.stop();
    ended.expect(0);
    let data = dir.path().to_str().unwrap();

    let verified = riverrun(&["log", "verify", data]).expect(0);
    assert!(verified.text().starts_with("t[0]: ok; offsets 0 to 2, 2 records"), "{verified:?}");
    let json = riverrun(&["log", "verify", data, "-o", "json"]).expect(0).json();
    assert_eq!((&json[0]["records"], &json[0]["damaged"]), (&2.into(), &false.into()));

    let dumped = riverrun(&["log", "dump", data, "--records"]).expect(0);
    assert!(dumped.text().contains("k: w\n"), "{}", dumped.text());
    let dumped = riverrun(&["log", "dump", data, "--records", "--json"]).expect(0);
    let lines: Vec<serde_json::Value> =
        dumped.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let records: Vec<_> =
        lines.iter().filter_map(|line| line["records"].as_array()).flatten().collect();
    assert_eq!(records.len(), 2);
    assert_eq!((&records[1]["key"], &records[1]["value"]), (&"k".into(), &"w".into()));
    assert_eq!(lines.last().unwrap()["end_offset"], 2);

    let file = lines[0]["file"].as_str().unwrap().to_owned();
    assert!(riverrun(&["log", "dump", &file]).expect(0).text().contains("@0"));
    let segment = fs::OpenOptions::new().read(true).write(true).open(&file).unwrap();
    let mut byte = [0];
    let position = lines[0]["position"].as_u64().unwrap() + 70;
    segment.read_exact_at(&mut byte, position).unwrap();
    segment.write_all_at(&[byte[0] ^ 1], position).unwrap();
    let damaged = riverrun(&["log", "verify", data]).expect(1).says(&["1 of 1 partition damaged"]);
    assert!(damaged.text().contains("damage @0"), "{damaged:?}");
    assert!(riverrun(&["log", "dump", &file]).expect(0).text().contains("checksum"));
}

#[test]
fn what_is_not_there_or_no_segment_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().to_str().unwrap();
    riverrun(&["log", "verify", empty]).expect(3).says(&["neither a partition's directory"]);
    riverrun(&["log", "verify", "/nowhere/at/all"]).expect(3).says(&["/nowhere/at/all"]);
    let file = dir.path().join("x");
    fs::write(&file, "x").unwrap();
    riverrun(&["log", "dump", file.to_str().unwrap()])
        .expect(2)
        .says(&["not named like a segment"]);
}

#[test]
fn serve_check_reports_everything_or_what_is_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    fs::write(&file, "[broker]\n\"node.id\" = 7\n").unwrap();
    let file = file.to_str().unwrap();
    let good = riverrun(&["serve", "-c", file, "--check"]).expect(0);
    let line = good.text().lines().find(|line| line.starts_with("broker.node.id")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["broker.node.id", "7", "set"]);
    let json = riverrun(&["serve", "-c", file, "--check", "--json"]).expect(0).json();
    assert_eq!(json["config"]["broker.node.id"], "7");

    let wrong = ["--set", "broker.node.id=x", "--set", "no.such=1"];
    let bad = riverrun(&[&["serve", "--check"][..], &wrong].concat()).expect(2);
    bad.says(&["2 problems", "broker.node.id", "no.such"]);
    let json = riverrun(&[&["serve", "--check", "--json"][..], &wrong].concat()).expect(2).json();
    assert_eq!(json["problems"].as_array().unwrap().len(), 2);
    let open = ["serve", "--check", "--set", "network.grpc.listen=0.0.0.0:9190"];
    let open = [&open[..], &["--set", "network.advertised.host=example.org"]].concat();
    riverrun(&open).expect(2).says(&["--insecure"]);
    riverrun(&[&open[..], &["--insecure"]].concat()).expect(0);
    riverrun(&["serve", "--check", "-c", "/nowhere.toml"]).expect(2).says(&["/nowhere.toml"]);
}
