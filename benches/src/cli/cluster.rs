//! `failover` and `isr-faults`: what a cluster on this machine makes of faults.

use std::time::Duration;

use clap::{Args, ValueEnum as _};

use super::{Interruptible, tell};
use crate::{
    cluster::ClusterArgs,
    error::Result,
    failover,
    isr_faults::{self, Fault},
    session::{self, SessionArgs},
    units::parse_time,
};

/// Leaders that are killed.
#[derive(Args, Debug)]
pub(super) struct FailoverArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    session: SessionArgs,
}

/// `min.insync.replicas` against faults.
#[derive(Args, Debug)]
pub(super) struct IsrFaultsArgs {
    /// Values of min.insync.replicas
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 2, 3])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3))]
    min_isr: Vec<u32>,

    /// What happens to followers
    #[arg(long, value_name = "FAULT,...", value_delimiter = ',', value_enum)]
    #[arg(default_values_t = Fault::value_variants().to_vec())]
    faults: Vec<Fault>,

    /// How long each cell is measured from the beginning of its fault; longer than
    /// replica.lag.time.max.ms, or nobody leaves the ISR
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "24s")]
    lasts: Duration,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    session: SessionArgs,
}

/// Kills leaders, and says how long that was felt.
pub(super) fn failover(args: &FailoverArgs) -> Result<()> {
    let interruptible = Interruptible::begin()?;
    let mut document = session::document(&args.cluster.dir)?;
    let outcome = interruptible.run(failover::run(&mut document, &args.cluster, &args.session));
    if document.failovers.is_empty() {
        return outcome;
    }
    outcome.and(tell(&document, &args.session))
}

/// Measures the table, and prints it.
pub(super) fn isr_faults(args: &IsrFaultsArgs) -> Result<()> {
    let IsrFaultsArgs { min_isr, faults, lasts, cluster, session } = args;
    let cells = (&min_isr[..], &faults[..]);
    let interruptible = Interruptible::begin()?;
    let mut document = session::document(&cluster.dir)?;
    let outcome =
        interruptible.run(isr_faults::run(&mut document, cluster, cells, *lasts, session));
    if document.isr_faults.is_empty() {
        return outcome;
    }
    outcome.and(tell(&document, session))
}
