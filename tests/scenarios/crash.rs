//! SIGKILL under load: every record acknowledged is there, once, in order, and serving resumes.

use riverrun_client::Acks;
use riverrun_tests::{
    checker, clock,
    history::Outcome,
    load::{Load, Shape},
    process::BrokerOptions,
    raw::Raw,
};

use crate::{broker, data_dir, rounds};

/// Records between two kills.
const RECORDS_PER_ROUND: usize = 3_000;

async fn killed_under_load(what: &str, topic: &[(&str, &str)], acks: Acks) {
    let data = data_dir();
    let options = broker(data.path()).set("log.flush.dirty.bytes.max", "16MiB");
    let mut running = options.start();
    let raw = running.raw().await;
    let topic = raw.create_topic("load", 3, topic).await;
    let shape = Shape { topic, producers: 3, readers: 2, acks };
    let load = Load::start(&options.address(), shape).await;
    let mut resumed = Vec::new();
    for _ in 0..3 * rounds() {
        load.progress(RECORDS_PER_ROUND).await;
        running.kill();
        let killed = clock::now();
        running = options.start();
        Raw::lazy(&options.address()).until_serving().await;
        resumed.push(killed.elapsed());
    }
    load.progress(RECORDS_PER_ROUND).await;
    let history = load.finish().await.history();
    checker::assert_sound(&history);
    let acked = history.sent.iter().filter(|s| matches!(s.outcome, Outcome::Acked(_))).count();
    assert_eq!(acked, history.sent.len(), "{what}: producers ride through a restart");
    // Not asserted: it is the machine's speed as well. The promise is a second.
    println!(
        "{what}: {acked} records over {} kills, serving again after {resumed:?}",
        resumed.len()
    );
    assert!(running.stop().0.success(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acked_is_lost_with_durability_disk() {
    killed_under_load("disk", &[("durability", "disk")], Acks::All).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acked_is_lost_with_durability_memory() {
    // Small segments, so that kills meet rolls.
    let topic =
        [("durability", "memory"), ("max.message.bytes", "128KiB"), ("segment.bytes", "1MiB")];
    killed_under_load("memory", &topic, Acks::All).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acked_is_lost_with_acks_of_the_leader_alone() {
    killed_under_load("leader", &[("durability", "disk")], Acks::Leader).await;
}

/// Kills while topics come and go: each is there or not, whole, and the directory opens.
#[tokio::test(flavor = "multi_thread")]
async fn topics_made_and_deleted_when_the_broker_is_killed_are_there_or_not() {
    let data = data_dir();
    let options = broker(data.path());
    for round in 0..3 * rounds() {
        kill_among_topics(&options, round).await;
    }
    // Whatever was left half made or half deleted is gone: the directories are those of topics.
    let broker = options.start();
    let raw = broker.raw().await;
    let topics = all_topics(&raw).await;
    let partitions: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
    let listed = std::fs::read_dir(data.path().join("data")).expect("it is there");
    let names: Vec<_> = listed.map(|e| e.expect("it can be listed").file_name()).collect();
    assert_eq!(names.len(), partitions, "{names:?}");
    assert!(broker.stop().0.success());
}

async fn kill_among_topics(options: &BrokerOptions, round: usize) {
    use riverrun_proto::rpc::v1;
    let broker = options.start();
    let raw = broker.raw().await;
    let (made, mut making) = tokio::sync::mpsc::channel(1);
    let churn = tokio::spawn({
        let raw = raw.clone();
        async move {
            let mut known = Vec::new();
            for n in 0.. {
                let name = format!("r{round}-{n}");
                let request = v1::CreateTopicRequest {
                    name: name.clone(),
                    partitions: Some(3),
                    ..Default::default()
                };
                if raw.admin.clone().create_topic(request).await.is_err() {
                    break;
                }
                let written = raw.produce(&name, 1, &["kept"]).await.is_ok();
                known.push((name, written));
                let _ = made.try_send(());
                // Every other one goes again.
                if n % 2 == 1 {
                    let name = known[known.len() - 2].0.clone();
                    let request = v1::DeleteTopicRequest { name, ..Default::default() };
                    if raw.admin.clone().delete_topic(request).await.is_err() {
                        // Unknown: it may be there or not.
                        let at = known.len() - 2;
                        known.remove(at);
                        break;
                    }
                    let at = known.len() - 2;
                    known.remove(at);
                }
            }
            known
        }
    });
    for _ in 0..10 + round * 3 {
        making.recv().await.expect("it goes on until the broker is gone");
    }
    broker.kill();
    let known = churn.await.expect("it does not panic");
    assert!(!known.is_empty());

    let broker = options.start();
    let raw = broker.raw().await;
    for (name, written) in known {
        let topic = raw.topic(&name).await.unwrap_or_else(|| panic!("{name} was acknowledged"));
        let read = raw.read_out(&topic, 1).await.texts();
        assert!(!written || read == ["kept"], "{name}: {read:?}");
        raw.produce(&name, 2, &["more"]).await.expect("all its partitions serve");
    }
    broker.kill();
}

async fn all_topics(raw: &Raw) -> Vec<riverrun_proto::rpc::v1::Topic> {
    use riverrun_proto::rpc::v1;
    let mut results = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::GetTopicsRequest { page_token, ..Default::default() };
        let answer = raw.metadata.clone().get_topics(request).await.expect("it is up").into_inner();
        results.extend(answer.topics);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    results
        .into_iter()
        .map(|result| match result.outcome {
            Some(v1::topic_result::Outcome::Topic(topic)) => topic,
            other => panic!("{other:?}"),
        })
        .collect()
}
