//! `QuorumService`: see `proto/riverrun/internal/v1/quorum.proto`.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use riverrun_proto::{
    ids::BrokerId,
    rpc::internal::v1::{
        self as wire, exchange_request, propose_response::Outcome,
        quorum_service_server::QuorumService, refusal::Kind, voter_step,
    },
};
use tonic::{Request, Response, Status, Streaming};

use super::{Door, Inside};
use crate::{
    controller::{
        MetaQuorum, QuorumError,
        raft::{ChangeError, Step, Voter, VoterId},
    },
    metadata::{Command, FeatureLevel, command::SetFeatureLevel},
    peer::hello::{self, Greeting, VERSION},
};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Quorum(pub(super) Door);

type Answers = Pin<Box<dyn Stream<Item = Result<wire::ExchangeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl QuorumService for Quorum {
    type ExchangeStream = Answers;

    async fn exchange(
        &self,
        request: Request<Streaming<wire::ExchangeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let inside = self.0.inside()?;
        let hello = match requests.message().await?.and_then(|first| first.request) {
            Some(exchange_request::Request::Hello(hello)) => Some(hello),
            _ => None,
        };
        let Greeting { from, .. } = inside.greet(hello)?;
        let welcome = wire::ExchangeResponse { hello: Some(inside.card.hello(Some(from))) };
        let welcome = stream::once(async move { Ok(welcome) });
        Ok(Response::new(Box::pin(welcome.chain(self.clone().receive(from, requests)))))
    }

    async fn identify(
        &self,
        _: Request<wire::IdentifyRequest>,
    ) -> Result<Response<wire::IdentifyResponse>, Status> {
        let mut who = wire::IdentifyResponse {
            incarnation_id: hello::bytes(self.0.incarnation.as_bytes()),
            version: VERSION,
            node_id: self.0.node.0,
            cluster_id: Bytes::new(),
            directory_id: Bytes::new(),
        };
        if let Ok(inside) = self.0.inside() {
            who.cluster_id = hello::bytes(inside.card.cluster.as_bytes());
            who.directory_id = hello::bytes(inside.card.voter.directory.as_bytes());
        }
        Ok(Response::new(who))
    }

    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        let inside = self.0.inside()?;
        let greeting = inside.greet(request.into_inner().hello)?;
        if let Some(leader_address) = inside.leader_elsewhere()? {
            return Ok(Response::new(wire::JoinResponse { leader_address }));
        }
        inside.take_in(greeting.from).await?;
        Ok(Response::new(wire::JoinResponse::default()))
    }

    async fn propose(
        &self,
        request: Request<wire::ProposeRequest>,
    ) -> Result<Response<wire::ProposeResponse>, Status> {
        let inside = self.0.inside()?;
        let wire::ProposeRequest { hello, record } = request.into_inner();
        inside.greet(hello)?;
        let outcome = match inside.quorum.here().propose_record(record).await {
            Ok(judged) => Outcome::Offset(judged.offset.get()),
            Err(error) => Outcome::Refusal(refused(&error)),
        };
        Ok(Response::new(wire::ProposeResponse { outcome: Some(outcome) }))
    }

    async fn change_voters(
        &self,
        request: Request<wire::ChangeVotersRequest>,
    ) -> Result<Response<wire::ChangeVotersResponse>, Status> {
        let inside = self.0.inside()?;
        let wire::ChangeVotersRequest { hello, steps } = request.into_inner();
        inside.greet(hello)?;
        let steps: Option<Vec<_>> = steps.iter().map(step).collect();
        let steps = steps.ok_or_else(|| Status::invalid_argument("a step is empty"))?;
        let refusal = match inside.quorum.here().change(&steps).await {
            Ok(_) => None,
            Err(error) => Some(not_changed(&error)),
        };
        Ok(Response::new(wire::ChangeVotersResponse { refusal }))
    }
}

// === impl Quorum ===

impl Quorum {
    /// Hands what comes to the quorum. Answers nothing; ends with the requests, or with the broker.
    fn receive(
        self,
        from: Voter,
        requests: Streaming<wire::ExchangeRequest>,
    ) -> impl Stream<Item = Result<wire::ExchangeResponse, Status>> {
        stream::unfold((self, requests), move |(this, mut requests)| async move {
            let stopping = this.0.shutdown.clone();
            let received = async {
                let inside = this.0.inside()?;
                while let Some(request) = requests.message().await? {
                    let Some(exchange_request::Request::Messages(batch)) = request.request else {
                        return Err(Status::invalid_argument("a second hello"));
                    };
                    for message in batch.messages {
                        inside.quorum.here().receive(from, &message);
                    }
                }
                Ok(())
            };
            let ended = tokio::select! {
                ended = received => ended,
                () = stopping.stopping() => Err(Status::unavailable("this node stops")),
            };
            ended.err().map(|status| (Err(status), (this, requests)))
        })
        // An error is the last thing said.
        .scan(false, |over, item| {
            let item = (!*over).then_some(item);
            *over = true;
            futures::future::ready(item)
        })
    }
}

