//! `[controller]`: the metadata quorum, and how this node finds it.

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
}
