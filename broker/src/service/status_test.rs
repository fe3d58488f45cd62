//! The table of errors: what each occurrence says to a client.

use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch},
    ids::{DirectoryId, IncarnationId},
    record::BatchBuilder,
    timestamp::Timestamp,
};
use tonic_types::StatusExt;

use super::*;
use crate::controller::topics::Away;
use crate::metadata::{
    Command, FeatureLevel, FeatureRange,
    command::{RegisterBroker, SetFeatureLevel},
};

const RETRY: bool = true;
const DEFINITE: bool = true;

fn epoch(n: i32) -> LeaderEpoch {
    LeaderEpoch::new(n).unwrap()
}

fn at(n: i64) -> Offset {
    Offset::new(n).unwrap()
}

#[test]
fn every_produce_error_says_what_a_producer_may_do() {
    let broker = Some(BrokerId(2));
    let not_leader =
        |appended| ProduceError::NotLeader { leader: broker, epoch: Some(epoch(3)), appended };
    let failed = |appended| ProduceError::StorageFailed { why: "EIO".into(), appended };
    let closing = |appended| ProduceError::Closing { appended };
    let invalid_time = ProduceError::InvalidTimestamp {
        timestamp: Timestamp::from_millis(1),
        now: Timestamp::from_millis(9),
        bound_ms: 2,
        side: "before",
        key: "message.timestamp.before.max.ms",
    };
    let out_of_order = ProduceError::OutOfOrderSequence { producer_id: 1, given: 9, expected: 4 };
    let old_epoch = ProduceError::InvalidProducerEpoch { producer_id: 1, given: 0, current: 1 };
    let fenced = ProduceError::FencedLeaderEpoch { given: epoch(1), current: epoch(2) };
    let unknown = ProduceError::UnknownLeaderEpoch { given: epoch(3), current: epoch(2) };
    use Code::*;
    #[rustfmt::skip]
    let table = [
        (not_leader(false), Reason::NotLeaderOrFollower, RETRY, DEFINITE, FailedPrecondition),
        (not_leader(true), Reason::NotLeaderOrFollower, RETRY, !DEFINITE, FailedPrecondition),
        (fenced, Reason::FencedLeaderEpoch, RETRY, DEFINITE, FailedPrecondition),
        (unknown, Reason::UnknownLeaderEpoch, RETRY, DEFINITE, Unavailable),
        (ProduceError::NotEnoughReplicas { isr: 1, min_isr: 2 }, Reason::NotEnoughReplicas, RETRY, DEFINITE, Unavailable),
        (ProduceError::TooLarge { bytes: 9, max: 8 }, Reason::MessageTooLarge, !RETRY, DEFINITE, InvalidArgument),
        (invalid_time, Reason::InvalidTimestamp, !RETRY, DEFINITE, InvalidArgument),
        (out_of_order, Reason::OutOfOrderSequence, !RETRY, DEFINITE, FailedPrecondition),
        (old_epoch, Reason::InvalidProducerEpoch, !RETRY, DEFINITE, FailedPrecondition),
        (ProduceError::Unstorable("x".into()), Reason::InvalidRecord, !RETRY, DEFINITE, InvalidArgument),
        (ProduceError::TimedOut { appended: true }, Reason::RequestTimedOut, RETRY, !DEFINITE, DeadlineExceeded),
        (ProduceError::TimedOut { appended: false }, Reason::RequestTimedOut, RETRY, DEFINITE, DeadlineExceeded),
        (ProduceError::StorageFull, Reason::StorageFull, RETRY, DEFINITE, Unavailable),
        (failed(false), Reason::KafkaStorageError, RETRY, DEFINITE, Unavailable),
        (failed(true), Reason::KafkaStorageError, RETRY, !DEFINITE, Aborted),
        (ProduceError::Busy { parked_bytes: 7 }, Reason::ThrottlingQuotaExceeded, RETRY, DEFINITE, ResourceExhausted),
        (closing(false), Reason::BrokerShuttingDown, RETRY, DEFINITE, Unavailable),
        (closing(true), Reason::BrokerShuttingDown, RETRY, !DEFINITE, Aborted),
    ];
    for (error, reason, retriable, definite, code) in table {
        assert_eq!(error.is_definite(), definite, "{error:?}");
        check(&Failure::from(error), reason, retriable, definite, code);
    }
}

