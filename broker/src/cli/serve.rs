//! `riverrun serve`: a broker, until it is told to stop. And what `dev` shares with it.

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
};

use clap::Args;
use sd_notify::NotifyState;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use super::{
    error::{Exit, Failure, Result},
    output::{self, Align, OutputArgs, Stdout},
    session::{self, Session},
};
use crate::{
    clock::Clock,
    config::{Config, Problems},
    server::{DataDirectoryError, Server, StartError},
    telemetry,
};

/// Run a broker
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun serve -c /etc/riverrun/broker.toml
  riverrun serve --set broker.data.dir=/var/lib/riverrun --set network.grpc.listen=127.0.0.1:9190
  riverrun serve -c broker.toml --check          is it right? what will be in force?
  riverrun serve --set broker.node.id=2 --set controller.quorum.bootstrap.servers=node-1:9192
                                                 a second node of node 1's cluster

The strongest wins: defaults < file < environment (RIVERRUN_NETWORK_GRPC_LISTEN=...) < flags.
SIGTERM and Ctrl-C stop it in order; a second one at once (records acknowledged are safe
either way). With --check the exit code is 0 if the configuration is valid and 2 if not.")]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A key of the configuration; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Listen on addresses that other machines can reach, although nobody is asked for a password
    #[arg(long)]
    insecure: bool,

    /// Check the configuration, print what would be in force, start nothing
    #[arg(long)]
    check: bool,

    /// Stop in order when the process that started this one is gone
    #[arg(long, hide = true)]
    stop_with_parent: bool,

    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: &ServeArgs, session: &Session) -> Result<()> {
    if args.stop_with_parent {
        stop_with_parent();
    }
    let mut flags = args.set.clone();
    if args.insecure {
        flags.push("network.insecure=true".to_owned());
    }
    let loaded = Config::load(args.config.as_deref(), env::vars(), &flags);
    if args.check {
        return check(loaded, args.output, session);
    }
    let config = loaded.map_err(invalid)?;
    init_logging(&config)?;
    run_until_told(config, session.clock(), |server| {
        tracing::info!(
            grpc = %server.grpc_address(),
            http = %server.http_address(),
            internal = %server.internal_address(),
            version = env!("CARGO_PKG_VERSION"),
            "serving"
        );
        // For scripts and tests, which may have asked for port 0: one line, once it serves. Nobody
        // has to read it.
        let (grpc, http) = (server.grpc_address(), server.http_address());
        let _ = writeln!(io::stdout(), "ready grpc={grpc} http={http}");
    })
}

/// Only Linux tells a process so; elsewhere it goes on.
fn stop_with_parent() {
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
    {
        tracing::debug!(%error, "does not stop with its parent");
    }
}

/// Says everything that is wrong, or what would be in force.
fn check(loaded: Result<Config, Problems>, output: OutputArgs, session: &Session) -> Result<()> {
    let mut out = Stdout::lock();
    let config = match loaded {
        Ok(config) => config,
        Err(problems) => {
            if output.is_json() {
                let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
                out.json(&json!({ "valid": false, "problems": all }))?;
                out.flush()?;
            }
            return Err(invalid(problems));
        }
    };
    let value = |key: &str| config.get(key).unwrap_or_default();
    if output.is_json() {
        let keys: Map<String, Value> =
            Config::keys().map(|key| (key.name.to_owned(), value(key.name).into())).collect();
        out.json(&json!({ "valid": true, "config": keys }))?;
        return out.flush();
    }
    let default = Config::default();
    let row = |key: &crate::config::Key| {
        let value = value(key.name);
        let set = default.get(key.name).is_none_or(|default| default != value);
        vec![key.name.to_owned(), value, if set { "set" } else { "" }.to_owned()]
    };
    let columns = [("KEY", Align::Left), ("VALUE", Align::Left), ("", Align::Left)];
    out.table(&columns, Config::keys().map(row))?;
    out.flush()?;
    session.say("the configuration is valid");
    Ok(())
}

pub(super) fn invalid(problems: Problems) -> Failure {
    let many = output::counted(problems.len() as u64, "problem");
    let failure = Failure::usage(format!("the configuration has {many}"));
    problems.iter().fold(failure, |failure, problem| failure.advise(problem.to_string()))
}

pub(super) fn init_logging(config: &Config) -> Result<()> {
    telemetry::init_logging(&config.telemetry).map_err(|e| Failure::usage(e.to_string()))
}

/// Starts a broker, calls `started` once it serves, and stops it in order when told to.
pub(super) fn run_until_told(
    config: Config,
    clock: Arc<dyn Clock>,
    started: impl FnOnce(&Server),
) -> Result<()> {
    let runtime = Runtime::new().map_err(|e| Failure::io("cannot start threads", &e))?;
    let outcome = runtime.block_on(async {
        let mut interrupt = session::interrupt()?;
        let server = tokio::select! {
            server = Server::start_by(config, clock) => server.map_err(cannot_start)?,
            () = interrupt.next() => return Err(Failure::failed("told to stop while starting")),
        };
        // Whoever started us may wait for this; without one it does nothing.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        started(&server);
        let failed = tokio::select! {
            () = interrupt.next() => None,
            why = server.cannot_go_on() => Some(why),
        };
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        tracing::info!("stopping; once more stops at once");
        let stopped = tokio::select! {
            stopped = server.stop() => stopped,
            () = interrupt.next() => return Err(Failure::failed("stopped at once")),
        };
        if let Some(who) = stopped.cut_off {
            tracing::warn!(%who, "the drain was cut off");
        }
        if !stopped.clean {
            return Err(Failure::failed("the stop was not a clean one; the next start will scan"));
        }
        tracing::info!("stopped");
        failed.map_or(Ok(()), |why| Err(Failure::failed(format!("{why}; start it again"))))
    });
    // Whoever asked twice waits for no disk: what is under way is as safe as after a kill.
    runtime.shutdown_background();
    outcome
}

/// Why a broker does not start, and what to do.
pub(super) fn cannot_start(error: StartError) -> Failure {
    let failure = Failure::new(Exit::Failure, format!("the broker does not start: {error}"));
    match &error {
        StartError::Listen { key, source, .. }
            if source.kind() == std::io::ErrorKind::AddrInUse =>
        {
            failure
                .advise("something listens there already; another broker? riverrun topic list")
                .advise(format!("take another port: --set {key}=127.0.0.1:0"))
        }
        StartError::Directory(DataDirectoryError::Locked(_)) => {
            failure.advise("use another directory: --set broker.data.dir=DIR")
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_at_once() {
        let flags = ["broker.node.id=x", "no.such.key=1"];
        let problems = Config::load(None, [], flags).unwrap_err();
        let failure = invalid(problems);
        assert_eq!(failure.exit(), Exit::Usage);
        let text = failure.to_string();
        assert!(text.contains("2 problems") && text.contains("no.such.key"), "{text}");
    }

    #[test]
    fn the_variables_of_the_command_line_are_no_mistakes_of_the_broker() {
        let variables = [("RIVERRUN_BROKERS".to_owned(), "a:1".to_owned())];
        Config::load(None, variables, [""; 0]).unwrap();
    }
}