// === impl Inside ===

impl Inside {
    /// Checks who speaks, and notes where he is.
    pub(super) fn greet(&self, hello: Option<wire::Hello>) -> Result<Greeting, Status> {
        let greeting = self.card.check(hello)?;
        self.addresses.hear(greeting.from.node, &greeting.address);
        Ok(greeting)
    }

    /// Where the leader is, if it is another node.
    fn leader_elsewhere(&self) -> Result<Option<String>, Status> {
        let nobody = || Status::unavailable("the metadata quorum has no leader now; try again");
        let leader = self.quorum.leader().borrow().ok_or_else(nobody)?;
        if leader.node == self.card.voter.node {
            return Ok(None);
        }
        let known = self.addresses.of(leader.node, &self.quorum.image());
        let unknown = || Status::unavailable(format!("nobody said where {:?} is", leader.node));
        known.into_iter().next().map(Some).ok_or_else(unknown)
    }

    /// Has `node` listen to the metadata log, on this node, which leads.
    async fn take_in(&self, node: Voter) -> Result<(), Status> {
        let image = self.quorum.image();
        let here = self.quorum.here();
        let voters = here.voters();
        let known = || voters.voting.iter().chain(&voters.listening).chain(&voters.leaving);
        let registered = image.broker(node.node).map(|broker| broker.directory);
        let other = known().find(|known| known.node == node.node && known.id != node.id);
        let before = registered.or_else(|| other.map(|other| other.directory));
        if let Some(before) = before.filter(|before| *before != node.directory) {
            return Err(Status::failed_precondition(format!(
                "node {0} is known with data directory {before}, not {1}. If two nodes were given \
                 one id, give this one another broker.node.id. If the disk of node {0} was lost, \
                 give it an id that was never used, and take the old one out of the quorum: \
                 riverrun cluster remove-voter {0}",
                node.node, node.directory
            )));
        }
        if known().any(|known| known.id == node.id) {
            return Ok(());
        }
        if image.feature_level() < FeatureLevel::V2 {
            // A log that one broker could read alone becomes that of a cluster.
            let level =
                SetFeatureLevel { expected: image.feature_level(), level: FeatureLevel::V2 };
            match self.quorum.propose(Command::SetFeatureLevel(level)).await {
                // Somebody else was taken in at the same time.
                Ok(_)
                | Err(QuorumError::Rejected(crate::metadata::Rejection::FeatureLevelOrder {
                    ..
                })) => {}
                Err(QuorumError::Rejected(why)) => {
                    return Err(Status::failed_precondition(why.to_string()));
                }
                Err(error) => return Err(Status::unavailable(error.to_string())),
            }
        }
        match here.change(&[Step::Listen(node)]).await {
            Ok(_) => {
                tracing::info!(node = node.node.0, directory = %node.directory, "a node is sent the metadata log");
                Ok(())
            }
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }
}

fn step(step: &wire::VoterStep) -> Option<Step> {
    Some(match step.step? {
        voter_step::Step::Vote(id) => Step::Vote(VoterId::new(id)),
        voter_step::Step::Leave(id) => Step::Leave(VoterId::new(id)),
    })
}

fn refused(error: &QuorumError) -> wire::Refusal {
    let kind = match error {
        QuorumError::NotLeader { .. } => Kind::NotLeader,
        QuorumError::StorageFull => Kind::StorageFull,
        // Nothing was written, and this node will not lead for long.
        QuorumError::StorageFailed(_) | QuorumError::ShuttingDown => Kind::ShuttingDown,
        QuorumError::OutcomeUnknown(_) => Kind::OutcomeUnknown,
        // Whoever sends what this node cannot read runs another version.
        QuorumError::Record(_) | QuorumError::Rejected(_) => Kind::Refused,
    };
    let leader = match error {
        QuorumError::NotLeader { leader } => leader.map(|BrokerId(id)| id),
        _ => None,
    };
    wire::Refusal { kind: kind.into(), message: error.to_string(), leader }
}

fn not_changed(error: &ChangeError) -> wire::Refusal {
    let (kind, leader) = match error {
        ChangeError::NotLeader { leader } => (Kind::NotLeader, leader.map(|BrokerId(id)| id)),
        ChangeError::InProgress | ChangeError::NotCaughtUp { .. } | ChangeError::NotYet(_) => {
            (Kind::NotYet, None)
        }
        ChangeError::Refused(_) => (Kind::Refused, None),
        ChangeError::OutcomeUnknown(_) => (Kind::OutcomeUnknown, None),
    };
    wire::Refusal { kind: kind.into(), message: error.to_string(), leader }
}
