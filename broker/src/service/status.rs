//! Every error on its way out: the one file that turns what went wrong into the `Error` message and
//! the gRPC status.
//!
//! In band (streams, per partition, per record) an error travels as `Error`. A call that fails as a
//! whole carries the same message three times, for three kinds of reader: the trailer
//! `riverrun-error-bin` (the message itself), `riverrun-error` (its reason, for people with curl)
//! and google.rpc details (`ErrorInfo`, `RetryInfo`, `BadRequest`) for stock tooling.
//!
//! `retriable` and `definite` are decided per occurrence. The gRPC code follows from the reason and
//! from `definite`: `UNAVAILABLE` only when nothing was written, since meshes replay it
//! ([`Reason::grpc_code`]).

use std::time::Duration;

use prost::Message;
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::{BrokerId, InvalidTopicName},
    offset::Offset,
    reason::Reason,
    record::BatchError,
    rpc::v1,
};
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    controller::{
        ControllerError, QuorumError, brokers::BrokerError, partitions::PartitionError,
        topics::TopicError,
    },
    metadata::{Endpoint, MetadataImage, Rejection, reassignment::ReassignmentRejection},
    partition::{FetchError, OffsetsError, ProduceError},
};

/// Trailer with the encoded `Error`.
pub(super) const ERROR_TRAILER: &str = "riverrun-error-bin";
/// Trailer with the reason's name.
pub(super) const REASON_TRAILER: &str = "riverrun-error";
/// `ErrorInfo.domain`.
const DOMAIN: &str = "riverrun.dev";

/// Text of an error is cut here: it travels three times in the trailers, two of them in base64, and
/// most HTTP/2 stacks refuse headers above 16 KiB.
const TEXT_BYTES_MAX: usize = 1024;

/// When to try again where the broker has no better idea.
const RETRY_SOON: Duration = Duration::from_millis(100);
/// When to try again after running into a limit.
const RETRY_LATER: Duration = Duration::from_secs(1);

/// What went wrong, with all a client needs to act on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    reason: Reason,
    message: String,
    retriable: bool,
    definite: bool,
    retry_after: Option<Duration>,
    leader: Option<LeaderAt>,
    /// Path of the request's field at fault, for `BadRequest`.
    field: Option<&'static str>,
    /// Where a reader goes on past damage.
    next_offset: Option<Offset>,
    metadata: Vec<(&'static str, String)>,
}

/// Who leads, as far as is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LeaderAt {
    broker: BrokerId,
    epoch: Option<LeaderEpoch>,
}

// === impl Failure ===

