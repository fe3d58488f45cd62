//! A follower that takes part and is too slow: not down, not cut off, its heartbeats arrive. It costs
//! producers `replica.lag.time.max.ms`, then its place in the ISR, once; and nobody a record.

use std::time::Duration;

use riverrun_client::{Acks, Admin, BrokerId, BrokerPresence, PartitionReport};
use riverrun_tests::{
    cluster::presence,
    load::{Load, Shape},
    wait,
};

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
