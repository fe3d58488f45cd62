//! What operators do to a cluster that is in use: elect, move, drain, remove, rebalance, ask why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use riverrun_client::{
    Acks, Admin, Behind, BrokerId, BrokerPresence, Election, Hindrance, NoLeader,
    PartitionDescription, PartitionFilter, PartitionReport,
};
use riverrun_proto::rpc::v1;
use riverrun_tests::{
    checker, files,
    history::Outcome,
    load::{self, Load, Shape},
    raw::Raw,
    wait,
};
use rustix::process::Signal;

use crate::nodes::{Nodes, presence};

pub(crate) const TOPIC: &str = "kept";
pub(crate) const RECORDS_PER_ROUND: usize = 2_000;

pub(crate) fn ids(ids: &[u32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

pub(crate) async fn make(admin: &Admin, name: &str, partitions: u32, configs: &[(&str, &str)]) {
    let topic = admin.create_topic(name).partitions(partitions).replication_factor(3);
    let topic = configs.iter().fold(topic, |topic, (key, value)| topic.config(*key, *value));
    topic.send().await.expect("three are there");
}

async fn all(admin: &Admin, filter: PartitionFilter) -> Vec<PartitionDescription> {
    admin.list_partitions(None, filter).await.expect("somebody answers")
}

pub(crate) async fn described(admin: &Admin, partition: u32) -> PartitionReport {
    admin.describe_partition((TOPIC, partition)).await.expect("somebody answers")
}

/// Waits until all partitions are led, and whole, and nothing is moved.
pub(crate) async fn until_well(admin: &Admin) {
    wait::until("all is well and nothing moves", async || {
        all(admin, PartitionFilter::NotWell).await.is_empty()
            && all(admin, PartitionFilter::Reassigning).await.is_empty()
    })
    .await;
}

/// Sees to it that partition 0 is on brokers 1, 2 and 3, preferred in that order.
pub(crate) async fn put_on_one_two_three(admin: &Admin) {
    let wanted = ids(&[1, 2, 3]);
    until_well(admin).await;
    if described(admin, 0).await.partition.replicas != wanted {
        admin.reassign_partition((TOPIC, 0), &wanted, None).await.expect("all are there");
        until_well(admin).await;
    }
}

/// What a load saw was sound, and nothing was left unknown.
pub(crate) fn assert_kept(history: &riverrun_tests::history::History) {
    checker::assert_sound(history);
    let acked = history.sent.iter().filter(|s| matches!(s.outcome, Outcome::Acked(_))).count();
    assert_eq!(acked, history.sent.len(), "producers ride through");
}

pub(crate) async fn wire_topic(nodes: &Nodes) -> v1::Topic {
    let raw = Raw::connect(&nodes.addresses()[0]).await;
    raw.topic(TOPIC).await.expect("it was just made")
}

/// The batches of a partition on the disk of each of `on`, below `end`, are the same.
pub(crate) fn assert_copies_equal(
    nodes: &Nodes,
    topic: &v1::Topic,
    partition: i32,
    on: &[u32],
    end: i64,
) {
    let copies: Vec<Vec<(i64, Vec<u8>)>> = on
        .iter()
        .map(|node| {
            let dir = files::partition_dir(nodes.data(*node as usize), topic, partition);
            let mut batches = files::batches(&dir);
            batches.retain(|(base, _)| *base < end);
            batches
        })
        .collect();
    assert!(!copies[0].is_empty(), "something was written");
    for (node, copy) in on.iter().zip(&copies).skip(1) {
        assert!(*copy == copies[0], "partition {partition} of node {node}, byte for byte");
    }
}

/// Replicas go to a broker that had none, the leader's place included, while producers write and
/// consumers read; the copy that is let go is removed.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_move_under_load_and_arrive_byte_for_byte() {
    let mut nodes = Nodes::voting(4);
    nodes.until_all_take_part().await;
    let admin = nodes.client().await.admin();
    make(&admin, TOPIC, 2, &[("min.insync.replicas", "2")]).await;
    let topic = wire_topic(&nodes).await;
    let shape = Shape { topic: topic.clone(), producers: 2, readers: 2, acks: Acks::All };
    let load = Load::start_on(nodes.addresses(), shape).await;
    load.progress(RECORDS_PER_ROUND).await;

    // Each to a set that leaves out whoever is preferred now, and takes in whoever has no copy.
    let mut wanted = BTreeMap::new();
    for p in all(&admin, PartitionFilter::All).await {
        let outside = (1..=4).map(BrokerId).find(|id| !p.replicas.contains(id)).expect("3 of 4");
        let to = vec![outside, p.replicas[2], p.replicas[1]];
        let begun = admin.reassign_partition(p.id(), &to, Some(p.partition_epoch)).await;
        let begun = begun.expect("all are there");
        assert!(begun.partition_epoch > p.partition_epoch);
        let again = admin.reassign_partition(p.id(), &to, Some(p.partition_epoch)).await;
        let stale = again.expect_err("it has changed since");
        assert!(stale.to_string().contains("changed since you looked"), "{stale}");
        wanted.insert(p.partition, (to, p.replicas[0]));
    }
    load.progress(RECORDS_PER_ROUND).await;
    until_well(&admin).await;
    load.progress(RECORDS_PER_ROUND).await;
    assert_kept(&load.finish().await.history());

    let brokers: Vec<_> = nodes.addresses().iter().map(|address| Raw::lazy(address)).collect();
    let mut ends = BTreeMap::new();
    for p in all(&admin, PartitionFilter::All).await {
        let (to, gone) = &wanted[&p.partition];
        assert_eq!((&p.replicas, p.reassignment), (to, None));
        assert_ne!(p.leader, Some(*gone), "it has no copy any more");
        let partition = p.partition.cast_signed();
        let leader = load::leader(&brokers, &topic, partition).await;
        ends.insert(partition, leader.latest(&topic, partition).await.expect("it leads"));
        let dir = files::partition_dir(nodes.data(gone.0 as usize), &topic, partition);
        wait::until("the old copy is removed", async || !dir.exists()).await;
    }
    nodes.stop_all();
    for (partition, end) in ends {
        let (to, _) = &wanted[&partition.cast_unsigned()];
        let on: Vec<_> = to.iter().map(|id| id.0).collect();
        assert_copies_equal(&nodes, &topic, partition, &on, end);
    }
}

/// A move to a broker that does not get on is given up, and everything is as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_taken_back() {
    let nodes = Nodes::voting(4);
    nodes.until_all_take_part().await;
    let admin = nodes.client().await.admin();
    make(&admin, TOPIC, 1, &[]).await;
    put_on_one_two_three(&admin).await;
    let none = admin.cancel_reassignment((TOPIC, 0)).await.expect_err("nothing is under way");
    assert_eq!(none.reason(), Some("NO_REASSIGNMENT_IN_PROGRESS"));
    nodes.node(1).raw().await.produce(TOPIC, 0, &["a", "b"]).await.expect("it leads");

    // Paused, it is still held to be there for a while.
    nodes.node(4).signal(Signal::STOP);
    let to = ids(&[4, 2, 3]);
    let begun = admin.reassign_partition((TOPIC, 0), &to, None).await.expect("it is there");
    assert_eq!(begun.reassignment, Some((ids(&[1, 2, 3]), to)));
    let back = admin.cancel_reassignment((TOPIC, 0)).await.expect("it is under way");
    assert_eq!((back.replicas, back.reassignment), (ids(&[1, 2, 3]), None));
    nodes.node(4).signal(Signal::CONT);
    until_well(&admin).await;

    for (to, reason) in [
        (vec![], "INVALID_REPLICA_ASSIGNMENT"),
        (ids(&[1, 1, 2]), "INVALID_REPLICA_ASSIGNMENT"),
        (ids(&[1]), "INVALID_REPLICA_ASSIGNMENT"),
        (ids(&[1, 2, 3]), "INVALID_REPLICA_ASSIGNMENT"),
        (ids(&[1, 2, 9]), "BROKER_ID_NOT_REGISTERED"),
    ] {
        let refused = admin.reassign_partition((TOPIC, 0), &to, None).await.unwrap_err();
        assert_eq!(refused.reason(), Some(reason), "{to:?}: {refused}");
        assert!(refused.is_definite() && !refused.is_retriable(), "{refused}");
    }
}

