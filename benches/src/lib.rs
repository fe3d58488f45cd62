//! `riverrun-bench`: load for a broker, its ceilings measured beside it, figures that can be checked.
//!
//! | module | what |
//! |---|---|
//! | [`workload`], [`named`], [`omb`] | what is measured, with every setting that changes a figure; by name, from files |
//! | [`outcome`] | what was found: the one JSON document, which all commands write and read |
//! | [`session`] | a command that measures: the product alternating with its ceilings |
//! | [`product`], [`broker`] | runs of the product, on a broker process started for them |
//! | [`restart`] | how soon a broker serves again, what it takes when idle |
//! | [`cluster`], [`failover`], [`isr_faults`] | three brokers: how long a killed leader is felt; what `min.insync.replicas` costs |
//! | [`lines`] | lines between brokers that can be made slow |
//! | [`ceiling`] | null sink, null source, ping-pong, bare TCP, disk |
//! | [`load`], [`wire`] | load through the public client; through the bare streams |
//! | [`peers`] | other brokers beside ours |
//! | [`measure`], [`recorder`], [`accounting`] | one run: interval, counters, CPU, memory, device |
//! | [`schedule`], [`pacer`], [`payload`], [`stop`], [`clock`] | when and what is sent |
//! | [`statistics`], [`table`], [`units`] | ratios, and figures for people |
//! | [`summary`], [`report`] | rounds put together; plots and Markdown |
#![forbid(unsafe_code)]

pub mod accounting;
pub mod broker;
pub mod ceiling;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod error;
pub mod failover;
pub mod isr_faults;
pub mod lines;
pub mod load;
pub mod measure;
pub mod named;
pub mod omb;
pub mod outcome;
pub mod pacer;
pub mod payload;
pub mod peers;
pub mod process;
pub mod product;
pub mod recorder;
pub mod report;
pub mod restart;
pub mod schedule;
pub mod session;
pub mod statistics;
pub mod stop;
pub mod summary;
pub mod table;
pub mod units;
pub mod wire;
pub mod workload;
