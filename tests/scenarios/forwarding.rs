//! Any broker of three takes the easy calls of a client that knows nothing of leaders.

use std::collections::BTreeSet;

use bytes::Bytes;
use riverrun_proto::rpc::v1;
use riverrun_tests::{
    http, load,
    raw::{Raw, Refused, from_offset},
    wait::{self, soon},
};
use tokio_stream::StreamExt as _;
use tonic::Request;
use v1::{partition_data::Outcome, record_result};

use crate::nodes::Nodes;

const TOPIC: &str = "anywhere";

/// Three nodes and a topic of three partitions, led by another node each.
async fn three() -> (Nodes, Vec<Raw>, v1::Topic) {
    let nodes = Nodes::voting(3);
    nodes.until_all_take_part().await;
    let admin = nodes.admin(1).await;
    let made = admin.create_topic(TOPIC).partitions(3).replication_factor(3).send().await;
    let made = made.expect("all are there");
    let leaders: BTreeSet<_> = made.partitions.iter().filter_map(|p| p.leader).collect();
    assert_eq!(leaders.len(), 3, "each leads one: {made:?}");
    let mut raws = Vec::new();
    for address in nodes.addresses() {
        raws.push(Raw::connect(&address).await);
    }
    let topic = raws[0].topic(TOPIC).await.expect("it was made");
    // A partition that was just made is still being opened by its leader.
    for partition in 0..3 {
        load::leader(&raws, &topic, partition).await;
    }
    (nodes, raws, topic)
}

fn request(values: &[String]) -> v1::ProduceRequest {
    let record = |value: &String| v1::Record {
        key: Some(Bytes::from(value.clone())),
        value: Some(Bytes::from(value.clone())),
        ..Default::default()
    };
    let records = values.iter().map(record).collect();
    v1::ProduceRequest {
        topic: TOPIC.to_owned(),
        records: Some(v1::RecordList { records, compression: 0 }),
        ..Default::default()
    }
}

fn values(read: &v1::ConsumedRecords) -> impl Iterator<Item = String> + '_ {
    read.records.iter().map(|record| {
        let value = record.record.as_ref().and_then(|record| record.value.clone());
        String::from_utf8_lossy(&value.expect("each has one")).into_owned()
    })
}

/// All partitions from `offset`, as records.
fn fetch_all(topic: &v1::Topic, offsets: [i64; 3], max_wait: i64) -> v1::FetchRequest {
    let places = (0..3).zip(offsets).map(|(p, offset)| from_offset(topic, p, offset));
    v1::FetchRequest {
        partitions: places.collect(),
        format: v1::ReadFormat::Records.into(),
        max_wait: Some(prost_types::Duration { seconds: max_wait, nanos: 0 }),
        ..Default::default()
    }
}

