//! Why a call failed, by Kafka's names: the words people search for, and one to one onto Kafka's
//! error codes should a Kafka listener ever exist.

use std::fmt;

use tonic::Code;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $kafka:literal, $code:ident;)*) => {
        /// Why a call failed. A retired name is never used for anything else.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Kafka's name, as it travels in `Error.reason`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Kafka's number; see `org.apache.kafka.common.protocol.Errors`.
            pub const fn kafka_code(self) -> i16 {
                match self { $(Self::$variant => $kafka,)* }
            }

            /// The gRPC status code where the call as a whole fails for this reason and nothing
            /// was written. Where something may have been written, `UNAVAILABLE` becomes
            /// `ABORTED` ([`Reason::grpc_code`]).
            const fn definite_grpc_code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// From its name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// A bug or an unforeseen fault of the broker.
    UnknownServerError = "UNKNOWN_SERVER_ERROR", -1, Internal;
    /// Below the log start offset or past the log end offset.
    OffsetOutOfRange = "OFFSET_OUT_OF_RANGE", 1, OutOfRange;
    /// A batch on its way in that is not what its header says.
    CorruptMessage = "CORRUPT_MESSAGE", 2, InvalidArgument;
    /// No such topic, or no such partition of it.
    UnknownTopicOrPartition = "UNKNOWN_TOPIC_OR_PARTITION", 3, NotFound;
    /// No leader at the moment.
    LeaderNotAvailable = "LEADER_NOT_AVAILABLE", 5, Unavailable;
    /// This broker does not lead the partition.
    NotLeaderOrFollower = "NOT_LEADER_OR_FOLLOWER", 6, FailedPrecondition;
    /// The replicas did not answer in time; the record may or may not become readable.
    RequestTimedOut = "REQUEST_TIMED_OUT", 7, DeadlineExceeded;
    /// A record or batch above `max.message.bytes`.
    MessageTooLarge = "MESSAGE_TOO_LARGE", 10, InvalidArgument;
    /// A name no topic can have.
    InvalidTopic = "INVALID_TOPIC_EXCEPTION", 17, InvalidArgument;
    /// Fewer in-sync replicas than `min.insync.replicas`; nothing was written.
    NotEnoughReplicas = "NOT_ENOUGH_REPLICAS", 19, Unavailable;
    /// The in-sync replicas fell below `min.insync.replicas` after the write; it may yet commit.
    NotEnoughReplicasAfterAppend = "NOT_ENOUGH_REPLICAS_AFTER_APPEND", 20, Unavailable;
    /// An acks value that does not exist.
    InvalidRequiredAcks = "INVALID_REQUIRED_ACKS", 21, InvalidArgument;
    /// A timestamp outside the topic's bounds.
    InvalidTimestamp = "INVALID_TIMESTAMP", 32, InvalidArgument;
    /// An operation this version does not have.
    UnsupportedVersion = "UNSUPPORTED_VERSION", 35, Unimplemented;
    /// A topic of that name exists.
    TopicAlreadyExists = "TOPIC_ALREADY_EXISTS", 36, AlreadyExists;
    /// An impossible number of partitions.
    InvalidPartitions = "INVALID_PARTITIONS", 37, InvalidArgument;
    /// An impossible replication factor.
    InvalidReplicationFactor = "INVALID_REPLICATION_FACTOR", 38, InvalidArgument;
    /// Brokers that cannot be the replicas of a partition.
    InvalidReplicaAssignment = "INVALID_REPLICA_ASSIGNMENT", 39, InvalidArgument;
    /// An unknown configuration key or a value out of bounds.
    InvalidConfig = "INVALID_CONFIG", 40, InvalidArgument;
    /// This broker is not the active controller.
    NotController = "NOT_CONTROLLER", 41, FailedPrecondition;
    /// A request that contradicts itself.
    InvalidRequest = "INVALID_REQUEST", 42, InvalidArgument;
    /// Allowed by the protocol, refused by the operator.
    PolicyViolation = "POLICY_VIOLATION", 44, FailedPrecondition;
    /// A producer's sequence with a gap before it.
    OutOfOrderSequence = "OUT_OF_ORDER_SEQUENCE_NUMBER", 45, FailedPrecondition;
    /// An older epoch of a producer id.
    InvalidProducerEpoch = "INVALID_PRODUCER_EPOCH", 47, FailedPrecondition;
    /// The log directory failed: a write or sync did not reach the disk.
    KafkaStorageError = "KAFKA_STORAGE_ERROR", 56, Unavailable;
    /// An older leader epoch than the partition's.
    FencedLeaderEpoch = "FENCED_LEADER_EPOCH", 74, FailedPrecondition;
    /// A newer leader epoch than this broker has heard of.
    UnknownLeaderEpoch = "UNKNOWN_LEADER_EPOCH", 75, Unavailable;
    /// A codec this broker does not know.
    UnsupportedCompressionType = "UNSUPPORTED_COMPRESSION_TYPE", 76, InvalidArgument;
    /// The high watermark is not known yet in this leader epoch.
    OffsetNotAvailable = "OFFSET_NOT_AVAILABLE", 78, Unavailable;
    /// The preferred leader is not in sync, or not there.
    PreferredLeaderNotAvailable = "PREFERRED_LEADER_NOT_AVAILABLE", 80, FailedPrecondition;
    /// The replica that was asked for may not lead now.
    EligibleLeadersNotAvailable = "ELIGIBLE_LEADERS_NOT_AVAILABLE", 83, FailedPrecondition;
    /// It leads already, or there is a leader where only a partition without one could be helped.
    ElectionNotNeeded = "ELECTION_NOT_NEEDED", 84, FailedPrecondition;
    /// There is no change of replicas to cancel.
    NoReassignmentInProgress = "NO_REASSIGNMENT_IN_PROGRESS", 85, FailedPrecondition;
    /// A record that cannot be stored.
    InvalidRecord = "INVALID_RECORD", 87, InvalidArgument;
    /// A budget or quota is used up.
    ThrottlingQuotaExceeded = "THROTTLING_QUOTA_EXCEEDED", 89, ResourceExhausted;
    /// A newer producer took the name.
    ProducerFenced = "PRODUCER_FENCED", 90, FailedPrecondition;
    /// The topic was deleted, or deleted and made anew.
    UnknownTopicId = "UNKNOWN_TOPIC_ID", 100, NotFound;
    /// No broker of that id is registered.
    BrokerIdNotRegistered = "BROKER_ID_NOT_REGISTERED", 102, NotFound;
    /// Stored bytes that are not what was written; the next offset lies past them.
    CorruptRecord = "CORRUPT_RECORD", 2, DataLoss;
    /// The disk is full; the partition takes writes again when space returns.
    StorageFull = "STORAGE_FULL", 56, Unavailable;
    /// The broker is stopping.
    BrokerShuttingDown = "BROKER_SHUTTING_DOWN", 8, Unavailable;
}

impl Reason {
    /// The gRPC status code of a whole call that fails so. `UNAVAILABLE` promises that nothing was
    /// written (meshes and stock retry policies replay it), so an indefinite failure that would
    /// carry it is `ABORTED`.
    pub const fn grpc_code(self, definite: bool) -> Code {
        match (self.definite_grpc_code(), definite) {
            (Code::Unavailable, false) => Code::Aborted,
            (code, _) => code,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_round_trip() {
        let names: HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.name()), Some(*reason));
        }
        assert_eq!(Reason::from_name("NO_SUCH_REASON"), None);
    }

    #[test]
    fn unavailable_promises_that_nothing_was_written() {
        for reason in Reason::ALL {
            assert_ne!(reason.grpc_code(false), Code::Unavailable, "{reason}");
        }
        assert_eq!(Reason::NotEnoughReplicas.grpc_code(true), Code::Unavailable);
    }
}
