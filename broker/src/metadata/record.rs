//! How commands are stored: the catalogue of kinds and versions.
//!
//! ```text
//!   kind u16 LE │ version u16 LE │ fields (protobuf encoding, see `wire`)
//! ```
//!
//! | kind | version | command | since feature level |
//! |---|---|---|---|
//! | 1 | 1 | [`SetFeatureLevel`](Command::SetFeatureLevel) | 0 |
//! | 2 | 1 | [`RegisterBroker`](Command::RegisterBroker) | 1 |
//! | 3 | 1 | [`CreateTopic`](Command::CreateTopic) | 1 |
//! | 4 | 1 | [`CreatePartitions`](Command::CreatePartitions) | 1 |
//! | 5 | 1 | [`AlterTopicConfigs`](Command::AlterTopicConfigs) | 1 |
//! | 6 | 1 | [`DeleteTopic`](Command::DeleteTopic) | 1 |
//! | 7 | 1 | [`AllocateProducerIds`](Command::AllocateProducerIds) | 1 |
//! | 8 | 1 | [`JoinBroker`](Command::JoinBroker) | 2 |
//! | 9 | 1 | [`SetPresence`](Command::SetPresence) | 2 |
//! | 10 | 1 | [`AlterIsr`](Command::AlterIsr) | 2 |
//! | 11 | 1 | [`ElectLeader`](Command::ElectLeader) | 2 |
//! | 12 | 1 | [`Reassign`](Command::Reassign) | 2 |
//! | 13 | 1 | [`CancelReassignment`](Command::CancelReassignment) | 2 |
//! | 14 | 1 | [`SetDraining`](Command::SetDraining) | 3 |
//! | 15 | 1 | [`RemoveBroker`](Command::RemoveBroker) | 3 |
//! | 16 | 1 | [`SetMoveThrottle`](Command::SetMoveThrottle) | 4 |
//!
//! Numbers are never used again. Bytes that say more than this binary understands are refused, field
//! by field: protobuf's habit of skipping unknown fields would make this node compute another image
//! than its peers. What is decoded must therefore encode to the very same bytes.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use thiserror::Error;

use super::{
    Command, FeatureLevel,
    command::RegisterBroker,
    wire::{
        AllocateProducerIdsV1, AlterTopicConfigsV1, BadField, CreatePartitionsV1, CreateTopicV1,
        DeleteTopicV1, RegisterBrokerV1, SetFeatureLevelV1,
    },
    wire_cluster::{
        AlterIsrV1, CancelReassignmentV1, ElectLeaderV1, JoinBrokerV1, ReassignV1, SetPresenceV1,
    },
    wire_drain::{RemoveBrokerV1, SetDrainingV1},
    wire_throttle::SetMoveThrottleV1,
};

/// Bytes of one record. The largest command, a topic of ten thousand partitions with fifteen
/// replicas each, stays below.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;

const HEADER_BYTES: usize = 4;

const SET_FEATURE_LEVEL: u16 = 1;
const REGISTER_BROKER: u16 = 2;
const CREATE_TOPIC: u16 = 3;
const CREATE_PARTITIONS: u16 = 4;
const ALTER_TOPIC_CONFIGS: u16 = 5;
const DELETE_TOPIC: u16 = 6;
const ALLOCATE_PRODUCER_IDS: u16 = 7;
const JOIN_BROKER: u16 = 8;
const SET_PRESENCE: u16 = 9;
const ALTER_ISR: u16 = 10;
const ELECT_LEADER: u16 = 11;
const REASSIGN: u16 = 12;
const CANCEL_REASSIGNMENT: u16 = 13;
const SET_DRAINING: u16 = 14;
const REMOVE_BROKER: u16 = 15;
const SET_MOVE_THROTTLE: u16 = 16;

/// A record that this binary cannot, or must not, apply. Not a rejection: other nodes may well
/// understand it, so whoever reads it stops here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Written by a newer binary.
    #[error(
        "metadata record of unknown kind {0}: it was written by a newer version of Riverrun; start \
         that version or a later one"
    )]
    UnknownKind(u16),
    /// Written by a newer binary.
    #[error(
        "metadata record of kind {kind} has version {version}, this binary knows version 1: it was \
         written by a newer version of Riverrun; start that version or a later one"
    )]
    NewerVersion {
        /// Which kind.
        kind: u16,
        /// Its version.
        version: u16,
    },
    /// The log goes on by rules this binary does not know.
    #[error(
        "the metadata log is at feature level {0}, this binary knows levels up to {latest}: start \
         the version of Riverrun that set it or a later one",
        latest = FeatureLevel::LATEST
    )]
    NewerFeatureLevel(FeatureLevel),
    /// The fields make no sense.
    #[error("metadata record of kind {kind} is malformed: {problem}")]
    Malformed {
        /// Which kind; 0 where not even that can be read.
        kind: u16,
        /// What is wrong.
        problem: String,
    },
    /// Too long to be stored.
    #[error("the metadata record would have {0} bytes, at most {RECORD_BYTES_MAX} are allowed")]
    TooLarge(usize),
}

