//! The command line: what may be typed, what it runs, how it ends.
//!
//! One file per command. What they share: data goes to standard output and everything else to
//! standard error ([`output`]); a command that went wrong says why, what to type next, and ends with
//! a code that a script can tell apart ([`error`]); whoever stops reading (`| head`) ends a command
//! quietly; Ctrl-C ends it in order.

mod acknowledged;
mod broker;
mod cluster;
mod completions;
mod confirm;
mod consume;
mod consume_range;
mod demo;
mod dev;
mod dev_cluster;
mod error;
mod explain;
mod format;
mod health;
mod input;
mod interrupt;
mod json_record;
mod lines;
mod log;
mod moving;
mod offset_spec;
mod output;
mod partition;
mod produce;
mod serve;
mod session;
mod throttle;
mod topic;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, Parser, Subcommand};
use riverrun_client::Tls;
use tokio::runtime::Runtime;

pub use demo::Machine;
use error::Result;
pub use error::{Exit, Failure};
use session::Session;

use crate::{
    clock::{Clock, Instant, SystemClock},
    config::parse_duration,
};

const ABOUT: &str = "A partitioned, replicated log behind gRPC: broker and command line in one";

const AFTER_HELP: &str = "\
Start here:
  riverrun demo                                  a million records through a broker, checked
  riverrun dev                                   a whole broker; data in ./riverrun-data
  riverrun dev --brokers 3                       a cluster of three processes
  echo hello | riverrun produce greetings
  riverrun consume greetings

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 no broker could serve (try again later).
Environment: RIVERRUN_BROKERS stands for --brokers, RIVERRUN_TLS_CA, RIVERRUN_TLS_CERT and
RIVERRUN_TLS_KEY for --tls-ca and so on, RIVERRUN_LOG=debug shows log lines, NO_COLOR takes colours
away; RIVERRUN_<KEY> sets a key of the broker's configuration.";

/// Everything that may be typed.
#[derive(Debug, Parser)]
#[command(name = "riverrun", version, about = ABOUT, after_help = AFTER_HELP)]
#[command(propagate_version = true, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone, Debug)]
struct GlobalArgs {
    /// Brokers to ask, comma-separated; one that is up is enough
    #[arg(short, long, global = true, env = "RIVERRUN_BROKERS", value_delimiter = ',')]
    #[arg(value_name = "HOST:PORT,...", default_value = "127.0.0.1:9190", hide_env = true)]
    #[arg(help_heading = "Global options")]
    brokers: Vec<String>,

    /// Speak TLS, and believe brokers with a certificate of a CA in this file (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "RIVERRUN_TLS_CA", hide_env = true)]
    #[arg(help_heading = "Global options")]
    tls_ca: Option<PathBuf>,

    /// Certificate to show to brokers that ask for one (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "RIVERRUN_TLS_CERT", hide_env = true)]
    #[arg(help_heading = "Global options")]
    tls_cert: Option<PathBuf>,

    /// Its private key (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "RIVERRUN_TLS_KEY", hide_env = true)]
    #[arg(help_heading = "Global options")]
    tls_key: Option<PathBuf>,

    /// Longest wait for a broker's answer
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    #[arg(help_heading = "Global options")]
    timeout: Duration,

    /// Say nothing on standard error but errors
    #[arg(short, long, global = true, help_heading = "Global options")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Dev(dev::DevArgs),
    Demo(demo::DemoArgs),
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    #[command(subcommand)]
    Partition(partition::PartitionCommand),
    Explain(explain::ExplainArgs),
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    #[command(subcommand)]
    Broker(broker::BrokerCommand),
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    #[command(subcommand)]
    Log(log::LogCommand),
    Completions(completions::CompletionsArgs),
}

// === impl Cli ===

impl Cli {
    /// Reads the arguments of the process. Prints help, version or what is wrong with them and ends
    /// the process where there is nothing to run.
    pub fn from_arguments() -> Self {
        Self::parse()
    }

    /// Runs the command to its end. `start` is when the process began.
    ///
    /// # Errors
    /// What went wrong, for [`report`].
    pub fn run(self, start: Instant) -> Result<(), Failure> {
        self.run_by(Arc::new(SystemClock), start)
    }

    /// As [`Cli::run`], where a broker goes by `clock`.
    ///
    /// # Errors
    /// As [`Cli::run`].
    pub fn run_by(self, clock: Arc<dyn Clock>, start: Instant) -> Result<(), Failure> {
        let Self { global, command } = self;
        let session = Session::new(
            global.brokers,
            tls(global.tls_ca, global.tls_cert, global.tls_key)?,
            global.timeout,
            global.quiet,
            (start, clock),
        );
        if !matches!(command, Command::Serve(_) | Command::Dev(_)) {
            session::init_logging();
        }
        match command {
            Command::Serve(args) => serve::run(&args, &session),
            Command::Dev(args) => dev::run(&args, &session),
            Command::Demo(args) => demo::run(&args, &session),
            Command::Broker(command) => block_on(broker::run(command, &session)),
            Command::Cluster(command) => block_on(cluster::run(command, &session)),
            Command::Topic(command) => block_on(topic::run(command, &session)),
            Command::Partition(command) => block_on(partition::run(command, &session)),
            Command::Explain(args) => block_on(explain::run(args, &session)),
            Command::Produce(args) => block_on(produce::run(args, &session)),
            Command::Consume(args) => block_on(consume::run(args, &session)),
            Command::Log(command) => log::run(&command, &session),
            Command::Completions(args) => completions::run(&args),
        }
    }
}

/// Tells people what went wrong, scripts the code.
pub fn report(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_quiet() {
                eprintln!("{failure}");
            }
            failure.exit().into()
        }
    }
}

/// Runs `command` on a runtime of its own. A thread that still reads standard input does not keep
/// the process from ending.
fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = Runtime::new().map_err(|e| Failure::io("cannot start threads", &e))?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}

/// Files that belong together.
fn tls(
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<Tls>> {
    let usage = |what: &str| Err(Failure::usage(what));
    match (ca, certificate, key) {
        (None, None, None) => Ok(None),
        (None, ..) => usage("--tls-cert and --tls-key need --tls-ca: whom to believe"),
        (Some(ca), None, None) => Ok(Some(Tls::new(ca))),
        (Some(ca), Some(certificate), Some(key)) => {
            Ok(Some(Tls::new(ca).identity(certificate, key)))
        }
        (Some(_), ..) => usage("--tls-cert and --tls-key go together"),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be above zero".into()),
        Ok(timeout) => Ok(timeout),
        Err(e) => Err(format!("{e}; write 500ms, 10s, 2m")),
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

    #[test]
    fn global_flags_may_stand_anywhere() {
        for line in [
            "riverrun -b a:1,b:2 --timeout 1500ms topic list",
            "riverrun topic list -b a:1,b:2 --timeout 1500ms",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.brokers, ["a:1", "b:2"]);
            assert_eq!(cli.global.timeout, Duration::from_millis(1500));
        }
        let cli = Cli::try_parse_from("riverrun topic list --tls-ca ca.pem".split(' ')).unwrap();
        assert!(tls(cli.global.tls_ca, None, None).unwrap().is_some());
        for (ca, certificate, key) in [(0, 1, 1), (0, 1, 0), (1, 1, 0), (1, 0, 1)] {
            let file = |given: i32| (given == 1).then(|| PathBuf::from("file.pem"));
            assert_eq!(
                tls(file(ca), file(certificate), file(key)).unwrap_err().exit(),
                Exit::Usage
            );
        }
        for line in ["riverrun topic list --timeout 0", "riverrun topic list --timeout soon"] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2);
        }
    }
}
