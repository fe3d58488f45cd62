//! The reader against the test cluster.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::*;
use crate::{ErrorKind, test_broker::TestCluster};

async fn cluster() -> (TestCluster, Client) {
    let cluster = TestCluster::start(2);
    cluster.create_topic("t", 3);
    for partition in 0..2 {
        for n in 0..20 {
            let value = format!("{partition}/{n}");
            cluster.append("t", partition, &[&value, &value]);
        }
    }
    let client = cluster.client().await;
    (cluster, client)
}

#[tokio::test(start_paused = true)]
async fn it_ends_where_the_topic_ended_when_it_was_built() {
    let (cluster, client) = cluster().await;
    let reader = client.reader("t").stop_at_end().build().await.unwrap();
    cluster.append("t", 0, &["too late"]);
    cluster.append("t", 2, &["too late"]);
    let records: Vec<_> = reader.try_collect().await.unwrap();
    assert_eq!(records.len(), 80);
    assert!(records.iter().all(|record| record.value() != Some(b"too late")));
}

#[tokio::test(start_paused = true)]
async fn the_last_ones_of_a_partition_and_a_number_of_them() {
    let (_cluster, client) = cluster().await;
    let last = || client.reader("t").partition(1).from(Position::FromEnd(7));
    let reader = last().stop_at_end().build().await.unwrap();
    let offsets: Vec<i64> = reader.map_ok(|record| record.offset()).try_collect().await.unwrap();
    assert_eq!(offsets, (33..40).collect::<Vec<_>>());
    let reader = last().limit(3).build().await.unwrap();
    assert_eq!(reader.try_collect::<Vec<_>>().await.unwrap().len(), 3);
    let mut follows = last().build().await.unwrap();
    assert_eq!(follows.by_ref().take(7).count().await, 7);
    let more = tokio::time::timeout(Duration::from_secs(60), follows.next()).await;
    assert!(more.is_err(), "it waits for more");
}

#[tokio::test(start_paused = true)]
async fn an_empty_topic_ends_at_once_and_an_unknown_one_is_an_error() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("empty", 4);
    let reader = client.reader("empty").stop_at_end().build().await.unwrap();
    assert!(reader.try_collect::<Vec<_>>().await.unwrap().is_empty());
    for builder in [client.reader("nowhere"), client.reader("t").partition(3)] {
        assert_eq!(builder.build().await.unwrap_err().kind(), ErrorKind::UnknownTopic);
    }
}