impl Failure {
    /// Not worth a retry, and nothing was written.
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retriable: false,
            definite: true,
            retry_after: None,
            leader: None,
            field: None,
            next_offset: None,
            metadata: Vec::new(),
        }
    }

    /// A request that contradicts itself or the protocol; `field` is its path.
    pub(super) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::new(Reason::InvalidRequest, message).at_field(field)
    }

    /// An operation this version does not have.
    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Reason::UnsupportedVersion, message)
    }

    /// The broker is stopping; nothing was written.
    pub(super) fn draining() -> Self {
        let message = "the broker is stopping: reconnect, elsewhere if there is a choice";
        Self::new(Reason::BrokerShuttingDown, message).retry_after(Duration::ZERO)
    }

    /// A limit is reached for now.
    pub(super) fn throttled(message: impl Into<String>) -> Self {
        Self::new(Reason::ThrottlingQuotaExceeded, message).retry_after(RETRY_LATER)
    }

    /// More than one unary produce takes.
    pub(super) fn unary_too_large(bytes: usize, max: usize) -> Self {
        let message = format!(
            "{bytes} bytes of records in one call; at most {max}: send several calls, or use \
             ProduceStream"
        );
        Self::new(Reason::MessageTooLarge, message).at_field("records").with("max_bytes", max)
    }

    /// The caller's time is over.
    pub(super) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(Reason::RequestTimedOut, message).retriable()
    }

    /// This broker does not have the partition, `leader` does.
    pub(super) fn not_leader(leader: Option<BrokerId>, epoch: Option<LeaderEpoch>) -> Self {
        match leader {
            Some(broker) => {
                let message =
                    format!("this broker does not lead the partition; broker {broker} does");
                Self::new(Reason::NotLeaderOrFollower, message).retriable().led_by(leader, epoch)
            }
            None => {
                Self::new(Reason::LeaderNotAvailable, "nobody leads the partition now; try again")
                    .retry_after(RETRY_SOON)
            }
        }
    }

    /// This broker has the partition and is about to serve it.
    pub(super) fn opening() -> Self {
        Self::new(Reason::LeaderNotAvailable, "the partition is being opened; try again")
            .retry_after(RETRY_SOON)
    }

    /// This broker has the partition and cannot open it; it tries again if the reason may pass, as a
    /// full disk does.
    pub(super) fn unusable(why: &str, may_pass: bool) -> Self {
        let message = format!("the partition could not be opened on this broker: {why}");
        let failure = Self::new(Reason::KafkaStorageError, message);
        if may_pass { failure.retry_after(RETRY_LATER) } else { failure }
    }

    /// The same call may succeed later.
    pub(super) fn retriable(mut self) -> Self {
        self.retriable = true;
        self
    }

    /// The same call may succeed after `delay`.
    pub(super) fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self.retriable()
    }

    /// Something may have been written.
    pub(super) fn indefinite(mut self) -> Self {
        self.definite = false;
        self
    }

    /// Names the request's field at fault.
    pub(super) fn at_field(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    /// As definite as `other`, of which this is a better explanation.
    pub(super) fn definite_as(mut self, other: &Self) -> Self {
        self.definite = other.definite;
        self
    }

    /// Where a reader goes on past damage.
    pub(super) fn past(mut self, next_offset: Offset) -> Self {
        self.next_offset = Some(next_offset);
        self.with("next_offset", next_offset)
    }

    /// Adds a fact for programs.
    pub(super) fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    fn led_by(mut self, leader: Option<BrokerId>, epoch: Option<LeaderEpoch>) -> Self {
        self.leader = leader.map(|broker| LeaderAt { broker, epoch });
        self
    }

    /// Why, by Kafka's name.
    pub(super) fn reason(&self) -> Reason {
        self.reason
    }

    /// See [`Failure::past`].
    pub(super) fn next_offset(&self) -> Option<Offset> {
        self.next_offset
    }

    /// Nothing was written.
    #[cfg(test)]
    pub(super) fn is_definite(&self) -> bool {
        self.definite
    }

    /// The same call may succeed later, or at the leader named.
    #[cfg(test)]
    pub(super) fn is_retriable(&self) -> bool {
        self.retriable
    }

    /// The in-band form. `image` knows where brokers are.
    pub(super) fn to_proto(&self, image: &MetadataImage) -> v1::Error {
        v1::Error {
            reason: self.reason.name().to_owned(),
            message: cut(&self.message).to_owned(),
            retriable: self.retriable,
            definite: self.definite,
            retry_after: self.retry_after.map(super::convert::wire_duration),
            leader: self.leader.map(|leader| leader.hint(image)),
            metadata: self
                .metadata
                .iter()
                .map(|(k, v)| ((*k).to_owned(), cut(v).to_owned()))
                .collect(),
        }
    }

    /// The form of a call that fails as a whole.
    pub(super) fn to_status(&self, image: &MetadataImage) -> Status {
        let error = self.to_proto(image);
        let mut info = error.metadata.clone();
        info.insert("retriable".to_owned(), self.retriable.to_string());
        info.insert("definite".to_owned(), self.definite.to_string());
        let mut details = ErrorDetails::with_error_info(self.reason.name(), DOMAIN, info);
        if self.retriable {
            details.set_retry_info(Some(self.retry_after.unwrap_or(RETRY_SOON)));
        }
        if let Some(field) = self.field {
            details.add_bad_request_violation(field, error.message.as_str());
        }
        let mut trailers = MetadataMap::new();
        trailers.insert_bin(
            ERROR_TRAILER,
            tonic::metadata::MetadataValue::from_bytes(&error.encode_to_vec()),
        );
        trailers.insert(
            REASON_TRAILER,
            tonic::metadata::MetadataValue::from_static(self.reason.name()),
        );
        let code = self.reason.grpc_code(self.definite);
        Status::with_error_details_and_metadata(code, error.message, details, trailers)
    }
}

