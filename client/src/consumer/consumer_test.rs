//! The consumer against the test cluster: places, order, limits, control.

use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt};

use super::*;
use crate::test_broker::TestCluster;

const SECOND: Duration = Duration::from_secs(1);

/// Fills a partition with batches of `per_batch` numbers.
fn fill(
    cluster: &TestCluster,
    topic: &str,
    partition: usize,
    from: usize,
    to: usize,
    per_batch: usize,
) {
    let numbers: Vec<String> = (from..to).map(|n| n.to_string()).collect();
    for batch in numbers.chunks(per_batch) {
        let values: Vec<&str> = batch.iter().map(String::as_str).collect();
        cluster.append(topic, partition, &values);
    }
}

fn number(record: &ConsumerRecord) -> usize {
    std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap()
}

/// The next `count` records; they must come within a minute.
async fn take(consumer: &mut Consumer, count: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let next = tokio::time::timeout(60 * SECOND, consumer.next()).await;
        let next = next.unwrap_or_else(|_| panic!("{} of {count} in a minute", numbers.len()));
        numbers.push(number(&next.unwrap().unwrap()));
    }
    numbers
}

async fn nothing_more(consumer: &mut Consumer) {
    let next = tokio::time::timeout(5 * SECOND, consumer.next()).await;
    assert!(next.is_err(), "{next:?}");
}

