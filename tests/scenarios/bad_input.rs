//! What a good client never sends to a log. Each case: the reason, whether a retry can help,
//! whether anything happened, that nothing was written, and that the stream goes on.

use bytes::Bytes;
use riverrun_proto::{limits, rpc::v1};
use riverrun_tests::{
    append::AppendStream,
    clock,
    forge::{self, at},
    process::{BrokerOptions, BrokerProcess},
    raw::Raw,
};
use v1::partition_data::Outcome;

use crate::{broker, data_dir};

const MAX_MESSAGE_BYTES: usize = 64 * 1024;

struct Case {
    what: &'static str,
    partition: i32,
    batch: Bytes,
    reason: &'static str,
}

fn case(what: &'static str, reason: &'static str, batch: impl Into<Bytes>) -> Case {
    Case { what, partition: 0, batch: batch.into(), reason }
}

/// Batches that no log takes.
fn cases() -> Vec<Case> {
    let good = forge::batch(&["a", "b"]);
    let twice = [&good[..], &good[..]].concat();
    let future = clock::unix_ms() + 2 * 3_600_000;
    let from_the_future =
        forge::altered(&good, at::BASE_TIMESTAMP, &[future.to_be_bytes(); 2].concat());
    let count = |n: i32| n.to_be_bytes();
    let attributes = |bits: i16| forge::altered(&good, at::ATTRIBUTES, &bits.to_be_bytes());
    let empty = {
        let header = forge::damaged(&good.slice(..at::RECORDS), at::LENGTH, &count(49));
        let header = forge::altered(&header, at::LAST_OFFSET_DELTA, &count(-1));
        forge::altered(&header, at::RECORDS_COUNT, &count(0))
    };
    let mut cases = vec![
        case("no bytes at all", "CORRUPT_MESSAGE", Bytes::new()),
        case("less than a header", "CORRUPT_MESSAGE", good.slice(..60)),
        case("cut short", "CORRUPT_MESSAGE", good.slice(..good.len() - 1)),
        case("a batch without records", "INVALID_RECORD", empty),
        case("magic 1", "INVALID_RECORD", forge::altered(&good, at::MAGIC, &[1])),
        case("magic 3", "INVALID_RECORD", forge::altered(&good, at::MAGIC, &[3])),
        case("wrong CRC", "CORRUPT_MESSAGE", forge::damaged(&good, at::CRC, &[1, 2, 3, 4])),
        case("damaged record", "CORRUPT_MESSAGE", forge::damaged(&good, at::RECORDS + 3, &[0xff])),
        case("two batches where one is due", "INVALID_RECORD", twice),
        case("bytes behind it", "INVALID_RECORD", [&good[..], &[0]].concat()),
        case("count above", "INVALID_RECORD", forge::altered(&good, at::RECORDS_COUNT, &count(3))),
        case("count below", "INVALID_RECORD", forge::altered(&good, at::RECORDS_COUNT, &count(1))),
        case("count of -1", "INVALID_RECORD", forge::altered(&good, at::RECORDS_COUNT, &count(-1))),
        case("too large for the topic", "MESSAGE_TOO_LARGE", forge::large(MAX_MESSAGE_BYTES)),
        case("no such codec", "UNSUPPORTED_COMPRESSION_TYPE", attributes(5)),
        case("a control batch", "INVALID_RECORD", attributes(0x20)),
        case("a transactional batch", "INVALID_RECORD", attributes(0x10)),
        case("the broker's time, by a client", "INVALID_TIMESTAMP", attributes(0x08)),
        case("from the future", "INVALID_TIMESTAMP", from_the_future),
    ];
    for partition in [2, 7, -1, i32::MIN, i32::MAX] {
        let (what, reason) = ("no such partition", "UNKNOWN_TOPIC_OR_PARTITION");
        cases.push(Case { partition, ..case(what, reason, good.clone()) });
    }
    cases
}

async fn start(options: BrokerOptions) -> (BrokerProcess, Raw, v1::Topic) {
    let broker = options.start();
    let raw = broker.raw().await;
    let max = MAX_MESSAGE_BYTES.to_string();
    let topic = raw.create_topic("t", 2, &[("max.message.bytes", &max)]).await;
    (broker, raw, topic)
}

