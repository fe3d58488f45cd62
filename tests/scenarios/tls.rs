//! Three brokers with mTLS between them and TLS towards clients: what holds without holds with it,
//! and every certificate of it can be replaced while they serve.

use std::{fs, path::Path, process::Command, time::Duration};

use futures::TryStreamExt as _;
use riverrun_client::{Admin, BrokerPresence, Client, ErrorKind, Record, Tls};
use riverrun_tests::{
    certificates::{Authority, replace},
    http, wait,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    data_dir,
    nodes::{Nodes, presence, voters},
};

const TOPIC: &str = "kept";

/// What nodes and clients of these tests are called.
const NAMES: [&str; 2] = ["127.0.0.1", "localhost"];

/// Three nodes with `dir`'s certificate for both ports, which believe its CA.
fn secured(dir: &Path) -> Nodes {
    let at = |name: &str| dir.join(name).display().to_string();
    let (certificate, key, ca) = (at("cert.pem"), at("key.pem"), at("ca.pem"));
    Nodes::voting_with(
        3,
        &[
            ("tls.internal.cert.file", &certificate),
            ("tls.internal.key.file", &key),
            ("tls.internal.ca.file", &ca),
            ("tls.grpc.cert.file", &certificate),
            ("tls.grpc.key.file", &key),
            ("tls.reload.interval.ms", "200ms"),
        ],
    )
}

async fn client(nodes: &Nodes, dir: &Path) -> Client {
    let builder = Client::builder().bootstrap_servers(nodes.addresses());
    builder.tls(Tls::new(dir.join("ca.pem"))).build().await.expect("the files are whole")
}

/// Waits until all take part in the cluster.
async fn until_all_take_part(admin: &Admin) {
    wait::until("all vote and take part", async || {
        admin.describe_cluster().await.is_ok_and(|cluster| {
            voters(&cluster) == [1, 2, 3]
                && (1..=3).all(|id| presence(&cluster, id) == Some(BrokerPresence::Active))
        })
    })
    .await;
}

/// Who leads, once all three are in sync.
async fn leader_in_sync(admin: &Admin) -> usize {
    let mut leader = None;
    wait::until("all are in sync", async || {
        let topic = admin.topic(TOPIC).await.ok();
        let topic = topic.filter(|t| t.partitions[0].in_sync_replicas.len() == 3);
        leader = topic.and_then(|topic| topic.partitions[0].leader);
        leader.is_some()
    })
    .await;
    leader.expect("it was waited for").0 as usize
}

/// Waits until every node says this of its files for both ports.
async fn until_files(nodes: &Nodes, what: &str, series: &str, least: f64) {
    wait::until(what, async || {
        for node in nodes.up() {
            let metrics = http::metrics(nodes.node(node).http()).await;
            for port in ["grpc", "internal"] {
                let series = series.replace("PORT", port);
                if metrics.get(&series).is_none_or(|value| value < least) {
                    return false;
                }
            }
        }
        true
    })
    .await;
}

async fn until_renewed(nodes: &Nodes, times: f64) {
    let series = "riverrun_tls_reloads_total{port=\"PORT\",outcome=\"renewed\"}";
    until_files(nodes, "changed files are in use", series, times).await;
}

/// A producer that sends one number after the other, each once the one before is acknowledged.
struct Counting {
    acked: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    sending: JoinHandle<()>,
}

impl Counting {
    async fn start(client: Client) -> Self {
        let (acked_now, acked) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let producer = client.producer().build().await.expect("valid settings");
        let sending = tokio::spawn(async move {
            let mut number = 0_u64;
            while !*stopped.borrow() {
                let record = Record::to(TOPIC).value(number.to_string());
                let delivery = producer.send(record).await.expect("it is open");
                delivery.await.expect("whatever happens, it is tried again");
                number += 1;
                acked_now.send_replace(number);
            }
            producer.close(Duration::from_secs(60)).await.expect("all is acknowledged");
        });
        Self { acked, stop, sending }
    }

    async fn progress(&mut self) {
        let enough = *self.acked.borrow() + 50;
        let more = self.acked.wait_for(|acked| *acked >= enough);
        wait::soon("more records are acknowledged", more).await.expect("it sends");
    }

    async fn finish(self) -> u64 {
        self.stop.send_replace(true);
        wait::soon("the producer ends", self.sending).await.expect("it does not panic");
        *self.acked.borrow()
    }
}