/// What a tail without `follow` gives.
async fn tailed(raw: &Raw, limit: u64) -> Vec<String> {
    let request = v1::TailRequest { topic: TOPIC.to_owned(), limit, ..Default::default() };
    let mut answers = raw.consume.clone().tail(request).await.expect("it opens").into_inner();
    let mut read = Vec::new();
    while let Some(answer) = soon("the rest of a tail", answers.next()).await {
        let data = answer.expect("it goes on").data.expect("each has data");
        match data.outcome {
            Some(Outcome::Records(records)) => read.extend(values(&records)),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn any_broker_takes_what_others_lead_and_gives_it_back() {
    let (mut nodes, raws, topic) = three().await;
    let mut all = BTreeSet::new();
    for (n, raw) in raws.iter().enumerate() {
        let sent: Vec<_> = (0..30).map(|i| format!("through {n} record {i}")).collect();
        let answer = raw.produce.clone().produce(request(&sent)).await.expect("it is taken");
        let mut partitions = BTreeSet::new();
        for result in answer.into_inner().results {
            match result.outcome.expect("every record has an outcome") {
                record_result::Outcome::Ack(ack) => {
                    assert_eq!(ack.replicas, 3, "the leader's word");
                    partitions.insert(ack.partition);
                }
                record_result::Outcome::Error(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(partitions.len(), 3, "whoever leads it");
        all.extend(sent);
    }
    for raw in &raws {
        let read: BTreeSet<_> = tailed(raw, 0).await.into_iter().collect();
        assert_eq!(read, all);
        assert_eq!(tailed(raw, 7).await.len(), 7, "as many as were wanted, of all together");
        let request = fetch_all(&topic, [0; 3], 0);
        let answer = raw.consume.clone().fetch(request).await.expect("it answers in band");
        let mut read = BTreeSet::new();
        for (at, data) in answer.into_inner().partitions.into_iter().enumerate() {
            let partition = data.partition.as_ref().expect("it is named").partition;
            assert_eq!(partition as usize, at, "in the order of the request");
            let Some(Outcome::Records(records)) = data.outcome else { panic!("{data:?}") };
            read.extend(values(&records));
        }
        assert_eq!(read, all);
    }
    let metrics = http::metrics(nodes.node(1).http()).await;
    assert_eq!(metrics.value("riverrun_bound_used{bound=\"forward.calls\"}"), 0.0);
    assert_eq!(metrics.value("riverrun_bound_used{bound=\"forward.tails\"}"), 0.0);

    // One is killed: those that are left pass on to whoever leads then.
    nodes.kill(3);
    wait::until("a record for each partition is taken", async || {
        let sent: Vec<_> = (0..30).map(|i| format!("after {i}")).collect();
        let answer = raws[0].produce.clone().produce(request(&sent)).await;
        answer.is_ok_and(|answer| {
            let mut results = answer.into_inner().results.into_iter();
            results.all(|r| matches!(r.outcome, Some(record_result::Outcome::Ack(_))))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_at_any_broker_is_woken_by_any_leader() {
    let (_nodes, raws, topic) = three().await;
    let mut offsets = [0; 3];
    for partition in 0..3_usize {
        let request = fetch_all(&topic, offsets, 20);
        let waiting = tokio::spawn({
            let mut consume = raws[0].consume.clone();
            async move { consume.fetch(request).await }
        });
        let number = i32::try_from(partition).expect("it is small");
        // Written before it asks, it is there; after, it wakes it.
        raws[1].produce(TOPIC, number, &["news"]).await.expect("it is passed on");
        let answer = soon("the fetch to be answered", waiting).await.expect("it does not panic");
        let data = answer.expect("it answers in band").into_inner().partitions;
        let Some(Outcome::Records(read)) = &data[partition].outcome else { panic!("{data:?}") };
        assert_eq!(values(read).collect::<Vec<_>>(), ["news"]);
        offsets[partition] += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_follows_all_leaders() {
    let (_nodes, raws, _) = three().await;
    let request = v1::TailRequest { topic: TOPIC.to_owned(), follow: true, ..Default::default() };
    let mut answers = raws[2].consume.clone().tail(request).await.expect("it opens").into_inner();
    for partition in 0..3 {
        let text = format!("to {partition}");
        raws[0].produce(TOPIC, partition, &[&text]).await.expect("it is passed on");
        loop {
            let answer = soon("the record", answers.next()).await.expect("it follows");
            let data = answer.expect("it goes on").data.expect("each has data");
            // Where it found an end, it says so without a record.
            if let Some(Outcome::Records(read)) = data.outcome
                && !read.records.is_empty()
            {
                assert_eq!(values(&read).collect::<Vec<_>>(), [text]);
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_come_back_as_the_leader_said_them_and_there_is_one_hop() {
    let (_nodes, raws, topic) = three().await;
    let leader = topic.partitions[0].leader.expect("it is led");
    let (mut from_leader, mut passed_on) = (Vec::new(), Vec::new());
    for (n, raw) in raws.iter().enumerate() {
        let data = raw.fetch(&topic, 0, 1000, v1::ReadFormat::Records).await;
        let Some(Outcome::Error(error)) = data.outcome else { panic!("{data:?}") };
        assert_eq!(error.reason, "OFFSET_OUT_OF_RANGE");
        match n as u32 + 1 == leader {
            true => from_leader.push(error),
            false => passed_on.push(error),
        }
        let large = "x".repeat(1_100_000);
        let refused = raw.produce(TOPIC, 0, &[&large]).await.unwrap_err();
        assert_eq!(refused.error.reason, "MESSAGE_TOO_LARGE");
    }
    assert_eq!(passed_on, [&from_leader[..], &from_leader[..]].concat());

    // What was passed on once is not passed on again.
    let elsewhere = &raws[leader as usize % 3];
    let mut marked =
        Request::new(v1::ProduceRequest { partition: Some(0), ..request(&["a".into()]) });
    marked.metadata_mut().insert("x-riverrun-forwarded", "1".parse().expect("it is ASCII"));
    let answer = elsewhere.produce.clone().produce(marked).await.map_err(Refused::from);
    let results = answer.expect("errors are in band").into_inner().results;
    let Some(record_result::Outcome::Error(error)) = &results[0].outcome else {
        panic!("{results:?}")
    };
    assert_eq!(error.reason, "NOT_LEADER_OR_FOLLOWER");
    assert!(error.retriable && error.definite, "{error:?}");
}
