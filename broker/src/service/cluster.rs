//! `ClusterService`: the nodes of the cluster, and who votes on its metadata.

use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc, time::Duration};

use riverrun_proto::{
    ids::{BrokerId, DirectoryId},
    reason::Reason,
    rpc::v1,
};
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use v1::{broker_state, cluster_service_server::ClusterService, quorum_node::Role};

use super::{core::Core, moving, status::Failure};
use crate::{
    clock::ClockOffset,
    controller::raft::{ChangeError, Step, Voter, Voters},
    metadata::{Broker, Endpoint, MetadataImage, Presence},
    telemetry::Request as Called,
};

/// When a change of voters that cannot be made just now may be asked for again.
const RETRY_CHANGE: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Cluster(pub(super) Arc<Core>);

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn describe_cluster(
        &self,
        request: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        let handle = async |_, _| Ok(self.describe());
        self.0.unary(Called::DescribeCluster, request, handle).await
    }

    async fn add_voter(
        &self,
        request: Request<v1::AddVoterRequest>,
    ) -> Result<Response<v1::AddVoterResponse>, Status> {
        let handle = async |request: v1::AddVoterRequest, time| {
            let voters = self.0.controller.quorum().voters();
            let nodes = match to_add(&voters, BrokerId(request.node_id))? {
                None => nodes(&voters),
                Some(step) => self.change(step, time).await?,
            };
            Ok(v1::AddVoterResponse { nodes })
        };
        self.0.unary(Called::AddVoter, request, handle).await
    }

    async fn remove_voter(
        &self,
        request: Request<v1::RemoveVoterRequest>,
    ) -> Result<Response<v1::RemoveVoterResponse>, Status> {
        let handle = async |request: v1::RemoveVoterRequest, time| {
            let voters = self.0.controller.quorum().voters();
            let directory = directory(&request.directory_id)?;
            let step = to_remove(&voters, BrokerId(request.node_id), directory)?;
            Ok(v1::RemoveVoterResponse { nodes: self.change(step, time).await? })
        };
        self.0.unary(Called::RemoveVoter, request, handle).await
    }

    async fn drain_broker(
        &self,
        request: Request<v1::DrainBrokerRequest>,
    ) -> Result<Response<v1::DrainBrokerResponse>, Status> {
        let handle = async |request, time| moving::drain(&self.0, &request, time).await;
        self.0.unary(Called::DrainBroker, request, handle).await
    }

    async fn remove_broker(
        &self,
        request: Request<v1::RemoveBrokerRequest>,
    ) -> Result<Response<v1::RemoveBrokerResponse>, Status> {
        let handle = async |request, time| moving::remove(&self.0, &request, time).await;
        self.0.unary(Called::RemoveBroker, request, handle).await
    }

    async fn throttle_moves(
        &self,
        request: Request<v1::ThrottleMovesRequest>,
    ) -> Result<Response<v1::ThrottleMovesResponse>, Status> {
        let handle = async |request, time| moving::throttle(&self.0, request, time).await;
        self.0.unary(Called::ThrottleMoves, request, handle).await
    }

    async fn plan_moves(
        &self,
        request: Request<v1::PlanMovesRequest>,
    ) -> Result<Response<v1::PlanMovesResponse>, Status> {
        let handle = async |request, time| moving::plan(&self.0, &request, time).await;
        self.0.unary(Called::PlanMoves, request, handle).await
    }
}

impl Cluster {
    fn describe(&self) -> v1::DescribeClusterResponse {
        let core = &self.0;
        let quorum = core.controller.quorum();
        let leader = *quorum.leader().borrow();
        let image = quorum.image();
        let clocks = core.wall.told();
        v1::DescribeClusterResponse {
            cluster_id: core.cluster.to_string(),
            broker_id: core.broker.0,
            leader_id: leader.map(|leader| leader.node.0),
            leader_term: leader.map_or(0, |leader| leader.term),
            metadata_offset: image.offset().get(),
            feature_level: image.feature_level().get(),
            nodes: nodes(&quorum.voters()),
            brokers: with_clocks(brokers(&image), &clocks.off),
            clock_disputed: clocks.disputed,
            partitions: Some(counts(&image)),
            move_bytes_per_second: image.move_throttle().map(NonZeroU64::get),
        }
    }

