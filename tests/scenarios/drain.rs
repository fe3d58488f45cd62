//! SIGTERM: what is in flight is answered, streams are told to reconnect, everything is written
//! down, the exit code is 0; and nobody can hold it up for longer than the drain may take.

use riverrun_client::Acks;
use riverrun_proto::rpc::v1;
use riverrun_tests::{
    append::AppendStream,
    checker, forge,
    history::Outcome,
    load::{Load, Shape},
    raw,
    wait::soon,
};
use rustix::process::Signal;
use serde_json::Value;
use v1::fetch_stream_response::Response;

use crate::{broker, data_dir, rounds};

#[tokio::test(flavor = "multi_thread")]
async fn stops_under_load_lose_nothing_and_the_next_start_scans_nothing() {
    let data = data_dir();
    let options = broker(data.path());
    let mut running = options.start();
    let raw = running.raw().await;
    let topic = raw.create_topic("load", 3, &[]).await;
    let shape = Shape { topic, producers: 2, readers: 2, acks: Acks::All };
    let load = Load::start(&options.address(), shape).await;
    for _ in 0..2 * rounds() {
        load.progress(2_000).await;
        let stopping = tokio::task::spawn_blocking(move || running.stop());
        let (status, logged) = soon("the stop", stopping).await.expect("it does not panic");
        assert!(status.success(), "{status:?}: {logged:#?}");
        running = options.start();
        let is_report = |line: &Value| line["fields"]["message"] == "partitions opened";
        let opened = running.logs(is_report).await;
        assert_eq!(opened["fields"]["scanned_bytes"], 0, "{opened}");
    }
    load.progress(2_000).await;
    let history = load.finish().await.history();
    checker::assert_sound(&history);
    let acked = history.sent.iter().filter(|s| matches!(s.outcome, Outcome::Acked(_))).count();
    assert_eq!(acked, history.sent.len(), "the producers ride through it");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_told_to_reconnect_and_what_was_sent_is_answered() {
    let data = data_dir();
    let mut broker = broker(data.path()).start();
    let raw = broker.raw().await;
    let topic = raw.create_topic("t", 1, &[]).await;
    let mut appends = AppendStream::open(&raw, v1::Acks::All).await;
    appends.append(&topic, 0, forge::batch(&["before"])).await.expect("it is fine");
    let open = v1::FetchStreamOpen {
        partitions: vec![raw::from_offset(&topic, 0, 0)],
        ..Default::default()
    };
    let open = v1::fetch_stream_request::Request::Open(open);
    let open = v1::FetchStreamRequest { request: Some(open) };
    let (_held, requests) = raw::held_open(open);
    let fetching = raw.consume.clone().fetch_stream(requests).await;
    let mut fetching = fetching.expect("it opens").into_inner();

    // Sent before the broker was told, and before anybody looked at an answer.
    let mut ids = Vec::new();
    for n in 0..20 {
        let batch = forge::batch(&[&n.to_string()]);
        ids.push(appends.send(&topic, 0, batch).await.expect("it is open"));
    }
    broker.signal(Signal::TERM);
    let mut answered = Vec::new();
    while let Some(ack) = soon("the answers", appends.ack()).await.expect("it ends well") {
        assert!(matches!(ack.outcome, Some(v1::produce_stream_ack::Outcome::Result(_))), "{ack:?}");
        answered.push(ack.correlation_id);
        // Whoever ends by himself before the broker knows of its end is not told.
        if answered.len() == ids.len() && appends.told_to_reconnect {
            appends.half_close();
        }
    }
    assert_eq!(answered, ids);
    assert!(appends.told_to_reconnect);

    let (mut told, mut read) = (false, 0);
    while let Some(answer) =
        soon("the end of reading", fetching.message()).await.expect("it ends well")
    {
        match answer.response {
            Some(Response::Control(control)) => told |= control.reconnect,
            Some(Response::Data(data)) => {
                for item in data.items {
                    let Some(v1::partition_data::Outcome::Records(records)) = item.outcome else {
                        panic!("{:?}", item.outcome);
                    };
                    read += records.records.len();
                }
            }
            _ => {}
        }
    }
    assert!(told, "the reader was told to reconnect");
    assert!(read >= 1, "and had read until then");
    let ended = tokio::task::spawn_blocking(move || broker.wait());
    assert!(soon("the end", ended).await.expect("it does not panic").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_lets_go_does_not_hold_it_up() {
    let data = data_dir();
    let options = broker(data.path()).set("broker.shutdown.drain.ms", "1s");
    let broker = options.start();
    let raw = broker.raw().await;
    let topic = raw.create_topic("t", 1, &[]).await;
    // Neither of them ends its side or looks at what it is told.
    let mut appends = AppendStream::open(&raw, v1::Acks::All).await;
    appends.append(&topic, 0, forge::batch(&["kept"])).await.expect("it is fine");
    let tail = v1::TailRequest { topic: "t".to_owned(), follow: true, ..Default::default() };
    let tailing = raw.consume.clone().tail(tail).await.expect("it opens");

    let stopping = tokio::task::spawn_blocking(move || broker.stop());
    let (status, logged) = soon("the stop", stopping).await.expect("it does not panic");
    assert!(status.success(), "all is written down all the same: {logged:#?}");
    drop((appends, tailing));
    let broker = options.start();
    assert_eq!(broker.raw().await.read_out(&topic, 0).await.texts(), ["kept"]);
}
