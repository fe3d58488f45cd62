//! Wall clocks that are wrong: of a broker that comes, of one that leads partitions, of the one that leads
//! the metadata quorum. Whoever set them up is told whose and how far, and no record goes for its age by a
//! clock that nobody else agrees with.

use std::{fs, path::Path};

use riverrun_client::{BrokerPresence, BrokerState, ClusterDescription};
use riverrun_proto::rpc::v1;
use riverrun_tests::{append::AppendStream, forge, http, raw::Raw, skew::SkewedClock, wait};
use tempfile::TempDir;

use crate::{
    data_dir,
    nodes::{Nodes, presence},
};

/// Kept for an hour, and whatever its age.
const BY_AGE: &str = "kept.for.an.hour";
const BY_SIZE: &str = "kept.while.small";

/// Twice as long as records of the one are kept.
const TWO_HOURS: i64 = 2 * 3_600_000;

/// Three brokers, each with a clock of its own; each leads a partition of both topics.
struct Scene {
    nodes: Nodes,
    clocks: TempDir,
}

impl Scene {
    async fn set() -> Self {
        let clocks = data_dir();
        let nodes = Nodes::voting_as(3, |n, options| {
            options
                .clock(clock(clocks.path(), n))
                .set("log.retention.check.interval.ms", "100ms")
                .set("broker.heartbeat.interval.ms", "100ms")
        });
        nodes.until_all_take_part().await;
        let admin = nodes.admin(1).await;
        let by_age = [("retention.ms", "1h")];
        let by_size = [
            ("retention.ms", "-1"),
            ("retention.bytes", "1MiB"),
            ("segment.bytes", "1MiB"),
            ("max.message.bytes", "64KiB"),
        ];
        for (name, configs) in [(BY_AGE, &by_age[..]), (BY_SIZE, &by_size[..])] {
            let topic = admin.create_topic(name).partitions(3).replication_factor(3);
            let topic =
                configs.iter().fold(topic, |topic, (key, value)| topic.config(*key, *value));
            topic.send().await.expect("three are there");
        }
        let scene = Self { nodes, clocks };
        for node in 1..=3 {
            let (raw, led) = (scene.raw(node).await, scene.led_by(node, BY_AGE).await);
            raw.produce(BY_AGE, led, &["to be kept"]).await.expect("it leads");
        }
        scene
    }

    fn clock(&self, node: usize) -> SkewedClock {
        clock(self.clocks.path(), node)
    }

    async fn raw(&self, node: usize) -> Raw {
        self.nodes.node(node).raw().await
    }

    /// The partition of a topic that a node leads.
    async fn led_by(&self, node: usize, topic: &str) -> i32 {
        let raw = self.raw(node).await;
        let mut led = None;
        wait::until("each leads one", async || {
            let topic = raw.topic(topic).await.expect("it was made");
            let id = u32::try_from(node).expect("few");
            led = topic.partitions.iter().position(|p| p.leader == Some(id));
            led.is_some()
        })
        .await;
        i32::try_from(led.expect("it was waited for")).expect("few")
    }

    /// Waits until `node` knows of clocks what `condition` says; all take part.
    async fn until_clocks(&self, what: &str, condition: impl Fn(&ClusterDescription) -> bool) {
        let all_are_in = |cluster: &ClusterDescription| {
            (1..=3).all(|id| presence(cluster, id) == Some(BrokerPresence::Active))
        };
        for node in self.nodes.up() {
            self.nodes.until(node, what, |c| all_are_in(c) && condition(c)).await;
        }
    }

    /// `node` goes through what it leads, deletes what is too much of it, and nothing for its age.
    async fn deletes_for_size_alone(&self, node: usize) {
        let raw = self.raw(node).await;
        let (big, old) = (self.led_by(node, BY_SIZE).await, self.led_by(node, BY_AGE).await);
        let (by_size, by_age) = (topic(&raw, BY_SIZE).await, topic(&raw, BY_AGE).await);
        let before = raw.edge(&by_size, big, v1::Edge::Earliest).await;
        let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
        for _ in 0..100 {
            stream.append(&by_size, big, forge::large(50_000)).await.expect("it leads");
        }
        wait::until("what is too much is deleted", async || {
            raw.edge(&by_size, big, v1::Edge::Earliest).await > before
        })
        .await;
        let kept = raw.edge(&by_age, old, v1::Edge::Earliest).await;
        assert_eq!(kept, 0, "deleted by a clock that is wrong");
    }
}

fn clock(dir: &Path, node: usize) -> SkewedClock {
    SkewedClock::from_file(dir.join(format!("clock-{node}")))
}

async fn topic(raw: &Raw, name: &str) -> v1::Topic {
    raw.topic(name).await.expect("it was made")
}

fn state(cluster: &ClusterDescription, node: usize) -> Option<&BrokerState> {
    cluster.brokers.iter().find(|broker| broker.id.0 as usize == node)
}

/// Told to be off by so much: as far as the machine's clock goes on between two looks.
fn is_off_by(cluster: &ClusterDescription, node: usize, ahead_ms: i64) -> bool {
    let told = state(cluster, node).and_then(|broker| broker.clock_ahead_ms);
    told.is_some_and(|told| (told - ahead_ms).abs() < 60_000)
}

fn quorum_leader(cluster: &ClusterDescription) -> usize {
    cluster.leader.expect("somebody leads").0 as usize
}

