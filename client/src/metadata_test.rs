//! The cache against the test cluster.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use riverrun_proto::reason::Reason;

use super::*;
use crate::test_broker::{TestCluster, error};

fn name(n: usize) -> Arc<str> {
    Arc::from(format!("t{n}"))
}

#[tokio::test(start_paused = true)]
async fn many_questions_share_few_requests_and_answers_are_kept() {
    let cluster = TestCluster::start(1);
    for n in 0..50 {
        cluster.create_topic(&name(n), 2);
    }
    let client = cluster.client_builder().metadata_max_age(Duration::from_secs(60)).build();
    let client = client.await.unwrap();
    let names: Vec<Arc<str>> = (0..50).map(name).collect();
    let ask = |freshness| {
        join_all(names.iter().map(move |name| (name, freshness)).map(async |(name, freshness)| {
            client.metadata().topic(name, freshness, false).await.unwrap()
        }))
    };
    let topics = ask(Freshness::Cached).await;
    assert!(topics.iter().zip(&names).all(|(topic, name)| topic.name == *name));
    let requests = cluster.state().seen.topic_requests;
    assert!(requests <= 2, "{requests} requests for 50 topics asked at once");
    ask(Freshness::Cached).await;
    assert_eq!(cluster.state().seen.topic_requests, requests);
    // All of them doubt the same thing at the same time.
    ask(Freshness::After(client.metadata().mark())).await;
    assert!(cluster.state().seen.topic_requests <= requests + 2);
    let requests = cluster.state().seen.topic_requests;
    tokio::time::sleep(Duration::from_secs(61)).await;
    ask(Freshness::Cached).await;
    assert!(cluster.state().seen.topic_requests > requests, "too old");
}

#[tokio::test(start_paused = true)]
async fn failures_are_not_kept_and_nobody_else_gets_them() {
    let cluster = TestCluster::start(1);
    let client = cluster.client().await;
    let topic = async || client.metadata().topic(&name(0), Freshness::Cached, false).await;
    assert_eq!(topic().await.unwrap_err().kind(), ErrorKind::UnknownTopic);
    cluster.create_topic("t0", 1);
    cluster.faults(|faults| {
        let busy = error(Reason::LeaderNotAvailable, true, true);
        faults.next_topics.extend([busy.clone(), busy]);
    });
    assert!(topic().await.unwrap_err().is_retriable());
    assert!(topic().await.unwrap_err().is_retriable());
    topic().await.unwrap();
    let bad: Arc<str> = "no/name".into();
    let error = client.metadata().topic(&bad, Freshness::Cached, true).await.unwrap_err();
    assert!(error.is_reason(Reason::InvalidTopic));
}

#[tokio::test(start_paused = true)]
async fn any_broker_that_is_up_will_do() {
    let cluster = TestCluster::start(3);
    cluster.create_topic("t0", 1);
    let client = cluster.client().await;
    client.metadata().topic(&name(0), Freshness::Cached, false).await.unwrap();
    cluster.stop(1);
    cluster.stop(2);
    let mark = client.metadata().mark();
    client.metadata().topic(&name(0), Freshness::After(mark), false).await.unwrap();
    cluster.stop(3);
    let mark = client.metadata().mark();
    let error = client.metadata().topic(&name(0), Freshness::After(mark), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.is_retriable());
}

