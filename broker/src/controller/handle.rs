//! The controller as the services see it: ask for something, and it is decided, written, applied.

use std::sync::Arc;

use riverrun_proto::ids::TopicId;
use thiserror::Error;

use super::{
    brokers::BrokerError,
    error::QuorumError,
    partitions::PartitionError,
    quorum::MetaQuorum,
    raft::ChangeError,
    topics::{self, ConfigChanges, NewTopic, TopicError, TopicPolicy, TopicRef},
};
use crate::metadata::{Command, MetadataImage, Rejection, Reply, Topic};

/// How often a request is decided anew because somebody changed the same topic in between. Whoever
/// loses that often is told, and may try again.
const ATTEMPTS: usize = 8;

/// Decides about topics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Controller {
    quorum: Arc<dyn MetaQuorum>,
    policy: Arc<TopicPolicy>,
}

/// Whether a request is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Apply,
    /// It is judged, down to the last rule, and nothing is written.
    ValidateOnly,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControllerError {
    /// It cannot be. Definite.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// It cannot be. Definite.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// It cannot be. Definite.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Who is sent the metadata could not be changed.
    #[error(transparent)]
    Voters(#[from] ChangeError),
    /// It could not be written.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
}

impl ControllerError {
    /// Whether the same request may succeed later.
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Topic(_) | Self::Partition(_) | Self::Broker(_) => false,
            Self::Voters(error) => !matches!(error, ChangeError::Refused(_)),
            Self::Quorum(error) => error.is_retriable(),
        }
    }

    /// Whether it is certain that nothing changed.
    pub const fn is_definite(&self) -> bool {
        match self {
            Self::Topic(_) | Self::Partition(_) | Self::Broker(_) => true,
            Self::Voters(error) => !matches!(error, ChangeError::OutcomeUnknown(_)),
            Self::Quorum(error) => error.is_definite(),
        }
    }
}

// === impl Controller ===

/// None of these is undone by dropping its future: see [`MetaQuorum::propose`].
impl Controller {
    /// A controller over the quorum of this node.
    pub fn new(quorum: Arc<dyn MetaQuorum>, policy: TopicPolicy) -> Self {
        Self { quorum, policy: Arc::new(policy) }
    }

    /// The log behind it.
    pub fn quorum(&self) -> &Arc<dyn MetaQuorum> {
        &self.quorum
    }

    /// What topics may be.
    pub fn policy(&self) -> &TopicPolicy {
        &self.policy
    }

    /// Makes a topic, and gives it as it was made.
    pub async fn create_topic(
        &self,
        topic: &NewTopic,
        mode: Mode,
    ) -> Result<Arc<Topic>, ControllerError> {
        let decide =
            |image: &_| topics::create_topic(image, &self.policy, topic, TopicId::random());
        self.carry_out(mode, decide).await?.into_topic()
    }

    /// Deletes a topic.
    pub async fn delete_topic(&self, topic: &TopicRef, mode: Mode) -> Result<(), ControllerError> {
        let reply = self.carry_out(mode, |image| topics::delete_topic(image, topic)).await?;
        match reply {
            Reply::TopicDeleted => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Grows a topic to `partitions`, and gives it as it is then.
    pub async fn create_partitions(
        &self,
        topic: &TopicRef,
        partitions: u32,
        mode: Mode,
    ) -> Result<Arc<Topic>, ControllerError> {
        let decide = |image: &_| topics::create_partitions(image, &self.policy, topic, partitions);
        self.carry_out(mode, decide).await?.into_topic()
    }

    /// Changes a topic's configuration, and gives the topic as it is then.
    pub async fn alter_topic_configs(
        &self,
        topic: &TopicRef,
        changes: &ConfigChanges,
        mode: Mode,
    ) -> Result<Arc<Topic>, ControllerError> {
        let decide = |image: &_| topics::alter_topic_configs(image, &self.policy, topic, changes);
        self.carry_out(mode, decide).await?.into_topic()
    }

    /// Waits until this node has everything that was acknowledged anywhere before.
    pub async fn catch_up(&self) -> Result<(), ControllerError> {
        self.quorum.read_barrier().await?;
        Ok(())
    }

    /// Decides on the newest image and proposes; decides again where the image has moved on. So a
    /// request that lost a race is answered as if it had come later, and one that comes to a node
    /// behind the others is not judged by what there was long ago.
    pub(super) async fn carry_out<E: Into<ControllerError>>(
        &self,
        mode: Mode,
        decide: impl Fn(&MetadataImage) -> Result<Command, E>,
    ) -> Result<Reply, ControllerError> {
        self.catch_up().await?;
        let mut lost: Option<Rejection> = None;
        for _ in 0..ATTEMPTS {
            let image = self.quorum.image();
            let command = decide(&image).map_err(Into::into)?;
            if mode == Mode::ValidateOnly {
                let would_be = image.apply(image.offset().next(), &command);
                return would_be.outcome.map_err(|why| QuorumError::Rejected(why).into());
            }
            match self.quorum.propose(command).await {
                Ok(accepted) => return Ok(accepted.reply),
                // Twice the same: the image has it, and the decision does not see it.
                Err(QuorumError::Rejected(why)) if lost.as_ref() != Some(&why) => lost = Some(why),
                Err(error) => return Err(error.into()),
            }
        }
        let why = lost.expect("the loop only goes on after a rejection");
        Err(QuorumError::Rejected(why).into())
    }
}

impl Reply {
    fn into_topic(self) -> Result<Arc<Topic>, ControllerError> {
        match self {
            Self::Topic(topic) => Ok(topic),
            other => Err(unexpected(&other)),
        }
    }
}

/// A bug, if it ever happens: the command was applied, the answer is another's.
pub(super) fn unexpected(reply: &Reply) -> ControllerError {
    QuorumError::OutcomeUnknown(format!("it was answered with {reply:?}")).into()
}

#[cfg(test)]
#[path = "handle_test.rs"]
mod tests;
