//! Three processes that replicate partitions: any of them is killed, and nothing that was
//! acknowledged is lost, doubled or out of order.

use std::collections::BTreeMap;

use riverrun_client::{Acks, Admin, BrokerPresence, Record, Topic};
use riverrun_proto::rpc::v1;
use riverrun_tests::{
    checker, clock, files,
    history::Outcome,
    http,
    load::{Load, Shape},
    raw::Raw,
    wait,
};

use crate::{
    nodes::{Nodes, presence},
    rounds,
};

const TOPIC: &str = "kept";

/// Records between two faults.
const RECORDS_PER_ROUND: usize = 2_000;

/// Three nodes and a topic on all of them.
async fn cluster(partitions: u32, configs: &[(&str, &str)]) -> (Nodes, v1::Topic) {
    let nodes = Nodes::voting(3);
    nodes.until_all_take_part().await;
    let admin = nodes.admin(1).await;
    let topic = admin.create_topic(TOPIC).partitions(partitions).replication_factor(3);
    let topic = configs.iter().fold(topic, |topic, (key, value)| topic.config(*key, *value));
    topic.send().await.expect("three are there");
    until_in_sync(&admin, 3).await;
    let topic = Raw::connect(&nodes.addresses()[0]).await.topic(TOPIC).await;
    (nodes, topic.expect("it was just made"))
}

async fn described(admin: &Admin) -> Option<Topic> {
    admin.topic(TOPIC).await.ok()
}

/// Waits until all partitions have a leader, and so many members in their ISR.
async fn until_in_sync(admin: &Admin, members: usize) {
    wait::until("all partitions are led and in sync", async || {
        described(admin).await.is_some_and(|topic| {
            topic
                .partitions
                .iter()
                .all(|p| p.leader.is_some() && p.in_sync_replicas.len() == members)
        })
    })
    .await;
}

async fn leader_of(admin: &Admin, partition: u32) -> usize {
    let mut leader = None;
    wait::until("somebody leads", async || {
        leader = described(admin)
            .await
            .and_then(|topic| topic.partitions.iter().find(|p| p.index == partition)?.leader);
        leader.is_some()
    })
    .await;
    leader.expect("it was waited for").0 as usize
}

/// All batches of a node below the high watermarks, by partition.
fn committed(
    nodes: &Nodes,
    node: usize,
    topic: &v1::Topic,
    ends: &BTreeMap<i32, i64>,
) -> BTreeMap<i32, Vec<(i64, Vec<u8>)>> {
    let of = |(partition, end): (&i32, &i64)| {
        let dir = files::partition_dir(nodes.data(node), topic, *partition);
        let mut batches = files::batches(&dir);
        batches.retain(|(base, _)| base < end);
        (*partition, batches)
    };
    ends.iter().map(of).collect()
}

/// Stops the cluster and compares the logs of all nodes, byte for byte.
async fn assert_replicas_equal(mut nodes: Nodes, topic: &v1::Topic) {
    let admin = nodes.client().await.admin();
    until_in_sync(&admin, 3).await;
    let brokers: Vec<_> = nodes.addresses().iter().map(|address| Raw::lazy(address)).collect();
    let mut ends = BTreeMap::new();
    for partition in topic.partitions.iter().map(|partition| partition.partition) {
        let leader = riverrun_tests::load::leader(&brokers, topic, partition).await;
        let end = leader.latest(topic, partition).await.expect("it leads");
        assert!(end > 0, "something was written");
        ends.insert(partition, end);
    }
    nodes.stop_all();
    let first = committed(&nodes, 1, topic, &ends);
    for node in [2, 3] {
        let other = committed(&nodes, node, topic, &ends);
        for (partition, batches) in &other {
            let bases = |batches: &[(i64, Vec<u8>)]| {
                batches.iter().map(|(base, _)| *base).collect::<Vec<_>>()
            };
            assert_eq!(bases(batches), bases(&first[partition]), "{partition} of node {node}");
        }
        assert!(other == first, "the logs of node {node} are those of node 1, byte for byte");
    }
}

