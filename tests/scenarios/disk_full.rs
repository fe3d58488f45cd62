//! A disk without room: writes are refused clearly and definitely, reads go on, and when room
//! returns writes do as well, by themselves.

use std::collections::{BTreeMap, HashSet};

use riverrun_proto::rpc::v1;
use riverrun_tests::{
    append::AppendStream,
    disk::SmallDisk,
    forge, http,
    process::{BrokerOptions, BrokerProcess},
    raw::Raw,
    wait,
};

use crate::{
    broker,
    cut_off::{Scene, TOPIC},
    passed_over,
};

const DISK_MIB: u64 = 96;

fn on(disk: &SmallDisk) -> BrokerOptions {
    broker(&disk.path().join("data"))
        .set("log.window.bytes.max", "1MiB")
        .set("log.reserve.bytes", "4MiB")
}

/// Appends until there is no room; what was acknowledged, and what the broker said then.
async fn until_full(raw: &Raw, topic: &v1::Topic) -> (Vec<String>, v1::Error) {
    let mut stream = AppendStream::open(raw, v1::Acks::All).await;
    let mut acked = Vec::new();
    let padding = "-".repeat(60_000);
    loop {
        let value = format!("{} {padding}", acked.len());
        match stream.append(topic, 0, forge::batch(&[&value])).await {
            Ok(_) => acked.push(value),
            Err(error) => return (acked, error),
        }
        assert!(acked.len() < 10_000, "a disk of {DISK_MIB} MiB takes no 600 MB");
    }
}

async fn full(durability: &str) {
    let disk = match SmallDisk::new(DISK_MIB) {
        Ok(disk) => disk,
        Err(why) => return passed_over(&format!("cannot mount a small disk: {why}")),
    };
    let options = on(&disk);
    let broker = options.start();
    let raw = broker.raw().await;
    let configs = [("durability", durability), ("segment.bytes", "4MiB")];
    let topic = raw.create_topic("t", 1, &configs).await;
    let before = raw.produce("t", 0, &["before"]).await.expect("there is room");
    assert_eq!(before, [0]);

    let filling = disk.fill();
    let (acked, error) = until_full(&raw, &topic).await;
    assert_eq!(error.reason, "STORAGE_FULL", "{error:?}");
    assert!(
        error.definite && error.retriable,
        "nothing was written, and it may be later: {error:?}"
    );
    assert!(error.retry_after.is_some(), "{error:?}");
    let expected: HashSet<String> = acked.iter().cloned().chain(["before".to_owned()]).collect();
    let read = raw.read_out(&topic, 0).await;
    assert_eq!(read.end as usize, expected.len(), "what was refused is not there");
    assert_eq!(read.texts().into_iter().collect::<HashSet<_>>(), expected);

    // Refused for as long as it is full, and never half written.
    for _ in 0..3 {
        let refused = raw.produce("t", 0, &["x".repeat(50_000).as_str()]).await;
        assert_eq!(refused.expect_err("it is full").error.reason, "STORAGE_FULL");
    }
    assert_eq!(raw.read_out(&topic, 0).await.end as usize, expected.len());

    // Topics cannot be made, and say so; what is there stays.
    let request = v1::CreateTopicRequest { name: "more".to_owned(), ..Default::default() };
    if let Err(status) = raw.admin.clone().create_topic(request).await {
        let refused = riverrun_tests::raw::Refused::from(status);
        assert_eq!(refused.error.reason, "STORAGE_FULL", "{refused:?}");
    }

    drop(filling);
    wait::until("writes come back by themselves", async || {
        raw.produce("t", 0, &["after"]).await.is_ok()
    })
    .await;
    let read = raw.read_out(&topic, 0).await.texts();
    assert_eq!(read.len(), expected.len() + 1);
    assert_eq!(read.last().map(String::as_str), Some("after"));
    restart_keeps(broker, &options, &topic, &read).await;
}