/// It stays outside until its clock is right, says why wherever it is asked, and the cluster goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_with_a_clock_hours_ahead_is_not_taken_in_before_it_is_right() {
    let mut scene = Scene::set().await;
    let log = scene.nodes.data(3).join("said.log");
    let cluster = scene.nodes.until(1, "somebody leads", |c| c.leader.is_some()).await;
    // Its own clock is what the leader of the quorum goes by.
    let comes = if quorum_leader(&cluster) == 3 { 2 } else { 3 };
    scene.nodes.kill(comes);
    scene.clock(comes).set(TWO_HOURS);
    let options = scene.nodes.options[comes - 1].clone().log_to(&log);
    let waiting = options.spawn();
    let asked = 5 - comes;
    let is_kept_out = |cluster: &ClusterDescription| {
        presence(cluster, comes) == Some(BrokerPresence::Fenced)
            && is_off_by(cluster, comes, TWO_HOURS)
            && !cluster.clock_disputed
    };
    scene.nodes.until(asked, "it is kept out, and named", is_kept_out).await;
    wait::until("it says why", async || {
        let (status, why) = http::get(options.http_address(), "/readyz").await;
        let said = fs::read_to_string(&log).unwrap_or_default();
        let told = [" s ahead of that of broker ", "broker.clock.offset.max.ms", "NTP"];
        status == 503 && told.iter().all(|told| why.contains(told) && said.contains(told))
    })
    .await;
    let health = scene.nodes.health(asked);
    let named = format!("the clock of broker {comes} is 7");
    assert!(health.iter().any(|problem| problem.contains(&named)), "{health:?}");
    scene.deletes_for_size_alone(asked).await;

    scene.clock(comes).set(0);
    scene.nodes.running[comes - 1] = Some(waiting.ready());
    scene.until_clocks("all agree", |c| c.brokers.iter().all(|b| b.clock_ahead_ms.is_none())).await;

    // A restart with a clock that is right is as good, and a clock behind as bad.
    scene.nodes.kill(comes);
    scene.clock(comes).set(-TWO_HOURS);
    let waiting = options.spawn();
    scene
        .nodes
        .until(asked, "it is kept out again", |cluster| {
            presence(cluster, comes) == Some(BrokerPresence::Fenced)
                && is_off_by(cluster, comes, -TWO_HOURS)
        })
        .await;
    drop(waiting);
    scene.clock(comes).set(0);
    scene.nodes.start(comes);
    scene.until_clocks("all agree", |c| c.brokers.iter().all(|b| b.clock_ahead_ms.is_none())).await;
}

/// One that is in stays in: it leads, takes records, and deletes nothing for its age until its clock is
/// right again.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_jumps_is_named_and_deletes_nothing_by_it() {
    let scene = Scene::set().await;
    let cluster = scene.nodes.until(1, "somebody leads", |c| c.leader.is_some()).await;
    let jumps = quorum_leader(&cluster) % 3 + 1;
    scene.clock(jumps).set(TWO_HOURS);
    scene.deletes_for_size_alone(jumps).await;
    scene
        .until_clocks("it is named, and in", |cluster| {
            is_off_by(cluster, jumps, TWO_HOURS) && !cluster.clock_disputed
        })
        .await;
    scene.deletes_for_size_alone(jumps).await;
    let metrics = http::metrics(scene.nodes.node(jumps).http()).await;
    assert_eq!(metrics.value("riverrun_broker_clock_trusted"), 0.0);
    assert!((metrics.value("riverrun_broker_clock_offset_seconds") - 7200.0).abs() < 60.0);
    assert_eq!(http::get(scene.nodes.node(jumps).http(), "/readyz").await.0, 200, "it serves");

    scene.clock(jumps).set(0);
    scene.until_clocks("all agree", |c| c.brokers.iter().all(|b| b.clock_ahead_ms.is_none())).await;
    scene.deletes_for_size_alone(jumps).await;
    // By a clock that is right, what is old goes.
    let alter = scene.nodes.admin(1).await.alter_configs(BY_AGE).set("retention.ms", "1ms");
    alter.send().await.expect("it is there");
    let (raw, old) = (scene.raw(jumps).await, scene.led_by(jumps, BY_AGE).await);
    let by_age = topic(&raw, BY_AGE).await;
    wait::until("the record goes", async || raw.edge(&by_age, old, v1::Edge::Earliest).await == 1)
        .await;
}

/// Everybody else is off then, as it sees it. It cannot fence them for that, nobody deletes anything by
/// either time, and who comes is taken in.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_clock_of_the_quorums_leader_jumps_nobody_is_fenced_and_nothing_deleted() {
    let mut scene = Scene::set().await;
    let cluster = scene.nodes.until(1, "somebody leads", |c| c.leader.is_some()).await;
    let leader = quorum_leader(&cluster);
    scene.clock(leader).set(TWO_HOURS);
    scene.deletes_for_size_alone(leader).await;
    let is_disputed = |cluster: &ClusterDescription| {
        let others = (1..=3).filter(|node| *node != leader);
        cluster.clock_disputed && others.clone().all(|node| is_off_by(cluster, node, -TWO_HOURS))
    };
    scene.until_clocks("it is disputed, and all are in", is_disputed).await;
    for node in 1..=3 {
        scene.deletes_for_size_alone(node).await;
    }
    let health = scene.nodes.health(leader % 3 + 1);
    let named = format!("agree with that of broker {leader}");
    assert!(health.iter().any(|problem| problem.contains(&named)), "{health:?}");

    let restarted = leader % 3 + 1;
    scene.nodes.kill(restarted);
    scene.nodes.start(restarted);
    scene.until_clocks("who came is in", is_disputed).await;
    scene.clock(leader).set(0);
    scene
        .until_clocks("all agree", |cluster| {
            !cluster.clock_disputed && cluster.brokers.iter().all(|b| b.clock_ahead_ms.is_none())
        })
        .await;
}
