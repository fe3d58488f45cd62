//! Brokers that are not heard: paused past their session, cut off one way or both, restarted in turn.
//! Whoever led acknowledges nothing any more, others go on, and afterwards all have the same.

use futures::StreamExt as _;
use riverrun_client::{Acks, Position};
use riverrun_proto::rpc::v1;
use riverrun_tests::{
    checker,
    cluster::{Blueprint, Cluster},
    history::Outcome,
    load::{Load, Shape},
    wait,
};
use tempfile::TempDir;

use crate::{data_dir, passed_over};

pub(crate) const TOPIC: &str = "kept";

/// Records before and after a fault.
const RECORDS: usize = 500;

/// Times that make whoever is not heard be missed soon.
const QUICK: [(&str, &str); 3] = [
    ("broker.session.timeout.ms", "1500ms"),
    ("replica.lag.time.max.ms", "3s"),
    ("produce.ack.timeout.ms", "2s"),
];

/// Three brokers on links that can be cut, and a topic on all of them.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) topic: v1::Topic,
    _dir: TempDir,
}

impl Scene {
    /// `None`, and why is said, if it is not to be had here. Node 1 has a disk of so many MiB, if any.
    pub(crate) async fn set(
        partitions: u32,
        configs: &[(&str, &str)],
        small_disk: Option<u64>,
    ) -> Option<Self> {
        Self::set_with(&[], partitions, configs, small_disk).await
    }

    /// As [`Scene::set`], with more settings of the brokers.
    pub(crate) async fn set_with(
        more: &[(&str, &str)],
        partitions: u32,
        configs: &[(&str, &str)],
        small_disk: Option<u64>,
    ) -> Option<Self> {
        let dir = data_dir();
        let few = [("broker.memory.budget", "64MiB"), ("log.reserve.bytes", "4MiB")];
        let windows = [("log.window.bytes.max", "1MiB")];
        let settings = QUICK.iter().chain(&few).chain(&windows).chain(more);
        let blueprint = Blueprint {
            binary: env!("CARGO_BIN_EXE_riverrun-under-test").into(),
            dir: dir.path().to_owned(),
            nodes: 3,
            settings: settings.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            small_disk: small_disk.map(|mib| (1, mib)),
        };
        let cluster = match Cluster::start(&blueprint).await {
            Ok(cluster) => cluster,
            Err(why) => {
                passed_over(&why);
                return None;
            }
        };
        let admin = cluster.admin().await;
        let topic = admin.create_topic(TOPIC).partitions(partitions).replication_factor(3);
        let topic = topic.config("min.insync.replicas", "2");
        let topic = configs.iter().fold(topic, |topic, (key, value)| topic.config(*key, *value));
        topic.send().await.expect("three are there");
        cluster.until_in_sync(TOPIC, 3).await;
        let topic = cluster.raw(1).topic(TOPIC).await.expect("it was just made");
        Some(Self { cluster, topic, _dir: dir })
    }

    async fn load(&self) -> Load {
        let shape = Shape { topic: self.topic.clone(), producers: 2, readers: 2, acks: Acks::All };
        let load = Load::start_on(self.cluster.addresses(), shape).await;
        load.progress(RECORDS).await;
        load
    }

    /// Waits until another than `old` leads the first partition, as those see it who are not cut off.
    async fn until_another_leads(&self, old: usize) -> usize {
        let mut leader = old;
        wait::until("another leads", async || {
            for node in (1..=3).filter(|node| *node != old) {
                let topic = self.cluster.raw(node).topic(TOPIC).await.expect("it exists");
                leader = topic.partitions[0].leader.map_or(old, |leader| leader as usize);
                if leader == old {
                    return false;
                }
            }
            true
        })
        .await;
        leader
    }

    /// A leader that is cut off acknowledges nothing, others go on, and it is a follower afterwards.
    async fn refuses_and_comes_back(&self, old: usize, load: &Load) {
        let refused = self.cluster.raw(old).produce(TOPIC, 0, &["never acknowledged"]).await;
        assert!(refused.is_err(), "nobody else has it: {refused:?}");
        load.progress(RECORDS).await;
        self.cluster.links().rejoin(old);
        self.cluster.until_in_sync(TOPIC, 3).await;
    }

    /// All is well again: nothing is lost, doubled, out of order or different, and every record that
    /// was sent was acknowledged.
    pub(crate) async fn end(self, load: Load) {
        load.progress(RECORDS).await;
        self.cluster.until_in_sync(TOPIC, 3).await;
        let history = load.finish().await.history();
        checker::assert_none(&checker::check(&history));
        let acked = history.sent.iter().filter(|s| matches!(s.outcome, Outcome::Acked(_))).count();
        assert_eq!(acked, history.sent.len(), "producers ride through");
        self.cluster.until_in_sync(TOPIC, 3).await;
        self.cluster.assert_replicas_equal(&self.topic).await;
    }
}

