//! What is deleted stays deleted, over kills and restarts; what is not, stays.

use riverrun_proto::rpc::v1;
use riverrun_tests::{append::AppendStream, files, forge, raw, wait};
use v1::partition_data::Outcome;

use crate::{broker, data_dir};

#[tokio::test(flavor = "multi_thread")]
async fn deleted_records_do_not_come_back_after_a_kill() {
    let data = data_dir();
    let options = broker(data.path());
    let before = options.start();
    let raw = before.raw().await;
    let topic = raw.create_topic("t", 1, &[]).await;
    let values: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    for value in &values {
        stream.append(&topic, 0, forge::batch(&[value])).await.expect("it is fine");
    }
    let delete =
        v1::DeleteRecordsBefore { partition: Some(raw::place(&topic, 0)), before_offset: Some(20) };
    let request = v1::DeleteRecordsRequest { partitions: vec![delete], timeout: None };
    let answer = raw.admin.clone().delete_records(request).await.expect("they are there");
    let outcome = answer.into_inner().results.pop().and_then(|result| result.outcome);
    assert_eq!(outcome, Some(v1::delete_records_result::Outcome::LogStartOffset(20)));
    before.kill();

    let after = options.start();
    let raw = after.raw().await;
    let read = raw.read_out(&topic, 0).await;
    assert_eq!((read.start, read.end), (20, 30));
    assert_eq!(read.texts(), values[20..]);
    let gone = raw.fetch(&topic, 0, 19, v1::ReadFormat::Records).await;
    let Some(Outcome::Error(error)) = gone.outcome else { panic!("{gone:?}") };
    assert_eq!(error.reason, "OFFSET_OUT_OF_RANGE");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_segments_go_and_readers_are_told_where_it_begins() {
    let data = data_dir();
    let options = broker(data.path()).set("log.retention.check.interval.ms", "100ms");
    let broker = options.start();
    let raw = broker.raw().await;
    let configs = [
        ("retention.bytes", "2MiB"),
        ("segment.bytes", "1MiB"),
        ("max.message.bytes", "64KiB"),
        ("durability", "memory"),
    ];
    let topic = raw.create_topic("t", 1, &configs).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    for _ in 0..100 {
        stream.append(&topic, 0, forge::large(50_000)).await.expect("it is fine");
    }
    let dir = files::partition_dir(data.path(), &topic, 0);
    wait::until("what is too much is deleted", async || {
        let segments = files::with_suffix(&dir, "log").len();
        raw.edge(&topic, 0, v1::Edge::Earliest).await > 0 && segments <= 4
    })
    .await;
    let read = raw.read_out(&topic, 0).await;
    assert_eq!(read.end, 100);
    assert!(
        read.records.len() * 50_000 >= 2 << 20,
        "no more than too much: {}",
        read.records.len()
    );
    let first = raw.fetch(&topic, 0, 0, v1::ReadFormat::Records).await;
    let Some(Outcome::Error(error)) = first.outcome else { panic!("{first:?}") };
    assert_eq!(error.reason, "OFFSET_OUT_OF_RANGE");
    let told = error.metadata.get("log_start_offset").and_then(|told| told.parse::<i64>().ok());
    // Retention may have gone on meanwhile.
    let now = raw.edge(&topic, 0, v1::Edge::Earliest).await;
    assert!(told.is_some_and(|told| (read.start..=now).contains(&told)), "{told:?} of {now}");

    broker.kill();
    let broker = options.start();
    let after = broker.raw().await.read_out(&topic, 0).await;
    assert!(after.start >= read.start && after.end == 100, "{} {}", after.start, after.end);
}
