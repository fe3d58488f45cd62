//! `riverrun demo`: the main job.

use std::{fs, io::Write as _, path::Path};

use crate::harness::{Ended, riverrun, riverrun_with, start};

/// Runs the demo in a directory that must be empty again afterwards.
fn demo(args: &[&str], input: &[u8]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let place = ["demo", "--dir", dir.path().to_str().unwrap()];
    let ended = riverrun_with(&[&place[..], args].concat(), input);
    assert_is_empty(dir.path());
    ended
}

#[track_caller]
fn assert_is_empty(dir: &Path) {
    let left: Vec<_> = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn made_up_records_are_streamed_and_verified() {
    let ended = demo(&["--records", "20000"], b"").expect(0);
    for part in [
        "records/s",
        "MiB/s",
        "p99.9",
        "durability=disk on 1 replica",
        "acks=all",
        "under saturation",
        "first       ack after",
        "\nverified: 20,000 records",
    ] {
        assert!(ended.text().contains(part), "{part} in {}", ended.text());
    }
    assert_eq!(ended.stderr, "", "no progress where nobody looks");
}

#[test]
fn json_has_the_same_hash_for_the_same_lines() {
    let hash = |partitions| {
        let args = ["-n", "3000", "--json", "--partitions", partitions];
        let json = demo(&args, b"").expect(0).json();
        assert_eq!(json["verified"], true);
        assert_eq!(json["records"], 3000);
        assert!(json["ack_latency"]["p50_us"].as_u64().unwrap() > 0);
        assert!(json["first_ack_us"].as_u64().unwrap() > 0);
        assert!(json["first_read_us"].as_u64() >= json["first_ack_us"].as_u64().map(|_| 1));
        json["content_hash"].as_str().unwrap().to_owned()
    };
    assert_eq!(hash("1"), hash("11"));
}

#[test]
fn any_bytes_are_a_file() {
    let mut nasty = b"\n\n\r\n\xff\xfe\x00\n\xc3\x28\nkey-0000\n{\"n\":1}\n".to_vec();
    nasty.extend((0..=255).filter(|byte| *byte != b'\n'));
    nasty.extend(b"\n");
    nasty.extend(b"x".repeat(300_000));
    nasty.extend(b"\nlast line has no end");
    let lines = nasty.split(|byte| *byte == b'\n').count();
    let source = file(&nasty);
    let json = demo(&[source.path().to_str().unwrap(), "--json"], b"").expect(0).json();
    assert_eq!(json["records"].as_u64(), Some(lines as u64));
    let bytes = nasty.iter().filter(|byte| **byte != b'\n').count();
    assert_eq!(json["bytes"].as_u64(), Some(bytes as u64));
    // The same through a pipe.
    let piped = demo(&["-", "--json"], &nasty).expect(0).json();
    assert_eq!(piped["content_hash"], json["content_hash"]);
    // And only its beginning.
    let first = demo(&[source.path().to_str().unwrap(), "-n", "3", "--json"], b"").expect(0).json();
    assert_eq!(first["records"], 3);
}

#[test]
fn a_line_above_every_default_is_taken() {
    let mut content = b"short\n".to_vec();
    content.extend(b"y".repeat(5_000_000));
    content.extend(b"\nshort again\n");
    let source = file(&content);
    let ended = demo(&[source.path().to_str().unwrap()], b"").expect(0);
    assert!(ended.text().contains("verified: 3 records"), "{}", ended.text());
}

#[test]
fn an_empty_file_is_a_right_run_of_nothing() {
    let source = file(b"");
    let ended = demo(&[source.path().to_str().unwrap()], b"").expect(0);
    assert!(ended.text().contains("verified: 0 records"), "{}", ended.text());
}

#[test]
fn what_cannot_be_read_is_said_before_anything_starts() {
    riverrun(&["demo", "/nowhere/at/all"]).expect(3).says(&["/nowhere/at/all"]);
    riverrun(&["demo", "/"]).expect(2).says(&["is a directory"]);
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["demo", "-", "--dir", dir.path().to_str().unwrap()];
    // Standard input stays open: it would run for ever.
    let (running, mut stdin) = start(&args, None);
    stdin.write_all(&b"line\n".repeat(100_000)).unwrap();
    running.interrupt();
    running.wait().expect(1).says(&["interrupted"]);
    assert_is_empty(dir.path());
}