#[test]
fn every_fetch_error_says_what_a_reader_may_do() {
    use Code::*;
    let nobody = FetchError::NotLeader { leader: None, epoch: None };
    let range =
        FetchError::OutOfRange { offset: at(9), log_start_offset: at(1), log_end_offset: at(5) };
    let corrupt = FetchError::Corrupt { offset: at(4), next_offset: at(6), what: "crc".into() };
    let fenced = FetchError::FencedLeaderEpoch { given: epoch(1), current: epoch(2) };
    let unknown = FetchError::UnknownLeaderEpoch { given: epoch(3), current: epoch(2) };
    #[rustfmt::skip]
    let table = [
        (nobody, Reason::NotLeaderOrFollower, RETRY, FailedPrecondition),
        (fenced, Reason::FencedLeaderEpoch, RETRY, FailedPrecondition),
        (unknown, Reason::UnknownLeaderEpoch, RETRY, Unavailable),
        (range, Reason::OffsetOutOfRange, !RETRY, OutOfRange),
        (corrupt.clone(), Reason::CorruptRecord, !RETRY, DataLoss),
        (FetchError::StorageFailed { why: "EIO".into() }, Reason::KafkaStorageError, RETRY, Unavailable),
        (FetchError::Closing, Reason::BrokerShuttingDown, RETRY, Unavailable),
    ];
    for (error, reason, retriable, code) in table {
        check(&Failure::from(error.clone()), reason, retriable, DEFINITE, code);
        check(&Failure::from(OffsetsError::Fetch(error)), reason, retriable, DEFINITE, code);
    }
    let not_available = Failure::from(OffsetsError::NotAvailable);
    check(&not_available, Reason::OffsetNotAvailable, RETRY, DEFINITE, Unavailable);

    let corrupt = Failure::from(corrupt);
    assert_eq!(corrupt.next_offset(), Some(at(6)), "a reader can go on past the damage");
}

#[test]
fn every_bad_batch_is_named() {
    let mut builder = BatchBuilder::new(Default::default());
    builder.append(Timestamp::from_millis(5), None, Some(b"v"), []).unwrap();
    let good = builder.finish().to_vec();
    let validate = |bytes: Vec<u8>| {
        riverrun_proto::record::RecordBatch::validate(bytes.into()).expect_err("it is bad")
    };
    let flip = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let (mut two, cut) = (good.clone(), good[..good.len() - 1].to_vec());
    two.extend_from_slice(&good);
    #[rustfmt::skip]
    let table = [
        ("nothing at all", vec![], Reason::CorruptMessage),
        ("cut off", cut, Reason::CorruptMessage),
        ("wrong magic", flip(16), Reason::InvalidRecord),
        ("wrong CRC", flip(20), Reason::CorruptMessage),
        ("a flipped bit in a record", flip(good.len() - 2), Reason::CorruptMessage),
        ("two batches", two, Reason::InvalidRecord),
    ];
    for (name, bytes, reason) in table {
        let failure = Failure::from(validate(bytes));
        assert_eq!(failure.reason(), reason, "{name}");
        check(&failure, reason, !RETRY, DEFINITE, Code::InvalidArgument);
    }
    let bomb =
        BatchError::DecompressionBomb { codec: riverrun_proto::record::Codec::Zstd, limit: 1 };
    check(&bomb.into(), Reason::InvalidRecord, !RETRY, DEFINITE, Code::InvalidArgument);
}

#[test]
fn what_the_controller_refuses_is_named() {
    let name = riverrun_proto::ids::TopicName::try_new("t").unwrap();
    let id = riverrun_proto::ids::TopicId::random();
    use Code::*;
    #[rustfmt::skip]
    let table: Vec<(Failure, Reason, bool, bool, Code)> = vec![
        (TopicError::Exists { name: name.clone(), id }.into(), Reason::TopicAlreadyExists, !RETRY, DEFINITE, AlreadyExists),
        (TopicError::Unknown(name.clone()).into(), Reason::UnknownTopicOrPartition, !RETRY, DEFINITE, NotFound),
        (TopicError::OtherTopic { name: name.clone(), expected: id, found: id }.into(), Reason::UnknownTopicId, !RETRY, DEFINITE, NotFound),
        (TopicError::PartitionCount(0).into(), Reason::InvalidPartitions, !RETRY, DEFINITE, InvalidArgument),
        (TopicError::NotMorePartitions { name, current: 2, asked: 1 }.into(), Reason::InvalidPartitions, !RETRY, DEFINITE, InvalidArgument),
        (TopicError::TooManyPartitions { wanted: 2, max: 1, brokers: 1 }.into(), Reason::PolicyViolation, !RETRY, DEFINITE, FailedPrecondition),
        (TopicError::ReplicationFactor { asked: 3, brokers: 1, away: Away(0) }.into(), Reason::InvalidReplicationFactor, !RETRY, DEFINITE, InvalidArgument),
        (TopicError::SetAndReset("k".into()).into(), Reason::InvalidConfig, !RETRY, DEFINITE, InvalidArgument),
        (QuorumError::NotLeader { leader: Some(BrokerId(1)) }.into(), Reason::NotController, RETRY, DEFINITE, FailedPrecondition),
        (QuorumError::StorageFull.into(), Reason::StorageFull, RETRY, DEFINITE, Unavailable),
        (QuorumError::OutcomeUnknown("stopped".into()).into(), Reason::UnknownServerError, RETRY, !DEFINITE, Internal),
        (QuorumError::ShuttingDown.into(), Reason::BrokerShuttingDown, RETRY, DEFINITE, Unavailable),
        (QuorumError::Rejected(Rejection::UnknownTopic(id)).into(), Reason::UnknownTopicId, !RETRY, DEFINITE, NotFound),
    ];
    for (failure, reason, retriable, definite, code) in table {
        check(&failure, reason, retriable, definite, code);
    }
}