/// All that was acknowledged is there, once, in order.
async fn check(client: &Client, acked: u64) {
    let reader = client.reader(TOPIC).stop_at_end().build().await.expect("valid settings");
    let read: Vec<_> = reader.try_collect().await.expect("it is whole");
    let numbers: Vec<u64> = read
        .iter()
        .map(|record| {
            let value = std::str::from_utf8(record.value().expect("it has one"));
            value.expect("a number").parse().expect("a number")
        })
        .collect();
    assert!(numbers.iter().copied().eq(0..acked), "{} of {acked}: {numbers:?}", numbers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_with_tls_lose_nothing_to_a_kill_and_to_a_change_of_all_certificates() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let files = data_dir();
    let dir = files.path();
    first.signs(&NAMES).write(dir);
    replace(&dir.join("ca.pem"), &first.pem());
    let mut nodes = secured(dir);
    let client = client(&nodes, dir).await;
    let admin = client.admin();
    until_all_take_part(&admin).await;
    admin.create_topic(TOPIC).replication_factor(3).send().await.expect("all are there");
    let mut counting = Counting::start(client.clone()).await;
    counting.progress().await;

    // The leader is killed.
    let leader = leader_in_sync(&admin).await;
    nodes.kill(leader);
    counting.progress().await;
    nodes.start(leader);
    leader_in_sync(&admin).await;
    let metrics = http::metrics(nodes.node(leader).http()).await;
    assert!(
        metrics.value("riverrun_tls_handshakes_total{port=\"internal\",outcome=\"done\"}") > 0.0
    );

    // Both CAs are believed, then the second one's certificates are shown, then only it is believed.
    let renewed = "riverrun_tls_reloads_total{port=\"internal\",outcome=\"renewed\"}";
    assert_eq!(metrics.value(renewed), 0.0);
    replace(&dir.join("ca.pem"), &(first.pem() + &second.pem()));
    let internal_renewed = async |nodes: &Nodes, times: f64| {
        wait::until("the nodes have taken the files over", async || {
            for node in nodes.up() {
                if http::metrics(nodes.node(node).http()).await.value(renewed) < times {
                    return false;
                }
            }
            true
        })
        .await;
    };
    internal_renewed(&nodes, 1.0).await;
    counting.progress().await;
    second.signs(&NAMES).write(dir);
    until_renewed(&nodes, 1.0).await;
    internal_renewed(&nodes, 2.0).await;
    counting.progress().await;
    replace(&dir.join("ca.pem"), &second.pem());
    internal_renewed(&nodes, 3.0).await;
    counting.progress().await;

    // New connections of everybody to everybody: each is killed in turn.
    for node in 1..=3 {
        nodes.kill(node);
        counting.progress().await;
        nodes.start(node);
        leader_in_sync(&admin).await;
        counting.progress().await;
    }
    let acked = counting.finish().await;
    check(&client, acked).await;
    nodes.stop_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_files_change_nothing_and_strangers_stay_outside() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (files, strange) = (data_dir(), data_dir());
    let dir = files.path();
    for (ca, dir) in [(&ours, dir), (&other, strange.path())] {
        ca.signs(&NAMES).write(dir);
        replace(&dir.join("ca.pem"), &ca.pem());
    }
    let mut nodes = secured(dir);
    let known = client(&nodes, dir).await;
    until_all_take_part(&known.admin()).await;
    known.admin().create_topic(TOPIC).replication_factor(3).send().await.expect("all are there");
    let mut counting = Counting::start(known.clone()).await;

    let whole = fs::read_to_string(dir.join("key.pem")).expect("it is there");
    replace(&dir.join("key.pem"), "-----BEGIN NOTHING-----");
    let broken = "riverrun_tls_files_broken{port=\"PORT\"}";
    until_files(&nodes, "the files are found broken", broken, 1.0).await;
    // Connections that are made now use what was in use.
    counting.progress().await;
    client(&nodes, dir).await.admin().list_topics().await.expect("the old ones serve");
    let node = nodes.node(1);
    let said = node.logs(|line| line.to_string().contains("the old ones stay in use")).await;
    assert!(said.to_string().contains("key.file"), "{said}");
    replace(&dir.join("key.pem"), &whole);
    wait::until("the files are whole again", async || {
        let metrics = http::metrics(nodes.node(1).http()).await;
        metrics.value("riverrun_tls_files_broken{port=\"internal\"}") == 0.0
    })
    .await;

    // Clients that believe another CA, and such as speak no TLS.
    let strangers = [
        client(&nodes, strange.path()).await,
        Client::builder().bootstrap_servers(nodes.addresses()).build().await.expect("valid"),
    ];
    for stranger in strangers {
        let refused = stranger.admin().list_topics().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Security, "{refused}");
    }
    // A node with a certificate of another CA: nobody talks to it.
    let at = |name: &str| strange.path().join(name).display().to_string();
    let outsider = crate::nodes::node(4, &strange.path().join("data"))
        .set("controller.quorum.bootstrap.servers", &nodes.options[0].internal_address())
        .set("tls.internal.cert.file", &at("cert.pem"))
        .set("tls.internal.key.file", &at("key.pem"))
        .set("tls.internal.ca.file", &at("ca.pem"));
    let _outsider = outsider.spawn();
    wait::until("it is refused", async || {
        let metrics = http::metrics(nodes.node(1).http()).await;
        metrics.value("riverrun_tls_handshakes_total{port=\"internal\",outcome=\"refused\"}") > 0.0
    })
    .await;

    // The command line, with and without.
    let ran = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_riverrun-under-test"))
            .args(["-b", &nodes.options[0].address(), "--timeout", "20s"])
            .args(arguments)
            .output()
            .expect("the binary under test exists")
    };
    let ca = dir.join("ca.pem").display().to_string();
    let listed = ran(&["topic", "list", "--tls-ca", &ca]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(TOPIC), "{listed:?}");
    let refused = ran(&["topic", "list"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--tls-ca"), "{refused:?}");

    let acked = counting.finish().await;
    check(&known, acked).await;
    let cluster = known.admin().describe_cluster().await.expect("it is up");
    assert_eq!(voters(&cluster), [1, 2, 3], "the outsider is not in it");
    nodes.stop_all();
}