    async fn change(&self, step: Step, time: Duration) -> Result<Vec<v1::QuorumNode>, Failure> {
        let change = self.0.controller.quorum().change_voters(vec![step]);
        match timeout(time, change).await {
            Ok(voters) => Ok(nodes(&voters?)),
            Err(_) => {
                let message = "the quorum did not change its voters in time; it may yet do so";
                Err(Failure::timed_out(message).indefinite())
            }
        }
    }
}

/// What lets `node` vote; nothing, where it does.
fn to_add(voters: &Voters, node: BrokerId) -> Result<Option<Step>, Failure> {
    if voters.voting.iter().any(|voter| voter.node == node) {
        return Ok(None);
    }
    let listener = voters.listening.iter().find(|voter| voter.node == node);
    listener.map(|voter| Some(Step::Vote(voter.id))).ok_or_else(|| {
        let message = format!(
            "node {node} is not in the cluster; start it with controller.quorum.bootstrap.servers \
             naming nodes that are: riverrun serve --help"
        );
        Failure::invalid("node_id", message)
    })
}

/// What takes `node` out.
fn to_remove(
    voters: &Voters,
    node: BrokerId,
    directory: Option<DirectoryId>,
) -> Result<Step, Failure> {
    let all = voters.voting.iter().chain(&voters.listening);
    let found: Vec<&Voter> = all
        .filter(|voter| voter.node == node)
        .filter(|voter| directory.is_none_or(|directory| voter.directory == directory))
        .collect();
    match found.as_slice() {
        [voter] if voters.voting == [**voter] => {
            let message = format!("node {node} is the only voter; add another first");
            Err(Failure::new(Reason::PolicyViolation, message))
        }
        [voter] => Ok(Step::Leave(voter.id)),
        [] => {
            let message = format!("node {node} is not in the metadata quorum");
            Err(Failure::invalid("node_id", message))
        }
        several => {
            let known: Vec<_> = several.iter().map(|v| v.directory.to_string()).collect();
            let message = format!(
                "node {node} is there with several data directories; name one of {}",
                known.join(", ")
            );
            Err(Failure::invalid("directory_id", message))
        }
    }
}

fn directory(text: &str) -> Result<Option<DirectoryId>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map(Some);
    parsed.map_err(|why| Failure::invalid("directory_id", format!("{text}: {why}")))
}

fn nodes(voters: &Voters) -> Vec<v1::QuorumNode> {
    let named = |role: Role| {
        move |voter: &Voter| v1::QuorumNode {
            node_id: voter.node.0,
            directory_id: voter.directory.to_string(),
            role: role.into(),
        }
    };
    let leaving = voters.leaving.iter().filter(|voter| !voters.voting.contains(voter));
    let voting = voters.voting.iter().map(named(Role::Voter));
    let listening = voters.listening.iter().map(named(Role::Listener));
    let mut all: Vec<_> =
        voting.chain(listening).chain(leaving.map(named(Role::Leaving))).collect();
    all.sort_by(|a, b| (a.node_id, &a.directory_id).cmp(&(b.node_id, &b.directory_id)));
    all
}

fn counts(image: &MetadataImage) -> v1::PartitionCounts {
    let mut counts = v1::PartitionCounts::default();
    for (_, partition) in image.topics().flat_map(|topic| topic.partitions()) {
        let leads = partition.leader.is_some();
        counts.total += 1;
        counts.offline += u32::from(!leads);
        counts.under_min_isr += u32::from(leads && !partition.isr_suffices());
        counts.under_replicated += u32::from(partition.is_under_replicated());
        counts.reassigning += u32::from(partition.reassignment.is_some());
        let preferred = partition.assigned().first();
        counts.not_preferred += u32::from(leads && partition.leader.as_ref() != preferred);
    }
    counts
}

