//! The one error of this crate. It answers four questions: what kind of thing went wrong
//! ([`Error::kind`]), may the same call succeed later ([`Error::is_retriable`]), can anything have
//! happened ([`Error::is_definite`]), and is the object that gave it still usable
//! ([`Error::is_fatal`]). The text says what to do.
//!
//! It is cheap to clone: one failed batch hands the same error to every record in it.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc, time::Duration};

use riverrun_proto::{ids::BrokerId, reason::Reason};

use crate::address::Address;

/// What went wrong. More may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An option, or an argument, that cannot be; nothing was sent.
    InvalidArgument,
    /// No broker could be reached, or the connection broke.
    Connection,
    /// The broker and this client do not believe each other's certificates, or only one of them
    /// speaks TLS. Somebody has to change that; nothing was sent.
    Security,
    /// A deadline of this client passed.
    Timeout,
    /// The producer, consumer or client was closed.
    Closed,
    /// The topic or partition does not exist (any more), or was deleted and made anew.
    UnknownTopic,
    /// A topic of that name exists.
    TopicExists,
    /// The record or batch is above a limit.
    TooLarge,
    /// Another broker leads the partition, or none does at the moment.
    NotLeader,
    /// Fewer in-sync replicas than the topic demands.
    NotEnoughReplicas,
    /// A quota or budget of the broker is used up.
    Throttled,
    /// The offset is below the log start offset or past the log end offset.
    OffsetOutOfRange,
    /// Stored bytes are not what was written; see [`Error::next_offset`].
    CorruptRecord,
    /// The log was truncated below what this consumer had read; it goes on at
    /// [`Error::next_offset`].
    LogTruncated,
    /// The broker lost or fenced the producer's sequence and the outcome of the record is unknown.
    ProducerState,
    /// The broker does not have this operation.
    Unsupported,
    /// The broker's disk or log directory failed, or is full.
    Storage,
    /// The broker said something this client does not understand.
    Protocol,
    /// Anything else the broker reports; see [`Error::reason`].
    Broker,
}

/// What went wrong, whether a retry can help, and whether anything happened.
#[derive(Clone)]
pub struct Error(Arc<Repr>);

/// Shorthand of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug)]
struct Repr {
    kind: ErrorKind,
    reason: Option<Cow<'static, str>>,
    message: String,
    retriable: bool,
    definite: bool,
    fatal: bool,
    retry_after: Option<Duration>,
    leader: Option<LeaderHint>,
    next_offset: Option<i64>,
    details: BTreeMap<String, String>,
}

/// Who leads a partition now, as a broker that does not lead it told us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaderHint {
    pub(crate) broker: BrokerId,
    pub(crate) address: Address,
    pub(crate) leader_epoch: i32,
}

// === impl Error ===

