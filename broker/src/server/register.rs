//! Says to the metadata log that this process runs, and where it is reached.

use std::{net::SocketAddr, time::Duration};

use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, IncarnationId},
};
use tokio::time::sleep;

use super::{StartError, membership};
use crate::{
    config::Config,
    controller::{MetaProperties, MetaQuorum, QuorumError},
    metadata::{
        Command, Endpoint, FeatureLevel, FeatureRange, MetadataImage, Presence, Reply,
        command::{JoinBroker, RegisterBroker, SetFeatureLevel},
    },
    peer::cluster::Refused,
};

/// Pause before a registration that nobody took is sent again.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// The ports as they were bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listeners {
    pub(super) grpc: SocketAddr,
    pub(super) internal: SocketAddr,
}

/// What is known of the logs in the directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logs {
    /// The last run stopped in order.
    pub(super) stopped_clean: bool,
    /// The run that left them as they are, on a machine that has been up since.
    pub(super) survived: Option<BrokerEpoch>,
}

impl Logs {
    fn are_whole_since(self, last: BrokerEpoch) -> bool {
        self.stopped_clean || self.survived == Some(last)
    }
}

/// Registers a new incarnation: every partition that this broker leads gets a new leader epoch, so
/// that nothing an earlier process sent can be taken for this one's. A log that has no feature level
/// yet is given its first one. Waits while nobody leads the quorum.
///
/// In a cluster the broker is fenced until it is heard ([`presence`](super::presence)). `logs` says
/// what the last run left; the caller has read the metadata log up to now.
///
/// # Errors
/// The metadata log cannot be written, or clients would be sent to another broker in this one's place.
pub(super) async fn register(
    quorum: &dyn MetaQuorum,
    config: &Config,
    identity: &MetaProperties,
    incarnation: IncarnationId,
    listeners: Listeners,
    logs: Logs,
) -> Result<BrokerEpoch, StartError> {
    if quorum.image().feature_level() == FeatureLevel::NONE {
        let level = SetFeatureLevel { expected: FeatureLevel::NONE, level: FeatureLevel::INITIAL };
        quorum.propose(Command::SetFeatureLevel(level)).await?;
    }
    let clients = for_clients(config, listeners.grpc);
    check_for_clients(&quorum.image(), identity.node, &clients)?;
    let registration = RegisterBroker {
        broker: identity.node,
        incarnation,
        directory: identity.directory,
        endpoints: vec![clients, for_nodes(config, listeners.internal)],
        rack: config.broker.rack.clone(),
        features: FeatureRange::SUPPORTED,
    };
    let registration = if quorum.image().feature_level() < FeatureLevel::V2 {
        Command::RegisterBroker(registration)
    } else {
        // The marker of a clean stop is taken before anything is written: while it is there, the
        // logs are what the last run that registered left, whether that run wrote it or an earlier.
        let last = quorum.image().broker(identity.node).map(|broker| broker.epoch);
        let whole_since = last.filter(|last| logs.are_whole_since(*last));
        Command::JoinBroker(JoinBroker { registration, whole_since })
    };
    loop {
        match quorum.propose(registration.clone()).await.map(|accepted| accepted.reply) {
            Ok(Reply::BrokerEpoch(epoch)) => return Ok(epoch),
            Ok(other) => unreachable!("a registration is answered with its epoch, not {other:?}"),
            // The same run registers once, however often it asks.
            Err(QuorumError::NotLeader { .. } | QuorumError::OutcomeUnknown(_)) => {
                sleep(TRY_AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whoever takes part is reached by its clients where it says. A broker that says the same would be given
/// partitions to lead, and its clients would ask that one for them, for good.
fn check_for_clients(image: &MetadataImage, me: BrokerId, at: &Endpoint) -> Result<(), Refused> {
    let mut others = image.brokers().filter(|broker| broker.id != me);
    let there =
        others.find(|broker| broker.presence == Presence::Active && broker.endpoints.contains(at));
    let Some(there) = there else { return Ok(()) };
    Err(Refused(format!(
        "clients would be told to reach it at {}:{}, where broker {} is reached: correct \
         network.advertised.host and network.advertised.port. If that broker is gone, wait until it is \
         fenced",
        at.host, at.port, there.id
    )))
}

/// What clients are told to dial.
fn for_clients(config: &Config, bound: SocketAddr) -> Endpoint {
    let network = &config.network;
    Endpoint {
        listener: Endpoint::CLIENTS.to_owned(),
        host: network.advertised_host.clone().unwrap_or_else(|| bound.ip().to_string()),
        port: match network.advertised_port {
            0 => bound.port(),
            port => port,
        },
    }
}

/// What other nodes are told to dial.
fn for_nodes(config: &Config, bound: SocketAddr) -> Endpoint {
    let (host, port) = membership::advertised(config, bound);
    Endpoint { listener: Endpoint::INTERNAL.to_owned(), host, port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_whole_after_a_stop_in_order_or_if_the_last_run_is_the_one_that_was_killed() {
        let [last, earlier] = [7, 5].map(|n| BrokerEpoch::new(n).unwrap());
        let whole =
            |stopped_clean, survived| Logs { stopped_clean, survived }.are_whole_since(last);
        assert!(whole(true, None) && whole(false, Some(last)));
        assert!(!whole(false, None));
        assert!(!whole(false, Some(earlier)), "another ran in between");
    }

    #[test]
    fn clients_are_told_the_bound_port_unless_the_operator_says_otherwise() {
        let bound: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        let mut config = Config::default();
        let told = for_clients(&config, bound);
        assert_eq!((told.host.as_str(), told.port), ("127.0.0.1", 4711));
        config.network.advertised_host = Some("log.example".to_owned());
        config.network.advertised_port = 443;
        let told = for_clients(&config, bound);
        assert_eq!((told.host.as_str(), told.port), ("log.example", 443));
        let told = for_nodes(&config, bound);
        assert_eq!((told.host.as_str(), told.port), ("127.0.0.1", 4711));
        config.network.internal_advertised_host = Some("node-1.example".to_owned());
        config.network.internal_advertised_port = 9192;
        let told = for_nodes(&config, bound);
        assert_eq!((told.listener.as_str(), told.host.as_str()), ("internal", "node-1.example"));
    }
}
