//! The command line: what may be typed, and what it runs.

mod cluster;
mod compare;
mod report;
mod restart;
mod workload_args;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use riverrun_broker::clock::{Clock as _, SystemClock};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

pub use self::workload_args::WorkloadArgs;
use crate::{
    broker::{AS_BROKER, BrokerArgs, DataDir},
    ceiling::{self, AS_COPY, AS_NULL, CopyArgs, ServerArgs},
    error::{self, BenchError, Result},
    named::{NAMED, Set},
    outcome::Document,
    peers::tool::{AS_PEER, become_peer},
    process,
    session::{self, Beside, SessionArgs},
    table,
    workload::{Kind, Workload},
};

const ABOUT: &str = "Load for a Riverrun broker, with the machine's ceilings measured beside it";

const AFTER_HELP: &str = "\
Start here:
  riverrun-bench produce                              1 KiB records, synced before they are acked
  riverrun-bench produce --durability memory --path batches --against-ceiling --rounds 5
  riverrun-bench end-to-end --rate 2k --durability memory
  riverrun-bench suite --rounds 5 --against-ceiling --json results.json
  riverrun-bench compare kafka --rounds 3 --json kafka.json
  riverrun-bench report results.json kafka.json       plots and tables
  riverrun-bench ceiling                              what this machine leaves to any broker

Each starts a broker of its own on a temporary directory, unless --brokers names some. Ratios carry
over from machine to machine, absolute figures do not.
Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 no broker could serve.";

/// Everything that may be typed.
#[derive(Debug, Parser)]
#[command(name = "riverrun-bench", version, about = ABOUT, after_help = AFTER_HELP)]
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
    /// What this machine leaves to a broker: null sink, null source, ping-pong, bare TCP, disk
    Ceiling(CeilingArgs),
    /// Named workloads, one after the other
    Suite(SuiteArgs),
    /// The product beside another broker, in turn, each under its own load generator
    Compare(Box<compare::CompareArgs>),
    /// How soon a broker serves again after an orderly end or a kill, and what it takes when idle
    Restart(restart::RestartArgs),
    /// How long producers wait when the leader of their partition is killed, on three brokers
    Failover(cluster::FailoverArgs),
    /// What min.insync.replicas costs while followers are slow or stand still, on three brokers
    IsrFaults(cluster::IsrFaultsArgs),
    /// Plots and a Markdown table of results
    Report(report::ReportArgs),
    /// The server behind `ceiling`
    #[command(name = AS_NULL, hide = true)]
    AsNull(ServerArgs),
    /// A copy behind `--against-one-broker`
    #[command(name = AS_COPY, hide = true)]
    AsCopy(CopyArgs),
    /// The broker under load: `riverrun` of this build
    #[command(name = AS_BROKER, hide = true)]
    AsBroker {
        /// What `riverrun` is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// A program of a peer, which ends with its parent
    #[command(name = AS_PEER, hide = true)]
    AsPeer {
        /// The program and what it is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// What commands that measure have in common.
#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    workload: WorkloadArgs,

    #[command(flatten)]
    broker: BrokerArgs,

    #[command(flatten)]
    session: SessionArgs,

    /// Alternate with the ceiling of the same shape, and print the ratio
    #[arg(long, help_heading = "Measuring")]
    against_ceiling: bool,

    /// Of a cluster: alternate with one broker and the only copy, and print the ratios of CPU per GB
    /// and of throughput; and what as many copies cost beside one without any broker
    #[arg(long, help_heading = "Measuring", conflicts_with = "against_ceiling")]
    against_one_broker: bool,
}

/// Ceilings alone.
#[derive(Args, Debug)]
struct CeilingArgs {
    #[command(flatten)]
    workload: WorkloadArgs,

    #[command(flatten)]
    dir: DataDir,

    #[command(flatten)]
    session: SessionArgs,
}

/// A suite.
#[derive(Args, Debug)]
struct SuiteArgs {
    /// Workloads by name or file [default: all of the standard set]
    #[arg(value_name = "NAME|FILE")]
    names: Vec<String>,

    /// Say what there is, measure nothing
    #[arg(long)]
    list: bool,

    #[command(flatten)]
    run: RunArgs,
}

// === impl Cli ===

impl Cli {
    /// Reads the arguments of the process. Prints help, version or what is wrong with them and ends
    /// the process where there is nothing to run.
    pub fn from_arguments() -> Self {
        Self::parse()
    }

    /// Runs the command to its end, and tells what went wrong.
    pub fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::Produce(args) => measure(&args, Kind::Produce),
            Command::Consume(args) => measure(&args, Kind::Consume),
            Command::ProduceConsume(args) => measure(&args, Kind::ProduceConsume),
            Command::EndToEnd(args) => measure(&args, Kind::EndToEnd),
            Command::Ceiling(args) => measure_ceilings(&args),
            Command::Suite(args) => measure_suite(&args),
            Command::Compare(args) => compare::run(*args),
            Command::Restart(args) => restart::run(&args),
            Command::Failover(args) => cluster::failover(&args),
            Command::IsrFaults(args) => cluster::isr_faults(&args),
            Command::Report(args) => report::run(&args),
            Command::AsNull(args) => ceiling::serve(&args),
            Command::AsCopy(args) => ceiling::keep(&args),
            Command::AsBroker { arguments } => return as_broker(arguments),
            Command::AsPeer { arguments } => become_peer(&arguments),
        };
        error::report(outcome)
    }
}

