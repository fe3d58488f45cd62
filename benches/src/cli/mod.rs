//! The command line: what may be typed, and what it runs.

mod workload_args;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use self::workload_args::WorkloadArgs;
use crate::{
    error::{BenchError, Result},
    workload::Kind,
};

const ABOUT: &str = "Load for a Riverrun broker, with the machine's ceilings measured beside it";

/// Everything that may be typed.
#[derive(Debug, Parser)]
#[command(name = "riverrun-bench", version, about = ABOUT)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write records
    Produce(RunArgs),
    /// Read records that were written before
    Consume(RunArgs),
    /// Write and read at once
    ProduceConsume(RunArgs),
    /// Single records at a rate, from the intended moment of sending to the consumer's hands
    EndToEnd(RunArgs),
}

/// What commands that measure have in common.
#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    workload: WorkloadArgs,

    /// Write everything that was measured into FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

// === impl Cli ===

impl Cli {
    /// Reads the arguments of the process. Prints help, version or what is wrong with them and ends
    /// the process where there is nothing to run.
    pub fn from_arguments() -> Self {
        Self::parse()
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// What went wrong, for [`report`](crate::error::report).
    pub fn run(self) -> Result<()> {
        let (kind, args) = match self.command {
            Command::Produce(args) => (Kind::Produce, args),
            Command::Consume(args) => (Kind::Consume, args),
            Command::ProduceConsume(args) => (Kind::ProduceConsume, args),
            Command::EndToEnd(args) => (Kind::EndToEnd, args),
        };
        let workload = args.workload.workload(kind)?;
        let _ = args.json;
        Err(BenchError::Failed(format!("not measured yet: {}", workload.line())))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_tree_is_consistent_and_every_command_and_flag_has_a_text() {
        fn check(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no text");
            for argument in command.get_arguments() {
                let id = argument.get_id();
                assert!(argument.get_help().is_some(), "{name} {id} has no text");
            }
            command.get_subcommands().for_each(check);
        }
        Cli::command().debug_assert();
        check(&Cli::command());
    }
}
