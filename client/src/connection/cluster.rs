//! `ClusterService`.

use riverrun_proto::{
    ids::BrokerId,
    rpc::v1::{
        self, broker_state::Presence, cluster_service_client::ClusterServiceClient,
        quorum_node::Role,
    },
};
use tonic::transport::Channel;

use super::{Connections, Use, convert, partitions::ids};
use crate::{
    address::Address,
    admin::{
        BrokerPresence, BrokerState, ClusterDescription, MovePlan, PartitionCounts, PlannedMove,
        QuorumNode, QuorumRole,
    },
    error::{Error, Result},
};

impl Connections {
    fn cluster_service(&self, address: &Address) -> Result<ClusterServiceClient<Channel>> {
        Ok(ClusterServiceClient::new(self.channel(address, Use::Control)?))
    }

    pub(crate) async fn describe_cluster(&self, address: &Address) -> Result<ClusterDescription> {
        let request = self.request(v1::DescribeClusterRequest {});
        let mut client = self.cluster_service(address)?;
        let call = async { Ok(client.describe_cluster(request).await?.into_inner()) };
        let answer = self.bounded(address, "describing the cluster", call).await?;
        Ok(ClusterDescription {
            id: answer.cluster_id,
            answered_by: BrokerId(answer.broker_id),
            leader: answer.leader_id.map(BrokerId),
            leader_term: answer.leader_term,
            metadata_offset: answer.metadata_offset,
            feature_level: answer.feature_level,
            nodes: nodes(answer.nodes)?,
            brokers: answer.brokers.into_iter().map(broker).collect::<Result<_>>()?,
            partitions: answer.partitions.map(counts).unwrap_or_default(),
            clock_disputed: answer.clock_disputed,
            move_throttle: answer.move_bytes_per_second,
        })
    }

    pub(crate) async fn add_voter(
        &self,
        address: &Address,
        node: BrokerId,
    ) -> Result<Vec<QuorumNode>> {
        let request = self.request(v1::AddVoterRequest { node_id: node.0 });
        let mut client = self.cluster_service(address)?;
        let call = async { Ok(client.add_voter(request).await?.into_inner()) };
        nodes(self.bounded(address, "adding a voter", call).await?.nodes)
    }

    pub(crate) async fn remove_voter(
        &self,
        address: &Address,
        node: BrokerId,
        directory_id: String,
    ) -> Result<Vec<QuorumNode>> {
        let request = self.request(v1::RemoveVoterRequest { node_id: node.0, directory_id });
        let mut client = self.cluster_service(address)?;
        let call = async { Ok(client.remove_voter(request).await?.into_inner()) };
        nodes(self.bounded(address, "removing a voter", call).await?.nodes)
    }

    pub(crate) async fn drain_broker(
        &self,
        address: &Address,
        id: BrokerId,
        draining: bool,
    ) -> Result<BrokerState> {
        let request = v1::DrainBrokerRequest { broker_id: id.0, cancel: !draining };
        let request = self.request(request);
        let mut client = self.cluster_service(address)?;
        let call = async { Ok(client.drain_broker(request).await?.into_inner()) };
        let answer = self.bounded(address, "draining a broker", call).await?;
        broker(answer.broker.ok_or_else(|| {
            Error::protocol("the change was made; the broker was removed right after it")
        })?)
    }

    pub(crate) async fn remove_broker(&self, address: &Address, id: BrokerId) -> Result<()> {
        let request = self.request(v1::RemoveBrokerRequest { broker_id: id.0 });
        let mut client = self.cluster_service(address)?;
        let call = async { Ok(client.remove_broker(request).await?.into_inner()) };
        self.bounded(address, "removing a broker", call).await?;
        Ok(())
    }

    pub(crate) async fn throttle_moves(
        &self,
        address: &Address,
        bytes_per_second: Option<u64>,
    ) -> Result<Option<u64>> {
        let request = self.request(v1::ThrottleMovesRequest { bytes_per_second });
        let mut client = self.cluster_service(address)?;
        let call = async { Ok(client.throttle_moves(request).await?.into_inner()) };
        Ok(self.bounded(address, "throttling moves", call).await?.bytes_per_second)
    }

    pub(crate) async fn plan_moves(
        &self,
        address: &Address,
        off: Option<BrokerId>,
        max: u32,
    ) -> Result<MovePlan> {
        let request = v1::PlanMovesRequest { off_broker: off.map(|id| id.0), max_moves: max };
        let request = self.request(request);
        let mut client = self.cluster_service(address)?;
        let call = async { Ok(client.plan_moves(request).await?.into_inner()) };
        let answer = self.bounded(address, "planning moves", call).await?;
        let planned = |planned: v1::PlannedMove| {
            Ok(PlannedMove {
                topic: planned.topic,
                partition: convert::partition_index(planned.partition)?,
                partition_epoch: planned.partition_epoch,
                from: ids(planned.from),
                to: ids(planned.to),
            })
        };
        Ok(MovePlan {
            moves: answer.moves.into_iter().map(planned).collect::<Result<_>>()?,
            total: answer.total,
            stuck: answer.stuck,
        })
    }
}

fn counts(counts: v1::PartitionCounts) -> PartitionCounts {
    PartitionCounts {
        total: counts.total,
        offline: counts.offline,
        under_min_isr: counts.under_min_isr,
        under_replicated: counts.under_replicated,
        reassigning: counts.reassigning,
        not_preferred: counts.not_preferred,
    }
}

fn nodes(nodes: Vec<v1::QuorumNode>) -> Result<Vec<QuorumNode>> {
    let node = |node: v1::QuorumNode| {
        let role = match node.role() {
            Role::Voter => QuorumRole::Voter,
            Role::Listener => QuorumRole::Listener,
            Role::Leaving => QuorumRole::Leaving,
            Role::Unspecified => return Err(Error::protocol("a node of the quorum has no role")),
        };
        Ok(QuorumNode { id: BrokerId(node.node_id), directory_id: node.directory_id, role })
    };
    nodes.into_iter().map(node).collect()
}

fn broker(state: v1::BrokerState) -> Result<BrokerState> {
    let presence = match state.presence() {
        Presence::Active => BrokerPresence::Active,
        Presence::Leaving => BrokerPresence::Leaving,
        Presence::Fenced => BrokerPresence::Fenced,
        Presence::Unspecified => return Err(Error::protocol("a broker is neither here nor away")),
    };
    let place = |host: &str, port: u32| match port {
        0 => String::new(),
        port if host.contains(':') => format!("[{host}]:{port}"),
        port => format!("{host}:{port}"),
    };
    Ok(BrokerState {
        id: BrokerId(state.broker_id),
        address: place(&state.host, state.port),
        internal_address: place(&state.internal_host, state.internal_port),
        rack: (!state.rack.is_empty()).then_some(state.rack),
        presence,
        epoch: state.broker_epoch,
        replicas: state.replicas,
        leads: state.leads,
        draining: state.draining,
        clock_ahead_ms: state.clock_ahead_ms,
    })
}
