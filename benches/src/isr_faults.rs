//! What `min.insync.replicas` costs: producers and a consumer at full speed on three brokers, while
//! followers are slow, or stand still.
//!
//! A slow follower is one that is stopped for nine tenths of the time, by turns: it takes part, and does
//! not keep up.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::ValueEnum;
use futures::StreamExt as _;
use parking_lot::Mutex;
use riverrun_client::{Client, Delivery, Position, Record};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    cluster::{Cluster, ClusterArgs, signal},
    error::{BenchError, Result},
    outcome::Document,
    session::SessionArgs,
    units,
};

/// Bytes of a value.
const VALUE_BYTES: usize = 1024;
/// Records on their way, whose answers are looked at in order.
const IN_FLIGHT_MAX: usize = 64 * 1024;
/// Between two counts.
const SAMPLE: Duration = Duration::from_millis(250);
/// Before the fault begins, and with it the counting.
const WARM_UP: Duration = Duration::from_secs(4);
/// How long a paused follower stands still.
const PAUSE: Duration = Duration::from_secs(5);
/// A slow follower runs and stands by turns.
const RUNS: Duration = Duration::from_millis(5);
const STANDS: Duration = Duration::from_millis(45);
/// What a topic keeps, so that a run does not fill the disk.
const KEPT_BYTES: &str = "1GiB";

/// What happens to followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing.
    None,
    /// One of them is slow, to the end.
    OneSlow,
    /// One of them stands still for five seconds.
    OnePaused,
    /// Both are slow, to the end.
    BothSlow,
}

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IsrFault {
    /// `min.insync.replicas`
    pub min_isr: u32,
    /// What happened.
    pub fault: Fault,
    /// Of values, to the consumer, from the beginning of the fault to the end.
    pub consumed_bytes_per_s: f64,
    /// In the last quarter of that time.
    pub consumed_at_last_bytes_per_s: f64,
    /// The longest time in which the consumer was given nothing.
    pub longest_silence_s: f64,
    /// Times that the ISR lost a member.
    pub isr_shrinks: u64,
    /// Records that were not acknowledged.
    pub failed: u64,
}

/// What the load counts.
#[derive(Debug, Default)]
struct Counters {
    consumed_bytes: AtomicU64,
    failed: AtomicU64,
    shrinks: AtomicU64,
    stop: AtomicBool,
    first_error: Mutex<Option<String>>,
}

/// Measures these cells, one topic each, and adds them to `document`.
///
/// # Errors
/// The cluster does not start, or does not recover from a fault.
///
/// # Cancel safety
/// Dropped, it leaves the cells that were measured in `document`.
pub async fn run(
    document: &mut Document,
    cluster: &ClusterArgs,
    (min_isrs, faults): (&[u32], &[Fault]),
    lasts: Duration,
    args: &SessionArgs,
) -> Result<()> {
    let cluster = Cluster::start(cluster).await?;
    for fault in faults.iter().copied() {
        for min_isr in min_isrs.iter().copied() {
            let cell = once(&cluster, min_isr, fault, lasts).await?;
            if !args.quiet {
                eprintln!("{cell}");
            }
            document.isr_faults.push(cell);
        }
    }
    Ok(())
}

async fn once(cluster: &Cluster, min_isr: u32, fault: Fault, lasts: Duration) -> Result<IsrFault> {
    let client = cluster.client().await?;
    let name = format!("bench-isr-{min_isr}-{fault:?}").to_lowercase();
    let min = min_isr.to_string();
    // The same durability for all, or the default of a single replica would be compared with that of two.
    let settings =
        [("min.insync.replicas", &*min), ("durability", "memory"), ("retention.bytes", KEPT_BYTES)];
    let topic = cluster.create_topic(&client, &name, 3, &settings).await?;
    let leader = topic.partitions[0].leader.expect("it was waited for");
    let followers = topic.partitions[0].replicas.iter().filter(|replica| **replica != leader);
    let followers: Vec<Pid> =
        followers.map(|id| cluster.process(id.0 as usize)).collect::<Result<_>>()?;
    let counters = Arc::<Counters>::default();
    let tasks = [
        AbortOnDropHandle::new(tokio::spawn(consume(
            client.clone(),
            name.clone(),
            Arc::clone(&counters),
        ))),
        AbortOnDropHandle::new(tokio::spawn(watch(
            client.clone(),
            name.clone(),
            Arc::clone(&counters),
        ))),
    ];
    let producing = tokio::spawn(produce(client.clone(), name.clone(), Arc::clone(&counters)));
    sleep(WARM_UP).await;
    let mut ticks = interval(SAMPLE);
    ticks.tick().await;
    let faults = strike(fault, &followers);
    let mut samples = Vec::new();
    let mut before = counters.consumed_bytes.load(Ordering::Relaxed);
    let count = lasts.as_millis() / SAMPLE.as_millis();
    for _ in 0..count {
        ticks.tick().await;
        let now = counters.consumed_bytes.load(Ordering::Relaxed);
        samples.push(now - before);
        before = now;
    }
    drop(faults);
    counters.stop.store(true, Ordering::SeqCst);
    // Whoever stopped them may have been in the midst of it: go on, until all is acknowledged.
    let go_on = async {
        loop {
            followers.iter().for_each(|follower| signal(*follower, Signal::CONT));
            sleep(STANDS).await;
        }
    };
    let ended = tokio::select! {
        ended = producing => ended,
        never = go_on => never,
    };
    ended.map_err(|_| BenchError::Failed("a producer panicked".into()))?;
    let (shrinks, failed) = (&counters.shrinks, &counters.failed);
    let (isr_shrinks, failed) = (shrinks.load(Ordering::SeqCst), failed.load(Ordering::SeqCst));
    drop(tasks);
    if let Some(error) = counters.first_error.lock().take() {
        eprintln!("first failure: {error}");
    }
    cluster.in_sync(&client, &name, 3).await?;
    let deleted = client.admin().delete_topic(name.as_str()).await;
    deleted.map_err(BenchError::client("deleting the topic"))?;
    Ok(cell(min_isr, fault, &samples, isr_shrinks, failed))
}

