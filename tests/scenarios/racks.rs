//! Three processes in three racks: a consumer that names its rack reads from the replica there.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use riverrun_client::{Admin, Client, Consumer, OffsetReset, Position, Producer, Record};
use riverrun_proto::rpc::v1;
use riverrun_tests::{
    http, load,
    raw::{Raw, from_offset},
    wait::{self, soon},
};
use v1::partition_data::Outcome;

use crate::nodes::Nodes;

const TOPIC: &str = "nearby";

/// The metric that proves who served.
const FOLLOWED: &str = "riverrun_follower_fetched_bytes_total{topic=\"nearby\"}";

/// Node `n` is in rack `rack-n`; a topic of one partition on all of them.
async fn three() -> (Nodes, Admin, v1::Topic) {
    let nodes = Nodes::voting_each(3, |node| vec![("broker.rack", format!("rack-{node}"))]);
    nodes.until_all_take_part().await;
    let admin = nodes.client().await.admin();
    let topic = admin.create_topic(TOPIC).partitions(1).replication_factor(3);
    topic.config("min.insync.replicas", "2").send().await.expect("three are there");
    until_in_sync(&admin, 3).await;
    let raws: Vec<_> = nodes.addresses().iter().map(|address| Raw::lazy(address)).collect();
    let topic = raws[0].topic(TOPIC).await.expect("it was just made");
    load::leader(&raws, &topic, 0).await;
    (nodes, admin, topic)
}

async fn until_in_sync(admin: &Admin, members: usize) {
    wait::until("so many are in sync", async || {
        admin.topic(TOPIC).await.is_ok_and(|topic| {
            let partition = &topic.partitions[0];
            partition.leader.is_some() && partition.in_sync_replicas.len() == members
        })
    })
    .await;
}

async fn leader_of(admin: &Admin) -> usize {
    let topic = admin.topic(TOPIC).await.expect("it answers");
    topic.partitions[0].leader.expect("it is led").0 as usize
}

async fn consumer(client: &Client, rack: usize) -> Consumer {
    let consumer = client.consumer().assign([(TOPIC, 0, Position::Earliest)]);
    // Out of range would be an error, not another place.
    let consumer = consumer.auto_offset_reset(OffsetReset::None).rack(format!("rack-{rack}"));
    consumer.build().await.expect("valid settings")
}

/// Writes `range`, and waits until all is acknowledged.
async fn write(producer: &Producer, range: std::ops::Range<u64>) {
    let mut sent = Vec::new();
    for n in range {
        let record = Record::to(TOPIC).partition(0).value(Bytes::from(n.to_string()));
        sent.push(producer.send(record).await.expect("it takes them"));
    }
    for delivery in sent {
        soon("an acknowledgement", delivery).await.expect("it is acknowledged");
    }
}

/// The next records are those, each once and in order.
async fn expect(consumer: &mut Consumer, range: std::ops::Range<u64>) {
    for n in range {
        let record = soon("a record", consumer.next()).await.expect("it goes on");
        let record = record.expect("a consumer rides through");
        let value = record.value().map(String::from_utf8_lossy);
        assert_eq!(value.as_deref(), Some(n.to_string().as_str()), "offset {}", record.offset());
        assert_eq!(record.offset(), n as i64);
    }
}

