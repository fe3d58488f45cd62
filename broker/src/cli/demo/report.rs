//! What the demo says in the end: to people line by line, to machines as JSON.

use std::{fmt::Write as _, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{machine::Machine, verify::Tally};
use crate::{
    cli::output::{bytes, count, counted, duration},
    clock::Instant,
};

/// Longest latency that is told apart; longer ones count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Latencies in microseconds, to three digits.
#[derive(Debug)]
pub(super) struct Latencies(Histogram<u64>);

/// Percentiles in microseconds; 0 where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    #[serde(rename = "p99_9_us")]
    pub(super) p999_us: u64,
    pub(super) max_us: u64,
}

/// Moments of a run, counted from the start of the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    /// Before the first `send`.
    pub(super) first_send: Option<Instant>,
    pub(super) first_ack: Option<Instant>,
    pub(super) last_ack: Option<Instant>,
    pub(super) first_read: Option<Instant>,
    pub(super) last_read: Option<Instant>,
}

/// What the demo says.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    pub(super) source: String,
    pub(super) machine: Machine,
    pub(super) partitions: u32,
    pub(super) acks: &'static str,
    /// As the acknowledgements named it.
    pub(super) durability: String,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) produce: Rate,
    /// From the first send to the last record read.
    pub(super) produce_and_consume: Rate,
    /// From `send` to the acknowledgement, under saturation.
    pub(super) ack_latency: Percentiles,
    /// From `send` to the record in the consumer's hands, under saturation.
    pub(super) end_to_end_latency: Percentiles,
    pub(super) first_ack_us: u64,
    pub(super) first_read_us: u64,
    pub(super) keys: u64,
    /// Of the lines, as 32 hexadecimal digits; the same for the same lines.
    pub(super) content_hash: String,
    pub(super) verified: bool,
    pub(super) faults: Vec<String>,
}

/// So much in so long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rate {
    pub(super) seconds: f64,
    pub(super) records_per_second: f64,
    pub(super) bytes_per_second: f64,
}

// === impl Latencies ===

impl Latencies {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        Self(histogram.expect("bounds and precision are in range"))
    }

    pub(super) fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(us.max(1));
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        if self.0.is_empty() {
            return Percentiles::default();
        }
        Percentiles {
            p50_us: self.0.value_at_quantile(0.5),
            p99_us: self.0.value_at_quantile(0.99),
            p999_us: self.0.value_at_quantile(0.999),
            max_us: self.0.max(),
        }
    }
}

// === impl Percentiles ===

impl Percentiles {
    fn line(&self) -> String {
        let show = |us| duration(Duration::from_micros(us));
        let Self { p50_us, p99_us, p999_us, max_us } = *self;
        format!(
            "p50 {}, p99 {}, p99.9 {}, max {}",
            show(p50_us),
            show(p99_us),
            show(p999_us),
            show(max_us)
        )
    }
}

// === impl Rate ===

impl Rate {
    /// Zero where nothing was done or no time passed.
    pub(super) fn new(tally: &Tally, from: Option<Instant>, to: Option<Instant>) -> Self {
        let Some(seconds) = from.zip(to).map(|(from, to)| to.duration_since(from).as_secs_f64())
        else {
            return Self::default();
        };
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        Self {
            seconds,
            records_per_second: per_second(tally.records),
            bytes_per_second: per_second(tally.bytes),
        }
    }

    fn line(&self) -> String {
        format!(
            "{} records/s, {:.1} MB/s ({:.1} MiB/s) over {}",
            count(self.records_per_second as u64),
            self.bytes_per_second / 1e6,
            self.bytes_per_second / f64::from(1 << 20),
            duration(Duration::from_secs_f64(self.seconds)),
        )
    }
}

// === impl Report ===

