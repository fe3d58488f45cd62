//! What Kafka's own `ProducerPerformance` and `ConsumerPerformance` print.

use crate::{
    error::{BenchError, Result},
    outcome::{Latency, Throughput},
};

/// Of the total without the warm-up, if there was one.
const STEADY: &str = "steady state records sent";

/// Of all lines that count records; totals have percentiles besides.
const SENT: &str = "records sent";

/// What a producer measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Produced {
    /// Records of all, warm-up included, that were acknowledged.
    pub acknowledged: u64,
    /// Of those that count.
    pub throughput: Throughput,
    /// From the call of `send` to the acknowledgement, whole milliseconds.
    pub latency: Latency,
}

/// Reads the end of a producer's output. Where it tells of a steady state, that is what counts.
///
/// # Errors
/// The lines are not there, or not as they are known here.
pub fn produced(lines: &[String], payload_bytes: usize) -> Result<Produced> {
    let unknown = || unknown("ProducerPerformance", lines);
    let totals = || lines.iter().filter(|line| line.contains(SENT) && line.contains("99.9th"));
    let steady = totals().find(|line| line.contains(STEADY));
    let all = totals().find(|line| !line.contains(STEADY)).ok_or_else(unknown)?;
    let all = summary(all).ok_or_else(unknown)?;
    let counted = match steady {
        Some(line) => summary(line).ok_or_else(unknown)?,
        None => all.clone(),
    };
    let seconds = counted.records as f64 / counted.per_s;
    let bytes = counted.records * payload_bytes as u64;
    Ok(Produced {
        acknowledged: all.records,
        throughput: Throughput::new(counted.records, bytes, seconds),
        latency: counted.latency,
    })
}

#[derive(Clone)]
struct Summary {
    records: u64,
    per_s: f64,
    latency: Latency,
}

fn summary(line: &str) -> Option<Summary> {
    let mut parts = line.trim_end_matches('.').split(", ");
    let records = first_number(parts.next()?)? as u64;
    let per_s = first_number(parts.next()?).filter(|rate| *rate > 0.0)?;
    let mut tells = parts.map(|part| Some((part, first_number(part)?)));
    let mut named = |name: &str| match tells.next()?? {
        (part, ms) if part.ends_with(name) => Some((ms * 1e6) as u64),
        _ => None,
    };
    named("avg latency")?;
    let max_ns = named("max latency")?;
    let p50_ns = named("50th")?;
    named("95th")?;
    let (p99_ns, p999_ns) = (named("99th")?, named("99.9th")?);
    let latency = Latency {
        count: records,
        p50_ns,
        p90_ns: None,
        p99_ns,
        p999_ns,
        max_ns,
        histogram: String::new(),
    };
    Some(Summary { records, per_s, latency })
}

fn first_number(part: &str) -> Option<f64> {
    part.split_ascii_whitespace().next()?.parse().ok()
}

/// Reads a consumer's output: what it fetched, without the time it took to join its group.
///
/// # Errors
/// The header or the line is not there, or the header lacks a column.
pub fn consumed(lines: &[String], payload_bytes: usize) -> Result<Throughput> {
    let read = || {
        let header = lines.iter().position(|line| line.starts_with("start.time"))?;
        let names: Vec<&str> = lines[header].split(", ").collect();
        let values: Vec<&str> = lines.get(header + 1)?.split(", ").collect();
        let named = |name: &str| -> Option<f64> {
            values.get(names.iter().position(|n| *n == name)?)?.trim().parse().ok()
        };
        let records = named("data.consumed.in.nMsg")? as u64;
        let fetch_ms = named("fetch.time.ms").filter(|ms| *ms > 0.0)?;
        Some(Throughput::new(records, records * payload_bytes as u64, fetch_ms / 1e3))
    };
    read().ok_or_else(|| unknown("ConsumerPerformance", lines))
}

fn unknown(tool: &str, lines: &[String]) -> BenchError {
    let said = lines.iter().map(|line| format!("\n  {line}")).collect::<String>();
    BenchError::Failed(format!(
        "{tool} prints something else than the versions known here do; take another with \
         --peer-version. It said:{said}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of Kafka 4.3.1, with a warm-up of 50 000 records of 1024 bytes.
    const PRODUCER: &str = "\
Warmup first 50000 records. Steady state results will print after the complete test summary.
5040 records sent, 5029.9 records/sec (4.91 MB/sec), 2791.4 ms avg latency, 3231.0 ms max latency.
In steady state.
32634 records sent, 32634.0 records/sec (31.87 MB/sec), 936.2 ms avg latency, 998.0 ms max latency.
300000 records sent, 14525.031471 records/sec (14.18 MB/sec), 2090.46 ms avg latency, 5845.00 ms max latency, 1456 ms 50th, 5067 ms 95th, 5705 ms 99th, 5826 ms 99.9th.
250000 steady state records sent, 15192.950471 records/sec (14.84 MB/sec), 1739.10 ms avg latency, 4667.00 ms max latency, 1229 ms 50th, 4082 ms 95th, 4534 ms 99th, 4640 ms 99.9th.";

    /// Of Kafka 4.3.1.
    const CONSUMER: &str = "\
start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec
2026-11-21 11:45:19:068, 2026-11-21 11:45:23:237, 292.9688, 70.2731, 300000, 71959.7026, 916, 3253, 90.0611, 92222.5638";

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_steady_state_is_what_counts() {
        let Produced { acknowledged, throughput, latency } =
            produced(&lines(PRODUCER), 1024).unwrap();
        assert_eq!(acknowledged, 300_000);
        assert_eq!((throughput.records, throughput.bytes), (250_000, 256_000_000));
        assert!((throughput.records_per_s - 15_192.950_471).abs() < 1e-6);
        assert!((throughput.seconds - 16.455).abs() < 1e-3);
        assert_eq!((latency.p50_ns, latency.p99_ns), (1_229_000_000, 4_534_000_000));
        assert_eq!((latency.p999_ns, latency.max_ns), (4_640_000_000, 4_667_000_000));
        assert_eq!((latency.p90_ns, latency.count), (None, 250_000));
    }

    #[test]
    fn without_a_warm_up_all_count() {
        let all = lines(PRODUCER).into_iter().take(5).collect::<Vec<_>>();
        let read = produced(&all, 1024).unwrap();
        assert_eq!((read.acknowledged, read.throughput.records), (300_000, 300_000));
        assert_eq!(read.latency.max_ns, 5_845_000_000);
    }

    #[test]
    fn a_consumers_joining_does_not_count() {
        let read = consumed(&lines(CONSUMER), 1024).unwrap();
        assert_eq!(read.records, 300_000);
        assert!((read.records_per_s - 92_222.563_8).abs() < 1e-3, "{read:?}");
    }

    #[test]
    fn other_texts_are_shown_not_guessed_at() {
        let strange = lines("records sent: many\nbye");
        for error in [produced(&strange, 1).unwrap_err(), consumed(&strange, 1).unwrap_err()] {
            assert!(error.to_string().contains("bye"), "{error}");
        }
        let swapped = PRODUCER.replace("50th", "51st");
        assert!(produced(&lines(&swapped), 1024).is_err());
        assert!(produced(&lines(&PRODUCER.replace("14525.031471", "NaN")), 1024).is_err());
        assert!(consumed(&lines(CONSUMER.lines().next().unwrap()), 1).is_err());
    }
}