/// Bytes that a node served as a follower.
async fn followed(nodes: &Nodes, node: usize) -> f64 {
    http::metrics(nodes.node(node).http()).await.get(FOLLOWED).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_reads_from_its_rack_and_loses_nothing_when_that_dies_and_comes_back() {
    let (mut nodes, admin, _) = three().await;
    let leader = leader_of(&admin).await;
    let (near, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let client = nodes.client().await;
    let producer = client.producer().build().await.expect("valid settings");
    write(&producer, 0..100).await;
    let mut read = consumer(&client, near).await;
    expect(&mut read, 0..100).await;

    // Whatever the first look gave (the follower may have been heard of a moment later), soon all is
    // read from the follower of that rack and from nobody else.
    let mut written = 100;
    wait::until("the follower in the rack serves", async || {
        write(&producer, written..written + 10).await;
        expect(&mut read, written..written + 10).await;
        written += 10;
        followed(&nodes, near).await > 0.0
    })
    .await;
    let by_leader = fetched(&nodes, leader).await;
    let before = followed(&nodes, near).await;
    write(&producer, written..written + 500).await;
    expect(&mut read, written..written + 500).await;
    written += 500;
    assert!(followed(&nodes, near).await > before, "it did");
    assert_eq!(fetched(&nodes, leader).await, by_leader, "the leader did not");
    assert_eq!(followed(&nodes, other).await, 0.0, "nor did anybody else");
    assert_eq!(followed(&nodes, leader).await, 0.0, "a leader is no follower");

    // It dies: the leader serves, at once and from the same offset.
    nodes.kill(near);
    write(&producer, written..written + 500).await;
    expect(&mut read, written..written + 500).await;
    written += 500;
    assert!(fetched(&nodes, leader).await > by_leader, "who else");

    // It comes back: readers in its rack come back to it.
    nodes.start(near);
    until_in_sync(&admin, 3).await;
    wait::until("the follower serves again", async || {
        write(&producer, written..written + 10).await;
        expect(&mut read, written..written + 10).await;
        written += 10;
        followed(&nodes, near).await > 0.0
    })
    .await;

    // The leader dies: what was acknowledged is read, whoever leads now.
    nodes.kill(leader);
    write(&producer, written..written + 500).await;
    expect(&mut read, written..written + 500).await;
}

/// Bytes that a node sent to readers, as whatever it was.
async fn fetched(nodes: &Nodes, node: usize) -> f64 {
    let series = format!("riverrun_request_bytes_total{{request=\"fetch\",topic=\"{TOPIC}\"}}");
    http::metrics(nodes.node(node).http()).await.get(&series).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_name_no_rack_or_an_empty_one_are_served_by_the_leader() {
    let (nodes, admin, _) = three().await;
    let leader = leader_of(&admin).await;
    let client = nodes.client().await;
    let producer = client.producer().build().await.expect("valid settings");
    write(&producer, 0..100).await;
    let nowhere = client.consumer().assign([(TOPIC, 0, Position::Earliest)]);
    let mut nowhere = nowhere.build().await.expect("valid settings");
    expect(&mut nowhere, 0..100).await;
    for rack in [leader, 9] {
        let mut read = consumer(&client, rack).await;
        expect(&mut read, 0..100).await;
    }
    for node in 1..=3 {
        assert_eq!(followed(&nodes, node).await, 0.0, "node {node}");
    }
}

/// Calls of clients that have nothing but the stubs.
#[tokio::test(flavor = "multi_thread")]
async fn easy_calls_with_a_rack_are_answered_where_they_arrive_and_name_who_is_nearby() {
    let (nodes, admin, topic) = three().await;
    let leader = leader_of(&admin).await;
    let near = leader % 3 + 1;
    let raws: Vec<_> = nodes.addresses().iter().map(|address| Raw::lazy(address)).collect();
    let values: Vec<_> = (0..30).map(|n| n.to_string()).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    raws[0].produce(TOPIC, 0, &values).await.expect("it is taken");
    let request = |rack: usize, offset| v1::FetchRequest {
        partitions: vec![from_offset(&topic, 0, offset)],
        client_rack: format!("rack-{rack}"),
        max_wait: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..Default::default()
    };
    let fetch = async |node: usize, rack, offset| {
        let answer = raws[node - 1].consume.clone().fetch(request(rack, offset)).await;
        answer.expect("errors are in band").into_inner().partitions.pop().expect("one was asked")
    };

    // A leader gives the records, and says who is nearer.
    let mut told = None;
    wait::until("the leader names the follower", async || {
        let data = fetch(leader, near, 0).await;
        assert_eq!(count(&data), 30, "{data:?}");
        told = data.preferred_read_replica;
        told.is_some()
    })
    .await;
    let told = told.expect("it was waited for");
    assert_eq!(told.broker_id as usize, near);
    assert_eq!(format!("{}:{}", told.host, told.port), nodes.addresses()[near - 1]);
    let own = fetch(leader, leader, 0).await;
    assert_eq!((count(&own), own.preferred_read_replica), (30, None), "nobody is nearer");

    // A follower gives what it knows to be committed, itself; without a rack it passes the call on.
    wait::until("the follower gives all", async || count(&fetch(near, near, 0).await) == 30).await;
    let served = followed(&nodes, near).await;
    assert!(served > 0.0);
    let mut without = request(near, 0);
    without.client_rack.clear();
    let passed_on = raws[near - 1].consume.clone().fetch(without).await.expect("it is passed on");
    assert_eq!(count(&passed_on.into_inner().partitions[0]), 30);
    assert_eq!(followed(&nodes, near).await, served, "the leader served that");

    // Whoever waits at a follower is woken as soon as that is told; long before the wait is over.
    let waiting = tokio::spawn({
        let (mut consume, request) = (raws[near - 1].consume.clone(), request(near, 30));
        async move { consume.fetch(request).await }
    });
    raws[leader - 1].produce(TOPIC, 0, &["news"]).await.expect("it leads");
    let woken = tokio::time::timeout(Duration::from_secs(15), waiting).await;
    let woken = woken.expect("it does not wait until the end").expect("it does not panic");
    assert_eq!(count(&woken.expect("in band").into_inner().partitions[0]), 1);

    // What a follower cannot know, the leader says.
    let Some(Outcome::Error(error)) = fetch(near, near, 1000).await.outcome else {
        panic!("an offset that nobody has")
    };
    assert_eq!(error.reason, "OFFSET_OUT_OF_RANGE");

    let tail = v1::TailRequest {
        topic: TOPIC.to_owned(),
        client_rack: format!("rack-{near}"),
        ..Default::default()
    };
    let before = followed(&nodes, near).await;
    let mut answers =
        raws[near - 1].consume.clone().tail(tail).await.expect("it opens").into_inner();
    let mut offsets = BTreeSet::new();
    while let Some(answer) = soon("the rest of a tail", answers.next()).await {
        if let Some(Outcome::Records(read)) = answer.expect("it goes on").data.unwrap().outcome {
            offsets.extend(read.records.iter().map(|record| record.offset));
        }
    }
    assert_eq!(offsets, (0..31).collect());
    assert!(followed(&nodes, near).await > before, "where it was opened");
}

fn count(data: &v1::PartitionData) -> usize {
    match &data.outcome {
        Some(Outcome::Records(read)) => read.records.len(),
        None => 0,
        other => panic!("{other:?}"),
    }
}
