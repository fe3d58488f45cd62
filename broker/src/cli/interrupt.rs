//! Ctrl-C and SIGTERM: the polite ways to end a command.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for either signal. From the moment it is made the signals no longer kill the process.
#[derive(Debug)]
pub(crate) struct Interrupt {
    int: Signal,
    term: Signal,
}

// === impl Interrupt ===

impl Interrupt {
    /// Takes over both signals. Must be called on a runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    /// The next one. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}
