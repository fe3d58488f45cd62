//! What the broker asks of the metadata quorum.

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;
use riverrun_proto::ids::BrokerId;
use tokio::sync::watch;

use super::{
    error::QuorumError,
    raft::{ChangeError, Step, Voters},
    subscription::Subscription,
};
use crate::metadata::{Command, MetadataImage, MetadataOffset, Rejection, Reply};

/// The metadata log and its newest image.
///
/// ```text
///   propose ──► log, on a majority, synced ──► applied in order ──► image ──► deltas to subscribers
///      ▲                                                                        │
///      └──────────────────────── reply, after all of that ◄─────────────────────┘
/// ```
///
/// Whoever was answered sees his own change: in [`image`](MetaQuorum::image) on this node at once,
/// in the deltas of every subscriber at its turn. Implementations: [`RaftQuorum`], a node of the
/// quorum; [`ClusterQuorum`], which asks the node that leads.
///
/// [`ClusterQuorum`]: super::cluster::ClusterQuorum
/// [`RaftQuorum`]: super::raft::RaftQuorum
pub trait MetaQuorum: fmt::Debug + Send + Sync {
    /// Writes a command, and answers when it was applied. Waits while too much is under way.
    ///
    /// # Errors
    /// [`QuorumError::Rejected`] where the image would not have it; all but
    /// [`QuorumError::OutcomeUnknown`] mean that nothing changed.
    ///
    /// # Cancel safety
    /// Dropped before its first wait ended, nothing was proposed. Dropped later, the command may be
    /// carried out or not; commands say what they expect, so asking again does no harm.
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Accepted, QuorumError>>;

    /// Waits until the image on this node has everything that was acknowledged anywhere before this
    /// was called, and gives an offset at or past it: a linearizable read is this, then
    /// [`image`](MetaQuorum::image). Cancel safe.
    fn read_barrier(&self) -> BoxFuture<'_, Result<MetadataOffset, QuorumError>>;

    /// The newest image on this node. Never goes back. Takes no lock.
    fn image(&self) -> Arc<MetadataImage>;

    /// An image, and every change after it.
    fn subscribe(&self) -> Subscription;

    /// Who leads, as far as known here; changes of it.
    fn leader(&self) -> watch::Receiver<Option<Leader>>;

    /// Who votes, listens, or is about to, as far as known here.
    fn voters(&self) -> Voters;

    /// Changes who votes. Safe to repeat.
    fn change_voters(&self, steps: Vec<Step>) -> BoxFuture<'_, Result<Voters, ChangeError>>;
}

/// A command that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Where in the log.
    pub offset: MetadataOffset,
    /// The answer.
    pub reply: Reply,
}

/// A command that has its place in the log for good, whatever became of it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Where in the log.
    pub offset: MetadataOffset,
    /// The answer, or why the image would not have it.
    pub outcome: Result<Reply, Rejection>,
}

impl Judged {
    /// For whoever asked for it.
    pub fn accepted(self) -> Result<Accepted, QuorumError> {
        let Self { offset, outcome } = self;
        let accepted = outcome.map(|reply| Accepted { offset, reply });
        accepted.map_err(QuorumError::Rejected)
    }
}

/// The leader of the quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Which node.
    pub node: BrokerId,
    /// Its term.
    pub term: u64,
}
