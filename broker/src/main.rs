//! The `riverrun` binary.
fn main() {}
