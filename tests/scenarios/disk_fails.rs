//! A sync that fails is final: the page cache proves nothing any more. The broker stops
//! acknowledging, says so everywhere, and refuses to start on the directory until somebody has
//! looked at it.

use riverrun_proto::rpc::v1;
use riverrun_tests::{
    append::AppendStream,
    disk::{FailingDisk, Shown},
    files, forge, http,
    wait::soon,
};

use crate::{broker, data_dir, passed_over};

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_final_and_outlives_a_restart() {
    let disk = match FailingDisk::new(64) {
        Ok(disk) => disk,
        Err(why) => return passed_over(&format!("cannot mount a failing disk: {why}")),
    };
    let data = data_dir();
    let options = broker(data.path());
    let topic = {
        let broker = options.start();
        let topic = broker.raw().await.create_topic("t", 1, &[("durability", "disk")]).await;
        broker.raw().await.create_topic("other", 1, &[]).await;
        assert!(broker.stop().0.success());
        topic
    };
    let dir = files::partition_dir(data.path(), &topic, 0);
    let _shown = match Shown::moved(&dir, disk.path()) {
        Ok(shown) => shown,
        Err(why) => return passed_over(&format!("cannot bind a directory: {why}")),
    };
    let broker = options.start();
    let raw = broker.raw().await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    stream.append(&topic, 0, forge::batch(&["kept"])).await.expect("it is fine");
    let _filling = disk.fail();

    // Sooner or later a sync needs a block that cannot be had.
    let padding = "-".repeat(60_000);
    let mut acked = 1;
    let error = loop {
        match stream.append(&topic, 0, forge::batch(&[&padding])).await {
            Ok(_) => acked += 1,
            Err(error) => break error,
        }
        assert!(acked < 5_000, "300 MB do not fit on 64 MiB");
    };
    assert_eq!(error.reason, "KAFKA_STORAGE_ERROR", "{error:?}");
    assert!(!error.definite, "it was written, and whether it stays nobody knows: {error:?}");
    let again = stream.append(&topic, 0, forge::batch(&["more"])).await.expect_err("it is final");
    assert_eq!(again.reason, "KAFKA_STORAGE_ERROR", "{again:?}");
    assert!(again.definite, "this one was not written: {again:?}");
    // The whole directory has failed: no other partition acknowledges, either.
    let other = soon("an answer", raw.produce("other", 0, &["x"])).await;
    assert_eq!(other.expect_err("it is final").error.reason, "KAFKA_STORAGE_ERROR");

    let metrics = http::metrics(broker.http()).await;
    assert_eq!(metrics.value("riverrun_storage_failed"), 1.0);
    let (status, body) = http::get(broker.http(), "/readyz").await;
    assert_eq!(status, 503, "{body}");
    let (status, _) = http::get(broker.http(), "/healthz").await;
    assert_eq!(status, 200, "a restart would not help");

    let (status, _) = broker.stop();
    assert!(!status.success(), "this was no clean stop");
    let refusal = options.start_refused();
    assert!(refusal.said.contains("failed"), "{}", refusal.said);
    let path = data.path().to_str().expect("it is UTF-8");
    assert!(refusal.said.contains(path), "it names the directory: {}", refusal.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_marked_as_failed_is_refused() {
    let data = data_dir();
    let options = broker(data.path());
    assert!(options.start().stop().0.success());
    let mark = data.path().join("failed");
    std::fs::write(&mark, "fdatasync failed").expect("there is room");
    let refusal = options.start_refused();
    assert_eq!(refusal.status.code(), Some(1), "{refusal:?}");
    let mark_path = mark.to_str().expect("it is UTF-8");
    assert!(refusal.said.contains(mark_path), "it says what to look at: {}", refusal.said);
    std::fs::remove_file(&mark).expect("it is there");
    options.start();
}
