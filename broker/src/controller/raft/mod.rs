//! The metadata quorum on Raft.
//!
//! | file | what |
//! |---|---|
//! | [`node`] | a node without I/O: inputs, outputs, laws |
//! | `log` | entries in memory, image, who votes, as Raft reads them |
//! | `writes` | what must be durable, and what waits for that |
//! | `proposals`, `barriers` | who waits for an answer |
//! | [`membership`] | who votes; from one node to three |
//! | `trace` | Raft's words in our log |
//! | `mutation` | bugs for the simulation to find |

mod barriers;
mod log;
pub mod membership;
mod mutation;
mod node;
mod proposals;
#[cfg(test)]
mod sim;
mod trace;
mod writes;
