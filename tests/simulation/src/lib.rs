//! The seeded simulator: brokers, their disks and clocks, a network, a controller and clients, in
//! one thread, in virtual time, with one source of chance. The same seed is the same run, step by
//! step.
//!
//! # What is shipped code, and what is not
//!
//! | part | shipped | the simulator's |
//! |---|---|---|
//! | log | all of `broker::log`, its recovery and slow work | when work runs ([`shell::working`]) |
//! | disk | `broker::io::sim`, the simulated disk of the log's own tests | which faults, when ([`faults`]) |
//! | replication | all of `broker::replica` | the shell that carries out its actions ([`shell`]) |
//! | metadata | all of `broker::metadata`: commands, decisions, images, deltas | over an ideal log: that ([`metadata_log`]), sessions ([`sessions`]) |
//! | quorum | `broker::controller::raft` (Raft, its log on the broker's disk, recovery, snapshots, voters), `broker::controller::liveness` | threads; the operator who has nodes vote ([`member`]) |
//! | producer | `client`'s accumulator, sender and retry policy | connections, who leads ([`producer`]) |
//! | consumer | | all of it ([`consumer`]): what is read is the log's |
//! | network | | all of it ([`stage`], [`network`]) |
//!
//! # Reading order
//! [`setup`], [`schedule`], [`random`], [`message`], [`network`], [`stage`]; [`machine`], [`shell`],
//! [`broker`]; [`metadata_log`], [`controller`], [`sessions`]; [`raft_log`], [`member`], [`attending`];
//! [`producer`], [`consumer`]; [`mirror`], [`ledger`], [`decided`], [`laws`], [`settle`], [`audit`];
//! [`faults`], [`quorum_faults`], [`operator`], [`plant`]; [`world`], [`suite`]; [`trace`], [`coverage`].
#![forbid(unsafe_code)]

pub mod attending;
pub mod audit;
pub mod broker;
pub mod consumer;
pub mod controller;
pub mod coverage;
pub mod decided;
pub mod faults;
pub mod laws;
pub mod ledger;
pub mod machine;
pub mod member;
#[expect(missing_docs, reason = "fields are named for what they are")]
pub mod message;
pub mod metadata_log;
pub mod mirror;
pub mod network;
pub mod operator;
pub mod plant;
pub mod producer;
pub mod quorum_faults;
pub mod raft_log;
pub mod random;
pub mod schedule;
pub mod sessions;
pub mod settle;
pub mod setup;
pub mod shell;
#[expect(missing_docs, reason = "fields are named for what they are")]
pub mod stage;
pub mod suite;
pub mod trace;
pub mod world;
