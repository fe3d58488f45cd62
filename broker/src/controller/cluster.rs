//! The metadata quorum as every node of a cluster sees it: asked anywhere, answered by the leader.
//!
//! ```text
//!   propose ─► who leads? ─ this node ─► RaftQuorum
//!                │      └─── another ──► LeaderCalls (peer) ─► its RaftQuorum: place in the log
//!                │                                              │
//!                └ nobody: wait a little                        ▼
//!                                   this node's log reaches that place: the answer is what the
//!                                   command makes of the image it meets here
//! ```
//!
//! Only the place in the log travels back. Every node applies the same log, so the answer, or the
//! rejection, is found here, and whoever was answered sees his change in this node's image.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use riverrun_proto::ids::BrokerId;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    error::QuorumError,
    quorum::{Accepted, Judged, Leader, MetaQuorum},
    raft::{ChangeError, RaftQuorum, Step, Voters},
    subscription::{Subscription, Update},
};
use crate::metadata::{Command, MetadataImage, MetadataOffset, record};

/// How long a request waits for somebody to lead: an election takes one to three seconds.
pub const LEADER_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a leader that could not be reached, or does not lead any more, is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a change of voters may take to get here; then it is told as it was.
const VOTERS_PATIENCE: Duration = Duration::from_millis(500);
/// How long an answered command may take to get here.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(30);

/// Asks another node, as the leader. Implemented by `peer`.
pub trait LeaderCalls: fmt::Debug + Send + Sync {
    /// Has `leader` write a record; gives its place in the log.
    ///
    /// # Errors
    /// [`QuorumError::NotLeader`] also where it could not be reached: nothing was written. What was
    /// sent and not answered is [`QuorumError::OutcomeUnknown`].
    fn propose(
        &self,
        leader: BrokerId,
        record: Bytes,
    ) -> BoxFuture<'_, Result<MetadataOffset, QuorumError>>;

    /// Has `leader` change who votes.
    ///
    /// # Errors
    /// As for [`propose`](Self::propose).
    fn change(&self, leader: BrokerId, steps: Vec<Step>) -> BoxFuture<'_, Result<(), ChangeError>>;
}

/// See the module.
#[derive(Debug)]
pub struct ClusterQuorum {
    node: BrokerId,
    here: Arc<RaftQuorum>,
    there: Arc<dyn LeaderCalls>,
}

// === impl ClusterQuorum ===

impl ClusterQuorum {
    /// The quorum of which `here` is this node's part.
    pub fn new(here: Arc<RaftQuorum>, there: Arc<dyn LeaderCalls>) -> Self {
        Self { node: here.voter().node, here, there }
    }

    /// This node's part.
    pub fn here(&self) -> &Arc<RaftQuorum> {
        &self.here
    }

    async fn change_anywhere(&self, steps: Vec<Step>) -> Result<Voters, ChangeError> {
        let changed = async {
            loop {
                let leader = self.some_leader().await;
                let made = match leader {
                    Some(leader) if leader == self.node => self.here.change(&steps).await.map(drop),
                    Some(leader) => self.there.change(leader, steps.clone()).await,
                    None => Err(ChangeError::NotLeader { leader: None }),
                };
                match made {
                    Err(ChangeError::NotLeader { leader: Some(_) }) => sleep(ASK_AGAIN).await,
                    Ok(()) => {
                        // Made elsewhere, it is on its way here; not to one that was taken out.
                        let _ = timeout(VOTERS_PATIENCE, self.here.read_barrier()).await;
                        return Ok(self.here.voters());
                    }
                    Err(why) => return Err(why),
                }
            }
        };
        let nobody = |_| Err(ChangeError::NotLeader { leader: None });
        timeout(LEADER_PATIENCE * 2, changed).await.unwrap_or_else(nobody)
    }

    async fn propose_anywhere(&self, command: Command) -> Result<Accepted, QuorumError> {
        let record = record::encode(&command)?;
        // What everybody reads is what is judged here.
        let command = record::decode(&record)?;
        let asked = async {
            loop {
                let asked = match self.some_leader().await {
                    Some(leader) if leader == self.node => {
                        self.here.propose_record(record.clone()).await
                    }
                    Some(leader) => self.forward(leader, &record, &command).await,
                    None => return Err(QuorumError::NotLeader { leader: None }),
                };
                match asked {
                    Err(QuorumError::NotLeader { .. }) => sleep(ASK_AGAIN).await,
                    asked => return asked,
                }
            }
        };
        let late = "no answer came in time".to_owned();
        let asked = timeout(LEADER_PATIENCE + ARRIVAL_PATIENCE, asked).await;
        asked.unwrap_or(Err(QuorumError::OutcomeUnknown(late)))?.accepted()
    }

    /// Whoever leads, as far as known here; waits a little for somebody to.
    async fn some_leader(&self) -> Option<BrokerId> {
        let mut leader = self.here.leader();
        let known = timeout(LEADER_PATIENCE, leader.wait_for(Option::is_some)).await;
        known.ok()?.ok().and_then(|leader| leader.map(|leader| leader.node))
    }

    async fn forward(
        &self,
        leader: BrokerId,
        record: &Bytes,
        command: &Command,
    ) -> Result<Judged, QuorumError> {
        // Before it is sent: its place must not go by unseen.
        let changes = self.here.subscribe();
        let offset = self.there.propose(leader, record.clone()).await?;
        let unknown = |why: &str| QuorumError::OutcomeUnknown(why.to_owned());
        timeout(ARRIVAL_PATIENCE, judge(changes, offset, command))
            .await
            .map_err(|_| unknown("it is written, and has not come to this node yet"))?
            .ok_or_else(|| unknown("it is written, and came to this node among many others"))
    }
}

/// What becomes of `command`, which stands at `offset`, when `changes` get there; `None` if they
/// skip it, as after a snapshot.
async fn judge(
    mut changes: Subscription,
    offset: MetadataOffset,
    command: &Command,
) -> Option<Judged> {
    let mut before: Arc<MetadataImage> = Arc::clone(changes.start());
    while before.offset() < offset {
        if before.offset().next() == offset {
            // The command meets this image, here as everywhere. Whoever asked has to see the next.
            let outcome = before.apply(offset, command).outcome;
            return match changes.next().await? {
                Update::Change(change) if change.offset == offset => {
                    Some(Judged { offset, outcome })
                }
                _ => None,
            };
        }
        before = match changes.next().await? {
            Update::Change(change) => Arc::clone(&change.image),
            Update::Resync(image) => image,
        };
    }
    None
}

impl MetaQuorum for ClusterQuorum {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Accepted, QuorumError>> {
        Box::pin(self.propose_anywhere(command))
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<MetadataOffset, QuorumError>> {
        self.here.read_barrier()
    }

    fn image(&self) -> Arc<MetadataImage> {
        self.here.image()
    }

    fn subscribe(&self) -> Subscription {
        self.here.subscribe()
    }

    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.here.leader()
    }

    fn voters(&self) -> Voters {
        self.here.voters()
    }

    fn change_voters(&self, steps: Vec<Step>) -> BoxFuture<'_, Result<Voters, ChangeError>> {
        Box::pin(self.change_anywhere(steps))
    }
}

#[cfg(test)]
#[path = "cluster_test.rs"]
mod tests;
