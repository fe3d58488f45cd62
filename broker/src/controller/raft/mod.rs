//! The metadata quorum on Raft.
//!
//! ```text
//!   RaftQuorum ─ Inbox ─► Worker ─ inputs ─► Node (Raft, no I/O) ─ outputs ─► Worker
//!                                                                  │ messages ─► Transport
//!                                                                  │ a write  ─► the disk's thread
//!                                                                  └ image, answers ─► RaftQuorum
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`quorum`] | [`RaftQuorum`]: open, propose, read, change voters |
//! | `worker`, `inbox` | the two threads, and what waits for them |
//! | [`transport`] | how messages get to peers |
//! | `node`, `types` | a node without I/O: inputs, outputs, laws |
//! | `apply`, `peers` | what it does with what is committed, and about its peers |
//! | `log` | entries in memory, image, who votes, as Raft reads them |
//! | `writes` | what must be durable, and what waits for that |
//! | `proposals`, `barriers` | who waits for an answer |
//! | [`membership`] | who votes; from one node to three |
//! | `trace` | Raft's words in our log |
//! | `mutation` | bugs for the simulation to find |
//! | [`stepped`] | a node without threads, for whoever simulates whole brokers |
//! | `sim` | the simulation of the quorum alone (tests) |

mod apply;
mod barriers;
mod inbox;
mod log;
pub mod membership;
mod mutation;
mod node;
mod peers;
mod proposals;
pub mod quorum;
#[cfg(test)]
mod sim;
pub mod stepped;
mod trace;
pub mod transport;
mod types;
mod worker;
mod writes;

pub use self::{
    membership::{ChangeError, Step},
    quorum::{RaftOptions, RaftQuorum, RaftStats, Voters},
    stepped::SteppedNode,
    transport::{NoPeers, Transport},
    types::NodeStats,
};
pub use crate::controller::frame::{Voter, VoterId};