#[test]
fn a_leader_hint_has_an_address_where_the_cluster_knows_one() {
    let image = image_with(BrokerId(2), "node-2.example", 9190);
    let failure = Failure::not_leader(Some(BrokerId(2)), Some(epoch(7)));
    let hint = failure.to_proto(&image).leader.unwrap();
    assert_eq!((hint.broker_id, hint.host.as_str(), hint.port), (2, "node-2.example", 9190));
    assert_eq!(hint.leader_epoch, 7);
    let unknown = Failure::not_leader(Some(BrokerId(3)), None).to_proto(&image).leader.unwrap();
    assert_eq!((unknown.broker_id, unknown.host.as_str(), unknown.leader_epoch), (3, "", -1));
    let nobody = Failure::not_leader(None, None);
    check(&nobody, Reason::LeaderNotAvailable, RETRY, DEFINITE, Code::Unavailable);
}

#[test]
fn what_tonic_says_becomes_ours() {
    let table = [
        (Status::out_of_range("decoded message length too large"), Reason::MessageTooLarge),
        (Status::resource_exhausted("decompressed"), Reason::MessageTooLarge),
        (Status::internal("invalid wire type"), Reason::InvalidRequest),
        (Status::unimplemented(""), Reason::UnsupportedVersion),
    ];
    for (status, reason) in table {
        let failure = Failure::from(&status);
        assert_eq!(failure.reason(), reason);
        assert!(failure.is_definite());
    }
}

#[test]
fn long_texts_are_cut_between_characters() {
    let failure = Failure::new(Reason::InvalidRequest, "ü".repeat(1000));
    let status = failure.to_status(&MetadataImage::default());
    assert_eq!(status.message(), "ü".repeat(TEXT_BYTES_MAX / 2));
    assert_eq!(cut("short"), "short");
}

/// Whatever the reason, the three forms of an error agree.
fn check(failure: &Failure, reason: Reason, retriable: bool, definite: bool, code: Code) {
    let image = MetadataImage::default();
    assert_eq!(failure.reason(), reason);
    assert_eq!(failure.is_retriable(), retriable, "{failure:?}");
    assert_eq!(failure.is_definite(), definite, "{failure:?}");
    let wire = failure.to_proto(&image);
    assert_eq!(wire.reason, reason.name());
    assert_eq!((wire.retriable, wire.definite), (retriable, definite));
    assert!(!wire.message.is_empty());

    let status = failure.to_status(&image);
    assert_eq!(status.code(), code, "{failure:?}");
    let trailer = status.metadata().get_bin(ERROR_TRAILER).unwrap().to_bytes().unwrap();
    assert_eq!(v1::Error::decode(trailer).unwrap(), wire);
    assert_eq!(status.metadata().get(REASON_TRAILER).unwrap(), reason.name());
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.name(), DOMAIN));
    assert_eq!(info.metadata["retriable"], retriable.to_string());
    assert_eq!(info.metadata["definite"], definite.to_string());
    assert_eq!(details.retry_info().is_some(), retriable, "RetryInfo where a retry helps");
}

fn image_with(broker: BrokerId, host: &str, port: u16) -> MetadataImage {
    let level = Command::SetFeatureLevel(SetFeatureLevel {
        expected: FeatureLevel::NONE,
        level: FeatureLevel::V1,
    });
    let register = Command::RegisterBroker(RegisterBroker {
        broker,
        incarnation: IncarnationId::random(),
        directory: DirectoryId::random(),
        endpoints: vec![Endpoint {
            listener: Endpoint::CLIENTS.to_owned(),
            host: host.to_owned(),
            port,
        }],
        rack: None,
        features: FeatureRange::SUPPORTED,
    });
    let mut image = MetadataImage::default();
    for command in [level, register] {
        let applied = image.apply(image.offset().next(), &command);
        applied.outcome.unwrap();
        image = applied.image;
    }
    assert_ne!(image.broker(broker).unwrap().epoch, BrokerEpoch::ZERO);
    image
}

#[test]
fn a_partition_that_may_open_yet_is_worth_another_try_and_a_damaged_one_is_not() {
    for may_pass in [true, false] {
        let failure = Failure::unusable("there is no room on the disk", may_pass);
        assert_eq!(failure.is_retriable(), may_pass);
        assert!(failure.is_definite(), "nothing was written");
    }
}
