//! Brokers restarted one after the other by whoever looks at `/readyz` alone.

use riverrun_proto::rpc::v1;
use riverrun_tests::{http, wait};

use crate::cut_off::{Scene, TOPIC};

/// It serves, and takes part; but whoever stopped another broker now would leave too few in sync.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_ready_after_a_restart_only_when_its_replicas_are_in_sync_again() {
    // Some partition is led by a node that does not lead the quorum.
    let Some(mut scene) = Scene::set(3, &[], None).await else { return };
    let described = scene.cluster.admin().await.describe_cluster().await.expect("all are up");
    let quorum_leader = described.leader.expect("somebody leads").0 as usize;
    let [leader, restarted] = [1, 2].map(|n| (quorum_leader + n - 1) % 3 + 1);
    let is_led = |p: &&v1::Partition| p.leader == Some(u32::try_from(leader).expect("it is few"));
    let topic = scene.cluster.raw(leader).topic(TOPIC).await.expect("it exists");
    let partition = topic.partitions.iter().find(is_led).expect("each leads one").partition;

    scene.cluster.stop(restarted).await;
    let value = ["written while it was away"];
    scene.cluster.raw(leader).produce(TOPIC, partition, &value).await.expect("two are in sync");
    for (from, to) in [(leader, restarted), (restarted, leader)] {
        scene.cluster.links().cut(from, to);
    }
    scene.cluster.spawn(restarted).await;
    scene.cluster.settle().await;
    let http = scene.cluster.process(restarted).http();
    wait::until("it takes part, and says what it lacks", async || {
        let (status, why) = http::get(http, "/readyz").await;
        assert_eq!(status, 503, "{why}");
        why.contains("not in sync again since it started")
    })
    .await;
    for (from, to) in [(leader, restarted), (restarted, leader)] {
        scene.cluster.links().heal(from, to);
    }
    wait::until("it is ready", async || http::get(http, "/readyz").await.0 == 200).await;
    let told = scene.cluster.raw(restarted).partitions(TOPIC).await.expect("it serves");
    let me = u32::try_from(restarted).expect("it is few");
    assert!(told.iter().all(|p| p.in_sync_replicas.contains(&me)), "{told:#?}");
}