impl LeaderAt {
    fn hint(self, image: &MetadataImage) -> v1::LeaderHint {
        let broker = image.broker(self.broker);
        let endpoint = broker.and_then(|broker| broker.endpoint(Endpoint::CLIENTS));
        v1::LeaderHint {
            broker_id: self.broker.0,
            host: endpoint.map(|e| e.host.clone()).unwrap_or_default(),
            port: endpoint.map_or(0, |e| e.port.into()),
            leader_epoch: self.epoch.map_or(-1, LeaderEpoch::get),
        }
    }
}

impl From<ProduceError> for Failure {
    fn from(error: ProduceError) -> Self {
        let message = error.to_string();
        let definite = error.is_definite();
        let failure = |reason| Self { definite, ..Self::new(reason, message) };
        match error {
            ProduceError::NotLeader { leader, epoch, .. } => {
                failure(Reason::NotLeaderOrFollower).retriable().led_by(leader, epoch)
            }
            ProduceError::FencedLeaderEpoch { current, .. } => {
                failure(Reason::FencedLeaderEpoch).retriable().with("current_leader_epoch", current)
            }
            ProduceError::UnknownLeaderEpoch { current, .. } => failure(Reason::UnknownLeaderEpoch)
                .retry_after(RETRY_SOON)
                .with("current_leader_epoch", current),
            ProduceError::LeaseEnded => failure(Reason::LeaderNotAvailable).retry_after(RETRY_SOON),
            ProduceError::NotEnoughReplicas { isr, min_isr } => failure(Reason::NotEnoughReplicas)
                .retry_after(RETRY_SOON)
                .with("isr", isr)
                .with("min_isr", min_isr),
            ProduceError::NotEnoughReplicasAfterAppend { isr, min_isr } => {
                failure(Reason::NotEnoughReplicasAfterAppend)
                    .retry_after(RETRY_SOON)
                    .with("isr", isr)
                    .with("min_isr", min_isr)
            }
            ProduceError::TooLarge { bytes, max } => failure(Reason::MessageTooLarge)
                .with("batch_bytes", bytes)
                .with("max_message_bytes", max),
            ProduceError::InvalidTimestamp { timestamp, now, key, .. } => {
                failure(Reason::InvalidTimestamp)
                    .with("timestamp_ms", timestamp)
                    .with("broker_time_ms", now)
                    .with("config", key)
            }
            ProduceError::OutOfOrderSequence { given, expected, .. } => {
                failure(Reason::OutOfOrderSequence)
                    .with("given_sequence", given)
                    .with("expected_sequence", expected)
            }
            ProduceError::InvalidProducerEpoch { current, .. } => {
                failure(Reason::InvalidProducerEpoch).with("current_producer_epoch", current)
            }
            ProduceError::TooManyProducers { max } => failure(Reason::ThrottlingQuotaExceeded)
                .retry_after(RETRY_LATER)
                .with("producers_max", max),
            ProduceError::Unstorable(_) => failure(Reason::InvalidRecord),
            ProduceError::TimedOut { .. } => failure(Reason::RequestTimedOut).retriable(),
            ProduceError::StorageFull => failure(Reason::StorageFull).retry_after(RETRY_LATER),
            ProduceError::StorageFailed { .. } => {
                failure(Reason::KafkaStorageError).retry_after(RETRY_LATER)
            }
            ProduceError::Busy { parked_bytes } => failure(Reason::ThrottlingQuotaExceeded)
                .retry_after(RETRY_SOON)
                .with("parked_bytes", parked_bytes),
            ProduceError::Closing { .. } => {
                failure(Reason::BrokerShuttingDown).retry_after(RETRY_SOON)
            }
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let message = error.to_string();
        let failure = |reason| Self::new(reason, message);
        match error {
            FetchError::NotLeader { leader, epoch } => {
                failure(Reason::NotLeaderOrFollower).retriable().led_by(leader, epoch)
            }
            FetchError::FencedLeaderEpoch { current, .. } => {
                failure(Reason::FencedLeaderEpoch).retriable().with("current_leader_epoch", current)
            }
            FetchError::UnknownLeaderEpoch { current, .. } => failure(Reason::UnknownLeaderEpoch)
                .retry_after(RETRY_SOON)
                .with("current_leader_epoch", current),
            FetchError::NotKnownHere { leader, epoch, .. } => {
                failure(Reason::OffsetNotAvailable).retriable().led_by(leader, Some(epoch))
            }
            FetchError::OutOfRange { log_start_offset, log_end_offset, .. } => {
                failure(Reason::OffsetOutOfRange)
                    .with("log_start_offset", log_start_offset)
                    .with("log_end_offset", log_end_offset)
            }
            FetchError::Corrupt { offset, next_offset, .. } => {
                failure(Reason::CorruptRecord).with("offset", offset).past(next_offset)
            }
            FetchError::StorageFailed { .. } => {
                failure(Reason::KafkaStorageError).retry_after(RETRY_LATER)
            }
            FetchError::Closing => failure(Reason::BrokerShuttingDown).retry_after(RETRY_SOON),
        }
    }
}

impl From<OffsetsError> for Failure {
    fn from(error: OffsetsError) -> Self {
        match error {
            OffsetsError::Fetch(error) => error.into(),
            OffsetsError::NotAvailable => {
                Self::new(Reason::OffsetNotAvailable, error.to_string()).retry_after(RETRY_SOON)
            }
            OffsetsError::LeaseEnded => {
                Self::new(Reason::LeaderNotAvailable, error.to_string()).retry_after(RETRY_SOON)
            }
            OffsetsError::StorageFull => {
                Self::new(Reason::StorageFull, error.to_string()).retry_after(RETRY_LATER)
            }
        }
    }
}

/// A batch on its way in. The same bytes are refused again, so none of these is worth a retry.
impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Self {
        let message = error.to_string();
        let failure = |reason| Self::new(reason, message);
        match error {
            BatchError::WrongCrc { expected, actual } => failure(Reason::CorruptMessage)
                .with("expected_crc", format!("{expected:08x}"))
                .with("actual_crc", format!("{actual:08x}")),
            BatchError::Truncated { .. } | BatchError::Length { .. } => {
                failure(Reason::CorruptMessage)
            }
            BatchError::UnknownCodec(_) => failure(Reason::UnsupportedCompressionType),
            BatchError::WrongMagic { .. }
            | BatchError::TrailingBytes { .. }
            | BatchError::FieldTooSmall { .. }
            | BatchError::OffsetOverflow { .. }
            | BatchError::RecordCount { .. }
            | BatchError::TooManyRecords { .. }
            | BatchError::ProducerStamp { .. }
            | BatchError::Decompress { .. }
            | BatchError::DecompressionBomb { .. } => failure(Reason::InvalidRecord),
        }
    }
}