impl Error {
    /// Not retriable, definite, not fatal: the caller's mistake, found before anything was sent.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Repr {
            kind,
            reason: None,
            message: message.into(),
            retriable: false,
            definite: true,
            fatal: false,
            retry_after: None,
            leader: None,
            next_offset: None,
            details: BTreeMap::new(),
        }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    pub(crate) fn closed(what: &str) -> Self {
        Self::new(ErrorKind::Closed, format!("the {what} is closed; build a new one")).fatal()
    }

    pub(crate) fn connection(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Connection, message).retriable(true)
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message).definite(false)
    }

    /// An error a broker reported, by Kafka's name for it.
    pub(crate) fn from_broker(
        reason: String,
        message: String,
        retriable: bool,
        definite: bool,
    ) -> Self {
        let known = Reason::from_name(&reason);
        let kind = known.map_or(ErrorKind::Broker, kind_of);
        let message = if message.is_empty() { "the broker gave no reason".into() } else { message };
        let mut error = Self::new(kind, message).retriable(retriable).definite(definite);
        error.repr().reason =
            Some(known.map_or(Cow::Owned(reason), |reason| Cow::Borrowed(reason.name())));
        error
    }

    /// As a broker would say it, decided here (a record above the limit, an unknown partition).
    pub(crate) fn from_reason(reason: Reason, message: impl Into<String>) -> Self {
        Self::from_broker(reason.name().into(), message.into(), false, true)
    }

    fn repr(&mut self) -> &mut Repr {
        Arc::make_mut(&mut self.0)
    }

    pub(crate) fn retriable(mut self, retriable: bool) -> Self {
        self.repr().retriable = retriable;
        self
    }

    pub(crate) fn definite(mut self, definite: bool) -> Self {
        self.repr().definite = definite;
        self
    }

    pub(crate) fn fatal(mut self) -> Self {
        self.repr().fatal = true;
        self
    }

    pub(crate) fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.repr().retry_after = retry_after;
        self
    }

    pub(crate) fn with_leader(mut self, leader: Option<LeaderHint>) -> Self {
        self.repr().leader = leader;
        self
    }

    pub(crate) fn with_next_offset(mut self, next_offset: Option<i64>) -> Self {
        self.repr().next_offset = next_offset;
        self
    }

    pub(crate) fn with_details(mut self, details: BTreeMap<String, String>) -> Self {
        self.repr().details = details;
        self
    }

    /// The same error, its text preceded by what was being done.
    pub(crate) fn context(mut self, doing: impl fmt::Display) -> Self {
        let repr = self.repr();
        repr.message = format!("{doing}: {}", repr.message);
        self
    }

    pub(crate) fn leader(&self) -> Option<&LeaderHint> {
        self.0.leader.as_ref()
    }

    pub(crate) fn is_reason(&self, reason: Reason) -> bool {
        self.reason() == Some(reason.name())
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The same call may succeed later.
    ///
    /// Producer and consumer retry by themselves within their deadlines; an error that comes out of
    /// them with `true` means that the time they were given was too short.
    pub fn is_retriable(&self) -> bool {
        self.0.retriable
    }

    /// Nothing was written. `false`: it may have been, or may yet be; sending it again can store it
    /// twice.
    pub fn is_definite(&self) -> bool {
        self.0.definite
    }

    /// The producer, consumer or client that gave it will only give errors from now on.
    pub fn is_fatal(&self) -> bool {
        self.0.fatal
    }

    /// Kafka's name for it, such as `NOT_LEADER_OR_FOLLOWER`, where a broker reported it (or would
    /// have).
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// How long the broker asks to wait before trying again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Where to read on, with [`ErrorKind::CorruptRecord`] and [`ErrorKind::LogTruncated`].
    pub fn next_offset(&self) -> Option<i64> {
        self.0.next_offset
    }

    /// A further fact the broker gave, such as `log_start_offset` or `max_bytes`.
    pub fn detail(&self, key: &str) -> Option<&str> {
        self.0.details.get(key).map(String::as_str)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(reason) = self.reason() {
            write!(f, " ({reason})")?;
        }
        if !self.0.definite {
            f.write_str(" [it may have been written]")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repr { kind, reason, message, retriable, definite, fatal, retry_after, .. } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("reason", reason)
            .field("message", message)
            .field("retriable", retriable)
            .field("definite", definite)
            .field("fatal", fatal)
            .field("retry_after", retry_after)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {}

/// Exhaustive on purpose: a new reason has to be placed.
const fn kind_of(reason: Reason) -> ErrorKind {
    match reason {
        Reason::OffsetOutOfRange => ErrorKind::OffsetOutOfRange,
        Reason::UnknownTopicOrPartition | Reason::UnknownTopicId => ErrorKind::UnknownTopic,
        Reason::LeaderNotAvailable
        | Reason::NotLeaderOrFollower
        | Reason::NotController
        | Reason::FencedLeaderEpoch
        | Reason::UnknownLeaderEpoch
        | Reason::OffsetNotAvailable => ErrorKind::NotLeader,
        Reason::RequestTimedOut => ErrorKind::Timeout,
        Reason::MessageTooLarge => ErrorKind::TooLarge,
        Reason::NotEnoughReplicas | Reason::NotEnoughReplicasAfterAppend => {
            ErrorKind::NotEnoughReplicas
        }
        Reason::TopicAlreadyExists => ErrorKind::TopicExists,
        Reason::OutOfOrderSequence | Reason::InvalidProducerEpoch | Reason::ProducerFenced => {
            ErrorKind::ProducerState
        }
        Reason::KafkaStorageError | Reason::StorageFull => ErrorKind::Storage,
        Reason::UnsupportedVersion => ErrorKind::Unsupported,
        Reason::ThrottlingQuotaExceeded => ErrorKind::Throttled,
        Reason::CorruptRecord => ErrorKind::CorruptRecord,
        Reason::BrokerShuttingDown => ErrorKind::Connection,
        Reason::CorruptMessage
        | Reason::InvalidTopic
        | Reason::InvalidRequiredAcks
        | Reason::InvalidTimestamp
        | Reason::InvalidPartitions
        | Reason::InvalidReplicationFactor
        | Reason::InvalidConfig
        | Reason::InvalidRequest
        | Reason::InvalidRecord
        | Reason::UnsupportedCompressionType => ErrorKind::InvalidArgument,
        Reason::UnknownServerError | Reason::PolicyViolation => ErrorKind::Broker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crosses_threads_and_is_one_pointer() {
        fn assert_bounds<T: Clone + Send + Sync + 'static>() {}
        assert_bounds::<Error>();
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn a_brokers_error_keeps_its_two_booleans_and_an_unknown_reason() {
        let error =
            Error::from_broker("NOT_ENOUGH_REPLICAS".into(), "1 of 2 in sync".into(), true, true);
        assert_eq!(error.kind(), ErrorKind::NotEnoughReplicas);
        assert!(error.is_retriable() && error.is_definite() && !error.is_fatal());
        assert_eq!(error.to_string(), "1 of 2 in sync (NOT_ENOUGH_REPLICAS)");

        let newer = Error::from_broker("FROM_THE_FUTURE".into(), String::new(), false, false);
        assert_eq!(newer.kind(), ErrorKind::Broker);
        assert_eq!(newer.reason(), Some("FROM_THE_FUTURE"));
        assert_eq!(
            newer.to_string(),
            "the broker gave no reason (FROM_THE_FUTURE) [it may have been written]"
        );
    }

    #[test]
    fn context_does_not_change_the_clones() {
        let error = Error::connection("refused");
        let other = error.clone().context("asking for topics");
        assert_eq!(error.to_string(), "refused");
        assert_eq!(other.to_string(), "asking for topics: refused");
        assert!(other.is_retriable());
    }
}
