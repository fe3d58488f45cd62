//! What a broker finds in its data directory when it starts: another broker, damage, the future, the
//! unknown. Damage is made from outside, by the letter of the format.

use std::{fs, path::PathBuf};

use riverrun_proto::rpc::v1;
use riverrun_tests::{
    append::AppendStream,
    files, forge,
    process::{BrokerOptions, BrokerProcess},
    raw::Raw,
};
use serde_json::Value;
use v1::partition_data::Outcome;

use crate::{broker, data_dir};

/// What a broker said of its partitions when it opened them.
async fn open_report(broker: &BrokerProcess) -> Value {
    let report = broker.logs(|line| line["fields"]["message"] == "partitions opened").await;
    report["fields"].clone()
}

async fn until_logged(broker: &BrokerProcess, text: &str) {
    broker.logs(|line| line.to_string().contains(text)).await;
}

async fn append_each(raw: &Raw, topic: &v1::Topic, partition: i32, values: &[String]) {
    let mut stream = AppendStream::open(raw, v1::Acks::All).await;
    for value in values {
        stream.append(topic, partition, forge::batch(&[value])).await.expect("it is fine");
    }
}

fn numbered(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("record {i} {}", "-".repeat(200))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_broker_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let data = data_dir();
    let options = broker(data.path());
    let first = options.start();
    let raw = first.raw().await;
    raw.create_topic("t", 1, &[]).await;

    let refusal = options.clone().on_other_ports().start_refused();
    assert_eq!(refusal.status.code(), Some(1), "{refusal:?}");
    let path = data.path().to_str().expect("it is UTF-8");
    assert!(refusal.said.contains(path), "the error names the directory: {}", refusal.said);
    raw.produce("t", 0, &["still here"]).await.expect("nothing happened to it");

    // The lock goes with the process, however it ends.
    first.kill();
    options.start();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_is_followed_by_a_start_that_scans_nothing() {
    let data = data_dir();
    let options = broker(data.path());
    let before = options.start();
    let raw = before.raw().await;
    let topic = raw.create_topic("t", 2, &[]).await;
    append_each(&raw, &topic, 0, &numbered(100)).await;
    assert!(before.stop().0.success());

    let after = options.start();
    let report = open_report(&after).await;
    assert_eq!((&report["opened"], &report["scanned_bytes"]), (&2.into(), &0.into()), "{report}");
    assert_eq!(after.raw().await.read_out(&topic, 0).await.texts(), numbered(100));

    // The marker is taken when it is read: a kill right after is no clean stop.
    after.kill();
    let unclean = options.start();
    assert_eq!(open_report(&unclean).await["opened"], 2);
    assert_eq!(unclean.raw().await.read_out(&topic, 0).await.texts(), numbered(100));
}

/// Starts a broker, writes, kills it; the directory of partition 0 with its only segment.
async fn killed_with(options: &BrokerOptions, records: usize) -> (v1::Topic, PathBuf, PathBuf) {
    let broker = options.start();
    let raw = broker.raw().await;
    let configs =
        [("durability", "memory"), ("max.message.bytes", "64KiB"), ("segment.bytes", "1MiB")];
    let topic = raw.create_topic("t", 2, &configs).await;
    append_each(&raw, &topic, 0, &numbered(records)).await;
    append_each(&raw, &topic, 1, &numbered(3)).await;
    broker.kill();
    let dir = files::partition_dir(options.data(), &topic, 0);
    let segment = files::with_suffix(&dir, "log").pop().expect("it has a segment");
    (topic, dir, segment)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_appends_go_on_behind_it() {
    let data = data_dir();
    let options = broker(data.path());
    let (topic, dir, segment) = killed_with(&options, 50).await;
    let recovered = files::checkpoint(&dir).recovery_position;
    let frames = files::frames(&segment);
    assert_eq!(frames.len(), 50);
    let torn = frames[47];
    assert!(torn.position >= recovered, "nothing was flushed: all of it may tear");
    files::flip(&segment, torn.position + torn.batch_bytes / 2);

    let broker = options.start();
    let raw = broker.raw().await;
    let kept = raw.read_out(&topic, 0).await;
    assert_eq!(kept.texts(), numbered(50)[..47], "the longest sound beginning");
    let written = raw.produce("t", 0, &["behind it"]).await.expect("it takes writes");
    assert_eq!(written, [47]);
    assert_eq!(raw.read_out(&topic, 0).await.texts().last().expect("some"), "behind it");
    // And again: what was cut does not come back, though it still lay behind the cut.
    broker.kill();
    let broker = options.start();
    let raw = broker.raw().await;
    let again = raw.read_out(&topic, 0).await;
    assert_eq!(again.end, 48);
    assert_eq!(again.texts()[..47], numbered(50)[..47]);
    assert_eq!(again.texts()[47], "behind it");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_below_the_recovery_point_is_reported_and_nothing_is_cut() {
    let data = data_dir();
    let options = broker(data.path());
    let before = options.start();
    let raw = before.raw().await;
    let topic = raw.create_topic("t", 2, &[]).await;
    append_each(&raw, &topic, 0, &numbered(50)).await;
    append_each(&raw, &topic, 1, &numbered(3)).await;
    assert!(before.stop().0.success());
    let dir = files::partition_dir(data.path(), &topic, 0);
    let segment = files::with_suffix(&dir, "log").pop().expect("it has a segment");
    let frames = files::frames(&segment);
    assert_eq!(files::checkpoint(&dir).recovery_offset, 50, "all of it is durable");
    let hit = frames[20];
    files::flip(&segment, hit.position + files::FRAME_HEADER_BYTES + 70);
    let bytes_before = fs::read(&segment).expect("it is there");

    // Found by the reader, after a start that had no reason to look, and after one that had.
    let mut others = numbered(3);
    for _after in ["a clean stop", "a kill"] {
        let broker = options.start();
        let raw = broker.raw().await;
        let good = raw.fetch(&topic, 0, 0, v1::ReadFormat::Records).await;
        let Some(Outcome::Records(records)) = &good.outcome else { panic!("{good:?}") };
        assert_eq!(records.records.len(), 20, "up to the damage");
        assert_eq!(good.next_offset, Some(20));
        let bad = raw.fetch(&topic, 0, 20, v1::ReadFormat::Records).await;
        let Some(Outcome::Error(error)) = &bad.outcome else { panic!("{bad:?}") };
        assert_eq!(error.reason, "CORRUPT_RECORD", "{error:?}");
        assert_eq!(bad.next_offset, Some(21), "past the damage, and no further");
        let rest = raw.fetch(&topic, 0, 21, v1::ReadFormat::Records).await;
        let Some(Outcome::Records(records)) = &rest.outcome else { panic!("{rest:?}") };
        assert_eq!(records.records.len(), 29);
        raw.produce("t", 1, &["more"]).await.expect("others take writes");
        others.push("more".to_owned());
        assert_eq!(raw.read_out(&topic, 1).await.texts(), others, "others serve");
        let end = raw.edge(&topic, 0, v1::Edge::Latest).await;
        assert_eq!(end, 50, "nothing is cut");
        broker.kill();
        let bytes = fs::read(&segment).expect("it is there");
        let same = bytes_before.iter().zip(&bytes).all(|(a, b)| a == b);
        assert!(same && bytes.len() >= frames[49].position as usize, "not a byte was touched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_missing_indexes_are_made_anew() {
    let data = data_dir();
    let options = broker(data.path());
    let before = options.start();
    let raw = before.raw().await;
    // Several segments, with entries in their indexes.
    let configs =
        [("max.message.bytes", "64KiB"), ("segment.bytes", "1MiB"), ("durability", "memory")];
    let topic = raw.create_topic("t", 1, &configs).await;
    let padding = "-".repeat(8_000);
    let values: Vec<String> = (0..400).map(|i| format!("{i} {padding}")).collect();
    append_each(&raw, &topic, 0, &values).await;
    assert!(before.stop().0.success());
    let dir = files::partition_dir(data.path(), &topic, 0);
    let indexes =
        [files::with_suffix(&dir, "index"), files::with_suffix(&dir, "timeindex")].concat();
    assert!(indexes.len() > 4, "{indexes:?}");
    for (i, index) in indexes.iter().enumerate() {
        let bytes = fs::metadata(index).expect("it is there").len();
        match i % 4 {
            0 => files::flip(index, bytes / 2),
            1 => fs::remove_file(index).expect("it is there"),
            2 => files::overwrite(index, 0, &vec![0; bytes as usize]),
            _ => fs::write(index, b"").expect("it can be written"),
        }
    }

    let after = options.start();
    let raw = after.raw().await;
    assert_eq!(raw.read_out(&topic, 0).await.texts(), values);
    // Every offset is found by an index that tells the truth.
    for offset in [0, 1, 133, 257, 399] {
        let read = raw.fetch(&topic, 0, offset, v1::ReadFormat::Records).await;
        let Some(Outcome::Records(records)) = &read.outcome else { panic!("{read:?}") };
        assert_eq!(records.records[0].offset, offset);
    }
    let end = v1::offset_query::At::TimestampMs(i64::MAX);
    assert_eq!(raw.offset(&topic, 0, end).await.offset, None, "nothing is from then");
    let all = v1::offset_query::At::TimestampMs(0);
    assert_eq!(raw.offset(&topic, 0, all).await.offset, Some(0));
    assert!(after.stop().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_newer_version_are_refused_by_name_and_left_alone() {
    let data = data_dir();
    let options = broker(data.path());
    let (topic, dir, segment) = killed_with(&options, 10).await;
    let meta = dir.join("partition.meta");
    for file in [&segment, &meta] {
        files::set_format_version(file, 9);
        let before = fs::read(file).expect("it is there");
        let broker = options.start();
        let raw = broker.raw().await;
        let error = raw.state("t", 0).await.expect_err("it must not be served");
        assert!(error.message.contains("version"), "{error:?}");
        let refused = raw.produce("t", 0, &["x"]).await.expect_err("nor written");
        assert!(refused.error.definite, "{refused:?}");
        assert_eq!(raw.read_out(&topic, 1).await.texts(), numbered(3), "others serve");
        let name = file.file_name().and_then(|n| n.to_str()).expect("it has a name");
        until_logged(&broker, name).await;
        broker.kill();
        assert_eq!(fs::read(file).expect("it is there"), before, "left as it was");
        files::set_format_version(file, 1);
    }
    // Nothing was lost by trying.
    let broker = options.start();
    assert_eq!(broker.raw().await.read_out(&topic, 0).await.texts(), numbered(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_no_known_topic_are_set_aside_and_named() {
    let data = data_dir();
    let options = broker(data.path());
    let before = options.start();
    let raw = before.raw().await;
    let topic = raw.create_topic("t", 1, &[]).await;
    append_each(&raw, &topic, 0, &numbered(5)).await;
    assert!(before.stop().0.success());
    // A partition of a topic that the metadata does not know: of another cluster, say.
    let known = files::partition_dir(data.path(), &topic, 0);
    let strange = known.with_file_name(format!("{}-0", "0123456789abcdef".repeat(2)));
    fs::create_dir(&strange).expect("there is room");
    fs::write(strange.join("00000000000000000000.log"), b"precious").expect("there is room");

    let after = options.start();
    assert!(!strange.exists(), "it is not taken for a partition");
    let aside: Vec<PathBuf> = fs::read_dir(data.path().join("data"))
        .expect("it is there")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path != &known)
        .collect();
    let [aside] = &aside[..] else { panic!("{aside:?}") };
    let kept = fs::read(aside.join("00000000000000000000.log")).expect("it is kept");
    assert_eq!(kept, b"precious");
    let name = aside.file_name().and_then(|n| n.to_str()).expect("it is UTF-8");
    until_logged(&after, name).await;
    assert_eq!(open_report(&after).await["set_aside"], 1);
    assert_eq!(after.raw().await.read_out(&topic, 0).await.texts(), numbered(5));
    // Once aside, it is no news.
    assert!(after.stop().0.success());
    let again = options.start();
    assert_eq!(open_report(&again).await["set_aside"], 0);
    assert!(aside.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_node_is_refused() {
    let data = data_dir();
    let options = broker(data.path());
    assert!(options.start().stop().0.success());
    let refusal = options.clone().set("broker.node.id", "7").start_refused();
    assert_eq!(refusal.status.code(), Some(1), "{refusal:?}");
    assert!(refusal.said.contains("belongs to broker 1"), "{}", refusal.said);
    options.start();
}