impl Report {
    /// What people read: a block of aligned lines and the verdict.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, what: &str| {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{name:<12}{what}");
        };
        let us = |us| duration(Duration::from_micros(us));
        line("source", &self.source);
        line("machine", &self.machine.line());
        let topic = format!(
            "{}, acks={}, durability={}, one broker over TCP on loopback",
            counted(u64::from(self.partitions), "partition"),
            self.acks,
            self.durability,
        );
        line("topic", &topic);
        let records = format!("{}, {} of lines", count(self.records), bytes(self.bytes));
        line("records", &records);
        if self.records > 0 {
            line("produce", &format!("{} (first send to last ack)", self.produce.line()));
            let both = self.produce_and_consume.line();
            line("and consume", &format!("{both} (first send to last record read)"));
            line("ack", &format!("{} (send to ack)", self.ack_latency.line()));
            line("end to end", &format!("{} (send to read)", self.end_to_end_latency.line()));
            line("", "latencies are under saturation: they contain the wait in a full send buffer");
            let (ack, read) = (us(self.first_ack_us), us(self.first_read_us));
            line(
                "first",
                &format!("ack after {ack}, record read after {read} (from process start)"),
            );
        }
        out.push_str(&self.verdict());
        out
    }

    /// The plain line that says whether all of it was right, or what was not.
    pub(super) fn verdict(&self) -> String {
        if self.verified {
            return format!(
                "verified: {} written, acknowledged and read back; order kept in each of {} and {}; \
                 content hash {} on both sides",
                counted(self.records, "record"),
                counted(self.keys, "key"),
                counted(u64::from(self.partitions), "partition"),
                self.content_hash,
            );
        }
        format!("NOT verified:\n  {}", self.faults.join("\n  "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, ManualClock};

    fn report(records: u64, faults: Vec<String>) -> Report {
        let clock = ManualClock::default();
        let start = clock.monotonic();
        clock.advance(Duration::from_secs(2));
        let tally = Tally { records, bytes: records * 100, content: 7 };
        let rate = Rate::new(&tally, Some(start), Some(clock.monotonic()));
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        Report {
            version: "0",
            source: "x.log".into(),
            machine: Machine::here(std::path::Path::new("/")),
            partitions: 6,
            acks: "all",
            durability: "disk".into(),
            records,
            bytes: tally.bytes,
            produce: rate,
            produce_and_consume: rate,
            ack_latency: latencies.percentiles(),
            end_to_end_latency: Percentiles::default(),
            first_ack_us: 1_500,
            first_read_us: 2_000,
            keys: 1024,
            content_hash: format!("{:032x}", tally.content),
            verified: faults.is_empty(),
            faults,
        }
    }

    #[test]
    fn the_text_has_every_figure_of_the_main_job() {
        let text = report(1_000_000, vec![]).text();
        for part in [
            "1,000,000, 100.0 MB",
            "500,000 records/s, 50.0 MB/s (47.7 MiB/s) over 2.00 s",
            "p50 500.22 ms, p99 990.21 ms, p99.9 ",
            "max 1.00 s",
            "durability=disk",
            "ack after 1.50 ms, record read after 2.00 ms",
            "\nverified: 1,000,000 records written",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_failed_run_says_so_and_why() {
        let text = report(3, vec!["1 lost".into(), "2 read twice".into()]).text();
        assert!(text.contains("NOT verified:\n  1 lost\n  2 read twice"), "{text}");
        assert!(!text.contains("\nverified:"));
    }

    #[test]
    fn an_empty_source_has_no_rates_but_a_verdict() {
        let text = report(0, vec![]).text();
        assert!(text.contains("verified: 0 records") && !text.contains("records/s"), "{text}");
        let nothing = Rate::new(&Tally::default(), None, None);
        assert_eq!(nothing, Rate::default());
        assert_eq!(Latencies::new().percentiles(), Percentiles::default());
    }

    #[test]
    fn json_names_its_units() {
        let json = serde_json::to_value(report(5, vec![])).unwrap();
        assert_eq!(json["verified"], true);
        assert_eq!(json["ack_latency"]["p99_9_us"].as_u64().map(|us| us > 900_000), Some(true));
        assert_eq!(json["produce"]["records_per_second"], 2.5);
        assert_eq!(json["content_hash"].as_str().map(str::len), Some(32));
    }
}
