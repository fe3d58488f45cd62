//! Three processes, one metadata quorum: any of them takes changes, any of them may be killed, and
//! nobody gets in who does not belong there.

use std::{fs, process::Command, time::Duration};

use futures::StreamExt as _;
use riverrun_client::{
    Admin, BrokerId, BrokerPresence, Client, ClusterDescription, Position, Record,
};
use riverrun_tests::{process::BrokerOptions, wait};

use crate::{
    data_dir,
    nodes::{Nodes, node, presence, voters},
};

/// What `riverrun cluster …` prints about the cluster that `node` is of.
fn cluster_command(node: &BrokerOptions, arguments: &[&str]) -> serde_json::Value {
    let ran = Command::new(env!("CARGO_BIN_EXE_riverrun-under-test"))
        .args(["-b", &node.address(), "cluster"])
        .args(arguments)
        .args(["-o", "json"])
        .output()
        .expect("the binary under test exists");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&ran.stdout).expect("it prints JSON")
}

/// Creates a topic, whatever happens to leaders meanwhile: where nobody knows, it is asked.
async fn create(admin: &Admin, name: &str) {
    wait::until("a topic is created", async || {
        let made = admin.create_topic(name).partitions(3).send().await;
        made.is_ok() || admin.topic(name).await.is_ok()
    })
    .await;
}

