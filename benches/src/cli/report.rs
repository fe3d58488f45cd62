//! `report`: plots and a Markdown table of what was measured before.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::Args;

use crate::{
    error::{BenchError, Result},
    report,
};

/// Of which results, and where to.
#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// Results that a command wrote with --json
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Where to write report.md and the plots; made if it does not exist
    #[arg(short, long, value_name = "DIR", default_value = "report")]
    out: PathBuf,
}

/// Writes it, and says which files.
pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let written = report::write(&args.files, &args.out)?;
    let mut out = io::stdout().lock();
    for file in written {
        writeln!(out, "{}", file.display()).map_err(BenchError::stdout)?;
    }
    Ok(())
}
