//! What `min.insync.replicas` costs: producers and a consumer at full speed on three brokers, while
//! followers are slow, or stand still.
//!
//! | follower | what is done to it | takes part in time | what is promised |
//! |---|---|---|---|
//! | slow | stopped for 45 of every 50 ms | as a rule: it takes `replica.lag.bytes.max` within `replica.lag.time.max.ms` | one of two: holds producers up for `replica.lag.time.max.ms` at most; leaves the ISR, once, if `min.insync.replicas` can do without it; then nobody waits for it, and the rate is at least 0.95 of that without a fault. Both: stay in the ISR; producers go at their pace, and lag stays in its budget (`broker/src/replica/event.rs`, `Limits`) |
//! | crawling | what others say to it comes at 1 MiB/s on each connection | no | holds producers up for `replica.lag.time.max.ms` at most; leaves the ISR, once; then nobody waits for it, and the rate is at least 0.95 of what it was |
//! | paused | stopped for 5 s | not meanwhile | as crawling, if it lasted |
//!
//! How far a follower can be behind is bounded by what producers have on their way. One that reaches
//! that within `replica.lag.time.max.ms` stays in the ISR, however slow it makes them. So there are as
//! many producers as fill the budget.
//!
//! A process that is stopped by turns cannot crawl: whoever stops it is scheduled late, and it takes the
//! whole budget meanwhile. So a crawling follower runs as it likes, behind lines that are slow
//! ([`Lines`]): heartbeats come by a connection of their own and are not held up. All
//! brokers of that cluster talk over such lines, which cost something themselves; so its rate is held
//! against its own before the fault, not against that of the other cluster.

mod load;
mod witness;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use clap::ValueEnum;
use parking_lot::Mutex;
use riverrun_client::{Client, Topic};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::time::{interval, sleep};
use tokio_util::task::AbortOnDropHandle;

pub use self::witness::Named;
use self::{
    load::{Counters, Sample, rate, slow},
    witness::Seen,
};

use crate::{
    cluster::{Cluster, ClusterArgs, signal},
    error::{BenchError, Result},
    lines::Lines,
    outcome::Document,
    session::SessionArgs,
    units,
};

/// Between two counts.
const SAMPLE: Duration = Duration::from_millis(250);
/// Before the fault begins; and the last of it, which what comes is held against.
const WARM_UP: Duration = Duration::from_secs(4);
const BEFORE: Duration = Duration::from_secs(2);
/// Of the only partition.
const REPLICAS: u32 = 3;
/// How long a paused follower stands still.
const PAUSE: Duration = Duration::from_secs(5);
/// A slow follower runs and stands by turns, so long each.
const SLOW: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(45));
/// What comes to a crawling one in a second: a sixth of what is healthy by default.
const CRAWL_BYTES_PER_S: u64 = 1 << 20;
/// What a topic keeps, so that a run does not fill the disk; and more than any budget.
const KEPT_BYTES: &str = "2GiB";

/// What happens to followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing.
    None,
    /// One of them is slow, to the end.
    OneSlow,
    /// One of them takes less than `replica.lag.bytes.max` in `replica.lag.time.max.ms`, to the end.
    OneCrawling,
    /// One of them stands still for five seconds.
    OnePaused,
    /// Both are slow, to the end.
    BothSlow,
}