/// All machines of a partition lose power at once: nobody leads until somebody says whose copy counts,
/// and is told which copy is the best.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_loss_of_all_somebody_chooses_the_best_copy() {
    let mut nodes = Nodes::voting(3);
    nodes.until_all_take_part().await;
    let admin = nodes.client().await.admin();
    make(&admin, TOPIC, 1, &[("min.insync.replicas", "2")]).await;
    put_on_one_two_three(&admin).await;
    let leads = nodes.node(1).raw().await;
    leads.produce(TOPIC, 0, &["on all three"]).await.expect("it leads");
    let led = admin.elect_leader((TOPIC, 0), Election::Unclean(BrokerId(2)), None).await;
    assert_eq!(led.unwrap_err().reason(), Some("ELECTION_NOT_NEEDED"), "as long as 1 leads");

    nodes.kill(3);
    nodes.until(1, "it is fenced", |c| presence(c, 3) == Some(BrokerPresence::Fenced)).await;
    wait::until("two take more", async || {
        leads.produce(TOPIC, 0, &["on two of them"]).await.is_ok()
    })
    .await;
    let before = described(&admin, 0).await.partition;
    nodes.kill_all();
    // Another boot of the machine: what tells a kill from a power loss is gone.
    for node in 1..=3 {
        fs::remove_file(nodes.data(node).join("last-run")).expect("each run notes itself");
    }
    nodes.start_all();
    nodes.until_all_take_part().await;

    let report = described(&admin, 0).await;
    let p = &report.partition;
    assert_eq!((p.leader, &p.in_sync_replicas, &p.eligible_leaders), (None, &vec![], &vec![]));
    assert_eq!(p.last_known_eligible, ids(&[1, 2]));
    assert!(matches!(
        &report.explain().hindrances[..],
        [Hindrance::NoLeader(NoLeader::NobodySafe(of))] if *of == ids(&[1, 2])
    ));
    let end = |report: &PartitionReport, id: u32| {
        let copy = report.copies.iter().find(|(broker, _)| broker.0 == id).expect("a replica");
        copy.1.as_ref().expect("it is up").log_end_offset
    };
    assert!(end(&report, 3) < end(&report, 1), "the third lacks what came after it died");
    assert_eq!(end(&report, 1), end(&report, 2));
    assert_eq!(report.best_copy(), Some(BrokerId(1)));
    for election in [Election::Preferred, Election::Member(BrokerId(2))] {
        let refused = admin.elect_leader((TOPIC, 0), election, None).await.unwrap_err();
        assert!(refused.is_definite(), "{refused}");
        assert!(refused.to_string().contains("not in sync"), "{refused}");
    }
    let stale = Some(before.partition_epoch);
    let unclean = Election::Unclean(BrokerId(1));
    admin.elect_leader((TOPIC, 0), unclean, stale).await.expect_err("seen before all this");
    let seen = Some(p.partition_epoch);
    let elected = admin.elect_leader((TOPIC, 0), unclean, seen).await.expect("it is there");
    assert_eq!(elected.leader, Some(BrokerId(1)));
    assert_eq!(elected.unclean_leader_epoch, Some(elected.leader_epoch), "noted for good");
    until_well(&admin).await;
    let topic = wire_topic(&nodes).await;
    let texts = nodes.node(1).raw().await.read_out(&topic, 0).await.texts();
    assert_eq!(texts, ["on all three", "on two of them"], "nothing was lost");
    let said = |line: &serde_json::Value| line.to_string().contains("unclean election");
    let logged = (1..=3).any(|node| nodes.node(node).logged().iter().any(said));
    assert!(logged, "whoever was asked says so in its log");
}

