//! This broker's partitions and those of others: who is followed, who follows, and what leaders
//! propose of their ISRs.
//!
//! ```text
//!   partitions ─► ReplicationPeers ─► other brokers       before the partitions are opened; it says
//!   partitions ◄─ Replication      ◄─ other brokers       nothing, and nobody is served, until then
//!   proposals  ─► isr::carry       ─► metadata quorum
//! ```
//! Batches have threads of their own ([`super::runtimes`]); proposals go with the control threads.

use std::{fmt, sync::Arc};

use riverrun_proto::{epoch::BrokerEpoch, ids::BrokerId};
use tokio::{runtime::Handle, sync::mpsc};

use super::membership::Membership;
use crate::{
    config::ReplicaConfig,
    partition::{
        Lease, MoveThrottle,
        registry::Registry,
        replication::{Replication, ReplicationLimits},
    },
    peer::{
        ReplicationPeers, isr,
        replication::{Follows, Proposal, Whereabouts},
        transport::Locate,
    },
    replica,
    service::internal::{self, Placed},
    shutdown::Shutdown,
    telemetry::{ConnectionMetrics, ReplicationMetrics},
};

/// What is ready before the partitions are.
pub(super) struct Replicas {
    me: Follows,
    peers: ReplicationPeers,
    proposed: mpsc::Receiver<Proposal>,
    shutdown: Shutdown,
    threads: Handle,
}

/// Where the quorum's members, and brokers' registrations, say that others are.
struct Located(Locate);

// === impl Replicas ===

impl Replicas {
    /// Of the run of the broker that registered as `epoch`. Streams run on `threads`.
    pub(super) fn new(
        member: &Membership,
        epoch: BrokerEpoch,
        settings: &ReplicaConfig,
        shutdown: &Shutdown,
        threads: Handle,
    ) -> Self {
        let me = Follows { cluster: member.identity.cluster, broker: member.identity.node, epoch };
        let whereabouts = Arc::new(Located(member.locate.clone()));
        let (peers, proposed) = ReplicationPeers::new(
            me,
            (whereabouts, member.dialler.clone()),
            limits(settings),
            shutdown.clone(),
            threads.clone(),
        );
        Self { me, peers, proposed, shutdown: shutdown.clone(), threads }
    }

    /// What partitions replicate with, by these settings.
    pub(super) fn to_partitions(
        &self,
        settings: &ReplicaConfig,
        metrics: ReplicationMetrics,
        lease: Lease,
    ) -> Replication {
        Replication {
            throttle: MoveThrottle::new(metrics.clone()),
            metrics,
            lease,
            peers: Arc::new(self.peers.clone()),
            limits: limits(settings),
            lag: lag(settings),
        }
    }

    /// The partitions are open: they follow, and are followed on the `connections` that come in.
    pub(super) fn begin(
        self,
        member: &Membership,
        registry: &Arc<Registry>,
        (connections, metrics): (mpsc::Receiver<Placed>, ConnectionMetrics),
        control: &Handle,
    ) {
        let Self { me, peers, proposed, shutdown, threads } = self;
        let service = internal::replication::Replication::new(
            me.cluster,
            me.broker,
            Arc::clone(registry),
            shutdown.clone(),
        );
        threads.spawn(internal::serve_replicas(connections, service, metrics, shutdown.clone()));
        let carrying = isr::carry(proposed, member.quorum.clone(), Arc::clone(registry));
        control.spawn(async move {
            let _running = shutdown.register("proposals of ISRs");
            tokio::select! {
                () = carrying => {}
                () = shutdown.stopping() => {}
            }
        });
        peers.begin(registry);
    }
}

/// Bounds of what goes between brokers.
fn limits(settings: &ReplicaConfig) -> ReplicationLimits {
    ReplicationLimits {
        window_bytes: settings.window_bytes.as_usize(),
        push_bytes: settings.push_bytes.as_usize(),
    }
}

/// How far behind a member of an ISR may be.
fn lag(settings: &ReplicaConfig) -> replica::Limits {
    replica::Limits {
        lag_time_max: settings.lag_time_max_ms,
        lag_bytes_max: settings.lag_bytes_max.get(),
    }
}

impl Whereabouts for Located {
    fn addresses_of(&self, broker: BrokerId) -> Vec<String> {
        (self.0)(broker)
    }
}

impl fmt::Debug for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Located")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_protocol_was_proven_with_is_the_default() {
        let config = ReplicaConfig::default();
        assert_eq!(lag(&config), replica::Limits::default());
        assert_eq!(limits(&config), ReplicationLimits::default());
    }
}