/// One cell of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Times that the ISR lost members, by the metrics of the leader.
    pub isr_shrinks: u64,
    /// Records that were not acknowledged.
    pub failed: u64,
    /// Acknowledged to the producer, in the last seconds before the fault.
    #[serde(default)]
    pub acked_before_bytes_per_s: f64,
    /// In the last quarter of the time from its beginning.
    #[serde(default)]
    pub acked_at_last_bytes_per_s: f64,
    /// How long, from its beginning, less than half of what was before was acknowledged.
    #[serde(default)]
    pub producers_slow_s: f64,
    /// What was acknowledged meanwhile; zero if they never were slow.
    #[serde(default)]
    pub acked_while_slow_bytes_per_s: f64,
    /// `acked_at_last_bytes_per_s` over that of the cell without a fault and with the same
    /// `min.insync.replicas`, if it was measured before; with a crawling follower, whose brokers talk over
    /// other lines, over that of the same cell before the fault.
    #[serde(default)]
    pub ratio_at_last: Option<f64>,
    /// Looks at what `riverrun explain` says, from the beginning to the end.
    #[serde(default)]
    pub looks: u32,
    /// What it named, most often first.
    #[serde(default)]
    pub named: Vec<Named>,
    /// Brokers that were struck.
    #[serde(default)]
    pub struck: Vec<u32>,
    /// The furthest that a member of the ISR was behind, an upper bound.
    #[serde(default)]
    pub behind_bytes_max: u64,
    /// `replica.lag.bytes.max`
    #[serde(default)]
    pub lag_bytes_max: u64,
    /// `replica.lag.time.max.ms`
    #[serde(default)]
    pub lag_time_max_s: f64,
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
    // Crawling followers last: theirs is another cluster.
    let (crawling, others): (Vec<Fault>, Vec<Fault>) =
        faults.iter().partition(|fault| fault.crawls());
    for faults in [others, crawling].iter().filter(|faults| !faults.is_empty()) {
        let cluster = match faults[0].crawls() {
            true => Cluster::start_on_lines(cluster).await?,
            false => Cluster::start(cluster).await?,
        };
        for fault in faults.iter().copied() {
            for min_isr in min_isrs.iter().copied() {
                if fault.crawls() && min_isr > REPLICAS - 1 {
                    // A copy on it was asked for: nothing is acknowledged without.
                    continue;
                }
                let mut cell = once(&cluster, min_isr, fault, lasts).await?;
                cell.hold_against(&document.isr_faults);
                if !args.quiet {
                    eprintln!("{cell}");
                }
                document.isr_faults.push(cell);
            }
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
    let topic = cluster.create_topic(&client, &name, REPLICAS, &settings).await?;
    let leader = topic.partitions[0].leader.expect("it was waited for");
    let http = cluster.http_address(leader.0 as usize);
    let followers = followers(&client, &topic).await?;
    let struck = followers[..fault.strikes()].to_vec();
    let processes: Vec<Pid> =
        struck.iter().map(|id| cluster.process(*id as usize)).collect::<Result<_>>()?;
    let counters = Arc::<Counters>::default();
    let seen = Arc::<Mutex<Seen>>::default();
    let consuming = load::consume(client.clone(), name.clone(), Arc::clone(&counters));
    let watching = witness::watch(client.clone(), name.clone(), Arc::clone(&seen));
    let _consuming = AbortOnDropHandle::new(tokio::spawn(consuming));
    let watching = AbortOnDropHandle::new(tokio::spawn(watching));
    let producing =
        tokio::spawn(load::produce(client.clone(), name.clone(), Arc::clone(&counters)));
    sleep(WARM_UP - BEFORE).await;
    let before = sample(&counters, BEFORE).await;
    let shrinks_before = witness::isr_shrinks(&http).await?;
    *seen.lock() = Seen::default();
    let strike = Strike::begin(fault, &processes, cluster.lines())?;
    let samples = sample(&counters, lasts).await;
    drop(strike);
    drop(watching);
    let isr_shrinks = witness::isr_shrinks(&http).await? - shrinks_before;
    counters.stop.store(true, Ordering::SeqCst);
    let ended = producing.await;
    ended.map_err(|_| BenchError::Failed("a producer panicked".into()))?;
    cluster.in_sync(&client, &name, REPLICAS as usize).await?;
    if let Some(error) = counters.first_error.lock().take() {
        eprintln!("first failure: {error}");
    }
    let deleted = client.admin().delete_topic(name.as_str()).await;
    deleted.map_err(BenchError::client("deleting the topic"))?;
    let seen = seen.lock().clone();
    let failed = counters.failed.load(Ordering::SeqCst);
    let cell = cell(min_isr, fault, (&before, &samples), &seen);
    Ok(IsrFault { isr_shrinks, failed, struck, ..cell })
}

/// Who does not lead; first one that does not lead the metadata quorum either, so that what is seen of
/// a strike is the partition's doing.
async fn followers(client: &Client, topic: &Topic) -> Result<Vec<u32>> {
    let described = client.admin().describe_cluster().await;
    let described = described.map_err(BenchError::client("asking who leads the quorum"))?;
    let partition = &topic.partitions[0];
    let others = partition.replicas.iter().filter(|id| Some(**id) != partition.leader);
    let mut followers: Vec<_> = others.copied().collect();
    followers.sort_by_key(|id| described.leader == Some(*id));
    Ok(followers.into_iter().map(|id| id.0).collect())
}

/// Counts for so long.
async fn sample(counters: &Counters, lasts: Duration) -> Vec<Sample> {
    let mut ticks = interval(SAMPLE);
    ticks.tick().await;
    let mut before = counters.total();
    let mut samples = Vec::new();
    for _ in 0..lasts.as_millis() / SAMPLE.as_millis() {
        ticks.tick().await;
        let now = counters.total();
        samples.push(now.since(before));
        before = now;
    }
    samples
}

fn cell(
    min_isr: u32,
    fault: Fault,
    (before, samples): (&[Sample], &[Sample]),
    seen: &Seen,
) -> IsrFault {
    let (acked, consumed) = (|sample: &Sample| sample.acked, |sample: &Sample| sample.consumed);
    let last = &samples[samples.len() - samples.len() / 4..];
    let silences = samples.split(|sample| sample.consumed > 0).map(<[_]>::len);
    let usual = rate(before, acked);
    let slow = slow(samples, usual, acked);
    let (lag_bytes_max, lag_time_max) = seen.limits.unwrap_or_default();
    IsrFault {
        min_isr,
        fault,
        consumed_bytes_per_s: rate(samples, consumed),
        consumed_at_last_bytes_per_s: rate(last, consumed),
        longest_silence_s: silences.max().unwrap_or(0) as f64 * SAMPLE.as_secs_f64(),
        isr_shrinks: 0,
        failed: 0,
        acked_before_bytes_per_s: usual,
        acked_at_last_bytes_per_s: rate(last, acked),
        producers_slow_s: slow.len() as f64 * SAMPLE.as_secs_f64(),
        acked_while_slow_bytes_per_s: rate(&slow, acked),
        ratio_at_last: None,
        looks: seen.looks,
        named: seen.named(),
        struck: Vec::new(),
        behind_bytes_max: seen.behind_bytes_max,
        lag_bytes_max,
        lag_time_max_s: lag_time_max.as_secs_f64(),
    }
}

/// What is done to followers, until it is dropped.
///
/// By threads of their own: a task would come late to stopping one, where the load keeps the runtime
/// busy, and a follower that was to crawl would run.
#[derive(Debug)]
struct Strike<'a> {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    slowed: Option<&'a Lines>,
}

