//! How long producers wait when the leader of their partition is killed.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use riverrun_client::{Client, Delivery, Producer, Record};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    clock::Moment,
    cluster::{Cluster, ClusterArgs},
    error::{BenchError, Result},
    outcome::Document,
    session::SessionArgs,
    units,
};

/// What is written, all the time.
const TOPIC: &str = "bench-failover";
/// Between two records: how finely a gap is seen.
const PACE: Duration = Duration::from_millis(1);
/// How long acknowledgements flow before a kill, and after the gap.
const FLOWING: Duration = Duration::from_millis(500);
/// A gap past which something is wrong.
const GAP_MAX: Duration = Duration::from_secs(60);
/// Records on their way.
const IN_FLIGHT_MAX: usize = 4096;

/// One leader killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// From the last acknowledgement before to the first after.
    pub gap_ns: u64,
    /// The killed node led the metadata quorum as well: another had to be elected there first.
    pub led_the_quorum: bool,
}

/// Acknowledgements of a producer that never stops.
#[derive(Debug, Default)]
struct Acks {
    moments: Mutex<Vec<Moment>>,
    failed: Mutex<Option<riverrun_client::Error>>,
    stop: AtomicBool,
}

/// Kills the leader as often as there are rounds, and adds how long that was felt to `document`.
///
/// # Errors
/// The cluster does not recover, or a record was not acknowledged.
///
/// # Cancel safety
/// Dropped, it leaves the kills that were made in `document`.
pub async fn run(document: &mut Document, cluster: &ClusterArgs, args: &SessionArgs) -> Result<()> {
    let mut cluster = Cluster::start(cluster).await?;
    let client = cluster.client().await?;
    let settings = [("min.insync.replicas", "2")];
    cluster.create_topic(&client, TOPIC, 3, &settings).await?;
    let acks = Arc::<Acks>::default();
    let producing = tokio::spawn(produce(client.clone(), Arc::clone(&acks)));
    let _producing = AbortOnDropHandle::new(producing);
    for round in 1..=args.rounds {
        let failover = once(&mut cluster, &client, &acks).await?;
        if !args.quiet {
            eprintln!("{round:>4}  {failover}");
        }
        document.failovers.push(failover);
    }
    acks.stop.store(true, Ordering::SeqCst);
    Ok(())
}

async fn once(cluster: &mut Cluster, client: &Client, acks: &Acks) -> Result<Failover> {
    let topic = cluster.in_sync(client, TOPIC, 3).await?;
    sleep(FLOWING).await;
    let described = client.admin().describe_cluster().await;
    let described = described.map_err(BenchError::client("asking who leads the quorum"))?;
    let leader = topic.partitions[0].leader.expect("it was waited for");
    let led_the_quorum = described.leader == Some(leader);
    acks.moments.lock().clear();
    sleep(FLOWING).await;
    let killed = Moment::now();
    cluster.kill(leader.0 as usize);
    // Those of the old leader that were on their way are not the new one's.
    let gap = timeout(GAP_MAX, async {
        loop {
            sleep(FLOWING).await;
            let gap = longest_gap(&acks.moments.lock(), killed);
            let elected = client.admin().topic(TOPIC).await.ok();
            let other = elected.and_then(|t| t.partitions[0].leader).is_some_and(|l| l != leader);
            if let Some((gap, since)) = gap.filter(|_| other)
                && since >= FLOWING
            {
                return gap;
            }
            if acks.failed.lock().is_some() {
                return Duration::MAX;
            }
        }
    });
    let gap = gap.await.map_err(|_| BenchError::Failed(format!("no ack within {GAP_MAX:?}")))?;
    if let Some(source) = acks.failed.lock().take() {
        return Err(BenchError::client("producing while a leader is killed")(source));
    }
    cluster.restart(leader.0 as usize)?;
    Ok(Failover { gap_ns: u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX), led_the_quorum })
}

/// The longest pause that ended after `killed`, and for how long acknowledgements have come since.
fn longest_gap(acks: &[Moment], killed: Moment) -> Option<(Duration, Duration)> {
    let last = *acks.last()?;
    let pauses = acks.windows(2).filter(|pair| pair[1] > killed);
    let longest = pauses.max_by_key(|pair| pair[1].since(pair[0]))?;
    Some((longest[1].since(longest[0]), last.since(longest[1])))
}

/// One record after the other, acks=all; takes down when each was acknowledged.
async fn produce(client: Client, acks: Arc<Acks>) {
    let Ok(producer) = client.producer().build().await else { return };
    let (sent, mut answers) = mpsc::channel::<Delivery>(IN_FLIGHT_MAX);
    let answering = async {
        while let Some(delivery) = answers.recv().await {
            match delivery.await {
                Ok(_) => acks.moments.lock().push(Moment::now()),
                Err(error) => _ = acks.failed.lock().get_or_insert(error),
            }
        }
    };
    tokio::join!(answering, send(&producer, sent, &acks));
}

async fn send(producer: &Producer, sent: mpsc::Sender<Delivery>, acks: &Acks) {
    while !acks.stop.load(Ordering::SeqCst) {
        let Ok(delivery) = producer.send(Record::to(TOPIC).value(vec![0; 100])).await else {
            return;
        };
        if sent.send(delivery).await.is_err() {
            return;
        }
        sleep(PACE).await;
    }
}

/// Median and longest of them; nothing of none.
pub fn summary(failovers: &[Failover]) -> Option<String> {
    let mut gaps: Vec<u64> = failovers.iter().map(|failover| failover.gap_ns).collect();
    gaps.sort_unstable();
    let max = *gaps.last()?;
    let p50 = gaps[(gaps.len() - 1) / 2];
    let with = failovers.iter().filter(|failover| failover.led_the_quorum).count();
    Some(format!(
        "{} leaders killed, {with} of them led the quorum too; no ack for: p50 {}, max {}",
        gaps.len(),
        units::show_nanos(p50),
        units::show_nanos(max)
    ))
}

// === impl Failover ===

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quorum = if self.led_the_quorum { " (it led the quorum too)" } else { "" };
        write!(f, "leader killed: no ack for {}{quorum}", units::show_nanos(self.gap_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_gap_is_the_longest_pause_that_ended_after_the_kill() {
        let ms = Duration::from_millis;
        // A pause of 50 ms before the kill at 100 is none of it; acks on their way at 101 are not the
        // new leader's.
        let acks = [10, 60, 99, 101, 900, 901, 905].map(at);
        assert_eq!(longest_gap(&acks, at(100)), Some((ms(799), ms(5))));
        assert_eq!(longest_gap(&acks[..3], at(100)), None);
        assert_eq!(longest_gap(&[], at(100)), None);
    }

    #[test]
    fn a_summary_has_median_and_maximum() {
        let failover = |ms: u64| Failover { gap_ns: ms * 1_000_000, led_the_quorum: ms == 3 };
        let text = summary(&[failover(3), failover(1), failover(2)]).unwrap();
        assert!(text.contains("p50 2.00 ms, max 3.00 ms") && text.contains("1 of them"), "{text}");
        assert_eq!(summary(&[]), None);
    }
}
