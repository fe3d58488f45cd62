//! The CSV that `nats bench --csv` writes: a header and one line per client.

use crate::{
    error::{BenchError, Result},
    outcome::{Latency, Throughput},
};

/// What one client measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Of its records.
    pub throughput: Throughput,
    /// Of its operations, whatever those are; not of readers.
    pub latency: Option<Latency>,
}

/// Reads the file of a load of `records` and one client. Its own count is of messages in both
/// directions and not taken. `operations` is how many latencies there must be.
///
/// # Errors
/// A column is missing, or there is another number of clients.
pub fn read(text: &str, records: u64, payload_bytes: usize, operations: u64) -> Result<Measured> {
    let read = || {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let names: Vec<&str> = lines.next()?.split(',').collect();
        let values: Vec<&str> = lines.next()?.split(',').collect();
        if lines.next().is_some() || values.len() != names.len() {
            return None;
        }
        let named = |name: &str| -> Option<f64> {
            values[names.iter().position(|n| *n == name)?].trim().parse().ok()
        };
        let nanos = |name: &str| named(name).map(|micros| (micros * 1e3) as u64);
        let seconds = named("DurationSecs").filter(|seconds| *seconds > 0.0)?;
        let latency = || {
            Some(Latency {
                count: operations,
                p50_ns: nanos("P50LatencyMicroSecs")?,
                p90_ns: nanos("P90LatencyMicroSecs"),
                p99_ns: nanos("P99LatencyMicroSecs")?,
                p999_ns: nanos("P99.9LatencyMicroSecs")?,
                max_ns: nanos("MaxLatencyMicroSecs")?,
                histogram: String::new(),
            })
        };
        let throughput = Throughput::new(records, records * payload_bytes as u64, seconds);
        Some(Measured { throughput, latency: latency() })
    };
    read().ok_or_else(|| {
        BenchError::Failed(format!(
            "nats bench writes another CSV than the versions known here do; take another with \
             --nats-cli. It wrote:\n{text}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of nats 0.3 and 20 000 messages of 1024 bytes, 315 outstanding.
    const PUBLISHED: &str = "\
#RunID,ClientID,MsgCount,MsgBytes,MsgsPerSec,BytesPerSec,DurationSecs,MinLatencyMicroSecs,AvgLatencyMicroSecs,MaxLatencyMicroSecs,P50LatencyMicroSecs,P90LatencyMicroSecs,P99LatencyMicroSecs,P99.9LatencyMicroSecs,StdDevLatencyMicroSecs
DaQeiEXnakG5cMGO9VoW2n,P0,40000,20480000,1519,1556130.279787,13.160852,35516.321000,205631.831234,559812.267000,180801.644000,471952.803000,559812.267000,559812.267000,258587.301026
";

    /// Of the same version.
    const READ: &str = "\
#RunID,ClientID,MsgCount,MsgBytes,MsgsPerSec,BytesPerSec,DurationSecs
e9NQmgxCQ1qwbldm8AMM10,S0,100403,102400000,165913,169895397.345042,0.602724
";

    #[test]
    fn a_publishers_file() {
        let Measured { throughput, latency } = read(PUBLISHED, 20_000, 1024, 64).unwrap();
        assert_eq!((throughput.records, throughput.bytes), (20_000, 20_480_000));
        assert!((throughput.bytes_per_s - 1_556_130.28).abs() < 1.0, "{throughput:?}");
        let latency = latency.unwrap();
        assert_eq!((latency.p50_ns, latency.p90_ns), (180_801_644, Some(471_952_803)));
        assert_eq!((latency.p99_ns, latency.max_ns, latency.count), (559_812_267, 559_812_267, 64));
    }

    #[test]
    fn a_readers_file_has_no_latencies() {
        let Measured { throughput, latency } = read(READ, 100_000, 1024, 0).unwrap();
        assert_eq!(latency, None);
        assert!((throughput.bytes_per_s - 169_895_397.0).abs() < 100.0, "{throughput:?}");
    }

    #[test]
    fn other_files_are_shown_not_guessed_at() {
        let two = format!("{READ}{}", READ.lines().last().unwrap());
        for text in ["", "a,b\n1,2\n", &two, &READ.replace("0.602724", "0")] {
            let error = read(text, 1, 1, 0).unwrap_err().to_string();
            assert!(error.contains("--nats-cli"), "{error}");
        }
    }
}
