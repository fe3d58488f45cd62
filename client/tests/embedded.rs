//! The client against the real broker, in this process: what the fake in `src/test_broker` stands
//! for has to be true.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, future::join_all};
use riverrun_broker::Embedded;
use riverrun_client::{
    Client, Compression, ConsumerEvent, ErrorKind, Position, Record, TopicPartition,
};

const MINUTE: Duration = Duration::from_secs(60);

async fn start() -> (Embedded, Client) {
    let broker = Embedded::start().await.expect("a broker starts");
    let builder = Client::builder().bootstrap_servers([broker.address()]);
    let client = builder.build().await.expect("the options are valid");
    (broker, client)
}

#[tokio::test]
async fn records_come_back_in_order_with_everything_in_them() {
    let (_broker, client) = start().await;
    client.admin().create_topic("t").partitions(3).send().await.unwrap();
    for codec in Compression::ALL {
        let producer = client.producer().compression(codec).build().await.unwrap();
        let mut deliveries = Vec::new();
        for n in 0..1_000 {
            let record = Record::to("t")
                .key(format!("key {}", n % 10))
                .value(format!("{codec} {n}"))
                .header("codec", codec.to_string())
                .timestamp(1_700_000_000_000 + n);
            deliveries.push(producer.send(record).await.unwrap());
        }
        let places: Vec<_> = join_all(deliveries).await.into_iter().map(Result::unwrap).collect();
        assert!(places.iter().all(|place| place.offset().is_some() && place.replicas() == 1));
        producer.close(MINUTE).await.unwrap();
    }
    let reader = client.reader("t").stop_at_end().build().await.unwrap();
    let records: Vec<_> = reader.try_collect().await.unwrap();
    assert_eq!(records.len(), 5_000);
    let mut next = [0_i64; 3];
    for record in &records {
        let expected = &mut next[record.partition() as usize];
        assert_eq!(record.offset(), *expected);
        *expected += 1;
        assert!(record.value().unwrap().starts_with(record.header("codec").unwrap()));
    }
}

