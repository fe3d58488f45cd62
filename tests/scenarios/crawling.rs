//! A follower that takes part and is too slow: not down, not cut off, its heartbeats arrive. It costs
//! producers `replica.lag.time.max.ms`, then its place in the ISR, once; and nobody a record. Whether it
//! does not take `replica.lag.bytes.max` in that time, or does and is still much slower than all others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use riverrun_client::{
    Acks, Admin, BrokerId, BrokerPresence, Client, Compression, Delivery, PartitionReport, Record,
};
use riverrun_tests::{
    cluster::presence,
    load::{Load, Shape},
    wait,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::cut_off::{Scene, TOPIC};

/// What the line to the follower carries in a second: less than what the producers have on their way
/// at any time in the three seconds after which it leaves, and enough for the metadata log.
const CRAWL_BYTES_PER_S: u64 = 20_000;

/// Producers, and the pause of each after a record: many, so that much is on its way; slow, so that
/// the history stays small.
const PRODUCERS: u32 = 12;
const PACE: Duration = Duration::from_millis(2);

/// Records acknowledged before, and in each look at whether anything has changed after.
const RECORDS: usize = 2_000;

async fn report(admin: &Admin) -> PartitionReport {
    admin.describe_partition((TOPIC, 0)).await.expect("all are there")
}

/// Whom `explain` holds responsible.
fn named(report: &PartitionReport) -> Vec<BrokerId> {
    report.explain().hindrances.iter().flat_map(riverrun_client::Hindrance::brokers).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawling_follower_is_named_and_leaves_the_isr_once() {
    let Some(scene) = Scene::set(1, &[("durability", "memory")], None).await else { return };
    let topic = scene.topic.clone();
    let shape = Shape { topic, producers: PRODUCERS, readers: 2, acks: Acks::All };
    let load = Load::start_paced(scene.cluster.addresses(), shape, PACE).await;
    load.progress(RECORDS).await;
    let admin = scene.cluster.admin().await;
    let leader = scene.cluster.leader_of(TOPIC, 0).await;
    let follower = leader % 3 + 1;
    let crawls = BrokerId(u32::try_from(follower).expect("one of three"));
    let before = report(&admin).await.partition;

    scene.cluster.links().slow(leader, follower, CRAWL_BYTES_PER_S);
    wait::until("the crawling one is named, and nobody else", async || {
        let report = report(&admin).await;
        report.partition.in_sync_replicas.len() == 3 && named(&report) == [crawls]
    })
    .await;
    scene.cluster.until_in_sync(TOPIC, 2).await;
    // It goes on crawling, and nobody waits for it: it does not come back to leave again.
    for _ in 0..5 {
        load.progress(RECORDS).await;
        let report = report(&admin).await;
        assert!(!named(&report).contains(&crawls), "{:?}", report.explain());
        let now = report.partition;
        assert!(!now.in_sync_replicas.contains(&crawls), "{now:?}");
        assert_eq!(now.partition_epoch, before.partition_epoch + 1, "one change: {now:?}");
        assert_eq!(now.leader_epoch, before.leader_epoch, "nobody else was elected: {now:?}");
    }
    let cluster = admin.describe_cluster().await.expect("all are there");
    assert_eq!(presence(&cluster, follower), Some(BrokerPresence::Active), "it was not fenced");

    scene.cluster.links().heal_all();
    scene.end(load).await;
}

/// The budget, and what the line carries in a second: all of the budget in less than the three seconds
/// after which the follower would leave if it did not take it.
const SMALL_BUDGET: &str = "4MiB";
const SLOW_BYTES_PER_S: u64 = 2 << 20;

/// Producers that write as fast as they may, 2 MiB on the way of each: more than the budget.
const FLOODING: usize = 4;
const VALUE_BYTES: usize = 16 << 10;

/// Writes until it is told to stop; every record is acknowledged.
async fn flood(client: Client, acked: Arc<AtomicUsize>, stop: Arc<AtomicBool>) {
    let producer = client.producer().compression(Compression::None).buffer_memory(4 << 20);
    let producer = producer.build().await.expect("valid settings");
    let value = bytes::Bytes::from(vec![7; VALUE_BYTES]);
    let (sent, mut answers) = mpsc::channel::<Delivery>(1024);
    let answering = async {
        while let Some(delivery) = answers.recv().await {
            delivery.await.expect("nothing fails");
            acked.fetch_add(1, Ordering::SeqCst);
        }
    };
    let sending = async {
        while !stop.load(Ordering::SeqCst) {
            let record = Record::to(TOPIC).value(value.clone());
            sent.send(producer.send(record).await.expect("it is taken")).await.expect("listens");
        }
        drop(sent);
    };
    tokio::join!(answering, sending);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_alone_makes_producers_wait_is_let_go_once() {
    let small = [("replica.lag.bytes.max", SMALL_BUDGET)];
    let configs = [("durability", "memory"), ("retention.bytes", "256MiB")];
    let Some(scene) = Scene::set_with(&small, 1, &configs, None).await else { return };
    let admin = scene.cluster.admin().await;
    let leader = scene.cluster.leader_of(TOPIC, 0).await;
    let follower = leader % 3 + 1;
    let slow = BrokerId(u32::try_from(follower).expect("one of three"));
    let before = report(&admin).await.partition;
    let (acked, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let mut flooding = JoinSet::new();
    for _ in 0..FLOODING {
        let client = Client::builder().bootstrap_servers(scene.cluster.addresses()).build().await;
        let client = client.expect("valid settings");
        flooding.spawn(flood(client, Arc::clone(&acked), Arc::clone(&stop)));
    }
    let progress = async |records: usize| {
        let enough = acked.load(Ordering::SeqCst) + records;
        let has = async || acked.load(Ordering::SeqCst) >= enough;
        wait::until("more records are acknowledged", has).await;
    };
    progress(RECORDS).await;
    assert_eq!(report(&admin).await.partition.in_sync_replicas.len(), 3);

    scene.cluster.links().slow(leader, follower, SLOW_BYTES_PER_S);
    scene.cluster.until_in_sync(TOPIC, 2).await;
    for _ in 0..3 {
        progress(RECORDS).await;
        let now = report(&admin).await.partition;
        assert!(!now.in_sync_replicas.contains(&slow), "{now:?}");
        assert_eq!(now.partition_epoch, before.partition_epoch + 1, "one change: {now:?}");
        assert_eq!(now.leader_epoch, before.leader_epoch, "nobody else was elected: {now:?}");
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = flooding.join_next().await {
        ended.expect("no record failed");
    }
    scene.cluster.links().heal_all();
    scene.cluster.until_in_sync(TOPIC, 3).await;
    scene.cluster.assert_replicas_equal(&scene.topic).await;
}