// === impl Strike ===

impl<'a> Strike<'a> {
    fn begin(fault: Fault, struck: &[Pid], lines: Option<&'a Lines>) -> Result<Self> {
        let mut strike = Self { over: Arc::default(), threads: Vec::new(), slowed: None };
        if let (true, Some(lines), Some(follower)) = (fault.crawls(), lines, struck.first()) {
            lines.slow(follower.as_raw_nonzero().get().unsigned_abs(), CRAWL_BYTES_PER_S);
            strike.slowed = Some(lines);
            return Ok(strike);
        }
        let (runs, stands) = match fault {
            // Longer than anything lasts: once.
            Fault::OnePaused => (Duration::from_secs(24 * 60 * 60), PAUSE),
            _ => SLOW,
        };
        for follower in struck.iter().copied() {
            let over = Arc::clone(&strike.over);
            let by_turns = move || {
                while !over.load(Ordering::SeqCst) {
                    signal(follower, Signal::STOP);
                    thread::park_timeout(stands);
                    signal(follower, Signal::CONT);
                    thread::park_timeout(runs);
                }
            };
            let thread = thread::Builder::new().name("strike".into()).spawn(by_turns);
            strike.threads.push(thread.map_err(BenchError::io("starting a thread"))?);
        }
        Ok(strike)
    }
}

impl Drop for Strike<'_> {
    /// Whoever was stopped goes on, what was slow is as it was.
    fn drop(&mut self) {
        if let Some(lines) = self.slowed {
            lines.heal();
        }
        self.over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // Out of one pause, and out of the next.
            while !thread.is_finished() {
                thread.thread().unpark();
                thread::yield_now();
            }
        }
    }
}

// === impl Fault ===

impl Fault {
    fn crawls(self) -> bool {
        self == Self::OneCrawling
    }

    /// How many followers it strikes.
    fn strikes(self) -> usize {
        match self {
            Self::None => 0,
            Self::OneSlow | Self::OneCrawling | Self::OnePaused => 1,
            Self::BothSlow => 2,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::OneSlow => "one slow",
            Self::OneCrawling => "one crawling",
            Self::OnePaused => "one paused 5 s",
            Self::BothSlow => "both slow",
        })
    }
}

// === impl IsrFault ===

impl IsrFault {
    /// Sets the ratio to the same without a fault.
    fn hold_against(&mut self, measured: &[Self]) {
        let without = |cell: &&Self| cell.fault == Fault::None && cell.min_isr == self.min_isr;
        let other = measured.iter().find(without).map(|cell| cell.acked_at_last_bytes_per_s);
        let usual = match self.fault.crawls() {
            true => Some(self.acked_before_bytes_per_s),
            false => other,
        };
        let usual = usual.filter(|usual| *usual > 0.0);
        self.ratio_at_last = usual.map(|usual| self.acked_at_last_bytes_per_s / usual);
    }
}