fn cell(min_isr: u32, fault: Fault, samples: &[u64], isr_shrinks: u64, failed: u64) -> IsrFault {
    let rate = |samples: &[u64]| {
        let seconds = SAMPLE.as_secs_f64() * samples.len() as f64;
        samples.iter().sum::<u64>() as f64 / seconds.max(SAMPLE.as_secs_f64())
    };
    let silences = samples.split(|bytes| *bytes > 0).map(<[u64]>::len);
    IsrFault {
        min_isr,
        fault,
        consumed_bytes_per_s: rate(samples),
        consumed_at_last_bytes_per_s: rate(&samples[samples.len() - samples.len() / 4..]),
        longest_silence_s: silences.max().unwrap_or(0) as f64 * SAMPLE.as_secs_f64(),
        isr_shrinks,
        failed,
    }
}

/// What is done to followers, until it is dropped.
fn strike(fault: Fault, followers: &[Pid]) -> Vec<AbortOnDropHandle<()>> {
    let slow = |follower: Pid| {
        tokio::spawn(async move {
            loop {
                signal(follower, Signal::STOP);
                sleep(STANDS).await;
                signal(follower, Signal::CONT);
                sleep(RUNS).await;
            }
        })
    };
    let paused = |follower: Pid| {
        tokio::spawn(async move {
            signal(follower, Signal::STOP);
            sleep(PAUSE).await;
            signal(follower, Signal::CONT);
        })
    };
    let tasks = match fault {
        Fault::None => Vec::new(),
        Fault::OneSlow => vec![slow(followers[0])],
        Fault::OnePaused => vec![paused(followers[0])],
        Fault::BothSlow => followers.iter().map(|follower| slow(*follower)).collect(),
    };
    tasks.into_iter().map(AbortOnDropHandle::new).collect()
}

async fn produce(client: Client, topic: String, counters: Arc<Counters>) {
    let Ok(producer) = client.producer().build().await else { return };
    let (sent, mut answers) = mpsc::channel::<Delivery>(IN_FLIGHT_MAX);
    let answering = async {
        while let Some(delivery) = answers.recv().await {
            if let Err(error) = delivery.await {
                counters.failed.fetch_add(1, Ordering::SeqCst);
                counters.first_error.lock().get_or_insert_with(|| error.to_string());
            }
        }
    };
    let sending = async {
        let value = bytes::Bytes::from(vec![7; VALUE_BYTES]);
        while !counters.stop.load(Ordering::SeqCst) {
            let record = Record::to(topic.as_str()).value(value.clone());
            let Ok(delivery) = producer.send(record).await else { break };
            if sent.send(delivery).await.is_err() {
                break;
            }
        }
        drop(sent);
    };
    tokio::join!(answering, sending);
}

async fn consume(client: Client, topic: String, counters: Arc<Counters>) {
    let consumer = client.consumer().assign_all(topic.as_str(), Position::Earliest).build().await;
    let Ok(mut consumer) = consumer else { return };
    while let Some(Ok(record)) = consumer.next().await {
        let bytes = record.value().map_or(0, <[u8]>::len);
        counters.consumed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Counts the members that leave the ISR.
async fn watch(client: Client, topic: String, counters: Arc<Counters>) {
    let admin = client.admin();
    let mut members = 3;
    loop {
        if let Ok(topic) = admin.topic(topic.as_str()).await {
            let now = topic.partitions[0].in_sync_replicas.len();
            let left = members.max(now) - now;
            counters.shrinks.fetch_add(left as u64, Ordering::SeqCst);
            members = now;
        }
        sleep(SAMPLE).await;
    }
}

// === impl IsrFault ===

impl fmt::Display for IsrFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self.fault {
            Fault::None => "none",
            Fault::OneSlow => "one slow",
            Fault::OnePaused => "one paused 5 s",
            Fault::BothSlow => "both slow",
        };
        write!(
            f,
            "min.insync.replicas {}, {fault:14}  consumed {:>10}, at last {:>10}, longest silence \
             {:.2} s, {} left the ISR, {} failed",
            self.min_isr,
            units::show_bytes_rate(self.consumed_bytes_per_s),
            units::show_bytes_rate(self.consumed_at_last_bytes_per_s),
            self.longest_silence_s,
            self.isr_shrinks,
            self.failed,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_tells_rates_and_the_longest_silence() {
        let found = cell(2, Fault::OneSlow, &[100, 0, 0, 0, 100, 0, 300, 300], 1, 0);
        assert_eq!(found.consumed_bytes_per_s, 400.0);
        assert_eq!(found.consumed_at_last_bytes_per_s, 1200.0);
        assert_eq!(found.longest_silence_s, 0.75);
        let text = found.to_string();
        assert!(text.contains("replicas 2, one slow") && text.contains("1 left the ISR"), "{text}");
    }
}
