//! `riverrun cluster throttle`: how fast replicas that are being added may be filled.

use std::str::FromStr;

use clap::Args;
use riverrun_client::Admin;
use serde_json::json;

use super::{
    error::Result,
    output::{OutputArgs, Stdout},
    session::Session,
};
use crate::config::ByteSize;

/// Limit what moves of replicas take, on all brokers at once; without a rate, show the limit
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun cluster throttle            what holds now
  riverrun cluster throttle 50MiB      bytes a second, at once, also for moves under way
  riverrun cluster throttle none       as fast as they can

What a broker sends to replicas that are being added, all of them together, keeps to it, and so does
what it takes for those that are being added to it. Replicas that are in sync, or catch up after a
restart, are never held back: nothing has to be lifted after a move. It must be above what is written
to the partitions that move, or they never get there; riverrun explain TOPIC PARTITION says so.")]
pub(crate) struct ThrottleArgs {
    /// Bytes a second, as in 50MiB; or none
    #[arg(value_name = "RATE")]
    rate: Option<Rate>,

    #[command(flatten)]
    output: OutputArgs,
}

/// So many bytes a second, or as many as there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(Option<u64>);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let size = text.strip_suffix("/s").unwrap_or(text);
        match size.parse::<ByteSize>().map(ByteSize::get) {
            Ok(0) => {
                Err("moves would stand still for good; write none to lift the throttle".into())
            }
            Ok(rate) => Ok(Self(Some(rate))),
            Err(why) => Err(format!("{why}; write 500KiB, 50MiB, or none")),
        }
    }
}

impl Rate {
    /// Sets it, and says so.
    pub(crate) async fn set(self, admin: &Admin, session: &Session) -> Result<()> {
        let rate = admin.throttle_moves(self.0).await?;
        session.say(shown(rate));
        if rate.is_some() {
            session.say("it stays when this is done; lift it: riverrun cluster throttle none");
        }
        Ok(())
    }
}

pub(super) async fn run(args: &ThrottleArgs, admin: &Admin) -> Result<()> {
    let rate = match args.rate {
        Some(Rate(rate)) => admin.throttle_moves(rate).await?,
        None => admin.describe_cluster().await?.move_throttle,
    };
    let mut out = Stdout::lock();
    if args.output.is_json() {
        out.json(&json!({ "move_bytes_per_second": rate }))?;
    } else {
        out.line(shown(rate))?;
    }
    out.flush()
}

/// In words.
pub(super) fn shown(rate: Option<u64>) -> String {
    let Some(rate) = rate else { return "moves are not throttled".to_owned() };
    let exact = ByteSize::bytes(rate).to_string();
    let unit = if exact.ends_with('B') { "" } else { " bytes" };
    format!("moves take {exact}{unit} a second at most, on each broker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_or_none_and_never_nothing() {
        for (text, rate) in [
            ("none", None),
            ("50MiB", Some(50 << 20)),
            ("50MiB/s", Some(50 << 20)),
            ("1", Some(1)),
            ("10MB", Some(10_000_000)),
        ] {
            assert_eq!(text.parse(), Ok(Rate(rate)), "{text}");
        }
        for (text, says) in [
            ("0", "write none"),
            ("0MiB/s", "write none"),
            ("fast", "is no number"),
            ("", "is no number"),
            ("50M", "ambiguous"),
            ("-1", "is no number"),
            ("1.5MiB", "fraction"),
            ("5MiB/m", "unknown unit"),
        ] {
            let refused = text.parse::<Rate>().unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
        assert_eq!(shown(Some(50 << 20)), "moves take 50MiB a second at most, on each broker");
        assert_eq!(shown(Some(7)), "moves take 7 bytes a second at most, on each broker");
    }
}