pub(super) fn brokers(image: &MetadataImage) -> Vec<v1::BrokerState> {
    let (mut replicas, mut leads) = (BTreeMap::new(), BTreeMap::new());
    for (_, partition) in image.topics().flat_map(|topic| topic.partitions()) {
        for broker in &partition.replicas {
            *replicas.entry(*broker).or_insert(0_u32) += 1;
        }
        if let Some(leader) = partition.leader {
            *leads.entry(leader).or_insert(0_u32) += 1;
        }
    }
    let count = |counts: &BTreeMap<BrokerId, u32>, id| counts.get(&id).copied().unwrap_or(0);
    let state = |broker: &Arc<Broker>| {
        let place = |listener| {
            let endpoint = broker.endpoint(listener);
            endpoint.map_or_else(Default::default, |e| (e.host.clone(), u32::from(e.port)))
        };
        let ((host, port), (internal_host, internal_port)) =
            (place(Endpoint::CLIENTS), place(Endpoint::INTERNAL));
        v1::BrokerState {
            broker_id: broker.id.0,
            host,
            port,
            internal_host,
            internal_port,
            rack: broker.rack.clone().unwrap_or_default(),
            presence: match broker.presence {
                Presence::Active => broker_state::Presence::Active,
                Presence::Leaving => broker_state::Presence::Leaving,
                Presence::Fenced => broker_state::Presence::Fenced,
            }
            .into(),
            broker_epoch: broker.epoch.get(),
            replicas: count(&replicas, broker.id),
            leads: count(&leads, broker.id),
            draining: broker.draining,
            clock_ahead_ms: None,
        }
    };
    image.brokers().map(state).collect()
}

/// Says of those whose clocks are off how far.
fn with_clocks(
    mut brokers: Vec<v1::BrokerState>,
    off: &[(BrokerId, ClockOffset)],
) -> Vec<v1::BrokerState> {
    for broker in &mut brokers {
        let clock = off.iter().find(|(id, _)| id.0 == broker.broker_id);
        broker.clock_ahead_ms = clock.map(|(_, offset)| offset.ahead_ms());
    }
    brokers
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::NotLeader { .. } => {
                Self::new(Reason::NotController, message).retry_after(RETRY_CHANGE)
            }
            ChangeError::InProgress | ChangeError::NotCaughtUp { .. } | ChangeError::NotYet(_) => {
                Self::new(Reason::PolicyViolation, message).retry_after(RETRY_CHANGE)
            }
            ChangeError::Refused(_) => Self::new(Reason::PolicyViolation, message),
            // Asking again is safe: whoever votes votes.
            ChangeError::OutcomeUnknown(_) => Self::timed_out(message).indefinite(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(node: u32, directory: u8) -> Voter {
        Voter::new(BrokerId(node), DirectoryId::from_bytes(&[directory; 16]).unwrap())
    }

    fn voters() -> Voters {
        Voters {
            voting: vec![voter(1, 1), voter(2, 2)],
            listening: vec![voter(3, 3), voter(4, 4), voter(4, 5)],
            leaving: vec![voter(1, 1), voter(9, 9)],
        }
    }

    #[test]
    fn who_may_vote() {
        assert_eq!(to_add(&voters(), BrokerId(1)), Ok(None));
        assert_eq!(to_add(&voters(), BrokerId(3)), Ok(Some(Step::Vote(voter(3, 3).id))));
        let stranger = to_add(&voters(), BrokerId(7)).unwrap_err();
        assert_eq!(stranger.reason(), Reason::InvalidRequest);
    }

    #[test]
    fn who_may_go() {
        let remove = |node, directory: Option<u8>| {
            let directory = directory.map(|n| DirectoryId::from_bytes(&[n; 16]).unwrap());
            to_remove(&voters(), BrokerId(node), directory)
        };
        assert_eq!(remove(2, None), Ok(Step::Leave(voter(2, 2).id)));
        assert_eq!(remove(3, None), Ok(Step::Leave(voter(3, 3).id)));
        assert_eq!(remove(4, Some(5)), Ok(Step::Leave(voter(4, 5).id)));
        assert!(remove(4, None).is_err(), "which of them?");
        assert!(remove(2, Some(3)).is_err(), "not on that disk");
        assert!(remove(7, None).is_err());
        let alone = Voters { voting: vec![voter(1, 1)], ..voters() };
        let refused = to_remove(&alone, BrokerId(1), None).unwrap_err();
        assert_eq!(refused.reason(), Reason::PolicyViolation);
    }

    #[test]
    fn everybody_is_listed_once() {
        let listed = nodes(&voters());
        let listed: Vec<_> = listed.iter().map(|node| (node.node_id, node.role())).collect();
        let expected = [
            (1, Role::Voter),
            (2, Role::Voter),
            (3, Role::Listener),
            (4, Role::Listener),
            (4, Role::Listener),
            (9, Role::Leaving),
        ];
        assert_eq!(listed, expected);
    }
}