/// What a restart has moved comes back by itself, once it is in sync.
#[tokio::test(flavor = "multi_thread")]
async fn leaders_come_back_to_where_they_belong() {
    let settings = [("controller.leader.imbalance.check.interval.ms", "500ms")];
    let mut nodes = Nodes::voting_with(3, &settings);
    nodes.until_all_take_part().await;
    let admin = nodes.client().await.admin();
    make(&admin, TOPIC, 3, &[("min.insync.replicas", "2")]).await;
    until_well(&admin).await;
    let topic = wire_topic(&nodes).await;
    let shape = Shape { topic, producers: 1, readers: 1, acks: Acks::All };
    let load = Load::start_on(nodes.addresses(), shape).await;
    load.progress(RECORDS_PER_ROUND).await;
    nodes.kill(2);
    wait::until("others lead all of it", async || {
        let all = all(&admin, PartitionFilter::All).await;
        all.iter().all(|p| p.leader.is_some_and(|leader| leader.0 != 2))
    })
    .await;
    let counts = admin.describe_cluster().await.expect("two are up").partitions;
    assert_eq!((counts.total, counts.not_preferred, counts.under_replicated), (3, 1, 3));
    load.progress(RECORDS_PER_ROUND).await;
    nodes.start(2);
    wait::until("all are led by whom they prefer", async || {
        let all = all(&admin, PartitionFilter::All).await;
        all.iter().all(|p| p.leader == p.replicas.first().copied())
    })
    .await;
    load.progress(RECORDS_PER_ROUND).await;
    assert_kept(&load.finish().await.history());
}