#[tokio::test(start_paused = true)]
async fn whoever_doubts_asks_another_broker_and_the_newer_epoch_holds() {
    let cluster = TestCluster::start(3);
    cluster.create_topic("t0", 1);
    let client = cluster.client().await;
    let led_by = async |freshness| {
        let topic = client.metadata().topic(&name(0), freshness, false).await.unwrap();
        topic.partitions[0].leader.unwrap().0
    };
    assert_eq!(led_by(Freshness::Cached).await, 1);
    let epoch = cluster.state().topics["t0"].partitions[0].leader_epoch;
    cluster.faults(|faults| faults.cut_off = Some((1, epoch)));
    cluster.move_leader("t0", 0, 2);
    // Whoever answered first, within two of three questions another one does; then it stays.
    led_by(Freshness::Doubted(client.metadata().mark())).await;
    for _ in 0..5 {
        assert_eq!(led_by(Freshness::Doubted(client.metadata().mark())).await, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_costs_a_moment_and_not_a_timeout() {
    let cluster = TestCluster::start(3);
    cluster.create_topic("t0", 1);
    let client = cluster.client().await;
    client.metadata().topic(&name(0), Freshness::Cached, false).await.unwrap();
    for mute in 1..=3 {
        cluster.faults(|faults| faults.mute_topics = Some(mute));
        let start = clock::now();
        let mark = client.metadata().mark();
        client.metadata().topic(&name(0), Freshness::Doubted(mark), false).await.unwrap();
        assert!(clock::now() - start <= ASK_NEXT_AFTER + Duration::from_millis(100), "{mute}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_cache_is_bounded() {
    let cluster = TestCluster::start(1);
    cluster.create_topic("t0", 1);
    let client = cluster.client().await;
    let topic = client.metadata().topic(&name(0), Freshness::Cached, false).await.unwrap();
    {
        let mut known = client.metadata().known.lock();
        let (fetched, request) = (clock::now(), Mark(1));
        for n in 0..TOPICS_CACHED_MAX {
            let outcome = Ok(Arc::clone(&topic));
            known.topics.insert(name(n + 1), Answer { outcome, fetched, request });
        }
    }
    let mark = client.metadata().mark();
    client.metadata().topic(&name(0), Freshness::After(mark), false).await.unwrap();
    assert!(client.metadata().known.lock().topics.len() <= TOPICS_CACHED_MAX);
    assert!(client.metadata().cached("t0").is_some());
}

#[tokio::test(start_paused = true)]
async fn questions_beyond_one_request_are_asked_in_several() {
    let cluster = TestCluster::start(1);
    let names: Vec<Arc<str>> = (0..TOPICS_PER_REQUEST * 2 + 500).map(name).collect();
    for name in &names {
        cluster.create_topic(name, 1);
    }
    let client = cluster.client().await;
    let asked =
        join_all(names.iter().map(|name| client.metadata().topic(name, Freshness::Cached, false)));
    assert!(asked.await.into_iter().all(|topic| topic.is_ok()));
    let requests = cluster.state().seen.topic_requests;
    assert!((3..=4).contains(&requests), "{requests}");
}

/// Any broker may be asked again for what changes nothing; what does is waited for where it was asked, and
/// goes elsewhere only if nothing can have happened.
#[tokio::test(start_paused = true)]
async fn a_change_that_may_have_been_made_is_asked_of_nobody_else() {
    let cluster = TestCluster::start(3);
    cluster.create_topic("t0", 1);
    let client = cluster.client().await;
    client.metadata().topic(&name(0), Freshness::Cached, false).await.unwrap();
    let asked = Mutex::new(Vec::new());
    let slowly = async |answer: Result<()>| {
        tokio::time::sleep(2 * ASK_NEXT_AFTER).await;
        answer
    };
    let call = |address: Address| {
        asked.lock().push(address);
        slowly(Ok(()))
    };
    client.metadata().at_any_definite(call).await.unwrap();
    assert_eq!(std::mem::take(&mut *asked.lock()).len(), 1, "it answers in the end");
    client.metadata().at_any_broker(call).await.unwrap();
    assert_eq!(std::mem::take(&mut *asked.lock()).len(), 3, "the last one is waited for");
    for (definite, asks) in [(true, 3), (false, 1)] {
        let refused = |address: Address| {
            asked.lock().push(address);
            slowly(Err(Error::connection("broken").definite(definite)))
        };
        client.metadata().at_any_definite(refused).await.unwrap_err();
        assert_eq!(std::mem::take(&mut *asked.lock()).len(), asks, "definite: {definite}");
    }
}
