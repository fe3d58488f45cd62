//! Benchmarks of Riverrun.
#![forbid(unsafe_code)]