/// The stored form of a command. Fails with [`RecordError::TooLarge`], or
/// [`RecordError::NewerFeatureLevel`] for a level that this binary could not read back.
pub fn encode(command: &Command) -> Result<Bytes, RecordError> {
    check_level(command)?;
    match command {
        Command::SetFeatureLevel(c) => bytes(SET_FEATURE_LEVEL, &SetFeatureLevelV1::from(c)),
        Command::RegisterBroker(c) => bytes(REGISTER_BROKER, &RegisterBrokerV1::from(c)),
        Command::CreateTopic(c) => bytes(CREATE_TOPIC, &CreateTopicV1::from(c)),
        Command::CreatePartitions(c) => bytes(CREATE_PARTITIONS, &CreatePartitionsV1::from(c)),
        Command::AlterTopicConfigs(c) => bytes(ALTER_TOPIC_CONFIGS, &AlterTopicConfigsV1::from(c)),
        Command::DeleteTopic(c) => bytes(DELETE_TOPIC, &DeleteTopicV1::from(c)),
        Command::AllocateProducerIds(c) => {
            bytes(ALLOCATE_PRODUCER_IDS, &AllocateProducerIdsV1::from(c))
        }
        Command::JoinBroker(c) => bytes(JOIN_BROKER, &JoinBrokerV1::from(c)),
        Command::SetPresence(c) => bytes(SET_PRESENCE, &SetPresenceV1::from(c)),
        Command::AlterIsr(c) => bytes(ALTER_ISR, &AlterIsrV1::from(c)),
        Command::ElectLeader(c) => bytes(ELECT_LEADER, &ElectLeaderV1::from(c)),
        Command::Reassign(c) => bytes(REASSIGN, &ReassignV1::from(c)),
        Command::CancelReassignment(c) => {
            bytes(CANCEL_REASSIGNMENT, &CancelReassignmentV1::from(c))
        }
        Command::SetDraining(c) => bytes(SET_DRAINING, &SetDrainingV1::from(c)),
        Command::RemoveBroker(c) => bytes(REMOVE_BROKER, &RemoveBrokerV1::from(c)),
        Command::SetMoveThrottle(c) => bytes(SET_MOVE_THROTTLE, &SetMoveThrottleV1::from(c)),
    }
}

/// The command a record stores.
pub fn decode(record: &[u8]) -> Result<Command, RecordError> {
    let Some((header, fields)) = record.split_first_chunk::<HEADER_BYTES>() else {
        return Err(RecordError::Malformed {
            kind: 0,
            problem: format!("{} bytes are no record", record.len()),
        });
    };
    let [k0, k1, v0, v1] = *header;
    let (kind, version) = (u16::from_le_bytes([k0, k1]), u16::from_le_bytes([v0, v1]));
    let decode: fn(u16, &[u8]) -> Result<Command, RecordError> = match kind {
        SET_FEATURE_LEVEL => command::<SetFeatureLevelV1>,
        REGISTER_BROKER => command::<RegisterBrokerV1>,
        CREATE_TOPIC => command::<CreateTopicV1>,
        CREATE_PARTITIONS => command::<CreatePartitionsV1>,
        ALTER_TOPIC_CONFIGS => command::<AlterTopicConfigsV1>,
        DELETE_TOPIC => command::<DeleteTopicV1>,
        ALLOCATE_PRODUCER_IDS => command::<AllocateProducerIdsV1>,
        JOIN_BROKER => command::<JoinBrokerV1>,
        SET_PRESENCE => command::<SetPresenceV1>,
        ALTER_ISR => command::<AlterIsrV1>,
        ELECT_LEADER => command::<ElectLeaderV1>,
        REASSIGN => command::<ReassignV1>,
        CANCEL_REASSIGNMENT => command::<CancelReassignmentV1>,
        SET_DRAINING => command::<SetDrainingV1>,
        REMOVE_BROKER => command::<RemoveBrokerV1>,
        SET_MOVE_THROTTLE => command::<SetMoveThrottleV1>,
        _ => return Err(RecordError::UnknownKind(kind)),
    };
    match version {
        0 => Err(RecordError::Malformed { kind, problem: "version 0".into() }),
        1 => {
            let command = decode(kind, fields)?;
            check_level(&command)?;
            Ok(command)
        }
        _ => Err(RecordError::NewerVersion { kind, version }),
    }
}

impl TryFrom<RegisterBrokerV1> for Command {
    type Error = BadField;

    fn try_from(form: RegisterBrokerV1) -> Result<Self, BadField> {
        Ok(Self::RegisterBroker(RegisterBroker::try_from(form)?))
    }
}

/// Decodes strictly: see the module's contract.
pub(super) fn strict<T: Message + Default>(fields: &[u8]) -> Result<T, String> {
    let form = T::decode(fields).map_err(|e| e.to_string())?;
    if form.encode_to_vec() == fields {
        Ok(form)
    } else {
        Err("it holds fields this version does not know".into())
    }
}

fn command<T>(kind: u16, fields: &[u8]) -> Result<Command, RecordError>
where
    T: Message + Default,
    Command: TryFrom<T, Error = BadField>,
{
    let form: T = strict(fields).map_err(|problem| RecordError::Malformed { kind, problem })?;
    Command::try_from(form).map_err(|BadField(field)| RecordError::Malformed {
        kind,
        problem: format!("its {field} is invalid"),
    })
}

fn check_level(command: &Command) -> Result<(), RecordError> {
    match command {
        Command::SetFeatureLevel(set) if set.level > FeatureLevel::LATEST => {
            Err(RecordError::NewerFeatureLevel(set.level))
        }
        _ => Ok(()),
    }
}

fn bytes(kind: u16, fields: &impl Message) -> Result<Bytes, RecordError> {
    let len = HEADER_BYTES + fields.encoded_len();
    if len > RECORD_BYTES_MAX {
        return Err(RecordError::TooLarge(len));
    }
    let mut record = BytesMut::with_capacity(len);
    record.put_u16_le(kind);
    record.put_u16_le(1);
    fields.encode(&mut record).expect("the buffer has room for encoded_len bytes");
    Ok(record.freeze())
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