async fn one_partition(cluster: &TestCluster, position: Position) -> Consumer {
    let client = cluster.client().await;
    client.consumer().assign([("t", 0, position)]).build().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn all_partitions_of_all_leaders_are_read_in_order() {
    let cluster = TestCluster::start(3);
    cluster.create_topic("t", 4);
    for partition in 0..4 {
        fill(&cluster, "t", partition, 0, 500, 7);
    }
    let client = cluster.client().await;
    let consumer = client.consumer().assign_all("t", Position::Earliest).build().await.unwrap();
    let records: Vec<_> = consumer.take(2_000).try_collect().await.unwrap();
    let mut next = [0; 4];
    for record in records {
        let expected = &mut next[record.partition() as usize];
        assert_eq!((number(&record), record.offset()), (*expected, *expected as i64));
        assert_eq!(record.timestamp_ms(), 1_000 + record.offset() / 7 * 7);
        *expected += 1;
    }
    assert_eq!(next, [500; 4]);
    assert_eq!(cluster.state().seen.fetch_streams, 3, "one per leader");
}

#[tokio::test(start_paused = true)]
async fn every_place_is_found_also_in_the_middle_of_a_batch() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    fill(&cluster, "t", 0, 0, 100, 10);
    for (position, first) in [
        (Position::Earliest, 0),
        (Position::Offset(37), 37),
        (Position::FromEnd(15), 85),
        (Position::FromEnd(1_000), 0),
        // Batches of ten share the time of their first record.
        (Position::Timestamp(1_030), 30),
        (Position::Timestamp(1_031), 40),
    ] {
        let mut consumer = one_partition(&cluster, position).await;
        let expected: Vec<usize> = (first..100).collect();
        assert_eq!(take(&mut consumer, 100 - first).await, expected, "{position:?}");
        assert_eq!(consumer.position(("t", 0)).unwrap(), Some(100));
        nothing_more(&mut consumer).await;
    }
    for position in [Position::Latest, Position::Timestamp(9_999), Position::FromEnd(0)] {
        let mut consumer = one_partition(&cluster, position).await;
        nothing_more(&mut consumer).await;
        assert_eq!(consumer.position(("t", 0)).unwrap(), Some(100), "{position:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_latest_place_is_looked_up_once_and_loses_nothing_over_a_reconnect() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    fill(&cluster, "t", 0, 0, 10, 10);
    let mut consumer = one_partition(&cluster, Position::Latest).await;
    nothing_more(&mut consumer).await;
    cluster.stop(1);
    tokio::time::sleep(SECOND).await;
    fill(&cluster, "t", 0, 10, 20, 5);
    cluster.restart(1);
    assert_eq!(take(&mut consumer, 10).await, (10..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn after_a_seek_no_record_of_the_old_place_comes() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 2);
    fill(&cluster, "t", 0, 0, 1_000, 3);
    cluster.faults(|faults| faults.stale_before_update = true);
    // Little credit, so that old data is still on its way at every seek.
    let client = cluster.client().await;
    let assigned = [("t", 0, Position::Offset(0)), ("t", 1, Position::Latest)];
    let builder = client.consumer().assign(assigned).prefetch_bytes(64 * 1024);
    let mut consumer = builder.build().await.unwrap();
    let control = consumer.control();
    for (n, target) in [500, 3, 900, 250, 251, 0, 700].into_iter().enumerate() {
        take(&mut consumer, 1 + n % 4).await;
        control.seek(("t", 0), Position::Offset(target)).unwrap();
        assert_eq!(control.position(("t", 0)).unwrap(), Some(target));
        // Sometimes the broker has heard of it before the next poll, sometimes not.
        if n % 2 == 0 {
            tokio::time::sleep(SECOND).await;
        }
        let target = usize::try_from(target).unwrap();
        let count = (1_000 - target).min(20);
        let expected: Vec<usize> = (target..target + count).collect();
        assert_eq!(take(&mut consumer, count).await, expected, "seek {n}");
    }
    control.seek(("t", 0), Position::FromEnd(1)).unwrap();
    assert_eq!(take(&mut consumer, 1).await, [999]);
    assert!(control.seek(("t", 0), Position::Offset(-1)).is_err());
    assert!(control.seek(("t", 7), Position::Earliest).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_takes_no_memory_and_goes_on_where_it_was() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 2);
    fill(&cluster, "t", 0, 0, 5_000, 50);
    let client = cluster.client().await;
    let assigned = [("t", 0, Position::Earliest), ("t", 1, Position::Earliest)];
    let builder = client.consumer().assign(assigned).prefetch_bytes(64 * 1024);
    let mut consumer = builder.build().await.unwrap();
    assert_eq!(take(&mut consumer, 75).await, (0..75).collect::<Vec<_>>());
    tokio::time::sleep(SECOND).await;
    assert!(consumer.control().buffered_bytes() > 10_000);
    consumer.pause([("t", 0)]).unwrap();
    assert_eq!(consumer.control().paused(), [("t", 0).into()]);
    nothing_more(&mut consumer).await;
    assert_eq!(consumer.control().buffered_bytes(), 0);
    // The other one has all the room.
    fill(&cluster, "t", 1, 0, 5_000, 50);
    assert_eq!(take(&mut consumer, 5_000).await, (0..5_000).collect::<Vec<_>>());
    assert!(consumer.is_caught_up(), "what is paused does not count");
    consumer.resume([("t", 0)]).unwrap();
    assert!(!consumer.is_caught_up());
    assert_eq!(take(&mut consumer, 4_925).await, (75..5_000).collect::<Vec<_>>());
    assert!(consumer.pause([("t", 0), ("t", 9)]).is_err());
    assert!(consumer.control().paused().is_empty(), "all or none");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_does_not_read_is_sent_its_credit_and_no_more() {
    let cluster = TestCluster::start(2);
    cluster.create_topic("t", 4);
    for partition in 0..4 {
        fill(&cluster, "t", partition, 0, 20_000, 100);
    }
    let prefetch = 128 * 1024;
    let client = cluster.client().await;
    let builder = client.consumer().assign_all("t", Position::Earliest).prefetch_bytes(prefetch);
    let mut consumer = builder.build().await.unwrap();
    let largest_batch = 2_048;
    for read in [0, 1_000, 0, 30_000, 49_000] {
        take(&mut consumer, read).await;
        tokio::time::sleep(60 * SECOND).await;
        let buffered = consumer.control().buffered_bytes();
        assert!(buffered <= prefetch + 2 * largest_batch, "{buffered} after {read}");
        let state = cluster.state();
        let (used, granted) = (state.seen.credit_used, state.seen.credit_granted);
        drop(state);
        assert!(used <= granted + 2 * largest_batch, "{used} of {granted}");
    }
    assert_eq!(cluster.state().seen.fetch_streams, 2, "not reading is no reason to reconnect");
}

#[tokio::test(start_paused = true)]
async fn a_batch_above_the_credit_does_not_stick() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let large = "7".repeat(300_000);
    for _ in 0..5 {
        cluster.append("t", 0, &[&large]);
    }
    let client = cluster.client().await;
    let builder = client.consumer().assign([("t", 0, Position::Earliest)]);
    let consumer = builder.prefetch_bytes(64 * 1024).build().await.unwrap();
    let records: Vec<_> = consumer.take(5).try_collect().await.unwrap();
    assert!(records.iter().all(|record| record.value().unwrap().len() == 300_000));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_partition_is_told_once_each_time_it_is_reached() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 2);
    fill(&cluster, "t", 0, 0, 25, 10);
    let client = cluster.client().await;
    let builder = client.consumer().assign_all("t", Position::Earliest);
    let mut consumer = builder.end_of_partition_events(true).build().await.unwrap();
    let control = consumer.control();
    assert_eq!(control.lag(("t", 0)).unwrap(), None);
    let mut ends = Vec::new();
    let mut records = 0;
    while ends.len() < 2 {
        match consumer.events().next().await.unwrap().unwrap() {
            ConsumerEvent::Record(_) => records += 1,
            ConsumerEvent::EndOfPartition { partition, offset } => {
                assert!(partition.partition == 1 || records == 25);
                ends.push((partition.partition, offset));
            }
        }
    }
    ends.sort_unstable();
    assert_eq!(ends, [(0, 25), (1, 0)]);
    assert!(control.is_caught_up());
    assert_eq!(
        (control.lag(("t", 0)).unwrap(), control.lag(("t", 1)).unwrap()),
        (Some(0), Some(0))
    );
    assert_eq!(control.high_watermark(("t", 0)).unwrap(), Some(25));
    assert_eq!(control.log_start_offset(("t", 0)).unwrap(), Some(0));
    // A new stream says it again; the reader is not told.
    cluster.cut(1);
    tokio::time::sleep(10 * SECOND).await;
    assert!(consumer.events().next().now_or_never().is_none());
    fill(&cluster, "t", 0, 25, 26, 1);
    let events: Vec<_> = consumer.events().take(2).try_collect().await.unwrap();
    assert!(matches!(&events[0], ConsumerEvent::Record(record) if record.offset() == 25));
    let end = ConsumerEvent::EndOfPartition { partition: ("t", 0).into(), offset: 26 };
    assert_eq!(events[1], end);
}

#[tokio::test(start_paused = true)]
async fn poll_takes_what_is_there_and_waits_for_the_first_only() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let mut consumer = one_partition(&cluster, Position::Earliest).await;
    assert!(consumer.poll(10, SECOND).await.unwrap().is_empty());
    fill(&cluster, "t", 0, 0, 25, 10);
    assert!(consumer.poll(0, SECOND).await.unwrap().is_empty());
    let first = consumer.poll(20, SECOND).await.unwrap();
    let mut numbers: Vec<usize> = first.iter().map(number).collect();
    while numbers.len() < 25 {
        let more = consumer.poll(20, SECOND).await.unwrap();
        assert!(!more.is_empty() && more.len() <= 20);
        numbers.extend(more.iter().map(number));
    }
    assert_eq!(numbers, (0..25).collect::<Vec<_>>());
    consumer.control().close();
    assert!(consumer.poll(1, SECOND).await.unwrap_err().is_fatal());
    assert!(consumer.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn partitions_come_and_go_while_it_reads() {
    let cluster = TestCluster::start(2);
    cluster.create_topic("t", 2);
    fill(&cluster, "t", 0, 0, 10, 10);
    fill(&cluster, "t", 1, 100, 110, 10);
    let mut consumer = one_partition(&cluster, Position::Earliest).await;
    assert_eq!(take(&mut consumer, 10).await, (0..10).collect::<Vec<_>>());
    let control = consumer.control();
    control.assign(("t", 1), Position::Offset(5)).unwrap();
    assert_eq!(take(&mut consumer, 5).await, (105..110).collect::<Vec<_>>());
    control.unassign(("t", 0)).unwrap();
    assert_eq!(control.assignment(), [("t", 1).into()]);
    fill(&cluster, "t", 0, 10, 20, 10);
    nothing_more(&mut consumer).await;
    assert!(control.unassign(("t", 0)).is_err());
}

#[tokio::test(start_paused = true)]
async fn partitions_a_topic_grows_by_are_read_from_their_beginning() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client_builder().metadata_max_age(30 * SECOND).build().await.unwrap();
    let builder = client.consumer().assign_all("t", Position::Latest);
    let mut consumer = builder.build().await.unwrap();
    nothing_more(&mut consumer).await;
    client.admin().create_partitions("t", 2).await.unwrap();
    fill(&cluster, "t", 1, 0, 10, 10);
    assert_eq!(take(&mut consumer, 10).await, (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn options_that_cannot_be_are_named() {
    let cluster = TestCluster::start(1);
    let client = cluster.client().await;
    let consumer = || client.consumer().assign([("t", 0, Position::Earliest)]);
    for (builder, name) in [
        (client.consumer(), "no partition"),
        (consumer().prefetch_bytes(1), "prefetch_bytes"),
        (consumer().silence_timeout(Duration::ZERO), "silence_timeout"),
        (client.consumer().assign([("t", 0, Position::Offset(-5))]), "offset -5"),
    ] {
        let error = builder.build().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(name), "{error}");
    }
    let error =
        client.consumer().assign_all("nowhere", Position::Latest).build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownTopic);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_consumer_leaves_no_stream_behind() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    fill(&cluster, "t", 0, 0, 10, 10);
    let mut consumer = one_partition(&cluster, Position::Earliest).await;
    take(&mut consumer, 1).await;
    let shared = Arc::downgrade(consumer.shared());
    drop(consumer);
    tokio::time::sleep(SECOND).await;
    assert!(shared.upgrade().is_none(), "the background task has ended");
}
