//! `[controller]`: the metadata quorum, and how this node finds it.

use std::time::Duration;

use super::{section::section, value::ServerList};

section! {
    /// The metadata quorum, and how this node finds it.
    pub struct ControllerConfig in "controller";

    /// Other nodes to ask, by their internal ports (host:port, comma-separated), when the data
    /// directory is empty or nobody else is known yet. The same list may stand on every node: the
    /// first of it founds the cluster, once all others said that they have none. Empty: this node
    /// founds one at once, alone. A node that belongs to a cluster remembers it.
    "quorum.bootstrap.servers" => quorum_bootstrap_servers: ServerList = ServerList::default();

    /// Vote on the metadata as soon as this node has caught up, without being told to by
    /// `riverrun cluster add-voter`. For the three or five nodes that are to be voters; others only
    /// listen.
    "quorum.auto.join.enable" => quorum_auto_join_enable: bool = false;

    /// Move leadership back to the preferred leaders, the first of each partition's replicas, once
    /// they are in sync again; else what was led by a broker that was restarted stays with others. Of
    /// the node that leads the metadata quorum, as are the two keys below; the same on all nodes.
    "auto.leader.rebalance.enable" => auto_leader_rebalance_enable: bool = true;

    /// How often it is looked whether leaders are where they belong. Every move costs producers and
    /// consumers of the partition a moment, so not much more often than brokers are restarted.
    "leader.imbalance.check.interval.ms" => leader_imbalance_check_interval_ms: Duration =
        Duration::from_secs(300), in Duration::from_millis(100) => Duration::from_secs(86_400);

    /// A broker's leaders are moved back if it leads fewer than it should by more than so many
    /// percent of those.
    "leader.imbalance.per.broker.percentage" => leader_imbalance_per_broker_percentage: u8 = 10,
        in 0 => 100;
}
