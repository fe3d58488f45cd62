//! Calls that name what is not there, contradict themselves, or ask for what does not exist: code,
//! reason, retriable, definite, and that nothing changed.

use std::collections::HashMap;

use bytes::Bytes;
use riverrun_proto::rpc::v1;
use riverrun_tests::{
    process::BrokerProcess,
    raw::{self, Raw, Refused},
    wait::soon,
};
use tonic::Code;
use v1::{partition_data::Outcome, produce_stream_request::Request, record_result};

use crate::{broker, data_dir};

/// The longest name a topic can have, in every kind of character one may use.
fn longest_name() -> String {
    "Ab9._-".repeat(42)[..249].to_owned()
}

async fn start(data: &std::path::Path) -> (BrokerProcess, Raw, v1::Topic) {
    let broker = broker(data).start();
    let raw = broker.raw().await;
    let topic = raw.create_topic("t", 2, &[]).await;
    (broker, raw, topic)
}

/// What a definite refusal that no retry helps looks like.
#[track_caller]
fn assert_refused(refused: &Refused, code: Code, reason: &str, what: &str) {
    assert_eq!(
        (refused.code, refused.error.reason.as_str()),
        (code, reason),
        "{what}: {refused:?}"
    );
    assert!(!refused.error.retriable && refused.error.definite, "{what}: {refused:?}");
    assert!(refused.error.message.len() > 10, "{what}: {refused:?} explains nothing");
}

