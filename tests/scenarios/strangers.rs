//! Nodes that are not what they say: at another address than they tell, on a disk that somebody copied.
//! Whoever set them up is told what to do, and the cluster goes on. (Two nodes with one id, nodes of other
//! clusters and disks that were wiped are in [`quorum`](crate::quorum).)

use std::{fs, path::Path};

use riverrun_client::{BrokerPresence, Record};
use riverrun_tests::{process::free_port, wait};

use crate::{
    data_dir,
    nodes::{Nodes, node, presence, voters},
};

const TOPIC: &str = "kept";

/// Whatever the stranger did, the three are as they were, and records are written.
async fn assert_unharmed(nodes: &Nodes) {
    let cluster = nodes
        .until(1, "all three take part", |cluster| {
            (1..=3).all(|id| presence(cluster, id) == Some(BrokerPresence::Active))
        })
        .await;
    assert_eq!(voters(&cluster), [1, 2, 3], "{cluster:?}");
    let producer = nodes.client().await.producer().build().await.expect("valid settings");
    let sent = producer.send(Record::to(TOPIC).value("after all")).await.expect("it is open");
    wait::soon("an ack", sent).await.expect("all three are there");
}

async fn three() -> Nodes {
    let nodes = Nodes::voting(3);
    nodes.until_all_take_part().await;
    let admin = nodes.admin(1).await;
    let topic = admin.create_topic(TOPIC).replication_factor(3).config("min.insync.replicas", "2");
    topic.send().await.expect("three are there");
    nodes
}

/// The port of another node: that one answers instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_tells_the_address_of_another_is_refused_and_told_so() {
    let (nodes, data) = (three().await, data_dir());
    let second = nodes.options[1].internal_address();
    let port = second.rsplit(':').next().expect("it has a port");
    let refused = node(4, data.path())
        .set("controller.quorum.bootstrap.servers", &nodes.options[0].internal_address())
        .set("network.internal.advertised.port", port)
        .start_refused();
    for said in [&*second, "node 2 answers", "network.internal.advertised.port"] {
        assert!(refused.said.contains(said), "{said}: {}", refused.said);
    }
    assert_unharmed(&nodes).await;
}

/// Clients would ask the second for what the fourth leads, for as long as they have patience.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_sends_clients_to_another_is_refused_and_told_so() {
    let (nodes, data) = (three().await, data_dir());
    let second = nodes.options[1].address();
    let port = second.rsplit(':').next().expect("it has a port");
    let refused = node(4, data.path())
        .set("controller.quorum.bootstrap.servers", &nodes.options[0].internal_address())
        .set("network.advertised.port", port)
        .start_refused();
    for said in [&*second, "broker 2 is reached", "network.advertised.port"] {
        assert!(refused.said.contains(said), "{said}: {}", refused.said);
    }
    assert_unharmed(&nodes).await;
}

/// A port at which nobody listens, told by a node that was a member before: it waits, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_tells_a_wrong_address_waits_and_says_why() {
    let mut nodes = three().await;
    let nowhere = free_port().to_string();
    let log = nodes.data(3).join("said.log");
    nodes.kill(3);
    let wrong = nodes.options[2].clone().set("network.internal.advertised.port", &nowhere);
    let waiting = wrong.log_to(&log).spawn();
    wait::until("it says what is wrong", async || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        said.contains(&nowhere) && said.contains("correct network.internal.advertised.host")
    })
    .await;
    drop(waiting);
    nodes.start(3);
    assert_unharmed(&nodes).await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("there is room");
    for entry in fs::read_dir(from).expect("it can be read") {
        let entry = entry.expect("it can be listed");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("it is known").is_dir() {
            true => copy(&entry.path(), &target),
            false => _ = fs::copy(entry.path(), target).expect("there is room"),
        }
    }
}

/// A data directory that was copied, as by a restored image of a machine, and started beside the
/// original: one of the two ends or is kept out, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_copied_disk_beside_its_original_does_not_take_part_twice() {
    let mut nodes = three().await;
    let data = data_dir();
    let copied = data.path().join("copy");
    let stopping = nodes.running[2].take().expect("it runs");
    assert!(stopping.stop().0.success());
    copy(nodes.data(3), &copied);
    nodes.start(3);
    assert_unharmed(&nodes).await;
    let seeds: Vec<_> = nodes.options.iter().map(|options| options.internal_address()).collect();
    let twin = node(3, &copied).set("controller.quorum.bootstrap.servers", &seeds.join(","));
    let refused = twin.start_refused();
    assert!(refused.said.contains("another broker.node.id"), "{}", refused.said);
    assert_unharmed(&nodes).await;
}