#[tokio::test]
async fn a_consumer_follows_seeks_pauses_and_hears_of_the_end() {
    let (_broker, client) = start().await;
    client.admin().create_topic("t").send().await.unwrap();
    let producer = client.producer().build().await.unwrap();
    for n in 0..500 {
        producer.send(Record::to("t").value(n.to_string())).await.unwrap().detach();
    }
    producer.flush().await.unwrap();
    let builder = client.consumer().assign_all("t", Position::FromEnd(100));
    let mut consumer = builder.end_of_partition_events(true).build().await.unwrap();
    let end = async |consumer: &mut riverrun_client::Consumer| {
        let mut offsets = Vec::new();
        loop {
            let event = tokio::time::timeout(MINUTE, consumer.events().next()).await.unwrap();
            match event.unwrap().unwrap() {
                ConsumerEvent::Record(record) => offsets.push(record.offset()),
                ConsumerEvent::EndOfPartition { offset, .. } => return (offsets, offset),
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(end(&mut consumer).await, ((400..500).collect(), 500));
    let partition = TopicPartition::new("t", 0);
    assert_eq!(consumer.lag(&partition).unwrap(), Some(0));
    assert!(consumer.is_caught_up());
    consumer.seek(&partition, Position::Offset(123)).unwrap();
    let first = consumer.next().await.unwrap().unwrap();
    assert_eq!((first.offset(), first.value()), (123, Some(&b"123"[..])));
    consumer.pause([&partition]).unwrap();
    assert!(consumer.poll(10, Duration::from_millis(300)).await.unwrap().is_empty());
    consumer.resume([&partition]).unwrap();
    assert_eq!(end(&mut consumer).await, ((124..500).collect(), 500));
    producer.send(Record::to("t").value("more")).await.unwrap().await.unwrap();
    assert_eq!(end(&mut consumer).await, (vec![500], 501));
}

#[tokio::test]
async fn a_reader_with_little_credit_gets_everything() {
    let (_broker, client) = start().await;
    client.admin().create_topic("t").partitions(4).send().await.unwrap();
    let producer = client.producer().compression(Compression::None).build().await.unwrap();
    let value = vec![b'x'; 10_000];
    for n in 0..800_u32 {
        let record = Record::to("t").partition(n % 4).value(value.clone());
        producer.send(record).await.unwrap().detach();
    }
    producer.close(MINUTE).await.unwrap();
    let reader = client.reader("t").consumer(|consumer| consumer.prefetch_bytes(64 * 1024));
    let mut reader = reader.stop_at_end().build().await.unwrap();
    let control = reader.control();
    let mut count = 0;
    while let Some(record) = tokio::time::timeout(MINUTE, reader.try_next()).await.unwrap().unwrap()
    {
        assert_eq!(record.value().unwrap().len(), 10_000);
        assert!(control.buffered_bytes() < 64 * 1024 + 4 * 80_000);
        count += 1;
    }
    assert_eq!(count, 800);
}

#[tokio::test]
async fn a_restarted_broker_is_found_again_and_nothing_is_lost_or_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let start = async |address: Option<String>| {
        let builder = Embedded::builder().data_dir(dir.path()).configure(|config| {
            if let Some(address) = &address {
                config.network.grpc_listen = address.parse().unwrap();
            }
        });
        builder.start().await.unwrap()
    };
    let broker = start(None).await;
    let address = broker.address();
    let client = Client::builder().bootstrap_servers([&address]).build().await.unwrap();
    client.admin().create_topic("t").send().await.unwrap();
    let producer = client.producer().batch_size(200).build().await.unwrap();
    let builder = client.consumer().assign_all("t", Position::Earliest);
    let mut consumer = builder.build().await.unwrap();
    let mut broker = Some(broker);
    for round in 0..3 {
        let mut deliveries = Vec::new();
        for n in 0..300 {
            let record = Record::to("t").value((round * 300 + n).to_string());
            deliveries.push(producer.send(record).await.unwrap());
            if n == 100 {
                broker.take().unwrap().stop().await;
                broker = Some(start(Some(address.clone())).await);
            }
        }
        for delivery in deliveries {
            tokio::time::timeout(MINUTE, delivery).await.unwrap().unwrap();
        }
    }
    for n in 0..900 {
        let record = tokio::time::timeout(MINUTE, consumer.next()).await.unwrap();
        let record = record.unwrap().unwrap();
        assert_eq!((record.offset(), record.value()), (n, Some(n.to_string().as_bytes())));
    }
}

#[tokio::test]
async fn admin_calls_and_errors() {
    let (_broker, client) = start().await;
    let admin = client.admin();
    let create = || admin.create_topic("orders").partitions(2).config("retention.ms", "7d");
    create().send().await.unwrap();
    assert_eq!(create().send().await.unwrap_err().kind(), ErrorKind::TopicExists);
    let bad = admin.create_topic("x").config("no.such.key", "1").send().await.unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::InvalidArgument);
    assert!(bad.to_string().contains("no.such.key"), "{bad}");
    let producer = client.producer().build().await.unwrap();
    for n in 0..10 {
        let record = Record::to("orders").partition(0).value("x").timestamp(1_000 + n);
        producer.send(record).await.unwrap().await.unwrap();
    }
    let listed = admin
        .list_offsets([
            (("orders", 0), Position::Earliest),
            (("orders", 0), Position::Latest),
            (("orders", 0), Position::Timestamp(1_004)),
            (("orders", 1), Position::Latest),
        ])
        .await
        .unwrap();
    let offsets: Vec<i64> = listed.into_iter().map(|at| at.unwrap().offset).collect();
    assert_eq!(offsets, [0, 10, 4, 0]);
    assert_eq!(admin.create_partitions("orders", 3).await.unwrap().partitions.len(), 3);
    let described = admin.describe_topic("orders").await.unwrap();
    assert_eq!(described.partitions[0].1.as_ref().unwrap().high_watermark, 10);
    let starts = admin.delete_records([(("orders", 0), Some(5))]).await.unwrap();
    assert_eq!(*starts[0].as_ref().unwrap(), 5);
    let too_low = client.consumer().assign([("orders", 0, Position::Offset(2))]);
    let mut consumer = too_low.build().await.unwrap();
    let first = tokio::time::timeout(MINUTE, consumer.next()).await.unwrap();
    assert_eq!(first.unwrap().unwrap().offset(), 5, "reset to the earliest");
    admin.delete_topic("orders").await.unwrap();
    let gone = producer.send(Record::to("orders").partition(0).value("x")).await.unwrap().await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::UnknownTopic);
    assert_eq!(admin.list_topics().await.unwrap().len(), 0);
}
