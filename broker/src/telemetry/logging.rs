//! Log lines, to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogFormat, TelemetryConfig};

/// Why log lines cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter was made in code and is none.
    #[error("telemetry.log.filter is no filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The process has a subscriber already; log lines go there.
    #[error("log lines already go somewhere else")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
}

/// Installs the subscriber of the process: for the binary's `main`, once. A broker inside somebody
/// else's process leaves that to them.
///
/// Lines go to standard error, since standard output belongs to what commands print.
pub fn init_logging(config: &TelemetryConfig) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(config.log_filter.as_str())?;
    let terminal = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match config.log_format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Auto if !terminal => lines.json().boxed(),
        LogFormat::Human | LogFormat::Auto => lines.with_ansi(terminal).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(())
}