/// Faults under the load of the product's own client.
async fn faults_under_load(
    what: &str,
    configs: &[(&str, &str)],
    mut fault: impl AsyncFnMut(&mut Nodes, &Admin, usize, &Load),
) {
    let (mut nodes, topic) = cluster(3, configs).await;
    let admin = nodes.client().await.admin();
    let shape = Shape { topic: topic.clone(), producers: 3, readers: 2, acks: Acks::All };
    let load = Load::start_on(nodes.addresses(), shape).await;
    for round in 0..2 * rounds() {
        load.progress(RECORDS_PER_ROUND).await;
        fault(&mut nodes, &admin, round, &load).await;
        until_in_sync(&admin, 3).await;
    }
    load.progress(RECORDS_PER_ROUND).await;
    let history = load.finish().await.history();
    checker::assert_sound(&history);
    let acked = history.sent.iter().filter(|s| matches!(s.outcome, Outcome::Acked(_))).count();
    assert_eq!(
        acked,
        history.sent.len(),
        "{what}: producers ride through, nothing is left unknown"
    );
    assert_replicas_equal(nodes, &topic).await;
}

/// A leader dies; others lead, producers and consumers go on before it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_costs_no_acknowledged_record() {
    let mut took = Vec::new();
    faults_under_load(
        "leader",
        &[("min.insync.replicas", "2")],
        async |nodes, admin, round, load| {
            let partition = u32::try_from(round % 3).expect("it is few");
            let leader = leader_of(admin, partition).await;
            let quorum = admin.describe_cluster().await.ok().and_then(|cluster| cluster.leader);
            let led_both = quorum.is_some_and(|quorum| quorum.0 as usize == leader);
            let killed = clock::now();
            nodes.kill(leader);
            load.progress(1).await;
            wait::until("another leads", async || leader_of(admin, partition).await != leader)
                .await;
            took.push((killed.elapsed(), led_both));
            // Without it.
            load.progress(RECORDS_PER_ROUND).await;
            nodes.start(leader);
        },
    )
    .await;
    // Not asserted: it is the machine's speed as well. The promise is three seconds.
    println!("others lead after (true: the quorum's leader died as well) {took:?}");
}

/// A follower dies; the ISR shrinks without it, and it joins again.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_follower_leaves_the_isr_and_joins_it_again() {
    let configs = [("min.insync.replicas", "2"), ("durability", "disk")];
    faults_under_load("follower", &configs, async |nodes, admin, round, load| {
        let leader = leader_of(admin, 0).await;
        let follower = (leader + round % 2) % 3 + 1;
        nodes.kill(follower);
        until_in_sync(admin, 2).await;
        load.progress(RECORDS_PER_ROUND).await;
        nodes.start(follower);
    })
    .await;
}

/// What all replicas have on their disks survives that all of them die at once.
#[tokio::test(flavor = "multi_thread")]
async fn all_killed_at_once_have_everything_that_was_acknowledged() {
    for durability in ["disk", "memory"] {
        let configs = [("min.insync.replicas", "2"), ("durability", durability)];
        faults_under_load(durability, &configs, async |nodes, _, _, _| {
            nodes.kill_all();
            nodes.start_all();
        })
        .await;
    }
}

