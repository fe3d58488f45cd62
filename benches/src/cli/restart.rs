//! `restart`: how soon a broker serves again.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use clap::Args;

use super::block_on;
use crate::{
    broker::{BrokerArgs, End},
    error::{BenchError, Result},
    restart::{self, Shape},
    session, table,
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

    /// Restart so often
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    #[command(flatten)]
    broker: BrokerArgs,
}

/// Restarts it, and says how long that took.
pub(super) fn run(args: &RestartArgs) -> Result<()> {
    let RestartArgs { partitions, log, kill, idle, rounds, ref broker } = *args;
    let end = if kill { End::Kill } else { End::Orderly };
    let shape = Shape { partitions, log_bytes: log, end, idle };
    let document = session::document(&broker.dir)?;
    let restarts = block_on(restart::run(&shape, broker, rounds))?;
    let mut text = table::text(&document);
    for (round, restart) in restarts.iter().enumerate() {
        text += &format!("{:>3}  {restart}\n", round + 1);
    }
    io::stdout().write_all(text.as_bytes()).map_err(BenchError::stdout)
}
