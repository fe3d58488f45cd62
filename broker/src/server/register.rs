//! Says to the metadata log that this process runs, and where it is reached.

use std::net::SocketAddr;

use riverrun_proto::{epoch::BrokerEpoch, ids::IncarnationId};

use crate::{
    config::Config,
    controller::{MetaProperties, MetaQuorum, QuorumError},
    metadata::{
        Command, Endpoint, FeatureLevel, FeatureRange, Reply,
        command::{RegisterBroker, SetFeatureLevel},
    },
};

/// Registers a new incarnation: every partition that this broker leads gets a new leader epoch, so
/// that nothing an earlier process sent can be taken for this one's. A log that has no feature level
/// yet is given its first one.
pub(super) async fn register(
    quorum: &dyn MetaQuorum,
    config: &Config,
    identity: MetaProperties,
    grpc: SocketAddr,
) -> Result<BrokerEpoch, QuorumError> {
    if quorum.image().feature_level() == FeatureLevel::NONE {
        let level = SetFeatureLevel { expected: FeatureLevel::NONE, level: FeatureLevel::INITIAL };
        quorum.propose(Command::SetFeatureLevel(level)).await?;
    }
    let broker = RegisterBroker {
        broker: identity.node,
        incarnation: IncarnationId::random(),
        directory: identity.directory,
        endpoints: vec![advertised(config, grpc)],
        rack: config.broker.rack.clone(),
        features: FeatureRange::SUPPORTED,
    };
    match quorum.propose(Command::RegisterBroker(broker)).await?.reply {
        Reply::BrokerEpoch(epoch) => Ok(epoch),
        other => unreachable!("a registration is answered with its epoch, not {other:?}"),
    }
}

/// What clients are told to dial.
fn advertised(config: &Config, bound: SocketAddr) -> Endpoint {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_the_bound_port_unless_the_operator_says_otherwise() {
        let bound: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        let mut config = Config::default();
        let told = advertised(&config, bound);
        assert_eq!((told.host.as_str(), told.port), ("127.0.0.1", 4711));
        config.network.advertised_host = Some("log.example".to_owned());
        config.network.advertised_port = 443;
        let told = advertised(&config, bound);
        assert_eq!((told.host.as_str(), told.port), ("log.example", 443));
    }
}
