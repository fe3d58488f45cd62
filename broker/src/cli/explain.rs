//! `riverrun explain`: what holds a partition's high watermark back, in words.

use std::time::Duration;

use clap::Args;
use riverrun_client::{Explanation, Hindrance};
use serde_json::{Value, json};

use super::{
    error::Result,
    output::{self, OutputArgs, Stdout, count},
    partition::{arrival_json, ids_json, report},
    session::Session,
};

/// Say in words what holds a partition's high watermark back
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun explain orders 3
  riverrun explain orders 3 --json

Consumers read, and acks=all answers, what all in-sync replicas have. This asks the leader which of
them it waits for, since when, and why. Replicas that are being added hold nothing back; it says how far
they are, and when the throttle of moves keeps them from ever getting there.")]
pub(crate) struct ExplainArgs {
    /// The topic
    topic: String,

    /// The partition
    partition: u32,

    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: ExplainArgs, session: &Session) -> Result<()> {
    let client = session.client().await?;
    let report = report(&args.topic, args.partition, &client, session).await?;
    let explained = report.explain();
    let mut out = Stdout::lock();
    if args.output.is_json() {
        out.json(&json!({
            "topic": args.topic,
            "partition": args.partition,
            "leader": report.partition.leader.map(|leader| leader.0),
            "in_sync_replicas": ids_json(&report.partition.in_sync_replicas),
            "high_watermark": explained.offsets.map(|(high_watermark, _)| high_watermark),
            "log_end_offset": explained.offsets.map(|(_, end)| end),
            "uncommitted_for_ms": explained.uncommitted_for.map(millis),
            "hindrances": explained.hindrances.iter().map(hindrance_json).collect::<Vec<_>>(),
            "adding": report.arrivals().iter().map(arrival_json).collect::<Vec<_>>(),
        }))?;
        return out.flush();
    }
    out.line(summary(&format!("{}/{}", args.topic, args.partition), &explained))?;
    for hindrance in &explained.hindrances {
        out.line(format_args!("  {hindrance}"))?;
    }
    for arrival in report.arrivals() {
        out.line(arrival)?;
    }
    out.flush()
}

fn summary(partition: &str, explained: &Explanation) -> String {
    let Some((high_watermark, end)) = explained.offsets else {
        return format!("{partition} is not served:");
    };
    let waiting = end.abs_diff(high_watermark);
    if waiting == 0 {
        let tail = if explained.hindrances.is_empty() { "" } else { ", but:" };
        return format!("{partition} is committed up to its end, offset {end}{tail}");
    }
    let since = explained.uncommitted_for.map_or_else(String::new, |waiting| {
        format!(", the oldest for {} at least", output::duration(waiting))
    });
    let why = match explained.hindrances.as_slice() {
        [] => "; nothing is in their way, they are committed as replicas answer",
        _ => ", because:",
    };
    let records = output::counted(waiting, "record");
    let (high_watermark, end) = (count(high_watermark.unsigned_abs()), count(end.unsigned_abs()));
    format!(
        "{partition} is committed up to offset {high_watermark} of {end}; {records} wait{since}{why}"
    )
}

fn hindrance_json(hindrance: &Hindrance) -> Value {
    json!({
        "kind": hindrance.kind(),
        "brokers": ids_json(&hindrance.brokers()),
        "text": hindrance.to_string(),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