async fn log_ends(raw: &Raw) -> [i64; 2] {
    let end = async |p| raw.state("t", p).await.expect("it serves").log_end_offset;
    [end(0).await, end(1).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_no_log_takes_are_refused_in_band_and_nothing_is_written() {
    let data = data_dir();
    let (_broker, raw, topic) = start(broker(data.path())).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    for Case { what, partition, batch, reason } in cases() {
        let refused = stream.append(&topic, partition, batch).await;
        let error = refused.expect_err(what);
        assert_eq!(error.reason, reason, "{what}: {error:?}");
        assert!(!error.retriable, "{what}: the same bytes are refused again");
        assert!(error.definite, "{what}");
        assert!(error.message.len() > 10, "{what}: {:?} explains nothing", error.message);
        assert_eq!(log_ends(&raw).await, [0, 0], "{what}");
    }
    // The stream is as good as new.
    let written = stream.append(&topic, 0, forge::batch(&["fine"])).await.expect("it is fine");
    assert_eq!(written.base_offset, Some(0));
    assert_eq!(raw.read_out(&topic, 0).await.texts(), ["fine"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_partition_alone_can_judge_is_refused() {
    let data = data_dir();
    let options = broker(data.path());
    let (broker, raw, topic) = start(options.clone()).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    let request = v1::InitProducerRequest::default();
    let id = raw.produce.clone().init_producer(request).await.expect("anonymous").into_inner();
    let (id, epoch) = (id.producer_id, i16::try_from(id.producer_epoch).expect("it is one"));

    // A new producer begins wherever it likes, but leaves no gap from there on.
    let batch = |epoch, sequence| forge::of_producer(id, epoch, sequence, &["x"]);
    stream.append(&topic, 0, batch(epoch, 0)).await.expect("the first");
    let gap = stream.append(&topic, 0, batch(epoch, 2)).await.expect_err("1 is missing");
    assert_eq!(gap.reason, "OUT_OF_ORDER_SEQUENCE_NUMBER", "{gap:?}");
    assert!(gap.definite, "{gap:?}");
    stream.append(&topic, 0, batch(epoch + 1, 0)).await.expect("a new epoch begins anew");
    let old = stream.append(&topic, 0, batch(epoch, 1)).await.expect_err("an epoch that is over");
    assert_eq!(old.reason, "INVALID_PRODUCER_EPOCH", "{old:?}");
    assert!(old.definite && !old.retriable, "{old:?}");
    assert_eq!(log_ends(&raw).await, [2, 0]);

    // Leader epochs the broker is past, or has not heard of: a restart begins a new one.
    assert!(broker.stop().0.success());
    let _broker = options.start();
    let raw = Raw::connect(&options.address()).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    let edge = v1::offset_query::At::Edge(v1::Edge::Latest.into());
    let current = raw.offset(&topic, 0, edge).await.leader_epoch;
    for (epoch, reason) in
        [(current - 1, "FENCED_LEADER_EPOCH"), (current + 1, "UNKNOWN_LEADER_EPOCH")]
    {
        let item = v1::ProduceStreamAppend {
            correlation_id: 77,
            topic_id: topic.topic_id.clone(),
            leader_epoch: Some(epoch),
            batch: forge::batch(&["x"]),
            ..Default::default()
        };
        let appends = v1::ProduceStreamAppends { items: vec![item] };
        let request = v1::produce_stream_request::Request::Appends(appends);
        stream.send_raw(request).await.expect("it is open");
        let ack = stream.ack().await.expect("it stays").expect("it answers");
        let Some(v1::produce_stream_ack::Outcome::Error(error)) = ack.outcome else {
            panic!("epoch {epoch} is not {current}: {ack:?}");
        };
        assert_eq!((error.reason.as_str(), error.retriable, error.definite), (reason, true, true));
    }
    assert_eq!(log_ends(&raw).await, [2, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_never_written_or_read_by_its_old_id() {
    let data = data_dir();
    let (_broker, raw, old) = start(broker(data.path())).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    stream.append(&old, 0, forge::batch(&["old"])).await.expect("it is fine");
    raw.delete_topic("t").await;
    let new = raw.create_topic("t", 2, &[]).await;
    assert_ne!(old.topic_id, new.topic_id);

    let refused = stream.append(&old, 0, forge::batch(&["late"])).await.expect_err("it is gone");
    assert_eq!(refused.reason, "UNKNOWN_TOPIC_ID", "{refused:?}");
    assert!(refused.definite && !refused.retriable, "{refused:?}");
    let read = raw.fetch(&old, 0, 0, v1::ReadFormat::Records).await;
    let Some(Outcome::Error(error)) = read.outcome else { panic!("{read:?}") };
    assert_eq!(error.reason, "UNKNOWN_TOPIC_ID");
    assert_eq!(log_ends(&raw).await, [0, 0], "the new one is untouched");

    stream.append(&new, 0, forge::batch(&["new"])).await.expect("it is fine");
    assert_eq!(raw.read_out(&new, 0).await.texts(), ["new"]);
}

/// Records that are not what their batch's header says: the broker decodes none on the way in, so
/// it is the reader who is told, with the way on.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_lie_are_the_readers_error_and_can_be_skipped() {
    let data = data_dir();
    let (_broker, raw, topic) = start(broker(data.path())).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    let three = 3i32.to_be_bytes();
    let lying =
        forge::altered(&forge::batch(&["one, long enough for three"]), at::RECORDS_COUNT, &three);
    let lying = forge::altered(&lying, at::LAST_OFFSET_DELTA, &2i32.to_be_bytes());
    for batch in [forge::batch(&["before"]), lying, forge::batch(&["after"])] {
        stream.append(&topic, 0, batch).await.expect("its header is sound");
    }

    let before = raw.fetch(&topic, 0, 0, v1::ReadFormat::Records).await;
    assert!(matches!(&before.outcome, Some(Outcome::Records(r)) if r.records[0].offset == 0));
    let next = before.next_offset.expect("there is a next one");
    assert!((1..4).contains(&next), "{next}: what could be read was");
    let lie = raw.fetch(&topic, 0, next, v1::ReadFormat::Records).await;
    let Some(Outcome::Error(error)) = &lie.outcome else { panic!("{lie:?}") };
    assert_eq!(error.reason, "CORRUPT_RECORD");
    assert_eq!(lie.next_offset, Some(4), "past all that the batch claims");
    let after = raw.fetch(&topic, 0, 4, v1::ReadFormat::Records).await;
    assert!(matches!(&after.outcome, Some(Outcome::Records(r)) if r.records.len() == 1));
    // Who decodes for himself is given what was written.
    let encoded = raw.fetch(&topic, 0, 0, v1::ReadFormat::Encoded).await;
    assert!(matches!(&encoded.outcome, Some(Outcome::Batches(b)) if b.batches.len() == 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decompression_bomb_costs_the_broker_no_more_than_it_says() {
    let data = data_dir();
    let (broker, raw, topic) = start(broker(data.path())).await;
    let mut stream = AppendStream::open(&raw, v1::Acks::All).await;
    let allowed = limits::BATCH_DECOMPRESSED_BYTES_MAX as u64;
    for bytes in [allowed * 2, allowed * 8] {
        stream.append(&topic, 0, forge::bomb(bytes)).await.expect("its header is sound");
    }
    stream.append(&topic, 0, forge::batch(&["after"])).await.expect("it is fine");

    let before = broker.anonymous_bytes();
    for offset in [0, 1] {
        let read = raw.fetch(&topic, 0, offset, v1::ReadFormat::Records).await;
        let Some(Outcome::Error(error)) = &read.outcome else { panic!("{read:?}") };
        assert_eq!(error.reason, "CORRUPT_RECORD", "{error:?}");
        assert_eq!(read.next_offset, Some(offset + 1));
    }
    let after = broker.anonymous_bytes();
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let bound = before + workers * allowed * 2;
    assert!(after < bound, "{before} bytes before, {after} after two bombs");
    let read = raw.fetch(&topic, 0, 2, v1::ReadFormat::Records).await;
    assert!(matches!(&read.outcome, Some(Outcome::Records(r)) if r.records.len() == 1));
}
