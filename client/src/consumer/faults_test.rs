//! The consumer against the test cluster while things break.

use std::time::Duration;

use futures::StreamExt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use riverrun_proto::{ids::TopicId, reason::Reason, rpc::v1};

use super::*;
use crate::test_broker::{TestCluster, error};

const SECOND: Duration = Duration::from_secs(1);

fn fill(cluster: &TestCluster, partition: usize, from: usize, to: usize, per_batch: usize) {
    let numbers: Vec<String> = (from..to).map(|n| n.to_string()).collect();
    for batch in numbers.chunks(per_batch) {
        let values: Vec<&str> = batch.iter().map(String::as_str).collect();
        cluster.append("t", partition, &values);
    }
}

async fn consumer(cluster: &TestCluster, position: Position, reset: OffsetReset) -> Consumer {
    let client = cluster.client().await;
    let builder = client.consumer().assign([("t", 0, position)]).auto_offset_reset(reset);
    builder.build().await.unwrap()
}

/// A partition with `0..records`, ten in a batch.
async fn filled(records: usize, position: Position) -> (TestCluster, TopicId, Consumer) {
    let cluster = TestCluster::start(2);
    let id = cluster.create_topic("t", 1);
    fill(&cluster, 0, 0, records, 10);
    let consumer = consumer(&cluster, position, OffsetReset::Earliest).await;
    (cluster, id, consumer)
}

async fn next(consumer: &mut Consumer) -> Result<i64> {
    let next = tokio::time::timeout(120 * SECOND, consumer.next()).await;
    next.expect("nothing came in two minutes").unwrap().map(|record| record.offset())
}

async fn expect(consumer: &mut Consumer, offsets: std::ops::Range<i64>) {
    for offset in offsets {
        assert_eq!(next(consumer).await.unwrap(), offset);
    }
}

#[tokio::test(start_paused = true)]
async fn the_connection_may_break_at_any_message() {
    for n in 1..=8 {
        let cluster = TestCluster::start(1);
        cluster.create_topic("t", 1);
        fill(&cluster, 0, 0, 400, 10);
        cluster.faults(|faults| faults.cut_fetch_after = Some(n));
        let mut consumer = consumer(&cluster, Position::Earliest, OffsetReset::None).await;
        expect(&mut consumer, 0..400).await;
        let streams = cluster.state().seen.fetch_streams;
        assert!(streams >= u64::from(10 / n), "cut after {n}: {streams}");
    }
}

/// Seeded: whatever breaks, the records of each partition come in order and each once.
#[tokio::test(start_paused = true)]
async fn once_and_in_order_under_random_faults() {
    const PARTITIONS: usize = 3;
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let cluster = TestCluster::start(2);
        let id = cluster.create_topic("t", PARTITIONS as u32);
        let client = cluster.client().await;
        let mut builder = client.consumer().assign_all("t", Position::Earliest);
        if seed % 2 == 1 {
            // Sent to and fro between leaders and replicas nearby, wherever those lead just now.
            builder = builder.rack("here");
            cluster.change(|state| {
                state.nearby = (0..PARTITIONS as u32).map(|p| ((id, p), p % 2 + 1)).collect();
            });
        }
        let prefetch = (64 * 1024) << rng.random_range(0..3);
        let mut consumer = builder.prefetch_bytes(prefetch).build().await.unwrap();
        let mut written = [0; PARTITIONS];
        let mut read = [0_i64; PARTITIONS];
        cluster.faults(|faults| faults.cut_fetch_after = Some(rng.random_range(2..10)));
        for _ in 0..200 {
            let partition = rng.random_range(0..PARTITIONS);
            match rng.random_range(0..12) {
                0 => cluster.cut(rng.random_range(1..=2)),
                1 => cluster.move_leader("t", partition, rng.random_range(1..=2)),
                2 => {
                    let reasons = [Reason::LeaderNotAvailable, Reason::OffsetNotAvailable];
                    let reason = reasons[rng.random_range(0..2)];
                    cluster.faults(|faults| {
                        let at = (id, partition as u32);
                        faults.fetch_errors.insert(at, error(reason, true, true));
                    });
                }
                3 => tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await,
                4 => {
                    let back = rng.random_range(0..=read[partition]);
                    consumer.seek(("t", partition as u32), Position::Offset(back)).unwrap();
                    read[partition] = back;
                }
                5..=7 => {
                    let more = rng.random_range(1..60);
                    let from = written[partition];
                    fill(&cluster, partition, from, from + more, rng.random_range(1..20));
                    written[partition] += more;
                }
                _ => {
                    for record in consumer.poll(40, Duration::from_millis(5)).await.unwrap() {
                        let expected = &mut read[record.partition() as usize];
                        assert_eq!(record.offset(), *expected, "seed {seed}");
                        assert_eq!(record.value(), Some(expected.to_string().as_bytes()));
                        *expected += 1;
                    }
                }
            }
        }
        cluster.faults(|faults| faults.cut_fetch_after = None);
        while read.iter().zip(written).any(|(read, written)| *read < written as i64) {
            let records = consumer.poll(100, 60 * SECOND).await.unwrap();
            assert!(!records.is_empty(), "seed {seed}: stuck at {read:?} of {written:?}");
            for record in records {
                let expected = &mut read[record.partition() as usize];
                assert_eq!(record.offset(), *expected, "seed {seed}");
                *expected += 1;
            }
        }
    }
}