/// Carries a plan out, one move after another, until nothing is left of it.
async fn carry_out(admin: &Admin, off: Option<BrokerId>) -> usize {
    let mut copied = 0;
    loop {
        let plan = admin.plan_moves(off, 1).await.expect("somebody answers");
        assert_eq!(plan.stuck, 0);
        let Some(next) = plan.moves.first() else { return copied };
        copied += next.to.iter().filter(|id| !next.from.contains(id)).count();
        let of = (next.topic.as_str(), next.partition);
        let begun = admin.reassign_partition(of, &next.to, Some(next.partition_epoch)).await;
        begun.expect("planned on what there is");
        wait::until("the move is done", async || {
            all(admin, PartitionFilter::Reassigning).await.is_empty()
        })
        .await;
    }
}

/// A broker comes and gets its share; another goes, with everything it had, and is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_filled_drained_and_removed_under_load() {
    let mut nodes = Nodes::voting(4);
    nodes.until_all_take_part().await;
    let admin = nodes.client().await.admin();
    make(&admin, TOPIC, 6, &[("min.insync.replicas", "2")]).await;
    let four = BrokerId(4);
    carry_out(&admin, Some(four)).await;
    until_well(&admin).await;
    let topic = wire_topic(&nodes).await;
    let shape = Shape { topic, producers: 2, readers: 1, acks: Acks::All };
    let load = Load::start_on(nodes.addresses(), shape).await;
    load.progress(RECORDS_PER_ROUND).await;

    // 18 replicas on three: the fourth gets four of them, and no other moves.
    let plan = admin.plan_moves(None, 0).await.expect("somebody answers");
    assert!(!plan.moves.is_empty());
    let copied = carry_out(&admin, None).await;
    assert_eq!(copied, 4);
    let per_broker = |all: &[PartitionDescription]| {
        let mut counts = BTreeMap::new();
        let ids = all.iter().flat_map(|p| p.replicas.iter());
        ids.for_each(|id| *counts.entry(id.0).or_insert(0) += 1);
        counts.into_values().collect::<BTreeSet<_>>()
    };
    assert_eq!(per_broker(&all(&admin, PartitionFilter::All).await), BTreeSet::from([4, 5]));
    load.progress(RECORDS_PER_ROUND).await;

    let refused = admin.remove_broker(four).await.expect_err("it votes");
    assert!(refused.to_string().contains("remove-voter"), "{refused}");
    let drained = admin.drain_broker(four, true).await.expect("others can take over");
    assert!(drained.draining);
    wait::until("it leads nothing", async || {
        let cluster = admin.describe_cluster().await.expect("somebody answers");
        cluster.brokers.iter().all(|broker| broker.id != four || broker.leads == 0)
    })
    .await;
    load.progress(RECORDS_PER_ROUND).await;
    admin.remove_voter(four, None).await.expect("three are left");
    let refused = admin.remove_broker(four).await.expect_err("it is there");
    assert!(refused.to_string().contains("stop it"), "{refused}");
    assert_eq!(carry_out(&admin, None).await, 4, "back to where they came from, or elsewhere");
    nodes.running[3].take().expect("it runs").stop();
    wait::until("it is fenced and forgotten", async || match admin.remove_broker(four).await {
        Ok(()) => true,
        Err(refused) => {
            assert!(refused.is_definite(), "{refused}");
            false
        }
    })
    .await;
    let cluster = admin.describe_cluster().await.expect("three are up");
    let left: Vec<_> = cluster.brokers.iter().map(|broker| broker.id.0).collect();
    assert_eq!(left, [1, 2, 3]);
    assert!(cluster.nodes.iter().all(|node| node.id != four), "{:?}", cluster.nodes);
    let gone = admin.remove_broker(four).await.expect_err("once is enough");
    assert_eq!(gone.reason(), Some("BROKER_ID_NOT_REGISTERED"));
    load.progress(RECORDS_PER_ROUND).await;
    assert_kept(&load.finish().await.history());
    until_well(&admin).await;
    // New topics go to those that are left, and the log is read by a restart.
    make(&admin, "later", 3, &[]).await;
    nodes.kill(1);
    nodes.start(1);
    nodes.until(1, "it is back", |c| presence(c, 1) == Some(BrokerPresence::Active)).await;
    assert_eq!(nodes.admin(1).await.describe_cluster().await.expect("up").brokers.len(), 3);
}