async fn names(admin: &Admin) -> Vec<String> {
    let topics = admin.list_topics().await.expect("it is up");
    let mut names: Vec<_> = topics.iter().map(|topic| topic.name.to_string()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn three_voters_take_changes_anywhere_and_survive_their_leader() {
    let mut nodes = Nodes::voting(3);
    nodes.until(1, "all three vote", |cluster| voters(cluster) == [1, 2, 3]).await;
    let mut expected = Vec::new();
    for node in [1, 2, 3] {
        let name = format!("through-{node}");
        let admin = nodes.admin(node).await;
        create(&admin, &name).await;
        assert!(names(&admin).await.contains(&name), "whoever was answered sees his change");
        expected.push(name);
    }

    let cluster = nodes.until(1, "somebody leads", |cluster| cluster.leader.is_some()).await;
    let killed = cluster.leader.expect("it was waited for").0;
    nodes.kill(killed as usize);
    for node in nodes.up() {
        let name = format!("without-{killed}-through-{node}");
        create(&nodes.admin(node).await, &name).await;
        expected.push(name);
    }
    expected.sort();
    for node in nodes.up() {
        let lead = |c: &ClusterDescription| c.leader.is_some_and(|leader| leader.0 != killed);
        let cluster = nodes.until(node, "another leads", lead).await;
        assert!(cluster.leader_term > 1, "{cluster:?}");
        assert_eq!(names(&nodes.admin(node).await).await, expected);
    }

    // Whoever serves has caught up before.
    nodes.start(killed as usize);
    let again = nodes.admin(killed as usize).await;
    assert_eq!(names(&again).await, expected, "the killed one has caught up");
    create(&again, "after-all").await;

    // And all of them at once: nothing that was answered is lost.
    nodes.kill_all();
    nodes.start_all();
    expected.push("after-all".to_owned());
    expected.sort();
    for node in [1, 2, 3] {
        assert_eq!(names(&nodes.admin(node).await).await, expected);
    }
    nodes.stop_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone_is_fenced_and_comes_back() {
    let mut nodes = Nodes::voting(3);
    let all_there = |cluster: &ClusterDescription| {
        voters(cluster) == [1, 2, 3]
            && (1..=3).all(|id| presence(cluster, id) == Some(BrokerPresence::Active))
    };
    let cluster = nodes.until(1, "all three vote and take part", all_there).await;
    let leader = cluster.leader.map_or(1, |leader| leader.0 as usize);
    let (gone, watcher) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let admin = nodes.admin(watcher).await;
    admin.create_topic("spread").partitions(3).send().await.expect("all are there");
    let leads = async |id: usize| {
        let topic = admin.topic("spread").await.expect("it exists");
        topic.partitions.iter().any(|p| p.leader.is_some_and(|l| l.0 as usize == id))
    };
    assert!(leads(gone).await, "each has one");

    nodes.kill(gone);
    let fenced = |c: &ClusterDescription| presence(c, gone) == Some(BrokerPresence::Fenced);
    let cluster = nodes.until(watcher, "the killed one is fenced", fenced).await;
    assert_eq!(presence(&cluster, watcher), Some(BrokerPresence::Active), "nobody else is");
    assert!(!leads(gone).await, "nobody leads what it alone had");
    let status = cluster_command(&nodes.options[watcher - 1], &["status"]);
    assert!(status["findings"].to_string().contains("is fenced"), "{status}");
    let without = admin.create_topic("without").partitions(6).send().await.expect("two are there");
    assert!(without.partitions.iter().all(|p| p.leader.is_some_and(|l| l.0 as usize != gone)));

    nodes.start(gone);
    let back = |c: &ClusterDescription| presence(c, gone) == Some(BrokerPresence::Active);
    nodes.until(watcher, "it is back", back).await;
    assert!(leads(gone).await, "and leads again what it had");

    // A stop in order: the quorum's leader hands over, and is fenced when it is gone.
    let term = nodes.until(watcher, "somebody leads", |c| c.leader.is_some()).await.leader_term;
    let stopping = nodes.running[leader - 1].take().expect("it runs");
    let (status, log) = stopping.stop();
    assert!(status.success());
    let impatient = log.iter().any(|line| line.to_string().contains("stops all the same"));
    assert!(!impatient, "others took over: {log:?}");
    let handed = |c: &ClusterDescription| {
        c.leader.is_some_and(|l| l.0 as usize != leader) && c.leader_term > term
    };
    nodes.until(watcher, "another leads", handed).await;
    let fenced = |c: &ClusterDescription| presence(c, leader) == Some(BrokerPresence::Fenced);
    nodes.until(watcher, "whoever stopped is fenced", fenced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_broker_becomes_three_voters_and_one_again_by_command() {
    let data: Vec<_> = (0..3).map(|_| data_dir()).collect();
    let first = node(1, data[0].path());
    let one = first.start();
    let admin = one.client().await.admin();
    create(&admin, "made-alone").await;
    let others: Vec<_> = [2, 3]
        .into_iter()
        .map(|id| {
            node(id, data[id - 1].path())
                .set("controller.quorum.bootstrap.servers", &first.internal_address())
                .start()
        })
        .collect();
    let cluster = admin.describe_cluster().await.expect("it is up");
    assert_eq!(voters(&cluster), [1], "nobody votes without being told to: {cluster:?}");
    admin.add_voter(BrokerId(2)).await.expect("it has caught up, or is waited for");
    let status = cluster_command(&first, &["status"]);
    let findings = status["findings"].to_string();
    assert!(findings.contains("2 voters survive no more"), "{status}");
    let nodes = cluster_command(&first, &["add-voter", "3"]);
    let roles: Vec<_> = nodes.as_array().expect("a list").iter().map(|n| &n["role"]).collect();
    assert_eq!(roles, ["voter"; 3], "{nodes}");
    // Whoever that is by now.
    wait::until("both commands show one leader", async || {
        let status = cluster_command(&first, &["status"]);
        let nodes = cluster_command(&first, &["quorum"]);
        let leads = |node: &&serde_json::Value| node["role"] == "leader";
        nodes
            .as_array()
            .expect("a list")
            .iter()
            .filter(leads)
            .map(|node| &node["node"])
            .eq([&status["leader"]])
    })
    .await;
    let brokers = cluster_command(&first, &["brokers"]);
    assert_eq!(brokers[0]["internal_address"], first.internal_address(), "{brokers}");
    let through = others[1].client().await.admin();
    let cluster = through.describe_cluster().await.expect("it is up");
    assert_eq!(names(&through).await, ["made-alone"]);
    wait::until("node 3 knows who votes", async || {
        through.describe_cluster().await.is_ok_and(|cluster| voters(&cluster) == [1, 2, 3])
    })
    .await;
    assert_eq!(cluster.brokers.len(), 3);
    let stranger = admin.add_voter(BrokerId(7)).await.unwrap_err();
    assert!(stranger.to_string().contains("not in the cluster"), "{stranger}");

    // Back to one; the leader among those who go.
    for id in [1, 2] {
        wait::until("a voter goes", async || {
            through.remove_voter(BrokerId(id), None).await.is_ok()
                || through
                    .describe_cluster()
                    .await
                    .is_ok_and(|cluster| !voters(&cluster).contains(&id))
        })
        .await;
    }
    create(&through, "made-by-the-last").await;
    let last = through.remove_voter(BrokerId(3), None).await.unwrap_err();
    assert!(last.to_string().contains("only voter"), "{last}");
    // Whoever does not vote any more goes on listening.
    wait::until("the first hears of the topic", async || {
        names(&admin).await.contains(&"made-by-the-last".to_owned())
    })
    .await;
}

/// Its quorum sends it nothing more: it has to ask, and must not wait for a leader that has forgotten it.
#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_is_taken_out_while_it_runs_goes_on_listening_and_may_vote_again() {
    let nodes = Nodes::voting(3);
    let all = nodes.until(1, "all three vote", |cluster| voters(cluster) == [1, 2, 3]).await;
    let leader = all.leader.expect("they voted").0;
    let out = (1..=3).find(|id| *id != leader).expect("two do not lead");
    let [admin, own] = [nodes.admin(leader as usize).await, nodes.admin(out as usize).await];
    admin.remove_voter(BrokerId(out), None).await.expect("two are left");
    create(&admin, "made-without-it").await;
    wait::until("it hears of what was made without it", async || {
        names(&own).await.contains(&"made-without-it".to_owned())
    })
    .await;
    wait::until("it votes again", async || admin.add_voter(BrokerId(out)).await.is_ok()).await;
    nodes.until(out as usize, "all three vote", |cluster| voters(cluster) == [1, 2, 3]).await;
}

/// Two brokers that do not vote, and three that do, none of which is left: metadata stands still, says
/// so, and records go on.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_acks_all_goes_on_and_everybody_says_what_does_not() {
    let voting = "controller.quorum.auto.join.enable";
    let mut nodes = Nodes::voting_as(5, |n, options| match n {
        1..=3 => options,
        _ => options.set(voting, "false"),
    });
    nodes
        .until(1, "three vote, and all take part", |cluster| {
            let active = |id| presence(cluster, id) == Some(BrokerPresence::Active);
            voters(cluster) == [1, 2, 3] && (1..=5).all(active)
        })
        .await;
    let admin = nodes.admin(4).await;
    let topic = admin.create_topic("kept").replication_factor(2).config("min.insync.replicas", "2");
    topic.send().await.expect("all are there");
    let both = [BrokerId(4), BrokerId(5)];
    admin.reassign_partition(("kept", 0), &both, None).await.expect("all are there");
    wait::until("both have it, and nobody else", async || {
        let topic = admin.topic("kept").await.expect("it exists");
        let mut isr = topic.partitions[0].in_sync_replicas.clone();
        isr.sort_unstable();
        isr == both && topic.partitions[0].replicas.len() == 2
    })
    .await;
    let left = [4, 5].map(|node| nodes.options[node - 1].address());
    let client = Client::builder().bootstrap_servers(left).build().await.expect("valid settings");
    let producer = client.producer().build().await.expect("valid settings");
    let send = async |n: i32| {
        let record = Record::to("kept").value(n.to_string()).partition(0);
        producer.send(record).await.expect("it is open").await.expect("two have it");
    };
    let consumer = client.consumer().assign([("kept", 0, Position::Earliest)]);
    let mut consumer = consumer.build().await.expect("valid settings");
    let mut reads = async |n: i32| {
        let record = wait::soon("a record", consumer.next()).await.expect("it never ends");
        let record = record.expect("nothing is wrong with it");
        assert_eq!(record.value(), Some(n.to_string().as_bytes()));
    };
    send(0).await;
    reads(0).await;

    (1..=3).for_each(|node| nodes.kill(node));
    for node in [4, 5] {
        let unled = |cluster: &ClusterDescription| cluster.leader.is_none();
        nodes.until(node, "nobody is taken for the leader", unled).await;
        let health = nodes.health(node);
        assert!(health.iter().any(|problem| problem.contains("quorum")), "{health:?}");
    }
    for n in 1..200 {
        send(n).await;
        reads(n).await;
    }
    // Longer than a broker waits for somebody to lead.
    let patient = client.admin().timeout(Duration::from_secs(15));
    let refused = patient.create_topic("not-made").send().await.expect_err("nobody decides");
    assert!(refused.to_string().contains("metadata quorum"), "{refused}");
    assert!(refused.is_definite(), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_belong_is_told_what_to_do() {
    let (data, joined, wiped, strange) = (data_dir(), data_dir(), data_dir(), data_dir());
    let first = node(1, data.path());
    let one = first.start();
    let seeds = first.internal_address();
    let joins = |options: BrokerOptions| options.set("controller.quorum.bootstrap.servers", &seeds);

    let same_id = joins(node(1, wiped.path())).start_refused();
    assert!(same_id.said.contains("another broker.node.id"), "{}", same_id.said);

    // A disk that was lost under an id that is known.
    let two = joins(node(2, joined.path()));
    assert!(two.start().stop().0.success());
    fs::remove_dir_all(joined.path()).expect("it is ours");
    let lost = two.start_refused();
    assert!(lost.said.contains("remove-voter 2"), "{}", lost.said);

    // A node of another cluster.
    let stranger = node(3, strange.path());
    assert!(stranger.start().stop().0.success());
    let refused = joins(stranger).start_refused();
    assert!(refused.said.contains("belongs to cluster"), "{}", refused.said);

    // None of that did any harm.
    let admin = one.client().await.admin();
    create(&admin, "unharmed").await;
    let cluster = admin.describe_cluster().await.expect("it is up");
    assert_eq!(voters(&cluster), [1]);
    assert!(cluster.nodes.iter().all(|node| node.id != BrokerId(3)), "{cluster:?}");
    let fresh = joins(node(4, strange.path().join("fresh").as_path())).start();
    assert_eq!(names(&fresh.client().await.admin()).await, ["unharmed"]);
}
