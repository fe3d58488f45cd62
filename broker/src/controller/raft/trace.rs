//! What Raft has to say, in our log.

use riverrun_proto::ids::BrokerId;
use slog::{Drain, KV, Level, Logger, OwnedKVList, Record};

/// Hands records of `slog` to `tracing`, under the target `raft`.
struct ToTracing;

/// A logger for the Raft of `node`.
pub(super) fn logger(node: BrokerId) -> Logger {
    Logger::root(ToTracing, slog::o!("node" => node.0))
}

impl Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        let message = record.msg();
        // An election is news; that a peer did not answer is not.
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: "raft", %message, values = %text(record, values));
            }
            Level::Warning => {
                tracing::warn!(target: "raft", %message, values = %text(record, values));
            }
            Level::Info | Level::Debug | Level::Trace => {
                if tracing::enabled!(target: "raft", tracing::Level::DEBUG) {
                    tracing::debug!(target: "raft", %message, values = %text(record, values));
                }
            }
        }
        Ok(())
    }
}

fn text(record: &Record<'_>, values: &OwnedKVList) -> String {
    let mut text = Text::default();
    // It writes to a string, which does not fail.
    let _ = record.kv().serialize(record, &mut text);
    let _ = values.serialize(record, &mut text);
    text.0
}

#[derive(Default)]
struct Text(String);

impl slog::Serializer for Text {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        use std::fmt::Write as _;
        let space = if self.0.is_empty() { "" } else { " " };
        write!(self.0, "{space}{key}={value}").map_err(|_| slog::Error::Other)
    }
}