/// Fewer members than `min.insync.replicas`: nothing that asks for more is written; what asks for
/// less goes on.
#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_refuse_acks_of_all_and_nothing_else() {
    let (mut nodes, _) = cluster(1, &[("min.insync.replicas", "3")]).await;
    let admin = nodes.client().await.admin();
    let leader = leader_of(&admin, 0).await;
    let gone = leader % 3 + 1;
    let raw = nodes.node(leader).raw().await;
    raw.produce(TOPIC, 0, &["with all"]).await.expect("all three are in sync");
    nodes.kill(gone);
    let watcher = nodes.up()[0];
    nodes
        .until(watcher, "it is fenced", |c| presence(c, gone) == Some(BrokerPresence::Fenced))
        .await;
    until_in_sync(&admin, 2).await;

    wait::until("the leader has heard of it", async || {
        let refused = raw.produce(TOPIC, 0, &["with two"]).await;
        refused.is_err_and(|refused| {
            assert_eq!(refused.error.reason, "NOT_ENOUGH_REPLICAS", "{refused:?}");
            assert!(refused.error.retriable && refused.error.definite, "{refused:?}");
            true
        })
    })
    .await;

    let metrics = http::metrics(nodes.node(leader).http()).await;
    let here = format!("{{topic=\"{TOPIC}\",partition=\"0\"}}");
    assert_eq!(metrics.value(&format!("riverrun_partition_in_sync_replicas{here}")), 2.0);
    assert_eq!(metrics.value(&format!("riverrun_partition_under_replicated{here}")), 1.0);
    assert_eq!(metrics.value("riverrun_isr_shrinks_total"), 1.0);
    assert_eq!(metrics.value("riverrun_cluster_under_min_isr_partitions"), 1.0);
    assert_eq!(metrics.value("riverrun_cluster_fenced_brokers"), 1.0);

    let client = nodes.client().await;
    let producer = client.producer().acks(Acks::Leader).build().await.expect("valid settings");
    for n in 0..10 {
        let record = Record::to(TOPIC).value(format!("leader alone {n}"));
        let delivery = producer.send(record).await.expect("it is open");
        wait::soon("an ack of the leader alone", delivery).await.expect("it leads");
    }
    // A producer that asks for all waits for them to be back, and is answered then.
    let patient = client.producer().build().await.expect("valid settings");
    let waiting = patient.send(Record::to(TOPIC).value("patient")).await.expect("it is open");
    nodes.start(gone);
    wait::soon("all to be back", waiting).await.expect("it was only a while");
    until_in_sync(&admin, 3).await;
    let metrics = http::metrics(nodes.node(leader).http()).await;
    assert!(metrics.value("riverrun_isr_expands_total") >= 1.0);
    assert_eq!(metrics.value(&format!("riverrun_partition_under_replicated{here}")), 0.0);
    assert_eq!(metrics.value("riverrun_cluster_under_min_isr_partitions"), 0.0);
    let topic = raw.topic(TOPIC).await.expect("it exists");
    let texts = raw.read_out(&topic, 0).await.texts();
    assert!(!texts.contains(&"with two".to_owned()), "refused is not written: {texts:?}");
    assert_eq!(texts.len(), 12, "{texts:?}");
}

/// What cannot be is said before anything is made.
#[tokio::test(flavor = "multi_thread")]
async fn topics_that_no_cluster_could_keep_are_refused() {
    let mut nodes = Nodes::voting(3);
    nodes.until_all_take_part().await;
    let admin = nodes.admin(1).await;
    let refused = admin.create_topic("four").replication_factor(4).send().await.unwrap_err();
    assert!(refused.to_string().contains("not possible with 3 brokers"), "{refused}");
    let asked = admin.create_topic("greedy").replication_factor(2);
    let refused = asked.config("min.insync.replicas", "3").send().await.unwrap_err();
    assert!(refused.to_string().contains("min.insync.replicas"), "{refused}");

    nodes.kill(3);
    nodes.until(1, "it is fenced", |c| presence(c, 3) == Some(BrokerPresence::Fenced)).await;
    let refused = admin.create_topic("three").replication_factor(3).send().await.unwrap_err();
    assert!(refused.to_string().contains("1 more are known"), "{refused}");
    let made = admin.create_topic("two").partitions(6).replication_factor(2).send().await;
    let made = made.expect("two are there");
    let mut leads = BTreeMap::new();
    for partition in &made.partitions {
        assert_eq!(partition.replicas.len(), 2);
        *leads.entry(partition.leader.expect("both are there").0).or_insert(0) += 1;
    }
    assert_eq!(leads, BTreeMap::from([(1, 3), (2, 3)]), "leaders are spread");
    assert!(admin.list_topics().await.expect("it is up").iter().all(|t| *t.name == *"two"));
}
