//! How soon a broker serves again, and what it takes while nobody asks anything of it.

use std::{fmt, path::Path as FilePath, time::Duration};

use riverrun_client::{Position, TopicPartition};
use serde::{Deserialize, Serialize};

use crate::{
    accounting::Accounts,
    broker::{BrokerArgs, End},
    clock::Moment,
    error::{BenchError, Result},
    outcome::Document,
    product::{Backlog, Product},
    session::SessionArgs,
    units,
    workload::{Durability, Kind, Path, Workload},
};

/// What the broker holds, and how it ends.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Of one topic.
    pub partitions: u32,
    /// Written to them with durability=memory; 0: they are empty.
    pub log_bytes: usize,
    /// How the process before ends.
    pub end: End,
    /// How long nothing is asked of it, to see what that costs.
    pub idle: Duration,
}

/// One restart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// From the start of the process until it said that it serves.
    pub ready_ns: u64,
    /// From the start of the process until a client, connected anew, had the end offset of the last
    /// partition.
    pub answered_ns: u64,
    /// Resident after the time of nothing to do, with the pages of mapped files.
    pub resident_bytes: Option<u64>,
    /// Anonymous memory then.
    pub anonymous_bytes: Option<u64>,
    /// Share of one core in that time. `None`: unknown, or no time.
    pub idle_cpu_share: Option<f64>,
}

/// Fills a broker, restarts it as often as there are rounds, and adds what that took to `document`.
///
/// # Errors
/// It is not ours to restart, does not come back, or has lost something of what was acknowledged.
///
/// # Cancel safety
/// Dropped, it leaves the restarts that were made in `document`.
pub async fn run(
    document: &mut Document,
    shape: &Shape,
    broker: &BrokerArgs,
    args: &SessionArgs,
) -> Result<()> {
    broker.must_be_started_here()?;
    let workload = Workload {
        name: "restart".into(),
        kind: Kind::Consume,
        path: Path::Batches,
        durability: Durability::Memory,
        partitions: shape.partitions,
        backlog_bytes: shape.log_bytes,
        ..Workload::default()
    };
    let mut product = Product::start(broker, &workload, !args.quiet).await?;
    let client = product.broker().client().await?;
    let backlog = match shape.log_bytes {
        0 => Backlog {
            ends: vec![0; shape.partitions as usize],
            topic: product.broker().create_topic(&client, "bench-restart", &workload).await?,
        },
        _ => product.fill(&client, "bench-restart", &workload).await?,
    };
    drop(client);
    for _ in 0..args.rounds {
        document.restarts.push(once(&mut product, &backlog, shape).await?);
    }
    product.stop()
}

async fn once(product: &mut Product, backlog: &Backlog, shape: &Shape) -> Result<Restart> {
    let nothing_between = |_: &FilePath| Ok(());
    let ready = product.broker().restart(shape.end, nothing_between)?;
    let serving = Moment::now();
    let client = product.broker().client().await?;
    let last = shape.partitions - 1;
    let place = TopicPartition::new(backlog.topic.topic.name.clone(), last);
    let asking = || BenchError::client("asking for the end of the last partition");
    let ends = client.admin().list_offsets([(place, Position::Latest)]).await.map_err(asking())?;
    let answered = ready + Moment::now().since(serving);
    let expected = backlog.ends[last as usize];
    for end in ends {
        let end = end.map_err(asking())?.offset;
        if end != expected {
            return Err(BenchError::Failed(format!(
                "partition {last} ended at {expected} before, and ends at {end} now"
            )));
        }
    }
    // Nobody is connected while it idles.
    drop(client);
    let accounts: Accounts = product.broker().accounts();
    // What the start left to do is not what idling costs.
    tokio::time::sleep(shape.idle / 4).await;
    let before = accounts.read();
    tokio::time::sleep(shape.idle).await;
    let cost = accounts.read().since(&before);
    let measured = (!shape.idle.is_zero()).then_some(shape.idle.as_secs_f64());
    let idle_cpu_share = cost.subject_cpu_s.zip(measured).map(|(cpu, seconds)| cpu / seconds);
    let memory = accounts.memory();
    Ok(Restart {
        ready_ns: nanos(ready),
        answered_ns: nanos(answered),
        resident_bytes: memory.resident_bytes,
        anonymous_bytes: memory.anonymous_bytes,
        idle_cpu_share,
    })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

// === impl Restart ===

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: Option<u64>| match bytes {
            Some(bytes) => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
            None => "?".to_owned(),
        };
        let share = |share: f64| format!("{:.2} % of a core", share * 100.0);
        write!(
            f,
            "serving after {}, answered after {}; idle: {}, {} resident, {} anonymous",
            units::show_nanos(self.ready_ns),
            units::show_nanos(self.answered_ns),
            self.idle_cpu_share.map_or("? of a core".to_owned(), share),
            mib(self.resident_bytes),
            mib(self.anonymous_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_a_question_mark() {
        let restart = Restart {
            ready_ns: 20_000_000,
            answered_ns: 25_000_000,
            resident_bytes: None,
            anonymous_bytes: Some(3 << 20),
            idle_cpu_share: Some(0.004),
        };
        let text = restart.to_string();
        assert!(text.contains("0.40 % of") && text.contains("? resident, 3.0 MiB"), "{text}");
        let no_time = Restart { idle_cpu_share: None, ..restart };
        assert!(no_time.to_string().contains("idle: ? of a core"), "{no_time}");
    }
}
