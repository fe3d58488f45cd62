//! The producer against the test cluster while things break.

use std::time::Duration;

use futures::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use riverrun_proto::reason::Reason;

use super::*;
use crate::{
    clock,
    test_broker::{AppendFault, TestCluster, error},
};

const SECOND: Duration = Duration::from_secs(1);

fn record(n: usize) -> Record {
    Record::to("t").value(n.to_string())
}

fn numbers(to: usize) -> Vec<String> {
    (0..to).map(|n| n.to_string()).collect()
}

/// A batch per record, so that each record is a message of its own.
async fn one_by_one(cluster: &TestCluster) -> Producer {
    let client = cluster.client().await;
    client.producer().batch_size(1).build().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_connection_may_break_at_any_batch() {
    const BATCHES: usize = 12;
    for n in 1..=BATCHES as u64 {
        for fault in [AppendFault::CutBefore, AppendFault::CutAfter] {
            let cluster = TestCluster::start(1);
            cluster.create_topic("t", 1);
            cluster.faults(|faults| {
                faults.at_append.insert(n, fault.clone());
            });
            let producer = one_by_one(&cluster).await;
            let sent = join_all((0..BATCHES).map(|n| producer.send(record(n)))).await;
            for (offset, delivery) in sent.into_iter().enumerate() {
                let place = delivery.unwrap().await.unwrap();
                assert_eq!(place.offset(), Some(offset as i64), "{fault:?} at {n}");
            }
            assert_eq!(cluster.values("t", 0), numbers(BATCHES), "{fault:?} at {n}");
            assert_eq!(cluster.state().seen.produce_streams, 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn any_answer_may_be_an_error_once() {
    const BATCHES: usize = 8;
    let faults = [
        AppendFault::Refuse(error(Reason::NotEnoughReplicas, true, true)),
        AppendFault::Refuse(error(Reason::ThrottlingQuotaExceeded, true, true)),
        AppendFault::StoreAndRefuse(error(Reason::NotEnoughReplicasAfterAppend, true, false)),
        AppendFault::StoreAndRefuse(error(Reason::RequestTimedOut, true, false)),
        AppendFault::Refuse(error(Reason::StorageFull, true, true)),
    ];
    for n in 1..=BATCHES as u64 {
        for fault in &faults {
            let cluster = TestCluster::start(1);
            cluster.create_topic("t", 1);
            cluster.faults(|faults| {
                faults.at_append.insert(n, fault.clone());
            });
            let producer = one_by_one(&cluster).await;
            for n in 0..BATCHES {
                producer.send(record(n)).await.unwrap().detach();
            }
            producer.flush().await.unwrap();
            assert_eq!(cluster.values("t", 0), numbers(BATCHES), "{fault:?} at {n}");
        }
    }
}

/// Seeded: order per partition and each record once, with 32 in flight, over two brokers whose
/// connections break, that refuse, store and deny, and answer out of order.
#[tokio::test(start_paused = true)]
async fn once_and_in_order_under_random_faults() {
    const RECORDS: usize = 400;
    const PARTITIONS: usize = 3;
    for seed in 0..40 {
        let cluster = TestCluster::start(2);
        cluster.create_topic("t", PARTITIONS as u32);
        cluster.change(|state| {
            for log in &mut state.topics.get_mut("t").unwrap().partitions {
                log.takes_any_first_sequence = seed % 2 == 1;
            }
        });
        cluster.faults(|faults| {
            faults.rng = StdRng::seed_from_u64(seed);
            faults.one_in = Some(12);
            faults.shuffle_acks = true;
            faults.ack_delay = Duration::from_millis(seed % 3);
        });
        let mut rng = StdRng::seed_from_u64(!seed);
        let client = cluster.client().await;
        let batch_size = rng.random_range(1..400);
        let producer = client
            .producer()
            .batch_size(batch_size)
            .linger(Duration::from_millis(rng.random_range(0..3)))
            .build()
            .await
            .unwrap();
        let mut expected = vec![Vec::new(); PARTITIONS];
        let mut deliveries = Vec::new();
        for n in 0..RECORDS {
            let partition = rng.random_range(0..PARTITIONS);
            expected[partition].push(n.to_string());
            let delivery = producer.send(record(n).partition(partition as u32)).await.unwrap();
            deliveries.push((partition, expected[partition].len() as i64 - 1, delivery));
            if rng.random_ratio(1, 20) {
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
            }
            if rng.random_ratio(1, 100) {
                let leader = rng.random_range(1..=2);
                cluster.move_leader("t", rng.random_range(0..PARTITIONS), leader);
            }
        }
        for (partition, offset, delivery) in deliveries {
            let place = delivery.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(place.partition(), partition as u32, "seed {seed}");
            assert_eq!(place.offset(), Some(offset), "seed {seed}");
        }
        for (partition, expected) in expected.iter().enumerate() {
            assert_eq!(&cluster.values("t", partition), expected, "seed {seed}");
        }
        assert_eq!(producer.buffered_bytes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_and_a_refresh_both_lead_to_the_new_leader() {
    let cluster = TestCluster::start(2);
    cluster.create_topic("t", 1);
    let producer = one_by_one(&cluster).await;
    producer.send(record(0)).await.unwrap().await.unwrap();
    let asked = cluster.state().seen.topic_requests;
    cluster.move_leader("t", 0, 2);
    let start = clock::now();
    producer.send(record(1)).await.unwrap().await.unwrap();
    assert_eq!(clock::now(), start, "a hint is followed at once");
    assert_eq!(cluster.state().seen.topic_requests, asked);
    // The leader is gone, and nobody is left to give hints: metadata tells.
    cluster.move_leader("t", 0, 1);
    cluster.stop(2);
    producer.send(record(2)).await.unwrap().await.unwrap();
    assert_eq!(cluster.values("t", 0), numbers(3));
}

/// The metadata names it until it is missed, and another is elected: whatever a producer waits after that
/// is an outage of its own making.
#[tokio::test(start_paused = true)]
async fn a_leader_that_died_is_asked_about_until_another_is_elected() {
    for election in [100, 500, 700, 1_500, 3_000, 5_900].map(Duration::from_millis) {
        let cluster = TestCluster::start(2);
        cluster.create_topic("t", 1);
        let producer = one_by_one(&cluster).await;
        producer.send(record(0)).await.unwrap().await.unwrap();
        let asked = cluster.state().seen.topic_requests;
        cluster.stop(1);
        let delivery = producer.send(record(1)).await.unwrap();
        tokio::time::sleep(election).await;
        let elected = clock::now();
        cluster.move_leader("t", 0, 2);
        delivery.await.unwrap();
        let waited = clock::now() - elected;
        assert!(waited <= Duration::from_millis(250), "{waited:?} after {election:?}");
        let asked = cluster.state().seen.topic_requests - asked;
        assert!(asked < 100, "{asked} requests in {election:?}");
    }
}

/// It says that it leads, and answers nothing: its followers do not hear it. The others know better.
#[tokio::test(start_paused = true)]
async fn a_leader_that_was_cut_off_is_left_long_before_a_request_times_out() {
    let cluster = TestCluster::start(3);
    cluster.create_topic("t", 1);
    let producer = one_by_one(&cluster).await;
    producer.send(record(0)).await.unwrap().await.unwrap();
    cluster.hold_acks("t", 0, true).await;
    let delivery = producer.send(record(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    cluster.change(|state| {
        let log = &mut state.topics.get_mut("t").unwrap().partitions[0];
        assert_eq!(log.leader, Some(1));
        state.faults.cut_off = Some((1, log.leader_epoch));
        log.lead(2);
        // What it holds back stays held.
        log.hold_acks = false;
    });
    let start = clock::now();
    assert!(delivery.await.unwrap().is_duplicate(), "it was committed, as it happens");
    for n in 2..6 {
        producer.send(record(n)).await.unwrap().await.unwrap();
    }
    let waited = clock::now() - start;
    assert!(waited < 10 * SECOND, "{waited:?}");
    assert_eq!(cluster.values("t", 0), numbers(6));
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_records_wait_for_one() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let set_leader = |leader| {
        cluster.change(|state| {
            let log = &mut state.topics.get_mut("t").unwrap().partitions[0];
            log.leader = leader;
        });
    };
    set_leader(None);
    let producer = one_by_one(&cluster).await;
    let delivery = producer.send(record(0)).await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    let asked = cluster.state().seen.topic_requests;
    assert!((10..100).contains(&asked), "{asked} requests in ten seconds");
    set_leader(Some(1));
    delivery.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_down_is_not_stormed_and_the_delivery_times_out_definitely() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 4);
    let client = cluster.client().await;
    let producer = client
        .producer()
        .request_timeout(5 * SECOND)
        .delivery_timeout(60 * SECOND)
        .build()
        .await
        .unwrap();
    producer.send(record(0).partition(0)).await.unwrap().await.unwrap();
    cluster.stop(1);
    tokio::time::sleep(SECOND).await;
    let before = cluster.dials();
    let start = clock::now();
    let sent = join_all((0..400).map(|n| producer.send(record(n).partition(n as u32 % 4)))).await;
    for delivery in sent {
        let error = delivery.unwrap().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.is_definite() && error.is_retriable(), "{error}");
    }
    let waited = clock::now() - start;
    assert!((60 * SECOND..66 * SECOND).contains(&waited), "{waited:?}");
    let dials = cluster.dials() - before;
    assert!(dials < 1_000, "{dials} connections tried in a minute");
    assert_eq!(producer.buffered_bytes(), 0);
    // It goes on when the broker is back.
    cluster.restart(1);
    producer.send(record(1).partition(1)).await.unwrap().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_asked_for_again_and_then_times_out_indefinitely() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    cluster.hold_acks("t", 0, true).await;
    let client = cluster.client().await;
    let producer = client
        .producer()
        .request_timeout(5 * SECOND)
        .delivery_timeout(20 * SECOND)
        .build()
        .await
        .unwrap();
    let lost = producer.send(record(0)).await.unwrap();
    let error = lost.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.is_definite());
    let streams = cluster.state().seen.produce_streams;
    assert!((3..=4).contains(&streams), "a dead connection is replaced: {streams}");
    // One request timeout later the answer is there.
    let delivery = producer.send(record(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    cluster.hold_acks("t", 0, false).await;
    delivery.await.unwrap();
    assert_eq!(cluster.values("t", 0), numbers(2), "stored once, though sent four times");
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_slow_to_answer_does_not_cost_the_others_their_stream() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 2);
    cluster.hold_acks("t", 0, true).await;
    let client = cluster.client().await;
    let producer = client.producer().request_timeout(5 * SECOND).build().await.unwrap();
    let slow = producer.send(record(0).partition(0)).await.unwrap();
    for n in 0..8 {
        producer.send(record(n).partition(1)).await.unwrap().await.unwrap();
        tokio::time::sleep(SECOND).await;
    }
    cluster.hold_acks("t", 0, false).await;
    assert!(!slow.await.unwrap().is_duplicate());
    assert_eq!(cluster.state().seen.produce_streams, 1);
    // But not for ever.
    cluster.hold_acks("t", 0, true).await;
    let lost = producer.send(record(1).partition(0)).await.unwrap();
    for n in 8..20 {
        producer.send(record(n).partition(1)).await.unwrap().await.unwrap();
        tokio::time::sleep(SECOND).await;
    }
    cluster.hold_acks("t", 0, false).await;
    lost.await.unwrap();
    assert!(cluster.state().seen.produce_streams >= 2);
    assert_eq!((cluster.values("t", 0), cluster.values("t", 1)), (numbers(2), numbers(20)));
}

#[tokio::test(start_paused = true)]
async fn a_final_refusal_costs_its_batch_and_no_other() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    cluster.faults(|faults| {
        let refusal = error(Reason::InvalidTimestamp, false, true);
        faults.at_append.insert(4, AppendFault::Refuse(refusal));
    });
    let producer = one_by_one(&cluster).await;
    let sent = join_all((0..10).map(|n| producer.send(record(n)))).await;
    let mut failed = Vec::new();
    for (n, delivery) in sent.into_iter().enumerate() {
        if let Err(error) = delivery.unwrap().await {
            assert!(error.is_definite() && error.is_reason(Reason::InvalidTimestamp), "{error}");
            failed.push(n);
        }
    }
    assert_eq!(failed, [3]);
    let expected: Vec<_> = numbers(10).into_iter().filter(|n| n != "3").collect();
    assert_eq!(cluster.values("t", 0), expected);
    assert_eq!(cluster.state().seen.producers, 2, "the gap in the sequence cost a new id");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_producer_goes_on_under_a_new_id() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let producer = one_by_one(&cluster).await;
    for n in 0..3 {
        producer.send(record(n)).await.unwrap().await.unwrap();
    }
    cluster.change(|state| {
        state.topics.get_mut("t").unwrap().partitions[0].forget_producers();
    });
    let sent = join_all((3..8).map(|n| producer.send(record(n)))).await;
    for delivery in sent {
        delivery.unwrap().await.unwrap();
    }
    assert_eq!(cluster.values("t", 0), numbers(8));
    assert_eq!(cluster.state().seen.producers, 2);
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_is_not_written_silently() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let producer = one_by_one(&cluster).await;
    producer.send(record(0)).await.unwrap().await.unwrap();
    cluster.create_topic("t", 1);
    let error = producer.send(record(1)).await.unwrap().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownTopic);
    assert!(error.is_definite());
    tokio::time::sleep(SECOND).await;
    producer.send(record(0)).await.unwrap().await.unwrap();
    assert_eq!(cluster.values("t", 0), numbers(1));
}

#[tokio::test(start_paused = true)]
async fn a_draining_broker_is_left_when_all_is_answered() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let control = riverrun_proto::rpc::v1::StreamControl { reconnect: true, throttle: None };
    cluster.faults(|faults| faults.control_after = Some((1, control)));
    cluster.hold_acks("t", 0, true).await;
    let producer = one_by_one(&cluster).await;
    let first = producer.send(record(0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let second = producer.send(record(1)).await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(cluster.values("t", 0), numbers(1), "nothing new on a draining stream");
    assert_eq!(cluster.state().seen.produce_streams, 1);
    cluster.hold_acks("t", 0, false).await;
    assert!(!first.await.unwrap().is_duplicate(), "the stream stayed until it was answered");
    second.await.unwrap();
    assert_eq!(cluster.values("t", 0), numbers(2));
    assert_eq!(cluster.state().seen.produce_streams, 2);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_stream_pauses() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    let throttle = Some(prost_types::Duration { seconds: 3, nanos: 0 });
    let control = riverrun_proto::rpc::v1::StreamControl { reconnect: false, throttle };
    cluster.faults(|faults| faults.control_after = Some((1, control)));
    let producer = one_by_one(&cluster).await;
    let start = clock::now();
    producer.send(record(0)).await.unwrap().await.unwrap();
    producer.send(record(1)).await.unwrap().await.unwrap();
    let waited = clock::now() - start;
    assert!((2 * SECOND..4 * SECOND).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn without_idempotence_no_id_is_asked_for_and_retries_may_repeat() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    cluster.faults(|faults| {
        faults.at_append.insert(2, AppendFault::CutAfter);
    });
    let client = cluster.client().await;
    let producer = client
        .producer()
        .enable_idempotence(false)
        .max_in_flight(1)
        .batch_size(1)
        .build()
        .await
        .unwrap();
    for n in 0..4 {
        producer.send(record(n)).await.unwrap().detach();
    }
    producer.flush().await.unwrap();
    assert_eq!(cluster.values("t", 0), ["0", "1", "1", "2", "3"]);
    assert_eq!(cluster.state().seen.producers, 0);
}

#[tokio::test(start_paused = true)]
async fn order_of_answers_is_order_of_sending() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t", 1);
    cluster.faults(|faults| {
        let unsure = error(Reason::RequestTimedOut, true, false);
        faults.at_append.insert(1, AppendFault::StoreAndRefuse(unsure));
    });
    let producer = one_by_one(&cluster).await;
    let (tx, mut rx) = tokio::sync::mpsc::channel(100);
    for n in 0..20 {
        let delivery = producer.send(record(n)).await.unwrap();
        let tx = tx.clone();
        tokio::spawn(async move {
            delivery.await.unwrap();
            tx.send(n).await.unwrap();
        });
    }
    drop(tx);
    let mut order = Vec::new();
    while let Some(n) = rx.recv().await {
        order.push(n);
    }
    assert_eq!(order, (0..20).collect::<Vec<_>>());
}
