//! The first word between two nodes: who speaks, to whom, in which cluster, in which version.
//!
//! Whoever listens believes what comes after it, so it is checked on both sides, and on every call.
//! A refusal is a [`Code::FailedPrecondition`](tonic::Code::FailedPrecondition): it says what has to
//! be done, and nothing gets better before somebody did that.

use bytes::Bytes;
use riverrun_proto::{
    ids::{BrokerId, ClusterId, DirectoryId, IncarnationId},
    rpc::internal::v1 as wire,
};
use tonic::Status;

use crate::controller::raft::Voter;

/// Of the protocol between nodes. Raised when an older node would misunderstand a newer one.
pub const VERSION: u32 = 1;

/// Who this node is to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its cluster.
    pub cluster: ClusterId,
    /// The node, on its disk.
    pub voter: Voter,
    /// This run of its process.
    pub incarnation: IncarnationId,
    /// Where it is reached.
    pub address: String,
}

/// What another node said, once it was found right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The node that speaks.
    pub from: Voter,
    /// The run of its process.
    pub incarnation: IncarnationId,
    /// Where it is reached.
    pub address: String,
}

// === impl Card ===

impl Card {
    /// The first word to `to`, or to whoever answers.
    pub fn hello(&self, to: Option<Voter>) -> wire::Hello {
        wire::Hello {
            cluster_id: bytes(self.cluster.as_bytes()),
            from: Some(node(self.voter)),
            to: to.map(node),
            version: VERSION,
            address: self.address.clone(),
            incarnation_id: bytes(self.incarnation.as_bytes()),
        }
    }

    /// Checks what another node says to this one.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn check(&self, hello: Option<wire::Hello>) -> Result<Greeting, Status> {
        let malformed = || Status::invalid_argument("the hello is missing or malformed");
        let hello = hello.ok_or_else(malformed)?;
        if hello.version > VERSION {
            return Err(refused(format!(
                "the node at {} speaks version {} of the internal protocol, {} only up to \
                 {VERSION}: upgrade this one first",
                hello.address, hello.version, self.voter.node
            )));
        }
        let read = || {
            Some((
                ClusterId::from_bytes(&hello.cluster_id).ok()?,
                voter(hello.from.as_ref()?)?,
                IncarnationId::from_bytes(&hello.incarnation_id).ok()?,
            ))
        };
        let (cluster, from, incarnation) = read().ok_or_else(malformed)?;
        let (me, their) = (self.voter, format!("node {} at {}", from.node, hello.address));
        if cluster != self.cluster {
            return Err(refused(format!(
                "{their} belongs to cluster {cluster}, this is node {} of cluster {}: point it at \
                 the nodes of its own cluster, or give it an empty data directory to join this one",
                me.node, self.cluster
            )));
        }
        if from.node == me.node && from.directory != me.directory {
            return Err(refused(format!(
                "two nodes have id {}: one at {} and one at {}. Give one of them another \
                 broker.node.id and an empty data directory",
                me.node, self.address, hello.address
            )));
        }
        match hello.to.as_ref().map(voter) {
            None => {}
            Some(Some(to)) if to == me => {}
            _ => {
                return Err(refused(format!(
                    "this is node {} with data directory {}, and was dialled as another; its disk \
                     was replaced, or two nodes share an address",
                    me.node, me.directory
                )));
            }
        }
        Ok(Greeting { from, incarnation, address: hello.address })
    }
}

fn refused(why: String) -> Status {
    Status::failed_precondition(why)
}

/// A node as it stands on the wire.
pub fn node(voter: Voter) -> wire::Node {
    wire::Node { node_id: voter.node.0, directory_id: bytes(voter.directory.as_bytes()) }
}

/// A node from the wire; `None` where it is none.
pub fn voter(node: &wire::Node) -> Option<Voter> {
    let directory = DirectoryId::from_bytes(&node.directory_id).ok()?;
    Some(Voter::new(BrokerId(node.node_id), directory))
}

/// Sixteen bytes of an id.
pub fn bytes(id: &[u8; 16]) -> Bytes {
    Bytes::copy_from_slice(id)
}

#[cfg(test)]
pub(crate) mod tests {
    use tonic::Code;

    use super::*;

    pub(crate) fn card(cluster: u8, node: u32, directory: u8) -> Card {
        let directory = DirectoryId::from_bytes(&[directory; 16]).unwrap();
        Card {
            cluster: ClusterId::from_bytes(&[cluster; 16]).unwrap(),
            voter: Voter::new(BrokerId(node), directory),
            incarnation: IncarnationId::from_bytes(&[7; 16]).unwrap(),
            address: format!("host-{node}:9192"),
        }
    }

    #[test]
    fn who_belongs_together_talks() {
        let (me, other) = (card(1, 1, 1), card(1, 2, 2));
        for to in [None, Some(me.voter)] {
            let greeting = me.check(Some(other.hello(to))).unwrap();
            assert_eq!((greeting.from, &*greeting.address), (other.voter, "host-2:9192"));
        }
        // Its own words, dialled by its own name.
        me.check(Some(me.hello(Some(me.voter)))).unwrap();
    }

    #[test]
    fn who_does_not_is_told_what_to_do() {
        let me = card(1, 1, 1);
        let newer = wire::Hello { version: VERSION + 1, ..card(1, 2, 2).hello(None) };
        let cases = [
            (card(9, 2, 2).hello(None), "point it at the nodes of its own cluster"),
            (card(1, 1, 2).hello(None), "another broker.node.id"),
            (card(1, 2, 2).hello(Some(card(1, 1, 3).voter)), "its disk was replaced"),
            (card(1, 2, 2).hello(Some(card(1, 3, 1).voter)), "dialled as another"),
            (newer, "upgrade this one first"),
        ];
        for (hello, advice) in cases {
            let refusal = me.check(Some(hello)).unwrap_err();
            assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
            assert!(refusal.message().contains(advice), "{refusal:?}");
        }
    }

    #[test]
    fn noise_is_no_hello() {
        let me = card(1, 1, 1);
        let good = card(1, 2, 2).hello(None);
        let cases = [
            wire::Hello { cluster_id: Bytes::new(), ..good.clone() },
            wire::Hello { incarnation_id: Bytes::from_static(b"short"), ..good.clone() },
            wire::Hello { from: None, ..good.clone() },
            wire::Hello { from: Some(wire::Node::default()), ..good.clone() },
        ];
        for hello in cases {
            assert_eq!(me.check(Some(hello)).unwrap_err().code(), Code::InvalidArgument);
        }
        assert_eq!(me.check(None).unwrap_err().code(), Code::InvalidArgument);
        let nowhere = wire::Hello { to: Some(wire::Node::default()), ..good };
        assert_eq!(me.check(Some(nowhere)).unwrap_err().code(), Code::FailedPrecondition);
    }
}