impl From<InvalidTopicName> for Failure {
    fn from(error: InvalidTopicName) -> Self {
        Self::new(Reason::InvalidTopic, error.to_string()).at_field("topic")
    }
}

impl From<ControllerError> for Failure {
    fn from(error: ControllerError) -> Self {
        match error {
            ControllerError::Topic(error) => error.into(),
            ControllerError::Partition(error) => error.into(),
            ControllerError::Broker(error) => error.into(),
            ControllerError::Voters(error) => error.into(),
            ControllerError::Quorum(error) => error.into(),
        }
    }
}

impl From<TopicError> for Failure {
    fn from(error: TopicError) -> Self {
        let message = error.to_string();
        let failure = |reason| Self::new(reason, message);
        match error {
            TopicError::Name(error) => error.into(),
            TopicError::Exists { id, .. } => {
                failure(Reason::TopicAlreadyExists).with("topic_id", id)
            }
            TopicError::Unknown(name) => {
                failure(Reason::UnknownTopicOrPartition).at_field("topic").with("topic", name)
            }
            TopicError::OtherTopic { found, .. } => {
                failure(Reason::UnknownTopicId).at_field("topic_id").with("topic_id", found)
            }
            TopicError::PartitionCount(_) | TopicError::NotMorePartitions { .. } => {
                failure(Reason::InvalidPartitions).at_field("partitions")
            }
            TopicError::TooManyPartitions { .. } => {
                failure(Reason::PolicyViolation).at_field("partitions")
            }
            TopicError::ReplicationFactor { .. } => {
                failure(Reason::InvalidReplicationFactor).at_field("replication_factor")
            }
            TopicError::Config(_) | TopicError::SetAndReset(_) => {
                failure(Reason::InvalidConfig).at_field("configs")
            }
        }
    }
}

