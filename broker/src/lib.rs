//! The Riverrun broker. Modules in dependency order, from the bottom up.
#![deny(unsafe_code)]

pub mod clock;
pub mod config;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

pub mod io;
pub mod log;
pub mod metadata;
pub mod replica;

pub mod partition;

pub mod controller;

pub mod http;
pub mod peer;
pub mod service;

pub mod server;

pub mod cli;

pub use server::Embedded;
