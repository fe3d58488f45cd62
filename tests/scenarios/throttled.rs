//! Moves under a throttle: replicas that are being added are held back and nobody else is, whoever asks
//! is told so, and why the move gains nothing; once the throttle is lifted the move ends.

use riverrun_client::{Acks, Admin, Arrival, BrokerId};
use riverrun_tests::{
    files, http,
    load::{self, Load, Shape},
    raw::Raw,
    wait,
};

use crate::{
    nodes::Nodes,
    operating::{
        RECORDS_PER_ROUND, TOPIC, assert_copies_equal, assert_kept, described, ids, make,
        put_on_one_two_three, until_well, wire_topic,
    },
};

/// Bytes a second. What the producers write is more than that on any machine.
const THROTTLE: u64 = 1024;
const FOUR: BrokerId = BrokerId(4);

async fn arrivals(admin: &Admin) -> Vec<Arrival> {
    described(admin, 0).await.arrivals()
}

/// What all brokers have counted.
async fn counted(nodes: &Nodes, series: &str) -> f64 {
    let mut total = 0.0;
    for node in nodes.up() {
        total += http::metrics(nodes.node(node).http()).await.value(series);
    }
    total
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_move_costs_nobody_anything_and_ends_once_the_throttle_is_lifted() {
    let mut nodes = Nodes::voting(4);
    nodes.until_all_take_part().await;
    let admin = nodes.client().await.admin();
    make(&admin, TOPIC, 1, &[("min.insync.replicas", "2"), ("durability", "memory")]).await;
    put_on_one_two_three(&admin).await;
    let topic = wire_topic(&nodes).await;
    let shape = Shape { topic: topic.clone(), producers: 2, readers: 1, acks: Acks::All };
    let load = Load::start_on(nodes.addresses(), shape).await;
    // More than what passes at once: one push, whatever the throttle.
    wait::until("there is a history", async || {
        let report = described(&admin, 0).await;
        let own = report.copies.iter().find(|(id, _)| Some(*id) == report.partition.leader);
        own.is_some_and(|(_, copy)| copy.as_ref().is_ok_and(|copy| copy.size_bytes > 4 << 20))
    })
    .await;

    let level = admin.describe_cluster().await.expect("all are up").feature_level;
    assert_eq!(admin.throttle_moves(None).await.expect("there is none"), None);
    let refused = admin.throttle_moves(Some(0)).await.expect_err("it would never end");
    assert!(refused.is_definite() && refused.to_string().contains("stand still"), "{refused}");
    let before = admin.describe_cluster().await.expect("all are up");
    assert_eq!((before.feature_level, before.move_throttle), (level, None), "nothing has changed");
    assert_eq!(admin.throttle_moves(Some(THROTTLE)).await.expect("set"), Some(THROTTLE));
    for node in 1..=4 {
        let told =
            |cluster: &riverrun_client::ClusterDescription| cluster.move_throttle == Some(THROTTLE);
        nodes.until(node, "every broker knows", told).await;
    }

    // The leader's place is one of those that move.
    admin.reassign_partition((TOPIC, 0), &ids(&[4, 2, 3]), None).await.expect("all are there");
    wait::until("whoever asks is told that it gains nothing", async || {
        let arrivals = arrivals(&admin).await;
        arrivals.iter().any(|arrival| {
            arrival.id == FOUR
                && arrival.connected
                && arrival.throttle == Some(THROTTLE)
                && arrival.records.is_some_and(|records| records > 0)
                && arrival.gains_nothing()
                && arrival.to_string().contains("gains nothing")
        })
    })
    .await;
    wait::until("it is held back", async || {
        counted(&nodes, "riverrun_move_send_waits_total").await > 0.0
    })
    .await;
    load.progress(RECORDS_PER_ROUND).await;

    // One that was in sync, and was away for a while, has caught up before the one that is added has.
    nodes.kill(3);
    load.progress(RECORDS_PER_ROUND).await;
    nodes.start(3);
    wait::until("the restarted one is in sync", async || {
        described(&admin, 0).await.partition.in_sync_replicas.contains(&BrokerId(3))
    })
    .await;
    load.progress(RECORDS_PER_ROUND).await;
    let report = described(&admin, 0).await;
    assert_eq!(report.partition.reassignment, Some((ids(&[1, 2, 3]), ids(&[4, 2, 3]))));
    assert!(!report.partition.in_sync_replicas.contains(&FOUR));
    let [held] = &report.arrivals()[..] else { panic!("{report:?}") };
    assert!(held.gains_nothing() && held.records.is_some_and(|records| records > 0), "{held}");
    let hindrances = report.explain().hindrances;
    let waits_for_four = hindrances.iter().any(|what| what.brokers().contains(&FOUR));
    assert!(!waits_for_four, "nobody waits for it: {hindrances:?}");

    assert_eq!(admin.throttle_moves(None).await.expect("lifted"), None);
    until_well(&admin).await;
    load.progress(RECORDS_PER_ROUND).await;
    assert_kept(&load.finish().await.history());
    let moved = described(&admin, 0).await;
    assert_eq!(moved.partition.replicas, ids(&[4, 2, 3]));
    assert_eq!(moved.arrivals(), []);
    let gone = files::partition_dir(nodes.data(1), &topic, 0);
    wait::until("the old copy is removed", async || !gone.exists()).await;
    assert!(counted(&nodes, "riverrun_move_received_bytes_total").await > 0.0);
    let brokers: Vec<_> = nodes.addresses().iter().map(|address| Raw::lazy(address)).collect();
    let leader = load::leader(&brokers, &topic, 0).await;
    let end = leader.latest(&topic, 0).await.expect("it leads");
    nodes.stop_all();
    assert_copies_equal(&nodes, &topic, 0, &[4, 2, 3], end);
}
