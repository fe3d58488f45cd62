//! A broker as the cluster knows it.

use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, DirectoryId, IncarnationId},
};

use super::{FeatureRange, Presence};

/// Endpoints of one broker: one per listener, and nobody has more than a handful.
pub const ENDPOINTS_MAX: usize = 16;
/// Characters of a listener's name, a host (the limit of DNS) or a rack.
pub const NAME_CHARS_MAX: usize = 255;

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Chosen by the operator.
    pub id: BrokerId,
    /// Metadata offset of the registration of this run.
    pub epoch: BrokerEpoch,
    /// The run of the process that registered.
    pub incarnation: IncarnationId,
    /// The data directory it runs on.
    pub directory: DirectoryId,
    /// Where it is reached.
    pub endpoints: Vec<Endpoint>,
    /// Failure domain, if the operator named one.
    pub rack: Option<String>,
    /// What its binary can do.
    pub features: FeatureRange,
    /// Whether it takes part.
    pub presence: Presence,
    /// Whether it is given nothing new, and hands over what it leads.
    pub draining: bool,
}

impl Broker {
    /// Whether it may be given something to lead, and new copies.
    pub fn takes_more(&self) -> bool {
        self.presence == Presence::Active && !self.draining
    }

    /// The endpoint of a listener.
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == listener)
    }
}

/// Where one listener of a broker is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Which listener ([`Endpoint::CLIENTS`]); unique per broker.
    pub listener: String,
    /// Name or address as others reach it.
    pub host: String,
    /// TCP port; never 0.
    pub port: u16,
}

impl Endpoint {
    /// The listener of `riverrun.v1`.
    pub const CLIENTS: &'static str = "clients";
    /// The listener of `riverrun.internal.v1`.
    pub const INTERNAL: &'static str = "internal";
}