/// It thinks that it leads, its clients reach it, nobody else does.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_its_clients_go_on_elsewhere() {
    let Some(scene) = Scene::set(1, &[], None).await else { return };
    let load = scene.load().await;
    let old = scene.cluster.leader_of(TOPIC, 0).await;
    scene.cluster.links().isolate(old);
    scene.until_another_leads(old).await;
    scene.refuses_and_comes_back(old, &load).await;
    // The load's readers know no such record: they would say if it came back.
    scene.end(load).await;
}

/// Its consumers have all it has and reach it as ever: they would wait at its end for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_at_the_end_of_a_leader_that_is_cut_off_goes_to_the_next() {
    let Some(scene) = Scene::set(1, &[], None).await else { return };
    let old = scene.cluster.leader_of(TOPIC, 0).await;
    let client = scene.cluster.client().await;
    let assigned = client.consumer().assign([(TOPIC, 0, Position::Earliest)]);
    let mut consumer = assigned.build().await.expect("valid settings");
    let mut next = async || {
        let record = wait::soon("a record", consumer.next()).await.expect("it never ends");
        record.expect("nothing is wrong with it").value().map(<[u8]>::to_vec)
    };
    let produced = scene.cluster.raw(old).produce(TOPIC, 0, &["before"]).await;
    produced.expect("all are there");
    assert_eq!(next().await.as_deref(), Some(&b"before"[..]));

    scene.cluster.links().isolate(old);
    let new = scene.until_another_leads(old).await;
    let produced = scene.cluster.raw(new).produce(TOPIC, 0, &["after"]).await;
    produced.expect("two are in sync");
    assert_eq!(next().await.as_deref(), Some(&b"after"[..]), "read from the new leader");

    // What the old one has is as good as before, and it says that there may be more elsewhere.
    let fetched = scene.cluster.raw(old).fetch(&scene.topic, 0, 0, v1::ReadFormat::Records).await;
    assert_eq!((fetched.next_offset, fetched.others_may_lead), (Some(1), true), "{fetched:?}");
    scene.cluster.links().rejoin(old);
    wait::until("whoever leads has both, and is heard", async || {
        let leader = scene.cluster.raw(scene.cluster.leader_of(TOPIC, 0).await);
        let fetched = leader.fetch(&scene.topic, 0, 0, v1::ReadFormat::Records).await;
        (fetched.next_offset, fetched.others_may_lead) == (Some(2), false)
    })
    .await;
}

/// It wakes up after its session, and has heard of nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_paused_past_its_session_acknowledges_nothing_when_it_wakes_up_cut_off() {
    let Some(mut scene) = Scene::set(1, &[("durability", "disk")], None).await else { return };
    let load = scene.load().await;
    let old = scene.cluster.leader_of(TOPIC, 0).await;
    scene.cluster.pause(old);
    scene.until_another_leads(old).await;
    load.progress(RECORDS).await;
    scene.cluster.links().isolate(old);
    scene.cluster.go_on(old);
    scene.refuses_and_comes_back(old, &load).await;
    scene.end(load).await;
}

/// A follower that hears its leader and is not heard, and one that is heard and hears nothing, leave
/// the ISR, and come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_cut_one_way_costs_a_follower_its_place_and_no_record() {
    let Some(scene) = Scene::set(1, &[], None).await else { return };
    let load = scene.load().await;
    for is_heard in [true, false] {
        let leader = scene.cluster.leader_of(TOPIC, 0).await;
        let follower = leader % 3 + 1;
        let (from, to) = if is_heard { (leader, follower) } else { (follower, leader) };
        scene.cluster.links().cut(from, to);
        scene.cluster.until_in_sync(TOPIC, 2).await;
        load.progress(RECORDS).await;
        scene.cluster.links().heal(from, to);
        scene.cluster.until_in_sync(TOPIC, 3).await;
    }
    scene.end(load).await;
}

/// What an upgrade does: every record is acknowledged, whoever is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_in_turn_fails_no_record() {
    let Some(mut scene) = Scene::set(3, &[], None).await else { return };
    let load = scene.load().await;
    for node in 1..=3 {
        scene.cluster.until_in_sync(TOPIC, 3).await;
        scene.cluster.stop(node).await;
        load.progress(RECORDS).await;
        scene.cluster.spawn(node).await;
        scene.cluster.settle().await;
    }
    scene.cluster.until_in_sync(TOPIC, 3).await;
    scene.end(load).await;
}
