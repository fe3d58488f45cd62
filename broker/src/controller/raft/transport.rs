//! How messages of the quorum get from voter to voter.

use std::fmt;

use bytes::Bytes;

use crate::controller::frame::Voter;

/// Carries messages to peers. It may lose, double and reorder them; the protocol makes up for that.
/// It must not deliver them to another disk than the one they are for: it names that
/// ([`Voter::directory`]) when it connects. What a peer says is believed, so it has to be
/// authenticated, and of the same cluster, by whoever implements this.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends a message towards `to`, as coming from `from`. Never waits: what finds no room is
    /// dropped, and counted by the implementation.
    fn send(&self, from: &Voter, to: &Voter, message: Bytes);
}

/// For a quorum of one: there is nobody to talk to.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

impl Transport for NoPeers {
    fn send(&self, _: &Voter, _: &Voter, _: Bytes) {}
}