fn records(values: &[&str]) -> Option<v1::RecordList> {
    let record = |value: &&str| v1::Record {
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..Default::default()
    };
    Some(v1::RecordList { records: values.iter().map(record).collect(), compression: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn produce_calls_that_cannot_be_are_refused_as_a_whole() {
    let data = data_dir();
    let (_broker, raw, topic) = start(data.path()).await;
    let good = || v1::ProduceRequest {
        topic: "t".to_owned(),
        records: records(&["x"]),
        partition: Some(0),
        ..Default::default()
    };
    let named = |topic: &str| v1::ProduceRequest { topic: topic.to_owned(), ..good() };
    let (invalid, missing) = (Code::InvalidArgument, Code::NotFound);
    let many: Vec<&str> = vec!["x"; 10_001];
    let cases = [
        ("unknown topic", named("nobody"), missing, "UNKNOWN_TOPIC_OR_PARTITION"),
        ("no topic", named(""), invalid, "INVALID_REQUEST"),
        ("illegal name", named("a/b"), invalid, "INVALID_TOPIC_EXCEPTION"),
        (
            "partition above",
            v1::ProduceRequest { partition: Some(2), ..good() },
            missing,
            "UNKNOWN_TOPIC_OR_PARTITION",
        ),
        (
            "partition below",
            v1::ProduceRequest { partition: Some(-1), ..good() },
            missing,
            "UNKNOWN_TOPIC_OR_PARTITION",
        ),
        (
            "an id that is none",
            v1::ProduceRequest { topic_id: Bytes::from_static(b"short"), ..good() },
            invalid,
            "INVALID_REQUEST",
        ),
        (
            "the id of no topic",
            v1::ProduceRequest { topic_id: Bytes::from_static(&[7; 16]), ..good() },
            missing,
            "UNKNOWN_TOPIC_ID",
        ),
        (
            "no such acks",
            v1::ProduceRequest { acks: 9, ..good() },
            invalid,
            "INVALID_REQUIRED_ACKS",
        ),
        ("no records", v1::ProduceRequest { records: None, ..good() }, invalid, "INVALID_RECORD"),
        (
            "an empty list",
            v1::ProduceRequest { records: records(&[]), ..good() },
            invalid,
            "INVALID_RECORD",
        ),
        (
            "too many",
            v1::ProduceRequest { records: records(&many), ..good() },
            invalid,
            "MESSAGE_TOO_LARGE",
        ),
        (
            "no such codec",
            v1::ProduceRequest {
                records: Some(v1::RecordList { compression: 77, ..records(&["x"]).expect("some") }),
                ..good()
            },
            invalid,
            "UNSUPPORTED_COMPRESSION_TYPE",
        ),
        (
            "a negative timeout",
            v1::ProduceRequest {
                ack_timeout: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                ..good()
            },
            invalid,
            "INVALID_REQUEST",
        ),
    ];
    for (what, request, code, reason) in cases {
        let refused = raw.produce.clone().produce(request).await.map_err(Refused::from);
        assert_refused(&refused.expect_err(what), code, reason, what);
    }
    for partition in [0, 1] {
        assert_eq!(raw.read_out(&topic, partition).await.end, 0, "nothing was written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_refused_and_its_neighbours_are_written() {
    let data = data_dir();
    let (_broker, raw, _) = start(data.path()).await;
    let topic = raw.create_topic("small", 1, &[("max.message.bytes", "1KiB")]).await;
    let large = "x".repeat(2000);
    let request = v1::ProduceRequest {
        topic: "small".to_owned(),
        records: records(&["a", &large, "b"]),
        ..Default::default()
    };
    let answer = raw.produce.clone().produce(request).await.expect("two of them are fine");
    let results = answer.into_inner().results;
    let Some(record_result::Outcome::Error(error)) = &results[1].outcome else {
        panic!("{results:?}")
    };
    assert_eq!(error.reason, "MESSAGE_TOO_LARGE");
    assert!(error.definite && !error.retriable, "{error:?}");
    for at in [0, 2] {
        assert!(matches!(results[at].outcome, Some(record_result::Outcome::Ack(_))));
    }
    assert_eq!(raw.read_out(&topic, 0).await.texts(), ["a", "b"]);

    // Larger than any message: refused before it is decoded.
    let huge = "x".repeat(65 << 20);
    let request = v1::ProduceRequest {
        topic: "small".to_owned(),
        records: records(&[&huge]),
        ..Default::default()
    };
    let refused = raw.produce.clone().produce(request).await.map_err(Refused::from);
    let refused = refused.expect_err("it is far too large");
    assert_refused(&refused, Code::InvalidArgument, "MESSAGE_TOO_LARGE", "65 MiB");
    assert_eq!(raw.read_out(&topic, 0).await.end, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_what_is_not_there_answer_in_band_and_spare_the_others() {
    let data = data_dir();
    let (_broker, raw, topic) = start(data.path()).await;
    for value in ["a", "b", "c", "d"] {
        for partition in [0, 1] {
            raw.produce("t", partition, &[value]).await.expect("it is fine");
        }
    }
    let before =
        v1::DeleteRecordsBefore { partition: Some(raw::place(&topic, 0)), before_offset: Some(2) };
    let delete = v1::DeleteRecordsRequest { partitions: vec![before], timeout: None };
    raw.admin.clone().delete_records(delete).await.expect("they are there");

    let named = |name: &str, partition| v1::PartitionFrom {
        partition: Some(v1::TopicPartition {
            topic: name.to_owned(),
            topic_id: Bytes::new(),
            partition,
        }),
        ..Default::default()
    };
    let cases = [
        ("below the start", raw::from_offset(&topic, 0, 1), "OFFSET_OUT_OF_RANGE"),
        ("past the end", raw::from_offset(&topic, 0, 5), "OFFSET_OUT_OF_RANGE"),
        ("far past it", raw::from_offset(&topic, 0, i64::MAX), "OFFSET_OUT_OF_RANGE"),
        ("partition above", raw::from_offset(&topic, 2, 0), "UNKNOWN_TOPIC_OR_PARTITION"),
        ("partition below", raw::from_offset(&topic, -1, 0), "UNKNOWN_TOPIC_OR_PARTITION"),
        ("unknown topic", named("nobody", 0), "UNKNOWN_TOPIC_OR_PARTITION"),
    ];
    for (what, place, reason) in cases {
        let request = v1::FetchRequest {
            partitions: vec![place, raw::from_offset(&topic, 1, 2)],
            ..Default::default()
        };
        let answer = raw.consume.clone().fetch(request).await;
        let answer = answer.unwrap_or_else(|e| panic!("{what}: {e:?}")).into_inner().partitions;
        let (mut error, mut read) = (None, 0);
        for item in answer {
            match item.outcome {
                Some(Outcome::Error(found)) => error = Some(found),
                Some(Outcome::Records(records)) => read += records.records.len(),
                other => panic!("{what}: {other:?}"),
            }
        }
        let error = error.unwrap_or_else(|| panic!("{what} is no error"));
        assert_eq!(error.reason, reason, "{what}");
        assert!(error.definite && !error.retriable, "{what}: {error:?}");
        assert!(error.message.len() > 10, "{what}: {error:?} explains nothing");
        assert_eq!(read, 2, "{what}: the other partition is read all the same");
    }
    // No log has offsets below zero: the request itself is wrong.
    let request = v1::FetchRequest {
        partitions: vec![raw::from_offset(&topic, 0, -1)],
        ..Default::default()
    };
    let refused = raw.consume.clone().fetch(request).await.map_err(Refused::from);
    let refused = refused.expect_err("there is no such offset");
    assert_refused(&refused, Code::OutOfRange, "OFFSET_OUT_OF_RANGE", "negative");
    // The end itself is no error: there is nothing yet.
    let end = raw.fetch(&topic, 0, 4, v1::ReadFormat::Records).await;
    assert!(matches!(&end.outcome, Some(Outcome::Records(r)) if r.records.is_empty()), "{end:?}");
    assert!(end.caught_up);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_cannot_be_are_not_made() {
    let data = data_dir();
    let (_broker, raw, _) = start(data.path()).await;
    let good = || v1::CreateTopicRequest {
        name: "new".to_owned(),
        partitions: Some(1),
        ..Default::default()
    };
    let named = |name: &str| v1::CreateTopicRequest { name: name.to_owned(), ..good() };
    let with = |key: &str, value: &str| v1::CreateTopicRequest {
        configs: HashMap::from([(key.to_owned(), value.to_owned())]),
        ..good()
    };
    let partitions = |n| v1::CreateTopicRequest { partitions: Some(n), ..good() };
    let too_long = "x".repeat(250);
    let mut cases = vec![
        (named("t"), Code::AlreadyExists, "TOPIC_ALREADY_EXISTS"),
        (partitions(0), Code::InvalidArgument, "INVALID_PARTITIONS"),
        (partitions(u32::MAX), Code::InvalidArgument, "INVALID_PARTITIONS"),
        (
            v1::CreateTopicRequest { replication_factor: Some(3), ..good() },
            Code::InvalidArgument,
            "INVALID_REPLICATION_FACTOR",
        ),
        (
            v1::CreateTopicRequest { replication_factor: Some(0), ..good() },
            Code::InvalidArgument,
            "INVALID_REPLICATION_FACTOR",
        ),
    ];
    for name in ["", ".", "..", "a/b", "a b", "a\0b", "ä", "../../etc", "a:b", &too_long] {
        cases.push((named(name), Code::InvalidArgument, "INVALID_TOPIC_EXCEPTION"));
    }
    for (key, value) in [
        ("retention.mss", "7d"),
        ("segment.bytes", "7parsecs"),
        ("segment.bytes", "12GiBB"),
        ("segment.bytes", "1"),
        ("segment.bytes", ""),
        ("retention.ms", "7 fortnights"),
        ("retention.ms", "-2"),
        ("durability", "ssd"),
        ("cleanup.policy", "compact"),
        ("min.insync.replicas", "0"),
        ("max.message.bytes", "1TiB"),
    ] {
        cases.push((with(key, value), Code::InvalidArgument, "INVALID_CONFIG"));
    }
    for (request, code, reason) in cases {
        let what = format!("{:?} {:?} {:?}", request.name, request.partitions, request.configs);
        for validate_only in [true, false] {
            let request = v1::CreateTopicRequest { validate_only, ..request.clone() };
            let refused = raw.admin.clone().create_topic(request).await.map_err(Refused::from);
            assert_refused(&refused.expect_err(&what), code, reason, &what);
        }
        assert!(raw.topic("new").await.is_none(), "{what}: nothing was made");
    }
    // A mistyped key names the one that was meant.
    let refused = raw.admin.clone().create_topic(with("retention.mss", "7d")).await;
    let text = Refused::from(refused.expect_err("no such key")).error.message;
    assert!(text.contains("retention.ms"), "{text}");
    // The same checks hold for changes.
    let alter = v1::AlterTopicConfigsRequest {
        topic: "t".to_owned(),
        set: HashMap::from([("retention.ms".to_owned(), "soon".to_owned())]),
        ..Default::default()
    };
    let refused = raw.admin.clone().alter_topic_configs(alter).await.map_err(Refused::from);
    let refused = refused.expect_err("soon is no duration");
    assert_refused(&refused, Code::InvalidArgument, "INVALID_CONFIG", "alter");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_name_works_over_a_restart() {
    let data = data_dir();
    let options = broker(data.path());
    let name = longest_name();
    assert_eq!(name.len(), 249);
    let topic = {
        let broker = options.start();
        let raw = broker.raw().await;
        let topic = raw.create_topic(&name, 3, &[]).await;
        raw.produce(&name, 2, &["before"]).await.expect("it is fine");
        assert!(broker.stop().0.success());
        topic
    };
    let broker = options.start();
    let raw = broker.raw().await;
    assert_eq!(raw.topic(&name).await.expect("it is still there").topic_id, topic.topic_id);
    raw.produce(&name, 2, &["after"]).await.expect("it is fine");
    assert_eq!(raw.read_out(&topic, 2).await.texts(), ["before", "after"]);
}

/// Nothing that is not in this version is half there.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_yet_says_so() {
    let data = data_dir();
    let (_broker, raw, _) = start(data.path()).await;
    let named = v1::InitProducerRequest { producer_name: "orders".to_owned() };
    let refused = raw.produce.clone().init_producer(named).await.map_err(Refused::from);
    let refused = refused.expect_err("names come with transactions");
    assert_refused(&refused, Code::Unimplemented, "UNSUPPORTED_VERSION", "a producer's name");

    let consume = raw.consume.clone().consume(tokio_stream::pending()).await;
    let refused = match consume {
        Err(status) => status,
        Ok(answers) => {
            soon("an answer", answers.into_inner().message()).await.expect_err("no groups")
        }
    };
    let refused = Refused::from(refused);
    assert_refused(&refused, Code::Unimplemented, "UNSUPPORTED_VERSION", "a group");

    let keyed = v1::Record { idempotency_key: Some("k".to_owned()), ..Default::default() };
    let request = v1::ProduceRequest {
        topic: "t".to_owned(),
        records: Some(v1::RecordList { records: vec![keyed], compression: 0 }),
        ..Default::default()
    };
    let refused = raw.produce.clone().produce(request).await.map_err(Refused::from);
    let refused = refused.expect_err("no keys yet");
    assert_refused(&refused, Code::Unimplemented, "UNSUPPORTED_VERSION", "an idempotency key");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_break_the_protocol_end_with_the_reason() {
    let data = data_dir();
    let (_broker, raw, topic) = start(data.path()).await;
    let open = || Request::Open(v1::ProduceStreamOpen::default());
    let appends = || Request::Appends(v1::ProduceStreamAppends::default());
    let long = v1::ProduceStreamOpen { client_id: "x".repeat(1000), ..Default::default() };
    let cases = [
        ("appends before open", vec![Some(appends())]),
        ("opened twice", vec![Some(open()), Some(open())]),
        ("an empty request", vec![Some(open()), None]),
        ("a client id without end", vec![Some(Request::Open(long))]),
    ];
    for (what, requests) in cases {
        let requests = requests.into_iter().map(|request| v1::ProduceStreamRequest { request });
        let requests = futures::StreamExt::chain(
            tokio_stream::iter(requests.collect::<Vec<_>>()),
            tokio_stream::pending(),
        );
        let answers = raw.produce.clone().produce_stream(requests).await;
        let mut answers = answers.expect("the stream itself opens").into_inner();
        let status = loop {
            match soon("the end of a stream", answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{what} is no failure"),
                Err(status) => break status,
            }
        };
        let refused = Refused::from(status);
        assert_refused(&refused, Code::InvalidArgument, "INVALID_REQUEST", what);
    }
    let credit = v1::fetch_stream_request::Request::Credit(v1::Credit { bytes: 1 });
    let first = tokio_stream::once(v1::FetchStreamRequest { request: Some(credit) });
    let answers = raw.consume.clone().fetch_stream(first).await.expect("the stream itself opens");
    let status = soon("the end of a stream", answers.into_inner().message()).await;
    let refused = Refused::from(status.expect_err("it was not opened"));
    assert_refused(&refused, Code::InvalidArgument, "INVALID_REQUEST", "credit before open");
    assert_eq!(raw.read_out(&topic, 0).await.end, 0);
}
