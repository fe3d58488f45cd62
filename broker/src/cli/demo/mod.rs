//! wip
mod machine;
mod report;
mod source;
mod verify;