impl fmt::Display for IsrFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = units::show_bytes_rate;
        let healthy = self.lag_bytes_max as f64 / self.lag_time_max_s.max(f64::MIN_POSITIVE);
        writeln!(
            f,
            "min.insync.replicas {}, {:14}  consumed {}, at last {}, longest silence {:.2} s; {} \
             shrink(s) of the ISR, {} record(s) failed",
            self.min_isr,
            self.fault,
            shown(self.consumed_bytes_per_s),
            shown(self.consumed_at_last_bytes_per_s),
            self.longest_silence_s,
            self.isr_shrinks,
            self.failed,
        )?;
        write!(f, "    acked {} before, ", shown(self.acked_before_bytes_per_s))?;
        if self.producers_slow_s > 0.0 {
            let meanwhile = shown(self.acked_while_slow_bytes_per_s);
            write!(f, "below half of that for {:.2} s ({meanwhile}), ", self.producers_slow_s)?;
        }
        write!(f, "{} at last", shown(self.acked_at_last_bytes_per_s))?;
        if let Some(ratio) = self.ratio_at_last.filter(|_| self.fault != Fault::None) {
            write!(f, ", {ratio:.2} of that without a fault")?;
        }
        write!(
            f,
            "; most behind {} MiB of {}, healthy is {} and more within {} s",
            self.behind_bytes_max >> 20,
            self.lag_bytes_max >> 20,
            shown(healthy),
            self.lag_time_max_s
        )?;
        if !self.struck.is_empty() {
            write!(f, "\n    struck: {}; explain named", brokers(&self.struck))?;
            if self.named.is_empty() {
                f.write_str(" nobody")?;
            }
            for (index, named) in self.named.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                let (kind, of) = (&named.kind, brokers(&named.brokers));
                write!(f, "{comma} {kind} {of} in {} of {} looks", named.looks, self.looks)?;
            }
        }
        Ok(())
    }
}

fn brokers(ids: &[u32]) -> String {
    let ids: Vec<_> = ids.iter().map(u32::to_string).collect();
    format!("broker {}", ids.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(bytes: &[u64]) -> Vec<Sample> {
        bytes.iter().map(|bytes| Sample { acked: 2 * bytes, consumed: *bytes }).collect()
    }

    #[test]
    fn a_cell_tells_rates_the_longest_silence_and_how_long_producers_were_slow() {
        let (before, since) = (samples(&[250, 250]), samples(&[100, 0, 0, 0, 100, 0, 300, 300]));
        let found = cell(2, Fault::OneSlow, (&before, &since), &Seen::default());
        assert_eq!(found.consumed_bytes_per_s, 400.0);
        assert_eq!(found.consumed_at_last_bytes_per_s, 1200.0);
        assert_eq!(found.longest_silence_s, 0.75);
        assert_eq!(found.acked_before_bytes_per_s, 2000.0);
        assert_eq!(
            (found.producers_slow_s, found.acked_while_slow_bytes_per_s),
            (1.5, 800.0 / 3.0)
        );
        assert_eq!(found.acked_at_last_bytes_per_s, 2400.0);
    }

    #[test]
    fn a_cell_says_what_was_named_and_how_it_compares() {
        let (before, since) = (samples(&[100]), samples(&[100; 4]));
        let mut seen = Seen::default();
        seen.looks = 9;
        let usual = cell(2, Fault::None, (&before, &samples(&[200; 4])), &seen);
        let other = cell(1, Fault::None, (&before, &since), &seen);
        let named = Named { kind: "follower_slow".into(), brokers: vec![3], looks: 7 };
        let mut found = IsrFault {
            isr_shrinks: 1,
            named: vec![named],
            struck: vec![3],
            ..cell(2, Fault::OneSlow, (&before, &since), &seen)
        };
        found.hold_against(&[other, usual]);
        let text = found.to_string();
        for part in [
            "replicas 2, one slow",
            "1 shrink(s)",
            "0.50 of that without a fault",
            "struck: broker 3; explain named follower_slow broker 3 in 7 of 9 looks",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let mut crawling = cell(2, Fault::OneCrawling, (&before, &samples(&[75; 4])), &seen);
        crawling.hold_against(&[]);
        assert_eq!(crawling.ratio_at_last, Some(0.75), "of its own, before");
    }
}
