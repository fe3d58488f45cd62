//! Networks that lose connections, or the answers alone: the client goes on by itself, and what it
//! sends again is recognised.

use std::time::Duration;

use riverrun_client::{Acks, Client, Record};
use riverrun_tests::{
    checker,
    history::Outcome,
    load::{Load, Shape},
    process::{BrokerOptions, BrokerProcess},
    proxy::{Proxy, Weather},
    raw::Raw,
    wait::{self, soon},
};

use crate::{broker, data_dir, rounds};

/// A broker that tells its clients to dial the proxy.
async fn behind_a_proxy(data: &std::path::Path) -> (BrokerProcess, Proxy) {
    let options: BrokerOptions = broker(data);
    let proxy = Proxy::start(options.address().parse().expect("it is an address")).await;
    let port = proxy.address().rsplit(':').next().expect("it has a port").to_owned();
    (options.set("network.advertised.port", &port).start(), proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_lose_and_repeat_nothing() {
    let data = data_dir();
    let (broker, proxy) = behind_a_proxy(data.path()).await;
    let topic = broker.raw().await.create_topic("load", 3, &[]).await;
    let shape = Shape { topic, producers: 2, readers: 2, acks: Acks::All };
    let load = Load::start(&proxy.address(), shape).await;
    for round in 0..5 * rounds() {
        load.progress(500).await;
        let delay = Duration::from_millis(round as u64 % 3);
        proxy.set(Weather { delay, ..Weather::default() });
        load.progress(500).await;
        proxy.cut().await;
    }
    load.progress(500).await;
    let history = load.finish().await.history();
    checker::assert_sound(&history);
    let acked = history.sent.iter().filter(|s| matches!(s.outcome, Outcome::Acked(_))).count();
    assert_eq!(acked, history.sent.len(), "the producers ride through it");
}

/// The batch was written, the answer was lost: the one case that only sequences can solve.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_and_found_a_duplicate() {
    let data = data_dir();
    let (broker, proxy) = behind_a_proxy(data.path()).await;
    let direct = Raw::connect(&broker.address()).await;
    let topic = direct.create_topic("t", 1, &[]).await;
    let client = Client::builder().bootstrap_servers([proxy.address()]).build().await;
    let producer =
        client.expect("valid settings").producer().build().await.expect("valid settings");
    #[expect(clippy::async_yields_async, reason = "first memory, then the answer")]
    let send = async |text: &str| {
        let record = Record::to("t").value(text.to_owned()).partition(0);
        producer.send(record).await.expect("it is open")
    };
    // The stream is open and in use.
    let first = send("0").await.await.expect("all is well");
    assert_eq!((first.offset(), first.is_duplicate()), (Some(0), false));

    proxy.set(Weather { to_client_stalls: true, ..Weather::default() });
    let second = send("1").await;
    wait::until("the record is written", async || {
        direct.state("t", 0).await.expect("it serves").log_end_offset == 2
    })
    .await;
    proxy.cut().await;
    proxy.set(Weather::default());
    let second = soon("the answer", second).await.expect("it was written");
    assert_eq!((second.offset(), second.is_duplicate()), (Some(1), true));

    let third = soon("the answer", send("2").await).await.expect("all is well again");
    assert_eq!((third.offset(), third.is_duplicate()), (Some(2), false));
    assert_eq!(direct.read_out(&topic, 0).await.texts(), ["0", "1", "2"]);
}

/// The batch never arrived: sent again, it is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_batch_is_sent_again_and_written_once() {
    let data = data_dir();
    let (broker, proxy) = behind_a_proxy(data.path()).await;
    let direct = Raw::connect(&broker.address()).await;
    let topic = direct.create_topic("t", 1, &[]).await;
    let client = Client::builder().bootstrap_servers([proxy.address()]).build().await;
    let producer =
        client.expect("valid settings").producer().build().await.expect("valid settings");
    let record = |n: i32| Record::to("t").value(n.to_string()).partition(0);
    producer.send(record(0)).await.expect("it is open").await.expect("all is well");

    proxy.set(Weather { to_broker_stalls: true, ..Weather::default() });
    let mut deliveries = Vec::new();
    for n in 1..20 {
        deliveries.push(producer.send(record(n)).await.expect("it is open"));
    }
    proxy.cut().await;
    proxy.set(Weather::default());
    for (n, delivery) in (1..).zip(deliveries) {
        let place = soon("an answer", delivery).await.expect("it is sent again");
        assert_eq!(place.offset(), Some(n));
    }
    let expected: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(direct.read_out(&topic, 0).await.texts(), expected);
}
