//! How a benchmark goes wrong: what was tried, why it failed, what to type instead; and the exit
//! code, the same as that of `riverrun`.

use std::{fmt::Display, io, process::ExitCode};

use riverrun_broker::cli::Exit;
use thiserror::Error;

/// What commands and their parts return.
pub type Result<T, E = BenchError> = std::result::Result<T, E>;

/// Why there is no result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BenchError {
    /// What was typed, or what a workload file says, cannot be. Nothing was started.
    #[error("{0}")]
    Usage(String),
    /// The machine did not give what was needed.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The client of the product refused or failed.
    #[error("{doing}: {source}")]
    Client {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: riverrun_client::Error,
    },
    /// A bare gRPC call failed.
    #[error("{doing}: {source}")]
    Rpc {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: Box<tonic::Status>,
    },
    /// It ran and went wrong.
    #[error("{0}")]
    Failed(String),
    /// The ceiling that was measured is none. The figures of the product stand, without a ratio.
    #[error("{0}")]
    Yardstick(String),
    /// Ctrl-C or SIGTERM. Everything that was started has been stopped.
    #[error("interrupted")]
    Interrupted,
    /// Whoever read standard output went away: nothing is wrong.
    #[error("")]
    ReaderGone,
}

// === impl BenchError ===

impl BenchError {
    /// The machine did not give what was needed for `doing`.
    pub fn io(doing: impl Display) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.to_string();
        move |source| Self::Io { doing, source }
    }

    /// The client failed at `doing`.
    pub fn client(doing: impl Display) -> impl FnOnce(riverrun_client::Error) -> Self {
        let doing = doing.to_string();
        move |source| Self::Client { doing, source }
    }

    /// A bare call failed at `doing`.
    pub fn rpc(doing: impl Display) -> impl FnOnce(tonic::Status) -> Self {
        let doing = doing.to_string();
        move |source| Self::Rpc { doing, source: Box::new(source) }
    }

    /// Standard output did not take what was written.
    pub fn stdout(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Io { doing: "writing to standard output".into(), source },
        }
    }

    /// For the process to end with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            Self::Client { source, .. } => match source.kind() {
                riverrun_client::ErrorKind::Connection => Exit::Unavailable,
                _ => Exit::Failure,
            },
            Self::ReaderGone => Exit::ReaderGone,
            _ => Exit::Failure,
        }
    }
}

/// Tells people what went wrong, scripts the code.
pub fn report(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, BenchError::ReaderGone) {
                eprintln!("error: {error}");
            }
            error.exit().into()
        }
    }
}