fn measure(args: &RunArgs, kind: Kind) -> Result<()> {
    let workload = args.workload.workload(kind)?;
    measure_all(&[workload], args)
}

fn measure_all(workloads: &[Workload], args: &RunArgs) -> Result<()> {
    let RunArgs { broker, session, .. } = args;
    let interruptible = Interruptible::begin()?;
    let mut document = session::document(&broker.dir)?;
    let measuring = session::run(&mut document, workloads, broker, session, args.beside());
    let outcome = interruptible.run(measuring);
    if document.runs.is_empty() {
        return outcome;
    }
    // What was done before something failed, or before Ctrl-C, is told.
    outcome.and(tell(&document, session))
}

fn measure_ceilings(args: &CeilingArgs) -> Result<()> {
    let workload = args.workload.workload(Kind::Produce)?;
    let interruptible = Interruptible::begin()?;
    let document = interruptible.run(session::ceilings(&workload, &args.dir, &args.session))?;
    tell(&document, &args.session)
}

fn measure_suite(args: &SuiteArgs) -> Result<()> {
    if args.list {
        return list();
    }
    let standard = NAMED.iter().filter(|named| named.set == Set::Standard);
    let names: Vec<&str> = match args.names.as_slice() {
        [] => standard.map(|named| named.name).collect(),
        names => names.iter().map(String::as_str).collect(),
    };
    let workload = &args.run.workload;
    // Everything that is wrong is found before anything is measured.
    let workloads =
        names.into_iter().map(|name| workload.load(name)).collect::<Result<Vec<_>>>()?;
    measure_all(&workloads, &args.run)
}

/// What can be named.
fn list() -> Result<()> {
    let mut text = String::new();
    for named in NAMED {
        let only = if named.set == Set::Standard { "" } else { " (only when named)" };
        text += &format!("{:36} {}{only}\n", named.name, named.purpose());
    }
    io::stdout().write_all(text.as_bytes()).map_err(BenchError::stdout)
}

/// The table, the JSON, and whether the ratios in them can be trusted.
fn tell(document: &Document, args: &SessionArgs) -> Result<()> {
    if let Some(path) = &args.json {
        document.write(path)?;
    }
    io::stdout().write_all(table::text(document).as_bytes()).map_err(BenchError::stdout)?;
    session::refuse_bad_yardsticks(document)
}

/// What ends by Ctrl-C and SIGTERM.
///
/// It is begun before anything is made that would have to be removed. So no signal finds the system's
/// own behaviour, which leaves that behind; or, where whoever started the process had it ignore
/// SIGINT, as shells do with what runs in the background, forgets that there was one.
struct Interruptible {
    runtime: Runtime,
    interrupted: Signal,
    terminated: Signal,
}

// === impl Interruptible ===

impl Interruptible {
    fn begin() -> Result<Self> {
        let runtime = Runtime::new().map_err(BenchError::io("starting threads"))?;
        let entered = runtime.enter();
        let listen = |kind| signal(kind).map_err(BenchError::io("listening for Ctrl-C"));
        let interrupted = listen(SignalKind::interrupt())?;
        let terminated = listen(SignalKind::terminate())?;
        drop(entered);
        Ok(Self { runtime, interrupted, terminated })
    }

    /// Runs a measurement until it is done, or until a signal came; then everything it started is
    /// stopped and removed.
    fn run<T>(self, measurement: impl Future<Output = Result<T>>) -> Result<T> {
        let Self { runtime, mut interrupted, mut terminated } = self;
        let outcome = runtime.block_on(async {
            tokio::select! {
                biased;
                _ = interrupted.recv() => Err(BenchError::Interrupted),
                _ = terminated.recv() => Err(BenchError::Interrupted),
                done = measurement => done,
            }
        });
        // A thread that is in the middle of writing does not keep the process from ending.
        runtime.shutdown_background();
        outcome
    }
}

// === impl RunArgs ===

impl RunArgs {
    fn beside(&self) -> Beside {
        match (self.against_ceiling, self.against_one_broker) {
            (true, _) => Beside::Ceiling,
            (_, true) => Beside::OneBroker,
            _ => Beside::Nothing,
        }
    }
}

/// Is the product's binary, until its parent ends.
fn as_broker(arguments: Vec<OsString>) -> ExitCode {
    let start = SystemClock.monotonic();
    if let Err(error) = process::end_with_parent() {
        return error::report(Err(BenchError::io("tying the process to its parent")(error)));
    }
    let command_line = [OsString::from("riverrun")].into_iter().chain(arguments);
    let broker = <riverrun_broker::cli::Cli as Parser>::parse_from(command_line);
    riverrun_broker::cli::report(broker.run(start))
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
