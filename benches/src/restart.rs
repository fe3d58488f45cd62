//! How soon a broker serves again, and what it takes while nobody asks anything of it.

use std::{fmt, path::Path as FilePath, time::Duration};

use riverrun_client::{Position, TopicPartition};

use crate::{
    accounting::{Accounts, Memory},
    broker::{BrokerArgs, End},
    clock::Moment,
    error::{BenchError, Result},
    product::{Backlog, Product},
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
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// From the start of the process until it said that it serves.
    pub ready: Duration,
    /// From the start of the process until a client, connected anew, had the end offset of the last
    /// partition.
    pub answered: Duration,
    /// After the time of nothing to do.
    pub memory: Memory,
    /// Share of one core in that time. `None`: unknown.
    pub idle_cpu: Option<f64>,
}

/// Fills a broker and restarts it, `rounds` times.
///
/// # Errors
/// It is not ours to restart, does not come back, or has lost something of what was acknowledged.
pub async fn run(shape: &Shape, broker: &BrokerArgs, rounds: u32) -> Result<Vec<Restart>> {
    let workload = Workload {
        name: "restart".into(),
        kind: Kind::Consume,
        path: Path::Batches,
        durability: Durability::Memory,
        partitions: shape.partitions,
        backlog_bytes: shape.log_bytes,
        ..Workload::default()
    };
    let mut product = Product::start(broker, false)?;
    let client = product.broker().client().await?;
    let backlog = match shape.log_bytes {
        0 => Backlog {
            ends: vec![0; shape.partitions as usize],
            topic: product.broker().create_topic(&client, "bench-restart", &workload).await?,
        },
        _ => product.fill(&client, "bench-restart", &workload).await?,
    };
    drop(client);
    let mut restarts = Vec::new();
    for _ in 0..rounds {
        restarts.push(once(&mut product, &backlog, shape).await?);
    }
    product.stop()?;
    Ok(restarts)
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
    let idle_cpu = cost.subject_cpu_s.map(|seconds| seconds / shape.idle.as_secs_f64());
    Ok(Restart { ready, answered, memory: accounts.memory(), idle_cpu })
}

// === impl Restart ===

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: Option<u64>| match bytes {
            Some(bytes) => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
            None => "?".to_owned(),
        };
        let nanos =
            |time: Duration| units::show_nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let idle = self.idle_cpu.map_or("?".to_owned(), |share| format!("{:.2} %", share * 100.0));
        write!(
            f,
            "serving after {}, answered after {}; idle: {} of a core, {} resident, {} anonymous",
            nanos(self.ready),
            nanos(self.answered),
            idle,
            mib(self.memory.resident_bytes),
            mib(self.memory.anonymous_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_a_question_mark() {
        let restart = Restart {
            ready: Duration::from_millis(20),
            answered: Duration::from_millis(25),
            memory: Memory { anonymous_bytes: Some(3 << 20), ..Memory::default() },
            idle_cpu: Some(0.004),
        };
        let text = restart.to_string();
        assert!(text.contains("0.40 %") && text.contains("? resident, 3.0 MiB"), "{text}");
    }
}