/// Followed at once each time, it would be asked as often as the network takes it, for ever.
#[tokio::test(start_paused = true)]
async fn a_leader_that_names_itself_and_does_not_lead_is_asked_at_pauses() {
    let (cluster, id, mut consumer) = filled(10, Position::Earliest).await;
    expect(&mut consumer, 0..10).await;
    let topic = cluster.client().await.admin().topic("t").await.unwrap();
    let (leader, leader_epoch) = (topic.partitions[0].leader, topic.partitions[0].leader_epoch);
    let broker_id = leader.expect("somebody leads").0;
    let host = format!("b{broker_id}");
    let hint = v1::LeaderHint { broker_id, host, port: 9190, leader_epoch };
    cluster.faults(|faults| {
        let refused = error(Reason::NotLeaderOrFollower, true, true);
        faults.fetch_errors.insert((id, 0), v1::Error { leader: Some(hint), ..refused });
        faults.fetch_errors_again = 20;
    });
    let start = clock::now();
    fill(&cluster, 0, 10, 20, 10);
    expect(&mut consumer, 10..20).await;
    assert_eq!(cluster.state().faults.fetch_errors_again, 0, "it was refused so often");
    assert!(clock::now() > start, "and waited in between");
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_replaced() {
    let (cluster, _, mut consumer) = filled(10, Position::Earliest).await;
    expect(&mut consumer, 0..10).await;
    // Heartbeats keep a quiet stream alive.
    assert!(consumer.poll(1, 300 * SECOND).await.unwrap().is_empty());
    assert_eq!(cluster.state().seen.fetch_streams, 1);
    cluster.faults(|faults| faults.mute_fetch = true);
    fill(&cluster, 0, 10, 20, 10);
    assert!(consumer.poll(1, 100 * SECOND).await.unwrap().is_empty());
    let streams = cluster.state().seen.fetch_streams;
    assert!((3..=5).contains(&streams), "{streams} streams after 100 silent seconds");
    cluster.faults(|faults| faults.mute_fetch = false);
    expect(&mut consumer, 10..20).await;
}

#[tokio::test(start_paused = true)]
async fn an_offset_outside_the_log_is_reset_as_the_policy_says() {
    for (asked, reset, first) in [
        (5, OffsetReset::Earliest, Some(30)),
        (500, OffsetReset::Earliest, Some(30)),
        (5, OffsetReset::Latest, Some(100)),
        (500, OffsetReset::None, None),
    ] {
        let cluster = TestCluster::start(1);
        cluster.create_topic("t", 1);
        fill(&cluster, 0, 0, 100, 10);
        cluster.change(|state| state.topics.get_mut("t").unwrap().partitions[0].log_start = 30);
        let mut consumer = consumer(&cluster, Position::Offset(asked), reset).await;
        if let Some(first) = first {
            let waiting = tokio::spawn(async move { next(&mut consumer).await });
            tokio::time::sleep(SECOND).await;
            fill(&cluster, 0, 100, 101, 1);
            assert_eq!(waiting.await.unwrap().unwrap(), first, "{asked} {reset:?}");
            continue;
        }
        // It stays an error, now and then, until the caller moves.
        for _ in 0..3 {
            let error = next(&mut consumer).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange);
            assert!(!error.is_fatal());
        }
        consumer.seek(("t", 0), Position::Offset(42)).unwrap();
        expect(&mut consumer, 42..100).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_before_the_log_start_moved_is_still_handed_out() {
    let (cluster, _, mut consumer) = filled(100, Position::Earliest).await;
    expect(&mut consumer, 0..5).await;
    tokio::time::sleep(SECOND).await;
    cluster.change(|state| state.topics.get_mut("t").unwrap().partitions[0].log_start = 90);
    cluster.cut(1);
    expect(&mut consumer, 5..100).await;
}

#[tokio::test(start_paused = true)]
async fn corruption_is_an_error_with_a_way_on() {
    let (cluster, _, mut consumer) = filled(100, Position::Earliest).await;
    cluster.change(|state| state.topics.get_mut("t").unwrap().partitions[0].corrupt(45));
    expect(&mut consumer, 0..40).await;
    for _ in 0..2 {
        let error = next(&mut consumer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CorruptRecord);
        assert_eq!(error.next_offset(), Some(50), "{error}");
        assert_eq!(consumer.position(("t", 0)).unwrap(), Some(40), "nothing is skipped silently");
    }
    consumer.seek(("t", 0), Position::Offset(50)).unwrap();
    expect(&mut consumer, 50..100).await;
}

#[tokio::test(start_paused = true)]
async fn corruption_the_broker_found_has_a_way_on_too() {
    let (cluster, id, mut consumer) = filled(20, Position::Earliest).await;
    expect(&mut consumer, 0..20).await;
    cluster.faults(|faults| {
        faults.fetch_errors.insert((id, 0), error(Reason::CorruptRecord, false, true));
    });
    let failed = next(&mut consumer).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::CorruptRecord);
    assert!(failed.to_string().contains("t[0]"), "{failed}");
    fill(&cluster, 0, 20, 30, 10);
    expect(&mut consumer, 20..30).await;
}

#[tokio::test(start_paused = true)]
async fn a_log_cut_below_what_was_read_is_noticed() {
    let (cluster, _, mut consumer) = filled(100, Position::Earliest).await;
    expect(&mut consumer, 0..80).await;
    cluster.cut(1);
    cluster.change(|state| state.topics.get_mut("t").unwrap().partitions[0].truncate(60));
    fill(&cluster, 0, 1_000, 1_040, 10);
    // What was fetched before may come first; what comes after the error is the new log.
    let error = loop {
        match next(&mut consumer).await {
            Ok(offset) => assert!((80..100).contains(&offset)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::LogTruncated);
    assert_eq!(error.next_offset(), Some(60));
    for n in 0..40 {
        let record = consumer.next().await.unwrap().unwrap();
        assert_eq!(record.offset(), 60 + n);
        assert_eq!(record.value(), Some((1_000 + n).to_string().as_bytes()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_has_not_heard_of_the_topic_yet_is_asked_again() {
    let (cluster, id, mut consumer) = filled(10, Position::Earliest).await;
    cluster.faults(|faults| {
        faults.fetch_errors.insert((id, 0), error(Reason::UnknownTopicId, false, true));
    });
    expect(&mut consumer, 0..10).await;
    assert!(cluster.state().faults.fetch_errors.is_empty(), "it met the error");
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_is_not_read_silently() {
    let (cluster, _, mut consumer) = filled(10, Position::Earliest).await;
    expect(&mut consumer, 0..10).await;
    cluster.create_topic("t", 1);
    fill(&cluster, 0, 0, 50, 10);
    for _ in 0..3 {
        let error = next(&mut consumer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownTopic, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_not_there_yet_is_an_error_until_it_is() {
    let cluster = TestCluster::start(1);
    let mut consumer = consumer(&cluster, Position::Earliest, OffsetReset::Earliest).await;
    for _ in 0..2 {
        assert_eq!(next(&mut consumer).await.unwrap_err().kind(), ErrorKind::UnknownTopic);
    }
    cluster.create_topic("t", 1);
    fill(&cluster, 0, 0, 10, 10);
    let first = loop {
        match next(&mut consumer).await {
            Ok(offset) => break offset,
            Err(error) => assert_eq!(error.kind(), ErrorKind::UnknownTopic),
        }
    };
    assert_eq!(first, 0);
}

#[tokio::test(start_paused = true)]
async fn the_leader_may_move_and_brokers_may_go() {
    let (cluster, _, mut consumer) = filled(50, Position::Earliest).await;
    expect(&mut consumer, 0..50).await;
    cluster.move_leader("t", 0, 2);
    fill(&cluster, 0, 50, 60, 10);
    expect(&mut consumer, 50..60).await;
    cluster.move_leader("t", 0, 1);
    cluster.stop(2);
    fill(&cluster, 0, 60, 70, 10);
    expect(&mut consumer, 60..70).await;
    cluster.stop(1);
    let dials = cluster.dials();
    assert!(consumer.poll(1, 60 * SECOND).await.unwrap().is_empty(), "silence, not an error");
    let dials = cluster.dials() - dials;
    assert!(dials < 1_000, "{dials} connections tried in a minute");
    cluster.restart(1);
    fill(&cluster, 0, 70, 80, 10);
    expect(&mut consumer, 70..80).await;
}

/// As for a producer.
#[tokio::test(start_paused = true)]
async fn a_leader_that_died_is_asked_about_until_another_is_elected() {
    for election in [100, 500, 700, 1_500, 3_000, 5_900].map(Duration::from_millis) {
        let (cluster, _, mut consumer) = filled(50, Position::Earliest).await;
        expect(&mut consumer, 0..50).await;
        let asked = cluster.state().seen.topic_requests;
        cluster.stop(1);
        assert!(consumer.poll(1, election).await.unwrap().is_empty());
        let elected = crate::clock::now();
        cluster.move_leader("t", 0, 2);
        fill(&cluster, 0, 50, 60, 10);
        expect(&mut consumer, 50..60).await;
        let waited = crate::clock::now() - elected;
        assert!(waited <= Duration::from_millis(250), "{waited:?} after {election:?}");
        let asked = cluster.state().seen.topic_requests - asked;
        assert!(asked < 100, "{asked} requests in {election:?}");
    }
}

/// It still has its consumers, who wait at its end.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_is_left_as_soon_as_somebody_knows_of_another() {
    let (cluster, _, mut consumer) = filled(50, Position::Earliest).await;
    expect(&mut consumer, 0..50).await;
    let epoch = cluster.state().topics["t"].partitions[0].leader_epoch;
    cluster.change(|state| state.faults.cut_off = Some((1, epoch)));
    let (streams, dials) = (cluster.state().seen.fetch_streams, cluster.dials());
    assert!(consumer.poll(1, 60 * SECOND).await.unwrap().is_empty(), "nobody has more");
    assert_eq!(cluster.state().seen.fetch_streams, streams, "it stays where it is");
    assert!(cluster.dials() - dials <= 2, "and dials nobody again and again");
    cluster.move_leader("t", 0, 2);
    fill(&cluster, 0, 50, 60, 10);
    expect(&mut consumer, 50..60).await;
}