async fn restart_keeps(
    broker: BrokerProcess,
    options: &BrokerOptions,
    topic: &v1::Topic,
    expected: &[String],
) {
    let (status, logged) = broker.stop();
    assert!(status.success(), "{status:?}: {logged:#?}");
    let broker = options.start();
    let read = broker.raw().await.read_out(topic, 0).await.texts();
    assert_eq!(read, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_recovers_with_durability_disk() {
    full("disk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_recovers_with_durability_memory() {
    full("memory").await;
}

/// Nothing is lost by stopping, or being killed, while there is no room; and the broker starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_on_a_full_disk_stops_clean_and_starts_again() {
    let disk = match SmallDisk::new(DISK_MIB) {
        Ok(disk) => disk,
        Err(why) => return passed_over(&format!("cannot mount a small disk: {why}")),
    };
    let options = on(&disk);
    let broker = options.start();
    let raw = broker.raw().await;
    let topic = raw.create_topic("t", 1, &[("segment.bytes", "4MiB")]).await;
    let filling = disk.fill();
    let (acked, _) = until_full(&raw, &topic).await;
    wait::until("the alert is raised", async || {
        http::metrics(broker.http()).await.value("riverrun_storage_disk_free_space_alert") == 1.0
    })
    .await;
    let metrics = http::metrics(broker.http()).await;
    assert!(metrics.value("riverrun_log_storage_full_total") >= 1.0);
    assert_eq!(metrics.value("riverrun_storage_failed"), 0.0, "full is not failed");

    let (status, logged) = broker.stop();
    assert!(status.success(), "{status:?}: {logged:#?}");
    let broker = options.start();
    let raw = broker.raw().await;
    assert_eq!(raw.read_out(&topic, 0).await.texts(), acked);
    broker.kill();
    let broker = options.start();
    let raw = broker.raw().await;
    assert_eq!(raw.read_out(&topic, 0).await.texts(), acked);

    // DeleteRecords and deleting topics make room even now.
    raw.delete_topic("t").await;
    drop(filling);
    raw.create_topic("new", 1, &[]).await;
    raw.produce("new", 0, &["works"]).await.expect("there is room again");
}

/// One broker of three has no room: what it leads is refused clearly, what it follows goes on without
/// it, and when room returns it has everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_one_broker_costs_a_cluster_nothing_but_its_place() {
    // Segments of one size with the disk: what is allocated of them is soon used up.
    let configs = [("segment.bytes", "4MiB"), ("min.insync.replicas", "2")];
    let Some(mut scene) = Scene::set(3, &configs, Some(DISK_MIB)).await else { return };
    let mut leaders = Vec::new();
    for partition in 0..3 {
        leaders.push(scene.cluster.leader_of(TOPIC, partition).await);
    }
    let led = leaders.iter().position(|leader| *leader == 1).expect("leaders are spread");
    let followed = leaders.iter().position(|leader| *leader != 1).expect("leaders are spread");
    let elsewhere = scene.cluster.raw(leaders[followed]);
    let [led, followed] = [led, followed].map(|it| i32::try_from(it).expect("it is few"));
    let padding = "-".repeat(60_000);
    let mut acked = BTreeMap::from([(led, Vec::new()), (followed, Vec::new())]);

    scene.cluster.fill(1);
    let full = scene.cluster.raw(1);
    let mut n = 0;
    let mut put = async |raw: &Raw, partition: i32| {
        n += 1;
        let value = format!("{n} {padding}");
        let put = raw.produce(TOPIC, partition, &[&value]).await;
        if put.is_ok() {
            acked.get_mut(&partition).expect("it is one of the two").push(value);
        }
        put
    };
    wait::until("the full leader refuses", async || match put(&full, led).await {
        Ok(_) => false,
        Err(refused) => {
            assert_eq!(refused.error.reason, "STORAGE_FULL", "{refused:?}");
            assert!(refused.error.definite && refused.error.retriable, "{refused:?}");
            true
        }
    })
    .await;
    // A follower without room leaves the ISR; until then records wait for it, and may be told so.
    wait::until("the full follower is out of the ISR", async || {
        let _ = put(&elsewhere, followed).await;
        let topic = elsewhere.topic(TOPIC).await.expect("it exists");
        !topic.partitions[followed as usize].in_sync_replicas.contains(&1)
    })
    .await;
    put(&elsewhere, followed).await.expect("two are in sync");

    scene.cluster.make_room(1);
    scene.cluster.until_in_sync(TOPIC, 3).await;
    wait::until("writes come back by themselves", async || put(&full, led).await.is_ok()).await;
    for (partition, acked) in acked {
        let leader = scene.cluster.raw(leaders[partition as usize]);
        let texts: HashSet<_> =
            leader.read_out(&scene.topic, partition).await.texts().into_iter().collect();
        let lost: Vec<_> = acked.iter().filter(|value| !texts.contains(*value)).collect();
        assert!(lost.is_empty(), "{} of {} in partition {partition}", lost.len(), acked.len());
    }
    scene
        .cluster
        .raw(leaders[3 - led as usize - followed as usize])
        .produce(TOPIC, 3 - led - followed, &["so that it is not empty"])
        .await
        .expect("all is well");
    scene.cluster.until_in_sync(TOPIC, 3).await;
    scene.cluster.assert_replicas_equal(&scene.topic).await;
}