impl From<PartitionError> for Failure {
    fn from(error: PartitionError) -> Self {
        let failure = |reason| Self::new(reason, error.to_string());
        match &error {
            PartitionError::Unknown(_) => failure(Reason::UnknownTopicOrPartition),
            PartitionError::Changed { current, .. } => {
                failure(Reason::PolicyViolation).with("partition_epoch", current)
            }
            PartitionError::LeadsAlready(_) | PartitionError::HasLeader(_) => {
                failure(Reason::ElectionNotNeeded)
            }
            PartitionError::NotInSync { preferred: true, .. } => {
                failure(Reason::PreferredLeaderNotAvailable)
            }
            PartitionError::NotInSync { .. } | PartitionError::NotThere { .. } => {
                failure(Reason::EligibleLeadersNotAvailable)
            }
            PartitionError::NotReplica { .. } | PartitionError::Same(_) => {
                failure(Reason::InvalidReplicaAssignment)
            }
            PartitionError::UnknownBroker(_) => failure(Reason::BrokerIdNotRegistered),
            PartitionError::NoneUnderWay => failure(Reason::NoReassignmentInProgress),
        }
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        let reason = match error {
            BrokerError::Unknown(_) => Reason::BrokerIdNotRegistered,
            BrokerError::NobodyElse(_) | BrokerError::Votes(_) => Reason::PolicyViolation,
        };
        Self::new(reason, error.to_string()).at_field("broker_id")
    }
}

impl From<QuorumError> for Failure {
    fn from(error: QuorumError) -> Self {
        let (message, definite) = (error.to_string(), error.is_definite());
        let retriable = error.is_retriable();
        let failure = |reason| Self { definite, retriable, ..Self::new(reason, message) };
        match error {
            QuorumError::Rejected(why) => failure(match why {
                Rejection::TopicExists { .. } => Reason::TopicAlreadyExists,
                Rejection::UnknownTopic(_) => Reason::UnknownTopicId,
                Rejection::PartitionCount(_) => Reason::InvalidPartitions,
                Rejection::ConfigSetAndReset(_) | Rejection::ConfigTooLarge(_) => {
                    Reason::InvalidConfig
                }
                Rejection::MinIsr { .. } => Reason::InvalidConfig,
                Rejection::Assignment { .. } => Reason::InvalidReplicationFactor,
                Rejection::UnknownPartition(_) => Reason::UnknownTopicOrPartition,
                Rejection::UnknownBroker(_) => Reason::BrokerIdNotRegistered,
                Rejection::NoElection(_) => Reason::EligibleLeadersNotAvailable,
                Rejection::Reassignment(ReassignmentRejection::NoneUnderWay) => {
                    Reason::NoReassignmentInProgress
                }
                Rejection::Reassignment(_) => Reason::InvalidReplicaAssignment,
                _ => Reason::PolicyViolation,
            }),
            QuorumError::Record(_) => failure(Reason::InvalidRequest),
            QuorumError::NotLeader { leader } => {
                failure(Reason::NotController).led_by(leader, None)
            }
            QuorumError::StorageFull => failure(Reason::StorageFull).retry_after(RETRY_LATER),
            QuorumError::StorageFailed(_) => failure(Reason::KafkaStorageError),
            QuorumError::OutcomeUnknown(_) => failure(Reason::UnknownServerError),
            QuorumError::ShuttingDown => {
                failure(Reason::BrokerShuttingDown).retry_after(RETRY_SOON)
            }
        }
    }
}

/// What tonic says of a request that it could not make a message of; or we, before tonic saw it.
impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        let message = status.message();
        if let Some(reason) = status.metadata().get(REASON_TRAILER)
            && let Some(reason) = reason.to_str().ok().and_then(Reason::from_name)
        {
            let failure = Self::new(reason, message);
            return match reason {
                Reason::ThrottlingQuotaExceeded => failure.retry_after(RETRY_LATER),
                _ => failure,
            };
        }
        match status.code() {
            Code::OutOfRange | Code::ResourceExhausted => Self::new(
                Reason::MessageTooLarge,
                format!("the request is too large for this call: {message}"),
            ),
            Code::Internal => Self::new(
                Reason::InvalidRequest,
                format!("the request is not a message of this call: {message}"),
            ),
            Code::Unimplemented => {
                Self::unsupported(format!("this broker does not have that call: {message}"))
            }
            _ => Self::new(Reason::UnknownServerError, message).indefinite(),
        }
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes of `text`, cut between characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
#[path = "status_test.rs"]
mod tests;
