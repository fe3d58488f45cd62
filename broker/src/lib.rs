//! The Riverrun broker. Modules in dependency order, from the bottom up.
#![deny(unsafe_code)]

pub mod io;
pub mod log;
