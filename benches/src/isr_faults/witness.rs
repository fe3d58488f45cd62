//! What the brokers say while a fault lasts: whom `explain` names, how far behind members are, how
//! often the ISR shrank.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use riverrun_client::{Client, PartitionReport};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::SAMPLE;
use crate::error::{BenchError, Result};

/// Longest answer of a broker's HTTP port, or to one look. The paused ones are asked too.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Counts how often a leader saw its ISR lose somebody.
const SHRINKS: &str = "riverrun_isr_shrinks_total";

/// What `riverrun explain` said, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// One word for what holds the partition back, as `riverrun explain -o json` has it.
    pub kind: String,
    /// Which brokers it is about.
    pub brokers: Vec<u32>,
    /// In so many looks.
    pub looks: u32,
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// How often somebody looked.
    pub(super) looks: u32,
    /// What was named, by kind and brokers.
    named: BTreeMap<(String, Vec<u32>), u32>,
    /// The furthest that a member of the ISR with an open subscription was behind, an upper bound.
    pub(super) behind_bytes_max: u64,
    /// `replica.lag.bytes.max` and `replica.lag.time.max.ms`, as the leader has them.
    pub(super) limits: Option<(u64, Duration)>,
}

// === impl Seen ===

impl Seen {
    fn take(&mut self, report: &PartitionReport) {
        self.looks += 1;
        for hindrance in report.explain().hindrances {
            let brokers = hindrance.brokers().iter().map(|id| id.0).collect();
            *self.named.entry((hindrance.kind().to_owned(), brokers)).or_default() += 1;
        }
        if let Some(leading) = &report.partition.leading {
            let members = leading.followers.iter().filter(|f| f.counts && f.connected);
            let furthest = members.map(|follower| follower.bytes_behind).max();
            self.behind_bytes_max = self.behind_bytes_max.max(furthest.unwrap_or(0));
            self.limits = Some((leading.lag_bytes_max, leading.lag_time_max));
        }
    }

    /// Most often first.
    pub(super) fn named(&self) -> Vec<Named> {
        let named = self.named.iter().map(|((kind, brokers), looks)| Named {
            kind: kind.clone(),
            brokers: brokers.clone(),
            looks: *looks,
        });
        let mut named: Vec<_> = named.collect();
        named.sort_by_key(|named| std::cmp::Reverse(named.looks));
        named
    }
}

/// Looks again and again at the only partition of `topic`.
pub(super) async fn watch(client: Client, topic: String, seen: Arc<Mutex<Seen>>) {
    let admin = client.admin();
    loop {
        // Whoever does not answer is left out of what is told.
        let look = timeout(ANSWER_MAX, admin.describe_partition((topic.as_str(), 0))).await;
        if let Ok(Ok(report)) = look {
            seen.lock().take(&report);
        }
        sleep(SAMPLE).await;
    }
}

/// How often the leader on the broker with this HTTP port saw its ISRs shrink, since it was started.
pub(super) async fn isr_shrinks(http: &str) -> Result<u64> {
    let asking = || BenchError::io(format!("asking {http} for its metrics"));
    let text = async {
        let mut stream = TcpStream::connect(http).await?;
        let ask = format!("GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    let text = timeout(ANSWER_MAX, text).await.unwrap_or_else(|elapsed| Err(elapsed.into()));
    let text = text.map_err(asking())?;
    counter(&text, SHRINKS).ok_or_else(|| BenchError::Failed(format!("{http} tells no {SHRINKS}")))
}

/// The value of a counter without labels.
fn counter(text: &str, name: &str) -> Option<u64> {
    let of_line = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(of_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_among_others() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE riverrun_isr_shrinks counter\n\
                    riverrun_isr_shrinks_total 3\nriverrun_isr_shrinks_total_x 4\n";
        assert_eq!(counter(text, SHRINKS), Some(3));
        assert_eq!(counter(text, "riverrun_isr"), None);
    }

    #[test]
    fn what_is_named_most_often_comes_first() {
        let mut seen = Seen::default();
        for (kind, brokers, looks) in [("lag_budget", vec![3], 2), ("follower_slow", vec![3], 9)] {
            seen.named.insert((kind.into(), brokers), looks);
        }
        let kinds: Vec<_> = seen.named().into_iter().map(|named| named.kind).collect();
        assert_eq!(kinds, ["follower_slow", "lag_budget"]);
    }
}
