//! `restart`: how soon a broker serves again.

use std::time::Duration;

use clap::Args;

use super::{Interruptible, tell};
use crate::{
    broker::{BrokerArgs, End},
    error::Result,
    restart::{self, Shape},
    session::{self, SessionArgs},
    units::{parse_size, parse_time},
};

/// What is restarted.
#[derive(Args, Debug)]
pub(super) struct RestartArgs {
    /// Partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,

    /// Written to them before, with durability=memory
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "0")]
    log: usize,

    /// SIGKILL instead of an orderly end
    #[arg(long)]
    kill: bool,

    /// How long nothing is asked of it after each restart, to see what that costs
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "10s")]
    idle: Duration,

    #[command(flatten)]
    broker: BrokerArgs,

    #[command(flatten)]
    session: SessionArgs,
}

/// Restarts it, and says how long that took.
pub(super) fn run(args: &RestartArgs) -> Result<()> {
    let RestartArgs { partitions, log, kill, idle, ref broker, ref session } = *args;
    let end = if kill { End::Kill } else { End::Orderly };
    let shape = Shape { partitions, log_bytes: log, end, idle };
    let interruptible = Interruptible::begin()?;
    let mut document = session::document(&broker.dir)?;
    let outcome = interruptible.run(restart::run(&mut document, &shape, broker, session));
    if document.restarts.is_empty() {
        return outcome;
    }
    outcome.and(tell(&document, session))
}
