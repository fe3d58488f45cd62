//! What is asked of the node that leads the metadata quorum.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use riverrun_proto::{
    ids::BrokerId,
    rpc::internal::v1::{
        self as wire, propose_response::Outcome, quorum_service_client::QuorumServiceClient,
        refusal::Kind, voter_step,
    },
};
use tokio::time::timeout;
use tonic::{Code, Request, Status, transport::Channel};

use super::{connect::Dialler, hello::Card, transport::Locate};
use crate::{
    controller::{
        LeaderCalls, QuorumError,
        raft::{ChangeError, Step},
    },
    metadata::MetadataOffset,
};

/// How long the leader may take: long enough for a majority on slow disks.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks leaders. Connections are kept, one per node.
pub struct PeerCalls {
    card: Card,
    locate: Locate,
    dialler: Dialler,
    channels: Mutex<HashMap<BrokerId, Channel>>,
}

// === impl PeerCalls ===

impl PeerCalls {
    /// Calls that speak as `card`.
    pub fn new(card: Card, locate: Locate, dialler: Dialler) -> Arc<Self> {
        Arc::new(Self { card, locate, dialler, channels: Mutex::default() })
    }

    /// A connection to a node: kept from before, or made now. Whoever answers is checked by what is
    /// asked of it, for a node may have moved.
    async fn client(&self, node: BrokerId) -> Result<QuorumServiceClient<Channel>, Status> {
        let known = self.channels.lock().get(&node).cloned();
        if let Some(channel) = known {
            return Ok(QuorumServiceClient::new(channel));
        }
        let mut failure = Status::unavailable(format!("nobody said yet where {node:?} is"));
        for address in (self.locate)(node) {
            match self.dialler.dial(&address).await {
                Ok(channel) => {
                    let mut client = QuorumServiceClient::new(channel.clone());
                    // Somebody else may listen there by now.
                    let who = client.identify(wire::IdentifyRequest {}).await?.into_inner();
                    if who.node_id == node.0 {
                        self.channels.lock().insert(node, channel);
                        return Ok(client);
                    }
                    failure = Status::unavailable(format!(
                        "{address} is node {} now, not {node}",
                        who.node_id
                    ));
                }
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    /// One call. `Err(None)`: it was never sent; else what became of it.
    async fn ask<T>(
        &self,
        node: BrokerId,
        call: impl AsyncFnOnce(QuorumServiceClient<Channel>) -> Result<T, Status>,
    ) -> Result<T, Unanswered> {
        let client = match timeout(ANSWER_TIMEOUT, self.client(node)).await {
            Ok(Ok(client)) => client,
            Ok(Err(why)) => {
                tracing::debug!(leader = node.0, %why, "the quorum's leader cannot be reached");
                return Err(Unanswered::NotSent);
            }
            Err(_) => return Err(Unanswered::NotSent),
        };
        let answer = timeout(ANSWER_TIMEOUT, call(client)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        answer.map_err(|status| {
            // Whatever is wrong with the connection, the next call has another.
            self.channels.lock().remove(&node);
            match status.code() {
                // Said by the other node before it looked at what was asked.
                Code::FailedPrecondition | Code::InvalidArgument => {
                    Unanswered::Refused(status.message().to_owned())
                }
                _ => Unanswered::Unknown(status.message().to_owned()),
            }
        })
    }
}

/// Why a call has no answer.
#[derive(Debug)]
enum Unanswered {
    NotSent,
    Refused(String),
    Unknown(String),
}

impl LeaderCalls for PeerCalls {
    fn propose(
        &self,
        leader: BrokerId,
        record: Bytes,
    ) -> BoxFuture<'_, Result<MetadataOffset, QuorumError>> {
        Box::pin(async move {
            let request = wire::ProposeRequest { hello: Some(self.card.hello(None)), record };
            let ask = async |mut client: QuorumServiceClient<Channel>| {
                Ok(client.propose(Request::new(request)).await?.into_inner())
            };
            let unknown = |why: &str| QuorumError::OutcomeUnknown(why.to_owned());
            match self.ask(leader, ask).await.map(|answer| answer.outcome) {
                Ok(Some(Outcome::Offset(offset))) => {
                    MetadataOffset::new(offset).ok_or_else(|| unknown("the answer names no place"))
                }
                Ok(Some(Outcome::Refusal(refusal))) => Err(quorum_error(&refusal)),
                Ok(None) => Err(unknown("the answer is empty")),
                Err(Unanswered::NotSent) => Err(QuorumError::NotLeader { leader: Some(leader) }),
                Err(Unanswered::Refused(why)) => {
                    tracing::error!(
                        leader = leader.0,
                        why,
                        "the quorum's leader refuses this node"
                    );
                    Err(QuorumError::NotLeader { leader: Some(leader) })
                }
                Err(Unanswered::Unknown(why)) => Err(unknown(&why)),
            }
        })
    }

    fn change(&self, leader: BrokerId, steps: Vec<Step>) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move {
            let steps = steps.into_iter().map(wire_step).collect::<Option<Vec<_>>>();
            let steps = steps.ok_or_else(|| {
                ChangeError::Refused("a node joins by itself, when it starts".into())
            })?;
            let request = wire::ChangeVotersRequest { hello: Some(self.card.hello(None)), steps };
            let ask = async |mut client: QuorumServiceClient<Channel>| {
                Ok(client.change_voters(Request::new(request)).await?.into_inner())
            };
            match self.ask(leader, ask).await.map(|answer| answer.refusal) {
                Ok(None) => Ok(()),
                Ok(Some(refusal)) => Err(change_error(refusal)),
                Err(Unanswered::NotSent) => Err(ChangeError::NotLeader { leader: Some(leader) }),
                Err(Unanswered::Refused(why)) => Err(ChangeError::Refused(why)),
                Err(Unanswered::Unknown(why)) => Err(ChangeError::OutcomeUnknown(why)),
            }
        })
    }
}

fn wire_step(step: Step) -> Option<wire::VoterStep> {
    let step = match step {
        Step::Listen(_) => return None,
        Step::Vote(id) => voter_step::Step::Vote(id.get()),
        Step::Leave(id) => voter_step::Step::Leave(id.get()),
    };
    Some(wire::VoterStep { step: Some(step) })
}

fn quorum_error(refusal: &wire::Refusal) -> QuorumError {
    match refusal.kind() {
        Kind::NotLeader | Kind::NotYet => {
            QuorumError::NotLeader { leader: refusal.leader.map(BrokerId) }
        }
        Kind::StorageFull => QuorumError::StorageFull,
        Kind::ShuttingDown => QuorumError::NotLeader { leader: None },
        Kind::Unspecified | Kind::OutcomeUnknown | Kind::Refused => {
            QuorumError::OutcomeUnknown(refusal.message.clone())
        }
    }
}

fn change_error(refusal: wire::Refusal) -> ChangeError {
    match refusal.kind() {
        Kind::NotLeader => ChangeError::NotLeader { leader: refusal.leader.map(BrokerId) },
        Kind::NotYet => ChangeError::NotYet(refusal.message),
        Kind::Refused => ChangeError::Refused(refusal.message),
        Kind::ShuttingDown => ChangeError::NotLeader { leader: None },
        Kind::Unspecified | Kind::OutcomeUnknown | Kind::StorageFull => {
            ChangeError::OutcomeUnknown(refusal.message)
        }
    }
}

impl fmt::Debug for PeerCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerCalls").field("card", &self.card).finish_non_exhaustive()
    }
}
