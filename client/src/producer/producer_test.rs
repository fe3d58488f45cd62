//! The producer against the test cluster: what it promises when all goes well, and what callers
//! see of limits. Faults are in `faults_test`.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, SinkExt, StreamExt, future::join_all};

use super::*;
use crate::{clock, test_broker::TestCluster};

const SECOND: Duration = Duration::from_secs(1);

fn record(n: usize) -> Record {
    Record::to("t").value(n.to_string())
}

fn numbers(to: usize) -> Vec<String> {
    (0..to).map(|n| n.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn records_go_where_their_keys_say_and_each_gets_its_place() {
    let cluster = TestCluster::start(2);
    cluster.create_topic("t", 3);
    let producer = cluster.client().await.producer().build().await.unwrap();
    let mut deliveries = Vec::new();
    for n in 0..300 {
        let record = record(n).key(format!("key {}", n % 7)).header("h", "v").timestamp(n as i64);
        deliveries.push(producer.send(record).await.unwrap());
    }
    for (n, place) in join_all(deliveries).await.into_iter().enumerate() {
        let place = place.unwrap();
        let expected =
            riverrun_proto::murmur2::partition_of(format!("key {}", n % 7).as_bytes(), 3);
        assert_eq!(place.partition(), expected);
        assert_eq!(place.timestamp_ms(), n as i64);
        let values = cluster.values("t", place.partition() as usize);
        assert_eq!(values[usize::try_from(place.offset().unwrap()).unwrap()], n.to_string());
        assert!(!place.is_duplicate() && place.replicas() == 1);
    }
    assert_eq!(producer.buffered_bytes(), 0);
    assert_eq!(cluster.state().seen.producers, 1, "one identity for all partitions");
}

#[tokio::test(start_paused = true)]
async fn an_idle_partition_waits_for_nothing_and_a_busy_one_packs() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let linger = Duration::from_secs(5);
    let producer = cluster.client().await.producer().linger(linger).build().await.unwrap();
    let start = clock::now();
    for n in 0..3 {
        producer.send(record(n)).await.unwrap().await.unwrap();
    }
    assert_eq!(clock::now(), start, "no linger while nothing is in flight");
    cluster.faults(|faults| faults.ack_delay = SECOND);
    let first = producer.send(record(3)).await.unwrap();
    tokio::task::yield_now().await;
    let rest = join_all((4..100).map(|n| producer.send(record(n)))).await;
    first.await.unwrap();
    assert_eq!(clock::now() - start, SECOND);
    for delivery in rest {
        delivery.unwrap().await.unwrap();
    }
    assert_eq!(clock::now() - start, 2 * SECOND, "the rest went when the first was answered");
    assert_eq!(cluster.state().seen.appends, 5);
    assert_eq!(cluster.values("t", 0), numbers(100));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_topic_shows_in_the_delivery_and_only_there() {
    let cluster = TestCluster::start(1);
    let producer = cluster.client().await.producer().build().await.unwrap();
    for (topic, kind) in
        [("nowhere", ErrorKind::UnknownTopic), ("not/a/name", ErrorKind::InvalidArgument)]
    {
        let delivery = producer.send(Record::to(topic).value("x")).await.unwrap();
        let error = delivery.await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.is_definite() && error.to_string().contains(topic), "{error}");
    }
    assert_eq!((producer.buffered_bytes(), producer.failed_records()), (0, 2));
    // Made later, it is found.
    cluster.create_topic("nowhere", 1);
    producer.send(Record::to("nowhere").value("x")).await.unwrap().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn records_sent_before_the_topic_is_known_keep_their_order() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    cluster.stop(1);
    let producer = cluster.client().await.producer().build().await.unwrap();
    let mut deliveries = Vec::new();
    for n in 0..50 {
        deliveries.push(producer.send(record(n)).await.unwrap());
        tokio::task::yield_now().await;
    }
    let flushed = tokio::spawn({
        let producer = producer.clone();
        async move { producer.flush().await }
    });
    tokio::time::sleep(2 * SECOND).await;
    assert!(!flushed.is_finished());
    cluster.restart(1);
    flushed.await.unwrap().unwrap();
    assert_eq!(cluster.values("t", 0), numbers(50));
    assert!(join_all(deliveries).await.into_iter().all(|place| place.is_ok()));
}

#[tokio::test(start_paused = true)]
async fn what_no_batch_takes_fails_alone() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 2);
    cluster.change(|state| state.topics.get_mut("t").unwrap().max_message_bytes = 10_000);
    let producer = cluster.client().await.producer().build().await.unwrap();
    let large = |bytes| Record::to("t").partition(0).value(vec![b'x'; bytes]);
    for (record, kind) in [
        (large(2 << 20), ErrorKind::TooLarge),
        (large(20_000), ErrorKind::TooLarge),
        (Record::to("t").partition(9).value("x"), ErrorKind::UnknownTopic),
    ] {
        let error = producer.send(record).await.unwrap().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.is_definite() && !error.is_fatal());
    }
    producer.send(large(9_000)).await.unwrap().await.unwrap();
    assert!(producer.flush().await.is_err(), "a detached failure would show here");
    producer.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_partition_added_later_is_found_when_it_is_named() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let producer = client.producer().build().await.unwrap();
    producer.send(record(0)).await.unwrap().await.unwrap();
    client.admin().create_partitions("t", 3).await.unwrap();
    let place = producer.send(record(1).partition(2)).await.unwrap().await.unwrap();
    assert_eq!((place.partition(), place.offset()), (2, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_broker_makes_senders_wait_within_the_buffer() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    cluster.faults(|faults| faults.stop_reading = true);
    let buffer = 100_000;
    let producer = cluster
        .client()
        .await
        .producer()
        .buffer_memory(buffer)
        .max_request_size(10_000)
        .compression(crate::Compression::None)
        .build()
        .await
        .unwrap();
    let large = |n: usize| Record::to("t").value(format!("{n:01000}"));
    let mut deliveries = Vec::new();
    let full = loop {
        match producer.try_send(large(deliveries.len())) {
            Ok(delivery) => deliveries.push(delivery),
            Err(error) => break error,
        }
        tokio::task::yield_now().await;
        assert!(producer.buffered_bytes() <= buffer);
    };
    assert!(matches!(full, TrySendError::Full(_)));
    assert_eq!(full.into_record(), large(deliveries.len()));
    assert!((90..100).contains(&deliveries.len()), "{}", deliveries.len());

    let mut waiting = Box::pin(producer.send(large(deliveries.len())));
    let mut given_up = Box::pin(producer.send(large(12_345)));
    tokio::time::sleep(10 * SECOND).await;
    assert!(waiting.as_mut().now_or_never().is_none());
    assert!(given_up.as_mut().now_or_never().is_none());
    drop(given_up);

    cluster.faults(|faults| faults.stop_reading = false);
    deliveries.push(waiting.await.unwrap());
    let count = deliveries.len();
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    let values = cluster.values("t", 0);
    let numbers: Vec<usize> = values.iter().map(|value| value.parse().unwrap()).collect();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "a send given up was not enqueued");
    assert_eq!(producer.buffered_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_permit_holds_memory_until_it_is_used_or_dropped() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let producer =
        client.producer().buffer_memory(2_000).max_request_size(2_000).build().await.unwrap();
    let permit = producer.reserve(1_500).await.unwrap();
    assert_eq!((permit.bytes(), producer.buffered_bytes()), (1_500, 1_500));
    assert!(producer.reserve(501).now_or_never().is_none());
    // Less than reserved: the surplus is free again.
    let delivery = permit.send(record(0)).unwrap();
    assert!(producer.buffered_bytes() < 100);
    delivery.await.unwrap();
    // More than reserved: as much as is free.
    let permit = producer.reserve(10).await.unwrap();
    let held = producer.reserve(1_500).await.unwrap();
    let big = Record::to("t").value(vec![b'x'; 800]);
    assert_eq!(permit.send(big.clone()).unwrap_err(), TrySendError::Full(big.clone()));
    drop(held);
    producer.reserve(10).await.unwrap().send(big).unwrap().await.unwrap();
    assert_eq!(producer.buffered_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_partition_holds_a_quarter_of_the_window_and_the_other_goes_on() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("blocked", 1);
    cluster.create_topic("free", 1);
    let window = 40_000;
    cluster.faults(|faults| faults.window_bytes = window);
    let producer = cluster
        .client()
        .await
        .producer()
        .batch_size(1_000)
        .compression(crate::Compression::None)
        .build()
        .await
        .unwrap();
    let value = "x".repeat(900);
    // The broker knows the producer by now.
    producer.send(Record::to("blocked").value("first")).await.unwrap().await.unwrap();
    cluster.hold_acks("blocked", 0, true).await;
    for _ in 0..200 {
        producer.send(Record::to("blocked").value(value.clone())).await.unwrap().detach();
    }
    tokio::time::sleep(SECOND).await;
    let blocked = cluster.values("blocked", 0).len() - 1;
    assert!((9..=10).contains(&blocked), "{blocked} batches of 1000 bytes");
    for _ in 0..200 {
        producer.send(Record::to("free").value(value.clone())).await.unwrap().await.unwrap();
    }
    cluster.hold_acks("blocked", 0, false).await;
    producer.flush().await.unwrap();
    assert_eq!(cluster.values("blocked", 0).len(), 201);
}

#[tokio::test(start_paused = true)]
async fn flush_covers_what_was_sent_before_and_close_refuses_what_comes_after() {
    let cluster = TestCluster::start(2);
    cluster.create_topic("t", 4);
    cluster.faults(|faults| faults.ack_delay = SECOND);
    let client = cluster.client().await;
    let producer = client.producer().linger(Duration::from_secs(60)).build().await.unwrap();
    for n in 0..100 {
        producer.send(record(n).partition(n as u32 % 4)).await.unwrap().detach();
    }
    producer.flush().await.unwrap();
    let stored: usize = (0..4).map(|p| cluster.values("t", p).len()).sum();
    assert_eq!((stored, producer.buffered_bytes()), (100, 0));

    let delivery = producer.send(record(100)).await.unwrap();
    let clone = producer.clone();
    let waiting_permit = producer.reserve(32 << 20);
    producer.close(10 * SECOND).await.unwrap();
    delivery.await.unwrap();
    assert_eq!(waiting_permit.await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(clone.send(record(7)).await.unwrap_err().into_record(), record(7));
    assert!(matches!(clone.try_send(record(7)), Err(TrySendError::Closed(_))));
    clone.close(SECOND).await.unwrap();
    clone.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_close_that_runs_out_of_time_says_how_many_and_answers_each() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 2);
    cluster.hold_acks("t", 0, true).await;
    let client = cluster.client().await;
    let producer = client.producer().batch_size(10).max_in_flight(1).build().await.unwrap();
    let sent = producer.send(record(0).partition(0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let unsent = producer.send(record(1).partition(0)).await.unwrap();
    let start = clock::now();
    let error = producer.close(3 * SECOND).await.unwrap_err();
    assert_eq!(clock::now() - start, 3 * SECOND);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("2 records"), "{error}");
    assert!(!sent.await.unwrap_err().is_definite(), "it was on the wire");
    assert!(unsent.await.unwrap_err().is_definite(), "it never was");
    assert_eq!(producer.buffered_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_dropped_leaves_the_records_on_their_way() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    cluster.faults(|faults| faults.ack_delay = SECOND);
    let producer = cluster.client().await.producer().build().await.unwrap();
    let deliveries = join_all((0..20).map(|n| producer.send(record(n)))).await;
    let shared = Arc::downgrade(producer.shared());
    drop(producer);
    for delivery in deliveries {
        delivery.unwrap().await.unwrap();
    }
    assert_eq!(cluster.values("t", 0), numbers(20));
    tokio::time::sleep(SECOND).await;
    assert!(shared.upgrade().is_none(), "the background task has ended");
}

#[tokio::test(start_paused = true)]
async fn a_sink_takes_a_stream_and_reports_failures_when_flushed() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let producer =
        client.producer().buffer_memory(2_000).max_request_size(2_000).build().await.unwrap();
    let mut sink = producer.sink();
    let records = futures::stream::iter((0..500).map(record)).map(Ok);
    sink.send_all(&mut records.boxed()).await.unwrap();
    assert_eq!(cluster.values("t", 0), numbers(500));
    sink.send(Record::to("nowhere")).await.unwrap_err();
    sink.close().await.unwrap();
    assert!(sink.feed(record(1)).await.is_err(), "closed");
}

#[tokio::test]
async fn every_codec_arrives_and_without_a_runtime_there_is_an_error() {
    let cluster = TestCluster::start(1);
    let client = cluster.client().await;
    for codec in crate::Compression::ALL {
        let topic = codec.to_string();
        cluster.create_topic(&topic, 1);
        let producer = client.producer().compression(codec).build().await.unwrap();
        for _ in 0..100 {
            let record = Record::to(topic.as_str()).value("again and again and again");
            producer.send(record).await.unwrap().detach();
        }
        producer.close(10 * SECOND).await.unwrap();
        assert_eq!(cluster.values(&topic, 0), ["again and again and again"; 100]);
    }
    let built = std::thread::spawn(move || client.producer().build().now_or_never().unwrap());
    assert_eq!(built.join().unwrap().unwrap_err().kind(), ErrorKind::InvalidArgument);
}