/// The one replica that holds the high watermark back is named, and whether it is slow or away.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_the_high_watermark_back_is_named() {
    // Long enough that nobody leaves the ISR, or is fenced, before it was asked why.
    let nodes = Nodes::voting_with(
        3,
        &[("replica.lag.time.max.ms", "10m"), ("broker.session.timeout.ms", "5m")],
    );
    nodes.until_all_take_part().await;
    let admin = nodes.client().await.admin();
    make(&admin, TOPIC, 1, &[("min.insync.replicas", "2")]).await;
    put_on_one_two_three(&admin).await;
    let elected = admin.elect_leader((TOPIC, 0), Election::Member(BrokerId(2)), None).await;
    assert_eq!(elected.expect("it is in sync").leader, Some(BrokerId(2)));
    let already = admin.elect_leader((TOPIC, 0), Election::Member(BrokerId(2)), None).await;
    assert_eq!(already.unwrap_err().reason(), Some("ELECTION_NOT_NEEDED"));
    let back = admin.elect_leader((TOPIC, 0), Election::Preferred, None).await;
    assert_eq!(back.expect("it is in sync").leader, Some(BrokerId(1)));
    wait::until("the new leader takes records, all of which are committed", async || {
        let raw = nodes.node(1).raw().await;
        raw.produce(TOPIC, 0, &["a"]).await.is_ok()
    })
    .await;
    let well = described(&admin, 0).await.explain();
    assert!(well.hindrances.is_empty(), "{well:?}");
    assert_eq!(well.offsets.map(|(high_watermark, end)| high_watermark == end), Some(true));

    nodes.node(3).signal(Signal::STOP);
    let raw = nodes.node(1).raw().await;
    let waiting = tokio::spawn(async move { raw.produce(TOPIC, 0, &["b"]).await });
    let mut found = None;
    wait::until("somebody is named", async || {
        // The paused broker does not answer either; nobody waits for it for long.
        let explained = described(&admin, 0).await.explain();
        found = explained.hindrances.into_iter().next().filter(|_| {
            explained.uncommitted_for.is_some()
                && explained.offsets.is_some_and(|(high_watermark, end)| high_watermark < end)
        });
        found.is_some()
    })
    .await;
    let named = found.expect("it was waited for");
    assert_eq!((named.kind(), named.brokers()), ("follower_slow", ids(&[3])), "{named:?}");
    let Hindrance::Replica { why: Behind::Slow { records: 1, bytes: 1.. }, since: Some(_), .. } =
        named
    else {
        panic!("{named:?}")
    };
    nodes.node(3).signal(Signal::CONT);
    waiting.await.expect("no panic").expect("it was only a while");
    let well = described(&admin, 0).await.explain();
    assert!(well.hindrances.is_empty(), "{well:?}");
}
