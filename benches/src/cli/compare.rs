//! `compare`: the product beside another broker.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::Args;

use super::{Interruptible, WorkloadArgs, tell};
use crate::{
    broker::BrokerArgs,
    error::{BenchError, Result},
    peers::{Name, alternation, nats},
    session::SessionArgs,
    summary,
    workload::Kind,
};

/// With whom, and where that comes from.
#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    /// The other broker; it is fetched with its own package client, and runs on loopback
    #[arg(value_enum)]
    peer: Name,

    /// Workloads by name or file [default: one per --kind]
    #[arg(value_name = "NAME|FILE")]
    names: Vec<String>,

    /// What is compared where no workload is named
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND,...")]
    #[arg(default_values = ["produce", "consume"])]
    kind: Vec<Kind>,

    /// Where its artifacts are kept [default: riverrun-bench in the user's cache]
    #[arg(long, value_name = "DIR", help_heading = "Peer")]
    cache: Option<PathBuf>,

    /// Another version of it than the one known here
    #[arg(long, value_name = "VERSION", help_heading = "Peer")]
    peer_version: Option<String>,

    /// The NATS server, instead of the one in PATH or a built one
    #[arg(long, value_name = "FILE", help_heading = "Peer")]
    nats_server: Option<PathBuf>,

    /// The program `nats` with its `bench`, instead of the one in PATH or a built one
    #[arg(long, value_name = "FILE", help_heading = "Peer")]
    nats_cli: Option<PathBuf>,

    #[command(flatten)]
    workload: WorkloadArgs,

    #[command(flatten)]
    broker: BrokerArgs,

    #[command(flatten)]
    session: SessionArgs,
}

/// Runs it, and prints the settings behind each row.
pub(super) fn run(args: CompareArgs) -> Result<()> {
    let CompareArgs { peer, names, kind, cache, peer_version, nats_server, nats_cli, .. } = args;
    let (workload, broker, session) = (args.workload, args.broker, args.session);
    let workloads = match names.as_slice() {
        [] => kind.iter().map(|kind| workload.workload(*kind)).collect::<Result<Vec<_>>>()?,
        names => names.iter().map(|name| workload.load(name)).collect::<Result<Vec<_>>>()?,
    };
    let origin = alternation::Origin {
        cache,
        version: peer_version.clone(),
        nats: nats::Sources { server: nats_server, cli: nats_cli, version: peer_version },
    };
    let comparing = alternation::compare(peer, workloads, &origin, &broker, &session);
    let document = Interruptible::begin()?.run(comparing)?;
    tell(&document, &session)?;
    let settings = summary::settings(&document);
    io::stdout().write_all(settings.as_bytes()).map_err(BenchError::stdout)
}
